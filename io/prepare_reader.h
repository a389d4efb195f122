// The thread that reads the corpus, filters, and submits what is to be encoded.
#pragma once
#include "io/prepare.h"
#include "io/prepare_encode.h"

// How far into the corpus a reader is: documents, and a hash of what they were and what the filter made of them.
typedef struct prepare_position {
    int64_t documents;
    uint64_t digest;
} prepare_position;

typedef struct prepare_reader prepare_reader;

// Finds the inputs; `options` must outlive the reader.
yx_status prepare_reader_open(const prepare_options *options, prepare_reader **out);
// Starts reading into `pool`, which must outlive the reader. The documents up to `begin` were encoded by an earlier
// run: they pass the filter again, for what it remembers of them, and must be the same ones.
yx_status prepare_reader_start(prepare_reader *r, encode_pool *pool, prepare_position begin);
// What the reader knows: the corpus, what its filter dropped, how long the documents of the earlier run took.
void prepare_reader_count(prepare_reader *r, prepare_counts *counts);
// Waits for its end: where it got to, or its failure.
yx_status prepare_reader_wait(prepare_reader *r, prepare_position *end);
// Stops it first, wherever it waits. Keeps the current message.
void prepare_reader_free(prepare_reader *r);

// Threads that encode documents; results come back in the order of submission. One thread submits, another takes.
#pragma once
#include "common/status.h"
#include "io/dedup.h"
#include "io/tokenizer.h"
#include <stdint.h>

// A document on its way. What the reader sets travels along untouched.
typedef struct encode_job {
    char *text;
    size_t size;
    int64_t chars;
    uint64_t source_hash;
    float score;
    int64_t ordinal; // of the documents read: 1, 2, …
    uint64_t digest; // of everything read before this document
    // Results.
    uint32_t *ids;
    size_t count;
    int64_t counted; // tokens of the counting tokenizer
    bool has_words;  // bands are set
    uint64_t bands[DEDUP_BANDS];
} encode_job;

typedef struct encode_options {
    const yx_tokenizer *tokenizer, *counter; // counter: NULL, the same; both must outlive the pool
    bool sign;                               // find the bands of near-duplicates
    int threads;
} encode_options;

typedef enum encode_state { ENCODE_JOB, ENCODE_IDLE, ENCODE_ENDED } encode_state;

typedef struct encode_pool encode_pool;

yx_status encode_pool_open(const encode_options *options, encode_pool **out);
void encode_pool_close(encode_pool *p);
// Copies the text and what the reader sets of `job`; waits while there is no room. YX_ERR_INTERRUPTED after
// encode_pool_stop.
yx_status encode_pool_submit(encode_pool *p, const char *text, size_t size, const encode_job *job);
// Nothing more will be submitted.
void encode_pool_end(encode_pool *p);
// Wakes a waiting encode_pool_submit for good.
void encode_pool_stop(encode_pool *p);
// Waits a fraction of a second for the oldest document. `*state`: it is there (`*out` is valid until the next call),
// not yet, or there will be none.
yx_status encode_pool_take(encode_pool *p, const encode_job **out, encode_state *state);

// The data set that is being written: its folder, the shards of both splits, the manifest.
#pragma once
#include "io/prepare.h"
#include "io/prepare_details.h"
#include "io/prepare_encode.h"
#include "io/prepare_reader.h"

typedef struct prepare_output prepare_output;

// Opens the partial folder, with what an earlier run left in it, and copies the tokenizer's files there. `*begin`: how
// far that run had come. All pointers must outlive the output.
yx_status prepare_output_open(const prepare_options *options, const prepare_tokenizers *tokenizers,
                              prepare_output **out, prepare_position *begin);
// Drops a document for what its tokens tell, or puts it into its split: validation when mix(source hash, split seed) is
// below the fraction. While validation is empty the document with the smallest such value is held back, so that it can
// go there at the end. Documents come in the order they were read.
yx_status prepare_output_add(prepare_output *o, const encode_job *doc);
// Documents, tokens, chars, bytes and shards so far; adds what was dropped here; leaves the other members alone.
void prepare_output_count(const prepare_output *o, prepare_counts *counts);
// Everything up to `end` was added: writes what was held back and the last shards. YX_ERR_DATA when no document, or
// none for training, was added. `counts` for the message.
yx_status prepare_output_finish(prepare_output *o, prepare_position end, const prepare_counts *counts);
// Writes the manifest with the final `counts`, and renames the folder.
yx_status prepare_output_publish(prepare_output *o, const prepare_counts *counts);
// Removes the partial folder if it was not published and holds no complete shard; keeps the current message.
void prepare_output_close(prepare_output *o);

// The data set that is being written: a folder beside the final one, the shards of both splits, the manifest, the
// rename.
#pragma once
#include "io/prepare.h"
#include "io/prepare_encode.h"
#include "io/tokenizer.h"

typedef struct prepare_output prepare_output;

// Refuses (YX_ERR_USAGE) a folder in use; creates the temporary one and copies the tokenizer's files into it.
yx_status prepare_output_open(const prepare_options *options, const yx_tokenizer *tokenizer, prepare_output **out);
// Puts a document into its split: validation when mix(source hash, split seed) is below the fraction. While validation
// is empty the document with the smallest such value is held back, so that it can go there at the end.
yx_status prepare_output_add(prepare_output *o, const encode_job *doc);
// Documents, tokens, chars, bytes and shards so far; leaves the other members alone.
void prepare_output_count(const prepare_output *o, prepare_counts *counts);
// Writes what was held back, the last shards and the manifest (with `counts`, completed by this function), and renames
// the folder. YX_ERR_DATA when no document, or none for training, was added.
yx_status prepare_output_publish(prepare_output *o, prepare_counts *counts);
// Removes the temporary folder if it was not published; keeps the current message.
void prepare_output_close(prepare_output *o);

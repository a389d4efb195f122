// How a data set was made, as JSON: for its manifest, and to tell whether an interrupted run can go on.
#pragma once
#include "io/prepare.h"
#include "io/tokenizer.h"
#include <jansson.h>

// The tokenizers of a run; `counter` is `tokenizer` where min_tokens has no other.
typedef struct prepare_tokenizers {
    const yx_tokenizer *tokenizer, *counter;
} prepare_tokenizers;

// What the result depends on besides the input's content; NULL when a name is not UTF-8. To json_decref.
json_t *prepare_identity(const prepare_options *options, const prepare_tokenizers *t);
// Filter, inputs, options and counts, for the manifest; NULL as above.
json_t *prepare_details(const prepare_options *options, const prepare_tokenizers *t, const prepare_counts *counts);
// "a.jsonl, b.jsonl and 7 more", or options->source, within the room a shard's attribute has.
void prepare_describe_source(const prepare_options *options, char *out, size_t capacity);
// YX_ERR_DATA with the reasons why no document was kept.
yx_status prepare_nothing_left(const prepare_counts *c);

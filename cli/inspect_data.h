// What `yxanul inspect` prints about data sets, shards and tokenizers.
#pragma once
#include "common/status.h"

// A folder with a data set's manifest (of whatever version, damaged or not).
bool inspect_is_dataset(const char *path);
// A shard file.
bool inspect_is_shard(const char *path);
// A tokenizer.json, or a folder with it or with vocab.json and merges.txt.
bool inspect_is_tokenizer(const char *path);

// Prints on standard output: tokenizer, splits, shards, lengths of the documents. Everything is opened and checked as
// training would; with `verify` also every checksum and every id.
yx_status inspect_dataset(const char *path, bool verify);
yx_status inspect_shard(const char *path, bool verify);
yx_status inspect_tokenizer(const char *path);

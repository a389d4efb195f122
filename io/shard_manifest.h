// manifest.json: what a data set consists of. It is written last, so a folder without one is not a data set.
#pragma once
#include "common/hash.h"
#include "common/status.h"
#include <jansson.h>
#include <stdint.h>

enum {
    MANIFEST_VERSION = 1,
    MANIFEST_SPLITS = 2,
    MANIFEST_TRAIN = 0,
    MANIFEST_VALIDATION = 1,
    MANIFEST_MAX_FILE = 128
};
#define MANIFEST_FORMAT "yxanul-dataset"
#define MANIFEST_NAME "manifest.json"

typedef struct manifest_shard {
    char file[MANIFEST_MAX_FILE]; // in the manifest's folder
    char sha256[YX_SHA256_HEX];
    int64_t file_bytes, num_tokens, num_docs, num_bytes;
} manifest_shard;

typedef struct manifest_split {
    manifest_shard *shards;                  // [n_shards]
    int n_shards;                            // 0: the split is empty
    int64_t num_tokens, num_docs, num_bytes; // sums over the shards
} manifest_split;

typedef struct shard_manifest {
    char tokenizer_name[256], tokenizer_sha256[YX_SHA256_HEX];
    uint32_t vocab_size, eot_id;
    manifest_split splits[MANIFEST_SPLITS];
    char sha256[YX_SHA256_HEX]; // of the file's bytes
} shard_manifest;

// "train" or "validation".
const char *manifest_split_name(int split);
// Index of the split of that name, or -1.
int manifest_split_index(const char *name);

// Reads and checks DIR/manifest.json; shards' sizes and names are plausible, sums add up. `m` to manifest_free, also on
// failure.
yx_status manifest_read(const char *dir, shard_manifest *m);
// True when the folder has a manifest that names this format, readable or not (a checkpoint's manifest does not).
bool manifest_is_dataset(const char *dir);
// Appends a shard to a split and adds its counts.
yx_status manifest_add_shard(manifest_split *split, const manifest_shard *shard);
// Writes DIR/manifest.json atomically. The members of `details` (options, filter, counts) are put behind what
// manifest_read reads.
yx_status manifest_write(const char *dir, const shard_manifest *m, const json_t *details);
void manifest_free(shard_manifest *m);

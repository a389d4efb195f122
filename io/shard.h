// Token shards (HDF5, immutable) and the data set a folder of them makes. docs/data-format.md describes the file.
#pragma once
#include "common/hash.h"
#include "common/status.h"
#include <stdint.h>

enum { SHARD_BLOCK = 65536 }; // tokens under one CRC-32C
#define SHARD_FORMAT "yxanul-shard"
enum { SHARD_VERSION = 1 };

// What a data set was made of, and of how much; from manifest.json, repeated in every shard's attributes.
typedef struct dataset_info {
    char split[32]; // "train" or "validation"
    char tokenizer_name[256];
    char tokenizer_sha256[65];
    char manifest_sha256[65]; // identity of the data: of the manifest file
    uint32_t vocab_size, eot_id;
    int64_t num_tokens, num_docs;
    int64_t num_bytes; // UTF-8 bytes of the documents' text
    int n_shards;
} dataset_info;

typedef struct dataset dataset; // read-only; any number of threads may read

// Opens `DIR/manifest.json` and the shards of `split`, checks format, version, sizes, attributes, and that no document
// of the validation split (by the hash of its source) is in the training split; with `verify` also every file's
// SHA-256, every block's checksum and every id against the vocabulary. Nothing is kept open through HDF5: tokens are
// read by pread at the contiguous data set's offset. Damage is YX_ERR_DATA, files that do not belong together
// YX_ERR_MISMATCH.
yx_status dataset_open(const char *dir, const char *split, bool verify, dataset **out);
void dataset_close(dataset *d);
const dataset_info *dataset_get_info(const dataset *d);

// Tokens [begin, begin + count) of the shards in manifest order, as one stream. Ids are checked against the vocabulary.
yx_status dataset_read(const dataset *d, int64_t begin, int64_t count, uint32_t *tokens);
// First token (its end-of-text token) of documents [first, first + count), and the UTF-8 bytes of each.
yx_status dataset_read_docs(const dataset *d, int64_t first, int64_t count, uint64_t *offsets, uint32_t *bytes);

// The system may begin to read these tokens: a hint.
void dataset_will_need(const dataset *d, int64_t begin, int64_t count);
// Drops the shards from the system's page cache, as far as no other process maps them; for measurements.
yx_status dataset_forget(const dataset *d);

// --- Writing --------------------------------------------------------------------------------------------------------
typedef struct shard_writer shard_writer;

typedef struct shard_provenance { // recorded in every shard, see docs/data-format.md
    const char *split, *tokenizer_name, *tokenizer_sha256, *source, *filter;
    uint32_t vocab_size, eot_id;
} shard_provenance;

// Documents are appended without their end-of-text token, which the writer puts in front; an id outside the vocabulary
// or an end-of-text token inside a document is YX_ERR_DATA. The file is written under a temporary name and appears
// under `path` in shard_writer_close. The strings of `provenance` are copied.
yx_status shard_writer_open(const char *path, int shard_index, const shard_provenance *provenance, shard_writer **out);
yx_status shard_writer_add(shard_writer *w, const uint32_t *ids, size_t count, uint32_t text_bytes, float score,
                           uint64_t source_hash);
int64_t shard_writer_tokens(const shard_writer *w);
// Finishes (checksums, attributes, fsync, read back, rename) and frees `w`, also on failure (then no file is left). A
// shard has at least one document. `sha256`, unless NULL, gets the digest of what was read back.
yx_status shard_writer_close(shard_writer *w, char sha256[YX_SHA256_HEX]);
void shard_writer_abort(shard_writer *w); // removes the temporary file

// One shard file, open for reading: checked through HDF5 once, then read by pread at the data sets' places in the file.
#pragma once
#include "common/hash.h"
#include "common/status.h"
#include <stdint.h>

enum { SHARD_MAX_NAME = 256, SHARD_MAX_PROVENANCE = 4096 };

typedef struct shard_file {
    char *path;
    int fd; // -1: not open
    int64_t file_bytes;
    // Attributes of the root group.
    char split[32], tokenizer_name[SHARD_MAX_NAME], tokenizer_sha256[YX_SHA256_HEX], writer[64];
    char source[SHARD_MAX_PROVENANCE], filter[SHARD_MAX_PROVENANCE];
    uint32_t vocab_size, eot_id;
    int64_t shard_index, num_tokens, num_docs, num_bytes;
    // Where the data sets begin in the file.
    int64_t tokens_at, offsets_at, bytes_at, scores_at, hashes_at, crc_at;
} shard_file;

// Checks format, version, attributes, types, sizes and that the document table fits the tokens. On failure `out` is
// closed. A file of another kind, cut off or damaged is YX_ERR_DATA with its name and what is wrong.
yx_status shard_file_open(const char *path, shard_file *out);
// Closing twice, or a zeroed one, is harmless.
void shard_file_close(shard_file *f);
// Reads everything once: the checksum of every block, every id against the vocabulary, an end-of-text token at the
// start of each document and nowhere else. `sha256` gets the digest of the whole file.
yx_status shard_file_verify(const shard_file *f, char sha256[YX_SHA256_HEX]);
// True when the file starts like an HDF5 file and its root says it is a shard.
bool shard_file_is_shard(const char *path);

// `count` tokens from `begin` (the caller keeps within num_tokens); ids are checked against the vocabulary.
yx_status shard_file_read_tokens(const shard_file *f, int64_t begin, int64_t count, uint32_t *tokens);
// Entries [first, first + count) of the per-document tables; NULL skips one. `offsets` are tokens within the shard.
yx_status shard_file_read_docs(const shard_file *f, int64_t first, int64_t count, uint64_t *offsets, uint32_t *bytes,
                               float *scores, uint64_t *source_hashes);
// Bytes of the file; one that ends before them is YX_ERR_DATA.
yx_status shard_file_read_bytes(const shard_file *f, int64_t at, void *data, size_t size);
// The ids of tokens [begin, begin + count), which were read, against the vocabulary.
yx_status shard_file_check_ids(const shard_file *f, int64_t begin, int64_t count, const uint32_t *tokens);
// The largest of the ids (0 of none), and whether `id` is among them.
uint32_t shard_largest(const uint32_t *ids, int64_t count);
bool shard_contains(const uint32_t *ids, int64_t count, uint32_t id);

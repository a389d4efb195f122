// Where everything lies in a shard file: its attributes and data sets as HDF5 lays them out. HDF5 writes the metadata
// only; the content of the data sets is written at the places it names.
#pragma once
#include "io/shard.h"
#include "io/shard_h5.h"

// What a shard consists of, beside its tokens.
typedef struct shard_contents {
    shard_provenance provenance;
    int shard_index;
    int64_t num_tokens, num_docs, num_bytes;
    // One entry a document (offsets: one more at the end), one a block.
    uint64_t *offsets, *source_hashes;
    uint32_t *bytes;
    float *scores;
    uint32_t *crc;
} shard_contents;

// A data set: where HDF5 put it, and its content (NULL: the tokens).
typedef struct shard_table {
    const char *name;
    hid_t type;
    size_t element;
    int64_t count;
    const void *data;
    int64_t at;
} shard_table;

enum { SHARD_TOKENS = 0, SHARD_TABLES = 6 };

void shard_layout_list(const shard_contents *c, shard_table out[SHARD_TABLES]);
// Creates `path` with the attributes and the first `count` tables, which get their places; their content is zero. The
// tokens come first and are large: their place does not depend on what follows nor, from 64 KiB on, on their number.
yx_status shard_layout_create(const char *path, const shard_contents *c, shard_table *tables, int count);
// Copies what lies before `begin` and from `end` on from the file `path` to the file `fd`, which gets its size.
yx_status shard_layout_surround(const char *path, int64_t begin, int64_t end, int fd, const char *name);
// All of `data` at place `at`.
yx_status shard_layout_write(int fd, const char *name, int64_t at, const void *data, size_t size);

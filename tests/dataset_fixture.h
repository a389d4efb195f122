// A small data set of invented ids, for the tests of shards and of the loader.
#pragma once
#include "common/file.h"
#include "io/shard.h"
#include "io/shard_manifest.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

enum { FIXTURE_VOCAB = 200005, FIXTURE_EOT = 200004, FIXTURE_MAX_IDS = 700 };
#define FIXTURE_SHA "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static inline shard_provenance fixture_provenance(const char *split) {
    return (shard_provenance){.split = split,
                              .tokenizer_name = "invented",
                              .tokenizer_sha256 = FIXTURE_SHA,
                              .source = "fixture",
                              .filter = "none",
                              .vocab_size = FIXTURE_VOCAB,
                              .eot_id = FIXTURE_EOT};
}

// Document `doc`: its length and id i are functions of (doc, i), so that a test knows what must come back.
static inline size_t fixture_length(int64_t doc) { return (size_t)((doc * 7919 + 13) % FIXTURE_MAX_IDS); }
static inline uint32_t fixture_id(int64_t doc, size_t i) {
    return (uint32_t)(((uint64_t)doc * 2654435761u + i * 40503u) % FIXTURE_EOT);
}
static inline uint32_t fixture_bytes(int64_t doc) { return (uint32_t)fixture_length(doc) * 5 + 1; }
static inline uint64_t fixture_hash(int64_t doc) { return (uint64_t)(doc + 1) * 0x9E3779B97F4A7C15ull; }
static inline float fixture_score(int64_t doc) { return doc % 3 == 0 ? NAN : (float)doc / 8; }

static inline void fixture_add(shard_writer *w, int64_t doc) {
    uint32_t ids[FIXTURE_MAX_IDS];
    for (size_t i = 0; i < fixture_length(doc); i++) ids[i] = fixture_id(doc, i);
    assert_int_equal(
        shard_writer_add(w, ids, fixture_length(doc), fixture_bytes(doc), fixture_score(doc), fixture_hash(doc)),
        YX_OK);
}

// Documents [first, first + count) as one shard of `split` of the manifest.
static inline void fixture_add_shard(const char *dir, shard_manifest *m, int split, int64_t first, int64_t count) {
    manifest_shard entry = {.num_docs = count};
    char path[512];
    int index = m->splits[split].n_shards;
    shard_provenance provenance = fixture_provenance(manifest_split_name(split));
    shard_writer *w;
    struct stat info;
    snprintf(entry.file, sizeof entry.file, "%s-%05d.h5", manifest_split_name(split), index);
    snprintf(path, sizeof path, "%s/%s", dir, entry.file);
    assert_int_equal(shard_writer_open(path, index, &provenance, &w), YX_OK);
    for (int64_t doc = first; doc < first + count; doc++) {
        fixture_add(w, doc);
        entry.num_bytes += fixture_bytes(doc);
    }
    entry.num_tokens = shard_writer_tokens(w);
    assert_int_equal(shard_writer_close(w, NULL), YX_OK);
    assert_int_equal(stat(path, &info), 0);
    entry.file_bytes = info.st_size;
    assert_int_equal(yx_sha256_file(path, entry.sha256), YX_OK);
    assert_int_equal(manifest_add_shard(&m->splits[split], &entry), YX_OK);
}

static inline void fixture_write_manifest(const char *dir, const shard_manifest *m) {
    json_t *details = json_pack("{s:s}", "filter", "none");
    assert_int_equal(manifest_write(dir, m, details), YX_OK);
    json_decref(details);
}

static inline shard_manifest fixture_manifest(void) {
    shard_manifest m = {.tokenizer_name = "invented",
                        .tokenizer_sha256 = FIXTURE_SHA,
                        .vocab_size = FIXTURE_VOCAB,
                        .eot_id = FIXTURE_EOT};
    return m;
}

// A data set of `shards` training shards of `docs` documents each, and one validation shard of documents 10^6 ….
static inline void fixture_make(const char *dir, int shards, int64_t docs, int64_t validation_docs) {
    shard_manifest m = fixture_manifest();
    assert_int_equal(yx_make_dirs(dir), YX_OK);
    for (int i = 0; i < shards; i++) fixture_add_shard(dir, &m, MANIFEST_TRAIN, i * docs, docs);
    if (validation_docs > 0) fixture_add_shard(dir, &m, MANIFEST_VALIDATION, 1000000, validation_docs);
    fixture_write_manifest(dir, &m);
    manifest_free(&m);
}

static inline void fixture_temporary(char folder[64], const char *name) {
    snprintf(folder, 64, "/tmp/yx-%s-XXXXXX", name);
    assert_non_null(mkdtemp(folder));
}

#include "cli/inspect_data.h"
#include "common/file.h"
#include "io/order.h"
#include "io/shard.h"
#include "io/shard_file.h"
#include "io/shard_manifest.h"
#include "io/tokenizer.h"
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has_file(const char *folder, const char *name) {
    char *path = NULL;
    bool exists = yx_format(&path, "%s/%s", folder, name) == YX_OK && yx_path_exists(path);
    free(path);
    return exists;
}

bool inspect_is_dataset(const char *path) { return manifest_is_dataset(path); }
bool inspect_is_shard(const char *path) { return !yx_path_is_dir(path) && shard_file_is_shard(path); }

bool inspect_is_tokenizer(const char *path) {
    static const char name[] = "tokenizer.json";
    if (yx_path_is_dir(path))
        return has_file(path, name) || (has_file(path, "vocab.json") && has_file(path, "merges.txt"));
    size_t size = strlen(path), tail = sizeof name - 1;
    return yx_path_exists(path) && size >= tail && strcmp(path + size - tail, name) == 0;
}

// --- Lengths of documents -------------------------------------------------------------------------------------------
static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

// `offsets`: [n + 1] document starts and the end; becomes the sorted lengths.
static void print_lengths(uint64_t *offsets, int64_t n) {
    for (int64_t i = 0; i < n; i++) offsets[i] = offsets[i + 1] - offsets[i];
    qsort(offsets, (size_t)n, sizeof *offsets, by_value);
    printf("    tokens per document: shortest %" PRIu64 ", 10 %% %" PRIu64 ", median %" PRIu64 ", 90 %% %" PRIu64
           ", longest %" PRIu64 "\n",
           offsets[0], offsets[n / 10], offsets[n / 2], offsets[n - 1 - n / 10], offsets[n - 1]);
}

static void print_sums(int64_t tokens, int64_t docs, int64_t bytes) {
    int64_t text = tokens - docs; // without the end-of-text tokens
    printf("    %" PRId64 " tokens (%" PRId64 " blocks of %d), %" PRId64 " documents, %" PRId64 " bytes", tokens,
           tokens / ORDER_BLOCK_TOKENS, ORDER_BLOCK_TOKENS, docs, bytes);
    if (text > 0) printf(", %.3f bytes per token", (double)bytes / (double)text);
    printf("\n");
}

static void print_tokenizer_line(const char *name, const char *sha256, uint32_t vocab_size, int64_t eot) {
    printf("tokenizer  %s, %u ids, end of text %" PRId64 ", SHA-256 %s\n", name, vocab_size, eot, sha256);
}

// --- Data sets ------------------------------------------------------------------------------------------------------
static yx_status print_split_lengths(const dataset *d) {
    yx_status status = YX_OK;
    const dataset_info *info = dataset_get_info(d);
    uint64_t *offsets = malloc((size_t)(info->num_docs + 1) * sizeof *offsets);
    uint32_t *bytes = malloc((size_t)info->num_docs * sizeof *bytes);
    if (!offsets || !bytes) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %" PRId64 " documents", info->num_docs);
    YX_CHECK(dataset_read_docs(d, 0, info->num_docs, offsets, bytes));
    offsets[info->num_docs] = (uint64_t)info->num_tokens;
    print_lengths(offsets, info->num_docs);
fail:
    free(bytes);
    free(offsets);
    return status;
}

static yx_status print_split(const char *path, const shard_manifest *m, int index, bool verify) {
    yx_status status = YX_OK;
    const manifest_split *split = &m->splits[index];
    dataset *d = NULL;
    printf("%s, %d shards\n", manifest_split_name(index), split->n_shards);
    print_sums(split->num_tokens, split->num_docs, split->num_bytes);
    if (split->n_shards == 0) return YX_OK;
    YX_CHECK(dataset_open(path, manifest_split_name(index), verify, &d));
    YX_CHECK(print_split_lengths(d));
    for (int i = 0; i < split->n_shards; i++)
        printf("    %s  %" PRId64 " tokens, %" PRId64 " documents\n", split->shards[i].file,
               split->shards[i].num_tokens, split->shards[i].num_docs);
fail:
    dataset_close(d);
    return status;
}

yx_status inspect_dataset(const char *path, bool verify) {
    yx_status status = YX_OK;
    shard_manifest m;
    YX_CHECK(manifest_read(path, &m));
    printf("data set   %s, SHA-256 of its manifest %s\n", path, m.sha256);
    print_tokenizer_line(m.tokenizer_name, m.tokenizer_sha256, m.vocab_size, m.eot_id);
    for (int i = 0; i < MANIFEST_SPLITS; i++) YX_CHECK(print_split(path, &m, i, verify));
    printf("%s\n", verify ? "every checksum and every id is right" : "not verified: --verify reads every token");
fail:
    manifest_free(&m);
    return status;
}

// --- A shard --------------------------------------------------------------------------------------------------------
static yx_status print_shard_lengths(const shard_file *f) {
    yx_status status = YX_OK;
    uint64_t *offsets = malloc((size_t)(f->num_docs + 1) * sizeof *offsets);
    if (!offsets) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %" PRId64 " documents", f->num_docs);
    YX_CHECK(shard_file_read_docs(f, 0, f->num_docs + 1, offsets, NULL, NULL, NULL));
    print_lengths(offsets, f->num_docs);
fail:
    free(offsets);
    return status;
}

// The digest of the whole file, where a manifest beside it has one: the blocks' checksums cover the tokens only.
static yx_status compare_digest(const shard_file *f, const char *sha256, bool *known) {
    yx_status status = YX_OK;
    shard_manifest m = {0};
    char *copy = strdup(f->path);
    const char *folder = copy ? dirname(copy) : NULL, *name = strrchr(f->path, '/');
    name = name ? name + 1 : f->path;
    *known = false;
    if (!folder) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    if (!manifest_is_dataset(folder)) goto fail;
    YX_CHECK(manifest_read(folder, &m));
    for (int k = 0; k < MANIFEST_SPLITS; k++)
        for (int i = 0; i < m.splits[k].n_shards; i++) {
            const manifest_shard *s = &m.splits[k].shards[i];
            if (strcmp(s->file, name) != 0) continue;
            *known = true;
            if (strcmp(sha256, s->sha256) != 0)
                YX_FAIL(YX_ERR_DATA, "%s is damaged: its SHA-256 is not the one in the manifest", f->path);
        }
fail:
    manifest_free(&m);
    free(copy);
    return status;
}

static yx_status verify_shard(const shard_file *f) {
    bool known;
    char sha256[YX_SHA256_HEX];
    yx_status status = shard_file_verify(f, sha256);
    if (status == YX_OK) status = compare_digest(f, sha256, &known);
    if (status == YX_OK)
        printf("every checksum and every id is right%s\n",
               known ? "" : " (no manifest is beside it: the document table has no checksum)");
    return status;
}

yx_status inspect_shard(const char *path, bool verify) {
    yx_status status = YX_OK;
    shard_file f = {.fd = -1};
    YX_CHECK(shard_file_open(path, &f));
    printf("shard      %s: number %" PRId64 " of \"%s\", written by %s\n", path, f.shard_index, f.split, f.writer);
    print_tokenizer_line(f.tokenizer_name, f.tokenizer_sha256, f.vocab_size, f.eot_id);
    printf("source     %s\nfilter     %s\n", f.source, f.filter);
    print_sums(f.num_tokens, f.num_docs, f.num_bytes);
    YX_CHECK(print_shard_lengths(&f));
    if (verify) YX_CHECK(verify_shard(&f));
    else printf("not verified: --verify reads every token\n");
fail:
    shard_file_close(&f);
    return status;
}

// --- A tokenizer ----------------------------------------------------------------------------------------------------
yx_status inspect_tokenizer(const char *path) {
    yx_tokenizer *t;
    yx_status status = tokenizer_load(path, &t);
    if (status != YX_OK) return status;
    print_tokenizer_line(tokenizer_name(t), tokenizer_sha256(t), tokenizer_vocab_size(t), tokenizer_eot(t));
    tokenizer_free(t);
    return YX_OK;
}

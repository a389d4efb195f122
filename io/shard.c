#include "io/shard.h"
#include "common/file.h"
#include "io/shard_file.h"
#include "io/shard_manifest.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { HASH_PIECE = 65536 };

struct dataset {
    dataset_info info;
    shard_file *shards;               // [info.n_shards], in the manifest's order
    int64_t *token_begin, *doc_begin; // [n_shards + 1] running sums
};

static yx_status open_shard(const char *dir, const manifest_shard *entry, shard_file *out) {
    char *path = NULL;
    yx_status status = yx_format(&path, "%s/%s", dir, entry->file);
    if (status == YX_OK) status = shard_file_open(path, out);
    free(path);
    return status;
}

static yx_status check_identity(const shard_manifest *m, const shard_file *f, int split, int index) {
    const char *name = manifest_split_name(split);
    if (strcmp(f->tokenizer_sha256, m->tokenizer_sha256) != 0)
        return yx_fail(YX_ERR_MISMATCH,
                       "%s was made with another tokenizer (%s, %.12s…) than its manifest says (%s, %.12s…)", f->path,
                       f->tokenizer_name, f->tokenizer_sha256, m->tokenizer_name, m->tokenizer_sha256);
    if (f->vocab_size != m->vocab_size || f->eot_id != m->eot_id)
        return yx_fail(YX_ERR_MISMATCH, "%s has vocabulary %u and end-of-text id %u, its manifest says %u and %u",
                       f->path, f->vocab_size, f->eot_id, m->vocab_size, m->eot_id);
    if (strcmp(f->split, name) != 0 || f->shard_index != index)
        return yx_fail(YX_ERR_MISMATCH, "%s is shard %lld of \"%s\", its manifest says %d of \"%s\"", f->path,
                       (long long)f->shard_index, f->split, index, name);
    return YX_OK;
}

static yx_status check_shard(const shard_manifest *m, const shard_file *f, int split, int index) {
    const manifest_shard *entry = &m->splits[split].shards[index];
    if (f->file_bytes != entry->file_bytes)
        return yx_fail(YX_ERR_DATA, "%s has %lld bytes, its manifest says %lld", f->path, (long long)f->file_bytes,
                       (long long)entry->file_bytes);
    if (f->num_tokens != entry->num_tokens || f->num_docs != entry->num_docs || f->num_bytes != entry->num_bytes)
        return yx_fail(YX_ERR_MISMATCH,
                       "%s has %lld tokens in %lld documents of %lld bytes, its manifest says %lld, %lld, %lld",
                       f->path, (long long)f->num_tokens, (long long)f->num_docs, (long long)f->num_bytes,
                       (long long)entry->num_tokens, (long long)entry->num_docs, (long long)entry->num_bytes);
    return check_identity(m, f, split, index);
}

static yx_status verify_shard(const shard_file *f, const manifest_shard *entry) {
    yx_status status = YX_OK;
    char sha256[YX_SHA256_HEX];
    YX_CHECK(shard_file_verify(f, sha256));
    if (strcmp(sha256, entry->sha256) != 0)
        YX_FAIL(YX_ERR_DATA, "%s is damaged: its SHA-256 is not the one in the manifest", f->path);
fail:
    return status;
}

static yx_status open_shards(const char *dir, const shard_manifest *m, int split, bool verify, dataset *d) {
    yx_status status = YX_OK;
    const manifest_split *s = &m->splits[split];
    size_t n = (size_t)s->n_shards;
    d->shards = calloc(n, sizeof *d->shards);
    d->token_begin = calloc(n + 1, sizeof *d->token_begin);
    d->doc_begin = calloc(n + 1, sizeof *d->doc_begin);
    if (!d->shards || !d->token_begin || !d->doc_begin) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to open %s", dir);
    for (int i = 0; i < s->n_shards; i++) {
        shard_file *f = &d->shards[i];
        YX_CHECK(open_shard(dir, &s->shards[i], f));
        d->info.n_shards = i + 1;
        YX_CHECK(check_shard(m, f, split, i));
        if (verify) YX_CHECK(verify_shard(f, &s->shards[i]));
        d->token_begin[i + 1] = d->token_begin[i] + f->num_tokens;
        d->doc_begin[i + 1] = d->doc_begin[i] + f->num_docs;
    }
fail:
    return status;
}

static void fill_info(const shard_manifest *m, int split, dataset_info *info) {
    const manifest_split *s = &m->splits[split];
    strcpy(info->split, manifest_split_name(split));
    strcpy(info->tokenizer_name, m->tokenizer_name);
    strcpy(info->tokenizer_sha256, m->tokenizer_sha256);
    strcpy(info->manifest_sha256, m->sha256);
    info->vocab_size = m->vocab_size;
    info->eot_id = m->eot_id;
    info->num_tokens = s->num_tokens;
    info->num_docs = s->num_docs;
    info->num_bytes = s->num_bytes;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static yx_status append_hashes(const shard_file *f, uint64_t **hashes, int64_t *count) {
    uint64_t *grown = realloc(*hashes, (size_t)(*count + f->num_docs) * sizeof *grown);
    if (!grown)
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for the %lld source hashes of %s", (long long)f->num_docs, f->path);
    *hashes = grown;
    yx_status status = shard_file_read_docs(f, 0, f->num_docs, NULL, NULL, NULL, grown + *count);
    *count += f->num_docs;
    return status;
}

// All source hashes of a split, sorted; to free(), also on failure.
static yx_status read_hashes(const char *dir, const manifest_split *split, uint64_t **hashes, int64_t *count) {
    yx_status status = YX_OK;
    *hashes = NULL;
    *count = 0;
    for (int i = 0; i < split->n_shards && status == YX_OK; i++) {
        shard_file f = {.fd = -1};
        status = open_shard(dir, &split->shards[i], &f);
        if (status == YX_OK) status = append_hashes(&f, hashes, count);
        shard_file_close(&f);
    }
    if (status == YX_OK) qsort(*hashes, (size_t)*count, sizeof **hashes, by_value);
    return status;
}

// Fails when a document of `f` has one of the sorted hashes.
static yx_status check_apart(const shard_file *f, const uint64_t *sorted, size_t count, uint64_t *scratch) {
    yx_status status = YX_OK;
    for (int64_t first = 0; first < f->num_docs; first += HASH_PIECE) {
        int64_t n = f->num_docs - first < HASH_PIECE ? f->num_docs - first : HASH_PIECE;
        YX_CHECK(shard_file_read_docs(f, first, n, NULL, NULL, NULL, scratch));
        for (int64_t i = 0; i < n; i++)
            if (bsearch(&scratch[i], sorted, count, sizeof *sorted, by_value))
                YX_FAIL(YX_ERR_DATA, "%s: document %lld is also in the validation split: prepare the data set again",
                        f->path, (long long)(first + i));
    }
fail:
    return status;
}

// The smaller side (validation) is sorted, the larger streamed past it.
static yx_status check_leak(const char *dir, const shard_manifest *m) {
    yx_status status = YX_OK;
    const manifest_split *train = &m->splits[MANIFEST_TRAIN], *validation = &m->splits[MANIFEST_VALIDATION];
    if (train->n_shards == 0 || validation->n_shards == 0) return YX_OK;
    uint64_t *held = NULL, *scratch = malloc(HASH_PIECE * sizeof *scratch);
    int64_t n_held;
    shard_file f = {.fd = -1};
    if (!scratch) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to check %s", dir);
    YX_CHECK(read_hashes(dir, validation, &held, &n_held));
    for (int i = 0; i < train->n_shards; i++) {
        YX_CHECK(open_shard(dir, &train->shards[i], &f));
        YX_CHECK(check_apart(&f, held, (size_t)n_held, scratch));
        shard_file_close(&f);
    }
fail:
    shard_file_close(&f);
    free(held);
    free(scratch);
    return status;
}

yx_status dataset_open(const char *dir, const char *split, bool verify, dataset **out) {
    yx_status status = YX_OK;
    shard_manifest m;
    memset(&m, 0, sizeof m);
    int index = manifest_split_index(split);
    dataset *d = calloc(1, sizeof *d);
    if (!d) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    if (index < 0) YX_FAIL(YX_ERR_INTERNAL, "no such split: %s", split);
    YX_CHECK(manifest_read(dir, &m));
    fill_info(&m, index, &d->info);
    if (m.splits[index].n_shards == 0)
        YX_FAIL(index == MANIFEST_VALIDATION ? YX_ERR_UNAVAILABLE : YX_ERR_DATA,
                "%s has no %s documents: prepare it again with another --validation-fraction", dir, split);
    YX_CHECK(open_shards(dir, &m, index, verify, d));
    YX_CHECK(check_leak(dir, &m));
    manifest_free(&m);
    *out = d;
    return YX_OK;
fail:
    manifest_free(&m);
    dataset_close(d);
    return status;
}

void dataset_close(dataset *d) {
    if (!d) return;
    for (int i = 0; d->shards && i < d->info.n_shards; i++) shard_file_close(&d->shards[i]);
    free(d->shards);
    free(d->token_begin);
    free(d->doc_begin);
    free(d);
}

const dataset_info *dataset_get_info(const dataset *d) { return &d->info; }

// The shard that holds entry `at` of the stream whose running sums are `begin`.
static int find_shard(const int64_t *begin, int n, int64_t at) {
    int low = 0, high = n - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (begin[middle] <= at) low = middle;
        else high = middle - 1;
    }
    return low;
}

yx_status dataset_read(const dataset *d, int64_t begin, int64_t count, uint32_t *tokens) {
    yx_status status = YX_OK;
    if (begin < 0 || count < 0 || count > d->info.num_tokens || begin > d->info.num_tokens - count)
        return yx_fail(YX_ERR_INTERNAL, "tokens %lld + %lld of %lld", (long long)begin, (long long)count,
                       (long long)d->info.num_tokens);
    for (int i = find_shard(d->token_begin, d->info.n_shards, begin); count > 0; i++) {
        int64_t left = d->token_begin[i + 1] - begin, n = count < left ? count : left;
        YX_CHECK(shard_file_read_tokens(&d->shards[i], begin - d->token_begin[i], n, tokens));
        begin += n;
        tokens += n;
        count -= n;
    }
fail:
    return status;
}

yx_status dataset_read_docs(const dataset *d, int64_t first, int64_t count, uint64_t *offsets, uint32_t *bytes) {
    yx_status status = YX_OK;
    if (first < 0 || count < 0 || count > d->info.num_docs || first > d->info.num_docs - count)
        return yx_fail(YX_ERR_INTERNAL, "documents %lld + %lld of %lld", (long long)first, (long long)count,
                       (long long)d->info.num_docs);
    for (int i = find_shard(d->doc_begin, d->info.n_shards, first); count > 0; i++) {
        int64_t left = d->doc_begin[i + 1] - first, n = count < left ? count : left;
        YX_CHECK(shard_file_read_docs(&d->shards[i], first - d->doc_begin[i], n, offsets, bytes, NULL, NULL));
        for (int64_t k = 0; k < n; k++) offsets[k] += (uint64_t)d->token_begin[i];
        first += n;
        offsets += n;
        bytes += n;
        count -= n;
    }
fail:
    return status;
}

void dataset_will_need(const dataset *d, int64_t begin, int64_t count) {
    for (int i = find_shard(d->token_begin, d->info.n_shards, begin); count > 0 && i < d->info.n_shards; i++) {
        const shard_file *f = &d->shards[i];
        int64_t left = d->token_begin[i + 1] - begin, n = count < left ? count : left;
        posix_fadvise(f->fd, f->tokens_at + (begin - d->token_begin[i]) * 4, n * 4, POSIX_FADV_WILLNEED);
        begin += n;
        count -= n;
    }
}

yx_status dataset_forget(const dataset *d) {
    for (int i = 0; i < d->info.n_shards; i++) {
        errno = posix_fadvise(d->shards[i].fd, 0, 0, POSIX_FADV_DONTNEED);
        if (errno != 0) return yx_fail_errno("cannot drop %s from the cache", d->shards[i].path);
    }
    return YX_OK;
}

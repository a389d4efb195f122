#include "common/file.h"
#include "common/hash.h"
#include "io/shard.h"
#include "io/shard_file.h"
#include "io/shard_layout.h"
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are little-endian and are read without conversion");

enum { BUFFER_TOKENS = 1 << 18 };

struct shard_writer {
    char *path, *temporary, *skeleton; // skeleton: the metadata alone, for a moment
    int fd;                            // of `temporary`; -1: nothing is written yet
    int64_t tokens_at;                 // where the tokens begin in it
    uint32_t *buffer;                  // tokens that are not written yet
    size_t buffered;
    shard_contents contents; // its texts are ours
    int64_t doc_capacity, crc_capacity;
};

static yx_status no_memory(const shard_writer *w) {
    return yx_fail(YX_ERR_NO_MEMORY, "no memory to write %s", w->path);
}

static void free_writer(shard_writer *w) {
    shard_contents *c = &w->contents;
    if (w->fd >= 0) close(w->fd);
    free((char *)c->provenance.split);
    free((char *)c->provenance.tokenizer_name);
    free((char *)c->provenance.tokenizer_sha256);
    free((char *)c->provenance.source);
    free((char *)c->provenance.filter);
    free(c->offsets);
    free(c->source_hashes);
    free(c->bytes);
    free(c->scores);
    free(c->crc);
    free(w->path);
    free(w->temporary);
    free(w->skeleton);
    free(w->buffer);
    free(w);
}

static yx_status check_provenance(const shard_provenance *p) {
    if (p->eot_id >= p->vocab_size || p->vocab_size > INT32_MAX)
        return yx_fail(YX_ERR_INTERNAL, "end-of-text id %u, vocabulary %u", p->eot_id, p->vocab_size);
    if (strlen(p->split) >= 32 || strlen(p->tokenizer_name) >= SHARD_MAX_NAME ||
        strlen(p->tokenizer_sha256) >= YX_SHA256_HEX || strlen(p->source) >= SHARD_MAX_PROVENANCE ||
        strlen(p->filter) >= SHARD_MAX_PROVENANCE)
        return yx_fail(YX_ERR_INTERNAL, "a provenance text is too long for a shard");
    return YX_OK;
}

static bool copy_provenance(const shard_provenance *from, shard_provenance *to) {
    *to = *from;
    to->split = strdup(from->split);
    to->tokenizer_name = strdup(from->tokenizer_name);
    to->tokenizer_sha256 = strdup(from->tokenizer_sha256);
    to->source = strdup(from->source);
    to->filter = strdup(from->filter);
    return to->split && to->tokenizer_name && to->tokenizer_sha256 && to->source && to->filter;
}

yx_status shard_writer_open(const char *path, int shard_index, const shard_provenance *provenance, shard_writer **out) {
    yx_status status = check_provenance(provenance);
    if (status != YX_OK) return status;
    shard_writer *w = calloc(1, sizeof *w);
    if (!w) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    w->fd = -1;
    w->contents.shard_index = shard_index;
    w->path = strdup(path);
    w->buffer = malloc(BUFFER_TOKENS * sizeof *w->buffer);
    if (!w->path || !w->buffer || !copy_provenance(provenance, &w->contents.provenance)) {
        status = yx_fail(YX_ERR_NO_MEMORY, "no memory to write %s", path);
        goto fail;
    }
    YX_CHECK(yx_format(&w->temporary, "%s.tmp-%ld", path, (long)getpid()));
    YX_CHECK(yx_format(&w->skeleton, "%s.meta-%ld", path, (long)getpid()));
    *out = w;
    return YX_OK;
fail:
    free_writer(w);
    return status;
}

static yx_status open_temporary(shard_writer *w, const shard_table *tokens) {
    w->tokens_at = tokens->at;
    w->fd = open(w->temporary, O_RDWR | O_CLOEXEC);
    return w->fd >= 0 ? YX_OK : yx_fail_errno("cannot open %s", w->temporary);
}

// The tokens go to their place in the file before the rest of it is known.
static yx_status begin_file(shard_writer *w) {
    shard_table tables[SHARD_TABLES];
    shard_layout_list(&w->contents, tables);
    yx_status status = shard_layout_create(w->temporary, &w->contents, tables, SHARD_TOKENS + 1);
    return status == YX_OK ? open_temporary(w, &tables[SHARD_TOKENS]) : status;
}

static yx_status flush(shard_writer *w) {
    yx_status status = YX_OK;
    size_t size = w->buffered * sizeof *w->buffer;
    if (w->fd < 0) YX_CHECK(begin_file(w));
    int64_t at = w->tokens_at + (w->contents.num_tokens - (int64_t)w->buffered) * 4;
    YX_CHECK(shard_layout_write(w->fd, w->temporary, at, w->buffer, size));
    // The disk begins at once, so that the fsync at the end finds little to do (a hint; failing is harmless).
    sync_file_range(w->fd, at, (int64_t)size, SYNC_FILE_RANGE_WRITE);
    w->buffered = 0;
fail:
    return status;
}

// Checksums run over blocks of the stream, whatever pieces it arrives in.
static yx_status add_to_checksums(shard_writer *w, const uint32_t *tokens, size_t count) {
    int64_t at = w->contents.num_tokens;
    while (count > 0) {
        int64_t block = at / SHARD_BLOCK;
        size_t room = (size_t)(SHARD_BLOCK - at % SHARD_BLOCK), n = count < room ? count : room;
        if (block >= w->crc_capacity) {
            int64_t capacity = w->crc_capacity ? w->crc_capacity * 2 : 1024;
            uint32_t *grown = realloc(w->contents.crc, (size_t)capacity * sizeof *grown);
            if (!grown) return no_memory(w);
            w->contents.crc = grown;
            w->crc_capacity = capacity;
        }
        w->contents.crc[block] = yx_crc32c(room == SHARD_BLOCK ? 0 : w->contents.crc[block], tokens, n * 4);
        tokens += n;
        at += (int64_t)n;
        count -= n;
    }
    return YX_OK;
}

static yx_status append(shard_writer *w, const uint32_t *tokens, size_t count) {
    yx_status status = add_to_checksums(w, tokens, count);
    while (status == YX_OK && count > 0) {
        size_t room = BUFFER_TOKENS - w->buffered, n = count < room ? count : room;
        memcpy(w->buffer + w->buffered, tokens, n * 4);
        w->buffered += n;
        w->contents.num_tokens += (int64_t)n;
        tokens += n;
        count -= n;
        if (w->buffered == BUFFER_TOKENS) status = flush(w);
    }
    return status;
}

static yx_status grow_documents(shard_writer *w) {
    if (w->contents.num_docs + 1 < w->doc_capacity) return YX_OK;
    size_t capacity = w->doc_capacity ? (size_t)w->doc_capacity * 2 : 4096;
    uint64_t *offsets = realloc(w->contents.offsets, capacity * sizeof *offsets);
    if (offsets) w->contents.offsets = offsets;
    uint64_t *hashes = realloc(w->contents.source_hashes, capacity * sizeof *hashes);
    if (hashes) w->contents.source_hashes = hashes;
    uint32_t *bytes = realloc(w->contents.bytes, capacity * sizeof *bytes);
    if (bytes) w->contents.bytes = bytes;
    float *scores = realloc(w->contents.scores, capacity * sizeof *scores);
    if (scores) w->contents.scores = scores;
    if (!offsets || !hashes || !bytes || !scores) return no_memory(w);
    w->doc_capacity = (int64_t)capacity;
    return YX_OK;
}

static yx_status refuse_ids(const shard_provenance *p, const uint32_t *ids, size_t count) {
    size_t i = 0;
    while (i < count - 1 && ids[i] < p->vocab_size && ids[i] != p->eot_id) i++;
    if (ids[i] == p->eot_id) return yx_fail(YX_ERR_DATA, "an end-of-text token at position %zu inside a document", i);
    return yx_fail(YX_ERR_DATA, "id %u at position %zu of a document: the vocabulary has %u", ids[i], i, p->vocab_size);
}

static yx_status check_ids(const shard_provenance *p, const uint32_t *ids, size_t count) {
    int64_t n = (int64_t)count;
    bool good = shard_largest(ids, n) < p->vocab_size && !shard_contains(ids, n, p->eot_id);
    return good ? YX_OK : refuse_ids(p, ids, count);
}

yx_status shard_writer_add(shard_writer *w, const uint32_t *ids, size_t count, uint32_t text_bytes, float score,
                           uint64_t source_hash) {
    yx_status status = YX_OK;
    YX_CHECK(check_ids(&w->contents.provenance, ids, count));
    YX_CHECK(grow_documents(w));
    w->contents.offsets[w->contents.num_docs] = (uint64_t)w->contents.num_tokens;
    w->contents.bytes[w->contents.num_docs] = text_bytes;
    w->contents.scores[w->contents.num_docs] = score;
    w->contents.source_hashes[w->contents.num_docs] = source_hash;
    YX_CHECK(append(w, &w->contents.provenance.eot_id, 1));
    YX_CHECK(append(w, ids, count));
    w->contents.num_docs++;
    w->contents.num_bytes += text_bytes;
fail:
    return status;
}

int64_t shard_writer_tokens(const shard_writer *w) { return w->contents.num_tokens; }

// Everything but the tokens, once it is known.
static yx_status complete_layout(shard_writer *w, shard_table tables[SHARD_TABLES]) {
    yx_status status = YX_OK;
    if (w->fd < 0) { // a small shard, whose tokens are all in the buffer
        YX_CHECK(shard_layout_create(w->temporary, &w->contents, tables, SHARD_TABLES));
        YX_CHECK(open_temporary(w, &tables[SHARD_TOKENS]));
        return flush(w);
    }
    YX_CHECK(flush(w));
    YX_CHECK(shard_layout_create(w->skeleton, &w->contents, tables, SHARD_TABLES));
    if (tables[SHARD_TOKENS].at != w->tokens_at)
        YX_FAIL(YX_ERR_INTERNAL, "%s: HDF5 moved the tokens from %lld to %lld", w->path, (long long)w->tokens_at,
                (long long)tables[SHARD_TOKENS].at);
    int64_t end = w->tokens_at + w->contents.num_tokens * 4;
    YX_CHECK(shard_layout_surround(w->skeleton, w->tokens_at, end, w->fd, w->temporary));
fail:
    unlink(w->skeleton);
    return status;
}

static yx_status write_tables(shard_writer *w, const shard_table tables[SHARD_TABLES]) {
    yx_status status = YX_OK;
    for (int i = 0; i < SHARD_TABLES; i++)
        if (tables[i].data)
            YX_CHECK(shard_layout_write(w->fd, w->temporary, tables[i].at, tables[i].data,
                                        (size_t)tables[i].count * tables[i].element));
    if (fsync(w->fd) != 0) {
        status = yx_fail_errno("cannot fsync %s", w->temporary);
        goto fail;
    }
    // So that reading back asks the disk, not the cache (a hint; failing is harmless).
    posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED);
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0) status = yx_fail_errno("cannot close %s", w->temporary);
fail:
    return status;
}

static yx_status compare(const shard_file *f, int64_t at, const void *expected, size_t size, void *scratch) {
    ssize_t n = pread(f->fd, scratch, size, at);
    if (n < 0) return yx_fail_errno("cannot read back %s", f->path);
    if ((size_t)n != size || memcmp(scratch, expected, size) != 0)
        return yx_fail(YX_ERR_IO, "%s does not read back as it was written: the disk is at fault", f->path);
    return YX_OK;
}

static yx_status read_back(shard_writer *w, const shard_table tables[SHARD_TABLES], char sha256[YX_SHA256_HEX]) {
    yx_status status = YX_OK;
    shard_file f = {.fd = -1};
    size_t piece = BUFFER_TOKENS * sizeof *w->buffer;
    YX_CHECK(shard_file_open(w->temporary, &f));
    YX_CHECK(shard_file_verify(&f, sha256));
    for (int i = 0; i < SHARD_TABLES; i++) {
        size_t size = (size_t)tables[i].count * tables[i].element;
        for (size_t done = 0; tables[i].data && done < size; done += piece)
            YX_CHECK(compare(&f, tables[i].at + (int64_t)done, (const char *)tables[i].data + done,
                             size - done < piece ? size - done : piece, w->buffer));
    }
fail:
    shard_file_close(&f);
    return yx_context(status, "reading back");
}

static yx_status publish(const shard_writer *w) {
    if (rename(w->temporary, w->path) != 0) return yx_fail_errno("cannot rename %s to %s", w->temporary, w->path);
    char *copy = strdup(w->path);
    if (!copy) return no_memory(w);
    yx_status status = yx_fsync_path(dirname(copy));
    free(copy);
    return status;
}

static yx_status finish(shard_writer *w, char sha256[YX_SHA256_HEX]) {
    yx_status status = YX_OK;
    shard_table tables[SHARD_TABLES];
    shard_contents *c = &w->contents;
    if (c->num_docs < 1) return yx_fail(YX_ERR_INTERNAL, "%s would hold no documents", w->path);
    c->offsets[c->num_docs] = (uint64_t)c->num_tokens;
    shard_layout_list(c, tables);
    YX_CHECK(complete_layout(w, tables));
    YX_CHECK(write_tables(w, tables));
    YX_CHECK(read_back(w, tables, sha256));
    YX_CHECK(publish(w));
fail:
    return status;
}

yx_status shard_writer_close(shard_writer *w, char sha256[YX_SHA256_HEX]) {
    char digest[YX_SHA256_HEX];
    yx_status status = finish(w, digest);
    if (status == YX_OK && sha256) memcpy(sha256, digest, sizeof digest);
    if (status != YX_OK) unlink(w->temporary);
    free_writer(w);
    return status;
}

void shard_writer_abort(shard_writer *w) {
    if (!w) return;
    unlink(w->temporary); // it need not exist yet
    free_writer(w);
}

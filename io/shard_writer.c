#include "common/file.h"
#include "common/hash.h"
#include "io/shard.h"
#include "io/shard_file.h"
#include "io/shard_h5.h"
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are little-endian and are read without conversion");

enum { BUFFER_TOKENS = 1 << 18 };

struct shard_writer {
    char *path, *temporary;
    int spill;        // the tokens so far, in a file without a name
    uint32_t *buffer; // what is not in `spill` yet
    size_t buffered;
    char *split, *tokenizer_name, *tokenizer_sha256, *source, *filter;
    uint32_t vocab_size, eot_id;
    int shard_index;
    int64_t num_tokens, num_docs, num_bytes;
    // One entry a document (offsets: one more at the end).
    uint64_t *offsets, *source_hashes;
    uint32_t *bytes;
    float *scores;
    int64_t doc_capacity;
    uint32_t *crc; // finished blocks, then the running one
    int64_t crc_capacity;
};

static yx_status no_memory(const shard_writer *w) {
    return yx_fail(YX_ERR_NO_MEMORY, "no memory to write %s", w->path);
}

static yx_status write_at(int fd, const char *name, int64_t at, const void *data, size_t size) {
    const char *p = data;
    while (size > 0) {
        ssize_t n = pwrite(fd, p, size, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return yx_fail_errno("cannot write %s", name);
        p += n;
        at += n;
        size -= (size_t)n;
    }
    return YX_OK;
}

static void free_writer(shard_writer *w) {
    if (w->spill >= 0) close(w->spill);
    free(w->path);
    free(w->temporary);
    free(w->buffer);
    free(w->split);
    free(w->tokenizer_name);
    free(w->tokenizer_sha256);
    free(w->source);
    free(w->filter);
    free(w->offsets);
    free(w->source_hashes);
    free(w->bytes);
    free(w->scores);
    free(w->crc);
    free(w);
}

static yx_status open_spill(shard_writer *w) {
    w->spill = open(w->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->spill < 0) return yx_fail_errno("cannot create %s", w->temporary);
    if (unlink(w->temporary) != 0) return yx_fail_errno("cannot unlink %s", w->temporary);
    return YX_OK;
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

yx_status shard_writer_open(const char *path, int shard_index, const shard_provenance *provenance, shard_writer **out) {
    yx_status status = check_provenance(provenance);
    if (status != YX_OK) return status;
    shard_writer *w = calloc(1, sizeof *w);
    if (!w) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    w->spill = -1;
    w->shard_index = shard_index;
    w->vocab_size = provenance->vocab_size;
    w->eot_id = provenance->eot_id;
    w->path = strdup(path);
    w->split = strdup(provenance->split);
    w->tokenizer_name = strdup(provenance->tokenizer_name);
    w->tokenizer_sha256 = strdup(provenance->tokenizer_sha256);
    w->source = strdup(provenance->source);
    w->filter = strdup(provenance->filter);
    w->buffer = malloc(BUFFER_TOKENS * sizeof *w->buffer);
    if (!w->path || !w->split || !w->tokenizer_name || !w->tokenizer_sha256 || !w->source || !w->filter || !w->buffer) {
        status = yx_fail(YX_ERR_NO_MEMORY, "no memory to write %s", path);
        goto fail;
    }
    YX_CHECK(yx_format(&w->temporary, "%s.tmp-%ld", path, (long)getpid()));
    YX_CHECK(open_spill(w));
    *out = w;
    return YX_OK;
fail:
    free_writer(w);
    return status;
}

static yx_status flush(shard_writer *w) {
    int64_t at = (w->num_tokens - (int64_t)w->buffered) * 4;
    yx_status status = write_at(w->spill, w->temporary, at, w->buffer, w->buffered * 4);
    w->buffered = 0;
    return status;
}

// Checksums run over blocks of the stream, whatever pieces it arrives in.
static yx_status add_to_checksums(shard_writer *w, const uint32_t *tokens, size_t count) {
    int64_t at = w->num_tokens;
    while (count > 0) {
        int64_t block = at / SHARD_BLOCK;
        size_t room = (size_t)(SHARD_BLOCK - at % SHARD_BLOCK), n = count < room ? count : room;
        if (block >= w->crc_capacity) {
            int64_t capacity = w->crc_capacity ? w->crc_capacity * 2 : 1024;
            uint32_t *grown = realloc(w->crc, (size_t)capacity * sizeof *grown);
            if (!grown) return no_memory(w);
            w->crc = grown;
            w->crc_capacity = capacity;
        }
        w->crc[block] = yx_crc32c(room == SHARD_BLOCK ? 0 : w->crc[block], tokens, n * 4);
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
        w->num_tokens += (int64_t)n;
        tokens += n;
        count -= n;
        if (w->buffered == BUFFER_TOKENS) status = flush(w);
    }
    return status;
}

static yx_status grow_documents(shard_writer *w) {
    if (w->num_docs + 1 < w->doc_capacity) return YX_OK;
    size_t capacity = w->doc_capacity ? (size_t)w->doc_capacity * 2 : 4096;
    uint64_t *offsets = realloc(w->offsets, capacity * sizeof *offsets);
    if (offsets) w->offsets = offsets;
    uint64_t *hashes = realloc(w->source_hashes, capacity * sizeof *hashes);
    if (hashes) w->source_hashes = hashes;
    uint32_t *bytes = realloc(w->bytes, capacity * sizeof *bytes);
    if (bytes) w->bytes = bytes;
    float *scores = realloc(w->scores, capacity * sizeof *scores);
    if (scores) w->scores = scores;
    if (!offsets || !hashes || !bytes || !scores) return no_memory(w);
    w->doc_capacity = (int64_t)capacity;
    return YX_OK;
}

static yx_status check_ids(const shard_writer *w, const uint32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= w->vocab_size)
            return yx_fail(YX_ERR_DATA, "id %u at position %zu of a document: the vocabulary has %u", ids[i], i,
                           w->vocab_size);
        if (ids[i] == w->eot_id)
            return yx_fail(YX_ERR_DATA, "an end-of-text token at position %zu inside a document", i);
    }
    return YX_OK;
}

yx_status shard_writer_add(shard_writer *w, const uint32_t *ids, size_t count, uint32_t text_bytes, float score,
                           uint64_t source_hash) {
    yx_status status = YX_OK;
    YX_CHECK(check_ids(w, ids, count));
    YX_CHECK(grow_documents(w));
    w->offsets[w->num_docs] = (uint64_t)w->num_tokens;
    w->bytes[w->num_docs] = text_bytes;
    w->scores[w->num_docs] = score;
    w->source_hashes[w->num_docs] = source_hash;
    YX_CHECK(append(w, &w->eot_id, 1));
    YX_CHECK(append(w, ids, count));
    w->num_docs++;
    w->num_bytes += text_bytes;
fail:
    return status;
}

int64_t shard_writer_tokens(const shard_writer *w) { return w->num_tokens; }

static yx_status write_attributes(const shard_writer *w, hid_t file) {
    yx_status status = YX_OK;
    YX_CHECK(shard_h5_write_text(file, "format", SHARD_FORMAT));
    YX_CHECK(shard_h5_write_integer(file, "version", SHARD_VERSION));
    YX_CHECK(shard_h5_write_text(file, "writer", "yxanul " YX_VERSION));
    YX_CHECK(shard_h5_write_text(file, "split", w->split));
    YX_CHECK(shard_h5_write_integer(file, "shard_index", (uint64_t)w->shard_index));
    YX_CHECK(shard_h5_write_text(file, "tokenizer_name", w->tokenizer_name));
    YX_CHECK(shard_h5_write_text(file, "tokenizer_sha256", w->tokenizer_sha256));
    YX_CHECK(shard_h5_write_integer(file, "vocab_size", w->vocab_size));
    YX_CHECK(shard_h5_write_integer(file, "eot_id", w->eot_id));
    YX_CHECK(shard_h5_write_text(file, "bos_policy", "eot_before_each_document"));
    YX_CHECK(shard_h5_write_text(file, "normaliser", "none"));
    YX_CHECK(shard_h5_write_text(file, "source", w->source));
    YX_CHECK(shard_h5_write_text(file, "filter", w->filter));
    YX_CHECK(shard_h5_write_text(file, "block_crc", "crc32c/65536 tokens"));
    YX_CHECK(shard_h5_write_integer(file, "n_tokens", (uint64_t)w->num_tokens));
    YX_CHECK(shard_h5_write_integer(file, "n_docs", (uint64_t)w->num_docs));
    YX_CHECK(shard_h5_write_integer(file, "n_bytes", (uint64_t)w->num_bytes));
fail:
    return status;
}

// A data set of the file: where HDF5 put it, and its content (NULL: the tokens, from the spill file).
typedef struct table {
    const char *name;
    hid_t type;
    size_t element;
    int64_t count;
    const void *data;
    int64_t at;
} table;

enum { TABLES = 6 };

static void list_tables(const shard_writer *w, table out[TABLES]) {
    int64_t blocks = (w->num_tokens + SHARD_BLOCK - 1) / SHARD_BLOCK;
    const table tables[TABLES] = {
        {"tokens", H5T_STD_U32LE, 4, w->num_tokens, NULL, 0},
        {"doc_offsets", H5T_STD_U64LE, 8, w->num_docs + 1, w->offsets, 0},
        {"doc_bytes", H5T_STD_U32LE, 4, w->num_docs, w->bytes, 0},
        {"doc_score", H5T_IEEE_F32LE, 4, w->num_docs, w->scores, 0},
        {"doc_src_hash", H5T_STD_U64LE, 8, w->num_docs, w->source_hashes, 0},
        {"block_crc", H5T_STD_U32LE, 4, blocks, w->crc, 0},
    };
    memcpy(out, tables, sizeof tables);
}

// The file with all its metadata; the content of the data sets comes later.
static yx_status create_skeleton(const shard_writer *w, table tables[TABLES]) {
    hid_t file;
    yx_status status = shard_h5_create(w->temporary, &file);
    if (status != YX_OK) return status;
    status = write_attributes(w, file);
    for (int i = 0; i < TABLES && status == YX_OK; i++)
        status =
            shard_h5_create_dataset(file, tables[i].name, tables[i].type, (uint64_t)tables[i].count, &tables[i].at);
    yx_status closed = shard_h5_close(w->temporary, file);
    return status != YX_OK ? status : closed;
}

// In pieces through the buffer, which is empty by now: a mapping of the whole would count as memory of this process.
static yx_status copy_tokens(shard_writer *w, int fd, int64_t at) {
    yx_status status = YX_OK;
    int64_t size = w->num_tokens * 4, piece = BUFFER_TOKENS * (int64_t)sizeof *w->buffer;
    for (int64_t done = 0; done < size; done += piece) {
        size_t n = (size_t)(size - done < piece ? size - done : piece);
        ssize_t got = pread(w->spill, w->buffer, n, done);
        if (got < 0) return yx_fail_errno("cannot read back %s", w->temporary);
        if ((size_t)got != n) return yx_fail(YX_ERR_IO, "%s lost tokens: the disk is at fault", w->temporary);
        YX_CHECK(write_at(fd, w->temporary, at + done, w->buffer, n));
    }
fail:
    return status;
}

static yx_status write_tables(shard_writer *w, const table tables[TABLES]) {
    yx_status status = YX_OK;
    int fd = open(w->temporary, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return yx_fail_errno("cannot open %s", w->temporary);
    for (int i = 0; i < TABLES; i++) {
        const table *t = &tables[i];
        if (t->data) YX_CHECK(write_at(fd, w->temporary, t->at, t->data, (size_t)t->count * t->element));
        else YX_CHECK(copy_tokens(w, fd, t->at));
    }
    if (fsync(fd) != 0) {
        status = yx_fail_errno("cannot fsync %s", w->temporary);
        goto fail;
    }
    // So that reading back asks the disk, not the cache (a hint; failing is harmless).
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
fail:
    if (close(fd) != 0 && status == YX_OK) status = yx_fail_errno("cannot close %s", w->temporary);
    return status;
}

static yx_status compare(const shard_file *f, int64_t at, const void *expected, size_t size, void *scratch) {
    ssize_t n = pread(f->fd, scratch, size, at);
    if (n < 0) return yx_fail_errno("cannot read back %s", f->path);
    if ((size_t)n != size || memcmp(scratch, expected, size) != 0)
        return yx_fail(YX_ERR_IO, "%s does not read back as it was written: the disk is at fault", f->path);
    return YX_OK;
}

static yx_status read_back(shard_writer *w, const table tables[TABLES]) {
    yx_status status = YX_OK;
    shard_file f = {.fd = -1};
    size_t piece = BUFFER_TOKENS * sizeof *w->buffer;
    YX_CHECK(shard_file_open(w->temporary, &f));
    YX_CHECK(shard_file_verify(&f));
    for (int i = 0; i < TABLES; i++) {
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

static yx_status finish(shard_writer *w) {
    yx_status status = YX_OK;
    table tables[TABLES];
    if (w->num_docs < 1) return yx_fail(YX_ERR_INTERNAL, "%s would hold no documents", w->path);
    w->offsets[w->num_docs] = (uint64_t)w->num_tokens;
    YX_CHECK(flush(w));
    shard_h5_lock();
    list_tables(w, tables);
    status = create_skeleton(w, tables);
    shard_h5_unlock();
    if (status != YX_OK) goto fail;
    YX_CHECK(write_tables(w, tables));
    YX_CHECK(read_back(w, tables));
    YX_CHECK(publish(w));
fail:
    return status;
}

yx_status shard_writer_close(shard_writer *w) {
    yx_status status = finish(w);
    if (status != YX_OK) unlink(w->temporary);
    free_writer(w);
    return status;
}

void shard_writer_abort(shard_writer *w) {
    if (w) free_writer(w); // the spill file has no name, and the temporary one exists only during shard_writer_close
}

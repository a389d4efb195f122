#include "io/shard_layout.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 18 };

yx_status shard_layout_write(int fd, const char *name, int64_t at, const void *data, size_t size) {
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

static yx_status write_attributes(const shard_contents *c, hid_t file) {
    yx_status status = YX_OK;
    YX_CHECK(shard_h5_write_text(file, "format", SHARD_FORMAT));
    YX_CHECK(shard_h5_write_integer(file, "version", SHARD_VERSION));
    YX_CHECK(shard_h5_write_text(file, "writer", "yxanul " YX_VERSION));
    YX_CHECK(shard_h5_write_text(file, "split", c->provenance.split));
    YX_CHECK(shard_h5_write_integer(file, "shard_index", (uint64_t)c->shard_index));
    YX_CHECK(shard_h5_write_text(file, "tokenizer_name", c->provenance.tokenizer_name));
    YX_CHECK(shard_h5_write_text(file, "tokenizer_sha256", c->provenance.tokenizer_sha256));
    YX_CHECK(shard_h5_write_integer(file, "vocab_size", c->provenance.vocab_size));
    YX_CHECK(shard_h5_write_integer(file, "eot_id", c->provenance.eot_id));
    YX_CHECK(shard_h5_write_text(file, "bos_policy", "eot_before_each_document"));
    YX_CHECK(shard_h5_write_text(file, "normaliser", "none"));
    YX_CHECK(shard_h5_write_text(file, "source", c->provenance.source));
    YX_CHECK(shard_h5_write_text(file, "filter", c->provenance.filter));
    YX_CHECK(shard_h5_write_text(file, "block_crc", "crc32c/65536 tokens"));
    YX_CHECK(shard_h5_write_integer(file, "n_tokens", (uint64_t)c->num_tokens));
    YX_CHECK(shard_h5_write_integer(file, "n_docs", (uint64_t)c->num_docs));
    YX_CHECK(shard_h5_write_integer(file, "n_bytes", (uint64_t)c->num_bytes));
fail:
    return status;
}

void shard_layout_list(const shard_contents *c, shard_table out[SHARD_TABLES]) {
    int64_t blocks = (c->num_tokens + SHARD_BLOCK - 1) / SHARD_BLOCK;
    shard_h5_lock(); // naming a type opens the library
    const shard_table tables[SHARD_TABLES] = {
        {"tokens", H5T_STD_U32LE, 4, c->num_tokens, NULL, 0},
        {"doc_offsets", H5T_STD_U64LE, 8, c->num_docs + 1, c->offsets, 0},
        {"doc_bytes", H5T_STD_U32LE, 4, c->num_docs, c->bytes, 0},
        {"doc_score", H5T_IEEE_F32LE, 4, c->num_docs, c->scores, 0},
        {"doc_src_hash", H5T_STD_U64LE, 8, c->num_docs, c->source_hashes, 0},
        {"block_crc", H5T_STD_U32LE, 4, blocks, c->crc, 0},
    };
    shard_h5_unlock();
    memcpy(out, tables, sizeof tables);
}

static yx_status create(const char *path, const shard_contents *c, shard_table *tables, int count) {
    hid_t file;
    yx_status status = shard_h5_create(path, &file);
    if (status != YX_OK) return status;
    status = write_attributes(c, file);
    for (int i = 0; i < count && status == YX_OK; i++)
        status =
            shard_h5_create_dataset(file, tables[i].name, tables[i].type, (uint64_t)tables[i].count, &tables[i].at);
    yx_status closed = shard_h5_close(path, file);
    return status != YX_OK ? status : closed;
}

yx_status shard_layout_create(const char *path, const shard_contents *c, shard_table *tables, int count) {
    shard_h5_lock();
    yx_status status = create(path, c, tables, count);
    shard_h5_unlock();
    return status;
}

static yx_status copy_range(int from, const char *name, int64_t begin, int64_t end, int to, const char *to_name,
                            char *buffer) {
    yx_status status = YX_OK;
    for (int64_t at = begin; at < end; at += PIECE) {
        size_t n = (size_t)(end - at < PIECE ? end - at : PIECE);
        ssize_t got = pread(from, buffer, n, at);
        if (got < 0) return yx_fail_errno("cannot read %s", name);
        if ((size_t)got != n) return yx_fail(YX_ERR_IO, "%s was cut off: the disk is at fault", name);
        YX_CHECK(shard_layout_write(to, to_name, at, buffer, n));
    }
fail:
    return status;
}

yx_status shard_layout_surround(const char *path, int64_t begin, int64_t end, int fd, const char *name) {
    yx_status status = YX_OK;
    struct stat info;
    char *buffer = malloc(PIECE);
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (!buffer) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to write %s", name);
    if (from < 0 || fstat(from, &info) != 0) {
        status = yx_fail_errno("cannot open %s", path);
        goto fail;
    }
    YX_CHECK(copy_range(from, path, 0, begin, fd, name, buffer));
    YX_CHECK(copy_range(from, path, end, info.st_size, fd, name, buffer));
    if (ftruncate(fd, info.st_size) != 0) status = yx_fail_errno("cannot set the size of %s", name);
fail:
    if (from >= 0) close(from);
    free(buffer);
    return status;
}

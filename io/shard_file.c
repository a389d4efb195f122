#include "io/shard_file.h"
#include "io/shard.h"
#include "io/shard_h5.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TABLE_PIECE = 65536 }; // entries of a document table read at once

yx_status shard_file_read_bytes(const shard_file *f, int64_t at, void *data, size_t size) {
    char *p = data;
    while (size > 0) {
        ssize_t n = pread(f->fd, p, size, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return yx_fail_errno("cannot read %s", f->path);
        if (n == 0) return yx_fail(YX_ERR_DATA, "%s was cut off while it was open", f->path);
        p += n;
        at += n;
        size -= (size_t)n;
    }
    return YX_OK;
}

void shard_file_close(shard_file *f) {
    if (f->path && f->fd >= 0) close(f->fd);
    free(f->path);
    memset(f, 0, sizeof *f);
    f->fd = -1;
}

// The superblock versions that carry a checksum; older ones lead HDF5 through unchecked metadata.
static yx_status check_signature(const shard_file *f) {
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char start[9];
    if (f->file_bytes == 0) return yx_fail(YX_ERR_DATA, "%s is empty", f->path);
    if (f->file_bytes < (int64_t)sizeof start)
        return yx_fail(YX_ERR_DATA, "%s is not a shard: it has only %lld bytes", f->path, (long long)f->file_bytes);
    yx_status status = shard_file_read_bytes(f, 0, start, sizeof start);
    if (status != YX_OK) return status;
    if (memcmp(start, signature, sizeof signature) != 0)
        return yx_fail(YX_ERR_DATA, "%s is not an HDF5 file, so not a shard", f->path);
    if (start[8] < 2 || start[8] > 3)
        return yx_fail(YX_ERR_DATA, "%s is not a shard: HDF5 superblock version %d, 2 or 3 is needed", f->path,
                       start[8]);
    return YX_OK;
}

static yx_status open_plain(const char *path, shard_file *f) {
    struct stat info;
    f->path = strdup(path);
    if (!f->path) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &info) != 0) return yx_fail_errno("cannot open the shard %s", path);
    if (!S_ISREG(info.st_mode)) return yx_fail(YX_ERR_DATA, "%s is not a file", path);
    f->file_bytes = info.st_size;
    return check_signature(f);
}

static yx_status read_format(const shard_file *f, hid_t file) {
    yx_status status = YX_OK;
    char format[64];
    uint64_t version;
    YX_CHECK(shard_h5_read_text(file, f->path, "format", format, sizeof format));
    if (strcmp(format, SHARD_FORMAT) != 0)
        YX_FAIL(YX_ERR_DATA, "%s is not a shard: its format is \"%s\"", f->path, format);
    YX_CHECK(shard_h5_read_integer(file, f->path, "version", UINT64_MAX, &version));
    if (version != SHARD_VERSION)
        YX_FAIL(YX_ERR_DATA, "%s has shard version %llu; this program reads version %d", f->path,
                (unsigned long long)version, SHARD_VERSION);
fail:
    return status;
}

static yx_status read_attributes(shard_file *f, hid_t file) {
    yx_status status = YX_OK;
    uint64_t value;
    YX_CHECK(read_format(f, file));
    YX_CHECK(shard_h5_read_text(file, f->path, "split", f->split, sizeof f->split));
    YX_CHECK(shard_h5_read_text(file, f->path, "tokenizer_name", f->tokenizer_name, sizeof f->tokenizer_name));
    YX_CHECK(shard_h5_read_text(file, f->path, "tokenizer_sha256", f->tokenizer_sha256, sizeof f->tokenizer_sha256));
    YX_CHECK(shard_h5_read_text(file, f->path, "source", f->source, sizeof f->source));
    YX_CHECK(shard_h5_read_text(file, f->path, "filter", f->filter, sizeof f->filter));
    YX_CHECK(shard_h5_read_text(file, f->path, "writer", f->writer, sizeof f->writer));
    YX_CHECK(shard_h5_read_integer(file, f->path, "vocab_size", INT32_MAX, &value));
    f->vocab_size = (uint32_t)value;
    YX_CHECK(shard_h5_read_integer(file, f->path, "eot_id", INT32_MAX, &value));
    f->eot_id = (uint32_t)value;
    YX_CHECK(shard_h5_read_integer(file, f->path, "shard_index", INT32_MAX, &value));
    f->shard_index = (int64_t)value;
    YX_CHECK(shard_h5_read_integer(file, f->path, "n_tokens", (uint64_t)f->file_bytes / 4, &value));
    f->num_tokens = (int64_t)value;
    YX_CHECK(shard_h5_read_integer(file, f->path, "n_docs", value, &value));
    f->num_docs = (int64_t)value;
    YX_CHECK(shard_h5_read_integer(file, f->path, "n_bytes", INT64_MAX, &value));
    f->num_bytes = (int64_t)value;
    if (f->num_docs < 1) YX_FAIL(YX_ERR_DATA, "%s holds no documents", f->path);
    if (f->eot_id >= f->vocab_size)
        YX_FAIL(YX_ERR_DATA, "%s: the end-of-text id %u is outside the vocabulary of %u", f->path, f->eot_id,
                f->vocab_size);
fail:
    return status;
}

static yx_status find(const shard_file *f, hid_t file, const char *name, hid_t type, int64_t count, int64_t *at) {
    uint64_t stored;
    yx_status status = shard_h5_find_dataset(file, f->path, name, type, &stored, at);
    if (status != YX_OK) return status;
    if (stored != (uint64_t)count)
        return yx_fail(YX_ERR_DATA, "%s: /%s has %llu entries instead of %lld", f->path, name,
                       (unsigned long long)stored, (long long)count);
    int64_t bytes = count * (int64_t)H5Tget_size(type); // count ≤ file_bytes / 4 + 1: no overflow
    if (*at > f->file_bytes || bytes > f->file_bytes - *at)
        return yx_fail(YX_ERR_DATA, "%s is cut off: /%s ends beyond the file's %lld bytes", f->path, name,
                       (long long)f->file_bytes);
    return YX_OK;
}

static yx_status find_datasets(shard_file *f, hid_t file) {
    yx_status status = YX_OK;
    int64_t blocks = (f->num_tokens + SHARD_BLOCK - 1) / SHARD_BLOCK;
    YX_CHECK(find(f, file, "tokens", H5T_STD_U32LE, f->num_tokens, &f->tokens_at));
    YX_CHECK(find(f, file, "doc_offsets", H5T_STD_U64LE, f->num_docs + 1, &f->offsets_at));
    YX_CHECK(find(f, file, "doc_bytes", H5T_STD_U32LE, f->num_docs, &f->bytes_at));
    YX_CHECK(find(f, file, "doc_score", H5T_IEEE_F32LE, f->num_docs, &f->scores_at));
    YX_CHECK(find(f, file, "doc_src_hash", H5T_STD_U64LE, f->num_docs, &f->hashes_at));
    YX_CHECK(find(f, file, "block_crc", H5T_STD_U32LE, blocks, &f->crc_at));
fail:
    return status;
}

static yx_status read_metadata(shard_file *f) {
    hid_t file;
    shard_h5_lock();
    yx_status status = shard_h5_open(f->path, &file);
    if (status == YX_OK) {
        status = read_attributes(f, file);
        if (status == YX_OK) status = find_datasets(f, file);
        H5Fclose(file);
    }
    shard_h5_unlock();
    return status;
}

yx_status shard_file_read_docs(const shard_file *f, int64_t first, int64_t count, uint64_t *offsets, uint32_t *bytes,
                               float *scores, uint64_t *source_hashes) {
    yx_status status = YX_OK;
    size_t n = (size_t)count;
    if (offsets) YX_CHECK(shard_file_read_bytes(f, f->offsets_at + first * 8, offsets, n * sizeof *offsets));
    if (bytes) YX_CHECK(shard_file_read_bytes(f, f->bytes_at + first * 4, bytes, n * sizeof *bytes));
    if (scores) YX_CHECK(shard_file_read_bytes(f, f->scores_at + first * 4, scores, n * sizeof *scores));
    if (source_hashes)
        YX_CHECK(shard_file_read_bytes(f, f->hashes_at + first * 8, source_hashes, n * sizeof *source_hashes));
fail:
    return status;
}

// Offsets rise from 0 to num_tokens, and the documents' bytes add up to num_bytes.
static yx_status check_documents(const shard_file *f) {
    yx_status status = YX_OK;
    uint64_t *offsets = malloc((TABLE_PIECE + 1) * sizeof *offsets), total = 0;
    uint32_t *bytes = malloc(TABLE_PIECE * sizeof *bytes);
    if (!offsets || !bytes) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to check %s", f->path);
    for (int64_t first = 0; first < f->num_docs; first += TABLE_PIECE) {
        int64_t n = f->num_docs - first < TABLE_PIECE ? f->num_docs - first : TABLE_PIECE;
        YX_CHECK(shard_file_read_bytes(f, f->offsets_at + first * 8, offsets, (size_t)(n + 1) * 8));
        YX_CHECK(shard_file_read_docs(f, first, n, NULL, bytes, NULL, NULL));
        bool good = first > 0 || offsets[0] == 0;
        for (int64_t i = 0; i < n; i++) {
            good = good && offsets[i] < offsets[i + 1];
            total += bytes[i];
        }
        if (!good || offsets[n] > (uint64_t)f->num_tokens ||
            (first + n == f->num_docs && offsets[n] != (uint64_t)f->num_tokens))
            YX_FAIL(YX_ERR_DATA, "%s: the document offsets do not cover its tokens in order", f->path);
    }
    if (total != (uint64_t)f->num_bytes)
        YX_FAIL(YX_ERR_DATA, "%s: its documents have %llu bytes, the attribute n_bytes says %lld", f->path,
                (unsigned long long)total, (long long)f->num_bytes);
fail:
    free(bytes);
    free(offsets);
    return status;
}

yx_status shard_file_open(const char *path, shard_file *out) {
    yx_status status = YX_OK;
    memset(out, 0, sizeof *out);
    out->fd = -1;
    YX_CHECK(open_plain(path, out));
    YX_CHECK(read_metadata(out));
    YX_CHECK(check_documents(out));
    return YX_OK;
fail:
    shard_file_close(out);
    return status;
}

bool shard_file_is_shard(const char *path) {
    shard_file f = {.fd = -1};
    hid_t file;
    bool is_shard = open_plain(path, &f) == YX_OK;
    if (is_shard) {
        char format[64];
        shard_h5_lock();
        is_shard = shard_h5_open(path, &file) == YX_OK;
        if (is_shard) {
            is_shard = shard_h5_read_text(file, path, "format", format, sizeof format) == YX_OK &&
                       strcmp(format, SHARD_FORMAT) == 0;
            H5Fclose(file);
        }
        shard_h5_unlock();
    }
    shard_file_close(&f);
    return is_shard;
}

static yx_status report_bad_id(const shard_file *f, int64_t begin, const uint32_t *tokens, int64_t count) {
    int64_t i = 0;
    while (i < count - 1 && tokens[i] < f->vocab_size) i++;
    return yx_fail(YX_ERR_DATA, "%s is damaged: token %lld has id %u, the vocabulary has %u", f->path,
                   (long long)(begin + i), tokens[i], f->vocab_size);
}

// These two have no way out of their loops and keep to 32 bits: for the vector unit.
uint32_t shard_largest(const uint32_t *ids, int64_t count) {
    uint32_t max = 0;
    for (int64_t i = 0; i < count; i++) max = ids[i] > max ? ids[i] : max;
    return max;
}

bool shard_contains(const uint32_t *ids, int64_t count, uint32_t id) {
    uint32_t found = 0;
    for (int64_t i = 0; i < count; i++) found |= ids[i] == id;
    return found != 0;
}

yx_status shard_file_check_ids(const shard_file *f, int64_t begin, int64_t count, const uint32_t *tokens) {
    return shard_largest(tokens, count) < f->vocab_size ? YX_OK : report_bad_id(f, begin, tokens, count);
}

yx_status shard_file_read_tokens(const shard_file *f, int64_t begin, int64_t count, uint32_t *tokens) {
    yx_status status = shard_file_read_bytes(f, f->tokens_at + begin * 4, tokens, (size_t)count * 4);
    return status == YX_OK ? shard_file_check_ids(f, begin, count, tokens) : status;
}

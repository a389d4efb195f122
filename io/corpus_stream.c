#include "io/corpus_stream.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

enum { PIECE = 1 << 17, MAGIC = 4, WAIT_MILLISECONDS = 100 };

typedef enum stream_format { STREAM_PLAIN, STREAM_GZIP, STREAM_ZSTD } stream_format;

struct corpus_stream {
    const char *name;
    const atomic_bool *stop;
    int fd;
    stream_format format;
    int64_t input_bytes;
    size_t in_begin, in_end; // what of `in` is not decompressed yet
    bool in_eof;
    bool frame_open; // inside a gzip member or zstd frame: the input may not end here
    bool out_full;   // the decompressor may hold more output than fitted
    z_stream gzip;
    bool gzip_ready;
    ZSTD_DCtx *zstd;
    char in[PIECE + 1], out[PIECE + 1];
};

// A pipe may stay silent for long: waits for it in pieces, so that `stop` is seen.
static yx_status await_input(const corpus_stream *s) {
    struct pollfd input = {.fd = s->fd, .events = POLLIN};
    while (s->stop) {
        if (atomic_load(s->stop)) return yx_fail(YX_ERR_INTERRUPTED, "reading %s was stopped", s->name);
        int n = poll(&input, 1, WAIT_MILLISECONDS);
        if (n < 0 && errno != EINTR) return yx_fail_errno("cannot wait for %s", s->name);
        if (n > 0) break;
    }
    return YX_OK;
}

// Reads more input behind what is there; at the end of the file sets in_eof.
static yx_status fill_input(corpus_stream *s) {
    if (s->in_begin == s->in_end) s->in_begin = s->in_end = 0;
    for (;;) {
        yx_status status = await_input(s);
        if (status != YX_OK) return status;
        ssize_t n = read(s->fd, s->in + s->in_end, PIECE - s->in_end);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return yx_fail_errno("cannot read %s", s->name);
        if (n == 0) s->in_eof = true;
        s->in_end += (size_t)n;
        s->input_bytes += n;
        return YX_OK;
    }
}

static yx_status detect_format(corpus_stream *s) {
    static const unsigned char zstd_magic[MAGIC] = {0x28, 0xb5, 0x2f, 0xfd};
    while (s->in_end < MAGIC && !s->in_eof) {
        yx_status status = fill_input(s);
        if (status != YX_OK) return status;
    }
    if (s->in_end >= 2 && (unsigned char)s->in[0] == 0x1f && (unsigned char)s->in[1] == 0x8b) s->format = STREAM_GZIP;
    if (s->in_end < MAGIC) return YX_OK;
    if (memcmp(s->in, zstd_magic, MAGIC) == 0) s->format = STREAM_ZSTD;
    if (memcmp(s->in, "PAR1", MAGIC) == 0)
        return yx_fail(YX_ERR_DATA, "%s is a Parquet file: convert it on the way in with scripts/parquet_to_jsonl",
                       s->name);
    return YX_OK;
}

static yx_status start_decompressor(corpus_stream *s) {
    if (s->format == STREAM_GZIP) {
        // 15 + 16: the largest window, gzip framing only.
        s->gzip_ready = inflateInit2(&s->gzip, 15 + 16) == Z_OK;
        if (!s->gzip_ready) return yx_fail(YX_ERR_NO_MEMORY, "no memory to decompress %s", s->name);
    } else if (s->format == STREAM_ZSTD) {
        s->zstd = ZSTD_createDCtx();
        if (!s->zstd) return yx_fail(YX_ERR_NO_MEMORY, "no memory to decompress %s", s->name);
    }
    return YX_OK;
}

yx_status corpus_stream_open(const char *path, const char *name, const atomic_bool *stop, corpus_stream **out) {
    yx_status status = YX_OK;
    corpus_stream *s = calloc(1, sizeof *s);
    if (!s) return yx_fail(YX_ERR_NO_MEMORY, "no memory to read %s", name);
    s->name = name;
    s->stop = stop;
    s->fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0) {
        status = yx_fail_errno("cannot open %s", name);
        goto fail;
    }
    YX_CHECK(detect_format(s));
    YX_CHECK(start_decompressor(s));
    *out = s;
    return YX_OK;
fail:
    corpus_stream_close(s);
    return status;
}

void corpus_stream_close(corpus_stream *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    if (s->gzip_ready) inflateEnd(&s->gzip);
    ZSTD_freeDCtx(s->zstd);
    free(s);
}

int64_t corpus_stream_input_bytes(const corpus_stream *s) { return s->input_bytes; }

// One step of inflate; an archive may hold several members one after another.
static yx_status gzip_step(corpus_stream *s, size_t *size) {
    s->gzip.next_in = (unsigned char *)s->in + s->in_begin;
    s->gzip.avail_in = (unsigned)(s->in_end - s->in_begin);
    s->gzip.next_out = (unsigned char *)s->out;
    s->gzip.avail_out = PIECE;
    int code = inflate(&s->gzip, Z_NO_FLUSH);
    s->in_begin = s->in_end - s->gzip.avail_in;
    *size = PIECE - s->gzip.avail_out;
    s->out_full = s->gzip.avail_out == 0;
    if (code == Z_MEM_ERROR) return yx_fail(YX_ERR_NO_MEMORY, "no memory to decompress %s", s->name);
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
        return yx_fail(YX_ERR_DATA, "%s: the gzip data is damaged near byte %lld (%s)", s->name,
                       (long long)(s->input_bytes - (int64_t)s->gzip.avail_in), s->gzip.msg ? s->gzip.msg : "zlib");
    s->frame_open = code != Z_STREAM_END;
    if (code == Z_STREAM_END) {
        s->out_full = false;
        inflateReset(&s->gzip);
    }
    return YX_OK;
}

static yx_status zstd_step(corpus_stream *s, size_t *size) {
    ZSTD_inBuffer in = {s->in, s->in_end, s->in_begin};
    ZSTD_outBuffer out = {s->out, PIECE, 0};
    size_t code = ZSTD_decompressStream(s->zstd, &out, &in);
    s->in_begin = in.pos;
    *size = out.pos;
    s->out_full = out.pos == out.size;
    if (ZSTD_isError(code) && ZSTD_getErrorCode(code) == ZSTD_error_frameParameter_windowTooLarge)
        return yx_fail(YX_ERR_DATA, "%s was compressed with a window above 128 MiB: compress it again without --long",
                       s->name);
    if (ZSTD_isError(code))
        return yx_fail(YX_ERR_DATA, "%s: the zstd data is damaged near byte %lld (%s)", s->name,
                       (long long)(s->input_bytes - (int64_t)(in.size - in.pos)), ZSTD_getErrorName(code));
    s->frame_open = code != 0;
    return YX_OK;
}

static yx_status read_plain(corpus_stream *s, char **data, size_t *size) {
    yx_status status = YX_OK;
    if (s->in_begin == s->in_end && !s->in_eof) status = fill_input(s);
    *data = s->in + s->in_begin;
    *size = s->in_end - s->in_begin;
    s->in_begin = s->in_end;
    return status;
}

yx_status corpus_stream_read(corpus_stream *s, char **data, size_t *size) {
    if (s->format == STREAM_PLAIN) return read_plain(s, data, size);
    *data = s->out;
    *size = 0;
    while (*size == 0) {
        yx_status status = YX_OK;
        if (s->in_begin == s->in_end && !s->in_eof && !s->out_full) status = fill_input(s);
        if (status != YX_OK) return status;
        if (s->in_begin == s->in_end && s->in_eof && !s->out_full) break;
        status = s->format == STREAM_GZIP ? gzip_step(s, size) : zstd_step(s, size);
        if (status != YX_OK) return status;
    }
    if (*size == 0 && s->frame_open)
        return yx_fail(YX_ERR_DATA, "%s ends early: the archive was cut off at byte %lld", s->name,
                       (long long)s->input_bytes);
    return YX_OK;
}

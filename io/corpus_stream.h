// The bytes of a file or of standard input, decompressed: gzip and zstd are recognised by their first bytes.
#pragma once
#include "common/status.h"
#include <stdatomic.h>
#include <stdint.h>

typedef struct corpus_stream corpus_stream;

// `path`: a file, or "-" for standard input. `name` is used in messages and must outlive the stream. A Parquet file is
// refused with advice. `stop` (may be NULL): when it becomes non-zero, reading fails with YX_ERR_INTERRUPTED.
yx_status corpus_stream_open(const char *path, const char *name, const atomic_bool *stop, corpus_stream **out);
// The next piece, valid until the next call and the caller's to write in, also in the one byte behind it; `*size` is 0
// only at the end. YX_ERR_DATA when an archive is damaged.
yx_status corpus_stream_read(corpus_stream *s, char **data, size_t *size);
// Bytes taken from the file so far, as stored.
int64_t corpus_stream_input_bytes(const corpus_stream *s);
void corpus_stream_close(corpus_stream *s);

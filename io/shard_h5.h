// The little of HDF5 that shards need: one lock around the library, its error text as a status message, attributes, and
// contiguous data sets whose place in the file is told, so that their content goes through pread and pwrite.
#pragma once
#include "common/status.h"
#include <hdf5.h>
#include <stdint.h>

// Holds the library's one mutex and silences its own error printing. Every other function here needs it held.
void shard_h5_lock(void);
void shard_h5_unlock(void);

// A failure with HDF5's innermost reason behind the message; ENOSPC and the like get their own code, everything else
// `code`.
yx_status shard_h5_fail_at(const char *file, int line, yx_status code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define shard_h5_fail(code, ...) shard_h5_fail_at(__FILE__, __LINE__, (code), __VA_ARGS__)

// Opens for reading without HDF5's file locks (several file systems refuse them; shards never change).
yx_status shard_h5_open(const char *path, hid_t *out);
// Creates a file, without locks too, in the format of HDF5 1.8: all metadata carries checksums, and every later version
// reads it.
yx_status shard_h5_create(const char *path, hid_t *out);
yx_status shard_h5_close(const char *path, hid_t file);

yx_status shard_h5_write_text(hid_t file, const char *name, const char *value);
yx_status shard_h5_write_integer(hid_t file, const char *name, uint64_t value);
// `path` is for messages. A missing attribute, another type, or text that does not fit is YX_ERR_DATA.
yx_status shard_h5_read_text(hid_t file, const char *path, const char *name, char *out, size_t capacity);
yx_status shard_h5_read_integer(hid_t file, const char *path, const char *name, uint64_t max, uint64_t *out);

// Creates /name, `count` > 0 elements of `type`, contiguous, with its space allocated now.
yx_status shard_h5_create_dataset(hid_t file, const char *name, hid_t type, uint64_t count, int64_t *offset);
// Checks that /name is a contiguous one-dimensional data set of exactly `type`, allocated.
yx_status shard_h5_find_dataset(hid_t file, const char *path, const char *name, hid_t type, uint64_t *count,
                                int64_t *offset);

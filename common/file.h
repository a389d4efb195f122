// Files that appear whole or not at all.
#pragma once
#include "common/status.h"
#include <stdint.h>

// Reads a whole file; `*data` gets size + 1 bytes (a zero behind the content) to free(). Fails above `max_size` bytes.
yx_status yx_read_file(const char *path, size_t max_size, char **data, size_t *size);
// Writes to a temporary name beside `path`, fsyncs, renames over `path`, fsyncs the folder. On failure nothing is left.
yx_status yx_write_file_atomic(const char *path, const void *data, size_t size);
// fsync of a file or folder by name.
yx_status yx_fsync_path(const char *path);
// mkdir -p.
yx_status yx_make_dirs(const char *path);
// rm -r; a path that does not exist is not an error.
yx_status yx_remove_tree(const char *path);
// Holds the folder for this process until `*fd` is closed, also by the process's end; nothing is left of it. `*taken`:
// another process has it. Where a file system has no locks, nothing is held and nothing taken.
yx_status yx_hold_folder(const char *path, int *fd, bool *taken);
bool yx_path_exists(const char *path);
bool yx_path_is_dir(const char *path);
// asprintf that reports memory failure; `*out` to free().
yx_status yx_format(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

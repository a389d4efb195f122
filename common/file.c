#include "common/file.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

yx_status yx_read_file(const char *path, size_t max_size, char **data, size_t *size) {
    yx_status status = YX_OK;
    char *buffer = NULL;
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file) return yx_fail_errno("cannot open %s", path);
    if (fstat(fileno(file), &info) != 0) {
        status = yx_fail_errno("cannot stat %s", path);
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) YX_FAIL(YX_ERR_IO, "%s is not a regular file", path);
    if ((uint64_t)info.st_size > max_size)
        YX_FAIL(YX_ERR_DATA, "%s has %lld bytes; at most %zu are read", path, (long long)info.st_size, max_size);
    buffer = malloc((size_t)info.st_size + 1);
    if (!buffer) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %lld bytes of %s", (long long)info.st_size, path);
    size_t got = fread(buffer, 1, (size_t)info.st_size, file);
    if (got != (size_t)info.st_size) {
        status = yx_fail_errno("cannot read %s", path);
        goto fail;
    }
    buffer[got] = 0;
    *data = buffer;
    *size = got;
    buffer = NULL;
fail:
    free(buffer);
    fclose(file);
    return status;
}

yx_status yx_fsync_path(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return yx_fail_errno("cannot open %s", path);
    yx_status status = YX_OK;
    // Some file systems refuse fsync on a folder (EINVAL); the rename is then as durable as they can make it.
    if (fsync(fd) != 0 && errno != EINVAL) status = yx_fail_errno("cannot fsync %s", path);
    close(fd);
    return status;
}

static yx_status fsync_parent(const char *path) {
    char *copy = strdup(path);
    if (!copy) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    yx_status status = yx_fsync_path(dirname(copy));
    free(copy);
    return status;
}

static yx_status write_all(int fd, const char *data, size_t size, const char *path) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return yx_fail_errno("cannot write %s", path);
        data += n;
        size -= (size_t)n;
    }
    if (fsync(fd) != 0) return yx_fail_errno("cannot fsync %s", path);
    return YX_OK;
}

yx_status yx_write_file_atomic(const char *path, const void *data, size_t size) {
    yx_status status = YX_OK;
    char *temporary = NULL;
    int fd = -1;
    YX_CHECK(yx_format(&temporary, "%s.tmp-%ld", path, (long)getpid()));
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = yx_fail_errno("cannot create %s", temporary);
        goto fail;
    }
    YX_CHECK(write_all(fd, data, size, temporary));
    int closed = close(fd);
    fd = -1;
    if (closed != 0) {
        status = yx_fail_errno("cannot close %s", temporary);
        goto fail;
    }
    if (rename(temporary, path) != 0) {
        status = yx_fail_errno("cannot rename %s to %s", temporary, path);
        goto fail;
    }
    YX_CHECK(fsync_parent(path));
    free(temporary);
    return YX_OK;
fail:
    if (fd >= 0) close(fd);
    if (temporary) unlink(temporary);
    free(temporary);
    return status;
}

yx_status yx_make_dirs(const char *path) {
    char *copy = strdup(path);
    if (!copy) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    yx_status status = YX_OK;
    for (char *p = copy + 1;; p++) {
        if (*p != '/' && *p != 0) continue;
        char saved = *p;
        *p = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST) {
            status = yx_fail_errno("cannot create the folder %s", copy);
            break;
        }
        *p = saved;
        if (saved == 0) break;
    }
    if (status == YX_OK && !yx_path_is_dir(path)) status = yx_fail(YX_ERR_IO, "%s is not a folder", path);
    free(copy);
    return status;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

yx_status yx_remove_tree(const char *path) {
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        return yx_fail_errno("cannot remove %s", path);
    return YX_OK;
}

yx_status yx_hold_folder(const char *path, int *fd, bool *taken) {
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0) return yx_fail_errno("cannot open %s", path);
    *taken = flock(*fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    return YX_OK;
}

bool yx_path_exists(const char *path) { return access(path, F_OK) == 0; }

bool yx_path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

yx_status yx_format(char **out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vasprintf(out, format, args);
    va_end(args);
    if (n < 0) *out = NULL;
    return n < 0 ? yx_fail(YX_ERR_NO_MEMORY, "no memory") : YX_OK;
}

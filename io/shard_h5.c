#include "io/shard_h5.h"
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 16384 }; // attributes above 64 KiB would need another storage

static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;

// At the exit the library would close what it thinks is open, and crash over a file whose close failed on a full disk.
// All files are closed where they are opened.
static void leave_exit_alone(void) { H5dont_atexit(); }

void shard_h5_lock(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT; // before any other call of the library
    pthread_once(&once, leave_exit_alone);
    pthread_mutex_lock(&library_lock);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); // the setting is each thread's own in a thread-safe build
}

void shard_h5_unlock(void) { pthread_mutex_unlock(&library_lock); }

typedef struct error_reason {
    char text[512];
    int error; // errno named in it, or 0
} error_reason;

// The innermost entry says most; system calls name their errno there ("…, errno = 28, error message = …").
static herr_t take_innermost(unsigned n, const H5E_error2_t *entry, void *data) {
    error_reason *reason = data;
    if (n != 0 || !entry->desc) return 0;
    snprintf(reason->text, sizeof reason->text, "%s", entry->desc);
    const char *number = strstr(entry->desc, "errno = ");
    if (number) reason->error = atoi(number + strlen("errno = "));
    return 0;
}

yx_status shard_h5_fail_at(const char *file, int line, yx_status code, const char *format, ...) {
    error_reason reason = {"no reason given", 0};
    char text[1024];
    va_list args;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, &reason);
    H5Eclear2(H5E_DEFAULT);
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (reason.error == 0) return yx_fail_at(file, line, code, "%s (HDF5: %s)", text, reason.text);
    errno = reason.error;
    return yx_fail_errno_at(file, line, "%s", text);
}

// NFS and Lustre often refuse locks. None is needed: a shard never changes, and one that is being written has a name of
// its own.
static bool switch_locking_off(hid_t access) {
#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
    return access >= 0 && H5Pset_file_locking(access, 0, 1) >= 0;
#else
    return access >= 0;
#endif
}

yx_status shard_h5_open(const char *path, hid_t *out) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    *out = switch_locking_off(access) ? H5Fopen(path, H5F_ACC_RDONLY, access) : -1;
    yx_status status = *out >= 0 ? YX_OK : shard_h5_fail(YX_ERR_DATA, "%s is not a readable HDF5 file", path);
    H5Pclose(access);
    return status;
}

yx_status shard_h5_create(const char *path, hid_t *out) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
    *out = -1;
    // No time stamps: the same input gives the same bytes.
    if (switch_locking_off(access) && creation >= 0 &&
        H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0)
        *out = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    yx_status status = *out >= 0 ? YX_OK : shard_h5_fail(YX_ERR_IO, "cannot create %s", path);
    H5Pclose(creation);
    H5Pclose(access);
    return status;
}

yx_status shard_h5_close(const char *path, hid_t file) {
    return H5Fclose(file) < 0 ? shard_h5_fail(YX_ERR_IO, "cannot write %s", path) : YX_OK;
}

static yx_status write_attribute(hid_t file, const char *name, hid_t stored, hid_t memory, const void *value) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, memory, value) >= 0;
    yx_status status = good ? YX_OK : shard_h5_fail(YX_ERR_IO, "cannot write the attribute %s", name);
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    return status;
}

yx_status shard_h5_write_text(hid_t file, const char *name, const char *value) {
    if (strlen(value) >= MAX_TEXT) return yx_fail(YX_ERR_INTERNAL, "the attribute %s is too long", name);
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(value) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    yx_status status = write_attribute(file, name, type, type, value);
    H5Tclose(type);
    return status;
}

yx_status shard_h5_write_integer(hid_t file, const char *name, uint64_t value) {
    return write_attribute(file, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
}

// Opens a scalar attribute of class `class`.
static yx_status open_attribute(hid_t file, const char *path, const char *name, H5T_class_t class, hid_t *attribute,
                                hid_t *type) {
    yx_status status = YX_OK;
    *type = -1;
    *attribute = H5Aopen(file, name, H5P_DEFAULT);
    if (*attribute < 0) return shard_h5_fail(YX_ERR_DATA, "%s: the attribute \"%s\" is missing", path, name);
    *type = H5Aget_type(*attribute);
    hid_t space = H5Aget_space(*attribute);
    if (*type < 0 || space < 0 || H5Sget_simple_extent_type(space) != H5S_SCALAR || H5Tget_class(*type) != class ||
        H5Tis_variable_str(*type) > 0)
        status = yx_fail(YX_ERR_DATA, "%s: the attribute \"%s\" has a wrong type", path, name);
    if (space >= 0) H5Sclose(space);
    if (status == YX_OK) return YX_OK;
    if (*type >= 0) H5Tclose(*type);
    H5Aclose(*attribute);
    return status;
}

yx_status shard_h5_read_text(hid_t file, const char *path, const char *name, char *out, size_t capacity) {
    hid_t attribute, type;
    char value[MAX_TEXT + 1];
    yx_status status = open_attribute(file, path, name, H5T_STRING, &attribute, &type);
    if (status != YX_OK) return status;
    size_t size = H5Tget_size(type);
    if (size == 0 || size > MAX_TEXT)
        status = yx_fail(YX_ERR_DATA, "%s: the attribute \"%s\" has %zu bytes", path, name, size);
    else if (H5Aread(attribute, type, value) < 0)
        status = shard_h5_fail(YX_ERR_DATA, "%s: cannot read the attribute \"%s\"", path, name);
    if (status == YX_OK) {
        value[size] = 0;
        if (strlen(value) < capacity) strcpy(out, value);
        else status = yx_fail(YX_ERR_DATA, "%s: the attribute \"%s\" is too long", path, name);
    }
    H5Tclose(type);
    H5Aclose(attribute);
    return status;
}

yx_status shard_h5_read_integer(hid_t file, const char *path, const char *name, uint64_t max, uint64_t *out) {
    hid_t attribute, type;
    yx_status status = open_attribute(file, path, name, H5T_INTEGER, &attribute, &type);
    if (status != YX_OK) return status;
    if (H5Aread(attribute, H5T_NATIVE_UINT64, out) < 0)
        status = shard_h5_fail(YX_ERR_DATA, "%s: cannot read the attribute \"%s\"", path, name);
    else if (*out > max)
        status = yx_fail(YX_ERR_DATA, "%s: the attribute \"%s\" is %llu, at most %llu is possible", path, name,
                         (unsigned long long)*out, (unsigned long long)max);
    H5Tclose(type);
    H5Aclose(attribute);
    return status;
}

yx_status shard_h5_create_dataset(hid_t file, const char *name, hid_t type, uint64_t count, int64_t *offset) {
    hsize_t size = count;
    hid_t space = H5Screate_simple(1, &size, NULL), options = H5Pcreate(H5P_DATASET_CREATE), dataset = -1;
    // Space now and no fill values: the content is written behind HDF5's back.
    if (space >= 0 && options >= 0 && H5Pset_layout(options, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(options, H5D_ALLOC_TIME_EARLY) >= 0 && H5Pset_fill_time(options, H5D_FILL_TIME_NEVER) >= 0 &&
        H5Pset_obj_track_times(options, false) >= 0)
        dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, options, H5P_DEFAULT);
    haddr_t address = dataset >= 0 ? H5Dget_offset(dataset) : HADDR_UNDEF;
    yx_status status = YX_OK;
    if (address == HADDR_UNDEF) status = shard_h5_fail(YX_ERR_IO, "cannot create the data set /%s", name);
    *offset = (int64_t)address;
    if (dataset >= 0) H5Dclose(dataset);
    if (options >= 0) H5Pclose(options);
    if (space >= 0) H5Sclose(space);
    return status;
}

static bool is_plain(hid_t dataset, hid_t type, uint64_t *count, int64_t *offset) {
    hid_t space = H5Dget_space(dataset), stored = H5Dget_type(dataset), options = H5Dget_create_plist(dataset);
    hsize_t size = 0;
    bool plain = space >= 0 && stored >= 0 && options >= 0 && H5Tequal(stored, type) > 0 &&
                 H5Sget_simple_extent_ndims(space) == 1 && H5Sget_simple_extent_dims(space, &size, NULL) == 1 &&
                 H5Pget_layout(options) == H5D_CONTIGUOUS && H5Pget_external_count(options) == 0;
    haddr_t address = plain ? H5Dget_offset(dataset) : HADDR_UNDEF;
    if (options >= 0) H5Pclose(options);
    if (stored >= 0) H5Tclose(stored);
    if (space >= 0) H5Sclose(space);
    *count = size;
    *offset = (int64_t)address;
    return address != HADDR_UNDEF && address <= INT64_MAX;
}

yx_status shard_h5_find_dataset(hid_t file, const char *path, const char *name, hid_t type, uint64_t *count,
                                int64_t *offset) {
    H5L_info_t link;
    // A link may lead to another file.
    if (H5Lget_info(file, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        return shard_h5_fail(YX_ERR_DATA, "%s: the data set /%s is missing", path, name);
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) return shard_h5_fail(YX_ERR_DATA, "%s: the data set /%s cannot be opened", path, name);
    yx_status status = YX_OK;
    if (!is_plain(dataset, type, count, offset))
        status = yx_fail(YX_ERR_DATA, "%s: /%s is not a contiguous data set of the type this format has", path, name);
    H5Dclose(dataset);
    return status;
}

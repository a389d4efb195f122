#include "io/checkpoint_state.h"
#include "common/file.h"
#include "common/hash.h"
#include "io/shard_h5.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

// The content goes through pwrite at the place HDF5 tells: a full disk is then an ordinary failure of a system call
// (HDF5 1.10 crashes when it closes a data set whose buffer it could not write). float32 in memory is what the file
// holds.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "state.h5 is written as it lies in memory");

// Creates the data set with its space allocated; `*offset`: where its content goes.
static yx_status create_tensor(hid_t file, const char *path, const checkpoint_tensor *t, int64_t *offset) {
    yx_status status = YX_OK;
    hsize_t shape[2] = {(hsize_t)t->rows, (hsize_t)t->cols};
    hid_t space = H5Screate_simple(t->cols ? 2 : 1, shape, NULL), set = -1;
    hid_t links = H5Pcreate(H5P_LINK_CREATE), layout = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || links < 0 || layout < 0 || H5Pset_create_intermediate_group(links, 1) < 0 ||
        H5Pset_layout(layout, H5D_CONTIGUOUS) < 0 || H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY) < 0 ||
        H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER) < 0)
        YX_FAIL(YX_ERR_INTERNAL, "HDF5 cannot describe %s", t->name);
    set = H5Dcreate2(file, t->name, H5T_IEEE_F32LE, space, links, layout, H5P_DEFAULT);
    if (set < 0) {
        status = shard_h5_fail(YX_ERR_IO, "cannot write %s of %s", t->name, path);
        goto fail;
    }
    haddr_t address = H5Dget_offset(set);
    if (address == HADDR_UNDEF) status = shard_h5_fail(YX_ERR_IO, "%s of %s has no place", t->name, path);
    *offset = (int64_t)address;
fail:
    if (set >= 0) H5Dclose(set);
    if (layout >= 0) H5Pclose(layout);
    if (links >= 0) H5Pclose(links);
    if (space >= 0) H5Sclose(space);
    return status;
}

// Fails where the disk or a limit has no room for the file: takes the space under another name and gives it back.
static yx_status probe_space(const char *path, const checkpoint_tensor *tensors, int64_t num_tensors) {
    enum { METADATA = 4096 }; // bytes of HDF5 for each tensor, with room to spare
    char *name = NULL;
    off_t size = 1 << 16;
    for (int64_t i = 0; i < num_tensors; i++) size += (off_t)checkpoint_tensor_bytes(&tensors[i]) + METADATA;
    yx_status status = yx_format(&name, "%s.space", path);
    if (status != YX_OK) return status;
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) status = yx_fail_errno("cannot create %s", name);
    else if ((errno = posix_fallocate(fd, 0, size)) != 0)
        status = yx_fail_errno("no room for the %lld bytes of %s", (long long)size, path);
    if (fd >= 0) {
        close(fd);
        unlink(name);
    }
    free(name);
    return status;
}

static yx_status create_file(const char *path, const checkpoint_tensor *tensors, int64_t num_tensors,
                             int64_t *offsets) {
    hid_t file;
    shard_h5_lock();
    yx_status status = shard_h5_create(path, &file);
    if (status == YX_OK) {
        for (int64_t i = 0; i < num_tensors && status == YX_OK; i++)
            status = create_tensor(file, path, &tensors[i], &offsets[i]);
        yx_status closed = shard_h5_close(path, file);
        if (status == YX_OK) status = closed;
    }
    shard_h5_unlock();
    return status;
}

static yx_status write_at(int fd, const char *path, const char *data, size_t size, int64_t offset) {
    while (size > 0) {
        ssize_t n = pwrite(fd, data, size, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return yx_fail_errno("cannot write %s", path);
        data += n, size -= (size_t)n, offset += n;
    }
    return YX_OK;
}

yx_status state_file_write(const char *path, const checkpoint_tensor *tensors, int64_t num_tensors) {
    yx_status status = YX_OK;
    int fd = -1;
    int64_t *offsets = malloc((size_t)(num_tensors ? num_tensors : 1) * sizeof *offsets);
    if (!offsets) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a checkpoint");
    YX_CHECK(probe_space(path, tensors, num_tensors));
    YX_CHECK(create_file(path, tensors, num_tensors, offsets));
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        status = yx_fail_errno("cannot open %s", path);
        goto fail;
    }
    for (int64_t i = 0; i < num_tensors; i++)
        YX_CHECK(write_at(fd, path, (const char *)tensors[i].data, checkpoint_tensor_bytes(&tensors[i]), offsets[i]));
    if (fsync(fd) != 0) status = yx_fail_errno("cannot fsync %s", path);
fail:
    if (fd >= 0 && close(fd) != 0 && status == YX_OK) status = yx_fail_errno("cannot close %s", path);
    free(offsets);
    return status;
}

static yx_status check_shape(hid_t set, const char *path, const checkpoint_tensor *t) {
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    hsize_t shape[2] = {0, 0};
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    bool good = rank == (t->cols ? 2 : 1) && H5Sget_simple_extent_dims(space, shape, NULL) == rank && type >= 0 &&
                H5Tequal(type, H5T_IEEE_F32LE) > 0 && shape[0] == (hsize_t)t->rows &&
                (rank == 1 || shape[1] == (hsize_t)t->cols);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (good) return YX_OK;
    return yx_fail(YX_ERR_MISMATCH, "%s: %s is not float32 [%lld, %lld]", path, t->name, (long long)t->rows,
                   (long long)t->cols);
}

static yx_status read_tensor(hid_t file, const char *path, const checkpoint_tensor *t, uint32_t crc) {
    hid_t set = H5Dopen2(file, t->name, H5P_DEFAULT);
    if (set < 0) return shard_h5_fail(YX_ERR_MISMATCH, "%s lacks %s", path, t->name);
    yx_status status = check_shape(set, path, t);
    if (status == YX_OK && H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, t->data) < 0)
        status = shard_h5_fail(YX_ERR_DATA, "cannot read %s of %s", t->name, path);
    H5Dclose(set);
    if (status == YX_OK && yx_crc32c(0, t->data, checkpoint_tensor_bytes(t)) != crc)
        status = yx_fail(YX_ERR_DATA, "%s: %s is damaged (its checksum is not the manifest's)", path, t->name);
    return status;
}

yx_status state_file_read(const char *path, const checkpoint_tensor *tensors, const uint32_t *crcs,
                          int64_t num_tensors) {
    hid_t file;
    shard_h5_lock();
    yx_status status = shard_h5_open(path, &file);
    if (status == YX_OK) {
        for (int64_t i = 0; i < num_tensors && status == YX_OK; i++)
            status = read_tensor(file, path, &tensors[i], crcs[i]);
        shard_h5_close(path, file);
    }
    shard_h5_unlock();
    return status;
}

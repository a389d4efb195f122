#include "io/checkpoint_state.h"
#include "common/file.h"
#include "common/hash.h"
#include "io/shard_h5.h"

static hid_t space_of(const checkpoint_tensor *t) {
    hsize_t shape[2] = {(hsize_t)t->rows, (hsize_t)t->cols};
    return H5Screate_simple(t->cols ? 2 : 1, shape, NULL);
}

static yx_status write_tensor(hid_t file, const char *path, const checkpoint_tensor *t) {
    yx_status status = YX_OK;
    hid_t space = space_of(t), links = H5Pcreate(H5P_LINK_CREATE), set = -1;
    if (space < 0 || links < 0 || H5Pset_create_intermediate_group(links, 1) < 0)
        YX_FAIL(YX_ERR_INTERNAL, "HDF5 cannot describe %s", t->name);
    set = H5Dcreate2(file, t->name, H5T_IEEE_F32LE, space, links, H5P_DEFAULT, H5P_DEFAULT);
    if (set < 0 || H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, t->data) < 0)
        status = shard_h5_fail(YX_ERR_IO, "cannot write %s of %s", t->name, path);
fail:
    if (set >= 0 && H5Dclose(set) < 0 && status == YX_OK)
        status = shard_h5_fail(YX_ERR_IO, "cannot write %s of %s", t->name, path);
    if (links >= 0) H5Pclose(links);
    if (space >= 0) H5Sclose(space);
    return status;
}

yx_status state_file_write(const char *path, const checkpoint_tensor *tensors, int64_t num_tensors) {
    hid_t file;
    shard_h5_lock();
    yx_status status = shard_h5_create(path, &file);
    if (status == YX_OK) {
        for (int64_t i = 0; i < num_tensors && status == YX_OK; i++) status = write_tensor(file, path, &tensors[i]);
        yx_status closed = shard_h5_close(path, file);
        if (status == YX_OK) status = closed;
    }
    shard_h5_unlock();
    return status == YX_OK ? yx_fsync_path(path) : status;
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

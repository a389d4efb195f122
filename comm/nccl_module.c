// NCCL as a module: only this file needs it to build and to run.
#include "comm/device_module.h"
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const device_module *yxanul_device_module(device_fail fail);

static device_fail fail_at;

static yx_status check_call(ncclResult_t result, ncclComm_t comm, const char *what) {
    if (result == ncclSuccess || result == ncclInProgress) return YX_OK;
    const char *detail = ncclGetLastError(comm);
    return fail_at(__FILE__, __LINE__, YX_ERR_COMM, "%s failed: %s%s%s (NCCL_DEBUG=INFO says more)", what,
                   ncclGetErrorString(result), detail && *detail ? ": " : "", detail ? detail : "");
}

static const char *module_library(void) {
    static char text[32];
    int version = 0;
    ncclGetVersion(&version);
    snprintf(text, sizeof text, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    return text;
}

static yx_status module_make_id(char *id) {
    ncclUniqueId unique;
    yx_status status = check_call(ncclGetUniqueId(&unique), NULL, "ncclGetUniqueId");
    if (status == YX_OK) memcpy(id, unique.internal, sizeof unique.internal);
    return status;
}

static yx_status module_join(const char *id, int rank, int size, int device, int blocks, void **comm) {
    ncclUniqueId unique;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    memcpy(unique.internal, id, sizeof unique.internal);
    cudaError_t error = cudaSetDevice(device);
    if (error != cudaSuccess)
        return fail_at(__FILE__, __LINE__, YX_ERR_UNAVAILABLE, "GPU %d: %s", device, cudaGetErrorString(error));
    if (blocks == 0)
        return check_call(ncclCommInitRank((ncclComm_t *)comm, size, unique, rank), NULL, "ncclCommInitRank");
    config.minCTAs = 1;
    config.maxCTAs = blocks;
    return check_call(ncclCommInitRankConfig((ncclComm_t *)comm, size, unique, rank, &config), NULL,
                      "ncclCommInitRankConfig");
}

static bool module_reaches(int device, int other) {
    const char *disabled = getenv("NCCL_P2P_DISABLE");
    int can = 0;
    if (disabled && strcmp(disabled, "0") != 0) return false;
    return cudaDeviceCanAccessPeer(&can, device, other) == cudaSuccess && can;
}

static void module_leave(void *comm) { ncclCommDestroy(comm); }
static void module_abort(void *comm) { ncclCommAbort(comm); }

static yx_status module_check(void *comm) {
    ncclResult_t state = ncclSuccess;
    ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
    return check_call(asked == ncclSuccess ? state : asked, comm, "the exchange between GPUs");
}

static ncclDataType_t type_of(group_type type) {
    return type == GROUP_F32    ? ncclFloat32
           : type == GROUP_F64  ? ncclFloat64
           : type == GROUP_BF16 ? ncclBfloat16
                                : ncclUint64;
}

static yx_status module_all_reduce(void *comm, void *data, size_t count, group_type type, group_op op, void *stream) {
    ncclRedOp_t how = op == GROUP_SUM ? ncclSum : ncclMax;
    return check_call(ncclAllReduce(data, data, count, type_of(type), how, comm, stream), comm, "ncclAllReduce");
}

static yx_status module_reduce_scatter(void *comm, int rank, void *data, size_t count_each, group_type type,
                                       void *stream) {
    char *own = (char *)data + (size_t)rank * count_each * group_type_size(type);
    return check_call(ncclReduceScatter(data, own, count_each, type_of(type), ncclSum, comm, stream), comm,
                      "ncclReduceScatter");
}

static yx_status module_all_gather(void *comm, int rank, void *data, size_t bytes_each, void *stream) {
    const char *own = (const char *)data + (size_t)rank * bytes_each;
    return check_call(ncclAllGather(own, data, bytes_each, ncclUint8, comm, stream), comm, "ncclAllGather");
}

const device_module *yxanul_device_module(device_fail fail) {
    static const device_module table = {.version = DEVICE_MODULE_VERSION,
                                        .library = module_library,
                                        .make_id = module_make_id,
                                        .join = module_join,
                                        .reaches = module_reaches,
                                        .leave = module_leave,
                                        .abort = module_abort,
                                        .check = module_check,
                                        .all_reduce = module_all_reduce,
                                        .reduce_scatter = module_reduce_scatter,
                                        .all_gather = module_all_gather};
    fail_at = fail;
    return &table;
}

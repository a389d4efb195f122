// The MPI functions of a group, as a module: only this file needs MPI to build and to run.
#include "comm/group_module.h"
#include <limits.h>
#include <mpi.h>
#include <stddef.h>

const group_module *yxanul_group_module(group_fail fail);

static group_fail fail_at;
static MPI_Comm world = MPI_COMM_NULL;
enum { PIECE = 1 << 28 }; // bytes of one MPI call: its counts are int

static yx_status check(int code, const char *what) {
    if (code == MPI_SUCCESS) return YX_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(code, text, &length);
    return fail_at(__FILE__, __LINE__, YX_ERR_COMM, "%s failed: %s", what, text);
}

static yx_status module_open(const launch_info *launch, int *rank, int *size, int *local_rank, int *local_size) {
    int provided, started;
    MPI_Comm host;
    (void)launch;
    MPI_Initialized(&started);
    if (!started) {
        yx_status status = check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
        if (status != YX_OK) return status;
    }
    yx_status status = check(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
    if (status != YX_OK) return status;
    MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(world, rank);
    MPI_Comm_size(world, size);
    status =
        check(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, *rank, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
    if (status != YX_OK) return status;
    MPI_Comm_rank(host, local_rank);
    MPI_Comm_size(host, local_size);
    MPI_Comm_free(&host);
    return YX_OK;
}

static void module_close(void) {
    if (world != MPI_COMM_NULL) MPI_Comm_free(&world);
    MPI_Finalize();
}

static void module_abort(int exit_code) { MPI_Abort(world == MPI_COMM_NULL ? MPI_COMM_WORLD : world, exit_code); }

static yx_status module_broadcast(void *data, size_t bytes, int root) {
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        yx_status status = check(MPI_Bcast((char *)data + at, (int)n, MPI_BYTE, root, world), "MPI_Bcast");
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

static yx_status module_all_to_all(const void *in, void *out, size_t bytes) {
    if (bytes > INT_MAX) return fail_at(__FILE__, __LINE__, YX_ERR_INTERNAL, "%zu bytes in one exchange", bytes);
    return check(MPI_Alltoall(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, world), "MPI_Alltoall");
}

static yx_status module_all_gather(void *data, size_t bytes_each) {
    if (bytes_each > INT_MAX)
        return fail_at(__FILE__, __LINE__, YX_ERR_INTERNAL, "%zu bytes in one gather", bytes_each);
    return check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, (int)bytes_each, MPI_BYTE, world),
                 "MPI_Allgather");
}

static yx_status module_barrier(void) { return check(MPI_Barrier(world), "MPI_Barrier"); }

const group_module *yxanul_group_module(group_fail fail) {
    static const group_module table = {.version = GROUP_MODULE_VERSION,
                                       .name = "mpi",
                                       .open = module_open,
                                       .close = module_close,
                                       .abort = module_abort,
                                       .broadcast = module_broadcast,
                                       .all_to_all = module_all_to_all,
                                       .all_gather = module_all_gather,
                                       .barrier = module_barrier};
    fail_at = fail;
    return &table;
}

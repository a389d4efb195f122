// The MPI functions of a group, as a module: only this file needs MPI to build and to run.
#include "comm/group_module.h"
#include <limits.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

const group_module *yxanul_group_module(group_fail fail);

static group_fail fail_at;
static MPI_Comm world = MPI_COMM_NULL, calls = MPI_COMM_NULL; // exchanges; roll calls
static int own_rank, num_ranks;
static double patience; // seconds
typedef char node_name[64];
static node_name *nodes; // [num_ranks]

enum { PIECE = 1 << 28 };        // bytes of one MPI call: its counts are int
enum { TAG_CALL = 1, TAG_HERE }; // of a roll call
#define LOOK_INTERVAL 0.1        // seconds between two looks whether somebody calls
#define ANSWER_TIME 3.0          // seconds: a rank that waits, too, has answered by then

static yx_status check(int code, const char *what) {
    if (code == MPI_SUCCESS) return YX_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(code, text, &length);
    return fail_at(__FILE__, __LINE__, YX_ERR_COMM, "%s failed: %s", what, text);
}

// --- Waiting with an end. Every exchange is one of MPI's that do not block. Who has waited too long calls all others;
// those that wait as well answer, and who does not is the one that all wait for.

// Takes the messages with this tag; `here` marks their senders.
static void take_messages(int tag, bool *here) {
    for (int any = 0;;) {
        MPI_Status from;
        if (MPI_Iprobe(MPI_ANY_SOURCE, tag, calls, &any, &from) != MPI_SUCCESS || !any) return;
        MPI_Recv(NULL, 0, MPI_BYTE, from.MPI_SOURCE, tag, calls, MPI_STATUS_IGNORE);
        if (here) here[from.MPI_SOURCE] = true;
        if (tag == TAG_CALL) MPI_Send(NULL, 0, MPI_BYTE, from.MPI_SOURCE, TAG_HERE, calls);
    }
}

static bool all_here(const bool *here) {
    for (int r = 0; r < num_ranks; r++)
        if (!here[r]) return false;
    return true;
}

static yx_status call_roll(const char *what) {
    char missing[512] = "";
    size_t n = 0;
    bool *here = calloc((size_t)num_ranks, sizeof *here);
    if (!here) return fail_at(__FILE__, __LINE__, YX_ERR_NO_MEMORY, "no memory for a roll call");
    here[own_rank] = true;
    for (int r = 0; r < num_ranks; r++) {
        MPI_Request sent;
        if (r != own_rank && MPI_Isend(NULL, 0, MPI_BYTE, r, TAG_CALL, calls, &sent) == MPI_SUCCESS)
            MPI_Request_free(&sent);
    }
    for (double end = MPI_Wtime() + ANSWER_TIME; MPI_Wtime() < end && !all_here(here);) {
        take_messages(TAG_CALL, here); // who calls, waits
        take_messages(TAG_HERE, here);
    }
    for (int r = 0; r < num_ranks && n < sizeof missing - sizeof *nodes; r++)
        if (!here[r])
            n += (size_t)snprintf(missing + n, sizeof missing - n, "%srank %d (%s)", n ? ", " : "", r, nodes[r]);
    free(here);
    return fail_at(__FILE__, __LINE__, YX_ERR_COMM, "%s did not come to %s within %.0f s (YX_COMM_TIMEOUT)",
                   n ? missing : "a message of a rank that waits as this one does", what, patience);
}

static yx_status complete(int begun, MPI_Request *request, const char *what) {
    yx_status status = check(begun, what);
    double start = MPI_Wtime(), looked = start;
    for (int done = 0; status == YX_OK;) {
        status = check(MPI_Test(request, &done, MPI_STATUS_IGNORE), what);
        if (status != YX_OK || done) break;
        double now = MPI_Wtime();
        if (now - looked < LOOK_INTERVAL) continue;
        looked = now;
        take_messages(TAG_CALL, NULL);
        if (now - start > patience) status = call_roll(what);
    }
    return status;
}

// --- The functions of the table
static yx_status gather_nodes(const launch_info *launch) {
    nodes = calloc((size_t)num_ranks, sizeof *nodes);
    if (!nodes) return fail_at(__FILE__, __LINE__, YX_ERR_NO_MEMORY, "no memory for the ranks' names");
    snprintf(nodes[own_rank], sizeof *nodes, "%.*s", (int)sizeof *nodes - 1, launch->node);
    return check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, nodes, sizeof *nodes, MPI_BYTE, world),
                 "MPI_Allgather");
}

static yx_status module_open(const launch_info *launch, int *rank, int *size, int *local_rank, int *local_size) {
    int provided, started;
    MPI_Comm host;
    patience = launch->patience;
    MPI_Initialized(&started);
    if (!started) {
        yx_status status = check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
        if (status != YX_OK) return status;
    }
    yx_status status = check(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
    if (status != YX_OK) return status;
    status = check(MPI_Comm_dup(MPI_COMM_WORLD, &calls), "MPI_Comm_dup");
    if (status != YX_OK) return status;
    MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(calls, MPI_ERRORS_RETURN);
    MPI_Comm_rank(world, rank);
    MPI_Comm_size(world, size);
    own_rank = *rank;
    num_ranks = *size;
    status = gather_nodes(launch);
    if (status != YX_OK) return status;
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
    if (calls != MPI_COMM_NULL) MPI_Comm_free(&calls);
    free(nodes);
    nodes = NULL;
    MPI_Finalize();
}

static void module_abort(int exit_code) { MPI_Abort(world == MPI_COMM_NULL ? MPI_COMM_WORLD : world, exit_code); }

static yx_status module_broadcast(void *data, size_t bytes, int root) {
    yx_status status = YX_OK;
    MPI_Request request;
    for (size_t at = 0; at < bytes && status == YX_OK; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        int begun = MPI_Ibcast((char *)data + at, (int)n, MPI_BYTE, root, world, &request);
        status = complete(begun, &request, "broadcast");
    }
    return status;
}

static yx_status module_all_to_all(const void *in, void *out, size_t bytes) {
    MPI_Request request;
    if (bytes > INT_MAX) return fail_at(__FILE__, __LINE__, YX_ERR_INTERNAL, "%zu bytes in one exchange", bytes);
    int begun = MPI_Ialltoall(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, world, &request);
    return complete(begun, &request, "all-to-all");
}

static yx_status module_all_gather(void *data, size_t bytes_each) {
    MPI_Request request;
    if (bytes_each > INT_MAX)
        return fail_at(__FILE__, __LINE__, YX_ERR_INTERNAL, "%zu bytes in one gather", bytes_each);
    int begun = MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, (int)bytes_each, MPI_BYTE, world, &request);
    return complete(begun, &request, "gathering");
}

static yx_status module_barrier(void) {
    MPI_Request request;
    return complete(MPI_Ibarrier(world, &request), &request, "a barrier");
}

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

#include "comm/comm.h"
#include "common/dtype.h"
#include "comm/group_module.h"
#include "comm/module.h"
#include "comm/tcp.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Bytes of a slice that one rank reduces in one exchange: bounds the scratch.
enum { SLICE_BYTES = 1 << 20 };

struct yx_group {
    int rank, size, local_rank, local_size;
    int failed_rank;            // see group_failed_rank
    const group_module *module; // NULL: a group of one
    void *library;
    char *scratch;  // [2, size, SLICE_BYTES]
    char node[256]; // launch_info.node
    double patience;
};

// --- Joining
static yx_status load_mpi(yx_group *g, const group_module **out) {
    g->library = module_open_library("yxanul_mpi.so");
    if (!g->library) return yx_fail(YX_ERR_UNAVAILABLE, "MPI is not available here (%s)", module_load_error());
    group_module_entry entry;
    *(void **)&entry = module_symbol(g->library, GROUP_MODULE_SYMBOL);
    const group_module *module = entry ? entry(yx_fail_at) : NULL;
    if (!module || module->version != GROUP_MODULE_VERSION)
        return yx_fail(YX_ERR_UNAVAILABLE, "yxanul_mpi.so is of another version of this program: build both again");
    *out = module;
    return YX_OK;
}

static yx_status join(yx_group *g, const group_module *module, const launch_info *launch) {
    yx_status status = module->open(launch, &g->rank, &g->size, &g->local_rank, &g->local_size);
    if (status == YX_OK) g->module = module;
    if (status == YX_OK && g->size != launch->size)
        return yx_fail(YX_ERR_COMM,
                       "%s started %d processes, but %s joined %d: is it another MPI's launcher? YX_COMM=tcp does "
                       "without MPI",
                       launch->name, launch->size, module->name, g->size);
    return status;
}

// How the processes of this start find each other: MPI where its launcher started them and it is here, TCP otherwise.
// YX_COMM (mpi, tcp) decides instead.
static yx_status choose(yx_group *g, const launch_info *launch, const group_module **out) {
    const char *wanted = getenv("YX_COMM");
    bool any = !wanted || !*wanted || strcmp(wanted, "auto") == 0, mpi = wanted && strcmp(wanted, "mpi") == 0;
    bool can_meet = launch->rank >= 0 && launch->rendezvous[0];
    if (!any && !mpi && strcmp(wanted, "tcp") != 0)
        return yx_fail(YX_ERR_USAGE, "YX_COMM=%s is none of auto, mpi, tcp", wanted);
    *out = tcp_module();
    if (mpi || (any && (launch->kind == LAUNCH_MPIRUN || launch->kind == LAUNCH_PMI))) {
        yx_status status = load_mpi(g, out);
        if (status == YX_OK || mpi || !can_meet)
            return status == YX_OK ? status
                                   : yx_context(status, "%s started %d processes, but they cannot find each other",
                                                launch->name, launch->size);
        *out = tcp_module();
    }
    if (can_meet) return YX_OK;
    return yx_fail(
        YX_ERR_UNAVAILABLE,
        "%s started %d processes, which have no place to meet without MPI: set YX_RENDEZVOUS to HOST:PORT of "
        "rank 0, or to file:PATH that all ranks see%s",
        launch->name, launch->size, launch->rank < 0 ? ", and YX_RANK and YX_RANKS" : "");
}

yx_status group_open_solo(yx_group **out) {
    yx_group *g = calloc(1, sizeof *g);
    if (!g) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a group");
    g->size = g->local_size = 1;
    g->failed_rank = -1;
    *out = g;
    return YX_OK;
}

yx_status group_open(yx_group **out) {
    launch_info launch;
    const group_module *module = NULL;
    yx_group *g;
    yx_status status = launch_read(&launch);
    if (status != YX_OK) return status;
    status = group_open_solo(&g);
    if (status != YX_OK) return status;
    memcpy(g->node, launch.node, sizeof g->node);
    g->patience = launch.patience;
    if (launch.size > 1) {
        status = choose(g, &launch, &module);
        if (status == YX_OK) status = join(g, module, &launch);
    }
    if (status == YX_OK && g->size > 1) {
        g->scratch = malloc(2 * (size_t)g->size * SLICE_BYTES);
        if (!g->scratch) status = yx_fail(YX_ERR_NO_MEMORY, "no memory for a group's scratch");
    }
    if (status == YX_OK) *out = g;
    else group_close(g);
    return status;
}

void group_close(yx_group *g) {
    if (!g) return;
    if (g->module) g->module->close(); // the library stays loaded: MPI's own threads may still run in it
    free(g->scratch);
    free(g);
}

void group_abort(yx_group *g, int exit_code) {
    if (g->module) g->module->abort(exit_code);
}

int group_rank(const yx_group *g) { return g->rank; }
int group_size(const yx_group *g) { return g->size; }
int group_local_rank(const yx_group *g) { return g->local_rank; }
int group_local_size(const yx_group *g) { return g->local_size; }
int group_failed_rank(const yx_group *g) { return g->failed_rank; }
const char *group_node(const yx_group *g) { return g->node; }
double group_patience(const yx_group *g) { return g->patience; }
const char *group_backend(const yx_group *g) { return g->module ? g->module->name : "solo"; }

yx_status group_check(yx_group *g) { return g->module && g->module->check ? g->module->check() : YX_OK; }

// --- Exchanging
yx_status group_broadcast(yx_group *g, void *data, size_t bytes, int root) {
    return g->module ? g->module->broadcast(data, bytes, root) : YX_OK;
}

yx_status group_all_gather(yx_group *g, void *data, size_t bytes_each) {
    return g->module ? g->module->all_gather(data, bytes_each) : YX_OK;
}

yx_status group_barrier(yx_group *g) { return g->module ? g->module->barrier() : YX_OK; }

// to = to (op) from, element by element. A NaN wins a maximum, so that no rank hides another's.
#define COMBINE(T, larger)                                                                                             \
    do {                                                                                                               \
        T *t = to;                                                                                                     \
        const T *f = from;                                                                                             \
        for (size_t i = 0; i < n; i++) t[i] = op == GROUP_SUM ? t[i] + f[i] : (larger) ? f[i] : t[i];                  \
    } while (0)
static void combine_bf16(yx_bf16 *to, const yx_bf16 *from, size_t n, group_op op) {
    for (size_t i = 0; i < n; i++) {
        float a = yx_bf16_to_float(to[i]), b = yx_bf16_to_float(from[i]);
        to[i] = op == GROUP_SUM ? yx_bf16_from_float(a + b) : b > a || isnan(b) ? from[i] : to[i];
    }
}
static void combine(void *to, const void *from, size_t n, group_type type, group_op op) {
    if (type == GROUP_F32) COMBINE(float, f[i] > t[i] || isnan(f[i]));
    else if (type == GROUP_F64) COMBINE(double, f[i] > t[i] || isnan(f[i]));
    else if (type == GROUP_U64) COMBINE(uint64_t, f[i] > t[i]);
    else combine_bf16(to, from, n, op);
}

// Slices of at most SLICE_BYTES, slice r of every rank at `data` + r · stride, `count` elements each: this rank's,
// summed in rank order, lands in the scratch's second half.
static yx_status reduce_slices(yx_group *g, const char *data, size_t stride, size_t count, group_type type,
                               group_op op) {
    size_t bytes = count * group_type_size(type);
    char *sent = g->scratch, *received = g->scratch + (size_t)g->size * SLICE_BYTES;
    for (int r = 0; r < g->size; r++) memcpy(sent + (size_t)r * bytes, data + (size_t)r * stride, bytes);
    yx_status status = g->module->all_to_all(sent, received, bytes);
    for (int r = 1; status == YX_OK && r < g->size; r++)
        combine(received, received + (size_t)r * bytes, count, type, op);
    return status;
}

// At most size · SLICE_BYTES: each rank reduces its slice in rank order, so the sum has one fixed order, and all ranks
// receive the same bits.
static yx_status reduce_piece(yx_group *g, char *data, size_t count, group_type type, group_op op) {
    size_t unit = group_type_size(type), each = count / (size_t)g->size, whole = each * (size_t)g->size,
           rest = count - whole;
    char *sent = g->scratch, *received = g->scratch + (size_t)g->size * SLICE_BYTES;
    if (each > 0) {
        yx_status status = reduce_slices(g, data, each * unit, each, type, op);
        if (status != YX_OK) return status;
        memcpy(sent + (size_t)g->rank * each * unit, received, each * unit);
        status = g->module->all_gather(sent, each * unit);
        if (status != YX_OK) return status;
        memcpy(data, sent, whole * unit);
    }
    if (rest == 0) return YX_OK; // fewer than ranks: every rank adds up all of them
    for (int r = 0; r < g->size; r++) memcpy(sent + (size_t)r * rest * unit, data + whole * unit, rest * unit);
    yx_status status = g->module->all_to_all(sent, received, rest * unit);
    for (int r = 1; status == YX_OK && r < g->size; r++)
        combine(received, received + (size_t)r * rest * unit, rest, type, op);
    if (status == YX_OK) memcpy(data + whole * unit, received, rest * unit);
    return status;
}

yx_status group_all_reduce(yx_group *g, void *data, size_t count, group_type type, group_op op) {
    if (!g->module) return YX_OK;
    size_t most = (size_t)g->size * (SLICE_BYTES / group_type_size(type));
    for (size_t at = 0; at < count; at += most) {
        size_t n = count - at < most ? count - at : most;
        yx_status status = reduce_piece(g, (char *)data + at * group_type_size(type), n, type, op);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

yx_status group_reduce_scatter(yx_group *g, void *data, size_t count_each, group_type type, group_op op) {
    if (!g->module) return YX_OK;
    size_t unit = group_type_size(type), most = SLICE_BYTES / unit;
    const char *received = g->scratch + (size_t)g->size * SLICE_BYTES;
    for (size_t at = 0; at < count_each; at += most) {
        size_t n = count_each - at < most ? count_each - at : most;
        yx_status status = reduce_slices(g, (char *)data + at * unit, count_each * unit, n, type, op);
        if (status != YX_OK) return status;
        memcpy((char *)data + ((size_t)g->rank * count_each + at) * unit, received, n * unit);
    }
    return YX_OK;
}

yx_status group_agree(yx_group *g, yx_status mine) {
    if (!g->module || mine == YX_ERR_COMM) return mine; // a broken group cannot agree
    int32_t *all = calloc((size_t)g->size, sizeof *all);
    if (!all) return yx_fail(YX_ERR_NO_MEMORY, "no memory to agree");
    all[g->rank] = (int32_t)mine;
    yx_status status = g->module->all_gather(all, sizeof *all);
    int failed = 0;
    while (status == YX_OK && failed < g->size && all[failed] == YX_OK) failed++;
    if (status == YX_OK && failed < g->size) {
        status = (yx_status)all[failed];
        g->failed_rank = failed;
        if (mine == YX_OK) yx_fail(status, "rank %d failed (%s)", failed, yx_status_name(status));
    }
    free(all);
    return status;
}

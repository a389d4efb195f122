#include "coordinator/bench_comm.h"
#include "comm/device_group.h"
#include "coordinator/setup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP = 2, MOST_REPEATS = 20 };
static const double SECONDS_EACH = 0.3; // of repetitions, about

typedef struct bench_link {
    const yx_ops *ops;
    yx_device *device;
    yx_group *group;
    device_group *devices;
    float *data;
} bench_link;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef yx_status (*operation)(bench_link *l, size_t count);

static yx_status all_reduce(bench_link *l, size_t count) {
    void *stream = l->ops->native_stream(l->device, NULL);
    return l->devices ? device_group_all_reduce(l->devices, l->data, count, GROUP_F32, GROUP_SUM, stream)
                      : group_all_reduce(l->group, l->data, count, GROUP_F32, GROUP_SUM);
}

static yx_status reduce_scatter(bench_link *l, size_t count) {
    void *stream = l->ops->native_stream(l->device, NULL);
    size_t each = count / (size_t)group_size(l->group);
    return l->devices ? device_group_reduce_scatter(l->devices, l->data, each, GROUP_F32, stream)
                      : group_reduce_scatter(l->group, l->data, each, GROUP_F32, GROUP_SUM);
}

static yx_status all_gather(bench_link *l, size_t count) {
    void *stream = l->ops->native_stream(l->device, NULL);
    size_t each = count / (size_t)group_size(l->group) * sizeof(float);
    return l->devices ? device_group_all_gather(l->devices, l->data, each, stream)
                      : group_all_gather(l->group, l->data, each);
}

// All ranks repeat as often as the slowest suggests.
static yx_status time_operation(bench_link *l, operation work, size_t count, double *seconds) {
    yx_status status = YX_OK;
    uint64_t repeats = MOST_REPEATS;
    for (int i = 0; i < WARM_UP; i++) {
        double begun = now();
        YX_CHECK(work(l, count));
        YX_CHECK(l->ops->stream_sync(l->device, NULL));
        double once = now() - begun;
        repeats = once * MOST_REPEATS > SECONDS_EACH ? (uint64_t)(SECONDS_EACH / once) : MOST_REPEATS;
    }
    if (repeats < 2) repeats = 2;
    YX_CHECK(group_all_reduce(l->group, &repeats, 1, GROUP_U64, GROUP_MAX));
    YX_CHECK(group_barrier(l->group));
    double begun = now();
    for (uint64_t i = 0; i < repeats; i++) YX_CHECK(work(l, count));
    YX_CHECK(l->ops->stream_sync(l->device, NULL));
    *seconds = (now() - begun) / (double)repeats;
fail:
    return status;
}

static yx_status measure(bench_link *l, bench_comm *out) {
    yx_status status = YX_OK;
    for (int i = 0; i < BENCH_COMM_SIZES; i++) {
        bench_comm_row *row = &out->rows[i];
        // Multiples of every rank's share: 1 KB to 64 MB on a CPU, 4 KB to 256 MB between GPUs.
        size_t bytes = (size_t)(l->devices ? 4096 : 1024) << (2 * i), unit = sizeof(float) * (size_t)out->ranks;
        size_t count = (bytes + unit - 1) / unit * (size_t)out->ranks;
        row->bytes = (int64_t)(count * sizeof(float));
        YX_CHECK(l->ops->zero(l->device, NULL, l->data, (size_t)row->bytes));
        YX_CHECK(time_operation(l, all_reduce, count, &row->all_reduce));
        YX_CHECK(time_operation(l, reduce_scatter, count, &row->reduce_scatter));
        YX_CHECK(time_operation(l, all_gather, count, &row->all_gather));
    }
fail:
    return status;
}

static yx_status count_hosts(yx_group *group, int *hosts) {
    int size = group_size(group);
    enum { NAME = 128 };
    char(*names)[NAME] = calloc((size_t)size, NAME);
    if (!names) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %d ranks", size);
    snprintf(names[group_rank(group)], NAME, "%.127s", group_node(group));
    yx_status status = group_all_gather(group, names, NAME);
    *hosts = 0;
    for (int r = 0; r < size; r++) {
        int q = 0;
        while (q < r && strcmp(names[q], names[r]) != 0) q++;
        *hosts += q == r;
    }
    free(names);
    return status;
}

yx_status bench_comm_run(config_device device, yx_group *group, bench_comm *out) {
    yx_status status = YX_OK;
    yx_device_info info;
    bench_link l = {.group = group};
    *out = (bench_comm){.ranks = group_size(group)};
    if (out->ranks < 2)
        YX_FAIL(YX_ERR_USAGE,
                "bench comm needs several ranks: start it with mpirun -np N or srun (docs/operations.md)");
    YX_CHECK(count_hosts(group, &out->hosts));
    YX_CHECK(setup_device(device, NULL, group_local_rank(group), &l.ops, &l.device));
    YX_CHECK(l.ops->info(l.device, &info));
    memcpy(out->device, info.name, sizeof out->device);
    if (!l.ops->host_memory) {
        YX_CHECK(device_group_open(group, info.index, info.name, &l.devices));
        if (!l.devices) YX_FAIL(YX_ERR_UNAVAILABLE, "GPUs exchange by NCCL, which is not here");
    }
    snprintf(out->exchange, sizeof out->exchange, "%s",
             l.devices ? device_group_library(l.devices) : group_backend(group));
    YX_CHECK(l.ops->alloc(l.device, ((size_t)256 << 20) + 4096 * sizeof(float), (void **)&l.data));
    YX_CHECK(measure(&l, out));
fail:
    if (l.device) {
        l.ops->free(l.device, l.data);
        device_group_close(l.devices);
        l.ops->close(l.device);
    }
    return status;
}

double bench_comm_bus(const bench_comm *b, int64_t bytes, double seconds, bool whole_sum) {
    double share = (double)(b->ranks - 1) / (double)b->ranks;
    return (whole_sum ? 2 : 1) * share * (double)bytes / seconds;
}

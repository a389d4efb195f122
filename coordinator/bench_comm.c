#include "coordinator/bench_comm.h"
#include "coordinator/rank_link.h"
#include <stdio.h>
#include <string.h>

static const double SECONDS_EACH = 0.3; // of repetitions, about

static yx_status reduce_scatter(const link_work *w) {
    void *stream = w->ops->native_stream(w->device, NULL);
    size_t each = w->count / (size_t)group_size(w->group);
    return w->devices ? device_group_reduce_scatter(w->devices, w->data, each, GROUP_F32, stream)
                      : group_reduce_scatter(w->group, w->data, each, GROUP_F32, GROUP_SUM);
}

static yx_status all_gather(const link_work *w) {
    void *stream = w->ops->native_stream(w->device, NULL);
    size_t each = w->count / (size_t)group_size(w->group) * sizeof(float);
    return w->devices ? device_group_all_gather(w->devices, w->data, each, stream)
                      : group_all_gather(w->group, w->data, each);
}

static yx_status measure(link_work *w, bench_comm *out) {
    yx_status status = YX_OK;
    for (int i = 0; i < BENCH_COMM_SIZES; i++) {
        bench_comm_row *row = &out->rows[i];
        // Multiples of every rank's share: 1 KB to 64 MB on a CPU, 4 KB to 256 MB between GPUs.
        size_t bytes = (size_t)(w->devices ? 4096 : 1024) << (2 * i), unit = sizeof(float) * (size_t)out->ranks;
        size_t count = (bytes + unit - 1) / unit * (size_t)out->ranks;
        row->bytes = (int64_t)(count * sizeof(float));
        w->count = count;
        YX_CHECK(w->ops->zero(w->device, NULL, w->data, (size_t)row->bytes));
        YX_CHECK(link_time(w, link_all_reduce, SECONDS_EACH, &row->all_reduce));
        YX_CHECK(link_time(w, reduce_scatter, SECONDS_EACH, &row->reduce_scatter));
        YX_CHECK(link_time(w, all_gather, SECONDS_EACH, &row->all_gather));
    }
fail:
    return status;
}

yx_status bench_comm_run(config_device device, yx_group *group, bench_comm *out) {
    yx_status status = YX_OK;
    yx_device_info info;
    link_work l = {.group = group};
    *out = (bench_comm){.ranks = group_size(group)};
    if (out->ranks < 2)
        YX_FAIL(YX_ERR_USAGE,
                "bench comm needs several ranks: start it with mpirun -np N or srun (docs/operations.md)");
    YX_CHECK(link_count_hosts(group, &out->hosts));
    YX_CHECK(setup_device(device, NULL, group_local_rank(group), &l.ops, &l.device));
    YX_CHECK(l.ops->info(l.device, &info));
    memcpy(out->device, info.name, sizeof out->device);
    if (!l.ops->host_memory) {
        YX_CHECK(device_group_open(group, info.index, info.name, 0, &l.devices));
        if (!l.devices) YX_FAIL(YX_ERR_UNAVAILABLE, "GPUs exchange by NCCL, which is not here");
    }
    snprintf(out->exchange, sizeof out->exchange, "%s",
             l.devices ? device_group_library(l.devices) : group_backend(group));
    YX_CHECK(l.ops->alloc(l.device, ((size_t)256 << 20) + 4096 * sizeof(float), &l.data));
    YX_CHECK(measure(&l, out));
fail:
    if (l.device) {
        l.ops->free(l.device, l.data);
        device_group_close(l.devices);
        l.ops->close(l.device);
    }
    return status;
}

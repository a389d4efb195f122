#include "coordinator/rank_link.h"
#include "worker/params.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP = 2, MOST_REPEATS = 20, NAME = 128, SMALL = 1024 };
static const double CLOSE = 0.95; // of the best bandwidth is as good

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// --- Timing
yx_status link_all_reduce(const link_work *w) {
    return w->devices ? device_group_all_reduce(w->devices, w->data, w->count, GROUP_F32, GROUP_SUM,
                                                w->ops->native_stream(w->device, NULL))
                      : group_all_reduce(w->group, w->data, w->count, GROUP_F32, GROUP_SUM);
}

// Once to set up, once more to see how often fits the budget; all ranks repeat as often.
yx_status link_time(const link_work *w, link_operation operation, double budget, double *seconds) {
    yx_status status = YX_OK;
    uint64_t repeats = MOST_REPEATS;
    for (int i = 0; i < WARM_UP; i++) {
        double begun = now();
        YX_CHECK(operation(w));
        YX_CHECK(w->ops->stream_sync(w->device, NULL));
        double once = now() - begun;
        repeats = once * MOST_REPEATS > budget ? (uint64_t)(budget / once) : MOST_REPEATS;
    }
    if (repeats < 2) repeats = 2;
    YX_CHECK(group_all_reduce(w->group, &repeats, 1, GROUP_U64, GROUP_MAX));
    double begun = now();
    for (uint64_t i = 0; i < repeats; i++) YX_CHECK(operation(w));
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
    *seconds = (now() - begun) / (double)repeats;
    YX_CHECK(group_all_reduce(w->group, seconds, 1, GROUP_F64, GROUP_MAX));
fail:
    return status;
}

double rank_link_bandwidth(int ranks, int64_t bytes, double seconds, bool whole_sum) {
    double share = (double)(ranks - 1) / (double)ranks;
    return (whole_sum ? 2 : 1) * share * (double)bytes / seconds;
}

int64_t rank_link_bucket(int ranks, double latency, double bandwidth) {
    double bytes = 20 * latency * bandwidth / rank_link_bandwidth(ranks, 1, 1, true);
    int64_t mb = 4;
    while (mb < 64 && (double)(mb << 20) < bytes) mb *= 2;
    return mb;
}

// --- Who is there
// Part r of the result is rank r's text. To free().
static yx_status gather_names(yx_group *group, const char *own, char (**out)[NAME]) {
    int size = group_size(group);
    char(*names)[NAME] = calloc((size_t)size, NAME);
    if (!names) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %d ranks", size);
    snprintf(names[group_rank(group)], NAME, "%.*s", NAME - 1, own);
    *out = names;
    return group_all_gather(group, names, NAME);
}

yx_status link_count_hosts(yx_group *group, int *hosts) {
    char(*names)[NAME] = NULL;
    yx_status status = gather_names(group, group_node(group), &names);
    *hosts = 0;
    for (int r = 0; names && r < group_size(group); r++) {
        int q = 0;
        while (q < r && strcmp(names[q], names[r]) != 0) q++;
        *hosts += q == r;
    }
    free(names);
    return status;
}

static yx_status compare_backends(yx_group *group, const yx_ops *ops) {
    yx_status status = YX_OK;
    char(*names)[NAME] = NULL;
    YX_CHECK(gather_names(group, ops->name, &names));
    for (int r = 1; r < group_size(group); r++)
        if (strcmp(names[r], names[0]) != 0)
            YX_FAIL(YX_ERR_UNAVAILABLE,
                    "rank 0 computes on %s, rank %d on %s: set training.device, or use machines that are alike",
                    names[0], r, names[r]);
fail:
    free(names);
    return status;
}

// --- Measuring and choosing
// Buffers: 64 MB between devices, 4 MB between hosts.
static yx_status measure(link_work *w, rank_link *l) {
    yx_status status = YX_OK;
    double seconds;
    size_t large = (w->devices ? (size_t)64 << 20 : (size_t)4 << 20) / sizeof(float);
    w->count = SMALL / sizeof(float);
    YX_CHECK(link_time(w, link_all_reduce, 0.05, &l->latency));
    w->count = large;
    YX_CHECK(link_time(w, link_all_reduce, 0.2, &seconds));
    l->bandwidth = rank_link_bandwidth(l->ranks, (int64_t)(large * sizeof(float)), seconds, true);
fail:
    return status;
}

// Thread blocks that exchange cannot compute: the fewest that are as fast as NCCL's own choice.
static yx_status choose_blocks(link_work *w, const yx_device_info *info, rank_link *l) {
    yx_status status = YX_OK;
    double wanted = CLOSE * l->bandwidth;
    device_group *fewer = NULL;
    for (int blocks = 8; blocks >= 2; blocks /= 2) {
        rank_link trial = *l;
        YX_CHECK(device_group_open(w->group, info->index, info->name, blocks, &fewer));
        w->devices = trial.devices = fewer;
        trial.blocks = blocks;
        YX_CHECK(measure(w, &trial));
        if (trial.bandwidth < wanted) break;
        device_group_close(l->devices);
        *l = trial;
        fewer = NULL;
    }
fail:
    device_group_close(fewer);
    w->devices = l->devices;
    return status;
}

// Memory that the exchange can work on: the device's, or the host's where the hosts exchange for devices.
static yx_status take_memory(link_work *w, bool on_host) {
    yx_status status = YX_OK;
    size_t bytes = (size_t)64 << 20;
    YX_CHECK(on_host ? w->ops->alloc_host(w->device, bytes, &w->data) : w->ops->alloc(w->device, bytes, &w->data));
    if (on_host) memset(w->data, 0, bytes);
    else YX_CHECK(w->ops->zero(w->device, NULL, w->data, bytes));
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
fail:
    return status;
}

static yx_status measure_and_choose(const yx_device_info *info, link_work *w, const config_training *t, rank_link *l) {
    yx_status status = YX_OK;
    bool on_host = !l->devices && !w->ops->host_memory;
    YX_CHECK(group_agree(w->group, take_memory(w, on_host)));
    YX_CHECK(measure(w, l));
    // A sum of two is the same however it is cut up.
    if (l->devices && (!t->deterministic || l->ranks == 2)) YX_CHECK(choose_blocks(w, info, l));
    if (l->bucket_mb == 0)
        l->bucket_mb =
            t->deterministic ? PARAM_BUCKET_BYTES >> 20 : rank_link_bucket(l->ranks, l->latency, l->bandwidth);
fail:
    on_host ? w->ops->free_host(w->device, w->data) : w->ops->free(w->device, w->data);
    return status;
}

yx_status rank_link_open(const yx_ops *ops, yx_device *device, yx_group *group, const config_training *training,
                         rank_link *out) {
    yx_status status = YX_OK;
    yx_device_info info;
    *out = (rank_link){.ranks = group_size(group), .hosts = 1, .bucket_mb = training->gradient_bucket_mb};
    snprintf(out->exchange, sizeof out->exchange, "%s", group_backend(group));
    if (out->ranks == 1) return YX_OK;
    YX_CHECK(ops->info(device, &info));
    YX_CHECK(compare_backends(group, ops));
    YX_CHECK(link_count_hosts(group, &out->hosts));
    if (!ops->host_memory) YX_CHECK(device_group_open(group, info.index, info.name, 0, &out->devices));
    if (out->devices) {
        snprintf(out->exchange, sizeof out->exchange, "%s", device_group_library(out->devices));
        out->direct = device_group_direct(out->devices);
    }
    link_work work = {.ops = ops, .device = device, .group = group, .devices = out->devices};
    YX_CHECK(measure_and_choose(&info, &work, training, out));
fail:
    if (status != YX_OK) rank_link_close(out);
    return status;
}

void rank_link_close(rank_link *l) {
    device_group_close(l->devices);
    l->devices = NULL;
}

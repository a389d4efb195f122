// How the ranks of a run exchange: opened and measured as it starts, with what is chosen by that.
#pragma once
#include "comm/device_group.h"
#include "coordinator/setup.h"

typedef struct rank_link {
    device_group *devices; // NULL: one rank, or the hosts exchange
    char exchange[32];     // what by: "solo", "tcp", "mpi", "NCCL 2.28.3"
    int ranks, hosts;
    bool direct;       // the GPUs of a host read each other's memory (P2P)
    int blocks;        // thread blocks of each GPU that exchange, at most; 0: as many as NCCL wants
    double latency;    // seconds of a sum of a few bytes
    double bandwidth;  // bytes a second over each rank's connection, in a large sum: 2·(n - 1)/n of its bytes
    int64_t bucket_mb; // of gradients summed at a time
} rank_link;

// On all ranks. Ranks that compute on different kinds of devices are YX_ERR_UNAVAILABLE. Bits depend on how a sum is
// cut up, so with training.deterministic nothing is chosen by measurement that would change them.
yx_status rank_link_open(const yx_ops *ops, yx_device *device, yx_group *group, const config_training *training,
                         rank_link *out);
void rank_link_close(rank_link *l);
// Bytes over each rank's connection in an operation of `seconds` on a buffer of `bytes`; scattered sums and gatherings
// send half of what a whole sum does.
double rank_link_bandwidth(int ranks, int64_t bytes, double seconds, bool whole_sum);
// The least power of two of MB, 4 to 64, whose sum takes twenty times the latency.
int64_t rank_link_bucket(int ranks, double latency, double bandwidth);

// --- Timing, with the same repetitions on all ranks; for rank_link_open and `bench comm`.
typedef struct link_work {
    const yx_ops *ops;
    yx_device *device;
    yx_group *group;
    device_group *devices;
    void *data; // device memory; host memory where the group exchanges for devices that cannot
    size_t count;
} link_work;
typedef yx_status (*link_operation)(const link_work *w);
yx_status link_all_reduce(const link_work *w);
// Seconds of one operation, those of the slowest rank; about `budget` seconds are spent.
yx_status link_time(const link_work *w, link_operation operation, double budget, double *seconds);
yx_status link_count_hosts(yx_group *group, int *hosts);

// How fast the ranks of a group exchange, by size: sums (all-reduce), and the two halves of it.
#pragma once
#include "comm/comm.h"
#include "io/config.h"

enum { BENCH_COMM_SIZES = 9 };

typedef struct bench_comm_row {
    int64_t bytes; // of the whole buffer
    // Seconds of one operation, and the bandwidth of each rank's connection that it takes: 2·(n - 1)/n · bytes for a
    // sum, half of that for a scattered sum and for a gathering.
    double all_reduce, reduce_scatter, all_gather;
} bench_comm_row;

typedef struct bench_comm {
    char device[128], exchange[32];
    int ranks, hosts;
    bench_comm_row rows[BENCH_COMM_SIZES];
} bench_comm;

// On all ranks; GPUs without NCCL are YX_ERR_UNAVAILABLE.
yx_status bench_comm_run(config_device device, yx_group *group, bench_comm *out);

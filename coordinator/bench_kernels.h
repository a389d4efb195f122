// Every operation of the model by itself: how long it takes, how near that is to what the device does at best, and how
// far its results are from a reference in float64.
#pragma once
#include "coordinator/bench_profile.h"
#include "io/config.h"

enum { BENCH_MAX_KERNELS = 96, BENCH_MAX_LENGTHS = 16 };

typedef struct bench_kernel {
    char name[32], shape[48];
    int64_t seq_len;      // of the packed sequences, where the work depends on it; 0: it does not
    int64_t rounds;       // timed repetitions
    double seconds;       // their median
    double flops, bytes;  // what the operation cannot do without (coordinator/bench_profile.c)
    yx_dtype dtype;       // of the factors, where it multiplies
    bool computes;        // nearer to the ceiling of a large product than to that of a large copy
    double ceiling;       // of the two, that one: FLOP/s or bytes/s
    double share;         // of the ceiling: least time over measured time
    double error;         // largest relative error (Frobenius norm) of its results, at `error_rows` tokens
    int64_t error_rows;   // 0: its size does not depend on tokens
    double expected_4090; // seconds on an RTX 4090, computed: see bench_expected_4090; 0 on a CPU
} bench_kernel;

typedef struct bench_kernels {
    char device[128];
    profile_ceiling ceiling;         // measured in this run
    yx_dtype act, forward, gradient; // types of the model's operands
    int64_t tokens, flush_bytes;     // flush_bytes: read before every repetition, so that nothing is left in a cache
    double error_bound;              // of a correct operation
    int64_t num_kernels;
    bench_kernel kernels[BENCH_MAX_KERNELS];
} bench_kernels;

typedef struct bench_kernels_options {
    int64_t tokens;                     // of a micro-batch; 0: as training would have it
    int64_t lengths[BENCH_MAX_LENGTHS]; // of sequences in attention
    int64_t num_lengths;                // 0: 8, 32, 128, 512, 2048 as far as they fit
    bool portable;
} bench_kernels_options;

// YX_ERR_USAGE when tokens or lengths do not fit the model. Wrong results are no failure: see bench_kernels_wrong.
yx_status bench_kernels_run(const yx_config *config, const bench_kernels_options *options, bench_kernels *out);
// How many operations are further from their reference than error_bound.
int64_t bench_kernels_wrong(const bench_kernels *b);

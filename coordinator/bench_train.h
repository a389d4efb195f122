// Training speed per stage on synthetic tokens, beside what the same device does at best in the same run.
#pragma once
#include "comm/comm.h"
#include "coordinator/bench_profile.h"
#include "coordinator/plan_ranks.h"
#include "io/config.h"

typedef struct bench_stage {
    int64_t seq_len, batch_size, tokens, micro_tokens; // tokens of a step
    double seconds;                                    // median of a whole optimizer step
    double exchange, exposed; // of that step, of rank 0: exchanging with the other ranks, and of it not hidden
    double flops;             // operations the step strictly needs (plan_flops_per_token)
    double share;             // of them at the rate of their precision's large product: least time over measured time
    profile_report profile;   // one more step, each operation timed by itself
    ranks_step expected_4090; // this step on an RTX 4090, computed: see bench_expected_4090; 0 s on a CPU or on several
                              // ranks
} bench_stage;

typedef struct bench_train {
    char device[128];
    int ranks;
    char exchange[32];       // what the ranks exchange by: "solo", "tcp", "mpi", "NCCL 2.28.3"
    profile_ceiling ceiling; // of the products and copies measured in this run; 0 where not measured
    config_precision precision;
    ranks_gradients gradients; // that ranks exchange in a step
    bool overlap;              // they would do so behind the backward pass: GPUs that have NCCL, or are alone
    int64_t micro_tokens, memory_bytes, num_stages; // memory: in use on the device after the last stage
    bench_stage stages[CONFIG_MAX_STAGES];
} bench_train;

typedef struct bench_options {
    uint64_t stages; // bit i: stage i
    int64_t steps;   // timed steps of each stage, after three to warm up
    bool portable;
} bench_options;

// On all ranks of `group`: a step's sequences are divided over them. `out`: as rank 0 (or this rank) sees it.
yx_status bench_train_run(const yx_config *config, const bench_options *options, yx_group *group, bench_train *out);

// Data sheet of the RTX 4090: dense rates with fp32 accumulation, and memory bandwidth.
extern const profile_ceiling bench_ceiling_4090;
// Computed, not measured: every group takes its least time at the 4090's data sheet rates, divided by the share of its
// ceiling that the same group reached here. Several of them are computed by ranks_compute over bench_link_4090.
double bench_expected_4090(const profile_report *r, const profile_ceiling *here);
// An assumption: cards without direct access to each other, through the host's memory.
extern const ranks_link bench_link_4090;

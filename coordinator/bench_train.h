// Training speed per stage on synthetic tokens, beside the matrix-product rate of the same device in the same run.
#pragma once
#include "io/config.h"

typedef struct bench_stage {
    int64_t seq_len, batch_size, tokens; // tokens of a step
    double seconds;                      // median of a whole optimizer step
    double flops;                        // operations the step strictly needs (plan_flops_per_token)
} bench_stage;

typedef struct bench_train {
    char device[128];
    double matmul_rate; // FLOP/s of a large matrix product of fp32 matrices, 2048 each way
    int64_t micro_tokens, num_stages;
    bench_stage stages[CONFIG_MAX_STAGES];
} bench_train;

// Times `steps` steps of each stage of `config` whose bit is set in `stages` after one to warm up.
yx_status bench_train_run(const yx_config *config, uint64_t stages, int64_t steps, bench_train *out);

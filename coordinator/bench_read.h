// What `yxanul bench train --json` printed, read back to plan with.
#pragma once
#include "coordinator/plan_ranks.h"

typedef struct bench_file_stage {
    ranks_step step;                          // as the ranks of the file measured it
    double exchange_seconds, exposed_seconds; // up to the update; of them not hidden
} bench_file_stage;

typedef struct bench_file {
    char device[128], exchange[32];
    int ranks;
    ranks_gradients gradients; // as they were exchanged; `buckets` is not in the file
    bool overlap;
    int64_t num_stages;
    bench_file_stage stages[CONFIG_MAX_STAGES];
} bench_file;

// YX_ERR_IO: cannot be read; YX_ERR_DATA: is not what `yxanul bench train --json` prints; YX_ERR_MISMATCH: of another
// model, precision or other stages than `config`.
yx_status bench_read(const char *path, const yx_config *config, bench_file *out);
// Bytes a second of a sum of the gradients over each rank's connection, by the stage that exchanged fastest: the others
// waited longer for each other. 0 where one rank measured.
double bench_file_bus(const bench_file *f);
// The step of one rank for a stage of the file; `batch_size` and `seq_len` as the stage's.
ranks_step bench_file_alone(const bench_file *f, int64_t stage);
// The stage of these sequences, or -1.
int64_t bench_file_find(const bench_file *f, int64_t seq_len, int64_t batch_size);

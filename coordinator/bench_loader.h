// Speed of the loader per stage: complete micro-batches from the page cache with its one thread, beside the copying
// that they need at least; and how long a worker waits for them when nothing is cached.
#pragma once
#include "io/config.h"

typedef struct bench_loader_stage {
    int64_t seq_len, batch_size, micro_tokens;
    int64_t tokens;                   // timed, in whole shuffle windows
    double seconds;                   // median of several times, filled by the calling thread
    double handed_seconds;            // the same, by the loader's thread and handed over
    int64_t cold_tokens;              // consumed at `rate`, over the border of a window where it is near
    double start_wait;                // seconds of waiting while the first tenth is taken, nothing cached
    double cold_wait;                 // during the rest
    int64_t cold_waits, cold_batches; // of the rest: micro-batches that were waited for, of so many
} bench_loader_stage;

typedef struct bench_loader {
    int64_t window_blocks, dataset_tokens, num_stages;
    double copy_tokens; // tokens a second when each is only copied three times, from a window to the micro-batches
    double rate;        // tokens a second consumed from the cold cache
    bench_loader_stage stages[CONFIG_MAX_STAGES];
} bench_loader;

typedef struct bench_loader_options {
    uint64_t stages; // bit i: stage i
    double rate;     // tokens a second
} bench_loader_options;

yx_status bench_loader_run(const yx_config *config, const bench_loader_options *options, bench_loader *out);

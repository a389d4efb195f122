// What a run will take, before it takes it.
#pragma once
#include "kernels/kernels.h"
#include "io/config.h"

typedef struct memory_item {
    const char *name;
    int64_t bytes;
} memory_item;

enum { MEMORY_ITEMS = 10 };
typedef struct memory_report {
    memory_item items[MEMORY_ITEMS];
    int64_t total;        // bytes of one rank
    int64_t micro_tokens; // M it was computed for
} memory_report;

// Memory of a training rank with micro-batches of at most `micro_tokens` tokens; `ranks`: of the run; `window_blocks`:
// of the shuffle window.
yx_status memory_plan(const yx_ops *ops, yx_device *device, const yx_config *config, int ranks, int64_t window_blocks,
                      int64_t micro_tokens, memory_report *out);
// The most tokens of a micro-batch for this configuration: training.micro_batch_tokens, or chosen by the device's
// memory: the largest multiple of 128 up to 24,576 (4,096 on a CPU, whose caches gain nothing from more) that fits in
// 90 % of what is free. At least the longest stage's seq_len, rounded up; fails with the numbers (YX_ERR_NO_MEMORY)
// when even that does not fit.
yx_status memory_micro_tokens(const yx_ops *ops, yx_device *device, const yx_config *config, int ranks,
                              int64_t window_blocks, int64_t *out);
// The micro-batch for a stage: the multiple of 128 up to `most` that leaves the least padding when a rank has
// `sequences` sequences of `seq_len` tokens (ties: the largest).
int64_t memory_stage_micro_tokens(int64_t most, int64_t seq_len, int64_t sequences);

// What a command needs before it can run a model: device, data, plan, micro-batch size.
#pragma once
#include "coordinator/plan.h"
#include "io/shard.h"
#include "kernels/kernels.h"
#include "worker/memory.h"

typedef struct run_setup {
    const yx_ops *ops;
    yx_device *device;
    dataset *train, *validation; // validation: NULL when the data has none
    yx_plan plan;
    int64_t micro_tokens; // the largest micro-batch
    char device_name[128];
    int device_index; // of a GPU on its host
} run_setup;

// The backend for `device` (auto: CUDA where there is one, else the CPU) opened for this rank.
yx_status setup_device(config_device device, const yx_device_options *options, int local_rank, const yx_ops **ops,
                       yx_device **out);
// Opens everything and checks that it belongs together: the tokenizer's SHA-256 with the shards', vocabulary with the
// model's.
yx_status setup_open(const yx_config *config, int local_rank, int ranks, run_setup *out);
void setup_close(run_setup *s);

// A training run: rank 0 plans, every rank trains.
#pragma once
#include "comm/comm.h"
#include "io/config.h"

typedef struct train_options {
    yx_config config;
    const char *resume; // "auto" (the run's newest checkpoint, if any), "never", or a checkpoint or run folder
    int64_t max_steps;  // stop (with a checkpoint) after this many steps of this process; 0: no limit
} train_options;

// Trains to the end of the plan. YX_ERR_INTERRUPTED after SIGTERM, SIGINT, SIGUSR1 or SIGHUP (a checkpoint was
// written). When one rank fails, all return.
yx_status train_run(const train_options *options, yx_group *group);

// The part of `yxanul plan` that says what several ranks come to.
#pragma once
#include "coordinator/bench_read.h"
#include "coordinator/plan.h"
#include <jansson.h>

typedef struct plan_ranks_options {
    const char *bench;   // the file; NULL: nothing is said of several ranks
    double bus, latency; // GB/s and microseconds of the command line; bus 0: as the file measured
    int ranks;
} plan_ranks_options;

typedef struct plan_ranks {
    const yx_plan *plan;
    const char *path;
    int ranks;
    bool measured_link; // it is the file's
    bench_file file;
    ranks_gradients gradients; // of the plan's configuration
    ranks_link link;
} plan_ranks;

// Reads the file; YX_ERR_USAGE where nothing says how fast several ranks exchange.
yx_status plan_ranks_open(const plan_ranks_options *o, const yx_config *config, const yx_plan *plan, plan_ranks *out);
void plan_ranks_print(const plan_ranks *r);
// Sets "ranks", "fastest" and "link".
void plan_ranks_json(const plan_ranks *r, json_t *root);

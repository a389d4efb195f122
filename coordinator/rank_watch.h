// What the ranks tell each other before every step, in one exchange: that they are about to do the same, whether one
// was asked to stop, and how the step before went. Names ranks that hold up the others.
#pragma once
#include "comm/comm.h"
#include "coordinator/plan.h"
#include "worker/worker.h"
#include <stdbool.h>

typedef struct rank_report {
    uint64_t hash; // of the step's plan
    uint64_t stop; // asked to
    // Of the step before: seconds; bytes.
    double compute, data_wait, communicate, exchange;
    int64_t memory;
    char node[48];
} rank_report;

typedef struct rank_sums { // since the last summary
    double compute, data_wait, communicate, exchange;
    int64_t memory;
} rank_sums;

typedef struct rank_watch {
    yx_group *group;
    rank_report *reports; // [size]
    rank_sums *sums;      // [size]
    int64_t steps;        // in the sums
    int slow;             // the rank named last; -1: none
} rank_watch;

yx_status rank_watch_create(yx_group *group, rank_watch *out);
void rank_watch_free(rank_watch *w);
// Tells and hears. `result`, `memory`: of the step before; NULL at the beginning. Ranks with other plans than rank 0's
// are YX_ERR_MISMATCH on all ranks.
yx_status rank_watch_meet(rank_watch *w, const plan_step *step, bool stop, const worker_step_result *result,
                          int64_t memory, bool *anyone_stops);
// The rank that holds up the others, in sums over `steps` steps: its computing, or that with waiting for its data
// (`*by_data`), takes at least 1.25 times as long as the median rank's, and 2 ms a step longer. -1: none. *ratio: how
// many times as long.
int rank_watch_slowest(const rank_sums *sums, int size, int64_t steps, bool *by_data, double *ratio);
// Begins new sums.
void rank_watch_reset(rank_watch *w);

// Where a run's figures go: RUN/log.jsonl (every event, one JSON object a line), RUN/tensorboard/ (event files),
// RUN/report.html (a page with curves) and standard error (a person's view).
#pragma once
#include "coordinator/ledger.h"
#include "coordinator/plan.h"
#include "coordinator/rank_link.h"
#include "coordinator/rank_watch.h"
#include "coordinator/run_log.h"
#include "io/event_file.h"
#include "worker/evaluate.h"
#include "worker/worker.h"
#include <stdio.h>

typedef struct metrics {
    FILE *log;
    event_file *events; // NULL without
    run_log *summary;   // of the log, for the report; NULL without
    bool log_failed;    // its last line may be cut
    size_t decisions;   // entries of the ledger that the log has
    const yx_config *config;
    const yx_plan *plan;
    int64_t interval_steps;
    bool terminal, line_open;
    int ranks;
    double started, last_line; // seconds
    int64_t tokens_at_start;
    double tokens_per_second;          // smoothed
    double exchange, exposed, seconds; // sums over a stage's steps: exchanging, what of it nothing hid, all
} metrics;

// Opens the files in the run's folder. With resume_step ≥ 0 the log's lines of later steps, which the run will write
// again, are taken out, and decisions that the ledger does not have; what event files have of these steps is
// superseded. Else both begin anew.
yx_status metrics_open(const yx_config *config, const yx_plan *plan, const ledger *l, int64_t resume_step,
                       metrics *out);
// How the run ended: with `result` and, if that is a failure, this thread's message, which stays. Returns `result`, or
// why the last line or the report could not be written.
yx_status metrics_end(metrics *m, yx_status result, int64_t step, int64_t tokens);
void metrics_close(metrics *m);
// What is not in the files yet: to be called before a checkpoint, so that nothing up to it can be missing.
yx_status metrics_flush(metrics *m);
yx_status metrics_start(metrics *m, int64_t step, int64_t tokens, int ranks, const char *device, int64_t micro_tokens);
// How the ranks exchange.
yx_status metrics_link(metrics *m, int64_t step, const rank_link *l);
// Entries of the ledger that the log does not have yet.
yx_status metrics_decisions(metrics *m, const ledger *l);
// A transition: the banner.
yx_status metrics_stage(metrics *m, const plan_step *step);
yx_status metrics_step(metrics *m, const plan_step *step, const worker_step_result *result, double seconds);
// Every rank's share of the steps since the last such line; warns of one that holds up the others.
yx_status metrics_ranks(metrics *m, int64_t step, rank_watch *watch);
// `step`: optimizer steps done; stage: the stage just trained.
yx_status metrics_evaluation(metrics *m, int64_t step, int64_t tokens, int64_t stage, int64_t seq_len,
                             const evaluate_result *result, double seconds);
yx_status metrics_checkpoint(metrics *m, int64_t step, const char *run_dir, double seconds);

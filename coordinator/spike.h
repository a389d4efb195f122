// Steps whose loss or gradient norm is far above those before it change nothing (training.spike_sigma). What is usual
// is the mean and the standard deviation of the stage's last steps, left-out ones included: a level that stays becomes
// usual after a few steps. A stage's last step may be a short one; its figures are the noisier for it and do not count.
// Every rank measures the same figures, and so takes the same decision.
#pragma once
#include "coordinator/ledger.h"
#include "worker/worker.h"

enum { SPIKE_WINDOW = 128, SPIKE_LEAST = 32 }; // steps: of the window; before the first decision

typedef struct spike_series {
    double values[SPIKE_WINDOW]; // of the last steps, oldest first
} spike_series;

typedef struct spike_watch {
    double sigma; // 0: off
    bool counts;  // the coming step
    int count;
    spike_series loss, grad_norm;
    double loss_limit, norm_limit; // of the coming step; 0: none
} spike_watch;

// Limits for the coming step. `first_of_stage`: other sequences, other figures: the window begins anew. `whole`: it has
// all sequences of the stage's steps.
void spike_before_step(spike_watch *w, bool first_of_stage, bool whole);
// Takes a step's figures. A step that was left out because of a limit (a finite one) is noted in the ledger and, where
// `says`, told.
yx_status spike_after_step(spike_watch *w, int64_t step, const worker_step_result *result, ledger *l, bool says);

// The window as a checkpoint keeps it: {"loss": […], "grad_norm": […]}; NULL without memory.
json_t *spike_to_json(const spike_watch *w);
// An absent or malformed one is an empty window.
void spike_from_json(spike_watch *w, const json_t *window);

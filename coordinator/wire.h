// training.gradient_wire: auto. Gradients of a stage go over the wire in bf16 once its first steps have shown that the
// exchange takes long and nothing hides it: small steps early in a curriculum, cards without a direct path. Follows
// from the ledger, so that a resume goes on with it.
#pragma once
#include "coordinator/ledger.h"
#include "coordinator/plan.h"
#include "coordinator/rank_watch.h"

enum { WIRE_STEPS = 8, WIRE_SETTLING = 3 }; // a stage's first steps, and how many of them choose and record

typedef struct wire {
    bool automatic;
    yx_worker *worker;
    int64_t stage, steps;    // the stage that is watched, its steps so far
    double exposed, seconds; // sums over the steps: exchange that nothing hid, all
} wire;

void wire_create(const config_training *options, yx_worker *worker, wire *out);
// At a run's start or resume, before `step`: the stage's decision is in the ledger if there is one.
void wire_restore(wire *w, const ledger *l, const plan_step *step);
// Before `step`, when the ranks have told how the step before went (rank_watch_meet): the same decision on every rank.
yx_status wire_before_step(wire *w, const plan_step *step, const rank_report *reports, int ranks, ledger *l, bool says);

// Decisions taken from measurement, in order: the only part of the schedule that is not a function of the
// configuration. Append-only; each entry carries the hash of all before it; checkpointed, and kept by a resume.
#pragma once
#include "common/status.h"
#include <jansson.h>
#include <stdint.h>

typedef struct ledger {
    json_t *entries; // array of {"step", "event", "detail", "hash"}
    uint64_t hash;
} ledger;

yx_status ledger_create(ledger *out);
void ledger_free(ledger *l);
// `event`: "initial" (step 0: what the run began with, where that was another run's: coordinator/initial.h), "skip" (a
// step whose gradient was not finite changed nothing), "spike" (so did one far above the usual: coordinator/spike.h),
// "bf16-layer" (after this step a layer's products are in bf16: coordinator/fallback.h), "bf16-wire" (after this step
// gradients go over the wire in bf16: coordinator/wire.h).
yx_status ledger_append(ledger *l, int64_t step, const char *event, const char *detail);
// Calls `take` for every entry of this event, in order.
void ledger_each(const ledger *l, const char *event, void (*take)(void *context, const char *detail), void *context);
// How many steps in a row, the last of them `step`, have an entry of this event.
int64_t ledger_in_a_row(const ledger *l, const char *event, int64_t step);
// Takes the entries of a checkpoint; a broken chain of hashes is YX_ERR_DATA.
yx_status ledger_load(ledger *l, const json_t *entries);

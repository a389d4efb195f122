// What a run begins with: random weights, or those of another run (training.initial_checkpoint).
#pragma once
#include "coordinator/ledger.h"
#include "coordinator/setup.h"
#include "io/config.h"
#include "worker/worker.h"

// Sets the weights of a run that has no checkpoint of its own. Another run's weights, and with
// training.initial_moments its AdamW moments and number of updates, are noted in the ledger; step, tokens, data order
// and 8-bit scales begin anew. A checkpoint of another shape or tokenizer is YX_ERR_MISMATCH, none YX_ERR_CONFIG.
// `says`: tell and warn (rank 0).
yx_status initial_set(const yx_config *config, const run_setup *setup, yx_worker *worker, ledger *l, bool says);

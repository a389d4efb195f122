// Layers whose 8-bit operands clip multiply in bf16 for a while (training.fp8_fallback, fp8_fallback_steps). Every
// spell of a layer lasts twice as long as the one before. All of it follows from the ledger, so that a resume goes on
// with it.
#pragma once
#include "coordinator/ledger.h"
#include "io/config.h"
#include "worker/worker.h"

typedef struct fallback_layer {
    int64_t until; // in bf16 up to and with this step; 0: in 8 bits
    int spells;    // so far
} fallback_layer;

typedef struct fallback {
    const config_training *options;
    yx_worker *worker;
    int64_t num_layers;
    fallback_layer *layers; // [num_layers]
} fallback;

yx_status fallback_create(const config_training *options, int64_t num_layers, yx_worker *worker, fallback *out);
void fallback_free(fallback *f);
// The spells in the ledger of a checkpoint written after `step`.
void fallback_restore(fallback *f, const ledger *l, int64_t step);
// After step number `step` (from 1) with these measurements: ends spells, begins others, which the ledger notes and,
// where `says`, a warning tells.
yx_status fallback_after_step(fallback *f, int64_t step, const worker_fp8 *measured, ledger *l, bool says);

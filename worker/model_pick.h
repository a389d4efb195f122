// The operand an activation is written to in a given pass.
#pragma once
#include "worker/model.h"

// `own` is the operand of the model's precision, `scratch` a buffer in act. Training uses `own`; a calibration pass
// writes act and records only amax; evaluation records nothing, so that validating does not change a run.
static inline yx_operand model_pick(const yx_model *m, model_pass pass, yx_operand own, void *scratch) {
    if (pass == MODEL_CALIBRATE && own.dtype != m->precision.act)
        return (yx_operand){.dtype = m->precision.act, .row = scratch, .quant = {.amax = own.quant.amax}};
    if (pass == MODEL_EVALUATE) {
        own.quant.amax = NULL;
        own.quant.saturated = NULL;
        own.col = NULL;
    }
    return own;
}

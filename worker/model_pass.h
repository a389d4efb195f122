// What every step of a pass needs. Private to worker/model*.c.
#pragma once
#include "worker/model.h"

typedef struct model_pass_run {
    yx_model *m;
    const model_batch *batch;
    model_pass pass;
    double grad_scale;
    int64_t layer;
    const model_hooks *hooks;
    bool again; // the forward pass of a layer runs once more for its backward pass: nothing is recorded
} model_pass_run;

yx_real *pass_value(const yx_model *m, param_role role, int64_t layer);
yx_real *pass_gradient(const yx_model *m, param_role role, int64_t layer);
int64_t pass_qkv_width(const config_model *c);
yx_operand pass_plain(const yx_model *m, void *x);

// --- Operands. `own` is the operand of the model's precision, `scratch` a buffer in act. Training uses `own`; a
// calibration pass, and layers that multiply in act, write `scratch` and record only amax; evaluation records nothing,
// so that validating does not change a run.
yx_operand pass_pick(const model_pass_run *r, yx_operand own, bool backward, void *scratch);
// A buffer that all layers use in turn, with this layer's scale.
yx_operand pass_shared(const model_pass_run *r, yx_operand operand, operand_place place, void *scratch);
// A weight as this pass multiplies with it: where that is not as it is kept, cast into scratch first.
yx_status pass_weight(const model_pass_run *r, yx_operand own, param_role role, bool backward, yx_operand *out);
// With 8-bit scales of the moment (recipe "current") a producer writes `staged` first and records its amax; pass_settle
// sets the scale by it and writes the copies. With the other recipes the producer writes `operand` itself.
yx_operand pass_stage(const model_pass_run *r, yx_operand operand, void *staged);
yx_status pass_settle(const model_pass_run *r, yx_operand operand, operand_place place, int64_t cols, void *staged);

// --- Operations
yx_status pass_multiply(const model_pass_run *r, yx_matmul_form form, int64_t N, int64_t K, yx_operand a, yx_operand b,
                        void *out);
// Adds a weight gradient; calibration needs none.
yx_status pass_weight_gradient(const model_pass_run *r, param_role role, yx_operand dy, yx_operand x);
// y = RMSNorm(x + delta); `sum` keeps x + delta.
yx_status pass_normalise(const model_pass_run *r, const void *x, const void *delta, void *sum, param_role role,
                         yx_real *rstd, yx_operand y);
yx_status pass_rotate(const model_pass_run *r, bool inverse, void *qkv, yx_operand out);

// --- Parts
yx_status pass_forward(model_pass_run *r);
// A layer's activations once more, from the residual stream at its start.
yx_status pass_forward_again(const model_pass_run *r);
yx_status pass_backward(model_pass_run *r);

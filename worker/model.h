// The network: forward, backward and evaluation of one micro-batch through the operation table. One code for every
// backend and precision.
#pragma once
#include "worker/precision.h"

typedef struct model_batch { // device memory, [rows] each
    int64_t rows;            // a multiple of 128
    const int32_t *token, *target, *seq_start;
} model_batch;

typedef struct model_layer {              // what the backward pass needs of one layer
    void *s1, *qkv, *attn, *s2, *gate_up; // act
    yx_real *rstd1, *rstd2, *lse;
    yx_operand x1, attn_operand, x2;
    yx_operand w_qkv, w_o, w_gate_up, w_down;
} model_layer;

typedef struct yx_model {
    const yx_ops *ops;
    yx_device *device;
    config_model config;
    param_table table;
    precision_state precision;
    int64_t max_rows;
    bool training;  // false: forward only; no gradients, one layer's activations
    bool recompute; // a layer's activations are computed again in the backward pass; only its input is kept

    // Arenas (device). params, grads: [table.elements].
    yx_real *params, *grads;
    void *copies, *activations, *workspace;
    size_t copies_bytes, activations_bytes, workspace_bytes;

    yx_real *rope_table;
    yx_step_scalars *scalars;
    model_layer *layers;
    yx_operand embed, proj; // working copies of E and P
    void *x0, *z0, *s_final, *z, *dz;
    yx_real *rstd_final, *lse, *loss; // loss: [rows] nats of each token of the last micro-batch
    yx_operand x_final;
    // Used by every layer in turn. row_x, row_attn: 8-bit row copies of what the transposed copies keep.
    void *row_x, *row_attn;
    yx_operand h, d_gate_up, d_down, d_o, d_qkv;
    void *delta, *dx, *dnorm, *dh, *d_attn, *dqkv;
    // Calibration of the 8-bit scales (see model_pass): operands in act.
    void *c_x, *c_h, *c_gate_up, *c_weight;
} yx_model;

// How a micro-batch is run.
typedef enum model_pass {
    MODEL_TRAIN,     // gradients are added to grads
    MODEL_CALIBRATE, // forward and backward with the products in act, no parameter gradients: records every amax
    MODEL_EVALUATE   // losses only; records nothing
} model_pass;

typedef struct model_options {
    precision_options precision;
    int64_t max_rows; // of a micro-batch
    bool training, recompute;
    int ranks;            // that sum gradients (0: one)
    int64_t bucket_bytes; // of gradients summed at a time, at least
} model_options;

// Sizes of what model_create will allocate, without allocating (bytes).
typedef struct model_sizes {
    int64_t params, grads, copies, activations, workspace, largest_bucket; // largest_bucket: of the gradients
} model_sizes;
yx_status model_measure(const yx_ops *ops, yx_device *device, const config_model *config, const model_options *options,
                        model_sizes *out);

// Parameters are left for model_init or the caller to fill; call model_refresh_copies afterwards.
yx_status model_create(const yx_ops *ops, yx_device *device, const config_model *config, const model_options *options,
                       yx_model **out);
void model_free(yx_model *m);
// Normal(0, initializer_range), what each block adds to the residual stream divided by sqrt(2·layers), the embedding's
// projection Normal(0, 1 / sqrt(rank)), norms 1; a function of the seed alone.
yx_status model_init(yx_model *m, uint64_t seed);
// Writes the working copies of all weights (and their scales) from params.
yx_status model_refresh_copies(yx_model *m);
// The working copies of one parameter, with the scales there are.
yx_status model_cast_param(yx_model *m, int64_t index);
// What a pass calls while it is being queued, where several ranks sum their gradients.
typedef struct model_hooks {
    void *context;
    // Bucket `bucket`'s gradients are complete once what is queued so far is done.
    yx_status (*bucket_ready)(void *context, int64_t bucket);
    // The embedding's rows are the one gradient left: *rows gets how many there are of all ranks, token and dz
    // [rows, rank] where they are.
    yx_status (*gather_rows)(void *context, const model_batch *batch, int64_t *rows, const int32_t **token,
                             const void **dz);
} model_hooks;

// Runs one micro-batch. `grad_scale`: 1 / tokens of the global step. MODEL_TRAIN and MODEL_CALIBRATE add the nats to
// scalars->loss_sum.
// `hooks`: of the last micro-batch of a step, or NULL. With them the embedding's own rows are not yet in grads when its
// bucket is ready.
yx_status model_run(yx_model *m, const model_batch *batch, model_pass pass, double grad_scale,
                    const model_hooks *hooks);
// After a MODEL_EVALUATE pass: logits of `count` rows from row `first` on, [count, vocab padded] YX_F32 (device).
yx_status model_logits(yx_model *m, int64_t first, int64_t count, yx_real *logits);
// Padded vocabulary: the width of model_logits' rows.
int64_t model_padded_vocab(const yx_model *m);
// The working copies that AdamW writes: operand of parameter i (quant included).
yx_operand model_param_operand(const yx_model *m, int64_t index);

// One rank of a training run: the model, the optimizer, its part of each step.
#pragma once
#include "comm/comm.h"
#include "comm/device_group.h"
#include "io/loader.h"
#include "worker/model.h"

typedef struct worker_options {
    config_training training; // optimizer constants, precision, seed
    config_model model;
    int64_t max_micro_tokens; // M at most
} worker_options;

// Where a step's micro-batches come from: the loader, or a benchmark's own.
typedef struct worker_source {
    yx_status (*next)(void *context, const micro_batch **out);
    void *context;
} worker_source;

typedef struct worker_step_args {
    int64_t num_micro_batches; // of this rank
    int64_t tokens;            // scored tokens of the global step
    double lr, grad_clip;
    double norm_limit, loss_limit; // a gradient norm or loss (nats per token) above it: nothing is updated; 0: none
    bool calibrate;                // set the 8-bit scales first by running the step's micro-batches once more
} worker_step_args;

// What the 8-bit operands of a step did, over all ranks. The arrays belong to the worker.
typedef struct worker_fp8 {
    double saturated;                // share of all values that the casts clipped
    const double *clipped;           // [num_layers] largest such share among a layer's tensors
    double amax[OPERANDS_PER_LAYER]; // largest |value| of each operand with a history, over the layers; 0: it has none
} worker_fp8;

typedef struct worker_step_result { // the same on every rank
    double loss;                    // nats per token
    double grad_norm;
    bool skipped;          // a gradient that is not finite, or beyond a limit: nothing was updated
    uint64_t token_hash;   // of the global step's tokens
    const worker_fp8 *fp8; // NULL without 8-bit operands
    // Seconds, of this rank: waiting for the loader; computing; exchanging or waiting for others with nothing to
    // compute; exchanging in all, of which the rest was hidden behind the backward pass.
    double data_wait, compute, communicate, exchange;
} worker_step_result;

typedef struct yx_worker yx_worker;
// `devices`: how the GPUs of the ranks exchange, or NULL: the group does.
yx_status worker_create(const yx_ops *ops, yx_device *device, yx_group *group, device_group *devices,
                        const worker_options *options, yx_worker **out);
void worker_free(yx_worker *w);
yx_model *worker_model(yx_worker *w);
int64_t worker_adam_steps(const yx_worker *w);
// Goes on with another table of the same device (bench: one that times each operation).
void worker_set_ops(yx_worker *w, const yx_ops *ops);

// Whether this precision has scales to calibrate.
bool worker_calibrates(const yx_worker *w);
// Runs one optimizer step: takes args->num_micro_batches micro-batches from `source`, and the same once more before
// when args->calibrate and worker_calibrates.
yx_status worker_step(yx_worker *w, const worker_source *source, const worker_step_args *args, worker_step_result *out);

// From now on all layers' products are in act, or in 8 bits again (training.bf16_warmup_steps). Every rank does it
// before the same step.
void worker_set_warmup(yx_worker *w, bool in_act);

// From now on this layer's products are in act, or in 8 bits again. Every rank does it before the same step.
void worker_set_fallback(yx_worker *w, int64_t layer, bool in_act);
bool worker_has_fallback(const yx_worker *w, int64_t layer);

// Whether gradients go over the wire in bf16 from now on (training.gradient_wire: auto). Every rank does it before the
// same step.
void worker_set_wire(yx_worker *w, bool bf16);
bool worker_sends_bf16(const yx_worker *w);

// Tensors of the run's state in host memory, for checkpoints: parameters, both moments, scale histories. Names and
// buffers belong to the worker.
typedef struct worker_tensor {
    char name[PARAM_NAME_MAX + 16];
    int64_t rows, cols;
    float *data;
} worker_tensor;
// On all ranks before worker_get_state on those that `keeps`: brings together what every rank has a part of.
yx_status worker_collect_state(yx_worker *w, bool keeps);
// Copies the state from the device; `*tensors` stays valid until the next call.
yx_status worker_get_state(yx_worker *w, const worker_tensor **tensors, int64_t *count);
// Buffers of the right shapes to read a checkpoint into; then worker_set_state makes them the worker's state. Without
// `scales` the 8-bit scales are not among them: the next step has to calibrate.
yx_status worker_state_buffers(yx_worker *w, bool scales, const worker_tensor **tensors, int64_t *count);
yx_status worker_set_state(yx_worker *w, bool scales, int64_t adam_steps);

#include "worker/worker.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct yx_worker {
    worker_options options;
    const yx_ops *ops;
    yx_device *device;
    yx_group *group;
    yx_model *model;
    yx_real *moment1, *moment2; // [table.elements] device
    yx_adamw_segment *segments; // [table.count]
    int32_t *batch;             // [3, max_micro_tokens] device: token, target, seq_start
    int64_t adam_steps;
    worker_tensor *state; // [num_state], views into state_memory
    float *state_memory;
    int64_t num_state;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fill_segments(yx_worker *w) {
    const yx_model *m = w->model;
    for (int64_t i = 0; i < m->table.count; i++) {
        const param *p = &m->table.items[i];
        w->segments[i] = (yx_adamw_segment){.rows = p->stored_rows,
                                            .cols = p->cols ? p->cols : 1,
                                            .param = m->params + p->offset,
                                            .moment1 = w->moment1 + p->offset,
                                            .moment2 = w->moment2 + p->offset,
                                            .grad = m->grads + p->offset,
                                            .decay = p->decay,
                                            .operand = model_param_operand(m, i)};
    }
}

yx_status worker_create(const yx_ops *ops, yx_device *device, yx_group *group, const worker_options *options,
                        yx_worker **out) {
    yx_status status = YX_OK;
    yx_worker *w = calloc(1, sizeof *w);
    if (!w) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a worker");
    *w = (yx_worker){
        .options = *options, .ops = ops, .device = device, .group = group, .adam_steps = options->adam_steps};
    YX_CHECK(model_create(ops, device, &options->model, options->training.precision, options->max_micro_tokens, true,
                          &w->model));
    size_t bytes = (size_t)w->model->table.elements * sizeof(yx_real);
    YX_CHECK(ops->alloc(device, bytes, (void **)&w->moment1));
    YX_CHECK(ops->alloc(device, bytes, (void **)&w->moment2));
    YX_CHECK(ops->zero(device, NULL, w->moment1, bytes));
    YX_CHECK(ops->zero(device, NULL, w->moment2, bytes));
    YX_CHECK(ops->alloc(device, (size_t)options->max_micro_tokens * 3 * sizeof(int32_t), (void **)&w->batch));
    w->segments = calloc((size_t)w->model->table.count, sizeof *w->segments);
    if (!w->segments) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the optimizer's table");
    fill_segments(w);
    *out = w;
    return YX_OK;
fail:
    worker_free(w);
    return status;
}

void worker_free(yx_worker *w) {
    if (!w) return;
    w->ops->free(w->device, w->moment1);
    w->ops->free(w->device, w->moment2);
    w->ops->free(w->device, w->batch);
    model_free(w->model);
    free(w->segments);
    free(w->state);
    free(w->state_memory);
    free(w);
}

yx_model *worker_model(yx_worker *w) { return w->model; }
int64_t worker_adam_steps(const yx_worker *w) { return w->adam_steps; }
bool worker_calibrates(const yx_worker *w) { return w->model->precision.num_slots > 0; }

// --- The step
// --------------------------------------------------------------------------------------------------------------
static yx_status upload(yx_worker *w, const micro_batch *from, model_batch *to) {
    yx_status status = YX_OK;
    int64_t M = from->num_tokens, most = w->options.max_micro_tokens;
    const int32_t *rows[3] = {from->token, from->target, from->seq_start};
    for (int i = 0; i < 3; i++)
        YX_CHECK(w->ops->copy(w->device, NULL, w->batch + i * most, rows[i], (size_t)M * sizeof(int32_t)));
    *to = (model_batch){M, w->batch, w->batch + most, w->batch + 2 * most};
fail:
    return status;
}

// All micro-batches of this rank's slice through the model.
static yx_status run_batches(yx_worker *w, const worker_source *source, const worker_step_args *args, model_pass pass,
                             worker_step_result *result) {
    yx_status status = YX_OK;
    result->token_hash = 0;
    for (int64_t i = args->num_micro_batches; i > 0; i--) {
        const micro_batch *batch;
        model_batch device_batch;
        double asked = now();
        YX_CHECK(source->next(source->context, &batch));
        result->data_wait += now() - asked;
        result->token_hash += batch->token_hash;
        YX_CHECK(upload(w, batch, &device_batch));
        YX_CHECK(model_run(w->model, &device_batch, pass, 1.0 / (double)args->tokens));
    }
fail:
    return status;
}

static yx_status set_scalars(yx_worker *w, const worker_step_args *args) {
    const config_training *t = &w->options.training;
    double steps = (double)(w->adam_steps + 1);
    yx_step_scalars s = {.lr = args->lr,
                         .beta1 = t->adam_beta1,
                         .beta2 = t->adam_beta2,
                         .eps = t->adam_eps,
                         .weight_decay = t->weight_decay,
                         .grad_clip = args->grad_clip,
                         .bias_correction1 = 1 - pow(t->adam_beta1, steps),
                         .bias_correction2 = 1 - pow(t->adam_beta2, steps)};
    yx_status status = w->ops->copy(w->device, NULL, w->model->scalars, &s, sizeof s);
    return status == YX_OK ? w->ops->stream_sync(w->device, NULL) : status;
}

static yx_status reduce_amax(yx_worker *w) {
    const precision_state *p = &w->model->precision;
    if (!p->num_slots || group_size(w->group) == 1) return YX_OK;
    return group_all_reduce(w->group, p->amax, (size_t)p->num_slots, GROUP_F32, GROUP_MAX);
}

// Histories start again, and one pass over the step's own micro-batches in act gives every slot its amax. The values do
// not depend on how the step is divided into micro-batches and ranks.
static yx_status calibrate(yx_worker *w, const worker_source *source, const worker_step_args *args,
                           worker_step_result *result) {
    yx_status status = YX_OK;
    const precision_state *p = &w->model->precision;
    YX_CHECK(
        w->ops->zero(w->device, NULL, p->history, (size_t)(p->num_slots * YX_SCALE_HISTORY_LENGTH) * sizeof(float)));
    YX_CHECK(run_batches(w, source, args, MODEL_CALIBRATE, result));
    YX_CHECK(reduce_amax(w));
    YX_CHECK(precision_update(p, w->ops, w->device, 1u << YX_SCALE_HISTORY, w->model->scalars));
fail:
    return status;
}

// Sums over the ranks. The backends of this build keep device memory where the group can read it.
static yx_status reduce(yx_worker *w, uint64_t *token_hash) {
    yx_status status = YX_OK;
    yx_model *m = w->model;
    if (group_size(w->group) == 1) return YX_OK;
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
    YX_CHECK(group_all_reduce(w->group, m->grads, (size_t)m->table.elements,
                              sizeof(yx_real) == sizeof(float) ? GROUP_F32 : GROUP_F64, GROUP_SUM));
    YX_CHECK(group_all_reduce(w->group, &m->scalars->loss_sum, 1, GROUP_F64, GROUP_SUM));
    YX_CHECK(group_all_reduce(w->group, token_hash, 1, GROUP_U64, GROUP_SUM));
    YX_CHECK(reduce_amax(w));
fail:
    return status;
}

static yx_status update(yx_worker *w) {
    yx_status status = YX_OK;
    yx_model *m = w->model;
    for (int64_t i = 0; i < m->table.count; i++)
        YX_CHECK(w->ops->sum_squares(w->device, NULL, w->segments[i].grad, param_stored(&m->table.items[i]),
                                     &m->scalars->grad_sum_squares));
    YX_CHECK(w->ops->clip(w->device, NULL, m->scalars));
    YX_CHECK(
        precision_update(&m->precision, w->ops, w->device, 1u << YX_SCALE_HISTORY | 1u << YX_SCALE_WEIGHT, m->scalars));
    yx_adamw_args adamw = {w->segments, m->table.count, m->scalars};
    YX_CHECK(w->ops->adamw(w->device, NULL, &adamw));
    YX_CHECK(precision_update(&m->precision, w->ops, w->device, 1u << YX_SCALE_NORM, m->scalars));
fail:
    return status;
}

// Values that 8-bit casts of one micro-batch row write, over all layers.
static double values_per_token(const yx_model *m) {
    const config_model *c = &m->config;
    double d = (double)c->hidden_size, f = (double)c->intermediate_size,
           a = (double)(c->num_attention_heads * c->head_dim);
    double q = a + 2.0 * (double)(c->num_key_value_heads * c->head_dim);
    return (double)c->num_layers * (2 * d + a + f + q + 2 * d + 2 * f);
}

static yx_status count_saturated(yx_worker *w, int64_t tokens, double *out) {
    yx_status status = YX_OK;
    const precision_state *p = &w->model->precision;
    *out = 0;
    if (!p->num_slots) return YX_OK;
    size_t bytes = (size_t)p->num_slots * sizeof(uint32_t);
    uint32_t *counts = malloc(bytes);
    if (!counts) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    YX_CHECK(w->ops->copy(w->device, NULL, counts, p->saturated, bytes));
    YX_CHECK(w->ops->zero(w->device, NULL, p->saturated, bytes));
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
    double sum = 0;
    for (int64_t i = 0; i < p->num_slots; i++)
        if (p->slots[i].kind == YX_SCALE_HISTORY || p->slots[i].kind == YX_SCALE_NORM) sum += counts[i];
    YX_CHECK(group_all_reduce(w->group, &sum, 1, GROUP_F64, GROUP_SUM));
    *out = sum / ((double)tokens * values_per_token(w->model));
fail:
    free(counts);
    return status;
}

yx_status worker_step(yx_worker *w, const worker_source *source, const worker_step_args *args,
                      worker_step_result *out) {
    yx_status status = YX_OK;
    yx_model *m = w->model;
    yx_step_scalars scalars;
    double start = now(), reduced;
    *out = (worker_step_result){0};
    YX_CHECK(set_scalars(w, args));
    if (args->calibrate && worker_calibrates(w)) YX_CHECK(calibrate(w, source, args, out));
    YX_CHECK(set_scalars(w, args)); // the calibration added to the loss
    YX_CHECK(w->ops->zero(w->device, NULL, m->grads, (size_t)m->table.elements * sizeof(yx_real)));
    status = run_batches(w, source, args, MODEL_TRAIN, out);
    reduced = now();
    YX_CHECK(group_agree(w->group, status)); // no rank may wait in the reduction for one that failed
    YX_CHECK(reduce(w, &out->token_hash));
    out->communicate = now() - reduced;
    YX_CHECK(update(w));
    YX_CHECK(count_saturated(w, args->tokens, &out->saturated));
    YX_CHECK(w->ops->copy(w->device, NULL, &scalars, m->scalars, sizeof scalars));
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
    out->loss = scalars.loss_sum / (double)args->tokens;
    out->grad_norm = scalars.grad_norm;
    out->skipped = scalars.skip != 0;
    if (!out->skipped) w->adam_steps++;
    out->compute = now() - start - out->communicate - out->data_wait;
fail:
    return status;
}

// --- State
// -----------------------------------------------------------------------------------------------------------------
static void add_state(yx_worker *w, size_t *at, const char *prefix, const char *name, int64_t rows, int64_t cols) {
    worker_tensor *t = &w->state[w->num_state++];
    snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
    t->rows = rows;
    t->cols = cols;
    t->data = w->state_memory ? w->state_memory + *at : NULL;
    *at += (size_t)(rows * (cols ? cols : 1));
}

static size_t list_state(yx_worker *w) {
    static const char *const prefixes[] = {"", "moment1/", "moment2/"};
    const yx_model *m = w->model;
    size_t at = 0;
    w->num_state = 0;
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; i < m->table.count; i++)
            add_state(w, &at, prefixes[k], m->table.items[i].name, m->table.items[i].rows, m->table.items[i].cols);
    if (m->precision.num_slots) {
        add_state(w, &at, "", "fp8/history", m->precision.num_slots, YX_SCALE_HISTORY_LENGTH);
        add_state(w, &at, "", "fp8/scale", m->precision.num_slots, 0);
        add_state(w, &at, "", "fp8/amax", m->precision.num_slots, 0);
    }
    return at;
}

yx_status worker_state_buffers(yx_worker *w, const worker_tensor **tensors, int64_t *count) {
    if (!w->state) {
        w->state = calloc((size_t)(3 * w->model->table.count + 3), sizeof *w->state);
        if (!w->state) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the checkpoint's table");
    }
    if (!w->state_memory) {
        size_t floats = list_state(w);
        w->state_memory = malloc(floats * sizeof(float));
        if (!w->state_memory) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a checkpoint of %zu bytes", floats * 4);
        list_state(w);
    }
    *tensors = w->state;
    *count = w->num_state;
    return YX_OK;
}

// Copies between a state tensor and the device memory it mirrors; in either direction.
static yx_status move_state(yx_worker *w, bool to_host) {
    yx_status status = YX_OK;
    const yx_model *m = w->model;
    int64_t n = m->table.count;
    for (int64_t i = 0; i < w->num_state; i++) {
        worker_tensor *t = &w->state[i];
        void *device;
        if (i < 3 * n) {
            yx_real *arena = i < n ? m->params : i < 2 * n ? w->moment1 : w->moment2;
            device = arena + m->table.items[i % n].offset;
        } else {
            device = i == 3 * n ? m->precision.history : i == 3 * n + 1 ? m->precision.scale : m->precision.amax;
        }
        size_t bytes = (size_t)(t->rows * (t->cols ? t->cols : 1)) * sizeof(float);
        YX_CHECK(w->ops->copy(w->device, NULL, to_host ? (void *)t->data : device, to_host ? device : (void *)t->data,
                              bytes));
    }
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
fail:
    return status;
}

yx_status worker_get_state(yx_worker *w, const worker_tensor **tensors, int64_t *count) {
    yx_status status = worker_state_buffers(w, tensors, count);
    return status == YX_OK ? move_state(w, true) : status;
}

// The working copies are written with the scales they had, so that a resumed run multiplies with the same bytes.
static yx_status restore_copies(yx_worker *w) {
    yx_status status = YX_OK;
    yx_model *m = w->model;
    int64_t n = m->precision.num_slots;
    if (!n) return model_refresh_copies(m);
    const float *scale = w->state[3 * m->table.count + 1].data;
    float *inverse = malloc((size_t)n * sizeof(float));
    if (!inverse) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %lld scales", (long long)n);
    for (int64_t i = 0; i < n; i++) inverse[i] = 1 / scale[i];
    YX_CHECK(w->ops->copy(w->device, NULL, m->precision.scale_inv, inverse, (size_t)n * sizeof(float)));
    for (int64_t i = 0; i < m->table.count; i++) {
        const param *p = &m->table.items[i];
        yx_cast_args args = {.rows = p->stored_rows,
                             .cols = p->cols ? p->cols : 1,
                             .src = m->params + p->offset,
                             .dst = model_param_operand(m, i)};
        args.dst.quant.amax = NULL; // the checkpoint has it
        args.dst.quant.saturated = NULL;
        if (args.dst.row && args.dst.row != (void *)args.src) YX_CHECK(w->ops->cast(w->device, NULL, &args));
    }
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
fail:
    free(inverse);
    return status;
}

yx_status worker_set_state(yx_worker *w, int64_t adam_steps) {
    yx_status status = move_state(w, false);
    w->adam_steps = adam_steps;
    return status == YX_OK ? restore_copies(w) : status;
}

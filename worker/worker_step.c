// One optimizer step: micro-batches up, forward and backward, the sum over the ranks, the update. Nothing waits for the
// device but the end of the step, where the host reads its loss.
#include "worker/worker_private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

yx_status worker_step_open(yx_worker *w) {
    yx_status status = YX_OK;
    size_t batch = (size_t)w->options.max_micro_tokens * 3 * sizeof(int32_t);
    size_t slots = (size_t)w->model->precision.num_slots, layers = (size_t)w->options.model.num_layers;
    size_t readback = sizeof *w->readback + slots * (1 + YX_SCALE_HISTORY_LENGTH) * sizeof(float);
    for (int i = 0; i < WORKER_SLOTS; i++) {
        YX_CHECK(w->ops->alloc_host(w->device, batch, (void **)&w->slots[i]));
        YX_CHECK(w->ops->event_create(w->device, &w->slot_read[i]));
    }
    YX_CHECK(w->ops->alloc_host(w->device, sizeof *w->scalars_in, (void **)&w->scalars_in));
    YX_CHECK(w->ops->alloc_host(w->device, readback, (void **)&w->readback));
    w->readback->saturated = (uint32_t *)(w->readback + 1);
    w->readback->history = (float *)(w->readback->saturated + slots);
    w->clipped = calloc(slots + layers, sizeof *w->clipped);
    if (!w->clipped) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %zu scales", slots);
fail:
    return status;
}

void worker_step_close(yx_worker *w) {
    for (int i = 0; i < WORKER_SLOTS; i++) {
        w->ops->free_host(w->device, w->slots[i]);
        if (w->slot_read[i]) w->ops->event_destroy(w->device, w->slot_read[i]);
    }
    worker_forget_graphs(w);
    free(w->clipped);
    w->ops->free_host(w->device, w->scalars_in);
    w->ops->free_host(w->device, w->readback);
}

void worker_forget_graphs(yx_worker *w) {
    for (int i = 0; i < WORKER_MAX_GRAPHS; i++)
        if (w->graphs[i].graph) w->ops->graph_destroy(w->device, w->graphs[i].graph);
    if (w->norm_graph.graph) w->ops->graph_destroy(w->device, w->norm_graph.graph);
    if (w->update_graph.graph) w->ops->graph_destroy(w->device, w->update_graph.graph);
    memset(w->graphs, 0, sizeof w->graphs);
    w->norm_graph = w->update_graph = (worker_graph){0};
}

// --- Micro-batches

// Into a host slot that the device has read, and from there to the device: the next one can be filled meanwhile.
static yx_status upload(yx_worker *w, const micro_batch *from, model_batch *to) {
    yx_status status = YX_OK;
    int64_t M = from->num_tokens, most = w->options.max_micro_tokens;
    const int32_t *rows[3] = {from->token, from->target, from->seq_start};
    int i = (int)(w->slots_used % WORKER_SLOTS);
    if (w->slots_used++ >= WORKER_SLOTS) YX_CHECK(w->ops->event_sync(w->device, w->slot_read[i]));
    for (int k = 0; k < 3; k++) {
        memcpy(w->slots[i] + k * most, rows[k], (size_t)M * sizeof(int32_t));
        YX_CHECK(
            w->ops->copy(w->device, NULL, w->batch + k * most, w->slots[i] + k * most, (size_t)M * sizeof(int32_t)));
    }
    YX_CHECK(w->ops->event_record(w->device, w->slot_read[i], NULL));
    *to = (model_batch){M, w->batch, w->batch + most, w->batch + 2 * most};
fail:
    return status;
}

// --- Recording. Work that repeats runs as it is the first time (backends choose algorithms and fill tables then), is
// recorded the second time and replayed from there on.
typedef yx_status (*worker_work)(yx_worker *w, const void *arguments);

static yx_status record(yx_worker *w, worker_graph *g, worker_work work, const void *arguments) {
    yx_status status = w->ops->graph_begin(w->device, NULL);
    if (status != YX_OK) return status;
    status = work(w, arguments);
    yx_status ended = w->ops->graph_end(w->device, NULL, &g->graph);
    return status == YX_OK ? ended : status;
}

static yx_status run_recorded(yx_worker *w, worker_graph *g, worker_work work, const void *arguments) {
    if (!w->ops->has_graphs || g->runs++ == 0) return work(w, arguments);
    yx_status status = g->graph ? YX_OK : record(w, g, work, arguments);
    return status == YX_OK ? w->ops->graph_launch(w->device, g->graph, NULL) : status;
}

// The place of this pass among the recorded ones; the oldest gives way.
static worker_graph *graph_of(yx_worker *w, int64_t rows, model_pass pass, double grad_scale, bool hooks) {
    for (int i = 0; i < WORKER_MAX_GRAPHS; i++) {
        worker_graph *g = &w->graphs[i];
        if (g->runs && g->rows == rows && g->pass == pass && g->grad_scale == grad_scale && g->hooks == hooks) return g;
    }
    worker_graph *g = &w->graphs[w->next_graph++ % WORKER_MAX_GRAPHS];
    if (g->graph) w->ops->graph_destroy(w->device, g->graph);
    *g = (worker_graph){.rows = rows, .pass = pass, .grad_scale = grad_scale, .hooks = hooks};
    return g;
}

typedef struct pass_arguments {
    model_batch batch;
    model_pass pass;
    double grad_scale;
    const model_hooks *hooks;
} pass_arguments;
static yx_status run_pass(yx_worker *w, const void *arguments) {
    const pass_arguments *a = arguments;
    return model_run(w->model, &a->batch, a->pass, a->grad_scale, a->hooks);
}

// All micro-batches of this rank's slice through the model. In the last one of training the ranks sum their gradients:
// before it they make sure that all are there, after it a failure is this rank's alone (`*together` false).
static yx_status run_batches(yx_worker *w, const worker_source *source, const worker_step_args *args, model_pass pass,
                             worker_step_result *result, bool *together) {
    yx_status status = YX_OK;
    *together = true;
    result->token_hash = 0;
    for (int64_t i = args->num_micro_batches; i > 0; i--) {
        const micro_batch *batch;
        pass_arguments run = {.pass = pass, .grad_scale = 1.0 / (double)args->tokens};
        double asked = now();
        YX_CHECK(source->next(source->context, &batch));
        result->data_wait += now() - asked;
        result->token_hash += batch->token_hash;
        YX_CHECK(upload(w, batch, &run.batch));
        if (i == 1 && pass == MODEL_TRAIN && worker_reduce_hooks(w)) {
            run.hooks = worker_reduce_hooks(w);
            *together = false;
            YX_CHECK(group_agree(w->group, YX_OK));
        }
        YX_CHECK(run_recorded(w, graph_of(w, run.batch.rows, pass, run.grad_scale, run.hooks), run_pass, &run));
    }
fail:
    return status;
}

static yx_status set_scalars(yx_worker *w, const worker_step_args *args) {
    const config_training *t = &w->options.training;
    double steps = (double)(w->adam_steps + 1);
    *w->scalars_in = (yx_step_scalars){.lr = args->lr,
                                       .beta1 = t->adam_beta1,
                                       .beta2 = t->adam_beta2,
                                       .eps = t->adam_eps,
                                       .weight_decay = t->weight_decay,
                                       .grad_clip = args->grad_clip,
                                       .norm_limit = args->norm_limit,
                                       .loss_limit = args->loss_limit * (double)args->tokens,
                                       .bias_correction1 = 1 - pow(t->adam_beta1, steps),
                                       .bias_correction2 = 1 - pow(t->adam_beta2, steps)};
    return w->ops->copy(w->device, NULL, w->model->scalars, w->scalars_in, sizeof *w->scalars_in);
}

// --- The step

// Histories start again, and one pass over the step's own micro-batches in act gives every slot its amax. The values do
// not depend on how the step is divided into micro-batches and ranks.
static yx_status calibrate(yx_worker *w, const worker_source *source, const worker_step_args *args,
                           worker_step_result *result) {
    yx_status status = YX_OK;
    const precision_state *p = &w->model->precision;
    YX_CHECK(
        w->ops->zero(w->device, NULL, p->history, (size_t)(p->num_slots * YX_SCALE_HISTORY_LENGTH) * sizeof(float)));
    bool together;
    status = run_batches(w, source, args, MODEL_CALIBRATE, result, &together);
    YX_CHECK(group_agree(w->group, status));
    YX_CHECK(worker_reduce_amax(w));
    YX_CHECK(precision_update(p, w->ops, w->device, 1u << YX_SCALE_HISTORY, w->model->scalars));
fail:
    return status;
}

static yx_status sum_squares(yx_worker *w, const void *arguments) {
    (void)arguments;
    return worker_sum_squares(w);
}

// Copies of the parameters that other ranks have updated; the scales are those of this step.
static yx_status share_update(yx_worker *w) {
    yx_status status = worker_gather_params(w);
    for (int64_t i = 0; status == YX_OK && i < w->model->table.count; i++) status = model_cast_param(w->model, i);
    return status;
}

static yx_status update(yx_worker *w, const void *arguments) {
    (void)arguments;
    yx_status status = YX_OK;
    yx_model *m = w->model;
    YX_CHECK(w->ops->clip(w->device, NULL, m->scalars));
    YX_CHECK(
        precision_update(&m->precision, w->ops, w->device, 1u << YX_SCALE_HISTORY | 1u << YX_SCALE_WEIGHT, m->scalars));
    yx_adamw_args adamw = {w->segments, w->num_segments, m->scalars};
    YX_CHECK(w->ops->adamw(w->device, NULL, &adamw));
    if (w->shard) YX_CHECK(share_update(w));
    YX_CHECK(precision_update(&m->precision, w->ops, w->device, 1u << YX_SCALE_NORM, m->scalars));
    YX_CHECK(worker_clock_mark(w, CLOCK_REST, NULL, 1));
fail:
    return status;
}

// Sums between ranks that pass through the host cannot be recorded.
static yx_status run_update(yx_worker *w) {
    bool recorded = !w->staging;
    yx_status status = recorded ? run_recorded(w, &w->norm_graph, sum_squares, NULL) : sum_squares(w, NULL);
    if (status != YX_OK) return status;
    return recorded || !w->shard ? run_recorded(w, &w->update_graph, update, NULL) : update(w, NULL);
}

// What the host wants to know of the step, once the device is through with it.
static yx_status read_back(yx_worker *w) {
    yx_status status = YX_OK;
    const precision_state *p = &w->model->precision;
    size_t bytes = (size_t)p->num_slots * sizeof(uint32_t);
    YX_CHECK(w->ops->copy(w->device, NULL, &w->readback->scalars, w->model->scalars, sizeof *w->model->scalars));
    if (bytes) {
        YX_CHECK(w->ops->copy(w->device, NULL, w->readback->saturated, p->saturated, bytes));
        YX_CHECK(w->ops->copy(w->device, NULL, w->readback->history, p->history, YX_SCALE_HISTORY_LENGTH * bytes));
        YX_CHECK(w->ops->zero(w->device, NULL, p->saturated, bytes));
    }
    YX_CHECK(worker_wait(w));
fail:
    return status;
}

static void read_clocks(const int64_t *clocks, worker_step_result *out) {
    out->compute = 1e-9 * (double)(clocks[CLOCK_OWN] + clocks[CLOCK_REST]);
    out->communicate = 1e-9 * (double)clocks[CLOCK_WAIT];
    out->exchange = 1e-9 * (double)clocks[CLOCK_EXCHANGE];
}

yx_status worker_step(yx_worker *w, const worker_source *source, const worker_step_args *args,
                      worker_step_result *out) {
    yx_status status = YX_OK;
    yx_model *m = w->model;
    double start = now(), reduced;
    *out = (worker_step_result){0};
    w->communicating = 0;
    YX_CHECK(set_scalars(w, args));
    YX_CHECK(worker_clock_mark(w, CLOCK_OWN, NULL, -1));
    if (args->calibrate && worker_calibrates(w)) {
        YX_CHECK(calibrate(w, source, args, out));
        YX_CHECK(w->ops->zero(w->device, NULL, &m->scalars->loss_sum, sizeof m->scalars->loss_sum));
    }
    YX_CHECK(w->ops->zero(w->device, NULL, m->grads, (size_t)m->table.elements * sizeof(yx_real)));
    bool together;
    status = run_batches(w, source, args, MODEL_TRAIN, out, &together);
    reduced = now();
    YX_CHECK(together ? group_agree(w->group, status) : status); // none may wait in a sum for one that failed
    YX_CHECK(worker_reduce_rest(w, &out->token_hash));
    out->communicate = out->exchange = now() - reduced + w->communicating;
    YX_CHECK(run_update(w));
    YX_CHECK(read_back(w));
    YX_CHECK(worker_read_fp8(w, args->tokens));
    out->fp8 = w->model->precision.num_slots ? &w->fp8 : NULL;
    out->loss = w->readback->scalars.loss_sum / (double)args->tokens;
    out->grad_norm = w->readback->scalars.grad_norm;
    out->skipped = w->readback->scalars.skip != 0;
    if (!out->skipped) w->adam_steps++;
    out->compute = now() - start - out->communicate - out->data_wait;
    if (w->devices) read_clocks(w->readback->scalars.clocks, out);
fail:
    if (status != YX_OK && w->devices) device_group_fail(w->devices, status);
    return status;
}

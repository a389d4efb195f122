#include "worker/worker_private.h"
#include <stdlib.h>

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
    model_options model = {.precision = options->training.precision,
                           .recipe = options->training.fp8_recipe,
                           .max_rows = options->max_micro_tokens,
                           .training = true,
                           .recompute = options->training.recompute};
    YX_CHECK(model_create(ops, device, &options->model, &model, &w->model));
    size_t bytes = (size_t)w->model->table.elements * sizeof(yx_real);
    YX_CHECK(ops->alloc(device, bytes, (void **)&w->moment1));
    YX_CHECK(ops->alloc(device, bytes, (void **)&w->moment2));
    YX_CHECK(ops->zero(device, NULL, w->moment1, bytes));
    YX_CHECK(ops->zero(device, NULL, w->moment2, bytes));
    YX_CHECK(ops->alloc(device, (size_t)options->max_micro_tokens * 3 * sizeof(int32_t), (void **)&w->batch));
    w->segments = calloc((size_t)w->model->table.count, sizeof *w->segments);
    if (!w->segments) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the optimizer's table");
    fill_segments(w);
    YX_CHECK(worker_step_open(w));
    *out = w;
    return YX_OK;
fail:
    worker_free(w);
    return status;
}

void worker_free(yx_worker *w) {
    if (!w) return;
    worker_step_close(w);
    w->ops->free(w->device, w->moment1);
    w->ops->free(w->device, w->moment2);
    w->ops->free(w->device, w->batch);
    model_free(w->model);
    free(w->segments);
    free(w->state);
    free(w->state_memory);
    free(w);
}

void worker_set_ops(yx_worker *w, const yx_ops *ops) {
    w->ops = ops;
    w->model->ops = ops;
}
yx_model *worker_model(yx_worker *w) { return w->model; }
int64_t worker_adam_steps(const yx_worker *w) { return w->adam_steps; }
bool worker_calibrates(const yx_worker *w) {
    const precision_state *p = &w->model->precision;
    return p->num_slots > 0 && p->recipe != FP8_CURRENT;
}

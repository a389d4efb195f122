#include "worker/worker_private.h"
#include <stdlib.h>

yx_status worker_create(const yx_ops *ops, yx_device *device, yx_group *group, device_group *devices,
                        const worker_options *options, yx_worker **out) {
    yx_status status = YX_OK;
    yx_worker *w = calloc(1, sizeof *w);
    if (!w) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a worker");
    *w = (yx_worker){.options = *options, .ops = ops, .device = device, .group = group, .devices = devices};
    model_options model = {.precision = precision_of(&options->training),
                           .max_rows = options->max_micro_tokens,
                           .training = true,
                           .recompute = options->training.recompute,
                           .ranks = group_size(group),
                           .bucket_bytes = options->training.gradient_bucket_mb << 20};
    YX_CHECK(model_create(ops, device, &options->model, &model, &w->model));
    w->shard = options->training.shard_optimizer && group_size(group) > 1;
    YX_CHECK(worker_shard_open(w));
    YX_CHECK(worker_reduce_open(w));
    YX_CHECK(ops->alloc(device, (size_t)options->max_micro_tokens * 3 * sizeof(int32_t), (void **)&w->batch));
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
    worker_reduce_close(w);
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

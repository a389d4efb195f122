// What a checkpoint holds of a worker, by name: parameters, both moments, the history of the 8-bit scales.
#include "worker/worker_private.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

yx_status worker_state_buffers(yx_worker *w, bool scales, const worker_tensor **tensors, int64_t *count) {
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
    *count = scales ? w->num_state : 3 * w->model->table.count;
    return YX_OK;
}

// --- Moments of which every rank has a part
typedef struct moment_move { // between the state's tensors and this rank's moments
    yx_worker *w;
    yx_status status;
} moment_move;

static void load_part(void *context, const worker_part *part) {
    moment_move *move = context;
    yx_worker *w = move->w;
    const param_table *t = &w->model->table;
    const param *p = &t->items[part->index];
    int64_t from = part->offset - p->offset, count = param_size(p) - from;
    if (count > part->count) count = part->count;
    yx_real *moments[2] = {w->moment1 + part->moment, w->moment2 + part->moment};
    for (int k = 0; k < 2 && count > 0 && move->status == YX_OK; k++)
        move->status = w->ops->copy(w->device, NULL, moments[k], w->state[(k + 1) * t->count + part->index].data + from,
                                    (size_t)count * sizeof(float));
}

// One bucket of one moment, of all ranks, into the state's tensors (which only some ranks have).
static yx_status collect_bucket(yx_worker *w, int k, const param_bucket *b, int64_t before, float *all) {
    yx_status status = YX_OK;
    const param_table *t = &w->model->table;
    size_t bytes = (size_t)b->piece * sizeof(float);
    float *own = all + b->piece * group_rank(w->group);
    YX_CHECK(w->ops->copy(w->device, NULL, own, (k ? w->moment2 : w->moment1) + before, bytes));
    YX_CHECK(w->ops->stream_sync(w->device, NULL));
    YX_CHECK(group_all_gather(w->group, all, bytes));
    int64_t end = b->begin + b->piece * t->ranks;
    for (int64_t i = 0; w->state_memory && i < t->count; i++) { // a bucket holds whole parameters
        const param *p = &t->items[i];
        if (p->offset < b->begin || p->offset >= end) continue;
        memcpy(w->state[(k + 1) * t->count + i].data, all + p->offset - b->begin,
               (size_t)param_size(p) * sizeof(float));
    }
fail:
    return status;
}

yx_status worker_collect_state(yx_worker *w, bool keeps) {
    yx_status status = YX_OK;
    const param_table *t = &w->model->table;
    const worker_tensor *tensors;
    int64_t count, largest = 0;
    float *all = NULL;
    if (!w->shard) return YX_OK;
    if (keeps) status = worker_state_buffers(w, true, &tensors, &count);
    for (int64_t i = 0; i < t->num_buckets; i++)
        if (t->buckets[i].piece > largest) largest = t->buckets[i].piece;
    if (status == YX_OK && !(all = malloc((size_t)(largest * t->ranks) * sizeof(float))))
        status = yx_fail(YX_ERR_NO_MEMORY, "no memory to collect the moments");
    YX_CHECK(group_agree(w->group, status));
    for (int k = 0; k < 2; k++) {
        int64_t before = 0;
        for (int64_t i = 0; i < t->num_buckets; before += t->buckets[i++].piece)
            YX_CHECK(collect_bucket(w, k, &t->buckets[i], before, all));
    }
fail:
    free(all);
    return status;
}

// Copies between the first `count` state tensors and the device memory they mirror; in either direction.
static yx_status move_state(yx_worker *w, int64_t count, bool to_host) {
    yx_status status = YX_OK;
    const yx_model *m = w->model;
    int64_t n = m->table.count;
    moment_move move = {w, YX_OK};
    if (w->shard && !to_host) worker_each_part(w, load_part, &move);
    YX_CHECK(move.status);
    for (int64_t i = 0; i < count; i++) {
        worker_tensor *t = &w->state[i];
        void *device;
        if (w->shard && i >= n && i < 3 * n) continue; // see above
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
    yx_status status = worker_state_buffers(w, true, tensors, count);
    return status == YX_OK ? move_state(w, *count, true) : status;
}

// The working copies are written with the scales they had, so that a resumed run multiplies with the same bytes.
static yx_status restore_copies(yx_worker *w) {
    yx_status status = YX_OK;
    yx_model *m = w->model;
    int64_t n = m->precision.num_slots;
    const float *scale = w->state[3 * m->table.count + 1].data;
    size_t bytes = (size_t)n * YX_SCALE_INV_SPACING * sizeof(float);
    float *inverse = calloc(1, bytes);
    if (!inverse) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %lld scales", (long long)n);
    for (int64_t i = 0; i < n; i++) inverse[i * YX_SCALE_INV_SPACING] = 1 / scale[i];
    YX_CHECK(w->ops->copy(w->device, NULL, m->precision.scale_inv, inverse, bytes));
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

yx_status worker_set_state(yx_worker *w, bool scales, int64_t adam_steps) {
    yx_status status = move_state(w, scales ? w->num_state : 3 * w->model->table.count, false);
    w->adam_steps = adam_steps;
    if (status != YX_OK) return status;
    return scales && w->model->precision.num_slots ? restore_copies(w) : model_refresh_copies(w->model);
}

// The optimizer's table, of all parameters or, sharded, of this rank's pieces: ranges of parameters, whose moments lie
// one after another.
#include "worker/worker_private.h"
#include <stdlib.h>

static void add_whole(yx_worker *w, int64_t i) {
    const yx_model *m = w->model;
    const param *p = &m->table.items[i];
    w->segments[w->num_segments++] = (yx_adamw_segment){.rows = p->stored_rows,
                                                        .cols = p->cols ? p->cols : 1,
                                                        .param = m->params + p->offset,
                                                        .moment1 = w->moment1 + p->offset,
                                                        .moment2 = w->moment2 + p->offset,
                                                        .grad = m->grads + p->offset,
                                                        .decay = p->decay,
                                                        .operand = model_param_operand(m, i)};
}

void worker_each_part(const yx_worker *w, void (*take)(void *context, const worker_part *part), void *context) {
    const param_table *t = &w->model->table;
    int64_t before = 0; // elements of this rank's pieces so far
    for (int64_t k = 0; k < t->num_buckets; k++) {
        const param_bucket *b = &t->buckets[k];
        int64_t begin = b->begin + b->piece * group_rank(w->group), end = begin + b->piece;
        for (int64_t i = 0; i < t->count; i++) {
            const param *p = &t->items[i];
            int64_t from = p->offset > begin ? p->offset : begin;
            int64_t to = p->offset + param_stored(p) < end ? p->offset + param_stored(p) : end;
            if (from < to) take(context, &(worker_part){i, from, to - from, before + from - begin});
        }
        before += b->piece;
    }
}

static void add_part(void *context, const worker_part *part) {
    yx_worker *w = context;
    const yx_model *m = w->model;
    w->segments[w->num_segments++] = (yx_adamw_segment){.rows = 1,
                                                        .cols = part->count,
                                                        .param = m->params + part->offset,
                                                        .moment1 = w->moment1 + part->moment,
                                                        .moment2 = w->moment2 + part->moment,
                                                        .grad = m->grads + part->offset,
                                                        .decay = m->table.items[part->index].decay};
}

yx_status worker_shard_open(yx_worker *w) {
    yx_status status = YX_OK;
    const param_table *t = &w->model->table;
    size_t bytes = (size_t)(w->shard ? t->elements / t->ranks : t->elements) * sizeof(yx_real);
    YX_CHECK(w->ops->alloc(w->device, bytes, (void **)&w->moment1));
    YX_CHECK(w->ops->alloc(w->device, bytes, (void **)&w->moment2));
    YX_CHECK(w->ops->zero(w->device, NULL, w->moment1, bytes));
    YX_CHECK(w->ops->zero(w->device, NULL, w->moment2, bytes));
    // A piece cuts a parameter at most at its two ends.
    w->segments = calloc((size_t)(t->count + t->num_buckets), sizeof *w->segments);
    if (!w->segments) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the optimizer's table");
    if (w->shard) worker_each_part(w, add_part, w);
    else
        for (int64_t i = 0; i < t->count; i++) add_whole(w, i);
fail:
    return status;
}

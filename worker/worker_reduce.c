// What the ranks of a step sum and share: gradients in buckets as the backward pass completes them, the embedding's own
// rows gathered, and with a sharded optimizer (ZeRO stage 1) each rank's piece of every bucket only, whose updated
// parameters the others then receive.
#include "worker/worker_private.h"
#include <sys/prctl.h>
#include <time.h>

static const group_type REAL = sizeof(yx_real) == sizeof(float) ? GROUP_F32 : GROUP_F64;

static bool alone(const yx_worker *w) { return group_size(w->group) == 1; }
static void *native(yx_worker *w, yx_stream *stream) { return w->ops->native_stream(w->device, stream); }

// --- Device memory through the host, a piece at a time, where the group cannot read it
typedef yx_status (*host_work)(yx_worker *w, void *host, size_t count, const void *arguments);

static yx_status through_host(yx_worker *w, void *data, size_t count, size_t unit, host_work work,
                              const void *arguments) {
    yx_status status = YX_OK;
    size_t most = WORKER_STAGING * sizeof(float) / unit;
    for (size_t at = 0; at < count; at += most) {
        size_t n = count - at < most ? count - at : most;
        char *piece = (char *)data + at * unit;
        YX_CHECK(w->ops->copy(w->device, NULL, w->staging, piece, n * unit));
        YX_CHECK(w->ops->stream_sync(w->device, NULL));
        YX_CHECK(work(w, w->staging, n, arguments));
        YX_CHECK(w->ops->copy(w->device, NULL, piece, w->staging, n * unit));
        YX_CHECK(w->ops->stream_sync(w->device, NULL));
    }
fail:
    return status;
}

typedef struct reduction {
    group_type type;
    group_op op;
} reduction;
static yx_status reduce_on_host(yx_worker *w, void *host, size_t count, const void *arguments) {
    const reduction *r = arguments;
    return group_all_reduce(w->group, host, count, r->type, r->op);
}

// `data` in device memory. `stream`: where devices that exchange by themselves queue it.
static yx_status all_reduce(yx_worker *w, yx_stream *stream, void *data, size_t count, group_type type, group_op op) {
    reduction r = {type, op};
    if (w->devices) return device_group_all_reduce(w->devices, data, count, type, op, native(w, stream));
    if (!w->staging) return group_all_reduce(w->group, data, count, type, op);
    return through_host(w, data, count, group_type_size(type), reduce_on_host, &r);
}

// Part r of `data` is rank r's.
static yx_status all_gather(yx_worker *w, yx_stream *stream, void *data, size_t bytes_each) {
    yx_status status = YX_OK;
    if (w->devices) return device_group_all_gather(w->devices, data, bytes_each, native(w, stream));
    if (!w->staging) return group_all_gather(w->group, data, bytes_each);
    int ranks = group_size(w->group), rank = group_rank(w->group);
    size_t most = WORKER_STAGING * sizeof(float) / (size_t)ranks;
    for (size_t at = 0; at < bytes_each; at += most) {
        size_t n = bytes_each - at < most ? bytes_each - at : most;
        char *host = (char *)w->staging, *device = (char *)data + at;
        YX_CHECK(w->ops->copy(w->device, NULL, host + (size_t)rank * n, device + (size_t)rank * bytes_each, n));
        YX_CHECK(w->ops->stream_sync(w->device, NULL));
        YX_CHECK(group_all_gather(w->group, host, n));
        for (int r = 0; r < ranks; r++)
            YX_CHECK(w->ops->copy(w->device, NULL, device + (size_t)r * bytes_each, host + (size_t)r * n, n));
        YX_CHECK(w->ops->stream_sync(w->device, NULL));
    }
fail:
    return status;
}

// --- Buckets
// `count` elements of `type` a rank, in `ranks` pieces; with shards only the own piece is summed.
static yx_status reduce_pieces(yx_worker *w, void *data, size_t count, group_type type) {
    if (w->shard && w->devices)
        return device_group_reduce_scatter(w->devices, data, count, type, native(w, w->exchange));
    if (w->shard && !w->staging) return group_reduce_scatter(w->group, data, count, type, GROUP_SUM);
    return all_reduce(w, w->exchange, data, count * (size_t)w->model->table.ranks, type, GROUP_SUM);
}

// Between the gradients and what goes over the wire; PARAM_ALIGN divides every bucket.
static yx_status convert(yx_worker *w, const void *from, yx_dtype from_type, void *to, yx_dtype to_type,
                         int64_t count) {
    yx_cast_args args = {.rows = count / PARAM_ALIGN,
                         .cols = PARAM_ALIGN,
                         .src_dtype = from_type,
                         .src = from,
                         .dst = {.dtype = to_type, .row = to}};
    return w->ops->cast(w->device, w->exchange, &args);
}

static yx_status reduce_bucket(yx_worker *w, int64_t i) {
    yx_status status = YX_OK;
    const param_bucket *b = &w->model->table.buckets[i];
    yx_real *data = w->model->grads + b->begin;
    int64_t all = b->piece * w->model->table.ranks;
    if (!w->sends_bf16) return reduce_pieces(w, data, (size_t)b->piece, REAL);
    YX_CHECK(convert(w, data, YX_F32, w->wire, YX_BF16, all));
    YX_CHECK(reduce_pieces(w, w->wire, (size_t)b->piece, GROUP_BF16));
    YX_CHECK(convert(w, w->wire, YX_BF16, data, YX_F32, all)); // with shards the other pieces are of no use
fail:
    return status;
}

// What is queued so far comes before the next exchange.
static yx_status hand_over(yx_worker *w) {
    if (!w->devices) return YX_OK;
    yx_status status = w->ops->event_record(w->device, w->ready, NULL);
    return status == YX_OK ? w->ops->stream_wait(w->device, w->exchange, w->ready) : status;
}

// The rows of all ranks in their order, so that every rank adds them up alike.
static yx_status gather_rows(yx_worker *w, const model_batch *batch, int64_t *rows, const int32_t **token,
                             const void **dz) {
    yx_status status = YX_OK;
    const yx_model *m = w->model;
    int rank = group_rank(w->group);
    size_t ids = (size_t)batch->rows * sizeof(int32_t);
    size_t bytes = (size_t)(batch->rows * m->config.embedding_rank) * yx_dtype_size(m->precision.act);
    char *own_ids = (char *)w->all_tokens + (size_t)rank * ids, *own_rows = (char *)w->all_rows + (size_t)rank * bytes;
    YX_CHECK(w->ops->copy(w->device, NULL, own_ids, batch->token, ids));
    YX_CHECK(w->ops->copy(w->device, NULL, own_rows, m->dz, bytes));
    YX_CHECK(hand_over(w));
    YX_CHECK(all_gather(w, w->exchange, w->all_tokens, ids));
    YX_CHECK(all_gather(w, w->exchange, w->all_rows, bytes));
    if (w->devices) {
        YX_CHECK(w->ops->event_record(w->device, w->arrived, w->exchange));
        YX_CHECK(worker_clock_mark(w, CLOCK_OWN, NULL, 1));
        YX_CHECK(worker_clock_mark(w, CLOCK_WAIT, NULL, -1));
        YX_CHECK(w->ops->stream_wait(w->device, NULL, w->arrived)); // the buckets before them, too
        YX_CHECK(worker_clock_mark(w, CLOCK_WAIT, NULL, 1));
        YX_CHECK(worker_clock_mark(w, CLOCK_REST, NULL, -1));
    }
    *rows = batch->rows * m->table.ranks;
    *token = w->all_tokens;
    *dz = w->all_rows;
fail:
    return status;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

yx_status worker_clock_mark(yx_worker *w, worker_clock clock, yx_stream *stream, int sign) {
    return w->devices ? w->ops->clock(w->device, stream, &w->model->scalars->clocks[clock], sign) : YX_OK;
}

static yx_status bucket_ready(void *context, int64_t i) {
    yx_status status = YX_OK;
    yx_worker *w = context;
    double begun = now();
    YX_CHECK(hand_over(w));
    YX_CHECK(worker_clock_mark(w, CLOCK_EXCHANGE, w->exchange, -1));
    YX_CHECK(reduce_bucket(w, i));
    YX_CHECK(worker_clock_mark(w, CLOCK_EXCHANGE, w->exchange, 1));
    w->communicating += now() - begun;
fail:
    return status;
}

static yx_status rows_ready(void *context, const model_batch *batch, int64_t *rows, const int32_t **token,
                            const void **dz) {
    yx_worker *w = context;
    double begun = now();
    yx_status status = gather_rows(w, batch, rows, token, dz);
    w->communicating += now() - begun;
    return status;
}

yx_status worker_reduce_open(yx_worker *w) {
    yx_status status = YX_OK;
    const yx_model *m = w->model;
    int ranks = m->table.ranks;
    size_t rows = (size_t)(w->options.max_micro_tokens * ranks);
    w->hooks = (model_hooks){w, bucket_ready, rows_ready};
    if (ranks == 1) return YX_OK;
    w->sends_bf16 = w->options.training.gradient_wire == WIRE_BF16;
    if (w->options.training.gradient_wire != WIRE_FP32)
        YX_CHECK(w->ops->alloc(w->device, (size_t)param_largest_bucket(&m->table) * sizeof(yx_bf16), &w->wire));
    if (!w->ops->host_memory && !w->devices) {
        YX_CHECK(w->ops->alloc_host(w->device, WORKER_STAGING * sizeof(float), (void **)&w->staging));
        return YX_OK;
    }
    prctl(PR_SET_TIMERSLACK, 1000L); // nanoseconds: worker_wait naps
    YX_CHECK(w->ops->stream_create(w->device, &w->exchange));
    YX_CHECK(w->ops->event_create(w->device, &w->ready));
    YX_CHECK(w->ops->event_create(w->device, &w->arrived));
    YX_CHECK(w->ops->alloc(w->device, rows * sizeof(int32_t), (void **)&w->all_tokens));
    YX_CHECK(w->ops->alloc(w->device, rows * (size_t)m->config.embedding_rank * yx_dtype_size(m->precision.act),
                           &w->all_rows));
fail:
    return status;
}

void worker_set_wire(yx_worker *w, bool bf16) {
    if (!w->wire || w->sends_bf16 == bf16) return;
    w->sends_bf16 = bf16;
    worker_forget_graphs(w);
}
bool worker_sends_bf16(const yx_worker *w) { return w->sends_bf16; }

void worker_reduce_close(yx_worker *w) {
    w->ops->free_host(w->device, w->staging);
    if (w->ready) w->ops->event_destroy(w->device, w->ready);
    if (w->arrived) w->ops->event_destroy(w->device, w->arrived);
    if (w->exchange) w->ops->stream_destroy(w->device, w->exchange);
    w->ops->free(w->device, w->wire);
    w->ops->free(w->device, w->all_tokens);
    w->ops->free(w->device, w->all_rows);
}

// Buckets are summed while the last micro-batch is under way, but for memory that only the host can send.
const model_hooks *worker_reduce_hooks(const yx_worker *w) { return alone(w) || w->staging ? NULL : &w->hooks; }

yx_status worker_reduce_amax(yx_worker *w) {
    const precision_state *p = &w->model->precision;
    if (!p->num_slots || alone(w)) return YX_OK;
    return all_reduce(w, NULL, p->amax, (size_t)p->num_slots, GROUP_F32, GROUP_MAX);
}

yx_status worker_reduce_rest(yx_worker *w, uint64_t *token_hash) {
    yx_status status = YX_OK;
    yx_model *m = w->model;
    if (alone(w)) return YX_OK;
    if (w->staging) YX_CHECK(w->ops->stream_sync(w->device, NULL));
    for (int64_t i = 0; w->staging && i < m->table.num_buckets; i++) YX_CHECK(reduce_bucket(w, i));
    YX_CHECK(all_reduce(w, NULL, &m->scalars->loss_sum, 1, GROUP_F64, GROUP_SUM));
    YX_CHECK(group_all_reduce(w->group, token_hash, 1, GROUP_U64, GROUP_SUM));
    YX_CHECK(worker_reduce_amax(w));
fail:
    return status;
}

yx_status worker_sum_squares(yx_worker *w) {
    yx_status status = YX_OK;
    const param_table *t = &w->model->table;
    double *sum = &w->model->scalars->grad_sum_squares;
    if (alone(w)) return w->ops->sum_squares(w->device, NULL, w->model->grads, t->elements, sum);
    // Each rank its pieces: with and without shards the same sums in the same order.
    for (int64_t i = 0; i < t->num_buckets; i++) {
        const param_bucket *b = &t->buckets[i];
        const yx_real *piece = w->model->grads + b->begin + b->piece * group_rank(w->group);
        YX_CHECK(w->ops->sum_squares(w->device, NULL, piece, b->piece, sum));
    }
    if (w->staging) YX_CHECK(w->ops->stream_sync(w->device, NULL));
    status = all_reduce(w, NULL, sum, 1, GROUP_F64, GROUP_SUM);
fail:
    return status;
}

yx_status worker_gather_params(yx_worker *w) {
    yx_status status = YX_OK;
    const param_table *t = &w->model->table;
    for (int64_t i = 0; i < t->num_buckets; i++) {
        const param_bucket *b = &t->buckets[i];
        YX_CHECK(all_gather(w, NULL, w->model->params + b->begin, (size_t)b->piece * sizeof(yx_real)));
    }
fail:
    return status;
}

// The GPU has waited for the others' longer than is allowed. Whoever lives comes here, too: the barrier names who does
// not.
static yx_status find_missing(yx_worker *w) {
    yx_status status = group_barrier(w->group);
    if (status != YX_OK) return status;
    return yx_fail(YX_ERR_COMM,
                   "the GPUs' exchange did not end within %.0f s (YX_COMM_TIMEOUT), and all ranks wait for it",
                   group_patience(w->group));
}

yx_status worker_wait(yx_worker *w) {
    yx_status status = YX_OK;
    bool done = false;
    const struct timespec nap = {.tv_nsec = 20000};
    double begun = now();
    if (!w->devices) return w->ops->stream_sync(w->device, NULL);
    YX_CHECK(w->ops->event_record(w->device, w->ready, NULL));
    for (double checked = now();;) {
        YX_CHECK(w->ops->event_done(w->device, w->ready, &done));
        if (done) break;
        nanosleep(&nap, NULL);
        if (now() - checked < 0.5) continue;
        YX_CHECK(device_group_check(w->devices));
        checked = now();
        if (checked - begun > group_patience(w->group)) YX_CHECK(find_missing(w));
    }
fail:
    return status;
}

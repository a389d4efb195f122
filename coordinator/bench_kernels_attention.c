// Rotary positions and attention, both directions, on packed sequences of one length.
#include "coordinator/bench_kernels_error.h"
#include "coordinator/bench_kernels_task.h"
#include "coordinator/bench_reference.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t qkv_width(const config_model *c) {
    return (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
}

static void describe(bench_task *task, const config_model *c, int64_t rows) {
    snprintf(task->shape, sizeof task->shape, "%lld × (%lld+2·%lld)·%lld", (long long)rows,
             (long long)c->num_attention_heads, (long long)c->num_key_value_heads, (long long)c->head_dim);
}

// Of the arguments of any operation here: they name them alike.
#define HEADS_OF(t, a)                                                                                                 \
    (reference_heads) {                                                                                                \
        .rows = (a)->rows, .heads = (a)->heads, .kv_heads = (a)->kv_heads, .head_dim = (a)->head_dim,                  \
        .seq_start = tensors_held(t, (a)->seq_start)                                                                   \
    }

// --- Rotary positions
// cos and sin of position · theta^(-2i / head_dim), for positions below `length`.
static const yx_real *rope_table(const config_model *c, int64_t length, tensors *t) {
    int64_t half = c->head_dim / 2, n = length * half;
    yx_real *host = malloc((size_t)(2 * n) * sizeof *host), *table;
    for (int64_t i = 0; host && i < n; i++) {
        double angle = (double)(i / half) * pow(c->rope_theta, -2.0 * (double)(i % half) / (double)c->head_dim);
        host[2 * i] = (yx_real)cos(angle);
        host[2 * i + 1] = (yx_real)sin(angle);
    }
    if (!host) t->status = yx_fail(YX_ERR_NO_MEMORY, "no memory for the rotary table");
    table = host ? tensors_from(t, host, (size_t)(2 * n) * sizeof *host) : NULL;
    free(host);
    return table;
}

static void build_rope(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    const config_model *c = m->config;
    yx_dtype act = m->precision.act;
    int64_t width = qkv_width(c);
    yx_rope_args *a = &out->rope;
    *a = (yx_rope_args){.rows = rows,
                        .heads = c->num_attention_heads,
                        .kv_heads = c->num_key_value_heads,
                        .head_dim = c->head_dim,
                        .act = act,
                        .inverse = o->which,
                        .seq_start = tensors_starts(t, rows, o->seq_len),
                        .table = rope_table(c, o->seq_len, t),
                        .qkv = tensors_random(t, act, rows * width, 0, 1)};
    float zero = 0;
    a->out = (yx_operand){.dtype = act, .row = a->qkv};
    if (a->inverse && m->precision.gradient != act) a->out = tensors_copies(t, m->precision.gradient, rows, width);
    if (!a->inverse && m->precision.forward != act) a->out.quant.amax = tensors_from(t, &zero, sizeof zero);
    describe(out, c, rows);
}

static yx_status run_rope(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->rope(device, NULL, &task->rope);
}

// The largest |v| is recorded, not that of q and k.
static double error_of_v(tensors *t, const yx_rope_args *a, const double *qkv) {
    float amax = NAN;
    double largest = 0;
    int64_t width = (a->heads + 2 * a->kv_heads) * a->head_dim, v = (a->heads + a->kv_heads) * a->head_dim;
    tensors_read(t, a->out.quant.amax, sizeof amax, &amax);
    for (int64_t i = 0; i < a->rows * width; i++)
        if (i % width >= v) largest = fmax(largest, fabs(qkv[i]));
    return error_of_scalar((double)amax, largest);
}

static double compare_rope(tensors *t, const bench_task *task) {
    const yx_rope_args *a = &task->rope;
    reference_heads s = HEADS_OF(t, a);
    int64_t width = reference_width(&s);
    double *qkv = tensors_before(t, a->act, a->qkv, a->rows * width);
    const yx_real *held = tensors_held(t, a->table);
    int64_t longest = 0;
    for (int64_t i = 0; s.seq_start && i < a->rows; i++)
        longest = i - s.seq_start[i] > longest ? i - s.seq_start[i] : longest;
    double *table = held ? tensors_before(t, YX_F32, a->table, (longest + 1) * a->head_dim) : NULL;
    if (t->status != YX_OK) return NAN;
    reference_rope(&s, a->inverse, table, qkv);
    if (a->inverse && a->out.row != a->qkv)
        return error_of_operand(t, &a->out, a->rows, width, qkv); // see yx_rope_args
    double error = error_of(t, a->act, a->qkv, a->rows * width, qkv);
    if (a->inverse) return error_worse(error, error_of_operand(t, &a->out, a->rows, width, qkv));
    return a->out.quant.amax ? error_worse(error, error_of_v(t, a, qkv)) : error;
}

void bench_add_rope(bench_operations *list, int64_t seq_len) {
    const char *const names[] = {"rope", "rope_inverse"};
    for (int inverse = 0; inverse < 2; inverse++) {
        bench_operation o = {.by_rows = true,
                             .seq_len = seq_len,
                             .which = inverse,
                             .build = build_rope,
                             .run = run_rope,
                             .compare = compare_rope};
        snprintf(o.name, sizeof o.name, "%s", names[inverse]);
        bench_add(list, &o);
    }
}

// --- Attention
static void build_attention(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    const config_model *c = m->config;
    yx_dtype act = m->precision.act;
    int64_t heads = c->num_attention_heads, width = heads * c->head_dim;
    yx_attention_args *a = &out->attention;
    *a = (yx_attention_args){.rows = rows,
                             .heads = heads,
                             .kv_heads = c->num_key_value_heads,
                             .head_dim = c->head_dim,
                             .act = act,
                             .scale = 1 / sqrt((double)c->head_dim),
                             .seq_start = tensors_starts(t, rows, o->seq_len),
                             .qkv = tensors_random(t, act, rows * qkv_width(c), 0, 1),
                             .o = tensors_poisoned(t, (size_t)(rows * width) * yx_dtype_size(act)),
                             .lse = tensors_poisoned(t, (size_t)(rows * heads) * sizeof(yx_real))};
    bool itself = m->precision.forward == act;
    a->out = itself ? (yx_operand){.dtype = act, .row = a->o} : tensors_copies(t, m->precision.forward, rows, width);
    a->out.quant.amax = NULL; // rope records it
    describe(out, c, rows);
}

static yx_status run_attention(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->attention(device, NULL, &task->attention);
}

static double compare_attention(tensors *t, const bench_task *task) {
    const yx_attention_args *a = &task->attention;
    reference_heads s = HEADS_OF(t, a);
    int64_t width = a->heads * a->head_dim;
    double *qkv = tensors_before(t, a->act, a->qkv, a->rows * reference_width(&s));
    double *o = tensors_zeros(t, a->rows * width), *lse = tensors_zeros(t, a->rows * a->heads);
    if (t->status != YX_OK) return NAN;
    s.scale = a->scale;
    reference_attention(&s, qkv, o, lse);
    double error = error_worse(error_of(t, a->act, a->o, a->rows * width, o),
                               error_of(t, YX_F32, a->lse, a->rows * a->heads, lse));
    return error_worse(error, error_of_operand(t, &a->out, a->rows, width, o));
}

// --- Its derivatives
// What the forward pass leaves, by the definition.
static void attend_before(tensors *t, const yx_attention_backward_args *a) {
    reference_heads s = HEADS_OF(t, a);
    int64_t n = a->rows * a->heads;
    double *qkv = tensors_before(t, a->act, a->qkv, a->rows * reference_width(&s));
    double *o = tensors_zeros(t, n * a->head_dim), *lse = tensors_zeros(t, n);
    if (t->status != YX_OK) return;
    s.scale = a->scale;
    reference_attention(&s, qkv, o, lse);
    tensors_replace(t, a->act, (void *)a->o, o, n * a->head_dim);
    tensors_replace(t, YX_F32, (void *)a->lse, lse, n);
}

static void build_attention_backward(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t,
                                     bench_task *out) {
    const config_model *c = m->config;
    yx_dtype act = m->precision.act;
    int64_t heads = c->num_attention_heads, n = rows * heads * c->head_dim, width = qkv_width(c);
    out->attention_backward =
        (yx_attention_backward_args){.rows = rows,
                                     .heads = heads,
                                     .kv_heads = c->num_key_value_heads,
                                     .head_dim = c->head_dim,
                                     .act = act,
                                     .scale = 1 / sqrt((double)c->head_dim),
                                     .seq_start = tensors_starts(t, rows, o->seq_len),
                                     .qkv = tensors_random(t, act, rows * width, 0, 1),
                                     .o = tensors_random(t, act, n, 0, 1),
                                     .d_o = tensors_random(t, act, n, 0, 1),
                                     .lse = tensors_random(t, YX_F32, rows * heads, log((double)o->seq_len), 1),
                                     .dqkv = tensors_poisoned(t, (size_t)(rows * width) * yx_dtype_size(act))};
    if (t->keep) attend_before(t, &out->attention_backward); // the time does not depend on it
    describe(out, c, rows);
}

static yx_status run_attention_backward(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->attention_backward(device, NULL, &task->attention_backward);
}

static double compare_attention_backward(tensors *t, const bench_task *task) {
    const yx_attention_backward_args *a = &task->attention_backward;
    reference_heads s = HEADS_OF(t, a);
    int64_t n = a->rows * a->heads * a->head_dim, all = a->rows * reference_width(&s);
    double *qkv = tensors_before(t, a->act, a->qkv, all), *lse = tensors_before(t, YX_F32, a->lse, a->rows * a->heads);
    double *o = tensors_before(t, a->act, a->o, n), *d_o = tensors_before(t, a->act, a->d_o, n);
    double *dqkv = tensors_zeros(t, all);
    if (t->status != YX_OK) return NAN;
    s.scale = a->scale;
    reference_attention_backward(&s, qkv, o, d_o, lse, dqkv);
    return error_of(t, a->act, a->dqkv, all, dqkv);
}

void bench_add_attention(bench_operations *list, int64_t seq_len) {
    const bench_operation both[] = {
        {"attention", true, seq_len, .build = build_attention, .run = run_attention, .compare = compare_attention},
        {"attention_backward", true, seq_len, .build = build_attention_backward, .run = run_attention_backward,
         .compare = compare_attention_backward}};
    for (int i = 0; i < 2; i++) bench_add(list, &both[i]);
}

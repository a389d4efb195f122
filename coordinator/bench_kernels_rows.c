// RMSNorm and SwiGLU, both directions, with the operand copies that the model has them write.
#include "coordinator/bench_kernels_error.h"
#include "coordinator/bench_kernels_task.h"
#include "coordinator/bench_reference.h"
#include <math.h>
#include <stdio.h>

static void *act_tensor(const bench_model *m, tensors *t, int64_t n) {
    return tensors_random(t, m->precision.act, n, 0, 1);
}

static void describe(bench_task *task, int64_t rows, int64_t cols) {
    snprintf(task->shape, sizeof task->shape, "%lld × %lld", (long long)rows, (long long)cols);
}

// --- RMSNorm
static void build_norm(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    (void)o;
    int64_t cols = m->config->hidden_size, n = rows * cols;
    yx_dtype act = m->precision.act;
    out->norm = (yx_norm_args){.rows = rows,
                               .cols = cols,
                               .act = act,
                               .eps = m->config->rms_norm_eps,
                               .x = act_tensor(m, t, n),
                               .delta = act_tensor(m, t, n),
                               .sum = tensors_poisoned(t, (size_t)n * yx_dtype_size(act)),
                               .gamma = tensors_random(t, YX_F32, cols, 1, 0.1),
                               .rstd = tensors_poisoned(t, (size_t)rows * sizeof(yx_real)),
                               .y = tensors_copies(t, m->precision.forward, rows, cols)};
    describe(out, rows, cols);
}

static yx_status run_norm(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->norm(device, NULL, &task->norm);
}

static double compare_norm(tensors *t, const bench_task *task) {
    const yx_norm_args *a = &task->norm;
    int64_t n = a->rows * a->cols;
    double *s = tensors_before(t, a->act, a->x, n), *delta = tensors_before(t, a->act, a->delta, n);
    double *gamma = tensors_before(t, YX_F32, a->gamma, a->cols);
    double *rstd = tensors_zeros(t, a->rows), *y = tensors_zeros(t, n);
    if (t->status != YX_OK) return NAN;
    for (int64_t i = 0; i < n; i++) s[i] += delta[i];
    reference_norm(a->rows, a->cols, a->eps, s, gamma, rstd, y);
    double error = error_worse(error_of(t, a->act, a->sum, n, s), error_of(t, YX_F32, a->rstd, a->rows, rstd));
    return error_worse(error, error_of_operand(t, &a->y, a->rows, a->cols, y));
}

// --- Its derivatives
static void build_norm_backward(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t,
                                bench_task *out) {
    (void)o;
    int64_t cols = m->config->hidden_size, n = rows * cols;
    yx_dtype act = m->precision.act;
    void *dx = act_tensor(m, t, n); // of the residual stream, in place
    bool itself = m->precision.gradient == act;
    out->norm_backward =
        (yx_norm_backward_args){.rows = rows,
                                .cols = cols,
                                .act = act,
                                .dy = act_tensor(m, t, n),
                                .s = act_tensor(m, t, n),
                                .rstd = tensors_random(t, YX_F32, rows, 1, 0.1),
                                .gamma = tensors_random(t, YX_F32, cols, 1, 0.1),
                                .dres = dx,
                                .dx = dx,
                                .dx_operand = itself ? (yx_operand){.dtype = act, .row = dx}
                                                     : tensors_copies(t, m->precision.gradient, rows, cols),
                                .dgamma = tensors_random(t, YX_F32, cols, 0, sqrt((double)rows))};
    describe(out, rows, cols);
}

static yx_status run_norm_backward(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->norm_backward(device, NULL, &task->norm_backward);
}

static double compare_norm_backward(tensors *t, const bench_task *task) {
    const yx_norm_backward_args *a = &task->norm_backward;
    int64_t n = a->rows * a->cols;
    double *dy = tensors_before(t, a->act, a->dy, n), *s = tensors_before(t, a->act, a->s, n);
    double *rstd = tensors_before(t, YX_F32, a->rstd, a->rows), *gamma = tensors_before(t, YX_F32, a->gamma, a->cols);
    double *dx = tensors_before(t, a->act, a->dres, n), *dgamma = tensors_before(t, YX_F32, a->dgamma, a->cols);
    if (t->status != YX_OK) return NAN;
    reference_norm_backward(a->rows, a->cols, dy, s, rstd, gamma, dx, dgamma);
    double error = error_worse(error_of(t, a->act, a->dx, n, dx), error_of(t, YX_F32, a->dgamma, a->cols, dgamma));
    return error_worse(error, error_of_operand(t, &a->dx_operand, a->rows, a->cols, dx));
}

// --- SwiGLU
static void build_swiglu(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    (void)o;
    int64_t cols = m->config->intermediate_size;
    out->swiglu = (yx_swiglu_args){.rows = rows,
                                   .cols = cols,
                                   .act = m->precision.act,
                                   .gate_up = act_tensor(m, t, rows * 2 * cols),
                                   .h = tensors_copies(t, m->precision.forward, rows, cols)};
    out->swiglu.h.col = NULL; // the weight gradient's, and made by the backward pass
    describe(out, rows, cols);
}

static yx_status run_swiglu(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->swiglu(device, NULL, &task->swiglu);
}

static double compare_swiglu(tensors *t, const bench_task *task) {
    const yx_swiglu_args *a = &task->swiglu;
    double *gate_up = tensors_before(t, a->act, a->gate_up, a->rows * 2 * a->cols);
    double *h = tensors_zeros(t, a->rows * a->cols);
    if (t->status != YX_OK) return NAN;
    reference_swiglu(a->rows, a->cols, gate_up, h);
    return error_of_operand(t, &a->h, a->rows, a->cols, h);
}

// --- Its derivatives
static void build_swiglu_backward(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t,
                                  bench_task *out) {
    (void)o;
    int64_t cols = m->config->intermediate_size;
    bool eight = m->precision.gradient != m->precision.act; // else the weight gradient multiplies in act
    out->swiglu_backward =
        (yx_swiglu_backward_args){.rows = rows,
                                  .cols = cols,
                                  .act = m->precision.act,
                                  .gate_up = act_tensor(m, t, rows * 2 * cols),
                                  .dh = act_tensor(m, t, rows * cols),
                                  .dgate_up = tensors_copies(t, m->precision.gradient, rows, 2 * cols),
                                  .h = tensors_copies(t, eight ? m->precision.forward : m->precision.act, rows, cols)};
    yx_operand *h = &out->swiglu_backward.h;
    h->quant.amax = NULL, h->quant.saturated = NULL; // the forward pass records them
    if (h->col) h->row = NULL;
    describe(out, rows, cols);
}

static yx_status run_swiglu_backward(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->swiglu_backward(device, NULL, &task->swiglu_backward);
}

static double compare_swiglu_backward(tensors *t, const bench_task *task) {
    const yx_swiglu_backward_args *a = &task->swiglu_backward;
    int64_t n = a->rows * a->cols;
    double *gate_up = tensors_before(t, a->act, a->gate_up, 2 * n), *dh = tensors_before(t, a->act, a->dh, n);
    double *dgate_up = tensors_zeros(t, 2 * n), *h = tensors_zeros(t, n);
    if (t->status != YX_OK) return NAN;
    reference_swiglu(a->rows, a->cols, gate_up, h);
    reference_swiglu_backward(a->rows, a->cols, gate_up, dh, dgate_up);
    return error_worse(error_of_operand(t, &a->dgate_up, a->rows, 2 * a->cols, dgate_up),
                       error_of_operand(t, &a->h, a->rows, a->cols, h));
}

void bench_add_rows(bench_operations *list) {
    const bench_operation all[] = {
        {"norm", true, .build = build_norm, .run = run_norm, .compare = compare_norm},
        {"norm_backward", true, .build = build_norm_backward, .run = run_norm_backward,
         .compare = compare_norm_backward},
        {"swiglu", true, .build = build_swiglu, .run = run_swiglu, .compare = compare_swiglu},
        {"swiglu_backward", true, .build = build_swiglu_backward, .run = run_swiglu_backward,
         .compare = compare_swiglu_backward},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_add(list, &all[i]);
}

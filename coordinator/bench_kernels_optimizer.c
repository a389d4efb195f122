// What runs once a step over parameters: AdamW and the gradient's norm over a layer, and the cast of a weight.
#include "coordinator/bench_kernels_error.h"
#include "coordinator/bench_kernels_task.h"
#include "coordinator/bench_reference.h"
#include <math.h>
#include <stdio.h>

typedef struct layer_param {
    int64_t rows, cols;
    bool matrix; // decays, and has a working copy
} layer_param;

static void layer_params(const config_model *c, layer_param out[PARAMS_PER_LAYER]) {
    int64_t D = c->hidden_size, A = c->num_attention_heads * c->head_dim, F = c->intermediate_size;
    int64_t Q = (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
    const layer_param all[PARAMS_PER_LAYER] = {{D, 1, false}, {Q, D, true},     {D, A, true},
                                               {D, 1, false}, {2 * F, D, true}, {D, F, true}};
    memcpy(out, all, sizeof all);
}

static int64_t layer_size(const config_model *c) {
    layer_param all[PARAMS_PER_LAYER];
    int64_t n = 0;
    layer_params(c, all);
    for (int i = 0; i < PARAMS_PER_LAYER; i++) n += all[i].rows * all[i].cols;
    return n;
}

static void describe(bench_task *task, int64_t n) {
    snprintf(task->shape, sizeof task->shape, "%lld parameters", (long long)n);
}

// --- AdamW
// A step in the middle of a run. Rate and decay are large enough for both to show beside the parameters; the gradient
// is clipped.
static const yx_step_scalars step = {.lr = 0.02,
                                     .beta1 = 0.9,
                                     .beta2 = 0.95,
                                     .eps = 1e-8,
                                     .weight_decay = 2,
                                     .bias_correction1 = 0.27,
                                     .bias_correction2 = 0.14,
                                     .clip_coefficient = 0.5};

static void build_adamw(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    (void)o, (void)rows;
    layer_param all[PARAMS_PER_LAYER];
    layer_params(m->config, all);
    for (int i = 0; i < PARAMS_PER_LAYER; i++) {
        int64_t n = all[i].rows * all[i].cols;
        yx_real *values = tensors_random(t, YX_F32, n, 0, 0.05);
        yx_operand none = {0}, itself = {.dtype = YX_F32, .row = values};
        out->segments[i] = (yx_adamw_segment){
            .rows = all[i].rows,
            .cols = all[i].cols,
            .param = values,
            .moment1 = tensors_random(t, YX_F32, n, 0, 1e-3),
            .moment2 = tensors_random(t, YX_F32, n, 1e-6, 2e-7),
            .grad = tensors_random(t, YX_F32, n, 0, 1e-3),
            .decay = all[i].matrix,
            .operand = !all[i].matrix ? none
                       : m->precision.forward == YX_F32
                           ? itself
                           : tensors_copies(t, m->precision.forward, all[i].rows, all[i].cols),
        };
    }
    out->adamw = (yx_adamw_args){out->segments, PARAMS_PER_LAYER, tensors_from(t, &step, sizeof step)};
    describe(out, layer_size(m->config));
}

static yx_status run_adamw(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->adamw(device, NULL, &task->adamw);
}

static double compare_segment(tensors *t, const yx_adamw_segment *s) {
    int64_t n = s->rows * s->cols;
    double *values = tensors_before(t, YX_F32, s->param, n), *grad = tensors_before(t, YX_F32, s->grad, n);
    double *moment1 = tensors_before(t, YX_F32, s->moment1, n), *moment2 = tensors_before(t, YX_F32, s->moment2, n);
    if (t->status != YX_OK) return NAN;
    reference_adamw(&step, s->decay, n, values, moment1, moment2, grad);
    double error = error_worse(error_of(t, YX_F32, s->param, n, values), error_of(t, YX_F32, s->moment1, n, moment1));
    error = error_worse(error, error_of(t, YX_F32, s->moment2, n, moment2));
    return error_worse(error, error_of_operand(t, &s->operand, s->rows, s->cols, values));
}

static double compare_adamw(tensors *t, const bench_task *task) {
    double error = 0;
    for (int64_t i = 0; i < task->adamw.num_segments; i++)
        error = error_worse(error, compare_segment(t, &task->adamw.segments[i]));
    return error;
}

// --- Sum of squares
static void build_sum_squares(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t,
                              bench_task *out) {
    (void)o, (void)rows;
    int64_t n = layer_size(m->config);
    double start = (double)n / 2; // it is added to
    out->sum_squares.x = tensors_random(t, YX_F32, n, 0, 1);
    out->sum_squares.n = n;
    out->sum_squares.sum = tensors_from(t, &start, sizeof start);
    describe(out, n);
}

static yx_status run_sum_squares(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->sum_squares(device, NULL, task->sum_squares.x, task->sum_squares.n, task->sum_squares.sum);
}

static double compare_sum_squares(tensors *t, const bench_task *task) {
    int64_t n = task->sum_squares.n;
    const double *x = tensors_before(t, YX_F32, task->sum_squares.x, n),
                 *start = tensors_held(t, task->sum_squares.sum);
    double sum = NAN;
    tensors_read(t, task->sum_squares.sum, sizeof sum, &sum);
    return t->status == YX_OK ? error_of_scalar(sum, *start + reference_sum_squares(n, x)) : NAN;
}

// --- Cast
static void build_cast(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    (void)o;
    int64_t cols = m->config->hidden_size;
    rows = 2 * m->config->intermediate_size;
    out->cast = (yx_cast_args){.rows = rows,
                               .cols = cols,
                               .src_dtype = YX_F32,
                               .src = tensors_random(t, YX_F32, rows * cols, 0, 0.05),
                               .dst = tensors_copies(t, m->precision.forward, rows, cols)};
    snprintf(out->shape, sizeof out->shape, "%lld × %lld", (long long)rows, (long long)cols);
}

static yx_status run_cast(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->cast(device, NULL, &task->cast);
}

static double compare_cast(tensors *t, const bench_task *task) {
    const yx_cast_args *a = &task->cast;
    const double *src = tensors_before(t, a->src_dtype, a->src, a->rows * a->cols);
    return t->status == YX_OK ? error_of_operand(t, &a->dst, a->rows, a->cols, src) : NAN;
}

void bench_add_optimizer(bench_operations *list) {
    const bench_operation all[] = {
        {"adamw", .build = build_adamw, .run = run_adamw, .compare = compare_adamw},
        {"sum_squares", .build = build_sum_squares, .run = run_sum_squares, .compare = compare_sum_squares},
        {"cast", .build = build_cast, .run = run_cast, .compare = compare_cast},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_add(list, &all[i]);
}

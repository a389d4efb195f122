// The matrix products of the model: five weights, each with its product and the two derivatives.
#include "coordinator/bench_kernels_error.h"
#include "coordinator/bench_kernels_task.h"
#include "coordinator/bench_reference.h"
#include <math.h>
#include <stdio.h>

typedef struct weight {
    const char *name;
    int64_t N, K;
    bool in_act; // also where the model multiplies in 8 bits
} weight;

enum { WEIGHTS = 5, FORMS = 3 };
static const char *const weight_names[WEIGHTS] = {"qkv", "o", "gate_up", "down", "proj"};
static const char *const form_names[FORMS] = {"y", "dx", "dw"};

static weight weight_of(const config_model *c, int i) {
    int64_t D = c->hidden_size, A = c->num_attention_heads * c->head_dim, F = c->intermediate_size;
    int64_t Q = (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
    const weight all[WEIGHTS] = {
        {"qkv", Q, D}, {"o", D, A}, {"gate_up", 2 * F, D}, {"down", D, F}, {"proj", c->embedding_rank, D, true}};
    return all[i];
}

static bool narrow(yx_dtype t) { return t == YX_E4M3 || t == YX_E5M2; }

// Types of the factors: where gradients stay in act, so does what they are multiplied with.
static void types_of(const precision_state *p, const weight *w, yx_matmul_form form, yx_dtype *a, yx_dtype *b) {
    bool forward = form == YX_MATMUL_Y, act = w->in_act || (!forward && !narrow(p->gradient));
    *a = act ? p->act : forward ? p->forward : p->gradient;
    *b = act ? p->act : p->forward;
}

static void build(const bench_model *m, const bench_operation *o, int64_t M, tensors *t, bench_task *out) {
    yx_matmul_form form = (yx_matmul_form)(o->which % FORMS);
    weight w = weight_of(m->config, o->which / FORMS);
    int64_t N = w.N, K = w.K;
    yx_matmul_args *x = &out->matmul;
    yx_dtype a, b, act = m->precision.act;
    types_of(&m->precision, &w, form, &a, &b);
    bool y = form == YX_MATMUL_Y, dw = form == YX_MATMUL_DW;
    *x = (yx_matmul_args){.form = form, .M = M, .N = N, .K = K, .out_dtype = dw ? YX_F32 : act, .accumulate = dw};
    x->a = tensors_factor(t, a, M, y ? K : N, 1);
    x->b = dw ? tensors_factor(t, b, M, K, 1) : tensors_factor(t, b, N, K, 0.1);
    // A weight gradient is added to; what is there is as large as what comes.
    if (dw) x->out = tensors_random(t, YX_F32, N * K, 0, sqrt((double)M));
    else x->out = tensors_poisoned(t, (size_t)(M * (y ? N : K)) * yx_dtype_size(act));
    snprintf(out->shape, sizeof out->shape, "%lld × %lld × %lld", (long long)M, (long long)N, (long long)K);
}

static yx_status run(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->matmul(device, NULL, &task->matmul);
}

// The values that the codes stand for.
static double *factor_values(tensors *t, const yx_operand *o, int64_t n) {
    double *x = tensors_before(t, o->dtype, o->row, n);
    const float *scale_inv = o->quant.scale_inv;
    float inverse = 1;
    if (scale_inv) tensors_read(t, scale_inv, sizeof inverse, &inverse);
    for (int64_t i = 0; x && i < n; i++) x[i] *= (double)inverse;
    return x;
}

static double compare(tensors *t, const bench_task *task) {
    const yx_matmul_args *x = &task->matmul;
    int64_t M = x->M, N = x->N, K = x->K;
    bool y = x->form == YX_MATMUL_Y, dw = x->form == YX_MATMUL_DW;
    int64_t size = y ? M * N : dw ? N * K : M * K;
    double *a = factor_values(t, &x->a, M * (y ? K : N)), *b = factor_values(t, &x->b, (dw ? M : N) * K);
    double *out = x->accumulate ? tensors_before(t, x->out_dtype, x->out, size) : tensors_zeros(t, size);
    if (t->status != YX_OK) return NAN;
    reference_matmul(x->form, M, N, K, a, b, out);
    return error_of(t, x->out_dtype, x->out, size, out);
}

void bench_add_matmul(bench_operations *list) {
    for (int which = 0; which < WEIGHTS * FORMS; which++) {
        bench_operation o = {.by_rows = true, .which = which, .build = build, .run = run, .compare = compare};
        snprintf(o.name, sizeof o.name, "matmul %s %s", form_names[which % FORMS], weight_names[which / FORMS]);
        bench_add(list, &o);
    }
}

// The passes of one micro-batch. docs/architecture.md walks through them.
#include "worker/model.h"
#include "worker/model_pick.h"
#include <math.h>

typedef struct run { // what every step of a pass needs
    yx_model *m;
    const model_batch *batch;
    model_pass pass;
    double grad_scale;
    int64_t layer;
} run;

static yx_real *value(const yx_model *m, param_role role, int64_t layer) {
    return m->params + m->table.items[param_index(&m->table, role, layer)].offset;
}
static yx_real *gradient(const yx_model *m, param_role role, int64_t layer) {
    return m->grads + m->table.items[param_index(&m->table, role, layer)].offset;
}
static int64_t qkv_width(const config_model *c) {
    return (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
}

// A buffer that all layers use in turn, with this layer's scale.
static yx_operand shared(const run *r, yx_operand operand, operand_place place, void *scratch) {
    operand.quant = precision_quant(&r->m->precision, r->layer, place);
    return model_pick(r->m, r->pass, operand, scratch);
}

// A weight as this pass multiplies with it: in a calibration pass, cast into scratch first.
static yx_status weight(const run *r, yx_operand own, param_role role, yx_operand *out) {
    yx_model *m = r->m;
    *out = own;
    if (r->pass != MODEL_CALIBRATE || own.dtype == m->precision.act) return YX_OK;
    const param *p = &m->table.items[param_index(&m->table, role, r->layer)];
    *out = (yx_operand){.dtype = m->precision.act, .row = m->c_weight};
    yx_cast_args args = {.rows = p->rows, .cols = p->cols, .src = value(m, role, r->layer), .dst = *out};
    return m->ops->cast(m->device, NULL, &args);
}

static yx_status multiply(const run *r, yx_matmul_form form, int64_t N, int64_t K, yx_operand a, yx_operand b,
                          void *out) {
    yx_matmul_args args = {.form = form,
                           .M = r->batch->rows,
                           .N = N,
                           .K = K,
                           .a = a,
                           .b = b,
                           .out = out,
                           .out_dtype = form == YX_MATMUL_DW ? YX_F32 : r->m->precision.act,
                           .accumulate = form == YX_MATMUL_DW};
    return r->m->ops->matmul(r->m->device, NULL, &args);
}

// Adds a weight gradient; calibration needs none.
static yx_status weight_gradient(const run *r, param_role role, yx_operand dy, yx_operand x) {
    if (r->pass != MODEL_TRAIN) return YX_OK;
    const param *p = &r->m->table.items[param_index(&r->m->table, role, r->layer)];
    return multiply(r, YX_MATMUL_DW, p->rows, p->cols, dy, x, gradient(r->m, role, r->layer));
}

static yx_operand plain(const yx_model *m, void *x) { return (yx_operand){.dtype = m->precision.act, .row = x}; }

// --- Forward
// ---------------------------------------------------------------------------------------------------------------
static yx_status normalise(const run *r, const void *x, const void *delta, void *sum, param_role role, yx_real *rstd,
                           yx_operand y) {
    yx_model *m = r->m;
    yx_norm_args args = {.rows = r->batch->rows,
                         .cols = m->config.hidden_size,
                         .act = m->precision.act,
                         .eps = m->config.rms_norm_eps,
                         .x = x,
                         .delta = delta,
                         .sum = sum,
                         .gamma = value(m, role, r->layer),
                         .rstd = rstd,
                         .y = y};
    return m->ops->norm(m->device, NULL, &args);
}

static yx_status rotate(const run *r, bool inverse, void *qkv, yx_operand out) {
    yx_model *m = r->m;
    yx_rope_args args = {.rows = r->batch->rows,
                         .heads = m->config.num_attention_heads,
                         .kv_heads = m->config.num_key_value_heads,
                         .head_dim = m->config.head_dim,
                         .act = m->precision.act,
                         .inverse = inverse,
                         .seq_start = r->batch->seq_start,
                         .table = m->rope_table,
                         .qkv = qkv,
                         .out = out};
    return m->ops->rope(m->device, NULL, &args);
}

static yx_status attend(const run *r, model_layer *y, yx_operand out) {
    yx_model *m = r->m;
    yx_attention_args args = {.rows = r->batch->rows,
                              .heads = m->config.num_attention_heads,
                              .kv_heads = m->config.num_key_value_heads,
                              .head_dim = m->config.head_dim,
                              .act = m->precision.act,
                              .scale = 1 / sqrt((double)m->config.head_dim),
                              .seq_start = r->batch->seq_start,
                              .qkv = y->qkv,
                              .o = y->attn,
                              .out = out,
                              .lse = y->lse};
    return m->ops->attention(m->device, NULL, &args);
}

// x: the residual stream; delta: what the block before added to it, NULL in the first layer.
static yx_status attention_block(const run *r, model_layer *y, const void *x, const void *delta) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size, A = m->config.num_attention_heads * m->config.head_dim;
    yx_operand x1 = model_pick(m, r->pass, y->x1, m->c_x), w;
    yx_operand attn = model_pick(m, r->pass, y->attn_operand, y->attn);
    YX_CHECK(normalise(r, x, delta, y->s1, PARAM_NORM1, y->rstd1, x1));
    YX_CHECK(weight(r, y->w_qkv, PARAM_QKV, &w));
    YX_CHECK(multiply(r, YX_MATMUL_Y, qkv_width(&m->config), D, x1, w, y->qkv));
    // amax of v bounds the attention outputs, so it is recorded in their slot.
    YX_CHECK(rotate(r, false, y->qkv,
                    (yx_operand){.dtype = m->precision.act, .row = y->qkv, .quant = {.amax = attn.quant.amax}}));
    YX_CHECK(attend(r, y, attn));
    YX_CHECK(weight(r, y->w_o, PARAM_O, &w));
    YX_CHECK(multiply(r, YX_MATMUL_Y, D, A, attn, w, m->delta));
fail:
    return status;
}

static yx_status mlp_block(const run *r, model_layer *y) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size, F = m->config.intermediate_size;
    yx_operand x2 = model_pick(m, r->pass, y->x2, m->c_x), h = shared(r, m->h, OPERAND_H, m->c_h), w;
    YX_CHECK(normalise(r, y->s1, m->delta, y->s2, PARAM_NORM2, y->rstd2, x2));
    YX_CHECK(weight(r, y->w_gate_up, PARAM_GATE_UP, &w));
    YX_CHECK(multiply(r, YX_MATMUL_Y, 2 * F, D, x2, w, y->gate_up));
    yx_swiglu_args swiglu = {.rows = r->batch->rows, .cols = F, .act = m->precision.act, .gate_up = y->gate_up, .h = h};
    YX_CHECK(m->ops->swiglu(m->device, NULL, &swiglu));
    YX_CHECK(weight(r, y->w_down, PARAM_DOWN, &w));
    YX_CHECK(multiply(r, YX_MATMUL_Y, D, F, h, w, m->delta));
fail:
    return status;
}

static yx_status embed(const run *r) {
    yx_model *m = r->m;
    yx_embed_args gather = {.rows = r->batch->rows,
                            .rank = m->config.embedding_rank,
                            .act = m->precision.act,
                            .token = r->batch->token,
                            .E = m->embed,
                            .z = m->z0};
    yx_status status = m->ops->embed(m->device, NULL, &gather);
    if (status != YX_OK) return status;
    // x0 = z0 · P: the product with P as it is stored.
    return multiply(r, YX_MATMUL_DX, m->config.embedding_rank, m->config.hidden_size, plain(m, m->z0), m->proj, m->x0);
}

static yx_status head(const run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    const void *x = m->layers[m->config.num_layers - 1].s2;
    YX_CHECK(normalise(r, x, m->delta, m->s_final, PARAM_NORM, m->rstd_final, m->x_final));
    YX_CHECK(multiply(r, YX_MATMUL_Y, m->config.embedding_rank, m->config.hidden_size, m->x_final, m->proj, m->z));
    bool evaluate = r->pass == MODEL_EVALUATE;
    yx_head_args args = {.rows = r->batch->rows,
                         .rank = m->config.embedding_rank,
                         .vocab = m->config.vocab_size,
                         .act = m->precision.act,
                         .z = m->z,
                         .E = m->embed,
                         .target = r->batch->target,
                         .grad_scale = r->grad_scale,
                         .lse = m->lse,
                         .loss = m->loss,
                         .loss_sum = evaluate ? NULL : &m->scalars->loss_sum,
                         .dz = evaluate ? NULL : m->dz};
    YX_CHECK(m->ops->head(m->device, NULL, &args));
fail:
    return status;
}

static yx_status forward(run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    YX_CHECK(embed(r));
    for (r->layer = 0; r->layer < m->config.num_layers; r->layer++) {
        model_layer *y = &m->layers[r->layer];
        bool first = r->layer == 0;
        YX_CHECK(attention_block(r, y, first ? m->x0 : m->layers[r->layer - 1].s2, first ? NULL : m->delta));
        YX_CHECK(mlp_block(r, y));
    }
    YX_CHECK(head(r));
fail:
    return status;
}

// --- Backward
// -------------------------------------------------------------------------------------------------------------- dx:
// gradient of the residual stream, in place. `next`: the operand the following products read dx from.
static yx_status normalise_backward(const run *r, const void *dy, const void *s, const yx_real *rstd, param_role role,
                                    bool residual, yx_operand next) {
    yx_model *m = r->m;
    yx_norm_backward_args args = {.rows = r->batch->rows,
                                  .cols = m->config.hidden_size,
                                  .act = m->precision.act,
                                  .dy = dy,
                                  .s = s,
                                  .rstd = rstd,
                                  .gamma = value(m, role, r->layer),
                                  .dres = residual ? m->dx : NULL,
                                  .dx = m->dx,
                                  .dx_operand = next,
                                  .dgamma = r->pass == MODEL_TRAIN ? gradient(m, role, r->layer) : NULL};
    return m->ops->norm_backward(m->device, NULL, &args);
}

static yx_status head_backward(const run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t R = m->config.embedding_rank, D = m->config.hidden_size;
    if (r->pass == MODEL_TRAIN) {
        yx_head_backward_args args = {.rows = r->batch->rows,
                                      .rank = R,
                                      .vocab = m->config.vocab_size,
                                      .act = m->precision.act,
                                      .z = m->z,
                                      .E = m->embed,
                                      .target = r->batch->target,
                                      .grad_scale = r->grad_scale,
                                      .lse = m->lse,
                                      .dE = gradient(m, PARAM_EMBED, 0)};
        YX_CHECK(m->ops->head_backward(m->device, NULL, &args));
    }
    YX_CHECK(weight_gradient(r, PARAM_PROJ, plain(m, m->dz), m->x_final));
    YX_CHECK(multiply(r, YX_MATMUL_DX, R, D, plain(m, m->dz), m->proj, m->dnorm));
fail:
    return status;
}

static yx_status mlp_backward(const run *r, model_layer *y, yx_operand d) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size, F = m->config.intermediate_size;
    yx_operand h = shared(r, m->h, OPERAND_H, m->c_h), w;
    yx_operand dgu = shared(r, m->d_gate_up, OPERAND_D_GATE_UP, m->c_gate_up);
    h.quant.amax = NULL; // the forward pass recorded it
    YX_CHECK(weight(r, y->w_down, PARAM_DOWN, &w));
    YX_CHECK(multiply(r, YX_MATMUL_DX, D, F, d, w, m->dh));
    yx_swiglu_backward_args swiglu = {.rows = r->batch->rows,
                                      .cols = F,
                                      .act = m->precision.act,
                                      .gate_up = y->gate_up,
                                      .dh = m->dh,
                                      .dgate_up = dgu,
                                      .h = h};
    YX_CHECK(m->ops->swiglu_backward(m->device, NULL, &swiglu));
    YX_CHECK(weight_gradient(r, PARAM_DOWN, d, h));
    YX_CHECK(weight_gradient(r, PARAM_GATE_UP, dgu, y->x2));
    YX_CHECK(weight(r, y->w_gate_up, PARAM_GATE_UP, &w));
    YX_CHECK(multiply(r, YX_MATMUL_DX, 2 * F, D, dgu, w, m->dnorm));
fail:
    return status;
}

static yx_status attention_backward(const run *r, model_layer *y, yx_operand d) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    const config_model *c = &m->config;
    int64_t D = c->hidden_size, A = c->num_attention_heads * c->head_dim;
    yx_operand w, dqkv = shared(r, m->d_qkv, OPERAND_D_QKV, m->dqkv);
    YX_CHECK(weight(r, y->w_o, PARAM_O, &w));
    YX_CHECK(multiply(r, YX_MATMUL_DX, D, A, d, w, m->d_attn));
    YX_CHECK(weight_gradient(r, PARAM_O, d, y->attn_operand));
    yx_attention_backward_args args = {.rows = r->batch->rows,
                                       .heads = c->num_attention_heads,
                                       .kv_heads = c->num_key_value_heads,
                                       .head_dim = c->head_dim,
                                       .act = m->precision.act,
                                       .scale = 1 / sqrt((double)c->head_dim),
                                       .seq_start = r->batch->seq_start,
                                       .qkv = y->qkv,
                                       .o = y->attn,
                                       .d_o = m->d_attn,
                                       .lse = y->lse,
                                       .dqkv = m->dqkv};
    YX_CHECK(m->ops->attention_backward(m->device, NULL, &args));
    YX_CHECK(rotate(r, true, m->dqkv, dqkv));
    YX_CHECK(weight_gradient(r, PARAM_QKV, dqkv, y->x1));
    YX_CHECK(weight(r, y->w_qkv, PARAM_QKV, &w));
    YX_CHECK(multiply(r, YX_MATMUL_DX, qkv_width(c), D, dqkv, w, m->dnorm));
fail:
    return status;
}

static yx_status embed_backward(const run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t R = m->config.embedding_rank, D = m->config.hidden_size;
    if (r->pass != MODEL_TRAIN) return YX_OK;
    YX_CHECK(weight_gradient(r, PARAM_PROJ, plain(m, m->z0), plain(m, m->dx)));
    YX_CHECK(multiply(r, YX_MATMUL_Y, R, D, plain(m, m->dx), m->proj, m->dz));
    yx_embed_backward_args args = {.rows = r->batch->rows,
                                   .rank = R,
                                   .vocab = m->config.vocab_size,
                                   .act = m->precision.act,
                                   .token = r->batch->token,
                                   .dz = m->dz,
                                   .dE = gradient(m, PARAM_EMBED, 0)};
    YX_CHECK(m->ops->embed_backward(m->device, NULL, &args));
fail:
    return status;
}

static yx_status backward(run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    r->layer = m->config.num_layers - 1;
    yx_operand d = shared(r, m->d_down, OPERAND_D_DOWN, m->dx);
    YX_CHECK(head_backward(r));
    YX_CHECK(normalise_backward(r, m->dnorm, m->s_final, m->rstd_final, PARAM_NORM, false, d));
    for (; r->layer >= 0; r->layer--) {
        model_layer *y = &m->layers[r->layer];
        d = shared(r, m->d_down, OPERAND_D_DOWN, m->dx);
        YX_CHECK(mlp_backward(r, y, d));
        d = shared(r, m->d_o, OPERAND_D_O, m->dx);
        YX_CHECK(normalise_backward(r, m->dnorm, y->s2, y->rstd2, PARAM_NORM2, true, d));
        YX_CHECK(attention_backward(r, y, d));
        run below = *r;
        below.layer--;
        yx_operand next = r->layer > 0 ? shared(&below, m->d_down, OPERAND_D_DOWN, m->dx) : plain(m, m->dx);
        YX_CHECK(normalise_backward(r, m->dnorm, y->s1, y->rstd1, PARAM_NORM1, true, next));
    }
    YX_CHECK(embed_backward(r));
fail:
    return status;
}

yx_status model_run(yx_model *m, const model_batch *batch, model_pass pass, double grad_scale) {
    if (batch->rows < 1 || batch->rows > m->max_rows || batch->rows % 128)
        return yx_fail(YX_ERR_INTERNAL, "a micro-batch of %lld tokens in a model of %lld", (long long)batch->rows,
                       (long long)m->max_rows);
    if (pass != MODEL_EVALUATE && !m->training) return yx_fail(YX_ERR_INTERNAL, "this model only evaluates");
    run r = {.m = m, .batch = batch, .pass = pass, .grad_scale = grad_scale};
    yx_status status = forward(&r);
    if (status == YX_OK && pass != MODEL_EVALUATE) status = backward(&r);
    return status;
}

yx_status model_logits(yx_model *m, int64_t first, int64_t count, yx_real *logits) {
    int64_t R = m->config.embedding_rank;
    char *z = (char *)m->z + (size_t)(first * R) * yx_dtype_size(m->precision.act);
    yx_matmul_args args = {.form = YX_MATMUL_Y,
                           .M = count,
                           .N = model_padded_vocab(m),
                           .K = R,
                           .a = plain(m, z),
                           .b = m->embed,
                           .out = logits,
                           .out_dtype = YX_F32};
    return m->ops->matmul(m->device, NULL, &args);
}

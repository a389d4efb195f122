// The backward pass of a micro-batch. docs/architecture.md walks through it.
#include "worker/model_pass.h"
#include <math.h>

// dx: gradient of the residual stream, in place. `next`: the operand, and its place, that the following products read
// dx from.
static yx_status normalise_backward(const model_pass_run *r, const void *dy, const void *s, const yx_real *rstd,
                                    param_role role, bool residual, yx_operand next) {
    yx_model *m = r->m;
    yx_norm_backward_args args = {.rows = r->batch->rows,
                                  .cols = m->config.hidden_size,
                                  .act = m->precision.act,
                                  .dy = dy,
                                  .s = s,
                                  .rstd = rstd,
                                  .gamma = pass_value(m, role, r->layer),
                                  .dres = residual ? m->dx : NULL,
                                  .dx = m->dx,
                                  .dx_operand = pass_stage(r, next, m->dx),
                                  .dgamma = r->pass == MODEL_TRAIN ? pass_gradient(m, role, r->layer) : NULL};
    return m->ops->norm_backward(m->device, NULL, &args);
}

static yx_status head_backward(const model_pass_run *r) {
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
                                      .dE = pass_gradient(m, PARAM_EMBED, 0)};
        YX_CHECK(m->ops->head_backward(m->device, NULL, &args));
    }
    YX_CHECK(pass_weight_gradient(r, PARAM_PROJ, pass_plain(m, m->dz), m->x_final));
    YX_CHECK(pass_multiply(r, YX_MATMUL_DX, R, D, pass_plain(m, m->dz), m->proj, m->dnorm));
fail:
    return status;
}

// The factor of a weight gradient that RMSNorm made: where this pass multiplies in act and the forward pass did not
// keep that, computed again from the sum `s`.
static yx_status normalised_again(const model_pass_run *r, yx_operand own, const void *s, param_role role,
                                  yx_real *rstd, yx_operand *out) {
    yx_model *m = r->m;
    *out = pass_pick(r, own, true, m->c_x);
    if (r->pass != MODEL_TRAIN || out->dtype == own.dtype) return YX_OK;
    out->quant = (yx_quant){0};
    return pass_normalise(r, s, NULL, NULL, role, rstd, *out);
}

static yx_status mlp_backward(const model_pass_run *r, model_layer *y, yx_operand d) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size, F = m->config.intermediate_size;
    yx_operand h = m->h, dgu = pass_shared(r, m->d_gate_up, OPERAND_D_GATE_UP, m->c_gate_up), w, x2;
    h.quant = precision_quant(&m->precision, r->layer, OPERAND_H);
    h = pass_pick(r, h, true, m->c_h);
    h.quant.amax = NULL, h.quant.saturated = NULL; // the forward pass recorded them
    if (h.col) h.row = NULL;                       // the weight gradient reads the transposed copy
    YX_CHECK(pass_weight(r, y->w_down, PARAM_DOWN, true, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_DX, D, F, d, w, m->dh));
    yx_swiglu_backward_args swiglu = {.rows = r->batch->rows,
                                      .cols = F,
                                      .act = m->precision.act,
                                      .gate_up = y->gate_up,
                                      .dh = m->dh,
                                      .dgate_up = pass_stage(r, dgu, m->c_gate_up),
                                      .h = h};
    YX_CHECK(m->ops->swiglu_backward(m->device, NULL, &swiglu));
    YX_CHECK(pass_settle(r, dgu, OPERAND_D_GATE_UP, 2 * F, m->c_gate_up));
    YX_CHECK(pass_weight_gradient(r, PARAM_DOWN, d, h));
    YX_CHECK(normalised_again(r, y->x2, y->s2, PARAM_NORM2, y->rstd2, &x2));
    YX_CHECK(pass_weight_gradient(r, PARAM_GATE_UP, dgu, x2));
    YX_CHECK(pass_weight(r, y->w_gate_up, PARAM_GATE_UP, true, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_DX, 2 * F, D, dgu, w, m->dnorm));
fail:
    return status;
}

static yx_status attend_backward(const model_pass_run *r, model_layer *y) {
    yx_model *m = r->m;
    const config_model *c = &m->config;
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
    return m->ops->attention_backward(m->device, NULL, &args);
}

static yx_status attention_backward(const model_pass_run *r, model_layer *y, yx_operand d) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    const config_model *c = &m->config;
    int64_t D = c->hidden_size, A = c->num_attention_heads * c->head_dim, Q = pass_qkv_width(c);
    yx_operand w, x1, dqkv = pass_shared(r, m->d_qkv, OPERAND_D_QKV, m->dqkv);
    YX_CHECK(pass_weight(r, y->w_o, PARAM_O, true, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_DX, D, A, d, w, m->d_attn));
    YX_CHECK(pass_weight_gradient(r, PARAM_O, d, pass_pick(r, y->attn_operand, true, y->attn)));
    YX_CHECK(attend_backward(r, y));
    YX_CHECK(pass_rotate(r, true, m->dqkv, pass_stage(r, dqkv, m->dqkv)));
    YX_CHECK(pass_settle(r, dqkv, OPERAND_D_QKV, Q, m->dqkv));
    YX_CHECK(normalised_again(r, y->x1, y->s1, PARAM_NORM1, y->rstd1, &x1));
    YX_CHECK(pass_weight_gradient(r, PARAM_QKV, dqkv, x1));
    YX_CHECK(pass_weight(r, y->w_qkv, PARAM_QKV, true, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_DX, Q, D, dqkv, w, m->dnorm));
fail:
    return status;
}

// Tells what summed gradients of the ranks may be sent: the buckets that `done` (param_bucket.ready) completes.
static yx_status announce(const model_pass_run *r, int64_t done) {
    yx_status status = YX_OK;
    const param_table *t = &r->m->table;
    for (int64_t i = 0; r->hooks && i < t->num_buckets && status == YX_OK; i++)
        if (t->buckets[i].ready == done) status = r->hooks->bucket_ready(r->hooks->context, i);
    return status;
}

static yx_status embed_backward(const model_pass_run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t R = m->config.embedding_rank, D = m->config.hidden_size;
    if (r->pass != MODEL_TRAIN) return YX_OK;
    YX_CHECK(pass_weight_gradient(r, PARAM_PROJ, pass_plain(m, m->z0), pass_plain(m, m->dx)));
    YX_CHECK(pass_multiply(r, YX_MATMUL_Y, R, D, pass_plain(m, m->dx), m->proj, m->dz));
    yx_embed_backward_args args = {.rows = r->batch->rows,
                                   .rank = R,
                                   .vocab = m->config.vocab_size,
                                   .act = m->precision.act,
                                   .token = r->batch->token,
                                   .dz = m->dz,
                                   .dE = pass_gradient(m, PARAM_EMBED, 0)};
    YX_CHECK(announce(r, -1));
    if (r->hooks) YX_CHECK(r->hooks->gather_rows(r->hooks->context, r->batch, &args.rows, &args.token, &args.dz));
    YX_CHECK(m->ops->embed_backward(m->device, NULL, &args));
fail:
    return status;
}

// One layer, from the gradient of what it adds to the residual stream (`d`: dx as the down product's operand) to that
// of its input; *next: dx as the operand of the layer below.
static yx_status layer_backward(const model_pass_run *r, yx_operand d, yx_operand *next) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size;
    model_layer *y = &m->layers[r->layer];
    model_pass_run below = *r;
    below.layer--;
    // The last layer's activations are still there.
    if (m->recompute && r->layer < m->config.num_layers - 1) YX_CHECK(pass_forward_again(r));
    YX_CHECK(mlp_backward(r, y, d));
    yx_operand d_o = pass_shared(r, m->d_o, OPERAND_D_O, m->dx);
    YX_CHECK(normalise_backward(r, m->dnorm, y->s2, y->rstd2, PARAM_NORM2, true, d_o));
    YX_CHECK(pass_settle(r, d_o, OPERAND_D_O, D, m->dx));
    YX_CHECK(attention_backward(r, y, d_o));
    *next = r->layer > 0 ? pass_shared(&below, m->d_down, OPERAND_D_DOWN, m->dx) : pass_plain(m, m->dx);
    YX_CHECK(normalise_backward(r, m->dnorm, y->s1, y->rstd1, PARAM_NORM1, true, *next));
    if (r->layer > 0) YX_CHECK(pass_settle(&below, *next, OPERAND_D_DOWN, D, m->dx));
fail:
    return status;
}

yx_status pass_backward(model_pass_run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    r->layer = m->config.num_layers - 1;
    yx_operand d = pass_shared(r, m->d_down, OPERAND_D_DOWN, m->dx);
    YX_CHECK(head_backward(r));
    YX_CHECK(announce(r, m->config.num_layers));
    YX_CHECK(normalise_backward(r, m->dnorm, m->s_final, m->rstd_final, PARAM_NORM, false, d));
    YX_CHECK(pass_settle(r, d, OPERAND_D_DOWN, m->config.hidden_size, m->dx));
    for (; r->layer >= 0; r->layer--) {
        YX_CHECK(layer_backward(r, d, &d));
        YX_CHECK(announce(r, r->layer));
    }
    YX_CHECK(embed_backward(r));
fail:
    return status;
}

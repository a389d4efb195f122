// The forward pass of a micro-batch. docs/architecture.md walks through it.
#include "worker/model_pass.h"
#include <math.h>

static yx_status attend(const model_pass_run *r, model_layer *y, yx_operand out) {
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
static yx_status attention_block(const model_pass_run *r, model_layer *y, const void *x, const void *delta) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size, A = m->config.num_attention_heads * m->config.head_dim;
    yx_operand x1 = pass_pick(r, y->x1, false, m->c_x), w;
    yx_operand attn = pass_pick(r, y->attn_operand, false, y->attn);
    YX_CHECK(pass_normalise(r, x, delta, y->s1, PARAM_NORM1, y->rstd1, pass_stage(r, x1, m->c_x)));
    YX_CHECK(pass_settle(r, x1, OPERAND_X1, D, m->c_x));
    YX_CHECK(pass_weight(r, y->w_qkv, PARAM_QKV, false, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_Y, pass_qkv_width(&m->config), D, x1, w, y->qkv));
    // amax of v bounds the attention outputs, so it is recorded in their slot.
    YX_CHECK(pass_rotate(r, false, y->qkv,
                         (yx_operand){.dtype = m->precision.act, .row = y->qkv, .quant = {.amax = attn.quant.amax}}));
    YX_CHECK(attend(r, y, pass_stage(r, attn, y->attn)));
    YX_CHECK(pass_settle(r, attn, OPERAND_ATTN, A, y->attn));
    YX_CHECK(pass_weight(r, y->w_o, PARAM_O, false, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_Y, D, A, attn, w, m->delta));
fail:
    return status;
}

// Up to gate and up: what the backward pass needs of this block.
static yx_status mlp_begin(const model_pass_run *r, model_layer *y) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size, F = m->config.intermediate_size;
    yx_operand x2 = pass_pick(r, y->x2, false, m->c_x), w;
    YX_CHECK(pass_normalise(r, y->s1, m->delta, y->s2, PARAM_NORM2, y->rstd2, pass_stage(r, x2, m->c_x)));
    YX_CHECK(pass_settle(r, x2, OPERAND_X2, D, m->c_x));
    YX_CHECK(pass_weight(r, y->w_gate_up, PARAM_GATE_UP, false, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_Y, 2 * F, D, x2, w, y->gate_up));
fail:
    return status;
}

static yx_status mlp_block(const model_pass_run *r, model_layer *y) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    int64_t D = m->config.hidden_size, F = m->config.intermediate_size;
    yx_operand h = pass_shared(r, m->h, OPERAND_H, m->c_h), w;
    YX_CHECK(mlp_begin(r, y));
    // The transposed copy is the weight gradient's, and made when the backward pass computes h again.
    yx_operand forward = h;
    if (forward.row) forward.col = NULL;
    yx_swiglu_args swiglu = {.rows = r->batch->rows,
                             .cols = F,
                             .act = m->precision.act,
                             .gate_up = y->gate_up,
                             .h = pass_stage(r, forward, m->c_h)};
    YX_CHECK(m->ops->swiglu(m->device, NULL, &swiglu));
    YX_CHECK(pass_settle(r, forward, OPERAND_H, F, m->c_h));
    YX_CHECK(pass_weight(r, y->w_down, PARAM_DOWN, false, &w));
    YX_CHECK(pass_multiply(r, YX_MATMUL_Y, D, F, h, w, m->delta));
fail:
    return status;
}

static yx_status embed(const model_pass_run *r) {
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
    return pass_multiply(r, YX_MATMUL_DX, m->config.embedding_rank, m->config.hidden_size, pass_plain(m, m->z0),
                         m->proj, m->x0);
}

static yx_status head(const model_pass_run *r) {
    yx_status status = YX_OK;
    yx_model *m = r->m;
    const void *x = m->layers[m->config.num_layers - 1].s2;
    YX_CHECK(pass_normalise(r, x, m->delta, m->s_final, PARAM_NORM, m->rstd_final, m->x_final));
    YX_CHECK(pass_multiply(r, YX_MATMUL_Y, m->config.embedding_rank, m->config.hidden_size, m->x_final, m->proj, m->z));
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

yx_status pass_forward(model_pass_run *r) {
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

yx_status pass_forward_again(const model_pass_run *r) {
    model_pass_run again = *r;
    model_layer *y = &r->m->layers[r->layer];
    again.again = true;
    yx_status status = attention_block(&again, y, y->s1, NULL);
    return status == YX_OK ? mlp_begin(&again, y) : status;
}

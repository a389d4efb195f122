#include "worker/model_pass.h"

yx_real *pass_value(const yx_model *m, param_role role, int64_t layer) {
    return m->params + m->table.items[param_index(&m->table, role, layer)].offset;
}
yx_real *pass_gradient(const yx_model *m, param_role role, int64_t layer) {
    return m->grads + m->table.items[param_index(&m->table, role, layer)].offset;
}
int64_t pass_qkv_width(const config_model *c) {
    return (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
}
yx_operand pass_plain(const yx_model *m, void *x) { return (yx_operand){.dtype = m->precision.act, .row = x}; }

// --- Operands
static bool in_act(const model_pass_run *r, bool backward) {
    return r->pass == MODEL_CALIBRATE || precision_in_act(&r->m->precision, r->layer, backward);
}

yx_operand pass_pick(const model_pass_run *r, yx_operand own, bool backward, void *scratch) {
    yx_dtype act = r->m->precision.act;
    if (own.dtype != act && in_act(r, backward))
        own = (yx_operand){.dtype = act, .row = scratch, .quant = {.amax = own.quant.amax}};
    if (r->pass == MODEL_EVALUATE) own.col = NULL;
    if (r->pass == MODEL_EVALUATE || r->again) own.quant.amax = NULL, own.quant.saturated = NULL;
    return own;
}

yx_operand pass_shared(const model_pass_run *r, yx_operand operand, operand_place place, void *scratch) {
    operand.quant = precision_quant(&r->m->precision, r->layer, place);
    return pass_pick(r, operand, place >= OPERAND_D_QKV, scratch);
}

yx_status pass_weight(const model_pass_run *r, yx_operand own, param_role role, bool backward, yx_operand *out) {
    yx_model *m = r->m;
    *out = own;
    if (own.dtype == m->precision.act || !in_act(r, backward)) return YX_OK;
    const param *p = &m->table.items[param_index(&m->table, role, r->layer)];
    *out = pass_plain(m, m->c_weight);
    yx_cast_args args = {.rows = p->rows, .cols = p->cols, .src = pass_value(m, role, r->layer), .dst = *out};
    return m->ops->cast(m->device, NULL, &args);
}

static bool staged(const model_pass_run *r, const yx_operand *operand) {
    const precision_state *p = &r->m->precision;
    return r->pass == MODEL_TRAIN && p->num_slots && p->recipe == FP8_CURRENT && operand->dtype != p->act;
}

yx_operand pass_stage(const model_pass_run *r, yx_operand operand, void *buffer) {
    if (!staged(r, &operand)) return operand;
    return (yx_operand){.dtype = r->m->precision.act, .row = buffer, .quant = {.amax = operand.quant.amax}};
}

yx_status pass_settle(const model_pass_run *r, yx_operand operand, operand_place place, int64_t cols, void *buffer) {
    yx_model *m = r->m;
    if (!staged(r, &operand)) return YX_OK;
    // The second forward pass of a layer finds the scale of the first.
    yx_status status =
        r->again ? YX_OK : precision_update_slot(&m->precision, m->ops, m->device, r->layer, place, m->scalars);
    if (status != YX_OK) return status;
    operand.quant.amax = NULL;
    yx_cast_args args = {
        .rows = r->batch->rows, .cols = cols, .src_dtype = m->precision.act, .src = buffer, .dst = operand};
    return m->ops->cast(m->device, NULL, &args);
}

// --- Operations
yx_status pass_multiply(const model_pass_run *r, yx_matmul_form form, int64_t N, int64_t K, yx_operand a, yx_operand b,
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

yx_status pass_weight_gradient(const model_pass_run *r, param_role role, yx_operand dy, yx_operand x) {
    if (r->pass != MODEL_TRAIN) return YX_OK;
    const param *p = &r->m->table.items[param_index(&r->m->table, role, r->layer)];
    return pass_multiply(r, YX_MATMUL_DW, p->rows, p->cols, dy, x, pass_gradient(r->m, role, r->layer));
}

yx_status pass_normalise(const model_pass_run *r, const void *x, const void *delta, void *sum, param_role role,
                         yx_real *rstd, yx_operand y) {
    yx_model *m = r->m;
    yx_norm_args args = {.rows = r->batch->rows,
                         .cols = m->config.hidden_size,
                         .act = m->precision.act,
                         .eps = m->config.rms_norm_eps,
                         .x = x,
                         .delta = delta,
                         .sum = sum,
                         .gamma = pass_value(m, role, r->layer),
                         .rstd = rstd,
                         .y = y};
    return m->ops->norm(m->device, NULL, &args);
}

yx_status pass_rotate(const model_pass_run *r, bool inverse, void *qkv, yx_operand out) {
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

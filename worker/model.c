#include "worker/model.h"
#include "common/rng.h"
#include <math.h>
#include <stdlib.h>

static int64_t qkv_width(const config_model *c) {
    return (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
}
static int64_t attn_width(const config_model *c) { return c->num_attention_heads * c->head_dim; }

// An operand that is another buffer itself where the types agree: {true, that buffer}; NO_ALIAS: always a copy.
typedef struct alias {
    bool is;
    void *buffer; // NULL while measuring
} alias;
static const alias NO_ALIAS = {false, NULL};

// Transposed copies are for the backward pass, where that multiplies in 8 bits.
static bool has_col(const yx_model *m, yx_dtype dtype) {
    return m->training && m->ops->needs_transposed[dtype] && m->precision.recipe != FP8_FORWARD_ONLY;
}

// An operand [rows, cols] with the copies its type needs.
static yx_operand take_operand(const yx_model *m, layout *a, yx_dtype dtype, int64_t rows, int64_t cols, alias of,
                               yx_quant quant) {
    size_t bytes = (size_t)(rows * cols) * yx_dtype_size(dtype);
    yx_operand o = {.dtype = dtype, .quant = quant};
    bool eight = dtype == YX_E4M3 || dtype == YX_E5M2;
    o.row = !eight && of.is ? of.buffer : layout_take(a, bytes);
    o.col = has_col(m, dtype) ? layout_take(a, bytes) : NULL;
    return o;
}

// An operand of one layer.
static yx_operand take_place(const yx_model *m, layout *a, int64_t layer, operand_place place, int64_t rows,
                             int64_t cols, alias of) {
    yx_quant quant = precision_quant(&m->precision, layer, place);
    return take_operand(m, a, precision_dtype(&m->precision, layer, place), rows, cols, of, quant);
}

// Memory for an operand that all layers use in turn; pass_shared sets the layer's own quant pointers.
static yx_operand take_shared(const yx_model *m, layout *a, operand_place place, int64_t rows, int64_t cols, alias of) {
    return take_operand(m, a, precision_shared_dtype(&m->precision, place), rows, cols, of, (yx_quant){0});
}

// An operand of the forward pass. Where the weight gradient reads the transposed copy, the row copy is free for the
// next layer as soon as the forward product has read it: `row`. `each`: every layer has its own.
static yx_operand take_forward(const yx_model *m, layout *a, int64_t layer, bool each, operand_place place,
                               int64_t rows, int64_t cols, void *row, alias of) {
    const precision_state *p = &m->precision;
    yx_dtype dtype = each ? precision_dtype(p, layer, place) : precision_shared_dtype(p, place);
    yx_quant quant = precision_quant(p, layer, place);
    if (!has_col(m, dtype)) return take_operand(m, a, dtype, rows, cols, of, quant);
    void *col = layout_take(a, (size_t)(rows * cols) * yx_dtype_size(dtype));
    return (yx_operand){.dtype = dtype, .row = row, .col = col, .quant = quant};
}

static yx_real *param_pointer(const yx_model *m, param_role role, int64_t layer) {
    return m->params ? m->params + m->table.items[param_index(&m->table, role, layer)].offset : NULL;
}

// Working copies of the weights, the scales, and the small tables of a run.
static void layout_copies(yx_model *m, layout *a) {
    const config_model *c = &m->config;
    const precision_state *p = &m->precision;
    precision_layout(&m->precision, a);
    m->scalars = layout_take(a, sizeof *m->scalars);
    m->rope_table = layout_take(a, (size_t)(c->max_position_embeddings * c->head_dim) * sizeof(yx_real));
    const param *e = &m->table.items[0];
    m->embed = take_operand(m, a, p->act, e->stored_rows, e->cols,
                            (alias){p->act == YX_F32, param_pointer(m, PARAM_EMBED, 0)}, (yx_quant){0});
    m->proj = take_operand(m, a, p->act, c->embedding_rank, c->hidden_size,
                           (alias){p->act == YX_F32, param_pointer(m, PARAM_PROJ, 0)}, (yx_quant){0});
    for (int64_t l = 0; l < c->num_layers; l++) {
        model_layer *y = &m->layers[l];
        const struct {
            yx_operand *operand;
            operand_place place;
            param_role role;
        } weights[] = {{&y->w_qkv, OPERAND_W_QKV, PARAM_QKV},
                       {&y->w_o, OPERAND_W_O, PARAM_O},
                       {&y->w_gate_up, OPERAND_W_GATE_UP, PARAM_GATE_UP},
                       {&y->w_down, OPERAND_W_DOWN, PARAM_DOWN}};
        for (int i = 0; i < 4; i++) {
            const param *w = &m->table.items[param_index(&m->table, weights[i].role, l)];
            alias of = {p->forward == YX_F32, param_pointer(m, weights[i].role, l)};
            *weights[i].operand = take_place(m, a, l, weights[i].place, w->rows, w->cols, of);
        }
    }
}

static void layout_layer(yx_model *m, layout *a, int64_t l, bool each) {
    const config_model *c = &m->config;
    int64_t M = m->max_rows, D = c->hidden_size, A = attn_width(c);
    size_t act = yx_dtype_size(m->precision.act), real = sizeof(yx_real);
    model_layer *y = &m->layers[l];
    y->s1 = l == 0 ? m->x0 : layout_take(a, (size_t)(M * D) * act);
    y->qkv = layout_take(a, (size_t)(M * qkv_width(c)) * act);
    y->attn = layout_take(a, (size_t)(M * A) * act);
    y->s2 = layout_take(a, (size_t)(M * D) * act);
    y->gate_up = layout_take(a, (size_t)(M * 2 * c->intermediate_size) * act);
    y->rstd1 = layout_take(a, (size_t)M * real);
    y->rstd2 = layout_take(a, (size_t)M * real);
    y->lse = layout_take(a, (size_t)(M * c->num_attention_heads) * real);
    y->x1 = take_forward(m, a, l, each, OPERAND_X1, M, D, m->row_x, NO_ALIAS);
    y->attn_operand = take_forward(m, a, l, each, OPERAND_ATTN, M, A, m->row_attn, (alias){true, y->attn});
    y->x2 = take_forward(m, a, l, each, OPERAND_X2, M, D, m->row_x, NO_ALIAS);
}

// Evaluation keeps no layer: all share the first two layers' buffers (the second's, whose s1 is its own). With
// recomputation each keeps its s1.
static void share_layers(yx_model *m, layout *a) {
    size_t bytes = (size_t)(m->max_rows * m->config.hidden_size) * yx_dtype_size(m->precision.act);
    void *s1 = NULL;
    layout_layer(m, a, 0, false);
    for (int64_t l = 1; l < m->config.num_layers; l++) {
        model_layer *y = &m->layers[l], weights = *y;
        if (l == 1 || m->recompute) s1 = layout_take(a, bytes);
        *y = m->layers[0];
        y->s1 = s1;
        y->w_qkv = weights.w_qkv, y->w_o = weights.w_o, y->w_gate_up = weights.w_gate_up, y->w_down = weights.w_down;
        y->x1.quant = precision_quant(&m->precision, l, OPERAND_X1);
        y->attn_operand.quant = precision_quant(&m->precision, l, OPERAND_ATTN);
        y->x2.quant = precision_quant(&m->precision, l, OPERAND_X2);
    }
}

// Buffers that every layer uses in turn.
static void layout_transients(yx_model *m, layout *a) {
    const config_model *c = &m->config;
    int64_t M = m->max_rows, D = c->hidden_size, F = c->intermediate_size, A = attn_width(c), Q = qkv_width(c);
    size_t act = yx_dtype_size(m->precision.act);
    m->delta = layout_take(a, (size_t)(M * D) * act);
    m->h = take_shared(m, a, OPERAND_H, M, F, NO_ALIAS);
    if (!m->training) return;
    m->dx = layout_take(a, (size_t)(M * D) * act);
    m->dnorm = layout_take(a, (size_t)(M * D) * act);
    m->dh = layout_take(a, (size_t)(M * F) * act);
    m->d_attn = layout_take(a, (size_t)(M * A) * act);
    m->dqkv = layout_take(a, (size_t)(M * Q) * act);
    m->d_gate_up = take_shared(m, a, OPERAND_D_GATE_UP, M, 2 * F, NO_ALIAS);
    m->d_down = take_shared(m, a, OPERAND_D_DOWN, M, D, (alias){true, m->dx});
    m->d_o = take_shared(m, a, OPERAND_D_O, M, D, (alias){true, m->dx});
    m->d_qkv = take_shared(m, a, OPERAND_D_QKV, M, Q, (alias){true, m->dqkv});
    if (!m->precision.num_slots) return;
    int64_t widest = 2 * F > Q ? 2 * F : Q;
    m->c_x = layout_take(a, (size_t)(M * D) * act);
    m->c_h = layout_take(a, (size_t)(M * F) * act);
    m->c_gate_up = layout_take(a, (size_t)(M * 2 * F) * act);
    m->c_weight = layout_take(a, (size_t)(widest * D) * act);
}

static void layout_activations(yx_model *m, layout *a) {
    const config_model *c = &m->config;
    int64_t M = m->max_rows, D = c->hidden_size, R = c->embedding_rank;
    size_t act = yx_dtype_size(m->precision.act), real = sizeof(yx_real);
    m->z0 = layout_take(a, (size_t)(M * R) * act);
    m->x0 = layout_take(a, (size_t)(M * D) * act);
    m->s_final = layout_take(a, (size_t)(M * D) * act);
    m->x_final = take_operand(m, a, m->precision.act, M, D, NO_ALIAS, (yx_quant){0});
    m->z = layout_take(a, (size_t)(M * R) * act);
    m->dz = m->training ? layout_take(a, (size_t)(M * R) * act) : NULL;
    m->rstd_final = layout_take(a, (size_t)M * real);
    m->lse = layout_take(a, (size_t)M * real);
    m->loss = layout_take(a, (size_t)M * real);
    bool shares = has_col(m, m->precision.forward); // see take_forward; a byte each
    m->row_x = shares ? layout_take(a, (size_t)(M * D)) : NULL;
    m->row_attn = shares ? layout_take(a, (size_t)(M * attn_width(c))) : NULL;
    if (m->training && !m->recompute)
        for (int64_t l = 0; l < c->num_layers; l++) layout_layer(m, a, l, true);
    else share_layers(m, a);
    layout_transients(m, a);
}

static size_t workspace_bytes(const yx_model *m) {
    const config_model *c = &m->config;
    yx_workspace_query query = {.rows = m->max_rows,
                                .embed_rows = m->max_rows * m->table.ranks,
                                .hidden = c->hidden_size,
                                .heads = c->num_attention_heads,
                                .kv_heads = c->num_key_value_heads,
                                .head_dim = c->head_dim,
                                .intermediate = c->intermediate_size,
                                .rank = c->embedding_rank,
                                .vocab = c->vocab_size,
                                .act = m->precision.act};
    return m->ops->workspace_size(m->device, &query);
}

static void measure(yx_model *m) {
    layout a = {0};
    layout_copies(m, &a);
    m->copies_bytes = a.used;
    a.used = 0;
    layout_activations(m, &a);
    m->activations_bytes = a.used;
    m->workspace_bytes = workspace_bytes(m);
}

static yx_status allocate(yx_model *m) {
    yx_status status = YX_OK;
    size_t bytes = (size_t)m->table.elements * sizeof(yx_real);
    YX_CHECK(m->ops->alloc(m->device, bytes, (void **)&m->params));
    YX_CHECK(m->ops->zero(m->device, NULL, m->params, bytes));
    if (m->training) YX_CHECK(m->ops->alloc(m->device, bytes, (void **)&m->grads));
    YX_CHECK(m->ops->alloc(m->device, m->copies_bytes, &m->copies));
    YX_CHECK(m->ops->zero(m->device, NULL, m->copies, m->copies_bytes));
    YX_CHECK(m->ops->alloc(m->device, m->activations_bytes, &m->activations));
    YX_CHECK(m->ops->alloc(m->device, m->workspace_bytes, &m->workspace));
    m->ops->set_workspace(m->device, m->workspace, m->workspace_bytes);
    layout copies = {.base = m->copies}, activations = {.base = m->activations};
    layout_copies(m, &copies);
    layout_activations(m, &activations);
    precision_set_slots(&m->precision, &m->config, &m->table, m->params);
fail:
    return status;
}

// cos and sin of position · theta^(-2i / head_dim).
static yx_status fill_rope_table(yx_model *m) {
    int64_t half = m->config.head_dim / 2, positions = m->config.max_position_embeddings;
    size_t bytes = (size_t)(positions * half * 2) * sizeof(yx_real);
    yx_real *host = malloc(bytes);
    if (!host) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the rotary table");
    for (int64_t p = 0; p < positions; p++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)p * pow(m->config.rope_theta, -2.0 * (double)i / (double)m->config.head_dim);
            host[(p * half + i) * 2] = (yx_real)cos(angle);
            host[(p * half + i) * 2 + 1] = (yx_real)sin(angle);
        }
    yx_status status = m->ops->copy(m->device, NULL, m->rope_table, host, bytes);
    if (status == YX_OK) status = m->ops->stream_sync(m->device, NULL);
    free(host);
    return status;
}

static yx_status prepare(yx_model *m, const yx_ops *ops, yx_device *device, const config_model *config,
                         const model_options *options) {
    yx_status status = YX_OK;
    *m = (yx_model){.ops = ops,
                    .device = device,
                    .config = *config,
                    .max_rows = options->max_rows,
                    .training = options->training,
                    .recompute = options->training && options->recompute};
    YX_CHECK(param_table_create(config, options->ranks, options->bucket_bytes, &m->table));
    YX_CHECK(precision_create(&options->precision, config->num_layers, &m->precision));
    m->layers = calloc((size_t)config->num_layers, sizeof *m->layers);
    if (!m->layers) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %lld layers", (long long)config->num_layers);
    measure(m);
fail:
    return status;
}

static void release(yx_model *m) {
    if (m->device) {
        m->ops->free(m->device, m->params);
        m->ops->free(m->device, m->grads);
        m->ops->free(m->device, m->copies);
        m->ops->free(m->device, m->activations);
        m->ops->free(m->device, m->workspace);
    }
    free(m->layers);
    precision_free(&m->precision);
    param_table_free(&m->table);
}

yx_status model_measure(const yx_ops *ops, yx_device *device, const config_model *config, const model_options *options,
                        model_sizes *out) {
    yx_model m;
    yx_status status = prepare(&m, ops, device, config, options);
    int64_t params = m.table.elements * (int64_t)sizeof(yx_real);
    *out = (model_sizes){.params = params,
                         .grads = options->training ? params : 0,
                         .copies = (int64_t)m.copies_bytes,
                         .activations = (int64_t)m.activations_bytes,
                         .workspace = (int64_t)m.workspace_bytes,
                         .largest_bucket = param_largest_bucket(&m.table) * (int64_t)sizeof(yx_real)};
    m.device = NULL; // nothing was allocated
    release(&m);
    return status;
}

yx_status model_create(const yx_ops *ops, yx_device *device, const config_model *config, const model_options *options,
                       yx_model **out) {
    yx_status status = YX_OK;
    yx_model *m = malloc(sizeof *m);
    if (!m) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a model");
    YX_CHECK(prepare(m, ops, device, config, options));
    YX_CHECK(allocate(m));
    YX_CHECK(fill_rope_table(m));
    *out = m;
    return YX_OK;
fail:
    model_free(m);
    return status;
}

void model_free(yx_model *m) {
    if (!m) return;
    release(m);
    free(m);
}

yx_status model_init(yx_model *m, uint64_t seed) {
    yx_status status = YX_OK;
    size_t bytes = (size_t)m->table.elements * sizeof(yx_real);
    yx_real *host = calloc(1, bytes);
    if (!host) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to initialise the parameters");
    for (int64_t i = 0; i < m->table.count; i++) {
        const param *p = &m->table.items[i];
        yx_real *values = host + p->offset;
        int64_t n = param_size(p);
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < n; k++)
            values[k] = p->init_std > 0 ? (yx_real)(float)(p->init_std * yx_normal(seed, (uint64_t)i, (uint64_t)k)) : 1;
    }
    YX_CHECK(m->ops->copy(m->device, NULL, m->params, host, bytes));
    YX_CHECK(m->ops->stream_sync(m->device, NULL));
    YX_CHECK(model_refresh_copies(m));
fail:
    free(host);
    return status;
}

yx_status model_cast_param(yx_model *m, int64_t index) {
    const param *p = &m->table.items[index];
    yx_cast_args args = {.rows = p->stored_rows,
                         .cols = p->cols ? p->cols : 1,
                         .src = m->params + p->offset,
                         .dst = model_param_operand(m, index)};
    if (!args.dst.row || args.dst.row == (void *)args.src) return YX_OK;
    return m->ops->cast(m->device, NULL, &args);
}

yx_status model_refresh_copies(yx_model *m) {
    yx_status status = YX_OK;
    yx_step_scalars none = {0};
    // 8-bit weights: once to learn amax, once more with the scale it gives.
    for (int round = 0; round < (m->precision.num_slots ? 2 : 1); round++) {
        for (int64_t i = 0; i < m->table.count; i++) YX_CHECK(model_cast_param(m, i));
        if (!m->precision.num_slots) break;
        if (round == 0) {
            YX_CHECK(m->ops->copy(m->device, NULL, m->scalars, &none, sizeof none));
            YX_CHECK(precision_update(&m->precision, m->ops, m->device, 1u << YX_SCALE_WEIGHT | 1u << YX_SCALE_NORM,
                                      m->scalars));
        }
    }
fail:
    return status;
}

yx_operand model_param_operand(const yx_model *m, int64_t index) {
    const param *p = &m->table.items[index];
    const model_layer *y = index >= 2 ? &m->layers[(index - 2) / PARAMS_PER_LAYER] : NULL;
    switch (p->role) {
    case PARAM_EMBED:
        return m->embed;
    case PARAM_PROJ:
        return m->proj;
    case PARAM_QKV:
        return y->w_qkv;
    case PARAM_O:
        return y->w_o;
    case PARAM_GATE_UP:
        return y->w_gate_up;
    case PARAM_DOWN:
        return y->w_down;
    default:
        return (yx_operand){.dtype = YX_F32, .row = m->params + p->offset};
    }
}

int64_t model_padded_vocab(const yx_model *m) { return m->table.items[0].stored_rows; }

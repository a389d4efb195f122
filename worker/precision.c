#include "worker/precision.h"
#include <stdlib.h>

precision_options precision_of(const config_training *training) {
    return (precision_options){.precision = training->precision,
                               .recipe = training->fp8_recipe,
                               .gradient = training->fp8_gradient,
                               .act_at_start = training->bf16_layers_at_start,
                               .act_at_end = training->bf16_layers_at_end};
}

yx_status precision_create(const precision_options *options, int64_t num_layers, precision_state *out) {
    bool eight = options->precision == PRECISION_FP8;
    yx_dtype act = options->precision == PRECISION_FP32 ? YX_F32 : YX_BF16;
    *out = (precision_state){.act = act,
                             .forward = eight ? YX_E4M3 : act,
                             .gradient = act,
                             .recipe = options->recipe,
                             .first = options->act_at_start,
                             .end = num_layers - options->act_at_end};
    if (eight && options->recipe != FP8_FORWARD_ONLY)
        out->gradient = options->gradient == FP8_GRADIENT_E4M3 ? YX_E4M3 : YX_E5M2;
    if (!eight) return YX_OK;
    out->num_slots = num_layers * OPERANDS_PER_LAYER;
    out->slots = calloc((size_t)out->num_slots, sizeof *out->slots);
    out->fallback = calloc((size_t)num_layers, sizeof *out->fallback);
    return out->slots && out->fallback
               ? YX_OK
               : yx_fail(YX_ERR_NO_MEMORY, "no memory for %lld scales", (long long)out->num_slots);
}

void precision_free(precision_state *p) {
    free(p->slots);
    free(p->fallback);
    p->slots = NULL;
    p->fallback = NULL;
}

void precision_layout(precision_state *p, layout *a) {
    size_t n = (size_t)p->num_slots;
    p->scale = layout_take(a, n * sizeof(float));
    p->scale_inv = layout_take(a, n * YX_SCALE_INV_SPACING * sizeof(float));
    p->amax = layout_take(a, n * sizeof(float));
    p->history = layout_take(a, n * YX_SCALE_HISTORY_LENGTH * sizeof(float));
    p->saturated = layout_take(a, n * sizeof(uint32_t));
}

yx_dtype precision_shared_dtype(const precision_state *p, operand_place place) {
    return place >= OPERAND_D_QKV ? p->gradient : p->forward;
}

yx_dtype precision_dtype(const precision_state *p, int64_t layer, operand_place place) {
    return layer < p->first || layer >= p->end ? p->act : precision_shared_dtype(p, place);
}

bool precision_in_act(const precision_state *p, int64_t layer, bool backward) {
    if (!p->num_slots) return false;
    if (p->warms_up || layer < p->first || layer >= p->end || p->fallback[layer]) return true;
    return backward && p->recipe == FP8_FORWARD_ONLY;
}

static yx_scale_kind kind_of(config_fp8_recipe recipe, operand_place place) {
    bool weight = place >= OPERAND_W_QKV && place <= OPERAND_W_DOWN;
    if (recipe == FP8_CURRENT && !weight) return YX_SCALE_CURRENT;
    if (place == OPERAND_X1 || place == OPERAND_X2) return YX_SCALE_NORM;
    return weight ? YX_SCALE_WEIGHT : YX_SCALE_HISTORY;
}

void precision_set_slots(precision_state *p, const config_model *model, const param_table *table,
                         const yx_real *params) {
    for (int64_t i = 0; i < p->num_slots; i++) {
        operand_place place = (operand_place)(i % OPERANDS_PER_LAYER);
        yx_scale_slot *slot = &p->slots[i];
        yx_dtype dtype = precision_dtype(p, i / OPERANDS_PER_LAYER, place);
        *slot = (yx_scale_slot){.kind = kind_of(p->recipe, place), .dtype = dtype == p->act ? YX_E5M2 : dtype};
        if (slot->kind != YX_SCALE_NORM) continue;
        param_role role = place == OPERAND_X1 ? PARAM_NORM1 : PARAM_NORM2;
        slot->gamma = params + table->items[param_index(table, role, i / OPERANDS_PER_LAYER)].offset;
        slot->cols = model->hidden_size;
    }
}

yx_quant precision_quant(const precision_state *p, int64_t layer, operand_place place) {
    if (!p->num_slots) return (yx_quant){0};
    int64_t i = layer * OPERANDS_PER_LAYER + (int64_t)place;
    if (precision_dtype(p, layer, place) == p->act) return (yx_quant){.amax = p->amax + i};
    return (yx_quant){p->scale + i, p->scale_inv + i * YX_SCALE_INV_SPACING, p->amax + i, p->saturated + i};
}

static yx_scales_args scales_args(const precision_state *p, unsigned kinds, const yx_step_scalars *scalars) {
    return (yx_scales_args){.slots = p->slots,
                            .num_slots = p->num_slots,
                            .count = p->num_slots,
                            .kinds = kinds,
                            .margin_bits = PRECISION_MARGIN_BITS,
                            .scalars = scalars,
                            .scale = p->scale,
                            .scale_inv = p->scale_inv,
                            .amax = p->amax,
                            .history = p->history};
}

yx_status precision_update(const precision_state *p, const yx_ops *ops, yx_device *device, unsigned kinds,
                           const yx_step_scalars *scalars) {
    yx_scales_args args = scales_args(p, kinds, scalars);
    return p->num_slots ? ops->scales(device, NULL, &args) : YX_OK;
}

yx_status precision_update_slot(const precision_state *p, const yx_ops *ops, yx_device *device, int64_t layer,
                                operand_place place, const yx_step_scalars *scalars) {
    yx_scales_args args = scales_args(p, 1u << YX_SCALE_CURRENT, scalars);
    args.first = layer * OPERANDS_PER_LAYER + (int64_t)place;
    args.count = 1;
    return ops->scales(device, NULL, &args);
}

#include "worker/precision.h"
#include <stdlib.h>

yx_status precision_create(config_precision precision, int64_t num_layers, precision_state *out) {
    bool eight = precision == PRECISION_FP8;
    yx_dtype act = precision == PRECISION_FP32 ? YX_F32 : YX_BF16;
    *out = (precision_state){.act = act, .forward = eight ? YX_E4M3 : act, .gradient = eight ? YX_E5M2 : act};
    if (!eight) return YX_OK;
    out->num_slots = num_layers * OPERANDS_PER_LAYER;
    out->slots = calloc((size_t)out->num_slots, sizeof *out->slots);
    return out->slots ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for %lld scales", (long long)out->num_slots);
}

void precision_free(precision_state *p) {
    free(p->slots);
    p->slots = NULL;
}

void precision_layout(precision_state *p, layout *a) {
    size_t n = (size_t)p->num_slots;
    p->scale = layout_take(a, n * sizeof(float));
    p->scale_inv = layout_take(a, n * sizeof(float));
    p->amax = layout_take(a, n * sizeof(float));
    p->history = layout_take(a, n * YX_SCALE_HISTORY_LENGTH * sizeof(float));
    p->saturated = layout_take(a, n * sizeof(uint32_t));
}

yx_dtype precision_dtype(const precision_state *p, operand_place place) {
    return place >= OPERAND_D_QKV ? p->gradient : p->forward;
}

static yx_scale_kind kind_of(operand_place place) {
    if (place == OPERAND_X1 || place == OPERAND_X2) return YX_SCALE_NORM;
    return place >= OPERAND_W_QKV && place <= OPERAND_W_DOWN ? YX_SCALE_WEIGHT : YX_SCALE_HISTORY;
}

void precision_set_slots(precision_state *p, const config_model *model, const param_table *table,
                         const yx_real *params) {
    for (int64_t i = 0; i < p->num_slots; i++) {
        operand_place place = (operand_place)(i % OPERANDS_PER_LAYER);
        yx_scale_slot *slot = &p->slots[i];
        *slot = (yx_scale_slot){.kind = kind_of(place), .dtype = precision_dtype(p, place)};
        if (slot->kind != YX_SCALE_NORM) continue;
        param_role role = place == OPERAND_X1 ? PARAM_NORM1 : PARAM_NORM2;
        slot->gamma = params + table->items[param_index(table, role, i / OPERANDS_PER_LAYER)].offset;
        slot->cols = model->hidden_size;
    }
}

yx_quant precision_quant(const precision_state *p, int64_t layer, operand_place place) {
    if (!p->num_slots) return (yx_quant){0};
    int64_t i = layer * OPERANDS_PER_LAYER + (int64_t)place;
    return (yx_quant){p->scale + i, p->scale_inv + i, p->amax + i, p->saturated + i};
}

yx_status precision_update(const precision_state *p, const yx_ops *ops, yx_device *device, unsigned kinds,
                           const yx_step_scalars *scalars) {
    if (!p->num_slots) return YX_OK;
    yx_scales_args args = {.slots = p->slots,
                           .num_slots = p->num_slots,
                           .kinds = kinds,
                           .margin_bits = PRECISION_MARGIN_BITS,
                           .scalars = scalars,
                           .scale = p->scale,
                           .scale_inv = p->scale_inv,
                           .amax = p->amax,
                           .history = p->history};
    return ops->scales(device, NULL, &args);
}

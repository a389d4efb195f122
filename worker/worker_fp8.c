// What the casts to 8 bits recorded in a step, and what follows from it.
#include "worker/worker_private.h"

// Values of a tensor per token.
static double width(const config_model *c, operand_place place) {
    double hidden = (double)c->hidden_size, heads = (double)(c->num_attention_heads * c->head_dim);
    switch (place) {
    case OPERAND_ATTN:
        return heads;
    case OPERAND_H:
        return (double)c->intermediate_size;
    case OPERAND_D_QKV:
        return heads + 2.0 * (double)(c->num_key_value_heads * c->head_dim);
    case OPERAND_D_GATE_UP:
        return 2.0 * (double)c->intermediate_size;
    default:
        return hidden;
    }
}

static bool is_weight(operand_place place) { return place >= OPERAND_W_QKV && place <= OPERAND_W_DOWN; }

yx_status worker_read_fp8(yx_worker *w, int64_t tokens) {
    const precision_state *p = &w->model->precision;
    const config_model *c = &w->options.model;
    double *counts = w->clipped, *layers = w->clipped + p->num_slots, clipped = 0, values = 0;
    if (!p->num_slots) return YX_OK;
    w->fp8 = (worker_fp8){.clipped = layers};
    for (int64_t i = 0; i < p->num_slots; i++) counts[i] = w->readback->saturated[i];
    yx_status status = group_all_reduce(w->group, counts, (size_t)p->num_slots, GROUP_F64, GROUP_SUM);
    for (int64_t l = 0; l < c->num_layers; l++) layers[l] = 0;
    for (int64_t i = 0; i < p->num_slots; i++) {
        operand_place place = (operand_place)(i % OPERANDS_PER_LAYER);
        int64_t layer = i / OPERANDS_PER_LAYER;
        double of = (double)tokens * width(c, place), amax = w->readback->history[i * YX_SCALE_HISTORY_LENGTH];
        if (amax > w->fp8.amax[place]) w->fp8.amax[place] = amax;
        // Weights are cast once a step, within their bound; what is multiplied in act is not cast.
        if (is_weight(place) || precision_in_act(p, layer, place >= OPERAND_D_QKV)) continue;
        clipped += counts[i];
        values += of;
        if (counts[i] / of > layers[layer]) layers[layer] = counts[i] / of;
    }
    w->fp8.saturated = values > 0 ? clipped / values : 0;
    return status;
}

void worker_set_warmup(yx_worker *w, bool in_act) {
    precision_state *p = &w->model->precision;
    if (!p->num_slots || p->warms_up == in_act) return;
    p->warms_up = in_act;
    worker_forget_graphs(w);
}

void worker_set_fallback(yx_worker *w, int64_t layer, bool in_act) {
    if (!w->model->precision.fallback || layer < 0 || layer >= w->options.model.num_layers) return;
    w->model->precision.fallback[layer] = in_act;
    worker_forget_graphs(w);
}

bool worker_has_fallback(const yx_worker *w, int64_t layer) {
    return w->model->precision.fallback && w->model->precision.fallback[layer];
}

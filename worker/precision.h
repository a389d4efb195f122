// Which precision each operand of the model has, and where 8-bit scales live. The model code asks for operands by their
// place and never for a precision.
#pragma once
#include "kernels/kernels.h"
#include "worker/layout.h"
#include "worker/params.h"

typedef enum operand_place { // one of each per layer
    OPERAND_X1,              // RMSNorm output into qkv
    OPERAND_ATTN,            // attention output into o
    OPERAND_X2,              // RMSNorm output into gate_up
    OPERAND_H,               // SwiGLU output into down
    OPERAND_W_QKV,
    OPERAND_W_O,
    OPERAND_W_GATE_UP,
    OPERAND_W_DOWN,
    OPERAND_D_QKV, // gradients of the four products' outputs
    OPERAND_D_O,
    OPERAND_D_GATE_UP,
    OPERAND_D_DOWN,
    OPERANDS_PER_LAYER
} operand_place;

enum { PRECISION_MARGIN_BITS = 1 };

typedef struct precision_options {
    config_precision precision;
    config_fp8_recipe recipe;
    config_fp8_gradient gradient;
    int64_t act_at_start, act_at_end; // layers of an 8-bit model whose products are in act
} precision_options;

typedef struct precision_state {
    yx_dtype act;               // residual stream, activations, embedding
    yx_dtype forward, gradient; // operands of the block's products: act, or 8 bits
    config_fp8_recipe recipe;
    int64_t first, end;   // layers first … end − 1 multiply in 8 bits; the others' operands are in act
    bool warms_up;        // all layers multiply in act for now
    bool *fallback;       // [num_layers] host: of these, layers that multiply in act all the same
    int64_t num_slots;    // 0 unless 8-bit
    yx_scale_slot *slots; // [num_slots] host
    float *scale, *amax;  // [num_slots] device
    float *scale_inv;     // [num_slots, YX_SCALE_INV_SPACING]
    float *history;       // [num_slots, YX_SCALE_HISTORY_LENGTH] device
    uint32_t *saturated;  // [num_slots] device
} precision_state;

precision_options precision_of(const config_training *training);
yx_status precision_create(const precision_options *options, int64_t num_layers, precision_state *out);
void precision_free(precision_state *p);
// Device memory of the scales.
void precision_layout(precision_state *p, layout *a);
// Fills the slots' kinds; `params` is the arena the norms' gammas lie in.
void precision_set_slots(precision_state *p, const config_model *model, const param_table *table,
                         const yx_real *params);
// Whether this layer's products are in act in this pass, although others' are in 8 bits.
bool precision_in_act(const precision_state *p, int64_t layer, bool backward);
// Type of a layer's operand.
yx_dtype precision_dtype(const precision_state *p, int64_t layer, operand_place place);
// Type of an operand whose memory all layers use in turn.
yx_dtype precision_shared_dtype(const precision_state *p, operand_place place);
// Scale pointers of a layer's operand (none unless it is 8-bit, but for amax).
yx_quant precision_quant(const precision_state *p, int64_t layer, operand_place place);
// Sets one slot's scale from the amax it has now (recipe "current").
yx_status precision_update_slot(const precision_state *p, const yx_ops *ops, yx_device *device, int64_t layer,
                                operand_place place, const yx_step_scalars *scalars);
// Brings the scales of these kinds up to date (bits 1u << yx_scale_kind).
yx_status precision_update(const precision_state *p, const yx_ops *ops, yx_device *device, unsigned kinds,
                           const yx_step_scalars *scalars);

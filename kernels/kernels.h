// The operation table: everything the worker asks of a device. kernels/cpu is the reference, kernels/cuda the fast one.
//
// Contract. An operation only enqueues on its stream; its arguments are copied at the call. Scalars that change from
// step to step live in device memory (yx_step_scalars, scales). Nothing returns to the host but through copy(). No
// operation allocates: scratch comes from the workspace that workspace_size asks for. Operations on one stream run in
// order. The CPU backend runs each at once and ignores streams. Results do not depend on the number of threads or on
// timing.
//
// Types. "act" is the activation dtype (YX_F32 or YX_BF16) of the residual stream and of what the matrix products
// write. yx_real (float) is for parameters, gradients, moments and statistics. Shapes are row-major. M = rows = tokens
// of the micro-batch; every M is a multiple of 128.
#pragma once
#include "common/dtype.h"
#include "common/status.h"
#include <stdint.h>

typedef struct yx_device yx_device;
typedef struct yx_stream yx_stream; // NULL: the device's default stream
typedef struct yx_event yx_event;
typedef struct yx_graph yx_graph;

// --- Operands of matrix products

// Where a scaled tensor's factors live (device memory). Stored value = value · scale; scale_inv undoes it. Producers
// raise *amax to the largest |value| they saw (before scaling), and count in *saturated the values that the cast
// clipped: those with |value · scale| > max(dtype), whose code is counted once however many copies are written.
// Pointers may be NULL: then scale is 1 and nothing is recorded. amax is recorded for every dtype when it is not NULL.
// scale_inv is 16-byte aligned: GPU libraries read it so.
typedef struct yx_quant {
    const float *scale, *scale_inv;
    float *amax;
    uint32_t *saturated;
} yx_quant;

// A matrix as an operand: its precision is its own property. Producers write the copies whose pointer is not NULL.
typedef struct yx_operand {
    yx_dtype dtype;
    void *row; // [rows, cols]
    void *col; // [cols, rows], for backends whose 8-bit products need it (yx_ops.needs_transposed)
    yx_quant quant;
} yx_operand;

// y = x·wᵀ and its two derivatives; a and b as named. Output in `out_dtype`; `accumulate` adds to what is there.
typedef enum yx_matmul_form {
    YX_MATMUL_Y,  // out[M,N] = a[M,K] · b[N,K]ᵀ          a = x,  b = w
    YX_MATMUL_DX, // out[M,K] = a[M,N] · b[N,K]            a = dy, b = w
    YX_MATMUL_DW  // out[N,K] = a[M,N]ᵀ · b[M,K]           a = dy, b = x
} yx_matmul_form;
typedef struct yx_matmul_args {
    yx_matmul_form form;
    int64_t M, N, K;
    yx_operand a, b;
    void *out;
    yx_dtype out_dtype; // act for Y and DX, YX_F32 for DW (and for logits)
    bool accumulate;
} yx_matmul_args;

// --- Embedding
typedef struct yx_embed_args { // z[i,:] = E[token[i],:]
    int64_t rows, rank;
    yx_dtype act;
    const int32_t *token; // [M]
    yx_operand E;         // [vocab, rank], row copy, YX_F32 or YX_BF16
    void *z;              // [M, rank] act
} yx_embed_args;
typedef struct yx_embed_backward_args { // dE[token[i],:] += dz[i,:], in a fixed order
    int64_t rows, rank, vocab;
    yx_dtype act;
    const int32_t *token;
    const void *dz; // [M, rank] act
    yx_real *dE;    // [vocab, rank]
} yx_embed_backward_args;

// --- RMSNorm: y = gamma · s / sqrt(mean(s²) + eps), s = x + delta (Zhang & Sennrich 2019)
typedef struct yx_norm_args {
    int64_t rows, cols;
    yx_dtype act;
    double eps;
    const void *x;        // [M, cols] act
    const void *delta;    // [M, cols] act, added first; NULL: nothing to add
    void *sum;            // [M, cols] act, s; not written when delta is NULL
    const yx_real *gamma; // [cols]
    yx_real *rstd;        // [M] out
    yx_operand y;         // [M, cols]
} yx_norm_args;
// dx = dres + (derivative of y by s)(dy); dgamma += ….
typedef struct yx_norm_backward_args {
    int64_t rows, cols;
    yx_dtype act;
    const void *dy; // [M, cols] act
    const void *s;  // [M, cols] act: the normalised sum of the forward pass
    const yx_real *rstd, *gamma;
    const void *dres; // [M, cols] act, gradient that by-passes the norm; NULL: zero
    void *dx;         // [M, cols] act; may be dres
    yx_operand
        dx_operand;  // further copies of dx as the next products' operand; where .row == dx that copy is dx itself
    yx_real *dgamma; // [cols], accumulates; NULL: not wanted
} yx_norm_backward_args;

// --- Rotary positions, halves rotated (Su et al. 2021; the layout of Llama in Hugging Face)

// Rotates q and k of qkv [M, (heads + 2·kv_heads)·head_dim] in place by position i
// - seq_start[i]; `inverse` rotates back (the backward pass). v passes; its largest |value| goes to quant.amax of `out`
// in the forward pass (attention's outputs are convex combinations of v). In the backward pass `out` receives the
// copies of the result as the next products' operand (.row == qkv: itself; with another row or column copy what is left
// in qkv is of no use).
typedef struct yx_rope_args {
    int64_t rows, heads, kv_heads, head_dim;
    yx_dtype act;
    bool inverse;
    const int32_t *seq_start; // [M]
    const yx_real *table;     // [max_positions, head_dim/2, 2]: cos, sin
    void *qkv;
    yx_operand out;
} yx_rope_args;

// --- Attention: softmax(scale · q·kᵀ + mask)·v, query head h reads key/value head h / (heads / kv_heads)

// Key j is visible to query i iff seq_start[i] <= j <= i.
typedef struct yx_attention_args {
    int64_t rows, heads, kv_heads, head_dim;
    yx_dtype act;
    double scale;
    const int32_t *seq_start;
    const void *qkv; // [M, (heads + 2·kv_heads)·head_dim] act, rotated
    void *o;         // [M, heads·head_dim] act
    yx_operand out; // copies of o as an operand; .row == o: itself. quant.amax is not touched (rope recorded the bound)
    yx_real *lse;   // [heads, M] log-sum-exp of the scaled scores
} yx_attention_args;
typedef struct yx_attention_backward_args {
    int64_t rows, heads, kv_heads, head_dim;
    yx_dtype act;
    double scale;
    const int32_t *seq_start;
    const void *qkv, *o, *d_o; // as above; d_o [M, heads·head_dim] act
    const yx_real *lse;
    void *dqkv; // [M, (heads + 2·kv_heads)·head_dim] act, of the rotated q and k
} yx_attention_backward_args;

// --- SwiGLU: h = silu(gate) · up (Shazeer 2020)
typedef struct yx_swiglu_args {
    int64_t rows, cols;
    yx_dtype act;
    const void *gate_up; // [M, 2·cols] act: gate | up
    yx_operand h;        // [M, cols]
} yx_swiglu_args;
typedef struct yx_swiglu_backward_args {
    int64_t rows, cols;
    yx_dtype act;
    const void *gate_up, *dh; // dh [M, cols] act
    yx_operand dgate_up;      // [M, 2·cols] out
    yx_operand
        h; // [M, cols] out, computed again: the operand of the weight gradient (nothing is recorded: forward did)
} yx_swiglu_backward_args;

// --- Head: cross-entropy of softmax(z·Eᵀ) over `vocab` words, no [M, vocab] matrix in memory (reference: cut
// cross-entropy, Wijmans et al. 2024; here with dz in the forward pass)
typedef struct yx_head_args {
    int64_t rows, rank, vocab;
    yx_dtype act;
    const void *z;         // [M, rank] act
    yx_operand E;          // [vocab padded, rank], row copy; rows from vocab on are not read
    const int32_t *target; // [M], -1: not scored (its loss is 0 and its dz is 0)
    double grad_scale;     // dz and dE are multiplied by it: 1 / tokens of the global step
    yx_real *lse;          // [M] out (needed by the backward pass)
    yx_real *loss;         // [M] out: nats of each token
    double *loss_sum;      // [1] accumulates the nats; NULL: not wanted
    void *dz;              // [M, rank] act out; NULL: evaluation only
} yx_head_args;
typedef struct yx_head_backward_args { // dE += grad_scale · (softmax - onehot)ᵀ · z
    int64_t rows, rank, vocab;
    yx_dtype act;
    const void *z;
    yx_operand E;
    const int32_t *target;
    double grad_scale;
    const yx_real *lse;
    yx_real *dE; // [vocab, rank]
} yx_head_backward_args;

// --- Optimizer

// Device memory; the first group is copied in by the host before each step, the second is computed on the device.
enum { YX_CLOCKS = 4 };
typedef struct yx_step_scalars {
    double lr, beta1, beta2, eps, weight_decay, bias_correction1, bias_correction2; // 1 - beta^t
    double grad_clip;                                                               // 0: no clipping
    double norm_limit, loss_limit; // of grad_norm and loss_sum, above which the step is left out; 0: none
    double grad_sum_squares;       // from sum_squares, over all tensors
    double grad_norm, clip_coefficient;
    int64_t skip;              // 1: the gradient is not finite, or beyond a limit; adamw changes and records nothing
    double loss_sum;           // nats of the step's tokens (head_forward adds)
    int64_t clocks[YX_CLOCKS]; // nanoseconds between moments of the step (yx_ops.clock)
} yx_step_scalars;

typedef struct yx_adamw_segment { // one parameter tensor [rows, cols]
    int64_t rows, cols;
    yx_real *param, *moment1, *moment2;
    const yx_real *grad;
    bool decay;         // weight decay applies (matrices)
    yx_operand operand; // working copies to write (.row == param in fp32); quant.amax receives max |param|
} yx_adamw_segment;
// Decoupled weight decay (Loshchilov & Hutter 2019): p -= lr·(m̂ / (sqrt(v̂) + eps) + weight_decay·p), gradient times
// clip_coefficient. `segments` stays valid and unchanged for the life of the run (a backend may keep its own copy).
typedef struct yx_adamw_args {
    const yx_adamw_segment *segments;
    int64_t num_segments;
    const yx_step_scalars *scalars;
} yx_adamw_args;

// --- 8-bit scales

// Scales are powers of two, so that scaling is exact and small differences of amax do not show.
// scale = 2^floor(log2(max(dtype) / bound)), the exponent within ±126; a bound that is 0 or not finite gives 1.
// scale_inv = 1 / scale. An amax that is not finite enters the history as the entry before it did. With scalars->skip
// set YX_SCALE_WEIGHT slots keep scale and amax: adamw leaves the copies as they were written.
typedef enum yx_scale_kind {
    YX_SCALE_HISTORY, // bound = 2^margin_bits · max over the last YX_SCALE_HISTORY_LENGTH steps' amax
    YX_SCALE_NORM,    // RMSNorm outputs: bound = sqrt(cols) · max|gamma|, needs no history
    YX_SCALE_CURRENT, // bound = amax
    YX_SCALE_WEIGHT   // bound = amax + lr·max(1, (1 - beta1) / sqrt(1 - beta2)): the largest weight after the coming
                      // AdamW step
} yx_scale_kind;
enum { YX_SCALE_HISTORY_LENGTH = 16, YX_SCALE_INV_SPACING = 4 }; // spacing: floats from one scale_inv to the next
typedef struct yx_scale_slot {                                   // host memory, fixed for the run
    yx_scale_kind kind;
    yx_dtype dtype;
    const yx_real *gamma; // YX_SCALE_NORM: [cols]
    int64_t cols;
} yx_scale_slot;
typedef struct yx_scales_args {
    const yx_scale_slot *slots; // fixed for the run
    int64_t num_slots;
    int64_t first, count; // the slots to look at
    unsigned kinds;       // 1u << yx_scale_kind of the slots to bring up to date
    int margin_bits;
    const yx_step_scalars *scalars;
    float *scale, *amax; // [num_slots] device; amax of updated slots is set back to 0, but for NORM's
    float *scale_inv;    // [num_slots, YX_SCALE_INV_SPACING] device: the first of each
    float *history; // [num_slots, YX_SCALE_HISTORY_LENGTH] device, newest first; unused entries 0. CURRENT: the first
                    // entry is the last amax
} yx_scales_args;

typedef struct yx_cast_args { // writes the copies of `src` [rows, cols] and records amax
    int64_t rows, cols;
    yx_dtype src_dtype; // YX_F32 (weights) or YX_BF16
    const void *src;
    yx_operand dst;
} yx_cast_args;

// --- The table
typedef struct yx_device_info {
    char name[128];
    int64_t memory_total, memory_free; // bytes
    bool eight_bit;                    // multiplies 8-bit operands
    int index;                         // of the GPU on its host
} yx_device_info;

typedef struct yx_device_options {
    bool deterministic; // the same bits in every run; false: kernels that add in the order of arrival may be used
    bool portable;      // only kernels that every supported card runs
} yx_device_options;

typedef struct yx_workspace_query { // the largest shapes a run will use
    int64_t rows, hidden, heads, kv_heads, head_dim, intermediate, rank, vocab;
    int64_t embed_rows; // of embed_backward: those of all ranks
    yx_dtype act;
} yx_workspace_query;

typedef struct yx_ops {
    const char *name;         // "cpu", "cuda"
    bool needs_transposed[4]; // by yx_dtype: operands of this type need .col for DX (weights) and DW (both)
    // Whole-graph capture is there (graph_* are not NULL).
    bool has_graphs;
    bool host_memory; // the host can read and write device memory

    yx_status (*open)(int index, const yx_device_options *options, yx_device **out); // options NULL: all false
    void (*close)(yx_device *);
    yx_status (*info)(yx_device *, yx_device_info *out);
    yx_status (*alloc)(yx_device *, size_t bytes, void **out); // device memory, 256-byte aligned
    void (*free)(yx_device *, void *);
    yx_status (*alloc_host)(yx_device *, size_t bytes, void **out); // host memory that copies run fastest from
    void (*free_host)(yx_device *, void *);
    yx_status (*copy)(yx_device *, yx_stream *, void *dst, const void *src, size_t bytes); // any direction
    yx_status (*zero)(yx_device *, yx_stream *, void *dst, size_t bytes);
    yx_status (*stream_create)(yx_device *, yx_stream **out);
    void (*stream_destroy)(yx_device *, yx_stream *);
    yx_status (*stream_sync)(yx_device *, yx_stream *);
    void *(*native_stream)(yx_device *, yx_stream *); // the vendor's handle, for libraries that queue work themselves
    yx_status (*event_done)(yx_device *, yx_event *, bool *done);
    yx_status (*event_create)(yx_device *, yx_event **out);
    void (*event_destroy)(yx_device *, yx_event *);
    yx_status (*event_record)(yx_device *, yx_event *, yx_stream *);
    yx_status (*event_sync)(yx_device *, yx_event *);
    yx_status (*event_seconds)(yx_device *, yx_event *begin, yx_event *end, double *seconds);
    yx_status (*stream_wait)(yx_device *, yx_stream *, yx_event *);
    yx_status (*graph_begin)(yx_device *, yx_stream *);
    yx_status (*graph_end)(yx_device *, yx_stream *, yx_graph **out);
    yx_status (*graph_launch)(yx_device *, yx_graph *, yx_stream *);
    void (*graph_destroy)(yx_device *, yx_graph *);

    size_t (*workspace_size)(const yx_device *, const yx_workspace_query *);
    void (*set_workspace)(yx_device *, void *workspace, size_t bytes);

    yx_status (*matmul)(yx_device *, yx_stream *, const yx_matmul_args *);
    yx_status (*embed)(yx_device *, yx_stream *, const yx_embed_args *);
    yx_status (*embed_backward)(yx_device *, yx_stream *, const yx_embed_backward_args *);
    yx_status (*norm)(yx_device *, yx_stream *, const yx_norm_args *);
    yx_status (*norm_backward)(yx_device *, yx_stream *, const yx_norm_backward_args *);
    yx_status (*rope)(yx_device *, yx_stream *, const yx_rope_args *);
    yx_status (*attention)(yx_device *, yx_stream *, const yx_attention_args *);
    yx_status (*attention_backward)(yx_device *, yx_stream *, const yx_attention_backward_args *);
    yx_status (*swiglu)(yx_device *, yx_stream *, const yx_swiglu_args *);
    yx_status (*swiglu_backward)(yx_device *, yx_stream *, const yx_swiglu_backward_args *);
    yx_status (*head)(yx_device *, yx_stream *, const yx_head_args *);
    yx_status (*head_backward)(yx_device *, yx_stream *, const yx_head_backward_args *);
    yx_status (*sum_squares)(yx_device *, yx_stream *, const yx_real *x, int64_t n, double *accumulate);
    yx_status (*clip)(yx_device *, yx_stream *, yx_step_scalars *); // grad_norm, clip_coefficient, skip
    yx_status (*adamw)(yx_device *, yx_stream *, const yx_adamw_args *);
    yx_status (*scales)(yx_device *, yx_stream *, const yx_scales_args *);
    yx_status (*cast)(yx_device *, yx_stream *, const yx_cast_args *);
    // *sum (device memory) += sign · nanoseconds of a steady clock, when the stream comes to it: with -1 at the
    // beginning and +1 at the end of a stretch, its length.
    yx_status (*clock)(yx_device *, yx_stream *, int64_t *sum, int sign);
} yx_ops;

// The reference backend.
const yx_ops *kernels_cpu(void);
// The backend of that name ("cpu"); YX_ERR_UNAVAILABLE with the reason when it is not in this build or on this machine.
yx_status kernels_find(const char *name, const yx_ops **out);

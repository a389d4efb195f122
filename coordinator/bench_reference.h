// The operations by their definitions, in float64 and without a thought for speed but OpenMP's: what `bench kernels`
// compares a backend with. Nothing here calls a backend. Shapes and names as in kernels/kernels.h; [rows, …] row-major.
#pragma once
#include "kernels/kernels.h"

// out += the product.
void reference_matmul(yx_matmul_form form, int64_t M, int64_t N, int64_t K, const double *a, const double *b,
                      double *out);

void reference_norm(int64_t rows, int64_t cols, double eps, const double *s, const double *gamma, double *rstd,
                    double *y);
// dx holds dres; dgamma is added to.
void reference_norm_backward(int64_t rows, int64_t cols, const double *dy, const double *s, const double *rstd,
                             const double *gamma, double *dx, double *dgamma);
void reference_swiglu(int64_t rows, int64_t cols, const double *gate_up, double *h);
void reference_swiglu_backward(int64_t rows, int64_t cols, const double *gate_up, const double *dh, double *dgate_up);

typedef struct reference_heads { // of attention and rope
    int64_t rows, heads, kv_heads, head_dim;
    double scale;
    const int32_t *seq_start;
} reference_heads;
static inline int64_t reference_width(const reference_heads *s) { return (s->heads + 2 * s->kv_heads) * s->head_dim; }

// In place. table: [max_positions, head_dim/2, 2].
void reference_rope(const reference_heads *s, bool inverse, const double *table, double *qkv);
void reference_attention(const reference_heads *s, const double *qkv, double *o, double *lse);
void reference_attention_backward(const reference_heads *s, const double *qkv, const double *o, const double *d_o,
                                  const double *lse, double *dqkv);

typedef struct reference_words { // of the head
    int64_t rows, rank, vocab;
    double grad_scale;
    const int32_t *target;
    const double *z, *E;
} reference_words;
// loss, lse: [rows]; dz: [rows, rank], NULL: not wanted.
void reference_head(const reference_words *w, double *lse, double *loss, double *dz);
// dE is added to.
void reference_head_backward(const reference_words *w, const double *lse, double *dE);

// z[i] = E[token[i]]; dE[token[i]] += dz[i].
void reference_embed(int64_t rows, int64_t rank, const int32_t *token, const double *E, double *z);
void reference_embed_backward(int64_t rows, int64_t rank, const int32_t *token, const double *dz, double *dE);

void reference_adamw(const yx_step_scalars *s, bool decay, int64_t n, double *param, double *moment1, double *moment2,
                     const double *grad);
double reference_sum_squares(int64_t n, const double *x);

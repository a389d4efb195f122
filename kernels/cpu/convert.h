// Activations and operands to and from yx_real, a piece of a row at a time.
#pragma once
#include "kernels/cpu/cpu.h"

static inline bool cpu_is_act(yx_dtype t) { return t == YX_F32 || t == YX_BF16; }

static inline void *cpu_at(yx_dtype t, const void *base, int64_t index) {
    return (char *)base + (size_t)index * yx_dtype_size(t);
}

// n values from base[index] on: the stored ones themselves for YX_F32, otherwise decoded into `buffer`.
static inline const yx_real *cpu_load(yx_dtype t, const void *base, int64_t index, int64_t n, yx_real *buffer) {
    if (t == YX_F32) return (const yx_real *)base + index;
    yx_decode(t, cpu_at(t, base, index), n, buffer);
    return buffer;
}

static inline void cpu_store(yx_dtype t, void *base, int64_t index, int64_t n, const yx_real *x) {
    yx_encode(t, x, 1.0f, n, cpu_at(t, base, index));
}

// Where to compute n values before cpu_store or operand_store: in place for YX_F32, otherwise in `buffer`.
static inline yx_real *cpu_target(yx_dtype t, void *base, int64_t index, yx_real *buffer) {
    return t == YX_F32 && base ? (yx_real *)base + index : buffer;
}

// What a thread has seen of a tensor; thread results are joined by tally_record in any order.
typedef struct cpu_tally {
    float amax;
    uint32_t saturated;
} cpu_tally;

static inline float largest_magnitude(const yx_real *x, int64_t n) {
    yx_real m = 0;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) {
        yx_real a = x[i] < 0 ? -x[i] : x[i];
        m = a > m ? a : m;
    }
    return (float)m;
}

static inline void tally_values(cpu_tally *t, const yx_quant *q, const yx_real *x, int64_t n) {
    if (!q->amax) return;
    float m = largest_magnitude(x, n);
    if (m > t->amax) t->amax = m;
}

// Call once per thread, inside the parallel region.
static inline void tally_record(const cpu_tally *t, const yx_quant *q) {
    if (!q->amax && !q->saturated) return;
#pragma omp critical(yx_tally)
    {
        if (q->amax && t->amax > *q->amax) *q->amax = t->amax;
        if (q->saturated) *q->saturated += t->saturated;
    }
}

static inline float quant_scale(const yx_quant *q) { return q->scale ? *q->scale : 1.0f; }
static inline float quant_scale_inv(const yx_quant *q) { return q->scale_inv ? *q->scale_inv : 1.0f; }

// Writes the copies of x, n values of row `row` from column `col` on, of the matrix [rows, cols]; tallies.
void operand_store(const yx_operand *o, int64_t rows, int64_t cols, int64_t row, int64_t col, int64_t n,
                   const yx_real *x, cpu_tally *t);
static inline bool operand_wanted(const yx_operand *o) { return o->row || o->col || o->quant.amax; }

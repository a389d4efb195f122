// SwiGLU, elementwise.
#include "kernels/cpu/convert.h"
#include "kernels/cpu/vexp.h"

static inline yx_real sigmoid(yx_real x) { return 1 / (1 + vexp(-x)); }

static void swiglu_row(const yx_swiglu_args *a, int64_t row, cpu_tally *tally) {
    for (int64_t j = 0; j < a->cols; j += CPU_CHUNK) {
        int64_t n = cpu_min(CPU_CHUNK, a->cols - j), at = row * 2 * a->cols + j;
        yx_real bg[CPU_CHUNK], bu[CPU_CHUNK], h[CPU_CHUNK];
        const yx_real *gate = cpu_load(a->act, a->gate_up, at, n, bg);
        const yx_real *up = cpu_load(a->act, a->gate_up, at + a->cols, n, bu);
        for (int64_t i = 0; i < n; i++) h[i] = gate[i] * sigmoid(gate[i]) * up[i];
        operand_store(&a->h, a->rows, a->cols, row, j, n, h, tally);
    }
}

yx_status cpu_swiglu(yx_device *d, yx_stream *stream, const yx_swiglu_args *a) {
    (void)stream;
    if (a->cols <= 0 || !cpu_is_act(a->act)) return yx_fail(YX_ERR_INTERNAL, "swiglu: arguments break the contract");
#pragma omp parallel num_threads(d->threads)
    {
        cpu_tally tally = {0};
#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->rows; row++) swiglu_row(a, row, &tally);
        tally_record(&tally, &a->h.quant);
    }
    return YX_OK;
}

// silu'(g) = sigmoid(g) · (1 + g · (1 - sigmoid(g)))
static void derivatives(int64_t n, const yx_real *restrict gate, const yx_real *restrict up, const yx_real *restrict dh,
                        yx_real *restrict dgate, yx_real *restrict dup, yx_real *restrict h) {
    for (int64_t i = 0; i < n; i++) {
        yx_real s = sigmoid(gate[i]), silu = gate[i] * s;
        dgate[i] = dh[i] * up[i] * (s + silu * (1 - s));
        dup[i] = dh[i] * silu;
        h[i] = silu * up[i];
    }
}

static void backward_row(const yx_swiglu_backward_args *a, const yx_operand *h_copies, int64_t row, cpu_tally *tally) {
    for (int64_t j = 0; j < a->cols; j += CPU_CHUNK) {
        int64_t n = cpu_min(CPU_CHUNK, a->cols - j), at = row * 2 * a->cols + j;
        yx_real bg[CPU_CHUNK], bu[CPU_CHUNK], bh[CPU_CHUNK], dgate[CPU_CHUNK], dup[CPU_CHUNK], h[CPU_CHUNK];
        const yx_real *gate = cpu_load(a->act, a->gate_up, at, n, bg);
        const yx_real *up = cpu_load(a->act, a->gate_up, at + a->cols, n, bu);
        const yx_real *dh = cpu_load(a->act, a->dh, row * a->cols + j, n, bh);
        derivatives(n, gate, up, dh, dgate, dup, h);
        cpu_tally unused = {0};
        operand_store(h_copies, a->rows, a->cols, row, j, n, h, &unused);
        operand_store(&a->dgate_up, a->rows, 2 * a->cols, row, j, n, dgate, tally);
        operand_store(&a->dgate_up, a->rows, 2 * a->cols, row, a->cols + j, n, dup, tally);
    }
}

yx_status cpu_swiglu_backward(yx_device *d, yx_stream *stream, const yx_swiglu_backward_args *a) {
    (void)stream;
    if (a->cols <= 0 || !cpu_is_act(a->act))
        return yx_fail(YX_ERR_INTERNAL, "swiglu_backward: arguments break the contract");
    yx_operand h = a->h;
    h.quant.amax = NULL; // the forward pass recorded it
#pragma omp parallel num_threads(d->threads)
    {
        cpu_tally tally = {0};
#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->rows; row++) backward_row(a, &h, row, &tally);
        tally_record(&tally, &a->dgate_up.quant);
    }
    return YX_OK;
}

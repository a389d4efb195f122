#include "coordinator/bench_kernels_error.h"
#include <math.h>
#include <stdlib.h>

double error_worse(double a, double b) { return a > b || isnan(a) ? a : b; }

double error_of_scalar(double value, double expected) {
    double difference = fabs(value - expected);
    return expected == 0 ? difference : difference / fabs(expected);
}

static double relative(double difference, double size) { return size > 0 ? sqrt(difference / size) : sqrt(difference); }

double error_of(tensors *t, yx_dtype dtype, const void *address, int64_t n, const double *expected) {
    double difference = 0, size = 0, *x = tensors_after(t, dtype, address, n);
    if (t->status != YX_OK) return NAN;
#pragma omp parallel for schedule(static) reduction(+ : difference, size)
    for (int64_t i = 0; i < n; i++) {
        difference += (x[i] - expected[i]) * (x[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return relative(difference, size);
}

// --- 8-bit copies
// The magnitudes that round to each code without its sign.
typedef struct code_table {
    double low[128], high[128];
} code_table;

static void fill_codes(yx_dtype dtype, code_table *c) {
    float (*value)(yx_fp8) = dtype == YX_E4M3 ? yx_e4m3_to_float : yx_e5m2_to_float;
    for (int code = 0; code < 128; code++) {
        double x = (double)value((yx_fp8)code), largest = (double)yx_dtype_max(dtype);
        bool finite = x <= largest;
        c->low[code] = !finite ? NAN : code ? (x + (double)value((yx_fp8)(code - 1))) / 2 : -(double)value(1) / 2;
        c->high[code] = !finite ? NAN : x < largest ? (x + (double)value((yx_fp8)(code + 1))) / 2 : INFINITY;
    }
}

static double beyond_rounding(const code_table *c, yx_fp8 code, double value) {
    double x = code & 0x80 ? -value : value, low = c->low[code & 0x7f], high = c->high[code & 0x7f];
    return isnan(low) ? NAN : x < low ? low - x : x > high ? x - high : 0;
}

// The codes of [rows, cols], or of its transpose.
static double error_of_codes(tensors *t, const yx_operand *o, bool col, int64_t rows, int64_t cols,
                             const double *expected) {
    double difference = 0, size = 0;
    code_table table;
    float scale = 1;
    yx_fp8 *codes = malloc((size_t)(rows * cols));
    if (!codes) t->status = yx_fail(YX_ERR_NO_MEMORY, "no memory to compare a tensor");
    if (codes) tensors_read(t, col ? o->col : o->row, (size_t)(rows * cols), codes);
    if (o->quant.scale) tensors_read(t, o->quant.scale, sizeof scale, &scale);
    fill_codes(o->dtype, &table);
#pragma omp parallel for schedule(static) reduction(+ : difference, size)
    for (int64_t i = 0; i < (t->status == YX_OK ? rows * cols : 0); i++) {
        double x = expected[i] * (double)scale;
        double e = beyond_rounding(&table, codes[col ? i % cols * rows + i / cols : i], x);
        difference += e * e;
        size += x * x;
    }
    free(codes);
    return t->status == YX_OK ? relative(difference, size) : NAN;
}

static double *transposed(tensors *t, int64_t rows, int64_t cols, const double *x) {
    double *out = tensors_zeros(t, rows * cols);
    for (int64_t i = 0; out && i < rows * cols; i++) out[i % cols * rows + i / cols] = x[i];
    return out;
}

static double error_of_copy(tensors *t, const yx_operand *o, bool col, int64_t rows, int64_t cols,
                            const double *expected) {
    if (o->dtype == YX_E4M3 || o->dtype == YX_E5M2) return error_of_codes(t, o, col, rows, cols, expected);
    if (!col) return error_of(t, o->dtype, o->row, rows * cols, expected);
    const double *swapped = transposed(t, rows, cols, expected);
    return swapped ? error_of(t, o->dtype, o->col, rows * cols, swapped) : NAN;
}

static double error_of_amax(tensors *t, const yx_operand *o, int64_t n, const double *expected) {
    float amax = NAN;
    double largest = 0;
    tensors_read(t, o->quant.amax, sizeof amax, &amax);
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(expected[i]));
    return error_of_scalar((double)amax, largest);
}

double error_of_operand(tensors *t, const yx_operand *o, int64_t rows, int64_t cols, const double *expected) {
    double error = 0;
    if (t->status != YX_OK) return NAN;
    if (o->row) error = error_worse(error, error_of_copy(t, o, false, rows, cols, expected));
    if (o->col) error = error_worse(error, error_of_copy(t, o, true, rows, cols, expected));
    if (o->quant.amax) error = error_worse(error, error_of_amax(t, o, rows * cols, expected));
    return error;
}

// Gradient norm, clipping, AdamW.
#include "kernels/cpu/convert.h"

enum { NORM_PARTS = 256, SEGMENT_PIECE = 4096 };

yx_status cpu_sum_squares(yx_device *d, yx_stream *stream, const yx_real *x, int64_t n, double *accumulate) {
    (void)stream;
    if (n < 0) return yx_fail(YX_ERR_INTERNAL, "sum_squares: %lld values", (long long)n);
    double parts[NORM_PARTS];
    int64_t size = cpu_ceil_div(n, NORM_PARTS);
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t part = 0; part < NORM_PARTS; part++) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = cpu_min(n, part * size); i < cpu_min(n, (part + 1) * size); i++)
            sum += (double)x[i] * (double)x[i];
        parts[part] = sum;
    }
    for (int64_t part = 0; part < NORM_PARTS; part++) *accumulate += parts[part];
    return YX_OK;
}

yx_status cpu_clip(yx_device *d, yx_stream *stream, yx_step_scalars *s) {
    (void)d, (void)stream;
    s->grad_norm = sqrt(s->grad_sum_squares);
    s->skip = !isfinite(s->grad_norm) || (s->norm_limit > 0 && s->grad_norm > s->norm_limit) ||
              (s->loss_limit > 0 && s->loss_sum > s->loss_limit);
    s->clip_coefficient = s->grad_clip > 0 && s->grad_norm > s->grad_clip ? s->grad_clip / s->grad_norm : 1;
    return YX_OK;
}

typedef struct adamw_factors {
    yx_real lr, beta1, beta2, rest1, rest2, eps, decay, unbias1, unbias2, clip;
} adamw_factors;

static adamw_factors factors_of(const yx_step_scalars *s) {
    return (adamw_factors){.lr = (yx_real)s->lr,
                           .beta1 = (yx_real)s->beta1,
                           .beta2 = (yx_real)s->beta2,
                           .rest1 = (yx_real)(1 - s->beta1),
                           .rest2 = (yx_real)(1 - s->beta2),
                           .eps = (yx_real)s->eps,
                           .unbias1 = (yx_real)(1 / s->bias_correction1),
                           .unbias2 = (yx_real)(1 / s->bias_correction2),
                           .clip = (yx_real)s->clip_coefficient};
}

static void update(const adamw_factors f, int64_t n, yx_real *restrict param, yx_real *restrict moment1,
                   yx_real *restrict moment2, const yx_real *restrict grad) {
    for (int64_t i = 0; i < n; i++) {
        yx_real g = grad[i] * f.clip, m = f.beta1 * moment1[i] + f.rest1 * g,
                v = f.beta2 * moment2[i] + f.rest2 * (g * g);
        moment1[i] = m;
        moment2[i] = v;
        param[i] -= f.lr * (m * f.unbias1 / (real_sqrt(v * f.unbias2) + f.eps) + f.decay * param[i]);
    }
}

// Values [begin, begin + n) of a segment; without a transposed copy the segment is one long row.
static void update_piece(const yx_adamw_segment *s, const adamw_factors *f, int64_t cols, int64_t begin, int64_t n,
                         cpu_tally *tally) {
    update(*f, n, s->param + begin, s->moment1 + begin, s->moment2 + begin, s->grad + begin);
    int64_t rows = s->rows * s->cols / cols;
    operand_store(&s->operand, rows, cols, begin / cols, begin % cols, n, s->param + begin, tally);
}

static void update_segment(const yx_adamw_segment *s, adamw_factors f, double weight_decay) {
    f.decay = s->decay ? (yx_real)weight_decay : 0;
    int64_t cols = s->operand.col ? s->cols : s->rows * s->cols;
    int64_t per_row = cpu_ceil_div(cols, SEGMENT_PIECE), pieces = s->rows * s->cols / cols * per_row;
    cpu_tally tally = {0};
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < pieces; i++) {
        int64_t col = i % per_row * SEGMENT_PIECE;
        update_piece(s, &f, cols, i / per_row * cols + col, cpu_min(SEGMENT_PIECE, cols - col), &tally);
    }
    tally_record(&tally, &s->operand.quant);
}

yx_status cpu_adamw(yx_device *d, yx_stream *stream, const yx_adamw_args *a) {
    (void)stream;
    for (int64_t i = 0; i < a->num_segments; i++)
        if (a->segments[i].rows <= 0 || a->segments[i].cols <= 0)
            return yx_fail(YX_ERR_INTERNAL, "adamw: segment %lld is empty", (long long)i);
    if (a->scalars->skip) return YX_OK;
    adamw_factors f = factors_of(a->scalars);
#pragma omp parallel num_threads(d->threads)
    for (int64_t i = 0; i < a->num_segments; i++) update_segment(&a->segments[i], f, a->scalars->weight_decay);
    return YX_OK;
}

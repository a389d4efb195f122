// Scales of 8-bit tensors, and the copies of a matrix at load.
#include "kernels/cpu/convert.h"

// Newest first. A step whose largest value is not finite says nothing about the size of the next ones: the entry before
// it counts twice.
static double push_history(float *history, float amax) {
    if (!isfinite(amax)) amax = history[0];
    memmove(history + 1, history, (YX_SCALE_HISTORY_LENGTH - 1) * sizeof *history);
    history[0] = amax;
    float largest = 0;
    for (int i = 0; i < YX_SCALE_HISTORY_LENGTH; i++) largest = fmaxf(largest, history[i]);
    return largest;
}

static double bound_of(const yx_scales_args *a, int64_t i) {
    const yx_scale_slot *slot = &a->slots[i];
    const yx_step_scalars *s = a->scalars;
    switch (slot->kind) {
    case YX_SCALE_HISTORY:
        return ldexp(push_history(a->history + i * YX_SCALE_HISTORY_LENGTH, a->amax[i]), a->margin_bits);
    case YX_SCALE_NORM:
        return sqrt((double)slot->cols) * (double)largest_magnitude(slot->gamma, slot->cols);
    case YX_SCALE_CURRENT:
        a->history[i * YX_SCALE_HISTORY_LENGTH] = a->amax[i]; // for those who watch
        return (double)a->amax[i];
    case YX_SCALE_WEIGHT:
        return (double)a->amax[i] + s->lr * fmax(1, (1 - s->beta1) / sqrt(1 - s->beta2));
    }
    return 0;
}

// 2^floor(log2(max / bound)), kept where its inverse is a normal number too.
static float power_of_two_scale(double max, double bound) {
    if (!(bound > 0) || !isfinite(bound)) return 1;
    int exponent;
    frexp(max / bound, &exponent); // max / bound in [2^(exponent-1), 2^exponent)
    return ldexpf(1, exponent - 1 < -126 ? -126 : exponent - 1 > 126 ? 126 : exponent - 1);
}

yx_status cpu_scales(yx_device *d, yx_stream *stream, const yx_scales_args *a) {
    (void)d, (void)stream;
    if (a->first < 0 || a->count < 0 || a->first + a->count > a->num_slots)
        return yx_fail(YX_ERR_INTERNAL, "scales: slots %lld … %lld of %lld", (long long)a->first,
                       (long long)(a->first + a->count), (long long)a->num_slots);
    for (int64_t i = a->first; i < a->first + a->count; i++) {
        const yx_scale_slot *slot = &a->slots[i];
        if (slot->dtype != YX_E4M3 && slot->dtype != YX_E5M2)
            return yx_fail(YX_ERR_INTERNAL, "scales: slot %lld is not 8-bit", (long long)i);
        if (!(a->kinds >> slot->kind & 1)) continue;
        // AdamW will not touch the weights of a skipped step: their scale has to stay the one they were written with.
        if (slot->kind == YX_SCALE_WEIGHT && a->scalars->skip) continue;
        a->scale[i] = power_of_two_scale((double)yx_dtype_max(slot->dtype), bound_of(a, i));
        a->scale_inv[i * YX_SCALE_INV_SPACING] = 1 / a->scale[i];
        if (slot->kind != YX_SCALE_NORM) a->amax[i] = 0;
    }
    return YX_OK;
}

// A row in pieces: decoded, where it is not fp32 already, and stored.
static void cast_row(const yx_cast_args *a, int64_t row, cpu_tally *tally) {
    yx_real values[CPU_CHUNK];
    for (int64_t col = 0; col < a->cols; col += CPU_CHUNK) {
        int64_t n = cpu_min(CPU_CHUNK, a->cols - col);
        const void *src = cpu_at(a->src_dtype, (void *)a->src, row * a->cols + col);
        if (a->src_dtype != YX_F32) yx_decode(a->src_dtype, src, n, values);
        operand_store(&a->dst, a->rows, a->cols, row, col, n, a->src_dtype == YX_F32 ? src : values, tally);
    }
}

yx_status cpu_cast(yx_device *d, yx_stream *stream, const yx_cast_args *a) {
    (void)stream;
    if (a->rows < 0 || a->cols <= 0 || !cpu_is_act(a->src_dtype))
        return yx_fail(YX_ERR_INTERNAL, "cast: arguments break the contract");
#pragma omp parallel num_threads(d->threads)
    {
        cpu_tally tally = {0};
#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->rows; row++) cast_row(a, row, &tally);
        tally_record(&tally, &a->dst.quant);
    }
    return YX_OK;
}

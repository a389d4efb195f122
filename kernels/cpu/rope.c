// Rotary positions, in place.
#include "kernels/cpu/convert.h"

// (x1, x2) -> (x1·cos - x2·sin, x2·cos + x1·sin) for the halves of one head. angles: [half, 2].
static void rotate(yx_real *restrict x, const yx_real *restrict angles, int64_t half, yx_real direction) {
    for (int64_t i = 0; i < half; i++) {
        yx_real c = angles[2 * i], s = direction * angles[2 * i + 1], x1 = x[i], x2 = x[half + i];
        x[i] = x1 * c - x2 * s;
        x[half + i] = x2 * c + x1 * s;
    }
}

// One head of one row; `rotated` is false for v, which is only looked at.
static void rope_head(const yx_rope_args *a, int64_t row, int64_t head, bool rotated, cpu_tally *tally) {
    int64_t width = (a->heads + 2 * a->kv_heads) * a->head_dim, at = row * width + head * a->head_dim;
    yx_real buffer[CPU_MAX_HEAD];
    yx_real *x = cpu_target(a->act, a->qkv, at, buffer);
    yx_decode(a->act, cpu_at(a->act, a->qkv, at), a->head_dim, x);
    if (rotated) {
        int64_t position = row - a->seq_start[row];
        rotate(x, a->table + position * a->head_dim, a->head_dim / 2, a->inverse ? -1 : 1);
        cpu_store(a->act, a->qkv, at, a->head_dim, x);
    }
    if (a->inverse) operand_store(&a->out, a->rows, width, row, head * a->head_dim, a->head_dim, x, tally);
    if (!a->inverse && !rotated) tally_values(tally, &a->out.quant, x, a->head_dim);
}

yx_status cpu_rope(yx_device *d, yx_stream *stream, const yx_rope_args *a) {
    (void)stream;
    if (a->head_dim <= 0 || a->head_dim % 2 || a->head_dim > CPU_MAX_HEAD || !cpu_is_act(a->act) ||
        (a->inverse && a->out.row == a->qkv && a->out.dtype != a->act))
        return yx_fail(YX_ERR_INTERNAL, "rope: arguments break the contract");
    int64_t rotated = a->heads + a->kv_heads, all = rotated + a->kv_heads;
    // v matters only to those who record or copy it.
    if (!operand_wanted(&a->out)) all = rotated;
#pragma omp parallel num_threads(d->threads)
    {
        cpu_tally tally = {0};
#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->rows; row++)
            for (int64_t head = 0; head < all; head++) rope_head(a, row, head, head < rotated, &tally);
        tally_record(&tally, &a->out.quant);
    }
    return YX_OK;
}

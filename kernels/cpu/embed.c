// The embedding's rows, and the sum of gradients per row.
#include "kernels/cpu/convert.h"

yx_status cpu_embed(yx_device *d, yx_stream *stream, const yx_embed_args *x) {
    (void)stream;
    if (x->rank <= 0 || x->rank > CPU_MAX_RANK || !cpu_is_act(x->act) || !cpu_is_act(x->E.dtype))
        return yx_fail(YX_ERR_INTERNAL, "embed: arguments break the contract");
    yx_real scale_inv = quant_scale_inv(&x->E.quant);
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t i = 0; i < x->rows; i++) {
        yx_real row[CPU_MAX_RANK];
        yx_decode(x->E.dtype, cpu_at(x->E.dtype, x->E.row, (int64_t)x->token[i] * x->rank), x->rank, row);
        if (scale_inv != 1)
            for (int64_t j = 0; j < x->rank; j++) row[j] *= scale_inv;
        cpu_store(x->act, x->z, i * x->rank, x->rank, row);
    }
    return YX_OK;
}

yx_status cpu_embed_backward(yx_device *d, yx_stream *stream, const yx_embed_backward_args *x) {
    (void)stream;
    if (x->rank <= 0 || x->rank > CPU_MAX_RANK || !cpu_is_act(x->act))
        return yx_fail(YX_ERR_INTERNAL, "embed_backward: arguments break the contract");
        // A task owns some words and goes through all tokens in order, so each sum has one order and one writer.
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int task = 0; task < d->threads; task++) {
        for (int64_t i = 0; i < x->rows; i++) {
            if (x->token[i] % d->threads != task) continue;
            yx_real buffer[CPU_MAX_RANK], *sum = x->dE + (int64_t)x->token[i] * x->rank;
            const yx_real *dz = cpu_load(x->act, x->dz, i * x->rank, x->rank, buffer);
            for (int64_t j = 0; j < x->rank; j++) sum[j] += dz[j];
        }
    }
    return YX_OK;
}

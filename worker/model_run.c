// The entry to the passes of one micro-batch: model_forward.c, model_backward.c.
#include "worker/model_pass.h"

yx_status model_run(yx_model *m, const model_batch *batch, model_pass pass, double grad_scale,
                    const model_hooks *hooks) {
    if (batch->rows < 1 || batch->rows > m->max_rows || batch->rows % 128)
        return yx_fail(YX_ERR_INTERNAL, "a micro-batch of %lld tokens in a model of %lld", (long long)batch->rows,
                       (long long)m->max_rows);
    if (pass != MODEL_EVALUATE && !m->training) return yx_fail(YX_ERR_INTERNAL, "this model only evaluates");
    model_pass_run r = {.m = m, .batch = batch, .pass = pass, .grad_scale = grad_scale, .hooks = hooks};
    yx_status status = pass_forward(&r);
    if (status == YX_OK && pass != MODEL_EVALUATE) status = pass_backward(&r);
    return status;
}

yx_status model_logits(yx_model *m, int64_t first, int64_t count, yx_real *logits) {
    int64_t R = m->config.embedding_rank;
    char *z = (char *)m->z + (size_t)(first * R) * yx_dtype_size(m->precision.act);
    yx_matmul_args args = {.form = YX_MATMUL_Y,
                           .M = count,
                           .N = model_padded_vocab(m),
                           .K = R,
                           .a = pass_plain(m, z),
                           .b = m->embed,
                           .out = logits,
                           .out_dtype = YX_F32};
    return m->ops->matmul(m->device, NULL, &args);
}

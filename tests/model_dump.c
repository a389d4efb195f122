// Loss and gradients of one micro-batch, for tests/test_model.py and the GPU's: model_dump FOLDER vocab rank hidden
// layers heads kv_heads head_dim intermediate rows precision [device [recipe [recompute]]]. FOLDER/params.bin: float32
// of every parameter in the table's order, without padding; FOLDER/batch.bin: int32 token, target, seq_start [3, rows].
// Writes FOLDER/grads.bin (float32) and prints the loss. 8-bit scales are set from the same micro-batch first.
#include "worker/model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static yx_status read_file(const char *folder, const char *name, void *data, size_t bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file || fread(data, 1, bytes, file) != bytes) return yx_fail_errno("cannot read %s", path);
    fclose(file);
    return YX_OK;
}

static yx_status read_params(yx_model *m, const char *folder) {
    yx_status status = YX_OK;
    float *packed = malloc((size_t)m->table.parameters * sizeof *packed), *at = packed;
    if (!packed) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    YX_CHECK(read_file(folder, "params.bin", packed, (size_t)m->table.parameters * sizeof *packed));
    for (int64_t i = 0; i < m->table.count; i++) {
        const param *p = &m->table.items[i];
        YX_CHECK(m->ops->copy(m->device, NULL, m->params + p->offset, at, (size_t)param_size(p) * sizeof *at));
        at += param_size(p);
    }
    YX_CHECK(m->ops->stream_sync(m->device, NULL));
    YX_CHECK(model_refresh_copies(m));
fail:
    free(packed);
    return status;
}

static yx_status write_grads(const yx_model *m, const char *folder) {
    yx_status status = YX_OK;
    char path[4096];
    size_t bytes = (size_t)m->table.elements * sizeof(yx_real);
    yx_real *grads = malloc(bytes);
    snprintf(path, sizeof path, "%s/grads.bin", folder);
    FILE *file = fopen(path, "wb");
    if (!grads || !file) YX_FAIL(YX_ERR_IO, "cannot create %s", path);
    YX_CHECK(m->ops->copy(m->device, NULL, grads, m->grads, bytes));
    YX_CHECK(m->ops->stream_sync(m->device, NULL));
    for (int64_t i = 0; i < m->table.count; i++)
        fwrite(grads + m->table.items[i].offset, sizeof(yx_real), (size_t)param_size(&m->table.items[i]), file);
fail:
    free(grads);
    if (file && fclose(file) != 0) status = yx_fail_errno("cannot write %s", path);
    return status;
}

static yx_status calibrate(yx_model *m, const model_batch *b, double grad_scale) {
    yx_status status = YX_OK;
    if (!m->precision.num_slots || m->precision.recipe == FP8_CURRENT) return YX_OK;
    YX_CHECK(model_run(m, b, MODEL_CALIBRATE, grad_scale, NULL));
    YX_CHECK(precision_update(&m->precision, m->ops, m->device, 1u << YX_SCALE_HISTORY, m->scalars));
    YX_CHECK(m->ops->zero(m->device, NULL, m->scalars, sizeof *m->scalars));
fail:
    return status;
}

static yx_status run(const char *folder, const char *device_name, const config_model *c, const model_options *options) {
    yx_status status = YX_OK;
    const yx_ops *ops;
    yx_device *device;
    yx_model *m = NULL;
    int64_t rows = options->max_rows, scored = 0;
    size_t bytes = (size_t)rows * 3 * sizeof(int32_t);
    int32_t *batch = malloc(bytes), *on_device;
    yx_step_scalars scalars;
    YX_CHECK(kernels_find(device_name, &ops));
    YX_CHECK(ops->open(0, &(yx_device_options){.deterministic = true}, &device));
    YX_CHECK(model_create(ops, device, c, options, &m));
    YX_CHECK(read_params(m, folder));
    if (!batch) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    YX_CHECK(read_file(folder, "batch.bin", batch, bytes));
    for (int64_t i = 0; i < rows; i++) scored += batch[rows + i] >= 0;
    YX_CHECK(ops->alloc(device, bytes, (void **)&on_device));
    YX_CHECK(ops->copy(device, NULL, on_device, batch, bytes));
    YX_CHECK(ops->zero(device, NULL, m->grads, (size_t)m->table.elements * sizeof(yx_real)));
    model_batch b = {rows, on_device, on_device + rows, on_device + 2 * rows};
    YX_CHECK(calibrate(m, &b, 1.0 / (double)scored));
    YX_CHECK(model_run(m, &b, MODEL_TRAIN, 1.0 / (double)scored, NULL));
    YX_CHECK(ops->copy(device, NULL, &scalars, m->scalars, sizeof scalars));
    YX_CHECK(ops->stream_sync(device, NULL));
    printf("%.17g\n", scalars.loss_sum / (double)scored);
    YX_CHECK(write_grads(m, folder));
    ops->free(device, on_device);
fail:
    model_free(m);
    free(batch);
    return status;
}

static int index_of(const char *name, const char *const *names) {
    int i = 0;
    while (names[i] && strcmp(names[i], name) != 0) i++;
    return i;
}

int main(int argc, char **argv) {
    static const char *const precisions[] = {"fp32", "bf16", "fp8", NULL};
    static const char *const recipes[] = {"bounded-delayed", "current", "forward-only", NULL};
    if (argc < 12) return YX_ERR_USAGE;
    int64_t n[8];
    for (int i = 0; i < 8; i++) n[i] = atoll(argv[2 + i]);
    config_model c = {.vocab_size = n[0],
                      .embedding_rank = n[1],
                      .hidden_size = n[2],
                      .num_layers = n[3],
                      .num_attention_heads = n[4],
                      .num_key_value_heads = n[5],
                      .head_dim = n[6],
                      .intermediate_size = n[7],
                      .max_position_embeddings = 2048,
                      .rope_theta = 10000,
                      .rms_norm_eps = 1e-5,
                      .initializer_range = 0.02};
    model_options options = {.precision = {.precision = (config_precision)index_of(argv[11], precisions),
                                           .recipe = argc > 13 ? (config_fp8_recipe)index_of(argv[13], recipes) : 0},
                             .max_rows = atoll(argv[10]),
                             .training = true,
                             .recompute = argc > 14};
    yx_status status = run(argv[1], argc > 12 ? argv[12] : "cpu", &c, &options);
    if (status != YX_OK) fprintf(stderr, "error: %s\n", yx_message());
    return (int)status;
}

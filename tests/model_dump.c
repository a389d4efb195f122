// Loss and gradients of one micro-batch, for tests/test_model.py: model_dump FOLDER vocab rank hidden layers heads
// kv_heads head_dim intermediate rows precision. FOLDER/params.bin: float32 of every parameter in the table's order,
// without padding; FOLDER/batch.bin: int32 token, target, seq_start [3, rows]. Writes FOLDER/grads.bin (float32) and
// prints the loss.
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

// Moves every parameter between an arena and a packed file.
static yx_status read_params(yx_model *m, const char *folder) {
    float *packed = malloc((size_t)m->table.parameters * sizeof *packed);
    yx_status status = packed ? read_file(folder, "params.bin", packed, (size_t)m->table.parameters * sizeof *packed)
                              : yx_fail(YX_ERR_NO_MEMORY, "no memory");
    float *at = packed;
    for (int64_t i = 0; i < m->table.count && status == YX_OK; i++) {
        const param *p = &m->table.items[i];
        memcpy(m->params + p->offset, at, (size_t)param_size(p) * sizeof *at);
        at += param_size(p);
    }
    free(packed);
    return status == YX_OK ? model_refresh_copies(m) : status;
}

static yx_status write_grads(const yx_model *m, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/grads.bin", folder);
    FILE *file = fopen(path, "wb");
    if (!file) return yx_fail_errno("cannot create %s", path);
    for (int64_t i = 0; i < m->table.count; i++)
        fwrite(m->grads + m->table.items[i].offset, sizeof(yx_real), (size_t)param_size(&m->table.items[i]), file);
    return fclose(file) == 0 ? YX_OK : yx_fail_errno("cannot write %s", path);
}

static yx_status run(const char *folder, const config_model *c, int64_t rows, config_precision precision) {
    yx_status status = YX_OK;
    const yx_ops *ops = kernels_cpu();
    yx_device *device;
    yx_model *m = NULL;
    int32_t *batch = malloc((size_t)rows * 3 * sizeof *batch);
    int64_t scored = 0;
    YX_CHECK(ops->open(0, NULL, &device));
    YX_CHECK(model_create(ops, device, c, precision, rows, true, &m));
    YX_CHECK(read_params(m, folder));
    if (!batch) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    YX_CHECK(read_file(folder, "batch.bin", batch, (size_t)rows * 3 * sizeof *batch));
    for (int64_t i = 0; i < rows; i++) scored += batch[rows + i] >= 0;
    YX_CHECK(ops->zero(device, NULL, m->grads, (size_t)m->table.elements * sizeof(yx_real)));
    model_batch b = {rows, batch, batch + rows, batch + 2 * rows};
    YX_CHECK(model_run(m, &b, MODEL_TRAIN, 1.0 / (double)scored));
    printf("%.17g\n", m->scalars->loss_sum / (double)scored);
    YX_CHECK(write_grads(m, folder));
fail:
    model_free(m);
    free(batch);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 12) return YX_ERR_USAGE;
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
    yx_status status = run(argv[1], &c, atoll(argv[10]), strcmp(argv[11], "fp32") ? PRECISION_BF16 : PRECISION_FP32);
    if (status != YX_OK) fprintf(stderr, "error: %s\n", yx_message());
    return (int)status;
}

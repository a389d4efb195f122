// The batches and initial weights of a run, for a reference that trains on the same: run_dump CONFIG STEPS FOLDER
// [KEY=VALUE …]. FOLDER/params.bin: float32 of every parameter in the table's order; FOLDER/steps.bin: for each step
// int64 tokens, int64 seq_len, double lr, double clip, then int32 token, target, seq_start [3, tokens].
#include "coordinator/plan.h"
#include "coordinator/setup.h"
#include "io/loader.h"
#include "worker/model.h"
#include <stdio.h>
#include <stdlib.h>

static yx_status write_params(const yx_config *c, const char *folder) {
    yx_status status = YX_OK;
    char path[4096];
    yx_device *device = NULL;
    yx_model *m = NULL;
    const yx_ops *ops = kernels_cpu();
    model_options options = {.precision = {.precision = PRECISION_FP32}, .max_rows = 128};
    snprintf(path, sizeof path, "%s/params.bin", folder);
    FILE *file = fopen(path, "wb");
    if (!file) return yx_fail_errno("cannot create %s", path);
    YX_CHECK(ops->open(0, NULL, &device));
    YX_CHECK(model_create(ops, device, &c->model, &options, &m));
    YX_CHECK(model_init(m, (uint64_t)c->training.seed));
    for (int64_t i = 0; i < m->table.count; i++)
        fwrite(m->params + m->table.items[i].offset, sizeof(yx_real), (size_t)param_size(&m->table.items[i]), file);
fail:
    model_free(m);
    if (fclose(file) != 0) status = yx_fail_errno("cannot write %s", path);
    return status;
}

static yx_status write_step(const plan_step *step, loader *l, FILE *file) {
    yx_status status = YX_OK;
    const micro_batch *batch;
    int64_t T = step->seq_len, tokens = T * step->num_sequences;
    int64_t micro = (tokens + 127) / 128 * 128;
    load_request request = {
        .position = step->token_begin, .seq_len = T, .num_sequences = step->num_sequences, .micro_tokens = micro};
    YX_CHECK(loader_request(l, &request));
    YX_CHECK(loader_next(l, &batch));
    fwrite(&tokens, sizeof tokens, 1, file);
    fwrite(&T, sizeof T, 1, file);
    fwrite(&step->lr, sizeof step->lr, 1, file);
    fwrite(&step->grad_clip, sizeof step->grad_clip, 1, file);
    fwrite(batch->token, sizeof(int32_t), (size_t)tokens, file);
    fwrite(batch->target, sizeof(int32_t), (size_t)tokens, file);
    fwrite(batch->seq_start, sizeof(int32_t), (size_t)tokens, file);
fail:
    return status;
}

static int64_t most_tokens(const yx_plan *plan) {
    int64_t most = 0;
    for (int64_t i = 0; i < plan->num_stages; i++)
        if (plan_tokens_per_step(&plan->stages[i]) > most) most = plan_tokens_per_step(&plan->stages[i]);
    return (most + 127) / 128 * 128;
}

static yx_status write_steps(const yx_config *c, int64_t steps, const char *folder) {
    yx_status status = YX_OK;
    char path[4096];
    dataset *train = NULL;
    loader *l = NULL;
    yx_plan plan;
    snprintf(path, sizeof path, "%s/steps.bin", folder);
    FILE *file = fopen(path, "wb");
    if (!file) return yx_fail_errno("cannot create %s", path);
    YX_CHECK(dataset_open(c->data.path, "train", false, &train));
    YX_CHECK(plan_build(c, dataset_get_info(train)->num_tokens, &plan));
    data_order order = {.seed = (uint64_t)c->training.seed,
                        .blocks_per_epoch = plan.blocks_per_epoch,
                        .window_blocks = plan.window_blocks};
    YX_CHECK(loader_open(train, &order, c->data.document_mask, 2, 1, most_tokens(&plan), &l));
    for (int64_t i = 0, tokens = 0; i < steps && tokens < plan.total_tokens; i++) {
        plan_step step;
        YX_CHECK(plan_step_at(&plan, tokens, &step));
        YX_CHECK(write_step(&step, l, file));
        tokens += step.seq_len * step.num_sequences;
    }
fail:
    loader_close(l);
    dataset_close(train);
    if (fclose(file) != 0) status = yx_fail_errno("cannot write %s", path);
    return status;
}

int main(int argc, char **argv) {
    static yx_config config;
    if (argc < 4) return YX_ERR_USAGE;
    yx_status status = config_load(argv[1], (const char *const *)argv + 4, argc - 4, &config);
    if (status == YX_OK) status = write_params(&config, argv[3]);
    if (status == YX_OK) status = write_steps(&config, atoll(argv[2]), argv[3]);
    if (status != YX_OK) fprintf(stderr, "error: %s\n", yx_message());
    return (int)status;
}

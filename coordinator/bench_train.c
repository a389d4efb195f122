#include "coordinator/bench_train.h"
#include "common/rng.h"
#include "coordinator/plan.h"
#include "coordinator/plan_model.h"
#include "coordinator/setup.h"
#include "worker/worker.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PEAK_SIZE = 2048, PEAK_ROUNDS = 7, MAX_STEPS = 1000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Best of several products of random fp32 matrices, PEAK_SIZE each way.
static yx_status measure_matmul(const yx_ops *ops, yx_device *device, double *rate) {
    yx_status status = YX_OK;
    size_t n = PEAK_SIZE * PEAK_SIZE, bytes = n * sizeof(yx_real);
    yx_real *host = malloc(bytes), *m[3] = {0};
    if (!host) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to measure a matrix product");
    for (size_t i = 0; i < n; i++) host[i] = (yx_real)(yx_uniform(1, 2, i) - 0.5);
    for (int i = 0; i < 3; i++) YX_CHECK(ops->alloc(device, bytes, (void **)&m[i]));
    for (int i = 0; i < 2; i++) YX_CHECK(ops->copy(device, NULL, m[i], host, bytes));
    yx_matmul_args args = {.form = YX_MATMUL_Y,
                           .M = PEAK_SIZE,
                           .N = PEAK_SIZE,
                           .K = PEAK_SIZE,
                           .a = {.row = m[0]},
                           .b = {.row = m[1]},
                           .out = m[2],
                           .out_dtype = YX_F32};
    for (int round = 0; round < PEAK_ROUNDS; round++) {
        YX_CHECK(ops->stream_sync(device, NULL));
        double start = now();
        YX_CHECK(ops->matmul(device, NULL, &args));
        YX_CHECK(ops->stream_sync(device, NULL));
        double measured = 2.0 * PEAK_SIZE * PEAK_SIZE * PEAK_SIZE / (now() - start);
        if (measured > *rate) *rate = measured;
    }
fail:
    for (int i = 0; i < 3; i++) ops->free(device, m[i]);
    free(host);
    return status;
}

// Random tokens in sequences of T, the last micro-batch of a step filled up with padding.
typedef struct synthetic {
    micro_batch batch;
    int64_t seq_len, sequences_left, vocab, drawn;
} synthetic;

static yx_status next_synthetic(void *context, const micro_batch **out) {
    synthetic *s = context;
    int64_t M = s->batch.num_tokens, fit = M / s->seq_len, n = s->sequences_left < fit ? s->sequences_left : fit;
    for (int64_t i = 0; i < M; i++) {
        bool padding = i >= n * s->seq_len;
        uint64_t draw = (uint64_t)s->drawn++;
        s->batch.token[i] = padding ? 0 : (int32_t)(yx_uniform(3, 0, draw) * (double)s->vocab);
        s->batch.target[i] = padding ? -1 : (int32_t)(yx_uniform(3, 1, draw) * (double)s->vocab);
        s->batch.seq_start[i] = (int32_t)(padding ? i : i - i % s->seq_len);
    }
    s->sequences_left -= n;
    *out = &s->batch;
    return YX_OK;
}

static yx_status time_stage(yx_worker *w, const yx_config *c, const config_stage *stage, int64_t most, int64_t steps,
                            int32_t *memory, bench_stage *out) {
    yx_status status = YX_OK;
    double seconds[MAX_STEPS];
    int64_t M = memory_stage_micro_tokens(most, stage->seq_len, stage->batch_size);
    synthetic data = {.batch = {memory, memory + most, memory + 2 * most, .num_tokens = M},
                      .seq_len = stage->seq_len,
                      .vocab = c->model.vocab_size};
    worker_source source = {next_synthetic, &data};
    load_request load = {.seq_len = stage->seq_len, .num_sequences = stage->batch_size, .micro_tokens = M};
    *out = (bench_stage){stage->seq_len, stage->batch_size, stage->seq_len * stage->batch_size};
    worker_step_args args = {
        .num_micro_batches = loader_num_micro_batches(&load), .tokens = out->tokens, .lr = 1e-4, .grad_clip = 1};
    for (int64_t i = -1; i < steps; i++) {
        worker_step_result result;
        args.calibrate = i < 0;
        data.sequences_left = (i < 0 && worker_calibrates(w) ? 2 : 1) * stage->batch_size;
        double start = now();
        YX_CHECK(worker_step(w, &source, &args, &result));
        if (i >= 0) seconds[i] = now() - start - result.data_wait;
    }
    qsort(seconds, (size_t)steps, sizeof *seconds, by_value);
    out->seconds = seconds[steps / 2];
    out->flops = plan_flops_per_token(&c->model, stage->seq_len) * (double)out->tokens;
fail:
    return status;
}

yx_status bench_train_run(const yx_config *config, uint64_t stages, int64_t steps, bench_train *out) {
    yx_status status = YX_OK;
    const yx_ops *ops = NULL;
    yx_device *device = NULL;
    yx_group *group = NULL;
    yx_worker *w = NULL;
    int32_t *memory = NULL;
    yx_device_info info;
    yx_device_options device_options = {.deterministic = config->training.deterministic};
    *out = (bench_train){0};
    YX_CHECK(group_open_solo(&group));
    YX_CHECK(setup_device(config->training.device, &device_options, 0, &ops, &device));
    YX_CHECK(ops->info(device, &info));
    memcpy(out->device, info.name, sizeof out->device);
    YX_CHECK(memory_micro_tokens(ops, device, config, 0, &out->micro_tokens));
    worker_options options = {
        .training = config->training, .model = config->model, .max_micro_tokens = out->micro_tokens};
    YX_CHECK(worker_create(ops, device, group, &options, &w));
    YX_CHECK(model_init(worker_model(w), 1));
    YX_CHECK(measure_matmul(ops, device, &out->matmul_rate));
    memory = malloc((size_t)out->micro_tokens * 3 * sizeof *memory);
    if (!memory) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a micro-batch");
    for (int64_t i = 0; i < config->training.num_stages; i++) {
        if (!(stages >> i & 1)) continue;
        YX_CHECK(time_stage(w, config, &config->training.stages[i], out->micro_tokens,
                            steps < MAX_STEPS ? steps : MAX_STEPS, memory, &out->stages[out->num_stages++]));
    }
fail:
    free(memory);
    worker_free(w);
    if (device) ops->close(device);
    group_close(group);
    return status;
}

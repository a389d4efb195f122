#include "coordinator/bench_train.h"
#include "common/rng.h"
#include "coordinator/plan.h"
#include "coordinator/plan_model.h"
#include "coordinator/rank_link.h"
#include "coordinator/setup.h"
#include "worker/worker.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum {
    PEAK_SIZE = 2048,
    PEAK_ROUNDS = 7,
    MAX_STEPS = 1000,
    WARM_UP = 3 // a first step chooses and calibrates, a second records what a third replays
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct timed_step {
    double seconds, exchange, exposed;
} timed_step;

static int by_seconds(const void *a, const void *b) {
    double x = ((const timed_step *)a)->seconds, y = ((const timed_step *)b)->seconds;
    return (x > y) - (x < y);
}

// --- What the device does at best
typedef struct timer {
    const yx_ops *ops;
    yx_device *device;
    yx_event *begin, *end;
} timer;

static yx_status timer_open(const yx_ops *ops, yx_device *device, timer *t) {
    *t = (timer){ops, device};
    yx_status status = ops->event_create(device, &t->begin);
    return status == YX_OK ? ops->event_create(device, &t->end) : status;
}
static void timer_close(timer *t) {
    if (t->begin) t->ops->event_destroy(t->device, t->begin);
    if (t->end) t->ops->event_destroy(t->device, t->end);
}
// Seconds of the fastest of PEAK_ROUNDS runs.
typedef yx_status (*enqueue)(const timer *t, void *arguments);
static yx_status time_best(timer *t, enqueue work, void *arguments, double *best) {
    yx_status status = YX_OK;
    *best = INFINITY;
    for (int round = 0; round < PEAK_ROUNDS; round++) {
        double seconds;
        YX_CHECK(t->ops->event_record(t->device, t->begin, NULL));
        YX_CHECK(work(t, arguments));
        YX_CHECK(t->ops->event_record(t->device, t->end, NULL));
        YX_CHECK(t->ops->event_sync(t->device, t->end));
        YX_CHECK(t->ops->event_seconds(t->device, t->begin, t->end, &seconds));
        *best = fmin(*best, seconds);
    }
fail:
    return status;
}

static yx_status enqueue_matmul(const timer *t, void *arguments) { return t->ops->matmul(t->device, NULL, arguments); }

// FLOP/s of a product of two random matrices, `size` each way.
static yx_status measure_product(timer *t, yx_dtype dtype, int64_t size, double *rate) {
    yx_status status = YX_OK;
    int64_t n = size * size;
    bool real = dtype == YX_F32;
    yx_dtype out_type = real ? YX_F32 : YX_BF16;
    size_t bytes = (size_t)n * yx_dtype_size(dtype), out_bytes = (size_t)n * yx_dtype_size(out_type);
    void *host = malloc(bytes), *in = NULL, *product = NULL;
    double seconds;
    if (!host) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to measure a matrix product");
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        yx_real x = (yx_real)(yx_uniform(1, 2, (uint64_t)i) - 0.5);
        yx_encode(dtype, &x, 1, 1, (char *)host + (size_t)i * yx_dtype_size(dtype));
    }
    YX_CHECK(t->ops->alloc(t->device, bytes, &in));
    YX_CHECK(t->ops->alloc(t->device, out_bytes, &product));
    YX_CHECK(t->ops->copy(t->device, NULL, in, host, bytes));
    yx_operand factor = {.dtype = dtype, .row = in};
    yx_matmul_args args = {.form = YX_MATMUL_Y,
                           .M = size,
                           .N = size,
                           .K = size,
                           .a = factor,
                           .b = factor,
                           .out = product,
                           .out_dtype = out_type};
    YX_CHECK(time_best(t, enqueue_matmul, &args, &seconds));
    *rate = 2.0 * (double)n * (double)size / seconds;
fail:
    t->ops->free(t->device, in);
    t->ops->free(t->device, product);
    free(host);
    return status;
}

typedef struct copy_args {
    void *dst, *src;
    size_t bytes;
} copy_args;
static yx_status enqueue_copy(const timer *t, void *arguments) {
    copy_args *c = arguments;
    return t->ops->copy(t->device, NULL, c->dst, c->src, c->bytes);
}

// Bytes/s of a copy, read and written.
static yx_status measure_copy(timer *t, double *rate) {
    yx_status status = YX_OK;
    copy_args c = {.bytes = (size_t)256 << 20};
    double seconds;
    YX_CHECK(t->ops->alloc(t->device, c.bytes, &c.dst));
    YX_CHECK(t->ops->alloc(t->device, c.bytes, &c.src));
    YX_CHECK(t->ops->zero(t->device, NULL, c.src, c.bytes));
    YX_CHECK(time_best(t, enqueue_copy, &c, &seconds));
    *rate = 2.0 * (double)c.bytes / seconds;
fail:
    t->ops->free(t->device, c.dst);
    t->ops->free(t->device, c.src);
    return status;
}

static yx_status measure_products(timer *t, const precision_state *p, int64_t size, profile_ceiling *out) {
    yx_status status = YX_OK;
    void *workspace = NULL;
    yx_workspace_query query = {.rows = size, .hidden = size, .intermediate = size, .act = p->act};
    size_t bytes = t->ops->workspace_size(t->device, &query);
    YX_CHECK(t->ops->alloc(t->device, bytes, &workspace));
    t->ops->set_workspace(t->device, workspace, bytes);
    YX_CHECK(measure_product(t, p->act, size, &out->flops[p->act]));
    if (p->forward != p->act) YX_CHECK(measure_product(t, p->forward, size, &out->flops[p->forward]));
    out->flops[p->gradient] = out->flops[p->forward];
fail:
    t->ops->free(t->device, workspace);
    return status;
}

// Large products of the precision's types, and a copy. The model's workspace is set back afterwards.
static yx_status measure_ceiling(const yx_model *m, profile_ceiling *out) {
    yx_status status = YX_OK;
    timer t = {0};
    const precision_state *p = &m->precision;
    YX_CHECK(timer_open(m->ops, m->device, &t));
    YX_CHECK(measure_products(&t, p, PEAK_SIZE, out));
    // Where that takes no time, ones that fill the device.
    if (2.0 * (double)PEAK_SIZE * PEAK_SIZE * PEAK_SIZE / out->flops[p->act] < 1e-3)
        YX_CHECK(measure_products(&t, p, 4 * PEAK_SIZE, out));
    if (out->flops[YX_F32] == 0) out->flops[YX_F32] = out->flops[p->act]; // nothing multiplies fp32 then
    YX_CHECK(measure_copy(&t, &out->bandwidth));
fail:
    timer_close(&t);
    m->ops->set_workspace(m->device, m->workspace, m->workspace_bytes);
    return status;
}

const profile_ceiling bench_ceiling_4090 = {
    .flops = {[YX_F32] = 82.6e12, [YX_BF16] = 165.2e12, [YX_E4M3] = 330.3e12, [YX_E5M2] = 330.3e12},
    .bandwidth = 1008e9};

const ranks_link bench_link_4090 = {.bus = 10e9, .latency = 50e-6, .overlap = true};

static double expected_group(const profile_report *r, const profile_ceiling *here, profile_group g) {
    double least = profile_least_seconds(r, g, here);
    return least > 0 ? profile_least_seconds(r, g, &bench_ceiling_4090) * r->groups[g].seconds / least : 0;
}

double bench_expected_4090(const profile_report *r, const profile_ceiling *here) {
    double seconds = 0;
    for (int g = 0; g < PROFILE_GROUPS; g++) seconds += expected_group(r, here, (profile_group)g);
    return seconds;
}

static ranks_step expect_4090(const bench_stage *s, const profile_ceiling *here, int64_t most_tokens) {
    return (ranks_step){.seq_len = s->seq_len,
                        .batch_size = s->batch_size,
                        .most_tokens = most_tokens,
                        .seconds = bench_expected_4090(&s->profile, here),
                        .optimizer = expected_group(&s->profile, here, PROFILE_OPTIMIZER)};
}

// --- Stages
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

typedef struct bench_run {
    const yx_config *config;
    const yx_ops *ops, *profiled;
    yx_device *device;
    yx_group *group;
    rank_link link;
    yx_worker *worker;
    int32_t *memory; // of a micro-batch
} bench_run;

// What the step strictly needs, each product at the rate of its precision.
static double strict_seconds(const yx_config *c, const precision_state *p, const bench_stage *s,
                             const profile_ceiling *ceiling) {
    double block = 6.0 * (double)(plan_block_parameters(&c->model) * s->tokens);
    return block / ceiling->flops[p->forward] + (s->flops - block) / ceiling->flops[p->act];
}

static yx_status time_stage(bench_run *r, const config_stage *stage, const bench_options *o, bench_train *out) {
    yx_status status = YX_OK;
    const yx_config *c = r->config;
    timed_step timed[MAX_STEPS];
    int64_t most = out->micro_tokens, steps = o->steps < MAX_STEPS ? o->steps : MAX_STEPS;
    int64_t rank = group_rank(r->group), ranks = group_size(r->group), all = stage->batch_size;
    int64_t own = all * (rank + 1) / ranks - all * rank / ranks;
    int64_t M = memory_stage_micro_tokens(most, stage->seq_len, (all + ranks - 1) / ranks);
    synthetic data = {.batch = {r->memory, r->memory + most, r->memory + 2 * most, .num_tokens = M},
                      .seq_len = stage->seq_len,
                      .vocab = c->model.vocab_size,
                      .drawn = rank << 40};
    worker_source source = {next_synthetic, &data};
    load_request load = {.seq_len = stage->seq_len, .num_sequences = own, .micro_tokens = M};
    bench_stage *s = &out->stages[out->num_stages++];
    *s = (bench_stage){stage->seq_len, stage->batch_size, stage->seq_len * stage->batch_size, M};
    worker_step_args args = {
        .num_micro_batches = loader_num_micro_batches(&load), .tokens = s->tokens, .lr = 1e-4, .grad_clip = 1};
    for (int64_t i = -WARM_UP; i <= steps; i++) {
        worker_step_result result;
        args.calibrate = i == -WARM_UP;
        data.sequences_left = (args.calibrate && worker_calibrates(r->worker) ? 2 : 1) * own;
        if (i == steps) { // the last one operation by operation
            profile_start(stage->seq_len);
            worker_set_ops(r->worker, r->profiled);
        }
        double start = now();
        YX_CHECK(worker_step(r->worker, &source, &args, &result));
        if (i < 0 || i >= steps) continue;
        timed[i] = (timed_step){now() - start - result.data_wait, result.exchange, result.communicate};
    }
    qsort(timed, (size_t)steps, sizeof *timed, by_seconds);
    s->seconds = timed[steps / 2].seconds;
    s->exchange = timed[steps / 2].exchange;
    s->exposed = timed[steps / 2].exposed;
    s->flops = plan_flops_per_token(&c->model, stage->seq_len) * (double)s->tokens;
    s->share =
        1 / (double)ranks * strict_seconds(c, &worker_model(r->worker)->precision, s, &out->ceiling) / s->seconds;
    YX_CHECK(profile_read(&out->ceiling, &s->profile));
    if (!r->ops->host_memory && ranks == 1) s->expected_4090 = expect_4090(s, &out->ceiling, most);
fail:
    worker_set_ops(r->worker, r->ops);
    return status;
}

static yx_status measure_memory(bench_run *r, int64_t *out) {
    yx_device_info info;
    struct rusage usage;
    yx_status status = r->ops->info(r->device, &info);
    if (r->ops->host_memory && getrusage(RUSAGE_SELF, &usage) == 0) *out = usage.ru_maxrss * 1024LL;
    else *out = info.memory_total - info.memory_free;
    return status;
}

static yx_status run_stages(bench_run *r, const bench_options *o, bench_train *out) {
    yx_status status = YX_OK;
    const config_training *t = &r->config->training;
    YX_CHECK(measure_ceiling(worker_model(r->worker), &out->ceiling));
    for (int64_t i = 0; i < t->num_stages; i++)
        if (o->stages >> i & 1) YX_CHECK(time_stage(r, &t->stages[i], o, out));
    YX_CHECK(measure_memory(r, &out->memory_bytes));
fail:
    return status;
}

yx_status bench_train_run(const yx_config *config, const bench_options *o, yx_group *group, bench_train *out) {
    yx_status status = YX_OK;
    bench_run r = {.config = config, .group = group};
    yx_device_info info;
    yx_device_options device_options = {.deterministic = config->training.deterministic, .portable = o->portable};
    *out = (bench_train){.ranks = group_size(group)};
    YX_CHECK(setup_device(config->training.device, &device_options, group_local_rank(group), &r.ops, &r.device));
    YX_CHECK(r.ops->info(r.device, &info));
    memcpy(out->device, info.name, sizeof out->device);
    YX_CHECK(memory_micro_tokens(r.ops, r.device, config, out->ranks, 0, &out->micro_tokens));
    YX_CHECK(rank_link_open(r.ops, r.device, group, &config->training, &r.link));
    snprintf(out->exchange, sizeof out->exchange, "%s", r.link.exchange);
    out->precision = config->training.precision;
    out->overlap = !r.ops->host_memory && (r.link.devices || out->ranks == 1);
    out->gradients = (ranks_gradients){.parameters = plan_model_parameters(&config->model),
                                       .wire = config->training.gradient_wire == WIRE_BF16 ? WIRE_BF16 : WIRE_FP32,
                                       .sharded = config->training.shard_optimizer};
    YX_CHECK(ranks_buckets(config, &out->gradients.buckets));
    worker_options options = {
        .training = config->training, .model = config->model, .max_micro_tokens = out->micro_tokens};
    options.training.gradient_bucket_mb = r.link.bucket_mb;
    YX_CHECK(worker_create(r.ops, r.device, group, r.link.devices, &options, &r.worker));
    YX_CHECK(model_init(worker_model(r.worker), 1));
    r.profiled = profile_open(r.ops, r.device);
    r.memory = malloc((size_t)out->micro_tokens * 3 * sizeof *r.memory);
    if (!r.memory) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a micro-batch");
    YX_CHECK(run_stages(&r, o, out));
fail:
    free(r.memory);
    if (r.profiled) profile_close();
    worker_free(r.worker);
    rank_link_close(&r.link);
    if (r.device) r.ops->close(r.device);
    return status;
}

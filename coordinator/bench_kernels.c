#include "coordinator/bench_kernels.h"
#include "coordinator/bench_kernels_task.h"
#include "coordinator/bench_train.h"
#include "coordinator/setup.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    ERROR_ROWS = 256, // tokens that results are compared at, unless a sequence is longer
    WARM_UP = 2,      // the first call of a product chooses its algorithm
    LEAST_ROUNDS = 5,
    MOST_ROUNDS = 25,
    FLUSH_BYTES = 160 << 20 // twice the 72 MB of an RTX 4090, the largest cache of the cards in mind
};
static const double ROUNDS_SECONDS = 0.1; // time for one operation's repetitions, within those limits

typedef struct bench {
    const yx_config *config;
    const yx_ops *ops, *profiled;
    yx_device *device;
    bench_model model;
    int64_t lengths[BENCH_MAX_LENGTHS], num_lengths;
    void *workspace;
    size_t workspace_bytes;
    yx_real *flush;
    double *flush_sum;
    bench_kernels *out;
} bench;

// --- What is measured
void bench_add(bench_operations *list, const bench_operation *o) {
    if (list->count < TASK_MAX_OPERATIONS) list->items[list->count++] = *o;
}

static void list_operations(const bench *b, bench_operations *list) {
    list->count = 0;
    bench_add_matmul(list);
    bench_add_rows(list);
    bench_add_rope(list, b->lengths[b->num_lengths - 1]);
    for (int64_t i = 0; i < b->num_lengths; i++) bench_add_attention(list, b->lengths[i]);
    bench_add_head(list);
    bench_add_optimizer(list);
}

static yx_status check_length(const bench *b, int64_t length) {
    int64_t positions = b->config->model.max_position_embeddings;
    if (length > b->out->tokens)
        return yx_fail(YX_ERR_USAGE, "sequences of %lld tokens do not fit %lld tokens; see --tokens", (long long)length,
                       (long long)b->out->tokens);
    if (length > positions)
        return yx_fail(YX_ERR_USAGE, "sequences of %lld tokens are longer than model.max_position_embeddings = %lld",
                       (long long)length, (long long)positions);
    return YX_OK;
}

static yx_status choose_sizes(bench *b, const bench_kernels_options *o) {
    yx_status status = YX_OK;
    static const int64_t usual[] = {8, 32, 128, 512, 2048};
    int64_t positions = b->config->model.max_position_embeddings;
    b->out->tokens = o->tokens;
    if (o->tokens == 0) YX_CHECK(memory_micro_tokens(b->ops, b->device, b->config, 1, 0, &b->out->tokens));
    for (int64_t i = 0; i < o->num_lengths; i++) {
        YX_CHECK(check_length(b, o->lengths[i]));
        b->lengths[b->num_lengths++] = o->lengths[i];
    }
    for (size_t i = 0; o->num_lengths == 0 && i < sizeof usual / sizeof *usual; i++)
        if (usual[i] <= b->out->tokens && usual[i] <= positions) b->lengths[b->num_lengths++] = usual[i];
    if (b->num_lengths == 0) b->lengths[b->num_lengths++] = positions; // all of `usual` are longer
fail:
    return status;
}

// Tokens that this operation's results are compared at: whole sequences, and no more than are timed.
static int64_t error_rows(const bench *b, const bench_operation *o) {
    int64_t longest = (o->seq_len + 127) / 128 * 128, rows = longest > ERROR_ROWS ? longest : ERROR_ROWS;
    return rows < b->out->tokens ? rows : b->out->tokens;
}

// --- Time
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// One repetition by itself. Reading through more memory than the caches hold leaves nothing of the operands there, nor
// anything that is yet to be written back, and on a GPU takes longer than enqueuing what follows: no launch is waited
// for within the measured time.
static yx_status time_once(const bench *b, const bench_operation *o, const bench_task *task, profile_report *out) {
    yx_status status = YX_OK;
    profile_start(o->seq_len);
    YX_CHECK(b->ops->sum_squares(b->device, NULL, b->flush, FLUSH_BYTES / (int64_t)sizeof *b->flush, b->flush_sum));
    YX_CHECK(o->run(b->profiled, b->device, task));
    YX_CHECK(profile_read(&b->out->ceiling, out));
fail:
    return status;
}

// The one operation of a report.
static profile_group group_of(const profile_report *r) {
    int g = 0;
    while (g < PROFILE_GROUPS - 1 && r->groups[g].calls == 0) g++;
    return (profile_group)g;
}

static yx_status time_rounds(const bench *b, const bench_operation *o, const bench_task *task, profile_report *report,
                             bench_kernel *k) {
    yx_status status = YX_OK;
    double seconds[MOST_ROUNDS], start = 0;
    for (int64_t i = -WARM_UP; i < MOST_ROUNDS; i++) {
        if (i == 0) start = now();
        if (i >= LEAST_ROUNDS && now() - start > ROUNDS_SECONDS) break;
        YX_CHECK(time_once(b, o, task, report));
        if (i >= 0) seconds[k->rounds++] = report->groups[group_of(report)].seconds;
    }
    qsort(seconds, (size_t)k->rounds, sizeof *seconds, by_value);
    k->seconds = seconds[k->rounds / 2];
    report->groups[group_of(report)].seconds = k->seconds;
fail:
    return status;
}

// What the median comes to beside the ceilings.
static void rate(const bench *b, const profile_report *report, bench_kernel *k) {
    const profile_entry *e = &report->groups[group_of(report)];
    const profile_ceiling *c = &b->out->ceiling;
    for (int t = 0; t < 4; t++)
        if (e->flops[t] > 0) k->dtype = (yx_dtype)t, k->flops = e->flops[t];
    k->bytes = e->bytes;
    k->computes = k->flops > 0 && k->flops / c->flops[k->dtype] > k->bytes / c->bandwidth;
    k->ceiling = k->computes ? c->flops[k->dtype] : c->bandwidth;
    k->share = e->least / k->seconds;
    if (!b->ops->host_memory) k->expected_4090 = bench_expected_4090(report, c);
}

static tensors open_tensors(const bench *b, bool keep) {
    return (tensors){
        .ops = b->ops, .device = b->device, .keep = keep, .transposed = b->model.precision.recipe != FP8_FORWARD_ONLY};
}

static yx_status time_operation(const bench *b, const bench_operation *o, bench_kernel *k) {
    yx_status status = YX_OK;
    profile_report report;
    bench_task task = {0};
    tensors t = open_tensors(b, false);
    o->build(&b->model, o, b->out->tokens, &t, &task);
    YX_CHECK(t.status);
    memcpy(k->shape, task.shape, sizeof k->shape);
    YX_CHECK(time_rounds(b, o, &task, &report, k));
    rate(b, &report, k);
fail:
    tensors_free(&t);
    return status;
}

// --- Results
static yx_status poison_workspace(const bench *b) {
    yx_status status = YX_OK;
    void *nan = malloc(b->workspace_bytes + 1);
    if (!nan) return yx_fail(YX_ERR_NO_MEMORY, "no memory to fill the workspace");
    memset(nan, 0xff, b->workspace_bytes);
    YX_CHECK(b->ops->copy(b->device, NULL, b->workspace, nan, b->workspace_bytes));
    YX_CHECK(b->ops->stream_sync(b->device, NULL));
fail:
    free(nan);
    return status;
}

static yx_status compare_operation(const bench *b, const bench_operation *o, bench_kernel *k) {
    yx_status status = YX_OK;
    bench_task task = {0};
    tensors t = open_tensors(b, true);
    int64_t rows = error_rows(b, o);
    o->build(&b->model, o, rows, &t, &task);
    YX_CHECK(t.status);
    YX_CHECK(poison_workspace(b));
    YX_CHECK(o->run(b->ops, b->device, &task));
    YX_CHECK(b->ops->stream_sync(b->device, NULL));
    k->error = o->compare(&t, &task);
    k->error_rows = o->by_rows ? rows : 0;
    status = t.status;
fail:
    tensors_free(&t);
    return status;
}

int64_t bench_kernels_wrong(const bench_kernels *b) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < b->num_kernels; i++) wrong += !(b->kernels[i].error <= b->error_bound); // NaN is wrong
    return wrong;
}

// --- A run
// The ceilings of bench train: a run of it without a stage, on a model that takes no time to make.
static yx_status measure_ceiling(const yx_config *config, bool portable, profile_ceiling *out) {
    static bench_train result;
    static yx_config small;
    small = *config;
    small.model.num_layers = 1;
    small.model.vocab_size = 64;
    small.training.num_stages = 1;
    small.training.stages[0].seq_len = small.evaluation.seq_len = 128;
    small.training.micro_batch_tokens = 128;
    const bench_options options = {.steps = 1, .portable = portable};
    yx_group *alone = NULL;
    yx_status status = group_open_solo(&alone);
    if (status != YX_OK) return status;
    status = bench_train_run(&small, &options, alone, &result);
    group_close(alone);
    *out = result.ceiling;
    return status;
}

static yx_status open_device(bench *b, bool portable) {
    yx_status status = YX_OK;
    yx_device_info info;
    const yx_config *c = b->config;
    yx_device_options options = {.deterministic = c->training.deterministic, .portable = portable};
    YX_CHECK(setup_device(c->training.device, &options, 0, &b->ops, &b->device));
    YX_CHECK(b->ops->info(b->device, &info));
    memcpy(b->out->device, info.name, sizeof b->out->device);
fail:
    return status;
}

static yx_status open_memory(bench *b) {
    yx_status status = YX_OK;
    const config_model *c = &b->config->model;
    const yx_workspace_query query = {.rows = b->out->tokens,
                                      .hidden = c->hidden_size,
                                      .heads = c->num_attention_heads,
                                      .kv_heads = c->num_key_value_heads,
                                      .head_dim = c->head_dim,
                                      .intermediate = c->intermediate_size,
                                      .rank = c->embedding_rank,
                                      .vocab = c->vocab_size,
                                      .act = b->model.precision.act};
    b->workspace_bytes = b->ops->workspace_size(b->device, &query);
    YX_CHECK(b->ops->alloc(b->device, b->workspace_bytes, &b->workspace));
    b->ops->set_workspace(b->device, b->workspace, b->workspace_bytes);
    YX_CHECK(b->ops->alloc(b->device, FLUSH_BYTES, (void **)&b->flush));
    YX_CHECK(b->ops->alloc(b->device, sizeof *b->flush_sum, (void **)&b->flush_sum));
    YX_CHECK(b->ops->zero(b->device, NULL, b->flush, FLUSH_BYTES));
    YX_CHECK(b->ops->zero(b->device, NULL, b->flush_sum, sizeof *b->flush_sum));
fail:
    return status;
}

static yx_status open_model(bench *b) {
    const config_training *t = &b->config->training;
    precision_state *p = &b->model.precision;
    b->model.config = &b->config->model;
    precision_options options = precision_of(t);
    yx_status status = precision_create(&options, b->config->model.num_layers, p);
    b->out->act = p->act, b->out->forward = p->forward, b->out->gradient = p->gradient;
    b->out->error_bound = p->act == YX_F32 ? 1e-5 : 5e-3; // of one rounding to bf16 half a percent is plenty
    b->out->flush_bytes = FLUSH_BYTES;
    return status;
}

static void close_run(bench *b) {
    precision_free(&b->model.precision);
    if (!b->device) return;
    if (b->profiled) profile_close();
    b->ops->free(b->device, b->workspace);
    b->ops->free(b->device, b->flush);
    b->ops->free(b->device, b->flush_sum);
    b->ops->close(b->device);
}

static yx_status run_operations(bench *b) {
    static bench_operations list;
    list_operations(b, &list);
    for (int64_t i = 0; i < list.count; i++) {
        const bench_operation *o = &list.items[i];
        bench_kernel *k = &b->out->kernels[b->out->num_kernels++];
        *k = (bench_kernel){.seq_len = o->seq_len};
        memcpy(k->name, o->name, sizeof k->name);
        yx_status status = time_operation(b, o, k);
        if (status == YX_OK) status = compare_operation(b, o, k);
        if (status != YX_OK) return yx_context(status, "%s", o->name);
    }
    return YX_OK;
}

yx_status bench_kernels_run(const yx_config *config, const bench_kernels_options *o, bench_kernels *out) {
    yx_status status = YX_OK;
    bench b = {.config = config, .out = out};
    *out = (bench_kernels){0};
    YX_CHECK(open_model(&b));
    YX_CHECK(open_device(&b, o->portable));
    YX_CHECK(choose_sizes(&b, o)); // before anything takes time
    YX_CHECK(measure_ceiling(config, o->portable, &out->ceiling));
    b.profiled = profile_open(b.ops, b.device); // one at a time: bench train had its own until here
    YX_CHECK(open_memory(&b));
    YX_CHECK(run_operations(&b));
fail:
    close_run(&b);
    return status;
}

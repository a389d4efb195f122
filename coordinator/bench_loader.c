#include "coordinator/bench_loader.h"
#include "coordinator/setup.h"
#include "io/loader.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

// START_PART: while that part of the tokens is taken, the first window is read for the first time.
enum { ROUNDS = 5, COPY_ROUNDS = 7, START_PART = 10 };
static const int64_t timed_tokens = 16000000;
static const double cold_seconds = 2; // of consuming, half of them before the border of a window

typedef struct bench_run {
    const yx_config *config;
    run_setup setup;
    const bench_loader_options *options;
} bench_run;

// One passage over the stream: [position, end) in steps of `sequences`, requested ahead of being taken.
typedef struct passage {
    loader *loader;
    load_request next;
    int64_t sequences, end;
    int64_t taken; // tokens
} passage;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_until(double end) {
    struct timespec t = {(time_t)end, (long)((end - (double)(time_t)end) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static yx_status request_ahead(passage *p) {
    yx_status status = YX_OK;
    while (status == YX_OK && p->next.position < p->end && loader_wants(p->loader)) {
        int64_t left = (p->end - p->next.position) / p->next.seq_len;
        p->next.num_sequences = left < p->sequences ? left : p->sequences;
        status = loader_request(p->loader, &p->next);
        p->next.position += p->next.num_sequences * p->next.seq_len;
    }
    return status;
}

static yx_status take(passage *p, const micro_batch **batch) {
    yx_status status = YX_OK;
    YX_CHECK(request_ahead(p));
    YX_CHECK(loader_next(p->loader, batch));
    p->taken += (*batch)->num_scored;
fail:
    return status;
}

// All of it, as fast as it comes.
static yx_status run_through(passage *p, int64_t end) {
    yx_status status = YX_OK;
    const micro_batch *batch;
    p->end = end;
    for (int64_t most = p->taken + end - p->next.position; p->taken < most;) YX_CHECK(take(p, &batch));
fail:
    return status;
}

static yx_status open_passage(const bench_run *r, const bench_loader_stage *s, int64_t position, passage *out) {
    const yx_plan *plan = &r->setup.plan;
    data_order order = {.seed = (uint64_t)r->config->training.seed,
                        .blocks_per_epoch = plan->blocks_per_epoch,
                        .window_blocks = plan->window_blocks};
    *out = (passage){.next = {.position = position, .seq_len = s->seq_len, .micro_tokens = s->micro_tokens},
                     .sequences = s->batch_size};
    return loader_open(r->setup.train, &order, r->config->data.document_mask, (int)r->config->data.prefetch, 1,
                       s->micro_tokens, &out->loader);
}

// In this thread, from position to `end`, into one micro-batch.
static yx_status fill_through(passage *p, int64_t end, micro_batch *batch) {
    yx_status status = YX_OK;
    load_request *r = &p->next;
    for (; r->position < end; r->position += r->num_sequences * r->seq_len) {
        int64_t left = (end - r->position) / r->seq_len;
        r->num_sequences = left < p->sequences ? left : p->sequences;
        for (int64_t m = 0; m < loader_num_micro_batches(r); m++) YX_CHECK(loader_fill(p->loader, r, m, batch));
    }
fail:
    return status;
}

// A first window, which finds memory for the rows, is not timed.
static yx_status time_round(const bench_run *r, int64_t begin, bench_loader_stage *s, micro_batch *batch,
                            double *seconds) {
    yx_status status = YX_OK;
    passage p;
    int64_t window = r->setup.plan.window_blocks * ORDER_BLOCK_TOKENS, middle = begin + window;
    YX_CHECK(open_passage(r, s, begin, &p));
    YX_CHECK(batch ? fill_through(&p, middle, batch) : run_through(&p, middle));
    double start = now();
    YX_CHECK(batch ? fill_through(&p, middle + s->tokens, batch) : run_through(&p, middle + s->tokens));
    *seconds = now() - start;
fail:
    loader_close(p.loader);
    return status;
}

static yx_status time_rounds(const bench_run *r, int64_t begin, bench_loader_stage *s, micro_batch *batch,
                             double *median) {
    yx_status status = YX_OK;
    double seconds[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) YX_CHECK(time_round(r, begin, s, batch, &seconds[i]));
    qsort(seconds, ROUNDS, sizeof *seconds, by_value);
    *median = seconds[ROUNDS / 2];
fail:
    return status;
}

static yx_status time_warm(const bench_run *r, int64_t begin, bench_loader_stage *s) {
    yx_status status = YX_OK;
    int64_t window = r->setup.plan.window_blocks * ORDER_BLOCK_TOKENS;
    int32_t *memory = malloc(3 * (size_t)s->micro_tokens * sizeof *memory);
    micro_batch batch = {memory, memory + s->micro_tokens, memory + 2 * s->micro_tokens};
    double unused;
    s->tokens = (timed_tokens + window - 1) / window * window;
    if (!memory) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a micro-batch");
    YX_CHECK(time_round(r, begin, s, &batch, &unused)); // fills the page cache
    YX_CHECK(time_rounds(r, begin, s, &batch, &s->seconds));
    YX_CHECK(time_rounds(r, begin, s, NULL, &s->handed_seconds));
fail:
    free(memory);
    return status;
}

// A worker that takes `rate` tokens a second, and finds nothing in the page cache when it starts.
static yx_status consume_cold(const bench_run *r, int64_t begin, bench_loader_stage *s) {
    yx_status status = YX_OK;
    passage p = {0};
    const micro_batch *batch;
    double rate = r->options->rate;
    int64_t window = r->setup.plan.window_blocks * ORDER_BLOCK_TOKENS;
    int64_t step = s->batch_size * s->seq_len, steps = (int64_t)(rate * cold_seconds / (double)step) + 2;
    int64_t before = steps / 2 * step < window ? steps / 2 * step : 0; // where the next window begins meanwhile
    s->cold_tokens = steps * step;
    YX_CHECK(dataset_forget(r->setup.train));
    YX_CHECK(open_passage(r, s, before ? begin + window - before : begin, &p));
    p.end = p.next.position + s->cold_tokens;
    while (p.taken < s->cold_tokens) {
        double asked = now();
        YX_CHECK(take(&p, &batch));
        double waited = now() - asked;
        bool starts = p.taken <= s->cold_tokens / START_PART;
        *(starts ? &s->start_wait : &s->cold_wait) += waited;
        s->cold_waits += waited > 1e-3 && !starts;
        s->cold_batches += !starts;
        sleep_until(now() + (double)batch->num_scored / rate);
    }
fail:
    loader_close(p.loader);
    return status;
}

// The least that must be done for a token: it is read once and written three times.
static yx_status time_copies(const bench_run *r, double *out) {
    yx_status status = YX_OK;
    size_t window = (size_t)(r->setup.plan.window_blocks * ORDER_BLOCK_TOKENS), micro = (size_t)r->setup.micro_tokens;
    size_t batches = (size_t)r->config->data.prefetch + 2, at = 0;
    uint32_t *from = malloc((window + micro) * sizeof *from), *to = malloc(3 * batches * micro * sizeof *to);
    double best = 0;
    if (!from || !to) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a window of %zu tokens", window);
    memset(from, 1, (window + micro) * sizeof *from);
    memset(to, 1, 3 * batches * micro * sizeof *to);
    for (int round = 0; round < COPY_ROUNDS; round++) {
        size_t copied = 0;
        double start = now();
        while (copied < (size_t)timed_tokens) {
            uint32_t *batch = to + at++ % batches * 3 * micro;
            for (int k = 0; k < 3; k++) memcpy(batch + (size_t)k * micro, from + copied % window, micro * sizeof *to);
            copied += micro;
        }
        double rate = (double)copied / (now() - start);
        if (rate > best) best = rate;
    }
    *out = best;
fail:
    free(from);
    free(to);
    return status;
}

static yx_status run_stage(const bench_run *r, const plan_stage *stage, bench_loader_stage *s) {
    yx_status status = YX_OK;
    *s = (bench_loader_stage){.seq_len = stage->seq_len, .batch_size = stage->batch_size};
    s->micro_tokens = memory_stage_micro_tokens(r->setup.micro_tokens, stage->seq_len, stage->batch_size);
    YX_CHECK(consume_cold(r, stage->token_begin, s));
    YX_CHECK(time_warm(r, stage->token_begin, s));
fail:
    return status;
}

yx_status bench_loader_run(const yx_config *config, const bench_loader_options *options, bench_loader *out) {
    yx_status status = YX_OK;
    bench_run r = {.config = config, .options = options};
    *out = (bench_loader){.rate = options->rate};
    YX_CHECK(setup_open(config, 0, 1, &r.setup));
    out->window_blocks = r.setup.plan.window_blocks;
    out->dataset_tokens = dataset_get_info(r.setup.train)->num_tokens;
    YX_CHECK(time_copies(&r, &out->copy_tokens));
    for (int64_t i = 0; i < r.setup.plan.num_stages; i++)
        if (options->stages >> i & 1) YX_CHECK(run_stage(&r, &r.setup.plan.stages[i], &out->stages[out->num_stages++]));
fail:
    setup_close(&r.setup);
    return status;
}

#include "io/prepare.h"
#include "io/prepare_encode.h"
#include "io/prepare_output.h"
#include "io/prepare_reader.h"
#include <string.h>
#include <time.h>

static const double progress_interval = 0.5;

typedef struct preparation {
    const prepare_options *options;
    prepare_counts *counts;
    yx_tokenizer *tokenizer, *counter;
    prepare_tokenizers tokenizers;
    prepare_reader *reader;
    encode_pool *pool;
    prepare_output *output;
    prepare_position begin, end;
    double started, last_progress;
} preparation;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static yx_status load_tokenizers(preparation *p) {
    yx_status status = YX_OK;
    const prepare_options *o = p->options;
    YX_CHECK(tokenizer_load(o->tokenizer, &p->tokenizer));
    if (o->count_tokenizer && o->min_tokens > 0) YX_CHECK(tokenizer_load(o->count_tokenizer, &p->counter));
    p->tokenizers = (prepare_tokenizers){p->tokenizer, p->counter ? p->counter : p->tokenizer};
fail:
    return status;
}

static yx_status open_all(preparation *p) {
    yx_status status = YX_OK;
    const prepare_options *o = p->options;
    YX_CHECK(prepare_reader_open(o, &p->reader));
    YX_CHECK(load_tokenizers(p));
    YX_CHECK(prepare_output_open(o, &p->tokenizers, &p->output, &p->begin));
    const encode_options encoding = {p->tokenizer, p->counter, o->near_duplicates, o->threads};
    YX_CHECK(encode_pool_open(&encoding, &p->pool));
    YX_CHECK(prepare_reader_start(p->reader, p->pool, p->begin));
fail:
    return status;
}

static void close_all(preparation *p) {
    prepare_reader_free(p->reader); // before the pool that it fills
    encode_pool_close(p->pool);
    prepare_output_close(p->output);
    tokenizer_free(p->counter);
    tokenizer_free(p->tokenizer);
}

static void update_counts(preparation *p) {
    memset(p->counts->dropped, 0, sizeof p->counts->dropped);
    if (p->reader) prepare_reader_count(p->reader, p->counts);
    if (p->output) prepare_output_count(p->output, p->counts);
    p->counts->seconds = now() - p->started;
}

static void show_progress(preparation *p) {
    if (!p->options->progress || now() - p->last_progress < progress_interval) return;
    p->last_progress = now();
    update_counts(p);
    p->options->progress(p->options->context, p->counts);
}

// Writes documents as they are encoded, until the reader has no more.
static yx_status write_all(preparation *p) {
    yx_status status = YX_OK;
    const encode_job *job;
    encode_state state = ENCODE_IDLE;
    while (state != ENCODE_ENDED) {
        if (p->options->stop && *p->options->stop) YX_FAIL(YX_ERR_INTERRUPTED, "interrupted: no data set was written");
        YX_CHECK(encode_pool_take(p->pool, &job, &state));
        if (state == ENCODE_JOB) YX_CHECK(prepare_output_add(p->output, job));
        show_progress(p);
    }
fail:
    return status;
}

static yx_status run(preparation *p) {
    yx_status status = YX_OK;
    YX_CHECK(open_all(p));
    YX_CHECK(write_all(p));
    YX_CHECK(prepare_reader_wait(p->reader, &p->end));
    update_counts(p);
    YX_CHECK(prepare_output_finish(p->output, p->end, p->counts));
    update_counts(p);
    YX_CHECK(prepare_output_publish(p->output, p->counts));
fail:
    return status;
}

yx_status prepare_run(const prepare_options *options, prepare_counts *counts) {
    preparation p = {.options = options, .counts = counts};
    memset(counts, 0, sizeof *counts);
    p.started = p.last_progress = now();
    yx_status status = run(&p);
    update_counts(&p);
    close_all(&p);
    return status;
}

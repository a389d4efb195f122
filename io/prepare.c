#include "io/prepare.h"
#include "io/prepare_encode.h"
#include "io/prepare_filter.h"
#include "io/prepare_output.h"
#include "io/tokenizer.h"
#include <string.h>
#include <time.h>

static const double progress_interval = 0.5;

typedef struct preparation {
    const prepare_options *options;
    prepare_counts *counts;
    yx_tokenizer *tokenizer;
    corpus *corpus;
    prepare_filter *filter;
    encode_pool *pool;
    prepare_output *output;
    double begin, last_progress;
} preparation;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static yx_status open_all(preparation *p) {
    yx_status status = YX_OK;
    const prepare_options *o = p->options;
    YX_CHECK(corpus_open(o->inputs, o->n_inputs, &o->corpus, &p->corpus));
    YX_CHECK(tokenizer_load(o->tokenizer, &p->tokenizer));
    YX_CHECK(prepare_output_open(o, p->tokenizer, &p->output));
    YX_CHECK(prepare_filter_open(o, &p->filter));
    YX_CHECK(encode_pool_open(p->tokenizer, o->threads, &p->pool));
fail:
    return status;
}

static void close_all(preparation *p) {
    encode_pool_close(p->pool);
    prepare_filter_close(p->filter);
    prepare_output_close(p->output);
    tokenizer_free(p->tokenizer);
    corpus_close(p->corpus);
}

static void update_counts(preparation *p) {
    if (p->corpus) p->counts->corpus = corpus_get_counts(p->corpus);
    if (p->output) prepare_output_count(p->output, p->counts);
    p->counts->seconds = now() - p->begin;
}

static void show_progress(preparation *p) {
    if (!p->options->progress || now() - p->last_progress < progress_interval) return;
    p->last_progress = now();
    update_counts(p);
    p->options->progress(p->options->context, p->counts);
}

static bool contains(const uint32_t *ids, size_t count, int64_t id) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

// Takes the oldest encoded document and writes it, or drops it for what only its tokens tell.
static yx_status write_one(preparation *p) {
    yx_status status = YX_OK;
    const encode_job *job;
    YX_CHECK(encode_pool_take(p->pool, &job));
    if ((int64_t)job->count < p->options->min_tokens) p->counts->dropped[DROP_TOKENS]++;
    else if (contains(job->ids, job->count, tokenizer_eot(p->tokenizer))) p->counts->dropped[DROP_END_OF_TEXT]++;
    else status = prepare_output_add(p->output, job);
fail:
    return status;
}

static yx_status read_one(preparation *p, bool *ended) {
    yx_status status = YX_OK;
    corpus_document doc;
    encode_job job = {0};
    prepare_drop reason;
    bool keep;
    *ended = p->options->max_documents > 0 && corpus_get_counts(p->corpus).documents >= p->options->max_documents;
    if (*ended) return YX_OK;
    YX_CHECK(corpus_next(p->corpus, &doc));
    *ended = !doc.text;
    if (*ended) return YX_OK;
    YX_CHECK(prepare_filter_check(p->filter, &doc, &keep, &reason, &job.chars, &job.source_hash));
    if (!keep) {
        p->counts->dropped[reason]++;
        return YX_OK;
    }
    job.score = (float)doc.score;
    while (encode_pool_full(p->pool)) YX_CHECK(write_one(p));
    YX_CHECK(encode_pool_submit(p->pool, doc.text, doc.size, &job));
fail:
    return status;
}

static yx_status run(preparation *p) {
    yx_status status = YX_OK;
    YX_CHECK(open_all(p));
    for (bool ended = false; !ended || !encode_pool_empty(p->pool);) {
        if (p->options->stop && *p->options->stop) YX_FAIL(YX_ERR_INTERRUPTED, "interrupted: no data set was written");
        if (ended) YX_CHECK(write_one(p));
        else YX_CHECK(read_one(p, &ended));
        show_progress(p);
    }
    update_counts(p);
    YX_CHECK(prepare_output_publish(p->output, p->counts));
fail:
    return status;
}

yx_status prepare_run(const prepare_options *options, prepare_counts *counts) {
    preparation p = {.options = options, .counts = counts};
    memset(counts, 0, sizeof *counts);
    p.begin = p.last_progress = now();
    yx_status status = run(&p);
    update_counts(&p);
    close_all(&p);
    return status;
}

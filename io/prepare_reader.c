#include "io/prepare_reader.h"
#include "common/hash.h"
#include "io/prepare_filter.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct prepare_reader {
    const prepare_options *options;
    encode_pool *pool;
    corpus *corpus;
    prepare_filter *filter;
    prepare_position begin, at;
    atomic_bool stop;
    pthread_t thread;
    bool running;
    yx_status status;
    char message[2048], origin[256];
    double started;
    pthread_mutex_t lock;
    prepare_counts counts; // under the lock: the members prepare_reader_count fills
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void count(prepare_reader *r, const prepare_verdict *verdict) {
    pthread_mutex_lock(&r->lock);
    r->counts.corpus = corpus_get_counts(r->corpus);
    r->counts.rounded_scores = prepare_filter_rounded_scores(r->filter);
    if (verdict && !verdict->keep) r->counts.dropped[verdict->reason]++;
    if (r->at.documents == r->begin.documents && r->counts.resumed_seconds < 0) {
        r->counts.resumed_seconds = now() - r->started;
        r->counts.resumed_input_bytes = r->counts.corpus.input_bytes;
    }
    pthread_mutex_unlock(&r->lock);
}

void prepare_reader_count(prepare_reader *r, prepare_counts *counts) {
    pthread_mutex_lock(&r->lock);
    counts->corpus = r->counts.corpus;
    counts->rounded_scores = r->counts.rounded_scores;
    for (int i = 0; i < PREPARE_DROPS; i++) counts->dropped[i] += r->counts.dropped[i];
    counts->resumed_seconds = r->counts.resumed_seconds;
    counts->resumed_input_bytes = r->counts.resumed_input_bytes;
    pthread_mutex_unlock(&r->lock);
}

static void advance(prepare_position *at, const prepare_verdict *v) {
    const uint64_t read[4] = {at->digest, v->text_hash, v->source_hash, v->keep ? PREPARE_DROPS : (uint64_t)v->reason};
    at->digest = yx_hash64(read, sizeof read, 0);
    at->documents++;
}

static yx_status changed(const prepare_reader *r) {
    return yx_fail(
        YX_ERR_DATA,
        "the input is not the one whose first %lld documents are in %s.partial: give the same input, or start "
        "anew with --restart",
        (long long)r->begin.documents, r->options->output);
}

static yx_status handle(prepare_reader *r, const corpus_document *doc) {
    prepare_verdict verdict;
    yx_status status = prepare_filter_check(r->filter, doc, &verdict);
    if (status != YX_OK) return status;
    bool is_done = r->at.documents < r->begin.documents;
    encode_job job = {.chars = verdict.chars,
                      .source_hash = verdict.source_hash,
                      .score = (float)doc->score,
                      .ordinal = r->at.documents + 1,
                      .digest = r->at.digest};
    advance(&r->at, &verdict);
    count(r, &verdict);
    if (is_done && r->at.documents == r->begin.documents && r->at.digest != r->begin.digest) return changed(r);
    if (is_done || !verdict.keep) return YX_OK;
    return encode_pool_submit(r->pool, doc->text, doc->size, &job);
}

static yx_status read_all(prepare_reader *r) {
    yx_status status = YX_OK;
    corpus_document doc;
    int64_t limit = r->options->max_documents;
    count(r, NULL);
    while (limit == 0 || r->at.documents < limit) {
        YX_CHECK(corpus_next(r->corpus, &doc));
        if (!doc.text) break;
        YX_CHECK(handle(r, &doc));
    }
    count(r, NULL);
    if (r->at.documents < r->begin.documents) status = changed(r);
fail:
    return status;
}

static void *work(void *arg) {
    prepare_reader *r = arg;
    r->status = read_all(r);
    if (r->status != YX_OK) {
        snprintf(r->message, sizeof r->message, "%s", yx_message());
        snprintf(r->origin, sizeof r->origin, "%s", yx_message_origin());
    }
    encode_pool_end(r->pool);
    return NULL;
}

yx_status prepare_reader_open(const prepare_options *options, prepare_reader **out) {
    yx_status status = YX_OK;
    prepare_reader *r = calloc(1, sizeof *r);
    if (!r) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    pthread_mutex_init(&r->lock, NULL);
    r->options = options;
    r->counts.resumed_seconds = -1;
    corpus_options reading = options->corpus;
    reading.stop = &r->stop;
    YX_CHECK(corpus_open(options->inputs, options->n_inputs, &reading, &r->corpus));
    YX_CHECK(prepare_filter_open(options, &r->filter));
    *out = r;
    return YX_OK;
fail:
    prepare_reader_free(r);
    return status;
}

yx_status prepare_reader_start(prepare_reader *r, encode_pool *pool, prepare_position begin) {
    sigset_t all, before;
    r->pool = pool;
    r->begin = begin;
    r->started = now();
    sigfillset(&all); // signals are for the main thread
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errno = pthread_create(&r->thread, NULL, work, r);
    r->running = errno == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r->running ? YX_OK : yx_fail_errno("cannot start a thread");
}

yx_status prepare_reader_wait(prepare_reader *r, prepare_position *end) {
    if (r->running) pthread_join(r->thread, NULL);
    r->running = false;
    *end = r->at;
    if (r->status != YX_OK) yx_set_message(r->message, r->origin);
    return r->status;
}

void prepare_reader_free(prepare_reader *r) {
    if (!r) return;
    if (r->running) {
        atomic_store(&r->stop, true);
        encode_pool_stop(r->pool);
        pthread_join(r->thread, NULL);
    }
    prepare_filter_close(r->filter);
    corpus_close(r->corpus);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

#include "io/prepare_encode.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// What is in flight takes the texts, up to four times as much for their tokens, and what the slots keep.
enum { SLOTS_PER_THREAD = 64, MAX_BYTES_IN_FLIGHT = 64 << 20, KEEP_BUFFER = 64 << 10, MAX_MESSAGE = 2048 };
static const long wait_nanoseconds = 100000000;

typedef struct slot {
    encode_job job;
    size_t text_capacity, id_capacity;
    bool done; // under the lock
    yx_status status;
    char message[MAX_MESSAGE], origin[256];
} slot;

struct encode_pool {
    encode_options options;
    int started;
    pthread_t *threads;
    int64_t n_slots;
    slot *slots; // ring
    pthread_mutex_t lock;
    pthread_cond_t work, done, room;
    // Under the lock.
    int64_t submitted, begun, finished, released;
    int64_t bytes;  // of the texts in flight
    bool lent;      // the taker has the oldest slot
    bool ended;     // nothing more is submitted
    bool stop, bye; // no more submissions are wanted; the threads end
};

// What a thread encodes with.
typedef struct worker {
    const encode_options *options;
    tokenizer_scratch *scratch, *count_scratch;
} worker;

static yx_status reserve(void **buffer, size_t *capacity, size_t size) {
    if (size <= *capacity) return YX_OK;
    void *grown = realloc(*buffer, size);
    if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a document of %zu bytes", size);
    *buffer = grown;
    *capacity = size;
    return YX_OK;
}

static yx_status encode(const worker *w, slot *s) {
    const uint32_t *ids;
    size_t count;
    void *buffer = s->job.ids;
    yx_status status = tokenizer_encode(w->options->tokenizer, w->scratch, s->job.text, s->job.size,
                                        TOKENIZER_NO_SPECIAL, &ids, &count);
    if (status == YX_OK) status = reserve(&buffer, &s->id_capacity, count * sizeof *ids);
    s->job.ids = buffer;
    if (status != YX_OK) return status;
    if (count > 0) memcpy(s->job.ids, ids, count * sizeof *ids);
    s->job.count = count;
    return YX_OK;
}

static yx_status count_tokens(const worker *w, encode_job *job) {
    const uint32_t *ids;
    size_t count = job->count;
    yx_status status = YX_OK;
    if (w->options->counter)
        status = tokenizer_encode(w->options->counter, w->count_scratch, job->text, job->size, TOKENIZER_NO_SPECIAL,
                                  &ids, &count);
    job->counted = (int64_t)count;
    return status;
}

static void run(const worker *w, yx_status broken, slot *s) {
    s->status = broken;
    if (s->status == YX_OK) s->status = encode(w, s);
    if (s->status == YX_OK) s->status = count_tokens(w, &s->job);
    if (w->options->sign) s->job.has_words = dedup_sign(s->job.text, s->job.size, s->job.bands);
    if (s->status == YX_OK) return;
    snprintf(s->message, sizeof s->message, "%s", yx_message());
    snprintf(s->origin, sizeof s->origin, "%s", yx_message_origin());
}

static yx_status equip(worker *w) {
    yx_status status = tokenizer_scratch_new(w->options->tokenizer, &w->scratch);
    if (status == YX_OK && w->options->counter) status = tokenizer_scratch_new(w->options->counter, &w->count_scratch);
    return status;
}

// Waking a thread for every document would cost as much as a tenth of encoding it: the taker sleeps until a quarter of
// the places is ready, or nothing is left to do.
static bool is_worth_waking(const encode_pool *p) {
    return p->finished - p->released >= p->n_slots / 4 || p->begun == p->submitted;
}

static void *work(void *arg) {
    encode_pool *p = arg;
    worker w = {.options = &p->options};
    yx_status broken = equip(&w);                 // reported with the first job
    pthread_setname_np(pthread_self(), "encode"); // tells what computes: top, perf, tests/long_prepare.py
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->bye && p->begun == p->submitted) pthread_cond_wait(&p->work, &p->lock);
        if (p->bye) break;
        slot *s = &p->slots[p->begun++ % p->n_slots];
        pthread_mutex_unlock(&p->lock);
        run(&w, broken, s);
        pthread_mutex_lock(&p->lock);
        s->done = true;
        p->finished++;
        if (is_worth_waking(p)) pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    tokenizer_scratch_free(w.scratch);
    tokenizer_scratch_free(w.count_scratch);
    return NULL;
}

static yx_status start_threads(encode_pool *p) {
    sigset_t all, before;
    // Signals are for the main thread, which looks at its flag between documents.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (p->started < p->options.threads && error == 0) {
        error = pthread_create(&p->threads[p->started], NULL, work, p);
        p->started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return error == 0 ? YX_OK : yx_fail_errno("cannot start %d threads", p->options.threads);
}

yx_status encode_pool_open(const encode_options *options, encode_pool **out) {
    yx_status status = YX_OK;
    pthread_condattr_t monotonic;
    encode_pool *p = calloc(1, sizeof *p);
    if (!p) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    p->options = *options;
    p->n_slots = (int64_t)options->threads * SLOTS_PER_THREAD;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->room, NULL);
    pthread_cond_init(&p->done, &monotonic);
    pthread_condattr_destroy(&monotonic);
    p->threads = calloc((size_t)options->threads, sizeof *p->threads);
    p->slots = calloc((size_t)p->n_slots, sizeof *p->slots);
    if (!p->threads || !p->slots) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d threads", options->threads);
    YX_CHECK(start_threads(p));
    *out = p;
    return YX_OK;
fail:
    encode_pool_close(p);
    return status;
}

void encode_pool_close(encode_pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->bye = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->threads[i], NULL);
    for (int64_t i = 0; p->slots && i < p->n_slots; i++) {
        free(p->slots[i].job.text);
        free(p->slots[i].job.ids);
    }
    free(p->slots);
    free(p->threads);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->room);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

// A huge document's buffers are not kept for the next ones.
static void trim(slot *s) {
    if (s->text_capacity > KEEP_BUFFER) {
        free(s->job.text);
        s->job.text = NULL;
        s->text_capacity = 0;
    }
    if (s->id_capacity > KEEP_BUFFER) {
        free(s->job.ids);
        s->job.ids = NULL;
        s->id_capacity = 0;
    }
}

static yx_status fill(slot *s, const char *text, size_t size, const encode_job *job) {
    encode_job next = *job;
    void *buffer = s->job.text;
    yx_status status = reserve(&buffer, &s->text_capacity, size);
    s->job.text = buffer;
    if (status != YX_OK) return status;
    memcpy(s->job.text, text, size);
    next.text = s->job.text;
    next.size = size;
    next.ids = s->job.ids;
    s->job = next;
    s->done = false; // no other thread looks at a slot that is not submitted
    return YX_OK;
}

static bool is_full(const encode_pool *p) {
    int64_t in_flight = p->submitted - p->released;
    return in_flight == p->n_slots || (in_flight > 0 && p->bytes > MAX_BYTES_IN_FLIGHT);
}

// As with the taker: once all places are full, the reader sleeps until half of them are free.
static bool has_much_room(const encode_pool *p) {
    return p->submitted - p->released <= p->n_slots / 2 && p->bytes <= MAX_BYTES_IN_FLIGHT / 2;
}

static void await_room(encode_pool *p) {
    if (!is_full(p)) return;
    while (!p->stop && !has_much_room(p)) pthread_cond_wait(&p->room, &p->lock);
}

yx_status encode_pool_submit(encode_pool *p, const char *text, size_t size, const encode_job *job) {
    pthread_mutex_lock(&p->lock);
    await_room(p);
    bool stop = p->stop;
    slot *s = &p->slots[p->submitted % p->n_slots];
    pthread_mutex_unlock(&p->lock);
    if (stop) return yx_fail(YX_ERR_INTERRUPTED, "encoding was stopped");
    yx_status status = fill(s, text, size, job);
    if (status != YX_OK) return status;
    pthread_mutex_lock(&p->lock);
    p->submitted++;
    p->bytes += (int64_t)size;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
    return YX_OK;
}

void encode_pool_end(encode_pool *p) {
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->lock);
}

void encode_pool_stop(encode_pool *p) {
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->room);
    pthread_mutex_unlock(&p->lock);
}

static void release(encode_pool *p) {
    if (!p->lent) return;
    slot *s = &p->slots[p->released % p->n_slots];
    p->bytes -= (int64_t)s->job.size;
    trim(s);
    p->released++;
    p->lent = false;
    if (has_much_room(p)) pthread_cond_signal(&p->room);
}

static encode_state look(const encode_pool *p) {
    if (p->released < p->submitted) return p->slots[p->released % p->n_slots].done ? ENCODE_JOB : ENCODE_IDLE;
    return p->ended ? ENCODE_ENDED : ENCODE_IDLE;
}

// Waits while nothing is there, but not for long.
static encode_state await(encode_pool *p) {
    struct timespec until;
    if (look(p) != ENCODE_IDLE) return look(p);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += wait_nanoseconds;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    while (look(p) == ENCODE_IDLE && pthread_cond_timedwait(&p->done, &p->lock, &until) == 0) {
    }
    return look(p);
}

yx_status encode_pool_take(encode_pool *p, const encode_job **out, encode_state *state) {
    *out = NULL;
    pthread_mutex_lock(&p->lock);
    release(p);
    *state = await(p);
    p->lent = *state == ENCODE_JOB;
    slot *s = &p->slots[p->released % p->n_slots];
    pthread_mutex_unlock(&p->lock);
    if (*state != ENCODE_JOB) return YX_OK;
    *out = &s->job;
    if (s->status != YX_OK) yx_set_message(s->message, s->origin);
    return s->status;
}

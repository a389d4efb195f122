#include "io/prepare_encode.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_PER_THREAD = 16, MAX_BYTES_IN_FLIGHT = 256 << 20, KEEP_BUFFER = 4 << 20, MAX_MESSAGE = 2048 };

typedef struct slot {
    encode_job job;
    size_t text_capacity, id_capacity;
    bool done; // under the lock
    yx_status status;
    char message[MAX_MESSAGE], origin[256];
} slot;

struct encode_pool {
    const yx_tokenizer *tokenizer;
    int n_threads, started;
    pthread_t *threads;
    int64_t n_slots;
    slot *slots;              // ring
    int64_t taken, submitted; // only the caller changes them
    int64_t bytes;            // of the texts in flight; the caller's
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    int64_t begun;     // under the lock: jobs that a thread has picked up
    int64_t available; // under the lock: jobs that may be picked up (= submitted)
    bool stop;
};

static yx_status reserve(void **buffer, size_t *capacity, size_t size) {
    if (size <= *capacity) return YX_OK;
    void *grown = realloc(*buffer, size);
    if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a document of %zu bytes", size);
    *buffer = grown;
    *capacity = size;
    return YX_OK;
}

static yx_status encode(const yx_tokenizer *tokenizer, tokenizer_scratch *scratch, slot *s) {
    const uint32_t *ids;
    size_t count;
    void *buffer = s->job.ids;
    yx_status status =
        tokenizer_encode(tokenizer, scratch, s->job.text, s->job.size, TOKENIZER_NO_SPECIAL, &ids, &count);
    if (status == YX_OK) status = reserve(&buffer, &s->id_capacity, count * sizeof *ids);
    s->job.ids = buffer;
    if (status != YX_OK) return status;
    if (count > 0) memcpy(s->job.ids, ids, count * sizeof *ids);
    s->job.count = count;
    return YX_OK;
}

static void run(encode_pool *p, tokenizer_scratch *scratch, yx_status broken, slot *s) {
    s->status = broken == YX_OK ? encode(p->tokenizer, scratch, s) : broken;
    if (s->status == YX_OK) return;
    snprintf(s->message, sizeof s->message, "%s", yx_message());
    snprintf(s->origin, sizeof s->origin, "%s", yx_message_origin());
}

static void *work(void *arg) {
    encode_pool *p = arg;
    tokenizer_scratch *scratch = NULL;
    yx_status broken = tokenizer_scratch_new(p->tokenizer, &scratch); // reported with the first job
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && p->begun == p->available) pthread_cond_wait(&p->work, &p->lock);
        if (p->stop) break;
        slot *s = &p->slots[p->begun++ % p->n_slots];
        pthread_mutex_unlock(&p->lock);
        run(p, scratch, broken, s);
        pthread_mutex_lock(&p->lock);
        s->done = true;
        pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    tokenizer_scratch_free(scratch);
    return NULL;
}

static yx_status start_threads(encode_pool *p) {
    sigset_t all, before;
    // Signals are for the main thread, which looks at its flag between documents.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (p->started < p->n_threads && error == 0) {
        error = pthread_create(&p->threads[p->started], NULL, work, p);
        p->started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return error == 0 ? YX_OK : yx_fail_errno("cannot start %d threads", p->n_threads);
}

yx_status encode_pool_open(const yx_tokenizer *tokenizer, int threads, encode_pool **out) {
    yx_status status = YX_OK;
    encode_pool *p = calloc(1, sizeof *p);
    if (!p) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    p->tokenizer = tokenizer;
    p->n_threads = threads;
    p->n_slots = (int64_t)threads * SLOTS_PER_THREAD;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    p->threads = calloc((size_t)threads, sizeof *p->threads);
    p->slots = calloc((size_t)p->n_slots, sizeof *p->slots);
    if (!p->threads || !p->slots) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d threads", threads);
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
    p->stop = true;
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
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

bool encode_pool_empty(const encode_pool *p) { return p->taken == p->submitted; }

bool encode_pool_full(const encode_pool *p) {
    return p->submitted - p->taken == p->n_slots || p->bytes > MAX_BYTES_IN_FLIGHT;
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

yx_status encode_pool_submit(encode_pool *p, const char *text, size_t size, const encode_job *job) {
    slot *s = &p->slots[p->submitted % p->n_slots];
    trim(s);
    void *buffer = s->job.text;
    yx_status status = reserve(&buffer, &s->text_capacity, size);
    s->job.text = buffer;
    if (status != YX_OK) return status;
    memcpy(s->job.text, text, size);
    s->job.size = size;
    s->job.chars = job->chars;
    s->job.source_hash = job->source_hash;
    s->job.score = job->score;
    p->bytes += (int64_t)size;
    p->submitted++;
    pthread_mutex_lock(&p->lock);
    s->done = false;
    p->available = p->submitted;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
    return YX_OK;
}

yx_status encode_pool_take(encode_pool *p, const encode_job **out) {
    slot *s = &p->slots[p->taken % p->n_slots];
    pthread_mutex_lock(&p->lock);
    while (!s->done) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
    p->taken++;
    p->bytes -= (int64_t)s->job.size;
    *out = &s->job;
    if (s->status != YX_OK) yx_set_message(s->message, s->origin);
    return s->status;
}

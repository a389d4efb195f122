#include "io/loader.h"
#include "io/loader_fill.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MICRO_MULTIPLE = 128, MAX_MESSAGE = 2048 };

typedef struct slot {
    micro_batch batch;
    bool last_of_step;
    struct slot *next_free;
} slot;

enum { KEPT = 2 }; // micro-batches that stay with the caller

struct loader {
    loader_filler filler; // the thread's own
    int64_t max_micro_tokens;
    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock;
    pthread_cond_t work, ready;
    // Under the lock from here on.
    bool stop;
    load_request queue[LOADER_MAX_STEPS]; // steps with micro-batches not filled yet; the first is being filled
    int queued;
    int64_t next_micro;                  // of queue[0]
    int64_t outstanding;                 // steps requested and not taken to their end
    int64_t requested;                   // micro-batches requested and not taken
    int64_t generation;                  // counts cancels: a filling that began before one is dropped
    int64_t depth, most;                 // micro-batches ahead, now and at most
    slot *filled[LOADER_MAX_DEPTH];      // ring
    slot *kept[KEPT];                    // what was taken last, the newest behind
    slot *free;                          // the last one used first: its memory is near
    int64_t next_fill, next_take, taken; // taken: since the last cancel
    yx_status failure;                   // of the thread
    char message[MAX_MESSAGE], origin[256];
};

int64_t loader_num_micro_batches(const load_request *request) {
    int64_t per = request->micro_tokens / request->seq_len;
    int64_t n = (request->num_sequences + per - 1) / per;
    return n > 0 ? n : 1;
}

// --- The thread -----------------------------------------------------------------------------------------------------
static bool may_fill(const loader *l) {
    return l->queued > 0 && l->failure == YX_OK && l->next_fill - l->next_take < l->depth;
}

static void put_back(loader *l, slot *s) {
    if (!s) return;
    s->next_free = l->free;
    l->free = s;
}

static void free_slot(slot *s) {
    if (!s) return;
    free(s->batch.token);
    free(s->batch.target);
    free(s->batch.seq_start);
    free(s);
}

static slot *new_slot(int64_t tokens) {
    slot *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->batch.token = malloc((size_t)tokens * sizeof *s->batch.token);
    s->batch.target = malloc((size_t)tokens * sizeof *s->batch.target);
    s->batch.seq_start = malloc((size_t)tokens * sizeof *s->batch.seq_start);
    if (s->batch.token && s->batch.target && s->batch.seq_start) return s;
    free_slot(s);
    return NULL;
}

// Under the lock: a place to fill, a new one where the loader has grown.
static slot *get_slot(loader *l) {
    slot *s = l->free;
    if (s) l->free = s->next_free;
    return s ? s : new_slot(l->max_micro_tokens);
}

// Under the lock: the micro-batch that was filled becomes visible.
static void publish(loader *l, slot *filled, int64_t num_micro) {
    filled->last_of_step = l->next_micro + 1 == num_micro;
    l->filled[l->next_fill++ % LOADER_MAX_DEPTH] = filled;
    l->next_micro++;
    if (!filled->last_of_step) return;
    l->next_micro = 0;
    l->queued--;
    memmove(l->queue, l->queue + 1, (size_t)l->queued * sizeof *l->queue);
}

static void record_failure(loader *l, yx_status status) {
    l->failure = status;
    snprintf(l->message, sizeof l->message, "%s", yx_message());
    snprintf(l->origin, sizeof l->origin, "%s", yx_message_origin());
}

// Under the lock, which is free meanwhile: the next micro-batch.
static void fill_next(loader *l) {
    load_request request = l->queue[0];
    int64_t micro = l->next_micro, generation = l->generation;
    slot *target = get_slot(l);
    yx_status status = target ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for a micro-batch");
    pthread_mutex_unlock(&l->lock);
    if (status == YX_OK) status = loader_filler_fill(&l->filler, &request, micro, &target->batch);
    pthread_mutex_lock(&l->lock);
    bool dropped = generation != l->generation;
    if (dropped || status != YX_OK) put_back(l, target);
    if (dropped) return;
    if (status == YX_OK) publish(l, target, loader_num_micro_batches(&request));
    else record_failure(l, status);
    pthread_cond_signal(&l->ready);
}

static void *work(void *arg) {
    loader *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && !may_fill(l)) pthread_cond_wait(&l->work, &l->lock);
        if (l->stop) break;
        fill_next(l);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static yx_status start_thread(loader *l) {
    sigset_t all, before;
    // Signals are for the main thread, which waits for them.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errno = pthread_create(&l->thread, NULL, work, l);
    l->thread_started = errno == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return l->thread_started ? YX_OK : yx_fail_errno("cannot start the loader's thread");
}

// --- Opening and closing --------------------------------------------------------------------------------------------
int64_t loader_most_ahead(int64_t depth) {
    return depth * LOADER_GROWTH < LOADER_MAX_DEPTH ? depth * LOADER_GROWTH : LOADER_MAX_DEPTH;
}

static yx_status allocate(loader *l) {
    yx_status status = YX_OK;
    for (int64_t i = 0; i < l->depth + KEPT; i++) {
        slot *s = new_slot(l->max_micro_tokens);
        if (!s) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for micro-batches of %lld tokens", (long long)l->max_micro_tokens);
        put_back(l, s);
    }
fail:
    return status;
}

static yx_status check_arguments(const dataset *data, const data_order *order, int depth, int64_t max_micro_tokens) {
    int64_t blocks = dataset_get_info(data)->num_tokens / ORDER_BLOCK_TOKENS;
    if (order->blocks_per_epoch < 1 || order->blocks_per_epoch > blocks || order->window_blocks < 1)
        return yx_fail(YX_ERR_INTERNAL, "an epoch of %lld blocks and windows of %lld for a data set of %lld blocks",
                       (long long)order->blocks_per_epoch, (long long)order->window_blocks, (long long)blocks);
    if (depth < 2 || depth > LOADER_MAX_DEPTH || max_micro_tokens < 1 || max_micro_tokens % MICRO_MULTIPLE != 0 ||
        max_micro_tokens > INT32_MAX)
        return yx_fail(YX_ERR_INTERNAL, "%d micro-batches of %lld tokens ahead", depth, (long long)max_micro_tokens);
    return YX_OK;
}

yx_status loader_open(const dataset *data, const data_order *order, bool document_mask, int depth, int num_ranks,
                      int64_t max_micro_tokens, loader **out) {
    yx_status status = check_arguments(data, order, depth, max_micro_tokens);
    if (status != YX_OK) return status;
    loader *l = calloc(1, sizeof *l);
    if (!l) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    data_order used = *order;
    if (used.window_blocks > used.blocks_per_epoch) used.window_blocks = used.blocks_per_epoch;
    l->depth = depth;
    l->most = loader_most_ahead(depth);
    l->max_micro_tokens = max_micro_tokens;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
    YX_CHECK(loader_filler_open(data, &used, document_mask, num_ranks, &l->filler));
    YX_CHECK(allocate(l));
    YX_CHECK(start_thread(l));
    *out = l;
    return YX_OK;
fail:
    loader_close(l);
    return status;
}

void loader_close(loader *l) {
    if (!l) return;
    if (l->thread_started) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_signal(&l->work);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    for (; l->next_take < l->next_fill; l->next_take++) put_back(l, l->filled[l->next_take % LOADER_MAX_DEPTH]);
    for (int i = 0; i < KEPT; i++) put_back(l, l->kept[i]);
    for (slot *s = l->free, *next; s; s = next) {
        next = s->next_free;
        free_slot(s);
    }
    loader_filler_close(&l->filler);
    pthread_cond_destroy(&l->ready);
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

// --- The caller's side ----------------------------------------------------------------------------------------------
static yx_status check_request(const loader *l, const load_request *r) {
    if (r->seq_len < 1 || ORDER_BLOCK_TOKENS % r->seq_len != 0 || r->micro_tokens < r->seq_len ||
        r->micro_tokens % MICRO_MULTIPLE != 0 || r->micro_tokens > l->max_micro_tokens)
        return yx_fail(YX_ERR_INTERNAL, "sequences of %lld in micro-batches of %lld tokens (at most %lld)",
                       (long long)r->seq_len, (long long)r->micro_tokens, (long long)l->max_micro_tokens);
    if (r->position < 0 || r->position % r->seq_len != 0 || r->first_sequence < 0 || r->num_sequences < 0)
        return yx_fail(YX_ERR_INTERNAL, "position %lld, sequences %lld + %lld of %lld tokens", (long long)r->position,
                       (long long)r->first_sequence, (long long)r->num_sequences, (long long)r->seq_len);
    return YX_OK;
}

yx_status loader_request(loader *l, const load_request *request) {
    yx_status status = check_request(l, request);
    if (status != YX_OK) return status;
    pthread_mutex_lock(&l->lock);
    if (l->outstanding == LOADER_MAX_STEPS) {
        status = yx_fail(YX_ERR_INTERNAL, "%d steps are already requested", LOADER_MAX_STEPS);
    } else {
        l->queue[l->queued++] = *request;
        l->outstanding++;
        l->requested += loader_num_micro_batches(request);
        pthread_cond_signal(&l->work);
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

yx_status loader_fill(loader *l, const load_request *request, int64_t micro, micro_batch *out) {
    yx_status status = check_request(l, request);
    if (status == YX_OK && (micro < 0 || micro >= loader_num_micro_batches(request)))
        status = yx_fail(YX_ERR_INTERNAL, "no micro-batch %lld", (long long)micro);
    return status == YX_OK ? loader_filler_fill(&l->filler, request, micro, out) : status;
}

bool loader_wants(loader *l) {
    pthread_mutex_lock(&l->lock);
    bool wants = l->outstanding + 2 <= LOADER_MAX_STEPS && (l->outstanding < 2 || l->requested <= l->depth);
    pthread_mutex_unlock(&l->lock);
    return wants;
}

int64_t loader_depth(loader *l) {
    pthread_mutex_lock(&l->lock);
    int64_t depth = l->depth;
    pthread_mutex_unlock(&l->lock);
    return depth;
}

// Under the lock: the caller has to wait. At the start it always has; later it means that reading is uneven, and more
// has to be ready.
static void wait_ready(loader *l) {
    if (l->taken > 0) l->depth = l->depth * 2 < l->most ? l->depth * 2 : l->most;
    pthread_cond_signal(&l->work);
    while (l->next_fill == l->next_take && l->failure == YX_OK) pthread_cond_wait(&l->ready, &l->lock);
}

// Under the lock.
static yx_status take(loader *l, const micro_batch **out) {
    if (l->next_fill == l->next_take) {
        yx_set_message(l->message, l->origin);
        return l->failure;
    }
    slot *taken = l->filled[l->next_take++ % LOADER_MAX_DEPTH];
    put_back(l, l->kept[0]);
    l->kept[0] = l->kept[1];
    l->kept[1] = taken;
    l->taken++;
    l->requested--;
    if (taken->last_of_step) l->outstanding--;
    *out = &taken->batch;
    pthread_cond_signal(&l->work);
    return YX_OK;
}

yx_status loader_next(loader *l, const micro_batch **out) {
    pthread_mutex_lock(&l->lock);
    yx_status status = YX_OK;
    if (l->outstanding == 0) status = yx_fail(YX_ERR_INTERNAL, "no micro-batch was requested");
    if (status == YX_OK && l->next_fill == l->next_take && l->failure == YX_OK) wait_ready(l);
    if (status == YX_OK) status = take(l, out);
    pthread_mutex_unlock(&l->lock);
    return status;
}

void loader_cancel(loader *l) {
    pthread_mutex_lock(&l->lock);
    l->generation++;
    l->queued = 0;
    l->next_micro = 0;
    l->outstanding = l->requested = l->taken = 0;
    for (; l->next_take < l->next_fill; l->next_take++) put_back(l, l->filled[l->next_take % LOADER_MAX_DEPTH]);
    l->failure = YX_OK;
    pthread_mutex_unlock(&l->lock);
}

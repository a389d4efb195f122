#include "io/loader.h"
#include "common/hash.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROW = ORDER_BLOCK_TOKENS + 1,
    GROUP = 64,
    LONG = 512,
    CACHE_LINE = 16,
    MICRO_MULTIPLE = 128,
    ANNOUNCED_AT_ONCE = 64,
    MAX_MESSAGE = 2048
};

// The blocks of one shuffle window, read when they are first needed. A block's sequences are scattered over the whole
// window, so each block is read once in one piece instead of once a sequence.
typedef struct window_cache {
    int64_t epoch, window; // -1: none yet
    uint32_t *rows;        // [window_blocks, ROW]: each block and the token behind it
    bool *loaded;          // [window_blocks]
    int64_t announced;     // blocks of the next window
} window_cache;

typedef struct slot {
    micro_batch batch;
    bool last_of_step;
    struct slot *next_free;
} slot;

enum { KEPT = 2 }; // micro-batches that stay with the caller

struct loader {
    const dataset *data;
    data_order order;
    bool document_mask;
    int num_ranks;
    int64_t max_micro_tokens;
    // The thread's own.
    window_cache cache;
    uint32_t *pieces; // sequences that are read by themselves

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

// --- Filling --------------------------------------------------------------------------------------------------------
// Puts a sequence of n tokens (and the one behind it) at `at`. index: what tells it apart in the hash.
static void place(micro_batch *out, int64_t at, const uint32_t *tokens, int64_t n, uint32_t eot, bool document_mask,
                  uint64_t index) {
    int32_t *token = out->token + at, *target = out->target + at, *seq_start = out->seq_start + at;
    memcpy(token, tokens, (size_t)n * sizeof *token);
    memcpy(target, tokens + 1, (size_t)n * sizeof *target);
    int32_t start = (int32_t)at;
    for (int32_t i = 0; i < n; i++) {
        if (document_mask) start = tokens[i] == eot ? (int32_t)at + i : start;
        seq_start[i] = start;
    }
    out->num_scored += n;
    out->token_hash += yx_hash64(tokens, (size_t)(n + 1) * sizeof *tokens, index);
}

static void start_batch(micro_batch *out, int64_t micro_tokens) {
    out->num_tokens = micro_tokens;
    out->num_scored = 0;
    out->token_hash = 0;
}

static void pad(micro_batch *out) {
    for (int64_t i = out->num_scored; i < out->num_tokens; i++) {
        out->token[i] = 0;
        out->target[i] = -1;
        out->seq_start[i] = (int32_t)i;
    }
}

// Tokens [begin, begin + count] of the stream, one more than `count`: behind the last token comes the first document's
// end-of-text token again.
static yx_status read_with_next(const dataset *data, int64_t begin, int64_t count, uint32_t *tokens) {
    const dataset_info *info = dataset_get_info(data);
    bool at_end = begin + count == info->num_tokens;
    yx_status status = dataset_read(data, begin, at_end ? count : count + 1, tokens);
    if (at_end) tokens[count] = info->eot_id;
    return status;
}

static void enter_window(loader *l, const order_place *p) {
    window_cache *c = &l->cache;
    if (c->epoch == p->epoch && c->window == p->window) return;
    memset(c->loaded, 0, (size_t)l->order.window_blocks * sizeof *c->loaded);
    c->epoch = p->epoch;
    c->window = p->window;
    c->announced = 0;
}

// A rank among several needs only some sequences of a block. Below LONG a page of the file, and soon the block, holds
// one of them nearly always.
static bool reads_pieces(const loader *l, int64_t seq_len) { return l->num_ranks > 1 && seq_len >= LONG; }

// The blocks of the next window: the system reads them while this one is used up, evenly over its first half, so that
// they neither compete with this window's own first reading nor come in a burst.
static void announce_next(loader *l, const load_request *r, int64_t position) {
    const data_order *o = &l->order;
    order_window w;
    if (reads_pieces(l, r->seq_len)) return; // a rank of several would announce what others read
    order_window_at(o, position, r->seq_len, &w);
    bool last = (w.window + 1) * o->window_blocks >= o->blocks_per_epoch;
    int64_t epoch = w.epoch + last, window = last ? 0 : w.window + 1;
    int64_t left = o->blocks_per_epoch - window * o->window_blocks;
    int64_t blocks = left < o->window_blocks ? left : o->window_blocks;
    int64_t due = 1 + 2 * (position - w.position) / ORDER_BLOCK_TOKENS;
    window_cache *c = &l->cache;
    if (due > c->announced + blocks / ANNOUNCED_AT_ONCE + 1) due = c->announced + blocks / ANNOUNCED_AT_ONCE + 1;
    for (; c->announced < due && c->announced < blocks; c->announced++) {
        int64_t block = order_block(o, epoch, window, c->announced);
        dataset_will_need(l->data, block * ORDER_BLOCK_TOKENS, ORDER_BLOCK_TOKENS);
    }
}

// The row of a block, from the cache or read into it.
static yx_status get_row(loader *l, const order_place *p, const uint32_t **row) {
    window_cache *c = &l->cache;
    enter_window(l, p);
    uint32_t *data = c->rows + p->block_in_window * ROW;
    *row = data;
    if (c->loaded[p->block_in_window]) return YX_OK;
    int64_t block = order_block(&l->order, p->epoch, p->window, p->block_in_window);
    yx_status status = read_with_next(l->data, block * ORDER_BLOCK_TOKENS, ORDER_BLOCK_TOKENS, data);
    c->loaded[p->block_in_window] = status == YX_OK;
    return status;
}

static yx_status get_piece(loader *l, const order_place *p, int64_t seq_len, int64_t index, const uint32_t **tokens) {
    uint32_t *data = l->pieces + index * (seq_len + 1);
    int64_t block = order_block(&l->order, p->epoch, p->window, p->block_in_window);
    *tokens = data;
    return read_with_next(l->data, block * ORDER_BLOCK_TOKENS + p->token_in_block, seq_len, data);
}

// Where the tokens of sequences [first, first + n) of the request lie, n ≤ GROUP.
static yx_status locate_group(loader *l, const load_request *r, int64_t first, int64_t n, const uint32_t **tokens) {
    yx_status status = YX_OK;
    order_window window;
    order_place where[GROUP];
    int64_t position = r->position + first * r->seq_len;
    order_window_at(&l->order, position, r->seq_len, &window);
    for (int64_t i = 0; i < n; i++) order_window_locate(&window, position + i * r->seq_len, &where[i]);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t *row;
        if (reads_pieces(l, r->seq_len)) {
            YX_CHECK(get_piece(l, &where[i], r->seq_len, i, &tokens[i]));
            continue;
        }
        YX_CHECK(get_row(l, &where[i], &row));
        tokens[i] = row + where[i].token_in_block;
        __builtin_prefetch(tokens[i]);
        __builtin_prefetch(tokens[i] + (r->seq_len < CACHE_LINE ? r->seq_len : CACHE_LINE));
    }
fail:
    return status;
}

// Short sequences lie scattered over megabytes, so a group of them is located, and asked of the memory, before it is
// copied. A group does not cross a multiple of the block, hence no window border, where the rows change.
static yx_status fill(loader *l, const load_request *r, int64_t micro, micro_batch *out) {
    yx_status status = YX_OK;
    uint32_t eot = dataset_get_info(l->data)->eot_id;
    const uint32_t *tokens[GROUP];
    int64_t per = r->micro_tokens / r->seq_len, first = r->first_sequence + micro * per;
    int64_t n = r->first_sequence + r->num_sequences - first, group;
    if (n > per) n = per;
    start_batch(out, r->micro_tokens);
    for (int64_t done = 0; done < n; done += group) {
        int64_t index = first + done, in_block = (r->position + index * r->seq_len) % ORDER_BLOCK_TOKENS;
        group = (ORDER_BLOCK_TOKENS - in_block) / r->seq_len;
        if (group > GROUP) group = GROUP;
        if (group > n - done) group = n - done;
        YX_CHECK(locate_group(l, r, index, group, tokens));
        for (int64_t i = 0; i < group; i++)
            place(out, (done + i) * r->seq_len, tokens[i], r->seq_len, eot, l->document_mask, (uint64_t)(index + i));
    }
    pad(out);
    if (n > 0) announce_next(l, r, r->position + (first + n - 1) * r->seq_len);
fail:
    return status;
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
    if (status == YX_OK) status = fill(l, &request, micro, &target->batch);
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
    size_t blocks = (size_t)l->order.window_blocks;
    // Pages of blocks that are never needed are never touched.
    l->cache.rows = malloc(blocks * ROW * sizeof *l->cache.rows);
    l->cache.loaded = calloc(blocks, sizeof *l->cache.loaded);
    l->pieces = malloc((ORDER_BLOCK_TOKENS + GROUP) * sizeof *l->pieces);
    if (!l->cache.rows || !l->cache.loaded || !l->pieces)
        YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a shuffle window of %zu blocks", blocks);
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
    l->data = data;
    l->order = *order;
    if (l->order.window_blocks > order->blocks_per_epoch) l->order.window_blocks = order->blocks_per_epoch;
    l->document_mask = document_mask;
    l->num_ranks = num_ranks;
    l->depth = depth;
    l->most = loader_most_ahead(depth);
    l->max_micro_tokens = max_micro_tokens;
    l->cache.epoch = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
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
    free(l->pieces);
    free(l->cache.rows);
    free(l->cache.loaded);
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
    return status == YX_OK ? fill(l, request, micro, out) : status;
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

// --- Validation -----------------------------------------------------------------------------------------------------
yx_status loader_fill_windows(const dataset *data, bool document_mask, int64_t begin, int64_t seq_len,
                              int64_t micro_tokens, micro_batch *out, int64_t *next) {
    const dataset_info *info = dataset_get_info(data);
    if (begin < 0 || begin >= info->num_tokens || seq_len < 1 || micro_tokens < seq_len || micro_tokens > INT32_MAX)
        return yx_fail(YX_ERR_INTERNAL, "windows of %lld from token %lld of %lld in micro-batches of %lld",
                       (long long)seq_len, (long long)begin, (long long)info->num_tokens, (long long)micro_tokens);
    int64_t count = micro_tokens / seq_len * seq_len, left = info->num_tokens - begin;
    if (count > left) count = left;
    uint32_t *tokens = malloc((size_t)(count + 1) * sizeof *tokens);
    if (!tokens) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %lld tokens", (long long)count);
    yx_status status = read_with_next(data, begin, count, tokens);
    start_batch(out, micro_tokens);
    for (int64_t at = 0; at < count && status == YX_OK; at += seq_len) {
        int64_t n = count - at < seq_len ? count - at : seq_len;
        place(out, at, tokens + at, n, info->eot_id, document_mask, (uint64_t)(at / seq_len));
    }
    pad(out);
    *next = begin + count;
    free(tokens);
    return status;
}

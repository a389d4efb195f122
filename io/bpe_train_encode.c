#include "io/bpe_train_encode.h"
#include "io/tokenizer_split.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_BYTES = 1 << 19, BLOCK_TOKENS = 1 << 20, NTH_CLASSES = 32 * 16 };

// --- Sketch ----------------------------------------------------------------------------------------------------------

yx_status pair_sketch_new(pair_sketch *s, size_t n_counts) {
    *s = (pair_sketch){calloc(n_counts, sizeof *s->counts), n_counts};
    return s->counts ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu counts of pairs", n_counts);
}

void pair_sketch_free(pair_sketch *s) {
    free((void *)s->counts);
    *s = (pair_sketch){0};
}

// Sixteen classes for each power of two.
static uint32_t class_of(uint32_t count) {
    if (count < 16) return count;
    int shift = 27 - __builtin_clz(count);
    return (uint32_t)(shift + 1) * 16 + (count >> shift & 15);
}

static uint32_t least_of_class(uint32_t class) { return class < 16 ? class : (16 + class % 16) << (class / 16 - 1); }

uint32_t pair_sketch_nth(const pair_sketch *s, size_t n) {
    size_t reached = 0, in_class[NTH_CLASSES] = {0};
    for (size_t i = 0; i < s->n_counts; i++) in_class[class_of(s->counts[i])]++;
    for (uint32_t class = NTH_CLASSES - 1; class > 0; class --) {
        reached += in_class[class];
        if (reached >= n) return least_of_class(class);
    }
    return 0;
}

// --- Batches of documents

typedef struct batch {
    uint8_t *text;
    size_t size, capacity;
    size_t *ends; // of the documents
    size_t n, ends_capacity;
} batch;

static void batch_free(batch *b) {
    free(b->text);
    free(b->ends);
    *b = (batch){0};
}

static yx_status batch_add(batch *b, const uint8_t *text, size_t size) {
    if (b->size + size > b->capacity) {
        size_t capacity = b->size + size + BATCH_BYTES;
        uint8_t *grown = realloc(b->text, capacity);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of text", capacity);
        b->text = grown;
        b->capacity = capacity;
    }
    if (b->n == b->ends_capacity) {
        size_t capacity = b->ends_capacity * 2 + 64;
        size_t *grown = realloc(b->ends, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu documents", capacity);
        b->ends = grown;
        b->ends_capacity = capacity;
    }
    memcpy(b->text + b->size, text, size);
    b->size += size;
    b->ends[b->n++] = b->size;
    return YX_OK;
}

// --- Workers ---------------------------------------------------------------------------------------------------------

typedef struct pool {
    text_encoder *encoder;
    pthread_mutex_t lock;
    pthread_cond_t filled, taken;
    batch waiting; // one batch; empty: none
    bool bye;
    yx_status status;
    char message[1024], origin[256];
    pthread_t *threads;
    int started;
} pool;

typedef struct worker {
    pool *pool;
    split_plan *plan;
    split_scratch *split;
    bpe_scratch *scratch;
    uint32_t *ids; // of one piece
    size_t ids_capacity;
    token_block *block;
    int64_t tokens;
} worker;

void token_blocks_free(token_block *blocks) {
    for (token_block *next; blocks; blocks = next) {
        next = blocks->next;
        free(blocks);
    }
}

static void give_block(worker *w) {
    if (!w->block) return;
    pthread_mutex_lock(&w->pool->lock);
    w->block->next = w->pool->encoder->blocks;
    w->pool->encoder->blocks = w->block;
    pthread_mutex_unlock(&w->pool->lock);
    w->block = NULL;
}

static yx_status reserve_block(worker *w, size_t n) {
    if (w->block && w->block->size + n <= w->block->capacity) return YX_OK;
    give_block(w);
    size_t capacity = n > BLOCK_TOKENS ? n : BLOCK_TOKENS;
    w->block = malloc(sizeof *w->block + capacity * sizeof *w->block->ids);
    if (!w->block) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu tokens of text", capacity);
    w->block->next = NULL;
    w->block->size = 0;
    w->block->capacity = capacity;
    return YX_OK;
}

static yx_status encode_piece(worker *w, const uint8_t *text, size_t size) {
    yx_status status = YX_OK;
    const pair_sketch *sketch = w->pool->encoder->sketch;
    if (size > w->ids_capacity) {
        free(w->ids);
        w->ids_capacity = size * 2;
        w->ids = malloc(w->ids_capacity * sizeof *w->ids);
        if (!w->ids) w->ids_capacity = 0;
        if (!w->ids) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %zu tokens of text", size);
    }
    YX_CHECK(bpe_reserve(w->scratch, size));
    size_t n = bpe_encode(w->pool->encoder->bpe, w->scratch, text, size, w->ids);
    w->tokens += (int64_t)n;
    if (n < 2) return YX_OK; // nothing to merge
    YX_CHECK(reserve_block(w, n + 1));
    uint32_t *out = w->block->ids + w->block->size;
    memcpy(out, w->ids, n * sizeof *out);
    out[n] = BPE_NONE;
    w->block->size += n + 1;
    for (size_t i = 0; i + 1 < n; i++)
        atomic_fetch_add_explicit(&sketch->counts[pair_sketch_place(sketch, out[i], out[i + 1])], 1,
                                  memory_order_relaxed);
fail:
    return status;
}

static yx_status encode_batch(worker *w, const batch *b) {
    size_t begin = 0;
    for (size_t d = 0; d < b->n; begin = b->ends[d++]) {
        const split_piece *pieces;
        const uint8_t *split;
        size_t n;
        yx_status status = split_run(w->plan, w->split, b->text + begin, b->ends[d] - begin, &split, &pieces, &n);
        for (size_t i = 0; i < n && status == YX_OK; i++)
            status = encode_piece(w, split + pieces[i].begin, pieces[i].end - pieces[i].begin);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

static yx_status equip(worker *w) {
    yx_status status = YX_OK;
    YX_CHECK(bpe_scratch_new(&w->scratch));
    YX_CHECK(split_scratch_new(&w->split));
    YX_CHECK(split_plan_new(&w->plan));
    YX_CHECK(split_add_digits(w->plan, false));
    YX_CHECK(split_add_pattern(w->plan, SPLIT_PATTERN_THREES, false, SPLIT_ISOLATED, false, false));
fail:
    return status;
}

static void report(pool *p, yx_status status) {
    if (p->status != YX_OK) return;
    p->status = status;
    snprintf(p->message, sizeof p->message, "%s", yx_message());
    snprintf(p->origin, sizeof p->origin, "%s", yx_message_origin());
}

static bool take_batch(pool *p, batch *b) {
    while (p->waiting.n == 0 && !p->bye) pthread_cond_wait(&p->filled, &p->lock);
    if (p->waiting.n == 0) return false;
    *b = p->waiting;
    p->waiting = (batch){0};
    pthread_cond_signal(&p->taken);
    return true;
}

static void *work(void *arg) {
    pool *p = arg;
    worker w = {.pool = p};
    batch b;
    yx_status status = equip(&w);
    pthread_mutex_lock(&p->lock);
    while (take_batch(p, &b)) {
        pthread_mutex_unlock(&p->lock);
        if (status == YX_OK) status = encode_batch(&w, &b); // after a failure batches are only taken away
        batch_free(&b);
        pthread_mutex_lock(&p->lock);
        if (status != YX_OK) report(p, status);
    }
    p->encoder->tokens += w.tokens;
    pthread_mutex_unlock(&p->lock);
    give_block(&w);
    split_plan_free(w.plan);
    split_scratch_free(w.split);
    bpe_scratch_free(w.scratch);
    free(w.ids);
    return NULL;
}

// --- The whole -------------------------------------------------------------------------------------------------------

static yx_status start(pool *p) {
    sigset_t all, before;
    int error = 0;
    sigfillset(&all); // signals are for the main thread
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->started < p->encoder->threads && error == 0) {
        error = pthread_create(&p->threads[p->started], NULL, work, p);
        p->started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return error == 0 ? YX_OK : yx_fail_errno("cannot start %d threads", p->encoder->threads);
}

static void submit(pool *p, batch *b) {
    pthread_mutex_lock(&p->lock);
    while (p->waiting.n > 0) pthread_cond_wait(&p->taken, &p->lock);
    p->waiting = *b;
    pthread_cond_signal(&p->filled);
    pthread_mutex_unlock(&p->lock);
    *b = (batch){0};
}

static yx_status read_all(pool *p, train_reader *reader) {
    yx_status status = YX_OK;
    batch b = {0};
    for (;;) {
        const uint8_t *text;
        size_t size;
        YX_CHECK(train_reader_next(reader, &text, &size));
        if (!text) break;
        YX_CHECK(batch_add(&b, text, size));
        if (b.size >= BATCH_BYTES) submit(p, &b);
    }
    if (b.n > 0) submit(p, &b);
fail:
    batch_free(&b);
    return status;
}

static void stop(pool *p) {
    pthread_mutex_lock(&p->lock);
    p->bye = true;
    pthread_cond_broadcast(&p->filled);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->threads[i], NULL);
}

yx_status encode_text(text_encoder *e, train_reader *reader) {
    yx_status status = YX_OK;
    pool p = {.encoder = e,
              .lock = PTHREAD_MUTEX_INITIALIZER,
              .filled = PTHREAD_COND_INITIALIZER,
              .taken = PTHREAD_COND_INITIALIZER,
              .threads = calloc((size_t)e->threads, sizeof *p.threads)};
    if (!p.threads) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d threads", e->threads);
    YX_CHECK(start(&p));
    YX_CHECK(read_all(&p, reader));
fail:
    stop(&p);
    batch_free(&p.waiting);
    free(p.threads);
    if (status == YX_OK && p.status != YX_OK) {
        status = p.status;
        yx_set_message(p.message, p.origin);
    }
    return status;
}

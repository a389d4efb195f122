#include "io/loader_fill.h"
#include "common/hash.h"
#include <stdlib.h>
#include <string.h>

enum {
    ROW = ORDER_BLOCK_TOKENS + 1,
    GROUP = 64,
    LONG = 512,
    CACHE_LINE = 16,
    ANNOUNCED_AT_ONCE = 64 // so many micro-batches announce a window at the quickest
};

yx_status loader_filler_open(const dataset *data, const data_order *order, bool document_mask, int num_ranks,
                             loader_filler *out) {
    size_t blocks = (size_t)order->window_blocks;
    *out = (loader_filler){.data = data, .order = *order, .document_mask = document_mask, .num_ranks = num_ranks};
    out->cache.epoch = -1;
    // Pages of blocks that are never needed are never touched.
    out->cache.rows = malloc(blocks * ROW * sizeof *out->cache.rows);
    out->cache.loaded = calloc(blocks, sizeof *out->cache.loaded);
    out->pieces = malloc((ORDER_BLOCK_TOKENS + GROUP) * sizeof *out->pieces);
    if (out->cache.rows && out->cache.loaded && out->pieces) return YX_OK;
    return yx_fail(YX_ERR_NO_MEMORY, "no memory for a shuffle window of %zu blocks", blocks);
}

void loader_filler_close(loader_filler *f) {
    free(f->cache.rows);
    free(f->cache.loaded);
    free(f->pieces);
    *f = (loader_filler){0};
}

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

static void enter_window(loader_filler *f, const order_place *p) {
    window_cache *c = &f->cache;
    if (c->epoch == p->epoch && c->window == p->window) return;
    memset(c->loaded, 0, (size_t)f->order.window_blocks * sizeof *c->loaded);
    c->epoch = p->epoch;
    c->window = p->window;
    c->announced = 0;
}

// A rank among several needs only some sequences of a block. Below LONG a page of the file, and soon the block, holds
// one of them nearly always.
static bool reads_pieces(const loader_filler *f, int64_t seq_len) { return f->num_ranks > 1 && seq_len >= LONG; }

// The blocks of the next window: the system reads them while this one is used up, evenly over its first half, so that
// they neither compete with this window's own first reading nor come in a burst.
static void announce_next(loader_filler *f, const load_request *r, int64_t position) {
    const data_order *o = &f->order;
    order_window w;
    if (reads_pieces(f, r->seq_len)) return; // a rank of several would announce what others read
    order_window_at(o, position, r->seq_len, &w);
    bool last = (w.window + 1) * o->window_blocks >= o->blocks_per_epoch;
    int64_t epoch = w.epoch + last, window = last ? 0 : w.window + 1;
    int64_t left = o->blocks_per_epoch - window * o->window_blocks;
    int64_t blocks = left < o->window_blocks ? left : o->window_blocks;
    int64_t due = 1 + 2 * (position - w.position) / ORDER_BLOCK_TOKENS;
    window_cache *c = &f->cache;
    if (due > c->announced + blocks / ANNOUNCED_AT_ONCE + 1) due = c->announced + blocks / ANNOUNCED_AT_ONCE + 1;
    for (; c->announced < due && c->announced < blocks; c->announced++) {
        int64_t block = order_block(o, epoch, window, c->announced);
        dataset_will_need(f->data, block * ORDER_BLOCK_TOKENS, ORDER_BLOCK_TOKENS);
    }
}

// The row of a block, from the cache or read into it.
static yx_status get_row(loader_filler *f, const order_place *p, const uint32_t **row) {
    window_cache *c = &f->cache;
    enter_window(f, p);
    uint32_t *data = c->rows + p->block_in_window * ROW;
    *row = data;
    if (c->loaded[p->block_in_window]) return YX_OK;
    int64_t block = order_block(&f->order, p->epoch, p->window, p->block_in_window);
    yx_status status = read_with_next(f->data, block * ORDER_BLOCK_TOKENS, ORDER_BLOCK_TOKENS, data);
    c->loaded[p->block_in_window] = status == YX_OK;
    return status;
}

static yx_status get_piece(loader_filler *f, const order_place *p, int64_t seq_len, int64_t index,
                           const uint32_t **tokens) {
    uint32_t *data = f->pieces + index * (seq_len + 1);
    int64_t block = order_block(&f->order, p->epoch, p->window, p->block_in_window);
    *tokens = data;
    return read_with_next(f->data, block * ORDER_BLOCK_TOKENS + p->token_in_block, seq_len, data);
}

// Where the tokens of sequences [first, first + n) of the request lie, n ≤ GROUP.
static yx_status locate_group(loader_filler *f, const load_request *r, int64_t first, int64_t n,
                              const uint32_t **tokens) {
    yx_status status = YX_OK;
    order_window window;
    order_place where[GROUP];
    int64_t position = r->position + first * r->seq_len;
    order_window_at(&f->order, position, r->seq_len, &window);
    for (int64_t i = 0; i < n; i++) order_window_locate(&window, position + i * r->seq_len, &where[i]);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t *row;
        if (reads_pieces(f, r->seq_len)) {
            YX_CHECK(get_piece(f, &where[i], r->seq_len, i, &tokens[i]));
            continue;
        }
        YX_CHECK(get_row(f, &where[i], &row));
        tokens[i] = row + where[i].token_in_block;
        __builtin_prefetch(tokens[i]);
        __builtin_prefetch(tokens[i] + (r->seq_len < CACHE_LINE ? r->seq_len : CACHE_LINE));
    }
fail:
    return status;
}

// Short sequences lie scattered over megabytes, so a group of them is located, and asked of the memory, before it is
// copied. A group does not cross a multiple of the block, hence no window border, where the rows change.
yx_status loader_filler_fill(loader_filler *f, const load_request *r, int64_t micro, micro_batch *out) {
    yx_status status = YX_OK;
    uint32_t eot = dataset_get_info(f->data)->eot_id;
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
        YX_CHECK(locate_group(f, r, index, group, tokens));
        for (int64_t i = 0; i < group; i++)
            place(out, (done + i) * r->seq_len, tokens[i], r->seq_len, eot, f->document_mask, (uint64_t)(index + i));
    }
    pad(out);
    if (n > 0) announce_next(f, r, r->position + (first + n - 1) * r->seq_len);
fail:
    return status;
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

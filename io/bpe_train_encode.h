// A text in the tokens of the first stage, encoded by several threads, with an upper bound of how often each two tokens
// stand side by side.
#pragma once
#include "io/bpe_train_text.h"
#include <stdatomic.h>

// Counts of pairs by hash, without the pairs: a pair occurs at most as often as its counter says.
typedef struct pair_sketch {
    _Atomic uint32_t *counts;
    size_t n_counts; // a power of two
} pair_sketch;

yx_status pair_sketch_new(pair_sketch *s, size_t n_counts);
void pair_sketch_free(pair_sketch *s);
static inline size_t pair_sketch_place(const pair_sketch *s, uint32_t left, uint32_t right) {
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (hash ^ hash >> 32) & (s->n_counts - 1);
}
static inline uint32_t pair_sketch_most(const pair_sketch *s, uint32_t left, uint32_t right) {
    return atomic_load_explicit(&s->counts[pair_sketch_place(s, left, right)], memory_order_relaxed);
}
// The largest number that at least `n` counters reach; 0 when fewer than that are in use.
uint32_t pair_sketch_nth(const pair_sketch *s, size_t n);

// Sequences of at least two tokens, each followed by BPE_NONE: documents, cut at digits.
typedef struct token_block {
    struct token_block *next;
    size_t size, capacity;
    uint32_t ids[];
} token_block;

void token_blocks_free(token_block *blocks);

typedef struct text_encoder {
    const bpe *bpe;
    int threads;
    pair_sketch *sketch; // counts are added
    int64_t tokens;      // out: of the whole text
    token_block *blocks; // out: in no particular order; to free also after a failure
} text_encoder;

// Reads `reader` to its end.
yx_status encode_text(text_encoder *e, train_reader *reader);

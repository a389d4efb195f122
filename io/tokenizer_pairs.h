// Which merge joins two symbols: a hash table of pairs.
#pragma once
#include "common/status.h"
#include <stdint.h>

#define PAIR_NONE UINT32_MAX
enum { PAIR_SYMBOL_BITS = 21, PAIR_MAX_SYMBOLS = 1 << PAIR_SYMBOL_BITS };

typedef struct pair_table {
    uint64_t *slots;  // left << 42 | right << 21 | rank, open addressing; all ones where empty
    uint64_t mask;    // slots - 1
    uint64_t *filter; // one bit per hash: a zero says that the pair is in no merge, without a look at the larger table
    int filter_bits;
} pair_table;

// Room for `n` pairs.
yx_status pairs_init(pair_table *t, size_t n);
void pairs_free(pair_table *t);
// Symbols and rank below PAIR_MAX_SYMBOLS. A pair that is there gets the new rank.
void pairs_add(pair_table *t, uint32_t left, uint32_t right, uint32_t rank);

static inline uint64_t pair_key(uint32_t left, uint32_t right) { return (uint64_t)left << PAIR_SYMBOL_BITS | right; }

static inline uint64_t pair_hash(uint64_t key) {
    key *= 0x9e3779b97f4a7c15u; // 2^64 / golden ratio
    return key ^ key >> 32;
}

// A set of pairs by one bit per hash: what it does not have was never added.
static inline bool pair_bit(const uint64_t *bits, int n_bits, uint64_t hash) {
    uint64_t bit = hash >> (64 - n_bits);
    return bits[bit >> 6] >> (bit & 63) & 1;
}

static inline void pair_set_bit(uint64_t *bits, int n_bits, uint64_t hash) {
    uint64_t bit = hash >> (64 - n_bits);
    bits[bit >> 6] |= (uint64_t)1 << (bit & 63);
}

static inline uint64_t *pair_slot(const pair_table *t, uint64_t key, uint64_t hash) {
    uint64_t i = hash & t->mask;
    while (t->slots[i] >> PAIR_SYMBOL_BITS != key && t->slots[i] != UINT64_MAX) i = (i + 1) & t->mask;
    return &t->slots[i];
}

// Without a look at the filter.
static inline uint32_t pairs_look_up(const pair_table *t, uint64_t key, uint64_t hash) {
    uint64_t entry = *pair_slot(t, key, hash);
    return entry == UINT64_MAX ? PAIR_NONE : (uint32_t)(entry & (PAIR_MAX_SYMBOLS - 1));
}

// Rank of the merge of two symbols, or PAIR_NONE.
static inline uint32_t pairs_find(const pair_table *t, uint32_t left, uint32_t right) {
    uint64_t key = pair_key(left, right), hash = pair_hash(key);
    return pair_bit(t->filter, t->filter_bits, hash) ? pairs_look_up(t, key, hash) : PAIR_NONE;
}

// Merges in the order of their ranks, the leftmost one first among equals, until none applies.
#pragma once
#include "common/status.h"
#include "io/tokenizer_pairs.h"
#include <stdint.h>

typedef struct merge_rules {
    pair_table pairs;       // ranks
    const uint32_t *result; // [rank] symbol
} merge_rules;

typedef struct merge_scratch {
    uint64_t *heap; // rank << 32 | position
    size_t heap_size;
    uint32_t *previous, *next; // a linked list over positions
    size_t capacity;           // symbols
} merge_scratch;

// Makes room for `size` symbols.
yx_status merge_reserve(merge_scratch *s, size_t size);
void merge_scratch_free(merge_scratch *s);

// Merges symbols[0 .. n) in place, in O(n log n); returns how many are left.
size_t merge_by_queue(const merge_rules *rules, merge_scratch *s, uint32_t *symbols, size_t n);

// Merges reach from one end of a text to the other only in principle. Two symbols that start out side by side stay
// apart for good unless some merge has the one at the end of its left part and the other at the start of its right
// part. So a sequence falls into stretches that are merged each by itself, most of them short.
typedef struct merge_joints {
    uint64_t *set; // of such pairs, by one bit per hash
    int bits;
} merge_joints;

yx_status merge_joints_init(merge_joints *j, size_t n);
void merge_joints_free(merge_joints *j);
static inline void merge_joints_add(merge_joints *j, uint32_t left, uint32_t right) {
    pair_set_bit(j->set, j->bits, pair_hash(pair_key(left, right)));
}
// As merge_by_queue; `ranks` has room for n numbers.
size_t merge_by_stretches(const merge_rules *rules, const merge_joints *joints, merge_scratch *s, uint32_t *symbols,
                          uint32_t *ranks, size_t n);

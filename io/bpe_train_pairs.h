// What merging knows of pairs of tokens: their counts, and which is to be merged next.
#pragma once
#include "common/status.h"
#include <stdint.h>

#define PAIR_NONE UINT64_MAX

typedef struct pair_count {
    uint64_t pair; // left << 32 | right
    int64_t count;
    uint64_t places; // while the first lists are made: how many, then where
} pair_count;

typedef struct pair_table {
    pair_count *slots; // open addressing; PAIR_NONE: free
    size_t n_pairs, n_slots;
} pair_table;

static inline uint64_t make_pair(uint32_t left, uint32_t right) { return (uint64_t)left << 32 | right; }

yx_status pair_table_new(pair_table *t);
void pair_table_free(pair_table *t);
// The slot of a pair: its own, or a free one.
static inline pair_count *pair_find(const pair_table *t, uint64_t pair) {
    uint64_t hash = pair * 0x9e3779b97f4a7c15u;
    size_t i = (hash ^ hash >> 32) & (t->n_slots - 1);
    while (t->slots[i].pair != PAIR_NONE && t->slots[i].pair != pair) i = (i + 1) & (t->n_slots - 1);
    return &t->slots[i];
}
// The count of a pair, 0 where it was never seen. The pointer holds until the next call.
yx_status pair_get(pair_table *t, uint64_t pair, pair_count **out);

typedef struct candidate {
    int64_t count; // may be out of date, too high
    uint64_t pair;
    uint32_t *places; // positions of the left token, ascending; some may be gone
    uint32_t n_places;
    bool owned; // `places` is to be freed
} candidate;

typedef struct candidate_heap {
    candidate *items;
    size_t size, capacity;
} candidate_heap;

yx_status candidate_push(candidate_heap *h, candidate c);
// The pair with the highest true count, of equals the one with the smaller ids; false when there is none left. Counts
// in the heap can only be too high.
bool candidate_pop(candidate_heap *h, const pair_table *t, candidate *out);
void candidates_free(candidate_heap *h);

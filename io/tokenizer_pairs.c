#include "io/tokenizer_pairs.h"
#include "io/tokenizer_memory.h"
#include <stdlib.h>
#include <string.h>

enum { MIN_FILTER_BITS = 16, MAX_FILTER_BITS = 21, FILTER_BITS_PER_PAIR = 8 };

static int bits_for(size_t count) {
    int bits = 4;
    while ((size_t)1 << bits < count) bits++;
    return bits;
}

yx_status pairs_init(pair_table *t, size_t n) {
    size_t slots = (size_t)1 << bits_for(n * 2 + 1);
    t->filter_bits = bits_for(n * FILTER_BITS_PER_PAIR);
    if (t->filter_bits < MIN_FILTER_BITS) t->filter_bits = MIN_FILTER_BITS;
    if (t->filter_bits > MAX_FILTER_BITS) t->filter_bits = MAX_FILTER_BITS;
    t->mask = slots - 1;
    t->slots = table_alloc(slots * sizeof *t->slots);
    t->filter = calloc(((size_t)1 << t->filter_bits) / 64, sizeof *t->filter);
    if (!t->slots || !t->filter) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu merges", n);
    memset(t->slots, 0xff, slots * sizeof *t->slots);
    return YX_OK;
}

void pairs_free(pair_table *t) {
    free(t->slots);
    free(t->filter);
    *t = (pair_table){0};
}

void pairs_add(pair_table *t, uint32_t left, uint32_t right, uint32_t rank) {
    uint64_t key = pair_key(left, right), hash = pair_hash(key);
    *pair_slot(t, key, hash) = key << PAIR_SYMBOL_BITS | rank;
    pair_set_bit(t->filter, t->filter_bits, hash);
}

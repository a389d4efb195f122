#include "io/bpe_train_pairs.h"
#include <stdlib.h>

enum { ARITY = 4, FIRST_SLOTS = 1 << 12 };

// --- Counts ----------------------------------------------------------------------------------------------------------

static yx_status grow(pair_table *t) {
    pair_table old = *t;
    size_t n = old.n_slots ? old.n_slots * 2 : FIRST_SLOTS;
    pair_count *slots = malloc(n * sizeof *slots);
    if (!slots) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the counts of %zu pairs", t->n_pairs);
    for (size_t i = 0; i < n; i++) slots[i] = (pair_count){PAIR_NONE, 0, 0};
    t->slots = slots;
    t->n_slots = n;
    for (size_t i = 0; i < old.n_slots; i++)
        if (old.slots[i].pair != PAIR_NONE) *pair_find(t, old.slots[i].pair) = old.slots[i];
    free(old.slots);
    return YX_OK;
}

yx_status pair_table_new(pair_table *t) {
    *t = (pair_table){0};
    return grow(t);
}

void pair_table_free(pair_table *t) {
    free(t->slots);
    *t = (pair_table){0};
}

yx_status pair_get(pair_table *t, uint64_t pair, pair_count **out) {
    if (t->n_pairs * 2 >= t->n_slots) {
        yx_status status = grow(t);
        if (status != YX_OK) return status;
    }
    pair_count *c = pair_find(t, pair);
    if (c->pair == PAIR_NONE) {
        c->pair = pair;
        t->n_pairs++;
    }
    *out = c;
    return YX_OK;
}

// --- Candidates ------------------------------------------------------------------------------------------------------

static inline bool comes_before(const candidate *a, const candidate *b) {
    return a->count != b->count ? a->count > b->count : a->pair < b->pair;
}

static void sift_down(candidate_heap *h, candidate c) {
    size_t i = 0;
    for (size_t child; (child = i * ARITY + 1) < h->size; i = child) {
        size_t last = child + ARITY < h->size ? child + ARITY : h->size;
        for (size_t k = child + 1; k < last; k++)
            if (comes_before(&h->items[k], &h->items[child])) child = k;
        if (!comes_before(&h->items[child], &c)) break;
        h->items[i] = h->items[child];
    }
    h->items[i] = c;
}

yx_status candidate_push(candidate_heap *h, candidate c) {
    if (h->size == h->capacity) {
        size_t capacity = h->capacity ? h->capacity * 2 : 1024;
        candidate *grown = realloc(h->items, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu pairs", capacity);
        h->items = grown;
        h->capacity = capacity;
    }
    size_t i = h->size++;
    for (; i > 0 && comes_before(&c, &h->items[(i - 1) / ARITY]); i = (i - 1) / ARITY)
        h->items[i] = h->items[(i - 1) / ARITY];
    h->items[i] = c;
    return YX_OK;
}

bool candidate_pop(candidate_heap *h, const pair_table *t, candidate *out) {
    while (h->size > 0) {
        candidate top = h->items[0];
        int64_t count = pair_find(t, top.pair)->count;
        if (count == top.count) {
            *out = top;
            if (--h->size > 0) sift_down(h, h->items[h->size]);
            return true;
        }
        top.count = count;
        sift_down(h, top);
    }
    return false;
}

void candidates_free(candidate_heap *h) {
    for (size_t i = 0; i < h->size; i++)
        if (h->items[i].owned) free(h->items[i].places);
    free(h->items);
    *h = (candidate_heap){0};
}

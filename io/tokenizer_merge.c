#include "io/tokenizer_merge.h"
#include <stdlib.h>
#include <string.h>

enum { ARITY = 4, SHORT_STRETCH = 32, AHEAD = 64, MIN_JOINT_BITS = 12, MAX_JOINT_BITS = 21, JOINT_BITS_PER_PAIR = 16 };
static const uint32_t END = UINT32_MAX, GONE = UINT32_MAX;

// --- Memory ----------------------------------------------------------------------------------------------------------

yx_status merge_reserve(merge_scratch *s, size_t size) {
    if (size <= s->capacity) return YX_OK;
    merge_scratch_free(s);
    s->heap = malloc(size * 2 * sizeof *s->heap); // one entry per pair, and each merge takes one and adds two
    s->previous = malloc(size * sizeof *s->previous);
    s->next = malloc(size * sizeof *s->next);
    if (!s->heap || !s->previous || !s->next) return yx_fail(YX_ERR_NO_MEMORY, "no memory to merge %zu symbols", size);
    s->capacity = size;
    return YX_OK;
}

void merge_scratch_free(merge_scratch *s) {
    free(s->heap);
    free(s->previous);
    free(s->next);
    *s = (merge_scratch){0};
}

yx_status merge_joints_init(merge_joints *j, size_t n) {
    j->bits = MIN_JOINT_BITS;
    while (j->bits < MAX_JOINT_BITS && (size_t)1 << j->bits < n * JOINT_BITS_PER_PAIR) j->bits++;
    j->set = calloc(((size_t)1 << j->bits) / 64, sizeof *j->set);
    return j->set ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu merges", n);
}

void merge_joints_free(merge_joints *j) {
    free(j->set);
    *j = (merge_joints){0};
}

// --- By a priority queue ---------------------------------------------------------------------------------------------

static void heap_down(uint64_t *heap, size_t size, size_t i) {
    uint64_t entry = heap[i];
    for (size_t child; (child = i * ARITY + 1) < size; i = child) {
        size_t last = child + ARITY < size ? child + ARITY : size;
        for (size_t c = child + 1; c < last; c++)
            if (heap[c] < heap[child]) child = c;
        if (heap[child] >= entry) break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

static void heap_push(merge_scratch *s, uint64_t entry) {
    size_t i = s->heap_size++;
    for (; i > 0 && s->heap[(i - 1) / ARITY] > entry; i = (i - 1) / ARITY) s->heap[i] = s->heap[(i - 1) / ARITY];
    s->heap[i] = entry;
}

static uint64_t heap_pop(merge_scratch *s) {
    uint64_t top = s->heap[0];
    s->heap[0] = s->heap[--s->heap_size];
    heap_down(s->heap, s->heap_size, 0);
    return top;
}

static void push_pair(const merge_rules *rules, merge_scratch *s, const uint32_t *symbols, uint32_t position) {
    uint32_t rank = pairs_find(&rules->pairs, symbols[position], symbols[s->next[position]]);
    if (rank != PAIR_NONE) heap_push(s, (uint64_t)rank << 32 | position);
}

static void fill_heap(const merge_rules *rules, merge_scratch *s, const uint32_t *symbols, size_t n) {
    s->heap_size = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        uint32_t rank = pairs_find(&rules->pairs, symbols[i], symbols[i + 1]);
        if (rank != PAIR_NONE) s->heap[s->heap_size++] = (uint64_t)rank << 32 | i;
    }
    for (size_t i = s->heap_size / ARITY + 1; i-- > 0;)
        if (i < s->heap_size) heap_down(s->heap, s->heap_size, i);
}

static void link_symbols(merge_scratch *s, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        s->previous[i] = i ? i - 1 : END;
        s->next[i] = i + 1 < n ? i + 1 : END;
    }
}

// Joins the symbol at `i` with the next one. The place of the right one is left with a symbol that no pair has.
static void merge_at(const merge_rules *rules, merge_scratch *s, uint32_t *symbols, uint32_t i, uint32_t result) {
    uint32_t right = s->next[i], after = s->next[right];
    symbols[i] = result;
    symbols[right] = GONE;
    s->next[i] = after;
    if (after != END) {
        s->previous[after] = i;
        push_pair(rules, s, symbols, i);
    }
    if (s->previous[i] != END) push_pair(rules, s, symbols, s->previous[i]);
}

size_t merge_by_queue(const merge_rules *rules, merge_scratch *s, uint32_t *symbols, size_t n) {
    size_t count = 0;
    fill_heap(rules, s, symbols, n);
    link_symbols(s, (uint32_t)n);
    while (s->heap_size > 0) {
        uint64_t top = heap_pop(s);
        uint32_t i = (uint32_t)top, rank = (uint32_t)(top >> 32);
        // The pair may be gone since: another one may stand there, whose own entry has its rank.
        if (symbols[i] == GONE || s->next[i] == END) continue;
        if (pairs_find(&rules->pairs, symbols[i], symbols[s->next[i]]) == rank)
            merge_at(rules, s, symbols, i, rules->result[rank]);
    }
    for (uint32_t i = n > 0 ? 0 : END; i != END; i = s->next[i]) symbols[count++] = symbols[i];
    return count;
}

// --- By stretches ----------------------------------------------------------------------------------------------------

// A place that no merge ever crosses; PAIR_NONE is one that none crosses now.
static const uint32_t CUT = PAIR_NONE - 1;

// ranks[i]: of the merge of symbols i and i + 1. What the table is asked is fetched for many pairs before it is used.
static void find_ranks(const merge_rules *rules, const merge_joints *joints, const uint32_t *symbols, uint32_t *ranks,
                       size_t n) {
    const pair_table *pairs = &rules->pairs;
    for (size_t begin = 0, end; begin < n; begin = end) {
        uint32_t places[AHEAD], n_places = 0;
        end = begin + AHEAD < n ? begin + AHEAD : n;
        for (size_t i = begin; i < end; i++) {
            uint64_t hash = pair_hash(pair_key(symbols[i], symbols[i + 1]));
            ranks[i] = CUT;
            places[n_places] = (uint32_t)i;
            n_places += pair_bit(joints->set, joints->bits, hash);
        }
        for (uint32_t k = 0; k < n_places; k++) {
            uint32_t i = places[k];
            __builtin_prefetch(&pairs->slots[pair_hash(pair_key(symbols[i], symbols[i + 1])) & pairs->mask]);
        }
        for (uint32_t k = 0; k < n_places; k++) {
            uint64_t key = pair_key(symbols[places[k]], symbols[places[k] + 1]);
            ranks[places[k]] = pairs_look_up(pairs, key, pair_hash(key));
        }
    }
}

// Merges a short stretch in place: looks through all ranks each time. Returns how many symbols are left.
static size_t merge_short(const merge_rules *rules, uint32_t *symbols, uint32_t *ranks, size_t n) {
    for (;;) {
        uint32_t best = CUT;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (ranks[i] < best) best = ranks[i], at = i;
        if (best == CUT) return n;
        n--;
        symbols[at] = rules->result[best];
        for (size_t i = at + 1; i < n; i++) symbols[i] = symbols[i + 1], ranks[i - 1] = ranks[i];
        if (at + 1 < n) ranks[at] = pairs_find(&rules->pairs, symbols[at], symbols[at + 1]);
        if (at > 0) ranks[at - 1] = pairs_find(&rules->pairs, symbols[at - 1], symbols[at]);
    }
}

size_t merge_by_stretches(const merge_rules *rules, const merge_joints *joints, merge_scratch *s, uint32_t *symbols,
                          uint32_t *ranks, size_t n) {
    size_t count = 0;
    if (n == 0) return 0;
    find_ranks(rules, joints, symbols, ranks, n - 1);
    ranks[n - 1] = CUT;
    for (size_t begin = 0, end; begin < n; begin = end) {
        for (end = begin; ranks[end] != CUT;) end++;
        size_t left = ++end - begin;
        if (left > SHORT_STRETCH) left = merge_by_queue(rules, s, symbols + begin, left);
        else if (left > 1) left = merge_short(rules, symbols + begin, ranks + begin, left);
        memmove(symbols + count, symbols + begin, left * sizeof *symbols);
        count += left;
    }
    return count;
}

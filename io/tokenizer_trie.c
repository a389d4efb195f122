#include "io/tokenizer_trie.h"
#include "io/tokenizer_memory.h"
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256, MAX_TRIES = 32 };
static const uint32_t FREE = UINT32_MAX;

// A cell whose children are still to be placed: it stands for keys[low .. high), which share `depth` bytes. Those with
// the lowest value below them come first: values are ranks, so what texts visit most ends up close together in memory.
typedef struct pending {
    uint32_t cell, low, high, depth;
    int32_t rank;
} pending;

typedef struct builder {
    trie t;
    uint32_t capacity; // cells
    uint32_t *next_free, *previous_free;
    uint32_t first_free, last_free; // ring-less list of free cells, FREE at its ends
    pending *queue;                 // a binary heap
    size_t queued, queue_capacity;
    const trie_key *keys;
    size_t tails_size;
} builder;

static int compare_keys(const void *a, const void *b) {
    const trie_key *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->size < y->size ? x->size : y->size);
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

static bool resize(void **array, size_t count, size_t size) {
    void *grown = realloc(*array, count * size);
    if (grown) *array = grown;
    return grown != NULL;
}

static yx_status grow(builder *b) {
    uint32_t capacity = b->capacity ? b->capacity * 2 : 16 * BLOCK;
    if (!resize((void **)&b->t.cells, capacity, sizeof *b->t.cells) ||
        !resize((void **)&b->next_free, capacity, sizeof *b->next_free) ||
        !resize((void **)&b->previous_free, capacity, sizeof *b->previous_free))
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for a trie of %u cells", capacity);
    b->capacity = capacity;
    return YX_OK;
}

// Appends a block of free cells to the list.
static yx_status add_block(builder *b) {
    if (b->t.n_cells + BLOCK > b->capacity) {
        yx_status status = grow(b);
        if (status != YX_OK) return status;
    }
    for (uint32_t i = b->t.n_cells; i < b->t.n_cells + BLOCK; i++) {
        b->t.cells[i] = (trie_cell){0, FREE, TRIE_NONE, 0};
        b->next_free[i] = FREE;
        b->previous_free[i] = b->last_free;
        if (b->last_free == FREE) b->first_free = i;
        else b->next_free[b->last_free] = i;
        b->last_free = i;
    }
    b->t.n_cells += BLOCK;
    return YX_OK;
}

static void take(builder *b, uint32_t cell, uint32_t parent) {
    uint32_t next = b->next_free[cell], previous = b->previous_free[cell];
    if (previous == FREE) b->first_free = next;
    else b->next_free[previous] = next;
    if (next == FREE) b->last_free = previous;
    else b->previous_free[next] = previous;
    b->t.cells[cell].parent = parent;
}

static bool all_free(const builder *b, uint32_t base, const uint8_t *labels, int n) {
    for (int i = 0; i < n; i++)
        if (b->t.cells[base ^ labels[i]].parent != FREE) return false;
    return true;
}

// A base under which every label finds a free cell. Only the first free cells are tried: a fresh block always fits, and
// later single children fill the holes.
static yx_status find_base(builder *b, const uint8_t *labels, int n, uint32_t *base) {
    uint32_t cell = b->first_free;
    for (int tries = 0; cell != FREE && tries < MAX_TRIES; tries++, cell = b->next_free[cell]) {
        *base = cell ^ labels[0];
        if (all_free(b, *base, labels, n)) return YX_OK;
    }
    *base = b->t.n_cells;
    return add_block(b);
}

static int32_t lowest_value(const builder *b, uint32_t low, uint32_t high) {
    int32_t lowest = INT32_MAX;
    for (uint32_t i = low; i < high; i++)
        if (b->keys[i].value < lowest) lowest = b->keys[i].value;
    return lowest;
}

static yx_status push(builder *b, uint32_t cell, uint32_t low, uint32_t high, uint32_t depth) {
    if (b->queued == b->queue_capacity) {
        size_t capacity = b->queue_capacity ? b->queue_capacity * 2 : 1024;
        if (!resize((void **)&b->queue, capacity, sizeof *b->queue))
            return yx_fail(YX_ERR_NO_MEMORY, "no memory for a trie");
        b->queue_capacity = capacity;
    }
    pending p = {cell, low, high, depth, lowest_value(b, low, high)};
    size_t i = b->queued++;
    for (; i > 0 && b->queue[(i - 1) / 2].rank > p.rank; i = (i - 1) / 2) b->queue[i] = b->queue[(i - 1) / 2];
    b->queue[i] = p;
    return YX_OK;
}

static pending pop(builder *b) {
    pending top = b->queue[0], last = b->queue[--b->queued];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < b->queued; i = child) {
        if (child + 1 < b->queued && b->queue[child + 1].rank < b->queue[child].rank) child++;
        if (b->queue[child].rank >= last.rank) break;
        b->queue[i] = b->queue[child];
    }
    b->queue[i] = last;
    return top;
}

// Keeps what the only key below a cell goes on with. `tails` has room for all keys.
static void put_tail(builder *b, uint32_t cell, const trie_key *key, uint32_t depth) {
    uint32_t size = key->size - depth;
    uint8_t *tail = b->t.tails + b->tails_size;
    memcpy(tail, &key->value, 4);
    memcpy(tail + 4, &size, 4);
    memcpy(tail + 8, key->bytes + depth, size);
    b->t.cells[cell].tail = (uint32_t)b->tails_size;
    b->tails_size += 8 + size;
}

static yx_status allocate_tails(builder *b, size_t n_keys) {
    size_t size = 1; // offset 0 means that there is none
    for (size_t i = 0; i < n_keys; i++) size += 8 + b->keys[i].size;
    b->tails_size = 1;
    b->t.tails = size < UINT32_MAX ? table_alloc(size) : NULL;
    return b->t.tails ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for a trie's %zu bytes of tails", size);
}

// Places the children of one cell and queues them.
static yx_status place_children(builder *b, pending p) {
    uint8_t labels[BLOCK];
    uint32_t starts[BLOCK + 1], base;
    int n = 0;
    if (p.high - p.low == 1) {
        put_tail(b, p.cell, &b->keys[p.low], p.depth);
        return YX_OK;
    }
    for (uint32_t i = p.low; i < p.high; i++) {
        uint8_t label = b->keys[i].bytes[p.depth];
        if (n && labels[n - 1] == label) continue;
        starts[n] = i;
        labels[n++] = label;
    }
    if (n == 0) return YX_OK;
    starts[n] = p.high;
    yx_status status = find_base(b, labels, n, &base);
    if (status != YX_OK) return status;
    b->t.cells[p.cell].base = base;
    for (int i = 0; i < n && status == YX_OK; i++) {
        uint32_t child = base ^ labels[i], low = starts[i];
        take(b, child, p.cell);
        b->t.cells[child].longest = b->t.cells[p.cell].longest;
        if (b->keys[low].size == p.depth + 1) b->t.cells[child].longest = b->keys[low++].value;
        if (low < starts[i + 1]) status = push(b, child, low, starts[i + 1], p.depth + 1);
    }
    return status;
}

// From memory that could grow to memory that is fast to read.
static yx_status move_cells(builder *b) {
    size_t size = b->t.n_cells * sizeof *b->t.cells;
    trie_cell *cells = table_alloc(size);
    if (!cells) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a trie of %u cells", b->t.n_cells);
    memcpy(cells, b->t.cells, size);
    free(b->t.cells);
    b->t.cells = cells;
    return YX_OK;
}

yx_status trie_build(trie_key *keys, size_t n_keys, trie *out) {
    yx_status status = YX_OK;
    builder b = {.first_free = FREE, .last_free = FREE, .keys = keys};
    if (n_keys > 0) qsort(keys, n_keys, sizeof *keys, compare_keys);
    YX_CHECK(allocate_tails(&b, n_keys));
    YX_CHECK(add_block(&b));
    take(&b, 0, FREE - 1); // the root is nobody's child
    YX_CHECK(push(&b, 0, 0, (uint32_t)n_keys, 0));
    while (b.queued > 0) YX_CHECK(place_children(&b, pop(&b)));
    YX_CHECK(move_cells(&b));
    *out = b.t;
    b.t = (trie){0};
fail:
    trie_free(&b.t);
    free(b.next_free);
    free(b.previous_free);
    free(b.queue);
    return status;
}

void trie_free(trie *t) {
    free(t->cells);
    free(t->tails);
    *t = (trie){0};
}

#include "io/dedup_set.h"
#include <stdlib.h>
#include <string.h>

void dedup_set_free(dedup_set *s) {
    free(s->slots);
    memset(s, 0, sizeof *s);
}

// 0 marks a free slot.
static uint64_t stored(uint64_t hash) { return hash + (hash == 0); }

// The slot of `value`, or the free one where it belongs.
static uint64_t *find(uint64_t *slots, size_t capacity, uint64_t value) {
    size_t at = value & (capacity - 1);
    while (slots[at] != 0 && slots[at] != value) at = (at + 1) & (capacity - 1);
    return &slots[at];
}

bool dedup_set_has(const dedup_set *s, uint64_t hash) {
    return s->capacity > 0 && *find(s->slots, s->capacity, stored(hash)) != 0;
}

static yx_status grow(dedup_set *s) {
    dedup_set grown = {.capacity = s->capacity ? s->capacity * 2 : 1 << 14, .count = s->count};
    grown.slots = calloc(grown.capacity, sizeof *grown.slots);
    if (!grown.slots) return yx_fail(YX_ERR_NO_MEMORY, "no memory to remember %zu hashes of documents", s->count);
    for (size_t i = 0; i < s->capacity; i++)
        if (s->slots[i]) *find(grown.slots, grown.capacity, s->slots[i]) = s->slots[i];
    free(s->slots);
    *s = grown;
    return YX_OK;
}

yx_status dedup_set_add(dedup_set *s, uint64_t hash, bool *is_new) {
    if ((s->count + 1) * 4 > s->capacity * 3) {
        yx_status status = grow(s);
        if (status != YX_OK) return status;
    }
    uint64_t *slot = find(s->slots, s->capacity, stored(hash));
    if (is_new) *is_new = *slot == 0;
    s->count += *slot == 0;
    *slot = stored(hash);
    return YX_OK;
}

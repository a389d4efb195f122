#include "io/bpe_train_segments.h"
#include "common/hash.h"
#include <stdlib.h>
#include <string.h>

enum { FIRST_SLOTS = 1 << 12 };

static size_t first_slot(const segment_set *s, const uint32_t *ids, size_t n) {
    return yx_hash64(ids, n * sizeof *ids, 0) & (s->n_slots - 1);
}

// The slots are made anew from the sequences, so that there is only one table at a time.
static yx_status grow_slots(segment_set *s) {
    size_t slots = s->n_slots ? s->n_slots * 2 : FIRST_SLOTS;
    free(s->slots);
    s->n_slots = slots;
    s->slots = malloc(slots * sizeof *s->slots);
    if (!s->slots) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu segments of text", s->n);
    memset(s->slots, 0xff, slots * sizeof *s->slots);
    for (size_t begin = 0, end; begin < s->text.size; begin = end + 1) {
        for (end = begin; s->text.symbol[end] < TRAIN_END;) end++;
        size_t k = first_slot(s, s->text.symbol + begin, end - begin);
        while (s->slots[k] != BPE_NONE) k = (k + 1) & (slots - 1);
        s->slots[k] = (uint32_t)begin;
    }
    return YX_OK;
}

static yx_status reserve(segment_set *s, size_t more) {
    if (s->text.size + more <= s->capacity) return YX_OK;
    size_t capacity = (s->text.size + more) * 5 / 4 + 1024;
    if (s->text.size + more >= BPE_NONE)
        return yx_fail(YX_ERR_DATA, "the text has too many tokens to train on; take less of it");
    uint32_t *symbol = realloc(s->text.symbol, capacity * sizeof *symbol);
    if (!symbol) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu tokens of text", capacity);
    s->text.symbol = symbol;
    s->capacity = capacity;
    return YX_OK;
}

static bool is_same(const uint32_t *stored, const uint32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (stored[i] != ids[i]) return false;
    return stored[n] >= TRAIN_END && stored[n] < (TRAIN_END | TRAIN_MAX_COUNT); // a full one is continued by another
}

yx_status segments_add(segment_set *s, const uint32_t *ids, size_t n) {
    yx_status status = YX_OK;
    if (s->n * 4 >= s->n_slots * 3) YX_CHECK(grow_slots(s));
    size_t k = first_slot(s, ids, n);
    for (; s->slots[k] != BPE_NONE; k = (k + 1) & (s->n_slots - 1)) {
        uint32_t *stored = s->text.symbol + s->slots[k];
        if (!is_same(stored, ids, n)) continue;
        stored[n]++;
        return YX_OK;
    }
    YX_CHECK(reserve(s, n + 1));
    s->slots[k] = (uint32_t)s->text.size;
    memcpy(s->text.symbol + s->text.size, ids, n * sizeof *ids);
    s->text.symbol[s->text.size + n] = TRAIN_END | 1;
    s->text.size += n + 1;
    s->n++;
fail:
    return status;
}

void segments_finish(segment_set *s) {
    free(s->slots);
    s->slots = NULL;
    s->n_slots = 0;
}

void segments_free(segment_set *s) {
    free(s->text.symbol);
    free(s->slots);
    *s = (segment_set){0};
}

#include "common/hash.h"
#include "io/bpe_train_merge.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 255 };

static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static uint8_t count_words(const uint8_t *bytes, size_t size) {
    int words = 0;
    for (size_t i = 0; i < size; i++) words += !is_space(bytes[i]) && (i == 0 || is_space(bytes[i - 1]));
    return (uint8_t)(words < MAX_WORDS ? words : MAX_WORDS);
}

static uint32_t *find_slot(const train_vocab *v, const uint8_t *bytes, size_t size) {
    size_t i = yx_hash64(bytes, size, 0) & (v->n_slots - 1);
    for (; v->slots[i] != BPE_NONE; i = (i + 1) & (v->n_slots - 1)) {
        uint32_t id = v->slots[i];
        if (v->offset[id + 1] - v->offset[id] == size && memcmp(v->blob + v->offset[id], bytes, size) == 0) break;
    }
    return &v->slots[i];
}

static void fill_slots(train_vocab *v) {
    for (size_t i = 0; i < v->n_slots; i++) v->slots[i] = BPE_NONE;
    for (uint32_t id = 0; id < v->size; id++)
        *find_slot(v, v->blob + v->offset[id], v->offset[id + 1] - v->offset[id]) = id;
}

static yx_status grow_slots(train_vocab *v) {
    size_t n = v->n_slots ? v->n_slots * 2 : 1024;
    uint32_t *slots = malloc(n * sizeof *slots);
    if (!slots) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", v->size);
    free(v->slots);
    v->slots = slots;
    v->n_slots = n;
    fill_slots(v);
    return YX_OK;
}

static yx_status grow_tokens(train_vocab *v, size_t bytes) {
    if (v->size == v->capacity) {
        uint32_t capacity = v->capacity ? v->capacity * 2 : 1024;
        uint32_t *offset = realloc(v->offset, ((size_t)capacity + 1) * sizeof *offset);
        if (offset) v->offset = offset;
        uint8_t *words = realloc(v->words, capacity);
        if (words) v->words = words;
        if (!offset || !words) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", capacity);
        v->capacity = capacity;
    }
    if (v->blob_size + bytes > v->blob_capacity) {
        size_t capacity = (v->blob_size + bytes) * 2;
        uint8_t *blob = realloc(v->blob, capacity);
        if (!blob) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", v->size);
        v->blob = blob;
        v->blob_capacity = capacity;
    }
    return v->blob_size + bytes < UINT32_MAX ? YX_OK : yx_fail(YX_ERR_DATA, "the vocabulary's tokens are too long");
}

yx_status train_vocab_add(train_vocab *v, const uint8_t *bytes, size_t size, uint32_t *id) {
    yx_status status = YX_OK;
    if ((size_t)v->size * 2 >= v->n_slots) YX_CHECK(grow_slots(v));
    uint32_t *slot = find_slot(v, bytes, size);
    if (*slot == BPE_NONE) {
        YX_CHECK(grow_tokens(v, size));
        memcpy(v->blob + v->blob_size, bytes, size);
        v->offset[v->size] = (uint32_t)v->blob_size;
        v->blob_size += size;
        v->offset[v->size + 1] = (uint32_t)v->blob_size;
        v->words[v->size] = count_words(bytes, size);
        *slot = v->size++;
    }
    if (id) *id = *slot;
fail:
    return status;
}

uint32_t train_vocab_find(const train_vocab *v, const uint8_t *bytes, size_t size) {
    return v->n_slots ? *find_slot(v, bytes, size) : BPE_NONE;
}

void train_vocab_truncate(train_vocab *v, uint32_t size) {
    if (size >= v->size) return;
    v->size = size;
    v->blob_size = v->offset[size];
    fill_slots(v);
}

void train_vocab_free(train_vocab *v) {
    free(v->blob);
    free(v->offset);
    free(v->words);
    free(v->slots);
    *v = (train_vocab){0};
}

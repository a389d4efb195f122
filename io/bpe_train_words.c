#include "io/bpe_train_words.h"
#include "common/hash.h"
#include <stdlib.h>
#include <string.h>

static yx_status grow_slots(word_counts *w) {
    size_t n = w->n_slots ? w->n_slots * 2 : 1 << 12;
    uint32_t *slots = calloc(n, sizeof *slots);
    if (!slots) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu words", w->n_words);
    for (size_t i = 0; i < w->n_words; i++) {
        const word_entry *word = &w->words[i];
        size_t k = yx_hash64(w->blob + word->offset, word->size, 0) & (n - 1);
        while (slots[k]) k = (k + 1) & (n - 1);
        slots[k] = (uint32_t)i + 1;
    }
    free(w->slots);
    w->slots = slots;
    w->n_slots = n;
    return YX_OK;
}

static yx_status append(word_counts *w, const uint8_t *bytes, size_t size, uint32_t hash) {
    if (w->n_words == w->word_capacity) {
        size_t capacity = w->word_capacity ? w->word_capacity * 2 : 1024;
        word_entry *grown = realloc(w->words, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu words", capacity);
        w->words = grown;
        w->word_capacity = capacity;
    }
    if (w->blob_size + size > w->blob_capacity) {
        size_t capacity = (w->blob_size + size) * 2;
        uint8_t *grown = realloc(w->blob, capacity);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of words", capacity);
        w->blob = grown;
        w->blob_capacity = capacity;
    }
    if (size > UINT32_MAX || w->n_words == UINT32_MAX - 1) return yx_fail(YX_ERR_DATA, "too many or too long words");
    memcpy(w->blob + w->blob_size, bytes, size);
    w->words[w->n_words++] = (word_entry){w->blob_size, (uint32_t)size, hash, 1};
    w->blob_size += size;
    return YX_OK;
}

yx_status words_add(word_counts *w, const uint8_t *bytes, size_t size) {
    if (w->n_words * 2 >= w->n_slots) {
        yx_status status = grow_slots(w);
        if (status != YX_OK) return status;
    }
    uint64_t hash = yx_hash64(bytes, size, 0);
    size_t k = hash & (w->n_slots - 1);
    for (; w->slots[k]; k = (k + 1) & (w->n_slots - 1)) {
        word_entry *word = &w->words[w->slots[k] - 1];
        if (word->hash != (uint32_t)(hash >> 32) || word->size != size) continue;
        if (memcmp(w->blob + word->offset, bytes, size) != 0) continue;
        word->count++;
        return YX_OK;
    }
    yx_status status = append(w, bytes, size, (uint32_t)(hash >> 32));
    if (status == YX_OK) w->slots[k] = (uint32_t)w->n_words;
    return status;
}

void words_free(word_counts *w) {
    free(w->blob);
    free(w->words);
    free(w->slots);
    *w = (word_counts){0};
}

// Counts the distinct words (pre-tokens) of a stream of texts.
#pragma once
#include "io/tokenizer_split.h"

typedef struct word_entry {
    size_t offset; // into blob
    uint32_t size;
    uint32_t hash; // upper half of the 64-bit hash
    int64_t count;
} word_entry;

typedef struct word_counts {
    uint8_t *blob;
    size_t blob_size, blob_capacity;
    word_entry *words; // in the order of their first appearance
    size_t n_words, word_capacity;
    uint32_t *slots; // index of a word + 1, open addressing; 0: free
    size_t n_slots;
} word_counts;

yx_status words_add(word_counts *w, const uint8_t *bytes, size_t size);
void words_free(word_counts *w);

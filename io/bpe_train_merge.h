// The loop of BPE training over sequences of tokens: count pairs, merge the most frequent one, keep the counts right.
#pragma once
#include "io/tokenizer_bpe.h"

// The tokens made so far, ids in order.
typedef struct train_vocab {
    uint8_t *blob;
    size_t blob_size, blob_capacity;
    uint32_t *offset; // [size + 1]
    uint8_t *words;   // [size] white-space-separated words that the token touches, at most 255
    uint32_t size, capacity;
    uint32_t *slots; // ids by the hash of their bytes, open addressing; BPE_NONE
    size_t n_slots;
} train_vocab;

// The id of a token with these bytes, which is made if there is none. `*id` may be NULL.
yx_status train_vocab_add(train_vocab *v, const uint8_t *bytes, size_t size, uint32_t *id);
// The id of the token with these bytes, BPE_NONE when there is none.
uint32_t train_vocab_find(const train_vocab *v, const uint8_t *bytes, size_t size);
// Forgets the tokens from id `size` on.
void train_vocab_truncate(train_vocab *v, uint32_t size);
void train_vocab_free(train_vocab *v);

typedef struct merge_list {
    bpe_merge *merges;
    size_t count, capacity;
} merge_list;

yx_status merge_list_add(merge_list *list, bpe_merge merge);

// Sequences of ids, each followed by TRAIN_END | how often it stands in the text, from 1 to TRAIN_MAX_COUNT.
#define TRAIN_END 0xc0000000u
enum { TRAIN_MAX_COUNT = 0x3fffffff };
typedef struct train_text {
    uint32_t *symbol;
    size_t size; // less than 2^32 - 1
} train_text;

typedef struct merge_limits {
    uint32_t vocab_size;
    int64_t min_frequency;
    int max_words;    // no token may touch more words; 0: any number
    bool forget_rare; // a new pair below min_frequency is not remembered, should the same pair be made once more
} merge_limits;

// Adds merges and tokens until a limit is reached. `text` is used up.
yx_status train_merge(train_text *text, const merge_limits *limits, train_vocab *vocab, merge_list *merges);

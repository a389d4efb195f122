// Training of byte-level BPE and of SuperBPE (Liu et al. 2025, "SuperBPE: Space travel for language models"): subwords
// inside whitespace pre-tokenization up to `transition` tokens, then superwords across it up to `vocab_size`. Without a
// second stage the result equals the `tokenizers` library's BpeTrainer merge for merge.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef enum bpe_words {
    BPE_WORDS_SUPERBPE, // first stage: digits in threes from the right, words with the space before them
    BPE_WORDS_GPT2      // ByteLevel(use_regex = true); has no second stage
} bpe_words;

// 0 or NULL means the default.
typedef struct bpe_train_options {
    uint32_t vocab_size;               // all tokens: special ones, 256 bytes, merges; no default
    uint32_t transition;               // vocabulary size at which superwords begin; default vocab_size: none
    int64_t min_frequency;             // a pair seen less often is not merged; default 2
    int max_superword_words;           // white-space-separated words that a superword may touch; default 4
    const char *const *special_tokens; // get the first ids; default "<|endoftext|>"
    int n_special_tokens;
    bpe_words words;
} bpe_train_options;

// Where documents come from. `next` gives one document (valid until the next call), or NULL and 0 behind the last one.
// Bytes that are not UTF-8 count as U+FFFD.
typedef struct bpe_documents {
    yx_status (*next)(void *context, const char **text, size_t *size);
    void *context;
} bpe_documents;

typedef struct bpe_train_report {
    int64_t documents, bytes, distinct_words;
    uint32_t vocab_size; // tokens made: less than asked for when the text has no more pairs
    uint32_t subword_merges, superword_merges;
} bpe_train_report;

// Trains, and writes `folder`/tokenizer.json (the folder is made). A second stage keeps the texts in memory, in all
// about 15 bytes for each of their bytes. Ends early, with a warning, where the text has too little for vocab_size.
yx_status bpe_train(bpe_documents documents, const bpe_train_options *options, const char *folder,
                    bpe_train_report *report);

// Training of byte-level BPE and of SuperBPE (Liu et al. 2025, "SuperBPE: Space travel for language models"): subwords
// inside whitespace pre-tokenization up to `transition` tokens, then superwords across it up to `vocab_size`. Without a
// second stage the result equals the `tokenizers` library's BpeTrainer merge for merge.
//
// Three stages: the words of the text are counted, subwords are merged from the counts, superwords from the text, which
// is read a second time for that. The folder keeps what the first two made (bpe_train_record.h), for training that was
// stopped and for training that starts from it with other numbers.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef enum bpe_words {
    BPE_WORDS_SUPERBPE, // first stage: digits in threes from the right, words with the space before them
    BPE_WORDS_GPT2,     // ByteLevel(use_regex = true); has no second stage
    BPE_WORDS_KINDS
} bpe_words;
extern const char *const bpe_words_names[BPE_WORDS_KINDS];

// 0 or NULL means the default.
typedef struct bpe_train_options {
    uint32_t vocab_size;               // all tokens: special ones, 256 bytes, merges; no default
    uint32_t transition;               // vocabulary size at which superwords begin; default vocab_size: none
    int64_t min_frequency;             // a pair seen less often is not merged; default 2
    int max_superword_words;           // white-space-separated words that a superword may touch; default 4
    const char *const *special_tokens; // get the first ids; default "<|endoftext|>"
    int n_special_tokens;
    bpe_words words;
    int threads; // encode the text for the second stage; default: as many as there are processors
    // A folder that training wrote: its counts and merges are used instead of made anew; its special tokens and minimum
    // frequency are the defaults, its words hold.
    const char *from;
    // A tokenizer (tokenizer_load) without superwords: its tokens and merges come first and stay. Default transition:
    // its size. It brings its own special tokens.
    const char *base;
    // Names the text: a folder with counts of a text of this name, from a run that was stopped, is gone on with. NULL:
    // everything is made anew.
    const char *source;
} bpe_train_options;

// Where documents come from. `next` gives one document (valid until the next call), or NULL and 0 behind the last one.
// `rewind` goes back to the first one; it may be NULL where there is no second stage. Bytes that are not UTF-8 count as
// U+FFFD.
typedef struct bpe_documents {
    yx_status (*next)(void *context, const char **text, size_t *size);
    yx_status (*rewind)(void *context);
    void *context;
} bpe_documents;

typedef struct bpe_train_report {
    int64_t documents, bytes, distinct_words;
    bool kept_words, kept_subwords; // taken from an earlier run
    uint32_t vocab_size;            // tokens made: less than asked for when the text has no more pairs
    uint32_t subword_merges, superword_merges;
    int64_t tokens;     // of the text, where superwords begin
    int64_t places;     // of them, those that a superword may hold, each segment once
    int64_t least_pair; // pairs rarer than this were left out
    int attempts;       // how often superwords were begun: again where that was too many pairs
    double word_seconds, subword_seconds, text_seconds, // counting; merging; encoding for superwords; merging
        superword_seconds;
} bpe_train_report;

// Trains, and writes `folder`/tokenizer.json (the folder is made). The second stage takes one to two bytes of
// memory for each byte of text (docs/tokenizer.md). Ends early, with a warning, where the text has too little for
// vocab_size.
yx_status bpe_train(bpe_documents documents, const bpe_train_options *options, const char *folder,
                    bpe_train_report *report);

// The `source` of the text that the run in `folder` counted; `*out` to free(), NULL where it had none.
yx_status bpe_train_source(const char *folder, char **out);
// Whether `folder` holds counts to continue from.
bool bpe_train_can_continue(const char *folder);

// What the stages of training share; only io/bpe_train*.c include it.
#pragma once
#include "io/bpe_train.h"
#include "io/bpe_train_merge.h"
#include "io/bpe_train_record.h"
#include "io/bpe_train_text.h"
#include "io/tokenizer.h"
#include "io/tokenizer_parts.h"

enum { TRAIN_BYTES = 256 };

typedef struct trainer {
    bpe_train_options options; // with the defaults filled in
    bpe_train_report *report;
    bpe_documents documents;
    const char *folder;
    words_record words;            // what is known of the text, and its counts while they are needed
    yx_tokenizer *base;            // NULL: none
    train_vocab vocab;             // of the special tokens and bytes, or of the base; then of the merges too
    merge_list merges;             // with those of the base
    subwords_record *kept;         // where there is one to continue from: its special tokens are options.special_tokens
    uint32_t first_size;           // of the vocabulary before training
    size_t first_merges;           // of the base
    uint32_t byte_id[TRAIN_BYTES]; // BPE_NONE for a byte without a token
} trainer;

// bpe_train_options.c: fills the defaults in and refuses what cannot be.
yx_status train_set_options(trainer *t, const bpe_train_options *options);
yx_status train_check_sizes(const trainer *t); // once the base is known

// bpe_train_start.c: the tokens that are there before any merge.
yx_status train_start_vocab(trainer *t);
yx_status train_load_base(trainer *t);
// The tokens so far, for encoding; is_text is to free(), the rest is the vocabulary's.
yx_status train_view_tokens(const trainer *t, token_table *tokens);

// bpe_train_subwords.c: the first stage, up to the transition.
yx_status train_subwords(trainer *t);

// bpe_train_superwords.c: the second one, up to the vocabulary size.
yx_status train_superwords(trainer *t);

// What a tokenizer's folder keeps for more training: DIR/training/words.bin, the counts of the text's words, and
// DIR/training/subwords.bin, the merges of the first stage. Each has a header in JSON, with version and provenance,
// little-endian numbers, and a checksum of everything at the end.
#pragma once
#include "common/hash.h"
#include "io/bpe_train.h"
#include "io/bpe_train_merge.h"
#include "io/bpe_train_words.h"

// A text, for telling whether another one is the same: the documents' bytes, each followed by ff.
typedef struct text_identity {
    int64_t documents, bytes;
    char sha256[YX_SHA256_HEX];
} text_identity;

typedef struct words_record {
    bpe_words rule;
    text_identity text;
    char *source;       // as in bpe_train_options
    int64_t n_distinct; // also where the words are not there
    word_counts words;
} words_record;

// The merges are those of training without a second stage; any number of the first ones are too. NULL strings are none.
typedef struct subwords_record {
    char words_sha256[YX_SHA256_HEX]; // the text's
    bpe_words rule;
    char base_sha256[YX_SHA256_HEX]; // of the tokenizer that comes first; "" for none
    char **special_tokens;
    int n_special_tokens;
    int64_t min_frequency;
    uint32_t vocab_size; // with all of the merges
    bool exhausted;      // the text has no more
    merge_list merges;   // without those of the base
} subwords_record;

bool words_record_exists(const char *folder);
yx_status words_record_save(const char *folder, const words_record *r);
// `with_words`: the counts too, not only what is said about them. To be freed also after a failure.
yx_status words_record_load(const char *folder, bool with_words, words_record *r);
void words_record_free(words_record *r);

bool subwords_record_exists(const char *folder);
yx_status subwords_record_save(const char *folder, const subwords_record *r);
yx_status subwords_record_load(const char *folder, subwords_record *r);
void subwords_record_free(subwords_record *r);

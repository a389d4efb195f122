// What the files of a tokenizer say, read and checked, in the form that tokenizer.c works with.
#pragma once
#include "io/tokenizer_added.h"
#include "io/tokenizer_bpe.h"
#include "io/tokenizer_split.h"

struct yx_tokenizer;

typedef struct tokenizer_parts {
    token_table tokens; // the vocabulary and the added tokens
    bpe_merge *merges;
    size_t n_merges;
    split_plan *plan;
    added_set added;
    bool ignore_merges; // a pre-token that is in the vocabulary is that token
    int64_t eot;        // -1: none
} tokenizer_parts;

// From the text of a tokenizer.json. `parts` is zero before, and to be freed also after a failure.
yx_status parts_from_json(const char *json, size_t size, tokenizer_parts *parts);
// From vocab.json and merges.txt, with GPT-2's pre-tokenization and its <|endoftext|>.
yx_status parts_from_vocab(const char *vocab, size_t vocab_size, const char *merges, size_t merges_size,
                           tokenizer_parts *parts);
// Takes the end-of-text token from a tokenizer_config.json, when the tokenizer itself has no <|endoftext|>.
yx_status parts_read_config(const char *json, size_t size, tokenizer_parts *parts);
void parts_free(tokenizer_parts *parts);
// What a loaded tokenizer consists of.
const tokenizer_parts *tokenizer_get_parts(const struct yx_tokenizer *t);
// SHA-256 of a canonical form of all parts.
yx_status parts_sha256(const tokenizer_parts *parts, char hex[65]);

// The byte-level alphabet (GPT-2's): a printable character for every byte.
uint32_t byte_to_char(uint8_t byte);
// The byte that a character stands for, or -1.
int char_to_byte(uint32_t code);

// Writes a tokenizer.json as the `tokenizers` library does.
#pragma once
#include "io/tokenizer_added.h"
#include "io/tokenizer_bpe.h"

typedef struct tokenizer_recipe {
    const token_table *tokens; // all but the added ones are written in the byte-level alphabet
    const bpe_merge *merges;
    size_t n_merges;
    const added_token *added; // written as they are
    size_t n_added;
    const char
        *split_pattern; // behind Digits, before a ByteLevel without its own regex; NULL: only a ByteLevel with it
} tokenizer_recipe;

// The file appears whole or not at all.
yx_status tokenizer_save(const tokenizer_recipe *recipe, const char *path);

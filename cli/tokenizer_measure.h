// What a tokenizer makes of a text: how many tokens, of which kinds.
#pragma once
#include "io/tokenizer.h"

typedef struct token_measure {
    int64_t documents, characters, bytes, tokens;
    int64_t superwords; // of the tokens
    double seconds;     // of encoding alone
    int64_t *counts;    // [vocabulary]
} token_measure;

// `path` as in corpus_open. To be freed also after a failure.
yx_status token_measure_text(const yx_tokenizer *t, const char *path, token_measure *m);
void token_measure_free(token_measure *m);
// The ids of the at most `n` superwords that occur most, most frequent first, of equals the smaller id; returns how
// many there are.
size_t token_measure_top(const yx_tokenizer *t, const token_measure *m, size_t n, uint32_t *ids);

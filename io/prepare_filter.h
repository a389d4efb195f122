// Which documents are kept, as far as that is known before they are encoded.
#pragma once
#include "io/prepare.h"

typedef struct prepare_filter prepare_filter;

typedef struct prepare_verdict {
    bool keep;
    prepare_drop reason; // why not
    int64_t chars;       // code points of the text
    uint64_t text_hash,
        source_hash; // XXH3 of the text, and of the id or (without one) the text; 0 when a field decided
} prepare_verdict;

yx_status prepare_filter_open(const prepare_options *options, prepare_filter **out);
void prepare_filter_close(prepare_filter *f);
// Remembers the text's hash, so that the same text is refused the next time.
yx_status prepare_filter_check(prepare_filter *f, const corpus_document *doc, prepare_verdict *out);
// Documents so far whose score was only an int_score, with min_score.
int64_t prepare_filter_rounded_scores(const prepare_filter *f);
// The filters as an expression ("score>=3.5 && tokens>=1000 (gpt2)"), "none" without any. `counter`: the name of the
// tokenizer that min_tokens counts with.
void prepare_filter_describe(const prepare_options *options, const char *counter, char *out, size_t capacity);

// Which documents are kept, as far as that is known before they are encoded.
#pragma once
#include "io/prepare.h"

typedef struct prepare_filter prepare_filter;

yx_status prepare_filter_open(const prepare_options *options, prepare_filter **out);
void prepare_filter_close(prepare_filter *f);
// `*keep`, or `*reason` why not. `*chars`: code points of the text. `*source_hash`: XXH3 of the id, of the text where
// there is no id. Remembers the text's hash, so that the same text is refused the next time.
yx_status prepare_filter_check(prepare_filter *f, const corpus_document *doc, bool *keep, prepare_drop *reason,
                               int64_t *chars, uint64_t *source_hash);
// The filters as an expression ("score>=3.5 && tokens>=1000"), "none" without any.
void prepare_filter_describe(const prepare_options *options, char *out, size_t capacity);

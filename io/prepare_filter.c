#include "io/prepare_filter.h"
#include "common/hash.h"
#include "common/log.h"
#include "io/dedup.h"
#include "io/dedup_set.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct prepare_filter {
    const prepare_options *options;
    dedup_set seen; // hashes of the texts so far
    int64_t rounded_scores;
};

const char *prepare_drop_name(prepare_drop reason) {
    static const char *const names[PREPARE_DROPS] = {
        [DROP_EMPTY] = "empty",
        [DROP_NO_SCORE] = "no score",
        [DROP_SCORE] = "score too low",
        [DROP_NO_LANGUAGE] = "no language",
        [DROP_LANGUAGE] = "other language",
        [DROP_NO_TOKEN_COUNT] = "no token_count",
        [DROP_TOKEN_COUNT] = "token_count too low",
        [DROP_CHARS] = "too few characters",
        [DROP_MAX_CHARS] = "too many characters",
        [DROP_DUPLICATE] = "duplicate",
        [DROP_TOKENS] = "too few tokens",
        [DROP_END_OF_TEXT] = "contains an end-of-text token",
        [DROP_NEAR_DUPLICATE] = "near-duplicate",
    };
    return names[reason];
}

yx_status prepare_filter_open(const prepare_options *options, prepare_filter **out) {
    prepare_filter *f = calloc(1, sizeof *f);
    if (!f) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    f->options = options;
    *out = f;
    return YX_OK;
}

void prepare_filter_close(prepare_filter *f) {
    if (!f) return;
    dedup_set_free(&f->seen);
    free(f);
}

// Bytes that are not UTF-8 continuation bytes, of at most 255: so a byte holds the count, for the vector unit.
static inline uint8_t count_few(const char *text, size_t size) {
    uint8_t n = 0;
    for (size_t i = 0; i < size; i++) n += (signed char)text[i] >= -0x40;
    return n;
}

static int64_t count_chars(const char *text, size_t size) {
    static const size_t few = 192; // a multiple of any vector's size
    int64_t n = 0;
    for (; size >= few; text += few, size -= few) n += count_few(text, few);
    return n + count_few(text, size);
}

static bool is_empty(const corpus_document *doc) { return strspn(doc->text, " \t\r\n\f\v") == doc->size; }

static bool passes(const prepare_options *o, const corpus_document *doc, int64_t chars, prepare_drop *reason) {
    bool score = !isnan(o->min_score), count = o->min_token_count > 0;
    if (is_empty(doc)) *reason = DROP_EMPTY;
    else if (score && isnan(doc->score)) *reason = DROP_NO_SCORE;
    else if (score && doc->score < o->min_score) *reason = DROP_SCORE;
    else if (o->language && !doc->language) *reason = DROP_NO_LANGUAGE;
    else if (o->language && strcmp(doc->language, o->language) != 0) *reason = DROP_LANGUAGE;
    else if (count && doc->token_count < 0) *reason = DROP_NO_TOKEN_COUNT;
    else if (count && doc->token_count < o->min_token_count) *reason = DROP_TOKEN_COUNT;
    else if (chars < o->min_chars) *reason = DROP_CHARS;
    else if (o->max_chars > 0 && chars > o->max_chars) *reason = DROP_MAX_CHARS;
    else return true;
    return false;
}

// A rounded score is a coarser judge than was asked for: that is said once, and counted.
static void note_rounded_score(prepare_filter *f, const corpus_document *doc) {
    if (!doc->rounded_score || isnan(f->options->min_score)) return;
    if (f->rounded_scores++ == 0)
        yx_warn("%s:%lld has no score but a rounded int_score: such documents pass --min-score %g from int_score %g on",
                doc->source, (long long)doc->line, f->options->min_score, ceil(f->options->min_score));
}

int64_t prepare_filter_rounded_scores(const prepare_filter *f) { return f->rounded_scores; }

yx_status prepare_filter_check(prepare_filter *f, const corpus_document *doc, prepare_verdict *out) {
    *out = (prepare_verdict){.chars = count_chars(doc->text, doc->size)};
    note_rounded_score(f, doc);
    out->keep = passes(f->options, doc, out->chars, &out->reason);
    if (!out->keep) return YX_OK;
    out->text_hash = yx_hash64(doc->text, doc->size, 0);
    out->source_hash = doc->id ? yx_hash64(doc->id, strlen(doc->id), 0) : out->text_hash;
    out->reason = DROP_DUPLICATE;
    return dedup_set_add(&f->seen, out->text_hash, &out->keep);
}

void prepare_filter_describe(const prepare_options *options, const char *counter, char *out, size_t capacity) {
    size_t used = 0;
    out[0] = 0;
// snprintf reports what it would have written; a cut expression is still a valid text.
#define TERM(condition, ...)                                                                                           \
    if ((condition) && used < capacity) {                                                                              \
        used += (size_t)snprintf(out + used, capacity - used, "%s", used ? " && " : "");                               \
        if (used < capacity) used += (size_t)snprintf(out + used, capacity - used, __VA_ARGS__);                       \
    }
    TERM(!isnan(options->min_score), "score>=%g", options->min_score)
    TERM(options->language, "language==\"%s\"", options->language)
    TERM(options->min_token_count > 0, "token_count>=%" PRId64, options->min_token_count)
    TERM(options->min_chars > 0, "chars>=%" PRId64, options->min_chars)
    TERM(options->max_chars > 0, "chars<=%" PRId64, options->max_chars)
    TERM(options->min_tokens > 0, "tokens>=%" PRId64 " (%s)", options->min_tokens, counter)
    TERM(options->near_duplicates, "no near-duplicates (%d-word MinHash, %d bands of %d)", DEDUP_WORDS, DEDUP_BANDS,
         DEDUP_ROWS)
    TERM(used == 0, "none")
#undef TERM
}

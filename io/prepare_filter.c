#include "io/prepare_filter.h"
#include "common/hash.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct prepare_filter {
    const prepare_options *options;
    uint64_t *seen; // hashes of the texts so far: open addressing, 0 = free, at most half full
    size_t seen_count, seen_capacity;
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
        [DROP_DUPLICATE] = "duplicate",
        [DROP_TOKENS] = "too few tokens",
        [DROP_END_OF_TEXT] = "contains an end-of-text token",
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
    free(f->seen);
    free(f);
}

// The slot of `hash`, or the free one where it belongs.
static uint64_t *find(uint64_t *table, size_t capacity, uint64_t hash) {
    size_t at = hash & (capacity - 1);
    while (table[at] != 0 && table[at] != hash) at = (at + 1) & (capacity - 1);
    return &table[at];
}

static yx_status grow(prepare_filter *f) {
    size_t capacity = f->seen_capacity ? f->seen_capacity * 2 : 1 << 16;
    uint64_t *table = calloc(capacity, sizeof *table);
    if (!table) return yx_fail(YX_ERR_NO_MEMORY, "no memory to remember %zu documents", f->seen_count);
    for (size_t i = 0; i < f->seen_capacity; i++)
        if (f->seen[i]) *find(table, capacity, f->seen[i]) = f->seen[i];
    free(f->seen);
    f->seen = table;
    f->seen_capacity = capacity;
    return YX_OK;
}

static yx_status remember(prepare_filter *f, uint64_t hash, bool *is_new) {
    if ((f->seen_count + 1) * 2 > f->seen_capacity) {
        yx_status status = grow(f);
        if (status != YX_OK) return status;
    }
    hash += hash == 0;
    uint64_t *place = find(f->seen, f->seen_capacity, hash);
    *is_new = *place == 0;
    *place = hash;
    f->seen_count += *is_new;
    return YX_OK;
}

// Bytes that are not UTF-8 continuation bytes.
static int64_t count_chars(const char *text, size_t size) {
    int64_t n = 0;
    for (size_t i = 0; i < size; i++) n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
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
    else return true;
    return false;
}

yx_status prepare_filter_check(prepare_filter *f, const corpus_document *doc, bool *keep, prepare_drop *reason,
                               int64_t *chars, uint64_t *source_hash) {
    *chars = count_chars(doc->text, doc->size);
    *keep = passes(f->options, doc, *chars, reason);
    if (!*keep) return YX_OK;
    uint64_t text_hash = yx_hash64(doc->text, doc->size, 0);
    *source_hash = doc->id ? yx_hash64(doc->id, strlen(doc->id), 0) : text_hash;
    *reason = DROP_DUPLICATE;
    return remember(f, text_hash, keep);
}

void prepare_filter_describe(const prepare_options *options, char *out, size_t capacity) {
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
    TERM(options->min_tokens > 0, "tokens>=%" PRId64, options->min_tokens)
    TERM(used == 0, "none")
#undef TERM
}

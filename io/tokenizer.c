#include "io/tokenizer.h"
#include "common/file.h"
#include "common/hash.h"
#include "io/tokenizer_parts.h"
#include "io/tokenizer_unicode.h"
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 28 };

struct yx_tokenizer {
    tokenizer_parts parts;
    bpe *bpe;
    const uint8_t *classes;
    char sha256[YX_SHA256_HEX];
    char *name, *path;
};

struct tokenizer_scratch {
    added_scratch added;
    split_scratch *split;
    bpe_scratch *bpe;
    uint8_t *repaired; // the text with U+FFFD for what is not UTF-8
    size_t repaired_capacity;
    uint32_t *ids;
    size_t count, capacity;
};

// --- Loading ---------------------------------------------------------------------------------------------------------

static yx_status load_vocab_folder(const char *folder, tokenizer_parts *parts) {
    yx_status status = YX_OK;
    char *vocab_path = NULL, *merges_path = NULL, *vocab = NULL, *merges = NULL;
    size_t vocab_size, merges_size;
    YX_CHECK(yx_format(&vocab_path, "%s/vocab.json", folder));
    YX_CHECK(yx_format(&merges_path, "%s/merges.txt", folder));
    if (!yx_path_exists(vocab_path) || !yx_path_exists(merges_path))
        YX_FAIL(YX_ERR_IO, "the folder %s has neither a tokenizer.json nor vocab.json and merges.txt", folder);
    YX_CHECK(yx_read_file(vocab_path, MAX_FILE_BYTES, &vocab, &vocab_size));
    YX_CHECK(yx_read_file(merges_path, MAX_FILE_BYTES, &merges, &merges_size));
    YX_CHECK(parts_from_vocab(vocab, vocab_size, merges, merges_size, parts));
fail:
    free(vocab_path);
    free(merges_path);
    free(vocab);
    free(merges);
    return status;
}

// A file that may lie beside tokenizer.json.
static yx_status load_config(const char *folder, tokenizer_parts *parts) {
    yx_status status = YX_OK;
    char *path = NULL, *json = NULL;
    size_t size;
    YX_CHECK(yx_format(&path, "%s/tokenizer_config.json", folder));
    if (parts->eot < 0 && yx_path_exists(path)) {
        YX_CHECK(yx_read_file(path, MAX_FILE_BYTES, &json, &size));
        YX_CHECK(parts_read_config(json, size, parts));
    }
fail:
    free(path);
    free(json);
    return status;
}

static yx_status load_parts(const char *path, tokenizer_parts *parts) {
    yx_status status = YX_OK;
    char *file = NULL, *folder = NULL, *json = NULL;
    size_t size;
    bool is_dir = yx_path_is_dir(path);
    YX_CHECK(yx_format(&file, is_dir ? "%s/tokenizer.json" : "%s", path));
    YX_CHECK(yx_format(&folder, "%s", path));
    const char *beside = is_dir ? folder : dirname(folder);
    if (is_dir && !yx_path_exists(file)) {
        YX_CHECK(load_vocab_folder(path, parts));
    } else {
        YX_CHECK(yx_read_file(file, MAX_FILE_BYTES, &json, &size));
        YX_CHECK(parts_from_json(json, size, parts));
    }
    YX_CHECK(load_config(beside, parts));
fail:
    free(file);
    free(folder);
    free(json);
    return status;
}

// "…/superbpe-t80k", "…/superbpe-t80k/tokenizer.json" and "…/superbpe-t80k.json" are all superbpe-t80k.
static yx_status name_of(const char *path, char **name) {
    char *full = realpath(path, NULL);
    if (!full) return yx_fail_errno("cannot resolve %s", path);
    char *slash = strrchr(full, '/');
    if (slash && slash > full && strcmp(slash, "/tokenizer.json") == 0) *slash = 0;
    slash = strrchr(full, '/');
    char *base = slash ? slash + 1 : full, *ending = strrchr(base, '.');
    if (ending && ending > base && strcmp(ending, ".json") == 0) *ending = 0;
    yx_status status = yx_format(name, "%s", base);
    free(full);
    return status;
}

// What follows from the parts.
static yx_status finish(yx_tokenizer *t) {
    yx_status status = YX_OK;
    const tokenizer_parts *p = &t->parts;
    YX_CHECK(unicode_classes(&t->classes));
    YX_CHECK(parts_sha256(p, t->sha256));
    YX_CHECK(bpe_new(&p->tokens, p->merges, p->n_merges, p->ignore_merges, &t->bpe));
fail:
    return status;
}

yx_status tokenizer_load(const char *path, yx_tokenizer **out) {
    yx_status status = YX_OK;
    yx_tokenizer *t = calloc(1, sizeof *t);
    if (!t) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a tokenizer");
    t->parts.eot = -1;
    YX_CHECK(yx_format(&t->path, "%s", path));
    YX_CHECK(load_parts(path, &t->parts));
    YX_CHECK(name_of(path, &t->name));
    YX_CHECK(finish(t));
    *out = t;
    return YX_OK;
fail:
    tokenizer_free(t);
    return yx_context(status, "tokenizer %s", path);
}

yx_status tokenizer_load_memory(const char *json, size_t size, const char *name, yx_tokenizer **out) {
    yx_status status = YX_OK;
    yx_tokenizer *t = calloc(1, sizeof *t);
    if (!t) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a tokenizer");
    YX_CHECK(yx_format(&t->path, "%s", name));
    YX_CHECK(yx_format(&t->name, "%s", name));
    YX_CHECK(parts_from_json(json, size, &t->parts));
    YX_CHECK(finish(t));
    *out = t;
    return YX_OK;
fail:
    tokenizer_free(t);
    return yx_context(status, "tokenizer %s", name);
}

void tokenizer_free(yx_tokenizer *t) {
    if (!t) return;
    bpe_free(t->bpe);
    parts_free(&t->parts);
    free(t->name);
    free(t->path);
    free(t);
}

uint32_t tokenizer_vocab_size(const yx_tokenizer *t) { return t->parts.tokens.size; }
int64_t tokenizer_eot(const yx_tokenizer *t) { return t->parts.eot; }
const char *tokenizer_sha256(const yx_tokenizer *t) { return t->sha256; }
const char *tokenizer_name(const yx_tokenizer *t) { return t->name; }
const char *tokenizer_path(const yx_tokenizer *t) { return t->path; }
const tokenizer_parts *tokenizer_get_parts(const yx_tokenizer *t) { return &t->parts; }

size_t tokenizer_merge_count(const yx_tokenizer *t) { return t->parts.n_merges; }
yx_status tokenizer_explain(const yx_tokenizer *t, char **out) { return split_explain(t->parts.plan, out); }
size_t tokenizer_word_merges(const yx_tokenizer *t) { return bpe_word_merges(t->bpe); }

const char *tokenizer_added(const yx_tokenizer *t, size_t i, uint32_t *id, bool *special) {
    if (i >= t->parts.added.count) return NULL;
    *id = t->parts.added.tokens[i].id;
    *special = t->parts.added.tokens[i].special;
    return t->parts.added.tokens[i].content;
}

// Whether white space stands between other characters. A token of broken characters is looked at byte by byte.
bool tokenizer_is_superword(const yx_tokenizer *t, uint32_t id) {
    const token_table *tokens = &t->parts.tokens;
    if (id >= tokens->size || !tokens->is_text[id]) return false;
    const uint8_t *bytes = token_bytes(tokens, id);
    size_t size = token_size(tokens, id), length = 1;
    bool whole = unicode_valid_prefix(bytes, size) == size, word = false, gap = false;
    for (size_t i = 0; i < size; i += length) {
        uint32_t code = whole ? unicode_decode(bytes + i, &length) : bytes[i];
        bool space = (whole || code < 0x80) && t->classes[code] & UNICODE_SPACE;
        if (!space && gap) return true;
        if (space) gap = word;
        else word = true;
    }
    return false;
}

double tokenizer_superword_share(const yx_tokenizer *t) {
    const token_table *tokens = &t->parts.tokens;
    size_t superwords = 0, total = 0;
    for (uint32_t id = 0; id < tokens->size; id++) {
        total += tokens->is_text[id];
        superwords += tokenizer_is_superword(t, id);
    }
    return total ? (double)superwords / (double)total : 0;
}

// --- Encoding --------------------------------------------------------------------------------------------------------

yx_status tokenizer_scratch_new(const yx_tokenizer *t, tokenizer_scratch **out) {
    yx_status status = YX_OK;
    (void)t; // a scratch grows to what the tokenizers and texts that it meets need
    tokenizer_scratch *s = calloc(1, sizeof *s);
    if (!s) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for an encoder");
    YX_CHECK(split_scratch_new(&s->split));
    YX_CHECK(bpe_scratch_new(&s->bpe));
    *out = s;
    return YX_OK;
fail:
    tokenizer_scratch_free(s);
    return status;
}

void tokenizer_scratch_free(tokenizer_scratch *s) {
    if (!s) return;
    added_scratch_free(&s->added);
    split_scratch_free(s->split);
    bpe_scratch_free(s->bpe);
    free(s->repaired);
    free(s->ids);
    free(s);
}

// Room for `more` ids.
static yx_status reserve_ids(tokenizer_scratch *s, size_t more) {
    if (s->count + more <= s->capacity) return YX_OK;
    size_t capacity = (s->count + more) * 3 / 2;
    uint32_t *grown = realloc(s->ids, capacity * sizeof *grown);
    if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu tokens", capacity);
    s->ids = grown;
    s->capacity = capacity;
    return YX_OK;
}

static yx_status make_valid(tokenizer_scratch *s, const uint8_t **text, size_t *size) {
    if (unicode_valid_prefix(*text, *size) == *size) return YX_OK;
    if (*size * 3 > s->repaired_capacity) {
        free(s->repaired);
        s->repaired_capacity = 0;
        s->repaired = malloc(*size * 3);
        if (!s->repaired) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of text", *size * 3);
        s->repaired_capacity = *size * 3;
    }
    *size = unicode_repair(*text, *size, s->repaired);
    *text = s->repaired;
    return YX_OK;
}

static void encode_piece(const yx_tokenizer *t, tokenizer_scratch *s, const uint8_t *text, size_t size,
                         size_t readable) {
    uint32_t known = t->parts.ignore_merges ? bpe_find(t->bpe, text, size) : BPE_NONE;
    if (known != BPE_NONE) s->ids[s->count++] = known;
    else s->count += bpe_encode_part(t->bpe, s->bpe, text, size, readable, s->ids + s->count);
}

static yx_status encode_text(const yx_tokenizer *t, tokenizer_scratch *s, const uint8_t *text, size_t size) {
    yx_status status = YX_OK;
    const split_piece *pieces;
    size_t n_pieces, total = 0, longest = 0;
    YX_CHECK(split_run(t->parts.plan, s->split, text, size, &text, &pieces, &n_pieces));
    for (size_t i = 0; i < n_pieces; i++) {
        size_t length = pieces[i].end - pieces[i].begin;
        total += length;
        if (length > longest) longest = length;
    }
    YX_CHECK(reserve_ids(s, total));
    YX_CHECK(bpe_reserve(s->bpe, longest));
    for (size_t i = 0; i < n_pieces; i++) {
        size_t begin = pieces[i].begin;
        encode_piece(t, s, text + begin, pieces[i].end - begin, pieces[n_pieces - 1].end - begin);
    }
fail:
    return status;
}

yx_status tokenizer_encode(const yx_tokenizer *t, tokenizer_scratch *s, const char *text, size_t size,
                           tokenizer_flags flags, const uint32_t **ids, size_t *count) {
    yx_status status = YX_OK;
    const uint8_t *bytes = (const uint8_t *)text;
    const added_segment *segments;
    size_t n_segments = 0;
    s->count = 0;
    if (size > INT32_MAX) YX_FAIL(YX_ERR_DATA, "a text of %zu bytes is too long to encode", size);
    YX_CHECK(make_valid(s, &bytes, &size));
    if (size > 0)
        YX_CHECK(added_split(&t->parts.added, &s->added, t->classes, bytes, size, !(flags & TOKENIZER_NO_SPECIAL),
                             &segments, &n_segments));
    YX_CHECK(reserve_ids(s, n_segments + 1)); // so that *ids is never NULL
    for (size_t i = 0; i < n_segments; i++) {
        const added_segment *part = &segments[i];
        if (part->id < 0) {
            YX_CHECK(encode_text(t, s, bytes + part->begin, part->end - part->begin));
        } else {
            YX_CHECK(reserve_ids(s, 1));
            s->ids[s->count++] = (uint32_t)part->id;
        }
    }
    *ids = s->ids;
    *count = s->count;
fail:
    return status;
}

// --- Decoding --------------------------------------------------------------------------------------------------------

// Bytes of `id` in a decoded text: none for a special token that is skipped.
static size_t decoded_size(const yx_tokenizer *t, uint32_t id, bool skip_special) {
    const added_token *added = skip_special ? added_by_id(&t->parts.added, id) : NULL;
    return added && added->special ? 0 : token_size(&t->parts.tokens, id);
}

yx_status tokenizer_decode(const yx_tokenizer *t, const uint32_t *ids, size_t count, bool skip_special, char **text,
                           size_t *size) {
    size_t total = 0, n = 0;
    for (size_t i = 0; i < count; i++) {
        if (!tokenizer_token_bytes(t, ids[i], &n))
            return yx_fail(YX_ERR_DATA, "id %u at position %zu is not in the vocabulary of %s", ids[i], i, t->name);
        total += decoded_size(t, ids[i], skip_special);
    }
    char *out = malloc(total + 1);
    if (!out) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of text", total);
    n = 0;
    for (size_t i = 0; i < count; i++) {
        size_t length = decoded_size(t, ids[i], skip_special);
        memcpy(out + n, token_bytes(&t->parts.tokens, ids[i]), length);
        n += length;
    }
    out[n] = 0;
    *text = out;
    *size = n;
    return YX_OK;
}

const char *tokenizer_token_bytes(const yx_tokenizer *t, uint32_t id, size_t *size) {
    *size = id < t->parts.tokens.size ? token_size(&t->parts.tokens, id) : 0;
    return *size ? (const char *)token_bytes(&t->parts.tokens, id) : NULL;
}

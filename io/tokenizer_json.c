// Reads tokenizer.json, and vocab.json with merges.txt. What would change the encoding and is not supported is refused
// by name, never ignored.
#include "io/tokenizer_parts.h"
#include "io/tokenizer_unicode.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NESTING = 8, MAX_ADDED = 1 << 16 };

typedef struct vocab_reader {
    json_t *vocab;
    tokenizer_parts *parts;
    uint32_t next_id; // for an added token that the vocabulary lacks
    char *joined;     // left + right of a merge
    size_t joined_capacity;
} vocab_reader;

// --- Fields ----------------------------------------------------------------------------------------------------------

static bool is_set(const json_t *value) {
    if (!value || json_is_null(value) || json_is_false(value)) return false;
    if (json_is_number(value)) return json_number_value(value) != 0;
    return !json_is_string(value) || json_string_length(value) > 0;
}

static yx_status get_bool(const json_t *object, const char *key, bool fallback, bool *out) {
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_boolean(value)) return yx_fail(YX_ERR_DATA, "\"%s\" is not true or false", key);
    *out = value ? json_is_true(value) : fallback;
    return YX_OK;
}

static const char *type_of(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(no type)";
}

static yx_status parse(const char *text, size_t size, const char *what, json_t **out) {
    json_error_t error;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!*out) return yx_fail(YX_ERR_DATA, "%s is not valid JSON: line %d: %s", what, error.line, error.text);
    if (!json_is_object(*out)) return yx_fail(YX_ERR_DATA, "%s is not a JSON object", what);
    return YX_OK;
}

// --- Pre-tokenizer ---------------------------------------------------------------------------------------------------

static yx_status add_split(const json_t *object, split_plan *plan) {
    yx_status status = YX_OK;
    const json_t *pattern = json_object_get(object, "pattern");
    const char *behavior = json_string_value(json_object_get(object, "behavior"));
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    bool invert = false;
    int b = 0;
    YX_CHECK(get_bool(object, "invert", false, &invert));
    if (!regex == !literal) YX_FAIL(YX_ERR_DATA, "a Split pre-tokenizer needs a pattern: Regex or String");
    while (b < SPLIT_BEHAVIORS && (!behavior || strcmp(behavior, split_behavior_names[b]) != 0)) b++;
    if (b == SPLIT_BEHAVIORS)
        YX_FAIL(YX_ERR_DATA, "Split behavior '%s' is not supported", behavior ? behavior : "(none)");
    YX_CHECK(split_add_pattern(plan, regex ? regex : literal, !regex, (split_behavior)b, invert, false));
fail:
    return status;
}

static yx_status add_byte_level(const json_t *object, split_plan *plan) {
    yx_status status = YX_OK;
    bool prefix = true, use_regex = true;
    YX_CHECK(get_bool(object, "add_prefix_space", true, &prefix));
    YX_CHECK(get_bool(object, "use_regex", true, &use_regex));
    if (prefix) YX_CHECK(split_add_prefix_space(plan));
    if (use_regex) YX_CHECK(split_add_pattern(plan, SPLIT_PATTERN_GPT2, false, SPLIT_ISOLATED, false, false));
fail:
    return status;
}

// `*bytes`: a ByteLevel has been seen. What follows it would see its alphabet instead of the text.
static yx_status add_pre_tokenizer(const json_t *object, split_plan *plan, int depth, bool *bytes) {
    yx_status status = YX_OK;
    const char *type = type_of(object);
    const json_t *item;
    size_t i;
    bool individual = false;
    if (depth > MAX_NESTING) YX_FAIL(YX_ERR_DATA, "pre-tokenizers are nested too deeply");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(object, "pretokenizers");
        if (!json_is_array(list)) YX_FAIL(YX_ERR_DATA, "a Sequence pre-tokenizer has no \"pretokenizers\"");
        json_array_foreach(list, i, item) YX_CHECK(add_pre_tokenizer(item, plan, depth + 1, bytes));
        return YX_OK;
    }
    if (*bytes) YX_FAIL(YX_ERR_DATA, "the pre-tokenizer %s behind ByteLevel is not supported", type);
    if (strcmp(type, "Split") == 0) return add_split(object, plan);
    if (strcmp(type, "Digits") == 0) {
        YX_CHECK(get_bool(object, "individual_digits", false, &individual));
        return split_add_digits(plan, individual);
    }
    if (strcmp(type, "ByteLevel") != 0) YX_FAIL(YX_ERR_DATA, "the pre-tokenizer %s is not supported", type);
    *bytes = true;
    return add_byte_level(object, plan);
fail:
    return status;
}

static yx_status read_pre_tokenizer(const json_t *root, split_plan *plan) {
    const json_t *object = json_object_get(root, "pre_tokenizer");
    bool bytes = false;
    if (!json_is_object(object))
        return yx_fail(YX_ERR_DATA, "no pre_tokenizer: only byte-level tokenizers are supported");
    yx_status status = add_pre_tokenizer(object, plan, 0, &bytes);
    if (status == YX_OK && !bytes)
        return yx_fail(YX_ERR_DATA, "the pre_tokenizer has no ByteLevel: only byte-level tokenizers are supported");
    return yx_context(status, "pre_tokenizer");
}

// --- What must not be there ------------------------------------------------------------------------------------------

static yx_status check_model(const json_t *model) {
    static const char *const unsupported[] = {
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", NULL};
    if (!json_is_object(model)) return yx_fail(YX_ERR_DATA, "tokenizer.json has no model");
    const json_t *type = json_object_get(model, "type");
    if (type && strcmp(type_of(model), "BPE") != 0)
        return yx_fail(YX_ERR_DATA, "the model %s is not supported, only BPE", type_of(model));
    for (int i = 0; unsupported[i]; i++)
        if (is_set(json_object_get(model, unsupported[i])))
            return yx_fail(YX_ERR_DATA, "the model's \"%s\" is not supported", unsupported[i]);
    return YX_OK;
}

static yx_status check_root(const json_t *root) {
    const json_t *version = json_object_get(root, "version");
    const json_t *post = json_object_get(root, "post_processor"), *decoder = json_object_get(root, "decoder");
    const json_t *normalizer = json_object_get(root, "normalizer");
    static const char *const unsupported[] = {"truncation", "padding", NULL};
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return yx_fail(YX_ERR_DATA, "only version \"1.0\" of tokenizer.json is supported");
    if (is_set(normalizer)) return yx_fail(YX_ERR_DATA, "the normalizer %s is not supported", type_of(normalizer));
    for (int i = 0; unsupported[i]; i++)
        if (is_set(json_object_get(root, unsupported[i])))
            return yx_fail(YX_ERR_DATA, "\"%s\" in tokenizer.json is not supported: set it to null", unsupported[i]);
    if (is_set(post) && strcmp(type_of(post), "ByteLevel") != 0)
        return yx_fail(YX_ERR_DATA, "the post_processor %s is not supported: it would add tokens", type_of(post));
    if (!is_set(decoder) || strcmp(type_of(decoder), "ByteLevel") != 0)
        return yx_fail(YX_ERR_DATA, "the decoder %s is not supported, only ByteLevel",
                       is_set(decoder) ? type_of(decoder) : "null");
    return YX_OK;
}

// --- Added tokens ----------------------------------------------------------------------------------------------------

// The library takes an added token's id from the vocabulary, or else counts on; a file that says otherwise is damaged.
static yx_status added_id(vocab_reader *r, const json_t *object, const char *content, uint32_t *id) {
    const json_t *stated = json_object_get(object, "id"), *known = json_object_get(r->vocab, content);
    const added_token *again = added_find(&r->parts->added, content);
    *id = known ? (uint32_t)json_integer_value(known) : again ? again->id : r->next_id;
    if (!known && !again) r->next_id++;
    if (!json_is_integer(stated) || json_integer_value(stated) != (json_int_t)*id)
        return yx_fail(YX_ERR_DATA, "added token '%s' should have id %u", content, *id);
    return *id < BPE_MAX_IDS ? YX_OK : yx_fail(YX_ERR_DATA, "id %u is too large", *id);
}

static yx_status add_token(vocab_reader *r, const json_t *object) {
    yx_status status = YX_OK;
    const char *content = json_string_value(json_object_get(object, "content"));
    added_token token = {0};
    if (!content) YX_FAIL(YX_ERR_DATA, "an added token without content");
    if (!*content) return YX_OK; // as the library: it matches nothing
    YX_CHECK(added_id(r, object, content, &token.id));
    YX_CHECK(get_bool(object, "special", false, &token.special));
    YX_CHECK(get_bool(object, "normalized", !token.special, &token.normalized));
    YX_CHECK(get_bool(object, "single_word", false, &token.single_word));
    YX_CHECK(get_bool(object, "lstrip", false, &token.lstrip));
    YX_CHECK(get_bool(object, "rstrip", false, &token.rstrip));
    token.size = strlen(content);
    token.content = strdup(content);
    if (!token.content) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for added tokens");
    YX_CHECK(added_put(&r->parts->added, token));
fail:
    return status;
}

static yx_status read_added(vocab_reader *r, const json_t *list) {
    yx_status status = YX_OK;
    const json_t *item;
    size_t i;
    if (!list || json_is_null(list)) return YX_OK;
    if (!json_is_array(list) || json_array_size(list) > MAX_ADDED)
        YX_FAIL(YX_ERR_DATA, "\"added_tokens\" is not a list of at most %d", MAX_ADDED);
    json_array_foreach(list, i, item) YX_CHECK(add_token(r, item));
fail:
    return status;
}

// --- Vocabulary ------------------------------------------------------------------------------------------------------

// Writes the bytes that a token of the byte-level alphabet stands for; false when it is not written in it.
static bool decode_alphabet(const char *text, size_t size, uint8_t *out, size_t *out_size) {
    size_t n, written = 0;
    for (size_t i = 0; i < size; i += n) {
        int byte = char_to_byte(unicode_decode((const uint8_t *)text + i, &n));
        if (byte < 0) return false;
        out[written++] = (uint8_t)byte;
    }
    *out_size = written;
    return written > 0;
}

static yx_status check_vocab(json_t *vocab, uint32_t *max_id, size_t *bytes) {
    const char *key;
    json_t *value;
    *max_id = 0;
    *bytes = 0;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0) return yx_fail(YX_ERR_DATA, "the vocabulary is empty");
    json_object_foreach(vocab, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= BPE_MAX_IDS)
            return yx_fail(YX_ERR_DATA, "token '%s': the id is not a number from 0 to %d", key, BPE_MAX_IDS - 1);
        if ((uint32_t)id > *max_id) *max_id = (uint32_t)id;
        *bytes += strlen(key);
    }
    return YX_OK;
}

static yx_status allocate_table(token_table *t, uint32_t size, size_t bytes) {
    if (bytes > UINT32_MAX / 2) return yx_fail(YX_ERR_DATA, "a vocabulary of %zu bytes is too large", bytes);
    t->size = size;
    t->blob = malloc(bytes + 1);
    t->offset = calloc((size_t)size + 1, sizeof *t->offset);
    t->is_text = calloc((size_t)size + 1, 1);
    return t->blob && t->offset && t->is_text ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", size);
}

// by_id[id]: the token's text as the file spells it; tokens that are only added come after those of the vocabulary.
static yx_status collect_texts(vocab_reader *r, const char **by_id) {
    const char *key;
    json_t *value;
    json_object_foreach(r->vocab, key, value) {
        json_int_t id = json_integer_value(value);
        if (by_id[id]) return yx_fail(YX_ERR_DATA, "tokens '%s' and '%s' have the same id", by_id[id], key);
        by_id[id] = key;
    }
    for (size_t i = 0; i < r->parts->added.count; i++) {
        const added_token *a = &r->parts->added.tokens[i];
        if (by_id[a->id] && strcmp(by_id[a->id], a->content) != 0)
            return yx_fail(YX_ERR_DATA, "tokens '%s' and '%s' have the same id", by_id[a->id], a->content);
        by_id[a->id] = a->content;
    }
    return YX_OK;
}

// An added token outside the vocabulary stands for its own text; everything else is in the byte-level alphabet, or,
// where it is not, can only be decoded.
static void fill_table(token_table *t, json_t *vocab, const char *const *by_id) {
    uint32_t used = 0;
    for (uint32_t id = 0; id < t->size; id++) {
        t->offset[id] = used;
        if (!by_id[id]) continue;
        size_t size = strlen(by_id[id]), decoded;
        if (json_object_get(vocab, by_id[id]) && decode_alphabet(by_id[id], size, t->blob + used, &decoded)) {
            t->is_text[id] = 1;
            used += (uint32_t)decoded;
        } else {
            memcpy(t->blob + used, by_id[id], size);
            used += (uint32_t)size;
        }
    }
    t->offset[t->size] = used;
}

static yx_status read_vocab(vocab_reader *r, const json_t *added) {
    yx_status status = YX_OK;
    uint32_t max_id;
    size_t bytes;
    const char **by_id = NULL;
    added_set *set = &r->parts->added;
    YX_CHECK(check_vocab(r->vocab, &max_id, &bytes));
    r->next_id = (uint32_t)json_object_size(r->vocab);
    YX_CHECK(read_added(r, added));
    YX_CHECK(added_prepare(set));
    for (size_t i = 0; i < set->count; i++) {
        bytes += set->tokens[i].size;
        if (set->tokens[i].id > max_id) max_id = set->tokens[i].id;
    }
    YX_CHECK(allocate_table(&r->parts->tokens, max_id + 1, bytes));
    by_id = calloc((size_t)max_id + 1, sizeof *by_id);
    if (!by_id) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %u tokens", max_id);
    YX_CHECK(collect_texts(r, by_id));
    fill_table(&r->parts->tokens, r->vocab, by_id);
fail:
    free(by_id);
    return status;
}

// --- Merges ----------------------------------------------------------------------------------------------------------

static yx_status token_id(const vocab_reader *r, const char *text, size_t size, uint32_t *id) {
    const json_t *value = json_object_getn(r->vocab, text, size);
    if (!value) return yx_fail(YX_ERR_DATA, "'%.*s' is not in the vocabulary", (int)(size < 200 ? size : 200), text);
    *id = (uint32_t)json_integer_value(value);
    return YX_OK;
}

static yx_status add_merge(vocab_reader *r, const char *left, size_t left_size, const char *right, size_t right_size) {
    yx_status status = YX_OK;
    bpe_merge *m = &r->parts->merges[r->parts->n_merges];
    if (left_size == 0 || right_size == 0) YX_FAIL(YX_ERR_DATA, "a part is empty");
    if (left_size + right_size > r->joined_capacity) {
        free(r->joined);
        r->joined_capacity = (left_size + right_size) * 2;
        r->joined = malloc(r->joined_capacity);
        if (!r->joined) r->joined_capacity = 0;
        if (!r->joined) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for merges");
    }
    memcpy(r->joined, left, left_size);
    memcpy(r->joined + left_size, right, right_size);
    YX_CHECK(token_id(r, left, left_size, &m->left));
    YX_CHECK(token_id(r, right, right_size, &m->right));
    YX_CHECK(token_id(r, r->joined, left_size + right_size, &m->result));
    r->parts->n_merges++;
    return YX_OK;
fail:
    return yx_context(status, "merge %zu", r->parts->n_merges + 1);
}

// "left right" with exactly one space.
static yx_status add_merge_line(vocab_reader *r, const char *line, size_t size) {
    const char *space = memchr(line, ' ', size);
    size_t left = space ? (size_t)(space - line) : 0;
    if (!space || memchr(space + 1, ' ', size - left - 1))
        return yx_fail(YX_ERR_DATA, "merge %zu is not two tokens with a space between", r->parts->n_merges + 1);
    return add_merge(r, line, left, space + 1, size - left - 1);
}

static bool is_version_line(const char *line, size_t size) { return size >= 8 && memcmp(line, "#version", 8) == 0; }

static yx_status add_json_merge(vocab_reader *r, const json_t *item) {
    if (json_is_string(item)) {
        const char *line = json_string_value(item);
        size_t size = json_string_length(item);
        return is_version_line(line, size) ? YX_OK : add_merge_line(r, line, size);
    }
    const json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
    if (json_array_size(item) != 2 || !json_is_string(left) || !json_is_string(right))
        return yx_fail(YX_ERR_DATA, "merge %zu is not two tokens", r->parts->n_merges + 1);
    return add_merge(r, json_string_value(left), json_string_length(left), json_string_value(right),
                     json_string_length(right));
}

static yx_status allocate_merges(tokenizer_parts *parts, size_t count) {
    if (count >= BPE_MAX_IDS) return yx_fail(YX_ERR_DATA, "%zu merges are more than are supported", count);
    parts->merges = malloc((count + 1) * sizeof *parts->merges);
    return parts->merges ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu merges", count);
}

static yx_status read_merges_json(vocab_reader *r, const json_t *list) {
    const json_t *item;
    size_t i;
    if (!json_is_array(list)) return yx_fail(YX_ERR_DATA, "the model has no list of merges");
    yx_status status = allocate_merges(r->parts, json_array_size(list));
    if (status != YX_OK) return status;
    json_array_foreach(list, i, item) {
        status = add_json_merge(r, item);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

static yx_status read_merges_text(vocab_reader *r, const char *text, size_t size) {
    const char *end = text + size;
    size_t lines = 1;
    for (const char *p = text; p < end; p++) lines += *p == '\n';
    yx_status status = allocate_merges(r->parts, lines);
    while (text < end && status == YX_OK) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *stop = newline ? newline : end;
        size_t length = (size_t)(stop - text);
        if (length > 0 && stop[-1] == '\r') length--;
        if (length > 0 && !is_version_line(text, length)) status = add_merge_line(r, text, length);
        text = stop + 1;
    }
    return status;
}

// --- Whole files -----------------------------------------------------------------------------------------------------

static void find_eot(const vocab_reader *r) {
    const json_t *id = json_object_get(r->vocab, "<|endoftext|>");
    const added_token *added = added_find(&r->parts->added, "<|endoftext|>");
    r->parts->eot = added ? (int64_t)added->id : id ? (int64_t)json_integer_value(id) : -1;
}

yx_status parts_read_config(const char *json, size_t size, tokenizer_parts *parts) {
    json_t *root = NULL;
    yx_status status = parse(json, size, "tokenizer_config.json", &root);
    if (status == YX_OK) {
        const json_t *eos = json_object_get(root, "eos_token");
        const char *content = json_string_value(json_is_object(eos) ? json_object_get(eos, "content") : eos);
        const added_token *token = content ? added_find(&parts->added, content) : NULL;
        if (parts->eot < 0 && token) parts->eot = token->id;
    }
    json_decref(root);
    return status;
}

yx_status parts_from_json(const char *json, size_t size, tokenizer_parts *parts) {
    yx_status status = YX_OK;
    json_t *root = NULL;
    vocab_reader r = {.parts = parts};
    YX_CHECK(parse(json, size, "tokenizer.json", &root));
    const json_t *model = json_object_get(root, "model");
    YX_CHECK(check_root(root));
    YX_CHECK(check_model(model));
    YX_CHECK(get_bool(model, "ignore_merges", false, &parts->ignore_merges));
    YX_CHECK(split_plan_new(&parts->plan));
    YX_CHECK(read_pre_tokenizer(root, parts->plan));
    r.vocab = json_object_get(model, "vocab");
    YX_CHECK(read_vocab(&r, json_object_get(root, "added_tokens")));
    YX_CHECK(read_merges_json(&r, json_object_get(model, "merges")));
    find_eot(&r);
fail:
    free(r.joined);
    json_decref(root);
    return status;
}

// GPT-2's files name no added token; <|endoftext|> is one wherever they are used.
static json_t *gpt2_added(const json_t *vocab) {
    const json_t *id = json_object_get(vocab, "<|endoftext|>");
    if (!json_is_integer(id)) return json_array();
    return json_pack("[{s:I, s:s, s:b}]", "id", json_integer_value(id), "content", "<|endoftext|>", "special", 1);
}

yx_status parts_from_vocab(const char *vocab, size_t vocab_size, const char *merges, size_t merges_size,
                           tokenizer_parts *parts) {
    yx_status status = YX_OK;
    json_t *added = NULL;
    vocab_reader r = {.parts = parts};
    if (unicode_valid_prefix((const uint8_t *)merges, merges_size) != merges_size)
        YX_FAIL(YX_ERR_DATA, "merges.txt is not valid UTF-8");
    YX_CHECK(parse(vocab, vocab_size, "vocab.json", &r.vocab));
    YX_CHECK(split_plan_new(&parts->plan));
    YX_CHECK(split_add_pattern(parts->plan, SPLIT_PATTERN_GPT2, false, SPLIT_ISOLATED, false, false));
    added = gpt2_added(r.vocab);
    if (!added) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for vocab.json");
    YX_CHECK(read_vocab(&r, added));
    YX_CHECK(read_merges_text(&r, merges, merges_size));
    find_eot(&r);
fail:
    free(r.joined);
    json_decref(added);
    json_decref(r.vocab);
    return status;
}

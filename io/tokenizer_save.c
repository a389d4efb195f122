#include "io/tokenizer_save.h"
#include "common/file.h"
#include "io/tokenizer_parts.h"
#include "io/tokenizer_unicode.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

// A token in the byte-level alphabet; to free(). NULL without memory.
static char *spell(const token_table *tokens, uint32_t id) {
    size_t size = token_size(tokens, id), n = 0;
    char *text = malloc(size * 2 + 4); // the alphabet's characters take one or two bytes
    if (!text) return NULL;
    for (size_t i = 0; i < size; i++) n += unicode_encode(byte_to_char(token_bytes(tokens, id)[i]), text + n);
    text[n] = 0;
    return text;
}

static char *token_text(const tokenizer_recipe *r, uint32_t id) {
    for (size_t i = 0; i < r->n_added && !r->tokens->is_text[id]; i++)
        if (r->added[i].id == id) return strdup(r->added[i].content);
    return spell(r->tokens, id);
}

static json_t *make_vocab(const tokenizer_recipe *r) {
    json_t *vocab = json_object();
    for (uint32_t id = 0; id < r->tokens->size && vocab; id++) {
        char *text = token_text(r, id);
        if (!text || json_object_set_new(vocab, text, json_integer(id)) != 0) {
            json_decref(vocab);
            vocab = NULL;
        }
        free(text);
    }
    return vocab;
}

// Where training merged a pair twice, the last rank holds, as for whoever reads the file.
static bool is_last(const uint32_t *last_rank, const bpe_merge *merges, size_t i) {
    return last_rank[merges[i].result] == i || merges[last_rank[merges[i].result]].left != merges[i].left;
}

static json_t *make_merges(const tokenizer_recipe *r) {
    json_t *list = json_array();
    uint32_t *last_rank = malloc((r->tokens->size + 1) * sizeof *last_rank);
    bool good = list && last_rank;
    for (size_t i = 0; i < r->n_merges && good; i++) last_rank[r->merges[i].result] = (uint32_t)i;
    for (size_t i = 0; i < r->n_merges && good; i++) {
        if (!is_last(last_rank, r->merges, i)) continue;
        char *left = token_text(r, r->merges[i].left), *right = token_text(r, r->merges[i].right);
        good = left && right && json_array_append_new(list, json_pack("[s, s]", left, right)) == 0;
        free(left);
        free(right);
    }
    free(last_rank);
    if (good) return list;
    json_decref(list);
    return NULL;
}

static json_t *make_added(const tokenizer_recipe *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->n_added; i++) {
        const added_token *a = &r->added[i];
        json_array_append_new(list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)a->id, "content",
                                              a->content, "single_word", (int)a->single_word, "lstrip", (int)a->lstrip,
                                              "rstrip", (int)a->rstrip, "normalized", (int)a->normalized, "special",
                                              (int)a->special));
    }
    return list;
}

static json_t *byte_level(bool prefix, bool regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix, "trim_offsets", 1,
                     "use_regex", regex);
}

static json_t *make_pre_tokenizer(const tokenizer_recipe *r) {
    if (!r->split_pattern) return byte_level(false, true);
    return json_pack("{s:s, s:[{s:s, s:b}, {s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type",
                     "Digits", "individual_digits", 0, "type", "Split", "pattern", "Regex", r->split_pattern,
                     "behavior", "Isolated", "invert", 0, byte_level(false, false));
}

static json_t *make_model(const tokenizer_recipe *r) {
    return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                     "ignore_merges", 0, "vocab", make_vocab(r), "merges", make_merges(r));
}

yx_status tokenizer_save(const tokenizer_recipe *recipe, const char *path) {
    yx_status status = YX_OK;
    char *text = NULL;
    json_t *root =
        json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:n, s:o, s:o}", "version", "1.0", "truncation", "padding",
                  "added_tokens", make_added(recipe), "normalizer", "pre_tokenizer", make_pre_tokenizer(recipe),
                  "post_processor", "decoder", byte_level(true, true), "model", make_model(recipe));
    if (root) text = json_dumps(root, JSON_INDENT(2));
    if (!text) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to write %s", path);
    YX_CHECK(yx_write_file_atomic(path, text, strlen(text)));
fail:
    free(text);
    json_decref(root);
    return status;
}

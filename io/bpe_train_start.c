// The tokens that are there before training: special ones and the 256 bytes, or all those of another tokenizer.
#include "io/bpe_train_state.h"
#include "io/tokenizer_unicode.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_SPECIAL_BYTES = 1024, NO_TEXT = 0xff }; // a byte that is in no text, so that the token equals no merge

// A special token is entered as the text that its characters stand for in the alphabet, so that a merge to the same
// string is that token.
static yx_status add_special(trainer *t, int i) {
    uint8_t bytes[MAX_SPECIAL_BYTES];
    const char *token = t->options.special_tokens[i];
    size_t size = strlen(token), n = 0, length;
    if (size > sizeof bytes) return yx_fail(YX_ERR_USAGE, "a special token of %zu bytes is too long", size);
    for (size_t k = 0; k < size; k += length) {
        int byte = char_to_byte(unicode_decode((const uint8_t *)token + k, &length));
        bytes[n++] = byte < 0 ? NO_TEXT : (uint8_t)byte;
    }
    uint32_t id;
    yx_status status = train_vocab_add(&t->vocab, bytes, n, &id);
    if (status == YX_OK && id != (uint32_t)i)
        return yx_fail(YX_ERR_USAGE, "the special token '%s' cannot be told from another one", token);
    return status;
}

// Special tokens first, then the bytes in the order of the characters that stand for them.
static yx_status start_new(trainer *t) {
    yx_status status = YX_OK;
    for (int i = 0; i < t->options.n_special_tokens; i++) YX_CHECK(add_special(t, i));
    for (uint32_t code = 0, found = 0; found < TRAIN_BYTES; code++) {
        int byte = char_to_byte(code);
        if (byte < 0) continue;
        YX_CHECK(train_vocab_add(&t->vocab, &(uint8_t){(uint8_t)byte}, 1, &t->byte_id[byte]));
        found++;
    }
fail:
    return status;
}

// --- Another tokenizer -----------------------------------------------------------------------------------------------

// A pre-tokenizer that leaves words together makes superwords already, or could.
static yx_status check_words(const trainer *t, const split_plan *plan) {
    static const char words[] = "space travel";
    const split_piece *pieces;
    const uint8_t *split;
    size_t n = 0;
    split_scratch *scratch = NULL;
    yx_status status = split_scratch_new(&scratch);
    if (status == YX_OK)
        status = split_run(plan, scratch, (const uint8_t *)words, sizeof words - 1, &split, &pieces, &n);
    split_scratch_free(scratch);
    if (status == YX_OK && n < 2)
        return yx_fail(YX_ERR_MISMATCH,
                       "%s has superwords already, or does not cut between words: only a tokenizer of subwords can be "
                       "extended",
                       t->options.base);
    return status;
}

static yx_status check_base(const trainer *t, const tokenizer_parts *parts) {
    const char *name = t->options.base;
    yx_status status = check_words(t, parts->plan);
    if (status != YX_OK) return status;
    if (parts->ignore_merges)
        return yx_fail(YX_ERR_MISMATCH,
                       "%s takes whole words from its vocabulary (ignore_merges), which text without "
                       "words has not: it cannot be extended",
                       name);
    for (uint32_t id = 0; id < parts->tokens.size; id++)
        if (!parts->tokens.is_text[id] && !added_by_id(&parts->added, id))
            return yx_fail(YX_ERR_MISMATCH, "%s has no token, or none of bytes, for id %u: it cannot be extended", name,
                           id);
    return YX_OK;
}

// An added token is no text: its bytes are its id, marked.
static yx_status add_base_token(trainer *t, const tokenizer_parts *parts, uint32_t id) {
    uint8_t marked[5] = {NO_TEXT};
    uint32_t got;
    memcpy(marked + 1, &id, sizeof id);
    bool text = parts->tokens.is_text[id] && !added_by_id(&parts->added, id);
    yx_status status =
        text ? train_vocab_add(&t->vocab, token_bytes(&parts->tokens, id), token_size(&parts->tokens, id), &got)
             : train_vocab_add(&t->vocab, marked, sizeof marked, &got);
    if (status == YX_OK && got != id)
        return yx_fail(YX_ERR_MISMATCH, "%s has tokens %u and %u with the same bytes: it cannot be extended",
                       t->options.base, got, id);
    return status;
}

yx_status train_load_base(trainer *t) {
    yx_status status = YX_OK;
    YX_CHECK(tokenizer_load(t->options.base, &t->base));
    YX_CHECK(check_base(t, tokenizer_get_parts(t->base)));
fail:
    return status;
}

static yx_status start_from_base(trainer *t) {
    yx_status status = YX_OK;
    const tokenizer_parts *parts = tokenizer_get_parts(t->base);
    for (uint32_t id = 0; id < parts->tokens.size; id++) YX_CHECK(add_base_token(t, parts, id));
    for (size_t i = 0; i < parts->n_merges; i++) YX_CHECK(merge_list_add(&t->merges, parts->merges[i]));
    for (int byte = 0; byte < TRAIN_BYTES; byte++)
        t->byte_id[byte] = train_vocab_find(&t->vocab, &(uint8_t){(uint8_t)byte}, 1);
fail:
    return status;
}

yx_status train_start_vocab(trainer *t) {
    yx_status status = t->base ? start_from_base(t) : start_new(t);
    t->first_size = t->vocab.size;
    t->first_merges = t->merges.count;
    if (t->base && t->options.transition == 0) t->options.transition = t->first_size;
    if (t->options.transition == 0) t->options.transition = t->options.vocab_size;
    return status;
}

yx_status train_view_tokens(const trainer *t, token_table *tokens) {
    const added_set *added = t->base ? &tokenizer_get_parts(t->base)->added : NULL;
    *tokens = (token_table){t->vocab.size, t->vocab.blob, t->vocab.offset, malloc((size_t)t->vocab.size + 1)};
    if (!tokens->is_text) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", t->vocab.size);
    for (uint32_t id = 0; id < t->vocab.size; id++)
        tokens->is_text[id] = added ? !added_by_id(added, id) : id >= (uint32_t)t->options.n_special_tokens;
    return YX_OK;
}

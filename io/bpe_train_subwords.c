#include "io/bpe_train_state.h"
#include "common/log.h"
#include <stdlib.h>
#include <string.h>

// --- Kept merges -----------------------------------------------------------------------------------------------------

static bool same_special(const bpe_train_options *o, const subwords_record *r) {
    if (o->n_special_tokens != r->n_special_tokens) return false;
    for (int i = 0; i < r->n_special_tokens; i++)
        if (strcmp(o->special_tokens[i], r->special_tokens[i]) != 0) return false;
    return true;
}

static const char *base_sha256(const trainer *t) { return t->base ? tokenizer_sha256(t->base) : ""; }

// Whether training from the counts would begin with the same merges, and these are enough.
static bool is_usable(const trainer *t, const subwords_record *r) {
    const bpe_train_options *o = &t->options;
    return r->rule == o->words && strcmp(r->words_sha256, t->words.text.sha256) == 0 &&
           strcmp(r->base_sha256, base_sha256(t)) == 0 && same_special(o, r) && r->min_frequency == o->min_frequency &&
           (r->vocab_size >= o->transition || r->exhausted);
}

static yx_status apply_merge(trainer *t, const bpe_merge *m) {
    train_vocab *v = &t->vocab;
    uint8_t *bytes = NULL;
    uint32_t id = BPE_NONE;
    if (m->left >= v->size || m->right >= v->size) return yx_fail(YX_ERR_DATA, "the kept merges are damaged");
    size_t left = v->offset[m->left + 1] - v->offset[m->left], right = v->offset[m->right + 1] - v->offset[m->right];
    bytes = malloc(left + right + 1);
    if (!bytes) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a token");
    memcpy(bytes, v->blob + v->offset[m->left], left);
    memcpy(bytes + left, v->blob + v->offset[m->right], right);
    yx_status status = train_vocab_add(v, bytes, left + right, &id);
    free(bytes);
    if (status == YX_OK && id != m->result) return yx_fail(YX_ERR_DATA, "the kept merges are damaged");
    return status == YX_OK ? merge_list_add(&t->merges, *m) : status;
}

static yx_status apply_kept(trainer *t, const subwords_record *r) {
    for (size_t i = 0; i < r->merges.count && t->vocab.size < t->options.transition; i++) {
        yx_status status = apply_merge(t, &r->merges.merges[i]);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

// Uses what `folder` holds, if it is what training would make.
static yx_status try_folder(trainer *t, const char *folder, bool *used) {
    yx_status status = YX_OK;
    subwords_record r = {0};
    if (!folder || *used || !subwords_record_exists(folder)) return YX_OK;
    YX_CHECK(subwords_record_load(folder, &r));
    if (!is_usable(t, &r)) goto fail;
    YX_CHECK(apply_kept(t, &r));
    if (strcmp(folder, t->folder) != 0) YX_CHECK(subwords_record_save(t->folder, &r));
    *used = true;
fail:
    subwords_record_free(&r);
    return status;
}

// --- Merging ---------------------------------------------------------------------------------------------------------

// A word in bytes, or in the tokens of the base; returns how many places it takes.
static size_t fill_word(const trainer *t, const bpe *b, bpe_scratch *s, const word_entry *word, uint32_t *out) {
    const uint8_t *bytes = t->words.words.blob + word->offset;
    if (b) return bpe_encode(b, s, bytes, word->size, out);
    for (size_t k = 0; k < word->size; k++) out[k] = t->byte_id[bytes[k]];
    return word->size;
}

// A count that is too large for one sequence is divided between several.
static size_t count_parts(const word_entry *word) { return (size_t)((word->count - 1) / TRAIN_MAX_COUNT + 1); }

static yx_status fill_text(const trainer *t, const bpe *b, bpe_scratch *s, train_text *text) {
    const word_counts *words = &t->words.words;
    size_t room = 0;
    for (size_t i = 0; i < words->n_words; i++) room += (words->words[i].size + 1) * count_parts(&words->words[i]);
    text->symbol = malloc((room + 1) * sizeof *text->symbol);
    if (!text->symbol) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu tokens of text", room);
    for (size_t i = 0; i < words->n_words; i++) {
        yx_status status = b ? bpe_reserve(s, words->words[i].size) : YX_OK;
        if (status != YX_OK) return status;
        for (int64_t count = words->words[i].count, part; count > 0; count -= part) {
            part = count < TRAIN_MAX_COUNT ? count : TRAIN_MAX_COUNT;
            text->size += fill_word(t, b, s, &words->words[i], text->symbol + text->size);
            text->symbol[text->size++] = TRAIN_END | (uint32_t)part;
        }
    }
    return YX_OK;
}

static yx_status merge_words(trainer *t) {
    yx_status status = YX_OK;
    train_text text = {0};
    token_table tokens = {0};
    bpe *b = NULL;
    bpe_scratch *s = NULL;
    merge_limits limits = {t->options.transition, t->options.min_frequency, 0, false};
    if (t->base) {
        YX_CHECK(train_view_tokens(t, &tokens));
        YX_CHECK(bpe_new(&tokens, t->merges.merges, t->merges.count, false, &b));
        YX_CHECK(bpe_scratch_new(&s));
    }
    YX_CHECK(fill_text(t, b, s, &text));
    YX_CHECK(train_merge(&text, &limits, &t->vocab, &t->merges));
fail:
    free(text.symbol);
    bpe_scratch_free(s);
    bpe_free(b);
    free(tokens.is_text);
    return status;
}

static yx_status keep_merges(const trainer *t) {
    const bpe_train_options *o = &t->options;
    subwords_record r = {.rule = o->words,
                         .special_tokens = (char **)(uintptr_t)o->special_tokens,
                         .n_special_tokens = o->n_special_tokens,
                         .min_frequency = o->min_frequency,
                         .vocab_size = t->vocab.size,
                         .exhausted = t->vocab.size < o->transition,
                         .merges = {t->merges.merges + t->first_merges, t->merges.count - t->first_merges, 0}};
    memcpy(r.words_sha256, t->words.text.sha256, sizeof r.words_sha256);
    memcpy(r.base_sha256, base_sha256(t), strlen(base_sha256(t)) + 1);
    return subwords_record_save(t->folder, &r);
}

yx_status train_subwords(trainer *t) {
    yx_status status = YX_OK;
    bool used = false;
    if (t->options.source) YX_CHECK(try_folder(t, t->folder, &used));
    YX_CHECK(try_folder(t, t->options.from, &used));
    t->report->kept_subwords = used;
    if (used) return YX_OK;
    if (t->words.words.n_words == 0) { // counted by an earlier run
        words_record_free(&t->words);
        YX_CHECK(words_record_load(t->folder, true, &t->words));
    }
    if (t->vocab.size < t->options.transition) YX_CHECK(merge_words(t));
    YX_CHECK(keep_merges(t));
fail:
    return status;
}

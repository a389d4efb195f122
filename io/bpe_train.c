#include "io/bpe_train.h"
#include "common/file.h"
#include "common/log.h"
#include "io/bpe_train_merge.h"
#include "io/bpe_train_words.h"
#include "io/tokenizer_parts.h"
#include "io/tokenizer_save.h"
#include "io/tokenizer_unicode.h"
#include <stdlib.h>
#include <string.h>

enum { BYTES = 256, DEFAULT_MIN_FREQUENCY = 2, DEFAULT_MAX_WORDS = 4, MAX_SPECIAL = 4096 };
static const char *const default_special[] = {"<|endoftext|>"};

typedef struct trainer {
    bpe_train_options options; // with the defaults filled in
    bpe_train_report *report;
    split_plan *word_plan; // first stage
    split_scratch *scratch;
    uint8_t *repaired;
    size_t repaired_capacity;
    word_counts words;
    uint8_t *texts; // all documents, for the second stage
    size_t texts_size, texts_capacity;
    size_t *ends; // of the documents in texts
    size_t ends_capacity;
    train_vocab vocab;
    merge_list merges;
    uint32_t byte_id[BYTES];
} trainer;

// --- Options ---------------------------------------------------------------------------------------------------------

static yx_status check_special(const bpe_train_options *o) {
    if (o->n_special_tokens > MAX_SPECIAL)
        return yx_fail(YX_ERR_USAGE, "more than %d special tokens are not supported", MAX_SPECIAL);
    for (int i = 0; i < o->n_special_tokens; i++) {
        const char *token = o->special_tokens[i];
        size_t size = strlen(token);
        if (size == 0) return yx_fail(YX_ERR_USAGE, "a special token is empty");
        if (unicode_valid_prefix((const uint8_t *)token, size) != size)
            return yx_fail(YX_ERR_USAGE, "special token %d is not valid UTF-8", i + 1);
        size_t length;
        unicode_decode((const uint8_t *)token, &length);
        if (length == size) return yx_fail(YX_ERR_USAGE, "the special token '%s' is a single character", token);
        for (int k = 0; k < i; k++)
            if (strcmp(token, o->special_tokens[k]) == 0)
                return yx_fail(YX_ERR_USAGE, "the special token '%s' is named twice", token);
    }
    return YX_OK;
}

static yx_status check_sizes(const bpe_train_options *o) {
    uint32_t least = BYTES + (uint32_t)o->n_special_tokens;
    if (o->vocab_size < least)
        return yx_fail(YX_ERR_USAGE, "a vocabulary of %u tokens is too small: 256 bytes and %d special tokens need %u",
                       o->vocab_size, o->n_special_tokens, least);
    if (o->vocab_size >= BPE_MAX_IDS)
        return yx_fail(YX_ERR_USAGE, "a vocabulary of %u tokens is too large: at most %d", o->vocab_size,
                       BPE_MAX_IDS - 1);
    if (o->transition > o->vocab_size)
        return yx_fail(YX_ERR_USAGE, "the transition (%u) lies above the vocabulary size (%u)", o->transition,
                       o->vocab_size);
    if (o->transition < least)
        return yx_fail(YX_ERR_USAGE, "the transition (%u) lies below the %u tokens that are always there",
                       o->transition, least);
    if (o->words == BPE_WORDS_GPT2 && o->transition < o->vocab_size)
        return yx_fail(YX_ERR_USAGE, "GPT-2's pre-tokenization keeps words apart: it has no superwords");
    if (o->min_frequency < 0 || o->max_superword_words < 0)
        return yx_fail(YX_ERR_USAGE, "a minimum frequency or number of words below 0");
    return YX_OK;
}

static yx_status set_options(trainer *t, const bpe_train_options *options) {
    bpe_train_options *o = &t->options;
    *o = *options;
    if (!o->special_tokens) o->special_tokens = default_special, o->n_special_tokens = 1;
    if (o->transition == 0) o->transition = o->vocab_size;
    if (o->min_frequency == 0) o->min_frequency = DEFAULT_MIN_FREQUENCY;
    if (o->max_superword_words == 0) o->max_superword_words = DEFAULT_MAX_WORDS;
    yx_status status = check_special(o);
    return status == YX_OK ? check_sizes(o) : status;
}

// --- Reading ---------------------------------------------------------------------------------------------------------

// Room for `more` bytes behind `size` of `*data`.
static yx_status reserve_bytes(uint8_t **data, size_t size, size_t more, size_t *capacity) {
    if (*data && size + more <= *capacity) return YX_OK;
    size_t wanted = (size + more) * 3 / 2 + 64;
    uint8_t *grown = realloc(*data, wanted);
    if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of text", wanted);
    *data = grown;
    *capacity = wanted;
    return YX_OK;
}

static yx_status repair(trainer *t, const uint8_t **text, size_t *size) {
    if (unicode_valid_prefix(*text, *size) == *size) return YX_OK;
    yx_status status = reserve_bytes(&t->repaired, 0, *size * 3, &t->repaired_capacity);
    if (status != YX_OK) return status;
    *size = unicode_repair(*text, *size, t->repaired);
    *text = t->repaired;
    return YX_OK;
}

static yx_status keep_text(trainer *t, const uint8_t *text, size_t size) {
    yx_status status = reserve_bytes(&t->texts, t->texts_size, size, &t->texts_capacity);
    if (status != YX_OK) return status;
    memcpy(t->texts + t->texts_size, text, size);
    t->texts_size += size;
    if ((size_t)t->report->documents == t->ends_capacity) {
        size_t capacity = t->ends_capacity ? t->ends_capacity * 2 : 256;
        size_t *ends = realloc(t->ends, capacity * sizeof *ends);
        if (!ends) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu documents", capacity);
        t->ends = ends;
        t->ends_capacity = capacity;
    }
    t->ends[t->report->documents] = t->texts_size;
    return YX_OK;
}

static yx_status take_document(trainer *t, const uint8_t *text, size_t size) {
    yx_status status = YX_OK;
    const split_piece *pieces;
    const uint8_t *split;
    size_t n;
    YX_CHECK(repair(t, &text, &size));
    YX_CHECK(split_run(t->word_plan, t->scratch, text, size, &split, &pieces, &n));
    for (size_t i = 0; i < n; i++)
        YX_CHECK(words_add(&t->words, split + pieces[i].begin, pieces[i].end - pieces[i].begin));
    if (t->options.transition < t->options.vocab_size) YX_CHECK(keep_text(t, text, size));
    t->report->documents++;
    t->report->bytes += (int64_t)size;
fail:
    return status;
}

static yx_status read_documents(trainer *t, bpe_documents documents) {
    for (;;) {
        const char *text = NULL;
        size_t size = 0;
        yx_status status = documents.next(documents.context, &text, &size);
        if (status != YX_OK || !text) return status;
        status = take_document(t, (const uint8_t *)text, size);
        if (status != YX_OK) return status;
    }
}

// --- First stage -----------------------------------------------------------------------------------------------------

// Special tokens first, then the bytes in the order of the characters that stand for them. A special token is entered
// as the text that its characters stand for in the alphabet, so that a merge to the same string is that token.
static yx_status start_vocab(trainer *t) {
    yx_status status = YX_OK;
    for (int i = 0; i < t->options.n_special_tokens; i++) {
        uint8_t bytes[1024];
        const char *token = t->options.special_tokens[i];
        size_t size = strlen(token), n = 0, length;
        if (size > sizeof bytes) YX_FAIL(YX_ERR_USAGE, "a special token of %zu bytes is too long", size);
        for (size_t k = 0; k < size; k += length) {
            int byte = char_to_byte(unicode_decode((const uint8_t *)token + k, &length));
            bytes[n++] = byte < 0 ? 0xff : (uint8_t)byte; // 0xff: in no text, so it equals no merge
        }
        uint32_t id;
        YX_CHECK(train_vocab_add(&t->vocab, bytes, n, &id));
        if (id != (uint32_t)i) YX_FAIL(YX_ERR_USAGE, "the special token '%s' cannot be told from another one", token);
    }
    for (uint32_t code = 0, found = 0; found < BYTES; code++) {
        int byte = char_to_byte(code);
        if (byte < 0) continue;
        YX_CHECK(train_vocab_add(&t->vocab, &(uint8_t){(uint8_t)byte}, 1, &t->byte_id[byte]));
        found++;
    }
fail:
    return status;
}

static yx_status train_subwords(trainer *t) {
    yx_status status = YX_OK;
    train_text text = {0};
    merge_limits limits = {t->options.transition, t->options.min_frequency, 0};
    int64_t *counts = malloc((t->words.n_words + 1) * sizeof *counts);
    if (!counts) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %zu words", t->words.n_words);
    YX_CHECK(train_text_reserve(&text, t->words.blob_size + t->words.n_words, true));
    for (size_t i = 0; i < t->words.n_words; i++) {
        const word_entry *word = &t->words.words[i];
        counts[i] = word->count;
        for (size_t k = 0; k <= word->size; k++) {
            text.word[text.size] = (uint32_t)i;
            text.symbol[text.size++] = k < word->size ? t->byte_id[t->words.blob[word->offset + k]] : BPE_NONE;
        }
    }
    text.count = counts;
    YX_CHECK(train_merge(&text, &limits, &t->vocab, &t->merges));
    t->report->subword_merges = (uint32_t)t->merges.count;
fail:
    train_text_free(&text);
    free(counts);
    return status;
}

// --- Second stage ----------------------------------------------------------------------------------------------------

// The tokens so far, for encoding; the special ones are no text. Borrows the vocabulary's memory.
static yx_status view_tokens(const trainer *t, token_table *tokens) {
    *tokens = (token_table){t->vocab.size, t->vocab.blob, t->vocab.offset, malloc(t->vocab.size)};
    if (!tokens->is_text) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", t->vocab.size);
    for (uint32_t id = 0; id < t->vocab.size; id++) tokens->is_text[id] = id >= (uint32_t)t->options.n_special_tokens;
    return YX_OK;
}

static yx_status encode_document(trainer *t, const bpe *b, bpe_scratch *s, const split_plan *plan,
                                 const uint8_t *document, size_t size, train_text *text) {
    yx_status status = YX_OK;
    const split_piece *pieces;
    const uint8_t *split;
    size_t n;
    YX_CHECK(split_run(plan, t->scratch, document, size, &split, &pieces, &n));
    YX_CHECK(train_text_reserve(text, size + n, false));
    YX_CHECK(bpe_reserve(s, size));
    for (size_t i = 0; i < n; i++) {
        size_t length = pieces[i].end - pieces[i].begin;
        text->size += bpe_encode(b, s, split + pieces[i].begin, length, text->symbol + text->size);
        text->symbol[text->size++] = BPE_NONE;
    }
fail:
    return status;
}

// What the second stage starts from: whole documents, cut only at digits, in the tokens of the first stage.
static yx_status encode_texts(trainer *t, train_text *text) {
    yx_status status = YX_OK;
    token_table tokens = {0};
    bpe *b = NULL;
    bpe_scratch *s = NULL;
    split_plan *plan = NULL;
    size_t begin = 0;
    YX_CHECK(view_tokens(t, &tokens));
    YX_CHECK(bpe_new(&tokens, t->merges.merges, t->merges.count, false, &b));
    YX_CHECK(bpe_scratch_new(&s));
    YX_CHECK(split_plan_new(&plan));
    YX_CHECK(split_add_digits(plan, false));
    YX_CHECK(split_add_pattern(plan, SPLIT_PATTERN_THREES, false, SPLIT_ISOLATED, false, false));
    for (int64_t i = 0; i < t->report->documents; begin = t->ends[i++])
        YX_CHECK(encode_document(t, b, s, plan, t->texts + begin, t->ends[i] - begin, text));
fail:
    split_plan_free(plan);
    bpe_scratch_free(s);
    bpe_free(b);
    free(tokens.is_text);
    return status;
}

static yx_status train_superwords(trainer *t) {
    yx_status status = YX_OK;
    train_text text = {0};
    merge_limits limits = {t->options.vocab_size, t->options.min_frequency, t->options.max_superword_words};
    YX_CHECK(encode_texts(t, &text));
    free(t->texts);
    t->texts = NULL;
    YX_CHECK(train_merge(&text, &limits, &t->vocab, &t->merges));
    t->report->superword_merges = (uint32_t)t->merges.count - t->report->subword_merges;
fail:
    train_text_free(&text);
    return status;
}

// --- The whole -------------------------------------------------------------------------------------------------------

static yx_status save(const trainer *t, const char *folder) {
    yx_status status = YX_OK;
    const bpe_train_options *o = &t->options;
    char *path = NULL;
    token_table tokens = {0};
    YX_CHECK(view_tokens(t, &tokens));
    YX_CHECK(yx_make_dirs(folder));
    YX_CHECK(yx_format(&path, "%s/tokenizer.json", folder));
    tokenizer_recipe recipe = {&tokens,           t->merges.merges,    t->merges.count,
                               o->special_tokens, o->n_special_tokens, NULL};
    if (o->words == BPE_WORDS_SUPERBPE)
        recipe.split_pattern = o->transition < o->vocab_size ? SPLIT_PATTERN_THREES : SPLIT_PATTERN_WORDS;
    YX_CHECK(tokenizer_save(&recipe, path));
fail:
    free(path);
    free(tokens.is_text);
    return status;
}

static yx_status make_word_plan(trainer *t) {
    yx_status status = YX_OK;
    bool gpt2 = t->options.words == BPE_WORDS_GPT2;
    YX_CHECK(split_scratch_new(&t->scratch));
    YX_CHECK(split_plan_new(&t->word_plan));
    if (!gpt2) YX_CHECK(split_add_digits(t->word_plan, false));
    YX_CHECK(split_add_pattern(t->word_plan, gpt2 ? SPLIT_PATTERN_GPT2 : SPLIT_PATTERN_WORDS, false, SPLIT_ISOLATED,
                               false, false));
fail:
    return status;
}

static void trainer_free(trainer *t) {
    split_plan_free(t->word_plan);
    split_scratch_free(t->scratch);
    words_free(&t->words);
    train_vocab_free(&t->vocab);
    free(t->repaired);
    free(t->texts);
    free(t->ends);
    free(t->merges.merges);
}

yx_status bpe_train(bpe_documents documents, const bpe_train_options *options, const char *folder,
                    bpe_train_report *report) {
    yx_status status = YX_OK;
    trainer t = {.report = report};
    *report = (bpe_train_report){0};
    YX_CHECK(set_options(&t, options));
    YX_CHECK(make_word_plan(&t));
    YX_CHECK(read_documents(&t, documents));
    report->distinct_words = (int64_t)t.words.n_words;
    if (report->bytes == 0) YX_FAIL(YX_ERR_DATA, "there is no text to train a tokenizer on");
    YX_CHECK(start_vocab(&t));
    YX_CHECK(train_subwords(&t));
    words_free(&t.words);
    if (t.options.transition < t.options.vocab_size) YX_CHECK(train_superwords(&t));
    report->vocab_size = t.vocab.size;
    if (report->vocab_size < t.options.vocab_size)
        yx_warn("the text gives only %u of %u tokens: no other pair occurs %lld times", report->vocab_size,
                t.options.vocab_size, (long long)t.options.min_frequency);
    YX_CHECK(save(&t, folder));
fail:
    trainer_free(&t);
    return status;
}

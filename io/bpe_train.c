#include "io/bpe_train.h"
#include "common/file.h"
#include "common/log.h"
#include "io/bpe_train_state.h"
#include "io/tokenizer_save.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// --- Counting --------------------------------------------------------------------------------------------------------

static yx_status add_words(word_counts *words, const split_plan *plan, split_scratch *scratch, const uint8_t *text,
                           size_t size) {
    const split_piece *pieces;
    const uint8_t *split;
    size_t n;
    yx_status status = split_run(plan, scratch, text, size, &split, &pieces, &n);
    for (size_t i = 0; i < n && status == YX_OK; i++)
        status = words_add(words, split + pieces[i].begin, pieces[i].end - pieces[i].begin);
    return status;
}

static yx_status add_rule(split_plan *plan, bpe_words rule) {
    bool gpt2 = rule == BPE_WORDS_GPT2;
    yx_status status = gpt2 ? YX_OK : split_add_digits(plan, false);
    if (status != YX_OK) return status;
    return split_add_pattern(plan, gpt2 ? SPLIT_PATTERN_GPT2 : SPLIT_PATTERN_WORDS, false, SPLIT_ISOLATED, false,
                             false);
}

static yx_status count_words(trainer *t) {
    yx_status status = YX_OK;
    train_reader reader = {0};
    split_plan *plan = NULL;
    split_scratch *scratch = NULL;
    YX_CHECK(split_plan_new(&plan));
    YX_CHECK(split_scratch_new(&scratch));
    YX_CHECK(add_rule(plan, t->options.words));
    YX_CHECK(train_reader_open(&reader, t->documents));
    for (;;) {
        const uint8_t *text;
        size_t size;
        YX_CHECK(train_reader_next(&reader, &text, &size));
        if (!text) break;
        YX_CHECK(add_words(&t->words.words, plan, scratch, text, size));
    }
    if (reader.seen.bytes == 0) YX_FAIL(YX_ERR_DATA, "there is no text to train a tokenizer on");
    t->words.text = reader.seen;
    t->words.rule = t->options.words;
    t->words.n_distinct = (int64_t)t->words.words.n_words;
    if (t->options.source) YX_CHECK(yx_format(&t->words.source, "%s", t->options.source));
    YX_CHECK(words_record_save(t->folder, &t->words));
fail:
    train_reader_close(&reader);
    split_scratch_free(scratch);
    split_plan_free(plan);
    return status;
}

// --- Kept counts -----------------------------------------------------------------------------------------------------

// Whether an earlier run counted this text in this folder.
static yx_status find_words(trainer *t, bool *found) {
    yx_status status = YX_OK;
    const char *source = t->options.source;
    *found = false;
    if (!source || !words_record_exists(t->folder)) return YX_OK;
    YX_CHECK(words_record_load(t->folder, false, &t->words));
    *found = t->words.source && strcmp(t->words.source, source) == 0 && t->words.rule == t->options.words;
    if (!*found) words_record_free(&t->words);
fail:
    return status;
}

// The counts of the run that is continued from go along into the new folder.
static yx_status take_words(trainer *t) {
    yx_status status = YX_OK;
    YX_CHECK(words_record_load(t->options.from, true, &t->words));
    if (strcmp(t->options.from, t->folder) != 0) YX_CHECK(words_record_save(t->folder, &t->words));
fail:
    return status;
}

static yx_status get_words(trainer *t) {
    yx_status status = YX_OK;
    bool found = false;
    if (t->options.from) {
        YX_CHECK(take_words(t));
        found = true;
    } else {
        YX_CHECK(find_words(t, &found));
        if (!found) YX_CHECK(count_words(t));
    }
    t->report->kept_words = found;
    t->report->documents = t->words.text.documents;
    t->report->bytes = t->words.text.bytes;
fail:
    return status;
}

// --- The file --------------------------------------------------------------------------------------------------------

static yx_status list_added(const trainer *t, added_token **out, size_t *n) {
    const added_set *base = t->base ? &tokenizer_get_parts(t->base)->added : NULL;
    const bpe_train_options *o = &t->options;
    *n = base ? base->count : (size_t)o->n_special_tokens;
    *out = calloc(*n + 1, sizeof **out);
    if (!*out) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu special tokens", *n);
    for (size_t i = 0; i < *n; i++)
        (*out)[i] = base ? base->tokens[i]
                         : (added_token){.id = (uint32_t)i,
                                         .content = (char *)(uintptr_t)o->special_tokens[i],
                                         .size = strlen(o->special_tokens[i]),
                                         .special = true};
    return YX_OK;
}

static yx_status save(const trainer *t) {
    yx_status status = YX_OK;
    const bpe_train_options *o = &t->options;
    char *path = NULL;
    token_table tokens = {0};
    added_token *added = NULL;
    tokenizer_recipe recipe = {.tokens = &tokens, .merges = t->merges.merges, .n_merges = t->merges.count};
    YX_CHECK(train_view_tokens(t, &tokens));
    YX_CHECK(list_added(t, &added, &recipe.n_added));
    recipe.added = added;
    YX_CHECK(yx_make_dirs(t->folder));
    YX_CHECK(yx_format(&path, "%s/tokenizer.json", t->folder));
    if (o->transition < o->vocab_size) recipe.split_pattern = SPLIT_PATTERN_THREES;
    else if (o->words == BPE_WORDS_SUPERBPE) recipe.split_pattern = SPLIT_PATTERN_WORDS;
    YX_CHECK(tokenizer_save(&recipe, path));
fail:
    free(path);
    free(added);
    free(tokens.is_text);
    return status;
}

// --- The whole -------------------------------------------------------------------------------------------------------

static yx_status begin(trainer *t, const bpe_train_options *options, subwords_record *kept) {
    yx_status status = YX_OK;
    t->options.from = options->from;
    if (options->from && !words_record_exists(options->from))
        YX_FAIL(YX_ERR_USAGE, "%s keeps no counts to continue from (training/words.bin)", options->from);
    if (options->from && subwords_record_exists(options->from)) {
        YX_CHECK(subwords_record_load(options->from, kept));
        t->kept = kept;
    }
    YX_CHECK(train_set_options(t, options));
    if (options->from) {
        YX_CHECK(words_record_load(options->from, false, &t->words));
        t->options.words = t->words.rule;
        words_record_free(&t->words);
    }
    if (options->base) YX_CHECK(train_load_base(t));
    YX_CHECK(train_start_vocab(t));
    YX_CHECK(train_check_sizes(t));
fail:
    return status;
}

static yx_status run_stages(trainer *t) {
    yx_status status = YX_OK;
    bpe_train_report *r = t->report;
    double start = now();
    YX_CHECK(get_words(t));
    r->word_seconds = now() - start;
    start = now();
    YX_CHECK(train_subwords(t));
    r->subword_seconds = now() - start;
    r->distinct_words = t->words.n_distinct;
    words_free(&t->words.words);
    r->subword_merges = (uint32_t)t->merges.count;
    if (t->options.transition < t->options.vocab_size) YX_CHECK(train_superwords(t));
    r->superword_merges = (uint32_t)t->merges.count - r->subword_merges;
    r->vocab_size = t->vocab.size;
    if (r->vocab_size < t->options.vocab_size)
        yx_warn("the text gives only %u of %u tokens: no other pair occurs %lld times", r->vocab_size,
                t->options.vocab_size, (long long)t->options.min_frequency);
fail:
    return status;
}

yx_status bpe_train(bpe_documents documents, const bpe_train_options *options, const char *folder,
                    bpe_train_report *report) {
    yx_status status = YX_OK;
    subwords_record kept = {0};
    trainer t = {.report = report, .documents = documents, .folder = folder};
    *report = (bpe_train_report){0};
    YX_CHECK(begin(&t, options, &kept));
    YX_CHECK(run_stages(&t));
    YX_CHECK(save(&t));
fail:
    words_record_free(&t.words);
    subwords_record_free(&kept);
    tokenizer_free(t.base);
    train_vocab_free(&t.vocab);
    free(t.merges.merges);
    return status;
}

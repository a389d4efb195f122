#include "io/bpe_train_state.h"
#include "io/tokenizer_unicode.h"
#include <string.h>
#include <unistd.h>

enum { DEFAULT_MIN_FREQUENCY = 2, DEFAULT_MAX_WORDS = 4, MAX_SPECIAL = 4096, MAX_THREADS = 256 };
static const char *const default_special[] = {"<|endoftext|>"};

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

yx_status train_check_sizes(const trainer *t) {
    const bpe_train_options *o = &t->options;
    uint32_t least = t->first_size;
    if (o->vocab_size < least && t->base)
        return yx_fail(YX_ERR_USAGE, "a vocabulary of %u tokens is too small: %s has %u", o->vocab_size, o->base,
                       least);
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
    if (o->transition == o->vocab_size && t->base)
        return yx_fail(YX_ERR_USAGE, "extending %s needs a transition below the vocabulary size (%u)", o->base,
                       o->vocab_size);
    if (o->transition == o->vocab_size) return YX_OK;
    if (o->words == BPE_WORDS_GPT2 && !t->base)
        return yx_fail(YX_ERR_USAGE, "GPT-2's pre-tokenization keeps words apart: it has no superwords");
    if (!t->documents.rewind)
        return yx_fail(YX_ERR_USAGE, "superwords need the text a second time: standard input cannot be read again, "
                                     "name files");
    return YX_OK;
}

// What a run that is continued from had, where nothing else is asked for.
static yx_status take_over(trainer *t) {
    bpe_train_options *o = &t->options;
    if (!t->kept) return YX_OK;
    if (t->kept->base_sha256[0])
        return yx_fail(YX_ERR_USAGE, "%s extends another tokenizer: continue from that one", o->from);
    if (!o->special_tokens) {
        o->special_tokens = (const char *const *)t->kept->special_tokens;
        o->n_special_tokens = t->kept->n_special_tokens;
    }
    if (o->min_frequency == 0) o->min_frequency = t->kept->min_frequency;
    return YX_OK;
}

yx_status train_set_options(trainer *t, const bpe_train_options *options) {
    bpe_train_options *o = &t->options;
    *o = *options;
    if (o->base && o->special_tokens)
        return yx_fail(YX_ERR_USAGE, "%s has its own special tokens: no others can be named", o->base);
    if (o->min_frequency < 0 || o->max_superword_words < 0)
        return yx_fail(YX_ERR_USAGE, "a minimum frequency or number of words below 0");
    if (o->threads < 0 || o->threads > MAX_THREADS)
        return yx_fail(YX_ERR_USAGE, "the number of threads is not between 1 and %d", MAX_THREADS);
    yx_status status = take_over(t);
    if (status != YX_OK) return status;
    if (!o->special_tokens && !o->base) o->special_tokens = default_special, o->n_special_tokens = 1;
    if (o->min_frequency == 0) o->min_frequency = DEFAULT_MIN_FREQUENCY;
    if (o->max_superword_words == 0) o->max_superword_words = DEFAULT_MAX_WORDS;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (o->threads == 0) o->threads = processors < 1 ? 1 : processors > MAX_THREADS ? MAX_THREADS : (int)processors;
    return check_special(o);
}

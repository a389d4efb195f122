#include "cli/tokenizer_measure.h"
#include "io/corpus.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) * 1e-9;
}

static yx_status measure_document(const yx_tokenizer *t, tokenizer_scratch *s, const corpus_document *d,
                                  token_measure *m) {
    const uint32_t *ids;
    size_t count;
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    yx_status status = tokenizer_encode(t, s, d->text, d->size, TOKENIZER_NO_SPECIAL, &ids, &count);
    if (status != YX_OK) return status;
    m->seconds += seconds_since(&start);
    m->documents++;
    m->tokens += (int64_t)count;
    m->bytes += (int64_t)d->size;
    for (size_t i = 0; i < d->size; i++) m->characters += (d->text[i] & 0xc0) != 0x80;
    for (size_t i = 0; i < count; i++) m->counts[ids[i]]++;
    return YX_OK;
}

yx_status token_measure_text(const yx_tokenizer *t, const char *path, token_measure *m) {
    yx_status status = YX_OK;
    corpus *c = NULL;
    tokenizer_scratch *s = NULL;
    corpus_document d;
    m->counts = calloc((size_t)tokenizer_vocab_size(t) + 1, sizeof *m->counts);
    if (!m->counts) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %u counts", tokenizer_vocab_size(t));
    YX_CHECK(tokenizer_scratch_new(t, &s));
    YX_CHECK(corpus_open(&path, 1, NULL, &c));
    for (;;) {
        YX_CHECK(corpus_next(c, &d));
        if (!d.text) break;
        YX_CHECK(measure_document(t, s, &d, m));
    }
    if (m->tokens == 0) YX_FAIL(YX_ERR_DATA, "%s has no text", path);
    for (uint32_t id = 0; id < tokenizer_vocab_size(t); id++)
        if (tokenizer_is_superword(t, id)) m->superwords += m->counts[id];
fail:
    corpus_close(c);
    tokenizer_scratch_free(s);
    return status;
}

void token_measure_free(token_measure *m) {
    free(m->counts);
    *m = (token_measure){0};
}

size_t token_measure_top(const yx_tokenizer *t, const token_measure *m, size_t n, uint32_t *ids) {
    size_t found = 0;
    for (uint32_t id = 0; id < tokenizer_vocab_size(t) && n > 0; id++) {
        if (m->counts[id] == 0 || !tokenizer_is_superword(t, id)) continue;
        if (found == n && m->counts[ids[n - 1]] >= m->counts[id]) continue;
        size_t place = found < n ? found++ : n - 1;
        for (; place > 0 && m->counts[ids[place - 1]] < m->counts[id]; place--) ids[place] = ids[place - 1];
        ids[place] = id;
    }
    return found;
}

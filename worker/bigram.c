#include "worker/bigram.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 32, EM_ROUNDS = 20, CHUNK = 1 << 16 };

typedef struct counts {
    uint64_t *keys; // open addressing: (v << 32 | w) + 1, 0 is free
    uint32_t *values;
    size_t mask, used;
    int64_t *unigram; // [vocab] as the word predicted
    int64_t *context; // [vocab] as the word before
    int64_t total;
    uint32_t vocab;
    double lambda[BUCKETS];
} counts;

static size_t slot_of(const counts *c, uint64_t key) {
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15ull >> 20) & c->mask;
    while (c->keys[i] && c->keys[i] != key) i = (i + 1) & c->mask;
    return i;
}

static yx_status grow(counts *c) {
    counts bigger = *c;
    size_t capacity = c->keys ? 2 * (c->mask + 1) : 1 << 16;
    bigger.mask = capacity - 1;
    bigger.keys = calloc(capacity, sizeof *bigger.keys);
    bigger.values = calloc(capacity, sizeof *bigger.values);
    if (!bigger.keys || !bigger.values) {
        free(bigger.keys);
        free(bigger.values);
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu token pairs", capacity);
    }
    for (size_t i = 0; c->keys && i <= c->mask; i++) {
        if (!c->keys[i]) continue;
        size_t at = slot_of(&bigger, c->keys[i]);
        bigger.keys[at] = c->keys[i];
        bigger.values[at] = c->values[i];
    }
    free(c->keys);
    free(c->values);
    *c = bigger;
    return YX_OK;
}

static uint64_t pair_key(uint32_t v, uint32_t w) { return ((uint64_t)v << 32 | w) + 1; }

typedef yx_status (*pair_function)(void *context, uint32_t v, uint32_t w);

// Calls `function` for each neighbouring pair whose second token lies in [begin, end).
static yx_status each_pair(const dataset *data, int64_t begin, int64_t end, pair_function function, void *context) {
    yx_status status = YX_OK;
    uint32_t *tokens = malloc((CHUNK + 1) * sizeof *tokens);
    if (!tokens) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    for (int64_t at = begin < 1 ? 1 : begin; at < end;) {
        int64_t n = end - at < CHUNK ? end - at : CHUNK;
        YX_CHECK(dataset_read(data, at - 1, n + 1, tokens));
        for (int64_t i = 0; i < n; i++) YX_CHECK(function(context, tokens[i], tokens[i + 1]));
        at += n;
    }
fail:
    free(tokens);
    return status;
}

static yx_status count_pair(void *context, uint32_t v, uint32_t w) {
    counts *c = context;
    if (4 * c->used >= 3 * (c->mask + 1)) {
        yx_status status = grow(c);
        if (status != YX_OK) return status;
    }
    size_t at = slot_of(c, pair_key(v, w));
    if (!c->keys[at]) {
        c->keys[at] = pair_key(v, w);
        c->used++;
    }
    c->values[at]++;
    c->unigram[w]++;
    c->context[v]++;
    c->total++;
    return YX_OK;
}

static double unigram(const counts *c, uint32_t w) { // add-one: no word is impossible
    return ((double)c->unigram[w] + 1) / ((double)c->total + (double)c->vocab);
}

static double conditional(const counts *c, uint32_t v, uint32_t w) {
    size_t at = slot_of(c, pair_key(v, w));
    return c->keys[at] ? (double)c->values[at] / (double)c->context[v] : 0;
}

static int bucket(const counts *c, uint32_t v) {
    int b = 0;
    for (int64_t n = c->context[v]; n > 0 && b + 1 < BUCKETS; n >>= 1) b++;
    return b;
}

typedef struct tuning {
    const counts *c;
    double share[BUCKETS], seen[BUCKETS];
} tuning;

// Expectation step: how much of each held-out pair the bigram explains.
static yx_status tune_pair(void *context, uint32_t v, uint32_t w) {
    tuning *t = context;
    int b = bucket(t->c, v);
    double from_pair = t->c->lambda[b] * conditional(t->c, v, w), from_word = (1 - t->c->lambda[b]) * unigram(t->c, w);
    t->share[b] += from_pair / (from_pair + from_word);
    t->seen[b] += 1;
    return YX_OK;
}

static yx_status tune(counts *c, const dataset *data, int64_t begin, int64_t end) {
    for (int b = 0; b < BUCKETS; b++) c->lambda[b] = b == 0 ? 0 : 0.5;
    for (int round = 0; round < EM_ROUNDS; round++) {
        tuning t = {.c = c};
        yx_status status = each_pair(data, begin, end, tune_pair, &t);
        if (status != YX_OK) return status;
        for (int b = 1; b < BUCKETS; b++)
            if (t.seen[b] > 0) c->lambda[b] = t.share[b] / t.seen[b];
    }
    return YX_OK;
}

typedef struct scoring {
    const counts *c;
    uint32_t eot;
    double nats, unigram_nats;
} scoring;

static yx_status score_pair(void *context, uint32_t v, uint32_t w) {
    scoring *s = context;
    if (w == s->eot) return YX_OK;
    double p = unigram(s->c, w), lambda = s->c->lambda[bucket(s->c, v)];
    s->unigram_nats -= log(p);
    s->nats -= log(lambda * conditional(s->c, v, w) + (1 - lambda) * p);
    return YX_OK;
}

yx_status bigram_run(const dataset *train, const dataset *validation, bigram_result *out) {
    yx_status status = YX_OK;
    const dataset_info *t = dataset_get_info(train), *v = dataset_get_info(validation);
    counts c = {.vocab = t->vocab_size};
    int64_t split = t->num_tokens - t->num_tokens / 20;
    c.unigram = calloc(c.vocab, sizeof *c.unigram);
    c.context = calloc(c.vocab, sizeof *c.context);
    if (!c.unigram || !c.context) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the unigram counts");
    YX_CHECK(grow(&c));
    YX_CHECK(each_pair(train, 1, split, count_pair, &c));
    YX_CHECK(tune(&c, train, split, t->num_tokens));
    scoring s = {.c = &c, .eot = v->eot_id};
    YX_CHECK(each_pair(validation, 1, v->num_tokens, score_pair, &s));
    double bytes = (double)v->num_bytes * log(2.0);
    *out = (bigram_result){s.nats / bytes, s.unigram_nats / bytes, (int64_t)c.used, t->num_tokens - split};
fail:
    free(c.keys);
    free(c.values);
    free(c.unigram);
    free(c.context);
    return status;
}

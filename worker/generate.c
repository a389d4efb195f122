#include "worker/generate.h"
#include "common/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    double probability;
    uint32_t token;
} candidate;

static int more_likely(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->probability != y->probability) return x->probability < y->probability ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

static uint32_t most_likely(const yx_real *logits, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (uint32_t)best;
}

// Nucleus sampling (Holtzman et al. 2020): the smallest set of most likely tokens that holds top_p of the probability.
static uint32_t draw(candidate *c, int64_t n, double total, const generate_options *o, uint64_t index) {
    double kept = total;
    if (o->top_p < 1) {
        qsort(c, (size_t)n, sizeof *c, more_likely);
        int64_t count = 0;
        for (kept = 0; count < n && (count == 0 || kept < o->top_p * total); count++) kept += c[count].probability;
        n = count;
    }
    double point = yx_uniform(o->seed, 0, index) * kept;
    for (int64_t i = 0; i < n; i++) {
        point -= c[i].probability;
        if (point < 0) return c[i].token;
    }
    return c[n - 1].token; // rounding left a remainder
}

uint32_t generate_sample(const yx_real *logits, int64_t n, const generate_options *o, uint64_t index) {
    uint32_t best = most_likely(logits, n);
    if (o->temperature <= 0) return best;
    candidate *c = malloc((size_t)n * sizeof *c);
    if (!c) return best; // the most likely token is a valid draw
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        c[i] = (candidate){exp(((double)logits[i] - (double)logits[best]) / o->temperature), (uint32_t)i};
        total += c[i].probability;
    }
    uint32_t token = draw(c, n, total, o, index);
    free(c);
    return token;
}

typedef struct buffers {
    int32_t *host;                   // [3, rows]
    int32_t *device;                 // [3, rows]
    yx_real *logits_device, *logits; // [padded vocab]
} buffers;

// Logits of what follows ids[0, count).
static yx_status next_logits(yx_model *m, buffers *b, const uint32_t *ids, int64_t count) {
    yx_status status = YX_OK;
    int64_t rows = (count + 127) / 128 * 128;
    for (int64_t i = 0; i < rows; i++) {
        b->host[i] = i < count ? (int32_t)ids[i] : 0;
        b->host[rows + i] = -1;
        b->host[2 * rows + i] = i < count ? 0 : (int32_t)i;
    }
    YX_CHECK(m->ops->copy(m->device, NULL, b->device, b->host, (size_t)(3 * rows) * sizeof(int32_t)));
    model_batch batch = {rows, b->device, b->device + rows, b->device + 2 * rows};
    YX_CHECK(model_run(m, &batch, MODEL_EVALUATE, 0, NULL));
    YX_CHECK(model_logits(m, count - 1, 1, b->logits_device));
    YX_CHECK(
        m->ops->copy(m->device, NULL, b->logits, b->logits_device, (size_t)model_padded_vocab(m) * sizeof(yx_real)));
    YX_CHECK(m->ops->stream_sync(m->device, NULL));
fail:
    return status;
}

static yx_status take_buffers(yx_model *m, buffers *b) {
    yx_status status = YX_OK;
    size_t vocab = (size_t)model_padded_vocab(m) * sizeof(yx_real), rows = (size_t)(3 * m->max_rows) * sizeof(int32_t);
    b->host = malloc(rows);
    b->logits = malloc(vocab);
    if (!b->host || !b->logits) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to generate");
    YX_CHECK(m->ops->alloc(m->device, rows, (void **)&b->device));
    YX_CHECK(m->ops->alloc(m->device, vocab, (void **)&b->logits_device));
fail:
    return status;
}

yx_status generate_run(yx_model *m, const uint32_t *prompt, size_t count, const generate_options *o, generate_sink sink,
                       void *sink_context) {
    yx_status status = YX_OK;
    buffers b = {0};
    int64_t longest = m->config.max_position_embeddings < m->max_rows ? m->config.max_position_embeddings : m->max_rows;
    int64_t length = (int64_t)count;
    uint32_t *ids = malloc((count + (size_t)o->max_tokens) * sizeof *ids);
    if (!ids) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %zu tokens", count + (size_t)o->max_tokens);
    if (count == 0) YX_FAIL(YX_ERR_INTERNAL, "generation needs a token to start from");
    memcpy(ids, prompt, count * sizeof *ids);
    YX_CHECK(take_buffers(m, &b));
    for (int64_t i = 0; i < o->max_tokens; i++) {
        int64_t window = length < longest ? length : longest;
        YX_CHECK(next_logits(m, &b, ids + length - window, window));
        uint32_t token = generate_sample(b.logits, m->config.vocab_size, o, (uint64_t)i);
        if ((int64_t)token == o->stop_token) break;
        ids[length++] = token;
        YX_CHECK(sink(sink_context, token));
    }
fail:
    free(ids);
    free(b.host);
    free(b.logits);
    m->ops->free(m->device, b.device);
    m->ops->free(m->device, b.logits_device);
    return status;
}

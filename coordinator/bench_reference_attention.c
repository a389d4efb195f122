#include "coordinator/bench_reference.h"
#include <math.h>
#include <stdlib.h>

// --- Rotary positions
void reference_rope(const reference_heads *s, bool inverse, const double *table, double *qkv) {
    int64_t half = s->head_dim / 2, rotated = s->heads + s->kv_heads;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < s->rows; i++)
        for (int64_t at = 0; at < rotated * half; at++) {
            int64_t j = at % half;
            double *x = qkv + i * reference_width(s) + at / half * s->head_dim + j, first = x[0], second = x[half];
            const double *angle = table + ((i - s->seq_start[i]) * half + j) * 2;
            double sine = inverse ? -angle[1] : angle[1];
            x[0] = first * angle[0] - second * sine;
            x[half] = second * angle[0] + first * sine;
        }
}

// --- Attention
static const double *query_of(const reference_heads *s, const double *qkv, int64_t i, int64_t head) {
    return qkv + i * reference_width(s) + head * s->head_dim;
}
static const double *key_of(const reference_heads *s, const double *qkv, int64_t j, int64_t kv) {
    return qkv + j * reference_width(s) + (s->heads + kv) * s->head_dim;
}
static const double *value_of(const reference_heads *s, const double *qkv, int64_t j, int64_t kv) {
    return key_of(s, qkv, j, kv) + s->kv_heads * s->head_dim;
}
static int64_t kv_of(const reference_heads *s, int64_t head) { return head / (s->heads / s->kv_heads); }

static double dot(int64_t n, const double *x, const double *y) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}
static double score(const reference_heads *s, const double *qkv, int64_t i, int64_t head, int64_t j) {
    return s->scale * dot(s->head_dim, query_of(s, qkv, i, head), key_of(s, qkv, j, kv_of(s, head)));
}

static void attend(const reference_heads *s, const double *qkv, int64_t i, int64_t head, double *o, double *lse) {
    double top = -INFINITY, sum = 0;
    for (int64_t j = s->seq_start[i]; j <= i; j++) top = fmax(top, score(s, qkv, i, head, j));
    for (int64_t j = s->seq_start[i]; j <= i; j++) sum += exp(score(s, qkv, i, head, j) - top);
    *lse = top + log(sum);
    for (int64_t c = 0; c < s->head_dim; c++) o[c] = 0;
    for (int64_t j = s->seq_start[i]; j <= i; j++) {
        double p = exp(score(s, qkv, i, head, j) - *lse);
        const double *v = value_of(s, qkv, j, kv_of(s, head));
        for (int64_t c = 0; c < s->head_dim; c++) o[c] += p * v[c];
    }
}

void reference_attention(const reference_heads *s, const double *qkv, double *o, double *lse) {
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t at = 0; at < s->rows * s->heads; at++) {
        int64_t i = at / s->heads, head = at % s->heads;
        attend(s, qkv, i, head, o + at * s->head_dim, lse + head * s->rows + i);
    }
}

// --- Its derivatives
typedef struct gradients {
    const reference_heads *s;
    const double *qkv, *o, *d_o, *lse;
    double *dqkv;
} gradients;

// p of query i and key j, and the derivative of the loss by their score.
static double score_gradient(const gradients *g, int64_t i, int64_t head, int64_t j, double *p) {
    const reference_heads *s = g->s;
    const double *d_o = g->d_o + (i * s->heads + head) * s->head_dim, *o = g->o + (i * s->heads + head) * s->head_dim;
    *p = exp(score(s, g->qkv, i, head, j) - g->lse[head * s->rows + i]);
    return *p * (dot(s->head_dim, d_o, value_of(s, g->qkv, j, kv_of(s, head))) - dot(s->head_dim, d_o, o));
}

static void query_gradient(const gradients *g, int64_t i, int64_t head) {
    const reference_heads *s = g->s;
    double p, *dq = g->dqkv + i * reference_width(s) + head * s->head_dim;
    for (int64_t c = 0; c < s->head_dim; c++) dq[c] = 0;
    for (int64_t j = s->seq_start[i]; j <= i; j++) {
        double ds = s->scale * score_gradient(g, i, head, j, &p);
        const double *k = key_of(s, g->qkv, j, kv_of(s, head));
        for (int64_t c = 0; c < s->head_dim; c++) dq[c] += ds * k[c];
    }
}

static void key_gradient(const gradients *g, int64_t j, int64_t kv) {
    const reference_heads *s = g->s;
    int64_t group = s->heads / s->kv_heads;
    double p, *dk = g->dqkv + j * reference_width(s) + (s->heads + kv) * s->head_dim;
    double *dv = dk + s->kv_heads * s->head_dim;
    for (int64_t c = 0; c < s->head_dim; c++) dk[c] = dv[c] = 0;
    for (int64_t i = j; i < s->rows && s->seq_start[i] <= j; i++)
        for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
            double ds = s->scale * score_gradient(g, i, head, j, &p);
            const double *q = query_of(s, g->qkv, i, head), *d_o = g->d_o + (i * s->heads + head) * s->head_dim;
            for (int64_t c = 0; c < s->head_dim; c++) dk[c] += ds * q[c], dv[c] += p * d_o[c];
        }
}

void reference_attention_backward(const reference_heads *s, const double *qkv, const double *o, const double *d_o,
                                  const double *lse, double *dqkv) {
    gradients g = {s, qkv, o, d_o, lse, dqkv};
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 16) nowait
        for (int64_t at = 0; at < s->rows * s->heads; at++) query_gradient(&g, at / s->heads, at % s->heads);
#pragma omp for schedule(dynamic, 4)
        for (int64_t at = 0; at < s->rows * s->kv_heads; at++) key_gradient(&g, at / s->kv_heads, at % s->kv_heads);
    }
}

// Attention and its gradients by the definition, in float64, one query of one head at a time.
#pragma once

typedef struct shape {
    int64_t rows, heads, kv_heads, head_dim;
    yx_dtype act;
    int32_t *seq_start;
} shape;
static int64_t width(const shape *s) { return (s->heads + 2 * s->kv_heads) * s->head_dim; }

// The definition, one query of one head at a time: o, lse, and the gradients for d_o.
typedef struct reference {
    double *qkv, *o, *lse, *d_o, *dqkv;
} reference;

static void attend(const shape *s, const reference *r, double scale, int64_t head, int64_t i, double *p, double *dp) {
    int64_t kv = head / (s->heads / s->kv_heads), hd = s->head_dim, first = s->seq_start[i];
    const double *q = r->qkv + i * width(s) + head * hd, *d_o = r->d_o + (i * s->heads + head) * hd;
    double sum = 0, mean = 0, *o = r->o + (i * s->heads + head) * hd, *dq = r->dqkv + i * width(s) + head * hd;
    for (int64_t j = first; j <= i; j++) {
        const double *k = r->qkv + j * width(s) + (s->heads + kv) * hd;
        double score = 0;
        for (int64_t c = 0; c < hd; c++) score += q[c] * k[c];
        sum += p[j] = exp(scale * score);
    }
    r->lse[head * s->rows + i] = log(sum);
    for (int64_t j = first; j <= i; j++) {
        const double *v = r->qkv + j * width(s) + (s->heads + s->kv_heads + kv) * hd;
        p[j] /= sum;
        dp[j] = 0;
        for (int64_t c = 0; c < hd; c++) o[c] += p[j] * v[c], dp[j] += d_o[c] * v[c];
        mean += p[j] * dp[j];
    }
    for (int64_t j = first; j <= i; j++) {
        const double *k = r->qkv + j * width(s) + (s->heads + kv) * hd;
        double ds = scale * p[j] * (dp[j] - mean), *dk = r->dqkv + j * width(s) + (s->heads + kv) * hd;
        double *dv = dk + s->kv_heads * hd;
        for (int64_t c = 0; c < hd; c++) dq[c] += ds * k[c], dk[c] += ds * q[c], dv[c] += p[j] * d_o[c];
    }
}

static reference take_reference(const shape *s, double scale, const void *qkv, const void *d_o) {
    int64_t n = s->rows * s->heads * s->head_dim;
    reference r = {take_values(s->act, qkv, s->rows * width(s)), take_doubles(n), take_doubles(s->heads * s->rows),
                   take_values(s->act, d_o, n), take_doubles(s->rows * width(s))};
    int64_t group = s->heads / s->kv_heads;
    double *p = take_doubles(s->kv_heads * s->rows), *dp = take_doubles(s->kv_heads * s->rows);
#pragma omp parallel for
    for (int64_t kv = 0; kv < s->kv_heads; kv++) // heads of one key/value head add to the same rows
        for (int64_t head = kv * group; head < (kv + 1) * group; head++)
            for (int64_t i = 0; i < s->rows; i++) attend(s, &r, scale, head, i, p + kv * s->rows, dp + kv * s->rows);
    return r;
}

static int32_t *take_equal(int64_t rows, int64_t length) {
    int32_t *start = take((size_t)rows * sizeof *start);
    for (int64_t i = 0; i < rows; i++) start[i] = (int32_t)(i / length * length);
    return start;
}

// The head in double, against the matrix of logits: for the tests of both backends. Include the fixture before it.
#pragma once

typedef struct head_reference {
    double *loss, *lse, *dz, *dE, total;
} head_reference;

static inline double head_dot(const double *x, const double *y, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

// Token i: its loss, lse and dz. p: [vocab], scratch.
static inline void head_reference_token(const yx_head_args *a, const double *z, const double *E, double *p, int64_t i,
                                        const head_reference *r) {
    double top = -INFINITY, sum = 0, *dz = r->dz + i * a->rank;
    for (int64_t v = 0; v < a->vocab; v++) {
        p[v] = head_dot(z + i * a->rank, E + v * a->rank, a->rank);
        top = fmax(top, p[v]);
    }
    for (int64_t v = 0; v < a->vocab; v++) sum += exp(p[v] - top);
    r->lse[i] = top + log(sum);
    r->loss[i] = r->lse[i] - p[a->target[i]];
    for (int64_t v = 0; v < a->vocab; v++) {
        double d = a->grad_scale * (exp(p[v] - r->lse[i]) - (v == a->target[i] ? 1 : 0));
        for (int64_t c = 0; c < a->rank; c++) dz[c] += d * E[v * a->rank + c];
    }
}

// Adds the gradient of word v, whose row is `word`, to its row of dE; lse of the tokens as given.
static inline void head_reference_word(const yx_head_args *a, const double *z, const double *word, int64_t v,
                                       const double *lse, double *dE) {
    for (int64_t i = 0; i < a->rows; i++) {
        if (a->target[i] < 0) continue;
        double logit = head_dot(z + i * a->rank, word, a->rank);
        double d = a->grad_scale * (exp(logit - lse[i]) - (v == a->target[i] ? 1 : 0));
        for (int64_t c = 0; c < a->rank; c++) dE[c] += d * z[i * a->rank + c];
    }
}

// The embeddings' values.
static inline double *head_reference_words(const yx_head_args *a) {
    double *E = take_values(a->E.dtype, a->E.row, a->vocab * a->rank);
    for (int64_t i = 0; a->E.quant.scale_inv && i < a->vocab * a->rank; i++) E[i] *= (double)*a->E.quant.scale_inv;
    return E;
}

// dE holds what it starts with.
static inline head_reference take_head_reference(const yx_head_args *a, double *dE) {
    head_reference r = {take_doubles(a->rows), take_doubles(a->rows), take_doubles(a->rows * a->rank), dE, 0};
    double *z = take_values(a->act, a->z, a->rows * a->rank), *E = head_reference_words(a);
#pragma omp parallel num_threads(omp_get_num_procs())
    {
        double *p = malloc((size_t)a->vocab * sizeof *p);
#pragma omp for
        for (int64_t i = 0; i < a->rows; i++)
            if (a->target[i] >= 0) head_reference_token(a, z, E, p, i, &r);
        free(p);
#pragma omp for
        for (int64_t v = 0; v < a->vocab; v++) head_reference_word(a, z, E + v * a->rank, v, r.lse, dE + v * a->rank);
    }
    for (int64_t i = 0; i < a->rows; i++) r.total += r.loss[i];
    return r;
}

#include "coordinator/bench_reference.h"
#include <math.h>
#include <string.h>

// --- Products
static double dot(int64_t n, const double *x, const double *y) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}
static void add_scaled(int64_t n, double factor, const double *restrict x, double *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] += factor * x[i];
}

void reference_matmul(yx_matmul_form form, int64_t M, int64_t N, int64_t K, const double *a, const double *b,
                      double *out) {
    int64_t outer = form == YX_MATMUL_DW ? N : M;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < outer; i++) {
        if (form == YX_MATMUL_Y)
            for (int64_t n = 0; n < N; n++) out[i * N + n] += dot(K, a + i * K, b + n * K);
        if (form == YX_MATMUL_DX)
            for (int64_t n = 0; n < N; n++) add_scaled(K, a[i * N + n], b + n * K, out + i * K);
        if (form == YX_MATMUL_DW)
            for (int64_t m = 0; m < M; m++) add_scaled(K, a[m * N + i], b + m * K, out + i * K);
    }
}

// --- Rows
void reference_norm(int64_t rows, int64_t cols, double eps, const double *s, const double *gamma, double *rstd,
                    double *y) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        rstd[i] = 1 / sqrt(dot(cols, s + i * cols, s + i * cols) / (double)cols + eps);
        for (int64_t j = 0; j < cols; j++) y[i * cols + j] = gamma[j] * s[i * cols + j] * rstd[i];
    }
}

void reference_norm_backward(int64_t rows, int64_t cols, const double *dy, const double *s, const double *rstd,
                             const double *gamma, double *dx, double *dgamma) {
    for (int64_t i = 0; i < rows; i++) {
        const double *g = dy + i * cols, *x = s + i * cols;
        double mean = 0;
        for (int64_t j = 0; j < cols; j++) mean += gamma[j] * g[j] * x[j] * rstd[i] / (double)cols;
        for (int64_t j = 0; j < cols; j++) {
            double normalised = x[j] * rstd[i];
            dx[i * cols + j] += rstd[i] * (gamma[j] * g[j] - normalised * mean);
            dgamma[j] += g[j] * normalised;
        }
    }
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

void reference_swiglu(int64_t rows, int64_t cols, const double *gate_up, double *h) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            double gate = gate_up[i * 2 * cols + j], up = gate_up[i * 2 * cols + cols + j];
            h[i * cols + j] = gate * sigmoid(gate) * up;
        }
}

void reference_swiglu_backward(int64_t rows, int64_t cols, const double *gate_up, const double *dh, double *dgate_up) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            int64_t at = i * 2 * cols + j;
            double gate = gate_up[at], up = gate_up[at + cols], d = dh[i * cols + j], s = sigmoid(gate);
            dgate_up[at] = d * up * (s + gate * s * (1 - s));
            dgate_up[at + cols] = d * gate * s;
        }
}

// --- Embedding
void reference_embed(int64_t rows, int64_t rank, const int32_t *token, const double *E, double *z) {
    for (int64_t i = 0; i < rows; i++) memcpy(z + i * rank, E + token[i] * rank, (size_t)rank * sizeof *z);
}

void reference_embed_backward(int64_t rows, int64_t rank, const int32_t *token, const double *dz, double *dE) {
    for (int64_t i = 0; i < rows; i++) add_scaled(rank, 1, dz + i * rank, dE + token[i] * rank);
}

// --- Head
void reference_head(const reference_words *w, double *lse, double *loss, double *dz) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < w->rows; i++) {
        const double *z = w->z + i * w->rank;
        double top = -INFINITY, sum = 0;
        lse[i] = loss[i] = 0;
        if (w->target[i] < 0) continue;
        for (int64_t v = 0; v < w->vocab; v++) {
            double logit = dot(w->rank, z, w->E + v * w->rank), old = top;
            if (logit > top) top = logit;
            sum = sum * exp(old - top) + exp(logit - top);
        }
        lse[i] = top + log(sum);
        loss[i] = lse[i] - dot(w->rank, z, w->E + w->target[i] * w->rank);
        if (!dz) continue;
        for (int64_t v = 0; v < w->vocab; v++) {
            double p = exp(dot(w->rank, z, w->E + v * w->rank) - lse[i]) - (v == w->target[i]);
            add_scaled(w->rank, w->grad_scale * p, w->E + v * w->rank, dz + i * w->rank);
        }
    }
}

void reference_head_backward(const reference_words *w, const double *lse, double *dE) {
#pragma omp parallel for schedule(static)
    for (int64_t v = 0; v < w->vocab; v++)
        for (int64_t i = 0; i < w->rows; i++) {
            if (w->target[i] < 0) continue;
            const double *z = w->z + i * w->rank;
            double p = exp(dot(w->rank, z, w->E + v * w->rank) - lse[i]) - (v == w->target[i]);
            add_scaled(w->rank, w->grad_scale * p, z, dE + v * w->rank);
        }
}

// --- Optimizer
void reference_adamw(const yx_step_scalars *s, bool decay, int64_t n, double *param, double *moment1, double *moment2,
                     const double *grad) {
    for (int64_t i = 0; i < n; i++) {
        double g = grad[i] * s->clip_coefficient;
        moment1[i] = s->beta1 * moment1[i] + (1 - s->beta1) * g;
        moment2[i] = s->beta2 * moment2[i] + (1 - s->beta2) * g * g;
        double step = moment1[i] / s->bias_correction1 / (sqrt(moment2[i] / s->bias_correction2) + s->eps);
        param[i] -= s->lr * (step + (decay ? s->weight_decay * param[i] : 0));
    }
}

double reference_sum_squares(int64_t n, const double *x) { return dot(n, x, x); }

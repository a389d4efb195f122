// What `bench kernels` compares with: every backward reference against central differences of its forward one, the
// others against their definition; and that its measure of error sees errors.
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/rng.h"
#include "coordinator/bench_kernels_error.h"
#include "coordinator/bench_reference.h"

enum { MOST = 4096 };

static void fill(double *x, int64_t n, uint64_t key) {
    for (int64_t i = 0; i < n; i++) x[i] = yx_normal(5, key, (uint64_t)i);
}

#define ASSERT_NEAR(a, b, bound)                                                                                       \
    do {                                                                                                               \
        double left = (a), right = (b);                                                                                \
        if (!(fabs(left - right) <= (bound))) fail_msg("%s = %.12g, %s = %.12g", #a, left, #b, right);                 \
    } while (0)

// --- Derivatives
// gradient[i] is the derivative of loss() by x[i].
static void check_gradient(double (*loss)(void), double *x, int64_t n, const double *gradient) {
    const double step = 1e-5;
    for (int64_t i = 0; i < n; i++) {
        double at = x[i];
        x[i] = at + step;
        double above = loss();
        x[i] = at - step;
        double below = loss();
        x[i] = at;
        ASSERT_NEAR((above - below) / (2 * step), gradient[i], 1e-7 + 1e-6 * fabs(gradient[i]));
    }
}

static double weighted(const double *weights, const double *values, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += weights[i] * values[i];
    return sum;
}

enum { ROWS = 7, COLS = 6 };
static double x[MOST], gamma_[COLS], weights[MOST], out[MOST], extra[MOST];

static double norm_loss(void) {
    reference_norm(ROWS, COLS, 1e-3, x, gamma_, extra, out);
    return weighted(weights, out, ROWS * COLS);
}

static void norm(void **state) {
    (void)state;
    double rstd[ROWS], dx[ROWS * COLS], dgamma[COLS];
    fill(x, ROWS * COLS, 1), fill(gamma_, COLS, 2), fill(weights, ROWS * COLS, 3);
    fill(dx, ROWS * COLS, 4), fill(dgamma, COLS, 5); // both are added to
    norm_loss();
    memcpy(rstd, extra, sizeof rstd);
    reference_norm_backward(ROWS, COLS, weights, x, rstd, gamma_, dx, dgamma);
    double before[ROWS * COLS];
    fill(before, ROWS * COLS, 4);
    for (int i = 0; i < ROWS * COLS; i++) dx[i] -= before[i];
    fill(before, COLS, 5);
    for (int i = 0; i < COLS; i++) dgamma[i] -= before[i];
    check_gradient(norm_loss, x, ROWS * COLS, dx);
    check_gradient(norm_loss, gamma_, COLS, dgamma);
    double squares = 0;
    norm_loss();
    for (int i = 0; i < COLS; i++) squares += x[i] * x[i];
    ASSERT_NEAR(out[0], gamma_[0] * x[0] / sqrt(squares / COLS + 1e-3), 1e-12);
}

static double swiglu_loss(void) {
    reference_swiglu(ROWS, COLS, x, out);
    return weighted(weights, out, ROWS * COLS);
}

static void swiglu(void **state) {
    (void)state;
    double dx[2 * ROWS * COLS];
    fill(x, 2 * ROWS * COLS, 1), fill(weights, ROWS * COLS, 2);
    reference_swiglu_backward(ROWS, COLS, x, weights, dx);
    check_gradient(swiglu_loss, x, 2 * ROWS * COLS, dx);
    swiglu_loss();
    ASSERT_NEAR(out[COLS], x[2 * COLS] / (1 + exp(-x[2 * COLS])) * x[3 * COLS], 1e-12); // row 1, column 0
}

// Two sequences and a row by itself; two query heads for each of two key/value heads.
static const int32_t starts[] = {0, 0, 0, 3, 3, 3, 6};
static const reference_heads heads = {ROWS, 4, 2, 4, 0.5, starts};

static double attention_loss(void) {
    reference_attention(&heads, x, out, extra);
    return weighted(weights, out, ROWS * 16);
}

static void attention(void **state) {
    (void)state;
    enum { WIDTH = 32 };
    double dqkv[ROWS * WIDTH];
    fill(x, ROWS * WIDTH, 1), fill(weights, ROWS * 16, 2);
    attention_loss();
    reference_attention_backward(&heads, x, out, weights, extra, dqkv);
    check_gradient(attention_loss, x, ROWS * WIDTH, dqkv);
    attention_loss();
    // Row 6 sees itself only: head 3 gets the second value head, and lse is the score.
    for (int c = 0; c < 4; c++) ASSERT_NEAR(out[6 * 16 + 12 + c], x[6 * WIDTH + 28 + c], 1e-12);
    ASSERT_NEAR(extra[3 * ROWS + 6], 0.5 * weighted(x + 6 * WIDTH + 12, x + 6 * WIDTH + 20, 4), 1e-12);
}

enum { RANK = 5, VOCAB = 11 };
static const int32_t targets[] = {3, -1, 0, 10, 3, 7, 2};
static double E[VOCAB * RANK];
static const reference_words words = {ROWS, RANK, VOCAB, 0.25, targets, x, E};

static double head_loss(void) {
    double sum = 0;
    reference_head(&words, extra, out, NULL);
    for (int i = 0; i < ROWS; i++) sum += words.grad_scale * out[i];
    return sum;
}

static void head(void **state) {
    (void)state;
    double dz[ROWS * RANK] = {0}, dE[VOCAB * RANK] = {0}, all = 0;
    fill(x, ROWS * RANK, 1), fill(E, VOCAB * RANK, 2);
    reference_head(&words, extra, out, dz);
    reference_head_backward(&words, extra, dE);
    check_gradient(head_loss, x, ROWS * RANK, dz);
    check_gradient(head_loss, E, VOCAB * RANK, dE);
    head_loss();
    for (int v = 0; v < VOCAB; v++) all += exp(weighted(x, E + v * RANK, RANK));
    ASSERT_NEAR(out[0], log(all) - weighted(x, E + 3 * RANK, RANK), 1e-12);
    assert_true(out[1] == 0);
}

// --- Definitions
static void matmul(void **state) {
    (void)state;
    enum { M = 3, N = 4, K = 5 };
    double a[M * K], b[N * K], dy[M * N], y[M * N] = {0}, dx[M * K] = {0}, dw[N * K] = {0};
    fill(a, M * K, 1), fill(b, N * K, 2), fill(dy, M * N, 3);
    reference_matmul(YX_MATMUL_Y, M, N, K, a, b, y);
    reference_matmul(YX_MATMUL_DX, M, N, K, dy, b, dx);
    reference_matmul(YX_MATMUL_DW, M, N, K, dy, a, dw);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
            for (int k = 0; k < K; k++) {
                y[m * N + n] -= a[m * K + k] * b[n * K + k];
                dx[m * K + k] -= dy[m * N + n] * b[n * K + k];
                dw[n * K + k] -= dy[m * N + n] * a[m * K + k];
            }
    for (int i = 0; i < M * N; i++) ASSERT_NEAR(y[i], 0, 1e-12);
    for (int i = 0; i < M * K; i++) ASSERT_NEAR(dx[i], 0, 1e-12);
    for (int i = 0; i < N * K; i++) ASSERT_NEAR(dw[i], 0, 1e-12);
}

// Position 2 of a sequence turns (x1, x3) of each head of q and k by twice the first frequency.
static void rope(void **state) {
    (void)state;
    enum { WIDTH = 32 };
    double table[3 * 4], turned[ROWS * WIDTH];
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < 2; i++)
            table[p * 4 + i * 2] = cos(p * (i + 1)), table[p * 4 + i * 2 + 1] = sin(p * (i + 1));
    fill(x, ROWS * WIDTH, 1);
    memcpy(turned, x, sizeof turned);
    reference_rope(&heads, false, table, turned);
    const double *before = x + 5 * WIDTH + 20, *after = turned + 5 * WIDTH + 20; // row 5: position 2; head 5: k
    ASSERT_NEAR(after[0], before[0] * cos(2) - before[2] * sin(2), 1e-12);
    ASSERT_NEAR(after[2], before[2] * cos(2) + before[0] * sin(2), 1e-12);
    ASSERT_NEAR(after[1], before[1] * cos(4) - before[3] * sin(4), 1e-12);
    for (int c = 24; c < WIDTH; c++) ASSERT_NEAR(turned[5 * WIDTH + c], x[5 * WIDTH + c], 0); // v
    for (int c = 0; c < WIDTH; c++) ASSERT_NEAR(turned[3 * WIDTH + c], x[3 * WIDTH + c], 0);  // position 0
    reference_rope(&heads, true, table, turned);
    for (int i = 0; i < ROWS * WIDTH; i++) ASSERT_NEAR(turned[i], x[i], 1e-12);
}

static void embed(void **state) {
    (void)state;
    const int32_t token[] = {2, 0, 2};
    double table[3 * 2] = {1, 2, 3, 4, 5, 6}, z[3 * 2], dz[3 * 2] = {1, 10, 2, 20, 4, 40};
    reference_embed(3, 2, token, table, z);
    const double rows[] = {5, 6, 1, 2, 5, 6}, sums[] = {3, 22, 3, 4, 10, 56};
    for (int i = 0; i < 6; i++) ASSERT_NEAR(z[i], rows[i], 0);
    reference_embed_backward(3, 2, token, dz, table);
    for (int i = 0; i < 6; i++) ASSERT_NEAR(table[i], sums[i], 0);
}

// In its first step AdamW moves by the rate, whatever the gradient; and decays.
static void adamw(void **state) {
    (void)state;
    yx_step_scalars s = {.lr = 0.1,
                         .beta1 = 0.9,
                         .beta2 = 0.99,
                         .weight_decay = 0.5,
                         .bias_correction1 = 0.1,
                         .bias_correction2 = 0.01,
                         .clip_coefficient = 0.25};
    double value[] = {2, 2}, moment1[2] = {0}, moment2[2] = {0}, grad[] = {8, -4};
    reference_adamw(&s, true, 1, value, moment1, moment2, grad);
    reference_adamw(&s, false, 1, value + 1, moment1 + 1, moment2 + 1, grad + 1);
    ASSERT_NEAR(value[0], 2 - 0.1 - 0.1 * 0.5 * 2, 1e-12);
    ASSERT_NEAR(value[1], 2 + 0.1, 1e-12);
    ASSERT_NEAR(moment1[0], 0.1 * 2, 1e-12);
    ASSERT_NEAR(moment2[1], 0.01 * 1, 1e-12);
    ASSERT_NEAR(reference_sum_squares(2, grad), 80, 0);
}

// --- The measure of error
static void errors(void **state) {
    (void)state;
    enum { R = 8, C = 16, N = R * C };
    tensors t = {.ops = kernels_cpu(), .keep = true};
    assert_int_equal(t.ops->open(0, NULL, &t.device), YX_OK);
    double *values = tensors_zeros(&t, N), *more = tensors_zeros(&t, N);
    fill(values, N, 1);
    yx_operand o = tensors_copies(&t, YX_E4M3, R, C);
    assert_int_equal(t.status, YX_OK);
    assert_true(isnan(error_of_operand(&t, &o, R, C, values))); // poisoned
    float amax = 0, scale = *o.quant.scale;
    for (int i = 0; i < N; i++) {
        ((yx_fp8 *)o.row)[i] = yx_e4m3_from_float((float)values[i] * scale);
        amax = fmaxf(amax, fabsf((float)values[i]));
        more[i] = values[i] * 1.1;
    }
    *o.quant.amax = amax;
    assert_true(error_of_operand(&t, &o, R, C, values) < 1e-6); // rounding is no error
    assert_true(error_of_operand(&t, &o, R, C, more) > 0.04);
    *o.quant.amax = 1.1f * amax;
    assert_true(error_of_operand(&t, &o, R, C, values) > 0.09);
    *o.quant.amax = amax;
    o.col = tensors_poisoned(&t, N);
    for (int i = 0; i < N; i++) ((yx_fp8 *)o.col)[i % C * R + i / C] = ((yx_fp8 *)o.row)[i];
    assert_true(error_of_operand(&t, &o, R, C, values) < 1e-6);
    ((yx_fp8 *)o.col)[5] ^= 0x80; // one sign
    assert_true(error_of_operand(&t, &o, R, C, values) > 1e-3);
    float *plain = tensors_poisoned(&t, N * sizeof *plain);
    assert_true(isnan(error_of(&t, YX_F32, plain, N, values)));
    for (int i = 0; i < N; i++) plain[i] = (float)values[i];
    assert_true(error_of(&t, YX_F32, plain, N, values) < 1e-6);
    ASSERT_NEAR(error_of(&t, YX_F32, plain, N, more), 0.1 / 1.1, 1e-6);
    assert_true(isnan(error_worse(1, NAN)) && isnan(error_worse(NAN, 1)) && error_worse(1, 2) == 2);
    assert_int_equal(t.status, YX_OK);
    tensors_free(&t);
    t.ops->close(t.device);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm),  cmocka_unit_test(swiglu), cmocka_unit_test(attention),
        cmocka_unit_test(head),  cmocka_unit_test(matmul), cmocka_unit_test(rope),
        cmocka_unit_test(embed), cmocka_unit_test(adamw),  cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

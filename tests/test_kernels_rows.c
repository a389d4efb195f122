// Operations that work row by row: RMSNorm, rotary positions, SwiGLU.
#include "tests/kernels_fixture.h"

enum { MAX_COLS = 2100 };

static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}
static int open_all(void **state) {
    (void)state;
    open_devices(&(yx_workspace_query){.rows = 384,
                                       .hidden = MAX_COLS,
                                       .heads = 6,
                                       .kv_heads = 1,
                                       .head_dim = 64,
                                       .intermediate = 256,
                                       .rank = 16,
                                       .vocab = 64,
                                       .act = YX_F32});
    return 0;
}
static int close_all(void **state) {
    (void)state;
    close_devices();
    return 0;
}

static const yx_dtype operand_types[] = {YX_F32, YX_BF16, YX_E4M3, YX_E5M2};
static const int64_t shapes[][2] = {{1, 1}, {128, 192}, {67, 129}, {130, MAX_COLS}};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes };

// --- RMSNorm
typedef struct norm_reference {
    double *s, *rstd, *y;
} norm_reference;

static norm_reference take_norm(const yx_norm_args *a) {
    int64_t n = a->rows * a->cols;
    norm_reference r = {take_values(a->act, a->x, n), take_doubles(a->rows), take_doubles(n)};
    for (int64_t i = 0; a->delta && i < n; i++) r.s[i] += get(a->act, a->delta, i);
    for (int64_t i = 0; i < a->rows; i++) {
        double squares = 0, *s = r.s + i * a->cols;
        for (int64_t j = 0; j < a->cols; j++) squares += s[j] * s[j];
        r.rstd[i] = 1 / sqrt(squares / (double)a->cols + a->eps);
        for (int64_t j = 0; j < a->cols; j++) r.y[i * a->cols + j] = (double)a->gamma[j] * s[j] * r.rstd[i];
    }
    return r;
}

static void check_norm(int64_t rows, int64_t cols, yx_dtype act, yx_dtype dtype, bool add) {
    int64_t n = rows * cols;
    size_t bytes = (size_t)n * yx_dtype_size(act);
    yx_norm_args a = {rows,
                      cols,
                      act,
                      1e-5,
                      take_random(act, n, 2),
                      add ? take_random(act, n, 1) : NULL,
                      take_output(bytes),
                      take_random(YX_F32, cols, 1),
                      take_output((size_t)rows * sizeof(yx_real)),
                      {0}};
    norm_reference expected = take_norm(&a);
    yx_real *values = take_output((size_t)n * sizeof(yx_real));
    a.y = (yx_operand){.dtype = YX_F32, .row = values};
    RUN(norm, &a);
    CLOSE_WITHIN(YX_F32, values, expected.y, n, act == YX_F32 ? 1e-5 : 5e-3);
    CLOSE_WITHIN(YX_F32, a.rstd, expected.rstd, rows, act == YX_F32 ? 1e-5 : 5e-3);
    if (add) CLOSE(act, a.sum, expected.s, n);
    else assert_memory_equal(a.sum, outputs[0].initial, bytes);
    yx_real *kept = take((size_t)n * sizeof(yx_real));
    memcpy(kept, values, (size_t)n * sizeof(yx_real));
    a.y = take_operand(dtype, rows, cols, dtype == YX_F32 ? 1 : 128); // clips a few
    RUN(norm, &a);
    check_operand(&a.y, rows, cols, kept);
    release_all();
}

static void norm_equals_reference(void **state) {
    (void)state;
    for (int s = 0; s < NUM_SHAPES; s++)
        for (int i = 0; i < 16; i++)
            check_norm(shapes[s][0], shapes[s][1], i & 1 ? YX_BF16 : YX_F32, operand_types[i >> 2], i & 2);
}

static double *take_norm_backward(const yx_norm_backward_args *a, double *dgamma) {
    int64_t n = a->rows * a->cols;
    double *dx = a->dres ? take_values(a->act, a->dres, n) : take_doubles(n);
    for (int64_t i = 0; i < a->rows; i++) {
        double mean = 0, rstd = (double)a->rstd[i];
        for (int64_t j = 0; j < a->cols; j++)
            mean +=
                (double)a->gamma[j] * get(a->act, a->dy, i * a->cols + j) * get(a->act, a->s, i * a->cols + j) * rstd;
        mean /= (double)a->cols;
        for (int64_t j = 0; j < a->cols; j++) {
            double dy = get(a->act, a->dy, i * a->cols + j), xhat = get(a->act, a->s, i * a->cols + j) * rstd;
            dx[i * a->cols + j] += rstd * ((double)a->gamma[j] * dy - xhat * mean);
            dgamma[j] += dy * xhat;
        }
    }
    return dx;
}

// residual: 0 none, 1 apart, 2 dx is dres
static void check_norm_backward(int64_t rows, int64_t cols, yx_dtype act, yx_dtype dtype, int residual) {
    int64_t n = rows * cols;
    size_t bytes = (size_t)n * yx_dtype_size(act);
    void *dres = residual ? take_random(act, n, 1) : NULL;
    yx_norm_backward_args a = {rows,
                               cols,
                               act,
                               take_random(act, n, 1),
                               take_random(act, n, 2),
                               take_random(YX_F32, rows, 1),
                               take_random(YX_F32, cols, 1),
                               dres,
                               residual == 2 ? track(dres, bytes) : take_output(bytes),
                               {0},
                               take_random(YX_F32, cols, 1)};
    double *dgamma = take_values(YX_F32, a.dgamma, cols), *dx = take_norm_backward(&a, dgamma);
    track(a.dgamma, (size_t)cols * sizeof(yx_real));
    a.dx_operand = take_operand(dtype, rows, cols, dtype == YX_F32 ? 1 : 128);
    RUN(norm_backward, &a);
    CLOSE(act, a.dx, dx, n);
    CLOSE(YX_F32, a.dgamma, dgamma, cols);
    if (act == YX_F32) check_operand(&a.dx_operand, rows, cols, a.dx);
    release_all();
}

static void norm_backward_equals_reference(void **state) {
    (void)state;
    for (int s = 0; s < NUM_SHAPES; s++)
        for (int i = 0; i < 24; i++)
            check_norm_backward(shapes[s][0], shapes[s][1], i & 1 ? YX_BF16 : YX_F32, operand_types[i >> 1 & 3], i / 8);
}

// The operand's row copy is dx itself, and gamma's gradient is not wanted.
static void norm_backward_in_place(void **state) {
    (void)state;
    const yx_dtype types[] = {YX_F32, YX_BF16};
    for (int t = 0; t < 2; t++) {
        enum { ROWS = 128, COLS = 96, N = ROWS * COLS };
        yx_dtype act = types[t];
        double unused[COLS] = {0};
        float amax = 0;
        yx_norm_backward_args a = {ROWS,
                                   COLS,
                                   act,
                                   take_random(act, N, 1),
                                   take_random(act, N, 2),
                                   take_random(YX_F32, ROWS, 1),
                                   take_random(YX_F32, COLS, 1),
                                   NULL,
                                   take_output(N * yx_dtype_size(act))};
        a.dx_operand = (yx_operand){act, a.dx, take_output(N * yx_dtype_size(act)), {.amax = &amax}};
        RUN(norm_backward, &a);
        CLOSE(act, a.dx, take_norm_backward(&a, unused), N);
        for (int64_t i = 0; i < N; i++)
            assert_true(get(act, a.dx, i) == get(act, a.dx_operand.col, i % COLS * ROWS + i / COLS));
        assert_true(amax > 0);
        a.dx_operand.dtype = YX_E4M3;
        assert_int_equal(ops->norm_backward(devices[0], NULL, &a), YX_ERR_INTERNAL);
        release_all();
    }
}

// --- Rotary positions
static void rotate_reference(const yx_rope_args *a, double *qkv) {
    int64_t half = a->head_dim / 2, width = (a->heads + 2 * a->kv_heads) * a->head_dim;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t h = 0; h < a->heads + a->kv_heads; h++)
            for (int64_t j = 0; j < half; j++) {
                double *x1 = qkv + i * width + h * a->head_dim + j, *x2 = x1 + half, first = *x1;
                double angle =
                    (double)(i - a->seq_start[i]) * pow(10000, -(double)j / (double)half) * (a->inverse ? -1 : 1);
                *x1 = first * cos(angle) - *x2 * sin(angle);
                *x2 = *x2 * cos(angle) + first * sin(angle);
            }
}

static yx_real *take_table(int64_t positions, int64_t head_dim) {
    yx_real *table = take((size_t)(positions * head_dim) * sizeof *table);
    for (int64_t i = 0; i < positions * head_dim / 2; i++) {
        double angle =
            (double)(i / (head_dim / 2)) * pow(10000, -(double)(i % (head_dim / 2)) / (double)(head_dim / 2));
        table[2 * i] = (yx_real)cos(angle);
        table[2 * i + 1] = (yx_real)sin(angle);
    }
    return table;
}

static void check_rope(int64_t heads, int64_t kv_heads, int64_t head_dim, yx_dtype act, yx_dtype dtype, bool inverse) {
    enum { ROWS = 260 };
    int64_t width = (heads + 2 * kv_heads) * head_dim, n = ROWS * width;
    yx_rope_args a = {ROWS,
                      heads,
                      kv_heads,
                      head_dim,
                      act,
                      inverse,
                      take_sequences(ROWS, 70, 9),
                      take_table(80, head_dim),
                      take_random(act, n, 1),
                      {0}};
    double *expected = take_values(act, a.qkv, n), v_amax = 0;
    rotate_reference(&a, expected);
    for (int64_t i = 0; i < n; i++)
        if (i % width >= (heads + kv_heads) * head_dim) v_amax = fmax(v_amax, fabs(get(act, a.qkv, i)));
    track(a.qkv, (size_t)n * yx_dtype_size(act));
    a.out = take_operand(dtype, ROWS, width, dtype == YX_F32 ? 1 : 256);
    RUN(rope, &a);
    CLOSE(act, a.qkv, expected, n);
    if (inverse && act == YX_F32) check_operand(&a.out, ROWS, width, a.qkv);
    if (!inverse) assert_true((double)*a.out.quant.amax == v_amax && *a.out.quant.saturated == 0);
    release_all();
}

static void rope_rotates(void **state) {
    (void)state;
    for (int i = 0; i < 16; i++) {
        check_rope(6, 1, 64, i & 1 ? YX_BF16 : YX_F32, operand_types[i >> 2], i & 2);
        check_rope(3, 3, 10, i & 1 ? YX_BF16 : YX_F32, operand_types[i >> 2], i & 2);
    }
    yx_rope_args odd = {.rows = 1, .heads = 1, .kv_heads = 1, .head_dim = 3};
    assert_int_equal(ops->rope(devices[0], NULL, &odd), YX_ERR_INTERNAL);
}

// Without an operand v is not looked at, and rotating there and back returns to the start.
static void rope_there_and_back(void **state) {
    (void)state;
    enum { ROWS = 128, N = ROWS * 4 * 16 };
    yx_rope_args a = {
        ROWS, 2, 1, 16, YX_F32, false, take_sequences(ROWS, 128, 0), take_table(128, 16), take_random(YX_F32, N, 1),
        {0}};
    double *before = take_values(YX_F32, a.qkv, N);
    ok(ops->rope(devices[1], NULL, &a));
    a.inverse = true;
    ok(ops->rope(devices[1], NULL, &a));
    CLOSE(YX_F32, a.qkv, before, N);
}

// --- SwiGLU
static void check_swiglu(int64_t rows, int64_t cols, yx_dtype act, yx_dtype dtype) {
    int64_t n = rows * cols;
    yx_swiglu_args a = {rows, cols, act, take_random(act, 2 * n, 3), {0}};
    yx_swiglu_backward_args b = {rows, cols, act, a.gate_up, take_random(act, n, 1), {0}, {0}};
    double *h = take_doubles(n), *d = take_doubles(2 * n);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i / cols * 2 * cols + i % cols;
        double g = get(act, a.gate_up, at), u = get(act, a.gate_up, at + cols), dh = get(act, b.dh, i),
               s = 1 / (1 + exp(-g));
        h[i] = g * s * u;
        d[at] = dh * u * s * (1 + g * (1 - s));
        d[at + cols] = dh * g * s;
    }
    yx_real *values = take_output((size_t)n * sizeof(yx_real)),
            *dvalues = take_output((size_t)(2 * n) * sizeof(yx_real));
    a.h = b.h = (yx_operand){.dtype = YX_F32, .row = values};
    b.dgate_up = (yx_operand){.dtype = YX_F32, .row = dvalues};
    RUN(swiglu, &a);
    CLOSE(YX_F32, values, h, n);
    RUN(swiglu_backward, &b);
    CLOSE(YX_F32, values, h, n);
    CLOSE(YX_F32, dvalues, d, 2 * n);
    untrack_all(); // the values stay for comparison
    a.h = take_operand(dtype, rows, cols, dtype == YX_F32 ? 1 : 64);
    b.h = take_operand(dtype, rows, cols, dtype == YX_F32 ? 1 : 64);
    b.dgate_up = take_operand(dtype, rows, 2 * cols, dtype == YX_F32 ? 1 : 4096);
    RUN(swiglu, &a);
    check_operand(&a.h, rows, cols, values);
    RUN(swiglu_backward, &b);
    check_operand(&b.dgate_up, rows, 2 * cols, dvalues);
    assert_true(*b.h.quant.amax == 0 && *b.h.quant.saturated == 0); // the forward pass recorded them
    check_copies(&b.h, rows, cols, values);
    release_all();
}

static void swiglu_equals_reference(void **state) {
    (void)state;
    for (int s = 0; s < NUM_SHAPES; s++)
        for (int i = 0; i < 8; i++)
            check_swiglu(shapes[s][0], shapes[s][1], i & 1 ? YX_BF16 : YX_F32, operand_types[i >> 1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(norm_equals_reference, release),
        cmocka_unit_test_teardown(norm_backward_equals_reference, release),
        cmocka_unit_test_teardown(norm_backward_in_place, release),
        cmocka_unit_test_teardown(rope_rotates, release),
        cmocka_unit_test_teardown(rope_there_and_back, release),
        cmocka_unit_test_teardown(swiglu_equals_reference, release),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

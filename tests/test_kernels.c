// The operation table: device, products, embedding, optimizer, scales. Other operations: test_kernels_*.c.
#include "tests/kernels_fixture.h"
#include "kernels/cpu/vexp.h"

static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}
static int open_all(void **state) {
    (void)state;
    open_devices(&(yx_workspace_query){.rows = 5000,
                                       .hidden = 320,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .head_dim = 80,
                                       .intermediate = 160,
                                       .rank = 48,
                                       .vocab = 9001,
                                       .act = YX_BF16});
    return 0;
}
static int close_all(void **state) {
    (void)state;
    close_devices();
    return 0;
}

static void finds_backends(void **state) {
    (void)state;
    const yx_ops *found = NULL;
    ok(kernels_find("cpu", &found));
    assert_ptr_equal(found, kernels_cpu());
    assert_int_equal(kernels_find("abacus", &found), YX_ERR_UNAVAILABLE);
    assert_non_null(strstr(yx_message(), "abacus"));
    yx_device *d;
    assert_int_equal(found->open(1, NULL, &d), YX_ERR_UNAVAILABLE);
}

static void device_holds_memory_and_time(void **state) {
    (void)state;
    yx_device *d = devices[1];
    yx_device_info info;
    ok(ops->info(d, &info));
    assert_true(info.eight_bit && info.memory_total > 0 && info.memory_free > 0 && strlen(info.name) > 0);
    char *a, *b, back[3000];
    ok(ops->alloc(d, 3000, (void **)&a));
    ok(ops->alloc_host(d, 3000, (void **)&b));
    assert_true((uintptr_t)a % 256 == 0 && (uintptr_t)b % 256 == 0);
    for (int i = 0; i < 3000; i++) b[i] = (char)i;
    yx_stream *stream;
    yx_event *begin, *end;
    ok(ops->stream_create(d, &stream));
    ok(ops->event_create(d, &begin));
    ok(ops->event_create(d, &end));
    ok(ops->event_record(d, begin, stream));
    ok(ops->copy(d, stream, a, b, 3000));
    ok(ops->zero(d, stream, a + 100, 1000));
    ok(ops->copy(d, stream, back, a, 3000));
    ok(ops->stream_wait(d, stream, begin));
    ok(ops->event_record(d, end, stream));
    ok(ops->event_sync(d, end));
    ok(ops->stream_sync(d, stream));
    double seconds = -1;
    ok(ops->event_seconds(d, begin, end, &seconds));
    assert_true(seconds >= 0 && seconds < 60);
    for (int i = 0; i < 3000; i++) assert_int_equal(back[i], i >= 100 && i < 1100 ? 0 : (char)i);
    ops->event_destroy(d, begin);
    ops->event_destroy(d, end);
    ops->stream_destroy(d, stream);
    ops->free(d, a);
    ops->free_host(d, b);
    void *p;
    assert_int_equal(ops->alloc(d, SIZE_MAX - 7, &p), YX_ERR_NO_MEMORY);
#ifndef __SANITIZE_ADDRESS__ // which stops the program at such a request
    assert_int_equal(ops->alloc(d, (size_t)1 << 60, &p), YX_ERR_NO_MEMORY);
#endif
    assert_false(ops->has_graphs);
}

// --- Products
static double *take_product(const yx_matmul_args *x, const double *old) {
    int64_t M = x->M, N = x->N, K = x->K,
            count = x->form == YX_MATMUL_Y    ? M * N
                    : x->form == YX_MATMUL_DX ? M * K
                                              : N * K;
    double factor = (double)*x->a.quant.scale_inv * (double)*x->b.quant.scale_inv;
    double *a = take_values(x->a.dtype, x->a.row, x->form == YX_MATMUL_Y ? M * K : M * N);
    double *b = take_values(x->b.dtype, x->b.row, x->form == YX_MATMUL_DW ? M * K : N * K);
    double *out = take_doubles(count);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++) {
                if (x->form == YX_MATMUL_Y) out[m * N + n] += a[m * K + k] * b[n * K + k];
                if (x->form == YX_MATMUL_DX) out[m * K + k] += a[m * N + n] * b[n * K + k];
                if (x->form == YX_MATMUL_DW) out[n * K + k] += a[m * N + n] * b[m * K + k];
            }
    for (int64_t i = 0; i < count; i++) out[i] = out[i] * factor + (x->accumulate ? old[i] : 0);
    return out;
}

static void check_matmul(int form, int64_t M, int64_t N, int64_t K, yx_dtype a, yx_dtype b, yx_dtype out,
                         bool accumulate) {
    int64_t a_count = form == YX_MATMUL_Y ? M * K : M * N, b_count = form == YX_MATMUL_DW ? M * K : N * K;
    int64_t count = form == YX_MATMUL_Y ? M * N : form == YX_MATMUL_DX ? M * K : N * K;
    yx_matmul_args x = {.form = form, .M = M, .N = N, .K = K, .out_dtype = out, .accumulate = accumulate};
    static const float scales[2][2] = {{4, 0.25f}, {0.5f, 2}};
    x.a = (yx_operand){a, take_random(a, a_count, 1), NULL, {&scales[0][0], &scales[0][1], NULL, NULL}};
    x.b = (yx_operand){b, take_random(b, b_count, 1), NULL, {&scales[1][0], &scales[1][1], NULL, NULL}};
    x.out = accumulate ? take_random(out, count, 3) : take((size_t)count * yx_dtype_size(out));
    double *expected = take_product(&x, accumulate ? take_values(out, x.out, count) : NULL);
    track(x.out, (size_t)count * yx_dtype_size(out));
    RUN(matmul, &x);
    CLOSE(out, x.out, expected, count);
    release_all();
}

static void matmul_equals_sums(void **state) {
    (void)state;
    const int64_t shapes[][3] = {{1, 1, 1}, {7, 5, 3}, {128, 320, 48}, {130, 33, 80}, {384, 64, 96}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int form = YX_MATMUL_Y; form <= YX_MATMUL_DW; form++)
            for (int a = YX_F32; a <= YX_E5M2; a++)
                for (int b = YX_F32; b <= YX_E5M2; b++)
                    for (int mode = 0; mode < 4; mode++) {
                        yx_dtype out = mode & 1 && form != YX_MATMUL_DW ? YX_BF16 : YX_F32;
                        if (shapes[s][0] > 130 && (a != b || mode != a)) continue;
                        check_matmul(form, shapes[s][0], shapes[s][1], shapes[s][2], a, b, out, mode & 2);
                    }
}

// More rows and columns than one piece of the workspace holds.
static void matmul_in_pieces(void **state) {
    (void)state;
    check_matmul(YX_MATMUL_Y, 4999, 24, 16, YX_BF16, YX_BF16, YX_BF16, false);
    check_matmul(YX_MATMUL_Y, 4999, 24, 16, YX_F32, YX_E4M3, YX_BF16, true);
    check_matmul(YX_MATMUL_DX, 4500, 16, 24, YX_E5M2, YX_E4M3, YX_BF16, true);
    check_matmul(YX_MATMUL_DW, 4500, 24, 16, YX_E5M2, YX_E4M3, YX_F32, false);
    check_matmul(YX_MATMUL_DW, 4500, 24, 16, YX_F32, YX_BF16, YX_F32, true);
    check_matmul(YX_MATMUL_Y, 40, 9001, 48, YX_BF16, YX_BF16, YX_F32, false);
    check_matmul(YX_MATMUL_Y, 40, 9001, 48, YX_BF16, YX_E4M3, YX_F32, true);
}

static void matmul_refuses(void **state) {
    (void)state;
    yx_real x[16] = {0};
    yx_operand o = {.dtype = YX_F32, .row = x};
    yx_matmul_args bad[] = {
        {.form = YX_MATMUL_Y, .M = 2, .N = 0, .K = 2, .a = o, .b = o, .out = x},
        {.form = YX_MATMUL_Y, .M = 2, .N = 2, .K = 2, .a = {0}, .b = o, .out = x},
        {.form = YX_MATMUL_DW, .M = 2, .N = 2, .K = 2, .a = o, .b = o, .out = x, .out_dtype = YX_BF16}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ops->matmul(devices[0], NULL, &bad[i]), YX_ERR_INTERNAL);
    // More than the workspace was sized for.
    yx_matmul_args large = {
        .form = YX_MATMUL_DX, .M = 2, .N = 9001, .K = 9001, .a = o, .b = o, .out = x, .out_dtype = YX_BF16};
    large.b.dtype = YX_BF16;
    assert_int_equal(ops->matmul(devices[0], NULL, &large), YX_ERR_INTERNAL);
    assert_non_null(strstr(yx_message(), "workspace"));
}

// --- Embedding
static void embedding_both_ways(void **state) {
    (void)state;
    enum { ROWS = 700, VOCAB = 91 };
    const yx_dtype types[] = {YX_F32, YX_BF16};
    for (int i = 0; i < 8; i++) {
        yx_dtype act = types[i & 1], dtype = types[i >> 1 & 1];
        int64_t rank = i & 4 ? 48 : 5;
        int32_t *token = take(ROWS * sizeof *token);
        for (int64_t r = 0; r < ROWS; r++) token[r] = (int32_t)random_below(r < 300 ? 3 : VOCAB);
        yx_operand E = {.dtype = dtype, .row = take_random(dtype, VOCAB * rank, 1)};
        void *z = take_output((size_t)(ROWS * rank) * yx_dtype_size(act)), *dz = take_random(act, ROWS * rank, 1);
        yx_real *dE = take_random(YX_F32, VOCAB * rank, 1);
        double *expected = take_values(YX_F32, dE, VOCAB * rank), *rows = take_doubles(ROWS * rank);
        track(dE, (size_t)(VOCAB * rank) * sizeof *dE);
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t j = 0; j < rank; j++) {
                rows[r * rank + j] = get(dtype, E.row, token[r] * rank + j);
                expected[token[r] * rank + j] += get(act, dz, r * rank + j);
            }
        RUN(embed, &(yx_embed_args){ROWS, rank, act, token, E, z});
        CLOSE(act, z, rows, ROWS * rank);
        RUN(embed_backward, &(yx_embed_backward_args){ROWS, rank, VOCAB, act, token, dz, dE});
        CLOSE(YX_F32, dE, expected, VOCAB * rank);
        release_all();
    }
}

// --- Optimizer
static void sum_of_squares(void **state) {
    (void)state;
    const int64_t sizes[] = {0, 1, 255, 256, 257, 100003};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        yx_real *x = take_random(YX_F32, sizes[s], 1);
        double *sum = take(sizeof *sum), expected = 2.5;
        *sum = 2.5;
        track(sum, sizeof *sum);
        for (int64_t i = 0; i < sizes[s]; i++) expected += (double)x[i] * (double)x[i];
        RUN(sum_squares, x, sizes[s], sum);
        assert_true(fabs(*sum - expected) <= 1e-12 * expected);
        release_all();
    }
}

static void clipping(void **state) {
    (void)state;
    const double cases[][4] = {{25, 1, 0.2, 0}, {25, 5, 1, 0},       {25, 10, 1, 0},
                               {25, 0, 1, 0},   {INFINITY, 1, 0, 1}, {NAN, 0, 0, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        yx_step_scalars s = {.grad_sum_squares = cases[i][0], .grad_clip = cases[i][1], .skip = -1};
        ok(ops->clip(devices[0], NULL, &s));
        assert_int_equal(s.skip, (int)cases[i][3]);
        if (!s.skip) assert_true(s.clip_coefficient == cases[i][2] && s.grad_norm == 5);
    }
}

// Beyond one of its limits a step is left out; at it, and without one, it is not.
static void limits(void **state) {
    (void)state;
    const double cases[][3] = {{0, 0, 0}, {5, 0, 0}, {4.999, 0, 1}, {0, 70, 0}, {0, 69.99, 1}, {6, 80, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        yx_step_scalars s = {
            .grad_sum_squares = 25, .loss_sum = 70, .norm_limit = cases[i][0], .loss_limit = cases[i][1], .skip = -1};
        ok(ops->clip(devices[0], NULL, &s));
        assert_int_equal(s.skip, (int)cases[i][2]);
    }
}

typedef struct adamw_case {
    yx_adamw_segment s;
    double *param, *moment1, *moment2, *grad;
    int64_t n;
} adamw_case;

static adamw_case take_segment(int64_t rows, int64_t cols, yx_dtype dtype, bool decay) {
    int64_t n = rows * cols;
    adamw_case c = {.s = {rows, cols, take_random(YX_F32, n, 1), take_random(YX_F32, n, 0.1), take_random(YX_F32, n, 1),
                          take_random(YX_F32, n, 1), decay},
                    .n = n};
    for (int64_t i = 0; i < n; i++) c.s.moment2[i] = (yx_real)fabs((double)c.s.moment2[i]);
    c.param = take_values(YX_F32, c.s.param, n);
    c.moment1 = take_values(YX_F32, c.s.moment1, n);
    c.moment2 = take_values(YX_F32, c.s.moment2, n);
    c.grad = take_values(YX_F32, c.s.grad, n);
    size_t bytes = (size_t)n * sizeof(yx_real);
    track(c.s.param, bytes);
    track(c.s.moment1, bytes);
    track(c.s.moment2, bytes);
    c.s.operand = take_operand(dtype, rows, cols, 16);
    return c;
}

static void expected_adamw(const adamw_case *c, const yx_step_scalars *s) {
    for (int64_t i = 0; i < c->n; i++) {
        double g = c->grad[i] * s->clip_coefficient;
        c->moment1[i] = s->beta1 * c->moment1[i] + (1 - s->beta1) * g;
        c->moment2[i] = s->beta2 * c->moment2[i] + (1 - s->beta2) * g * g;
        double m = c->moment1[i] / s->bias_correction1, v = c->moment2[i] / s->bias_correction2;
        c->param[i] -= s->lr * (m / (sqrt(v) + s->eps) + (c->s.decay ? s->weight_decay : 0) * c->param[i]);
    }
}

static const yx_step_scalars step = {.lr = 0.02,
                                     .beta1 = 0.9,
                                     .beta2 = 0.95,
                                     .eps = 1e-8,
                                     .weight_decay = 0.1,
                                     .bias_correction1 = 0.271,
                                     .bias_correction2 = 0.142625,
                                     .clip_coefficient = 0.37};

static void adamw_steps(void **state) {
    (void)state;
    const yx_dtype types[] = {YX_F32, YX_BF16, YX_E4M3};
    adamw_case cases[4];
    yx_adamw_segment segments[4];
    for (int i = 0; i < 3; i++) cases[i] = take_segment(37, 129, types[i], i != 1);
    cases[3] = take_segment(2, 9000, YX_E5M2, true);
    for (int i = 0; i < 4; i++) segments[i] = cases[i].s;
    RUN(adamw, &(yx_adamw_args){segments, 4, &step});
    for (int i = 0; i < 4; i++) {
        const adamw_case *c = &cases[i];
        expected_adamw(c, &step);
        CLOSE(YX_F32, c->s.param, c->param, c->n);
        CLOSE(YX_F32, c->s.moment1, c->moment1, c->n);
        CLOSE(YX_F32, c->s.moment2, c->moment2, c->n);
        check_operand(&c->s.operand, c->s.rows, c->s.cols, c->s.param);
    }
}

// The fp32 working copy is the parameter itself, and other copies need no transposed one.
static void adamw_in_place(void **state) {
    (void)state;
    adamw_case a = take_segment(300, 70, YX_F32, true), b = take_segment(300, 70, YX_BF16, true);
    a.s.operand = (yx_operand){.dtype = YX_F32, .row = a.s.param};
    b.s.operand.col = NULL;
    yx_adamw_segment segments[] = {a.s, b.s};
    RUN(adamw, &(yx_adamw_args){segments, 2, &step});
    expected_adamw(&a, &step);
    CLOSE(YX_F32, a.s.param, a.param, a.n);
    for (int64_t i = 0; i < b.n; i++)
        assert_int_equal(((yx_bf16 *)b.s.operand.row)[i], yx_bf16_from_float((float)b.s.param[i] * 16));
}

static void skipped_step_changes_nothing(void **state) {
    (void)state;
    adamw_case c = take_segment(8, 32, YX_E4M3, true);
    yx_step_scalars skip = step;
    skip.skip = 1;
    RUN(adamw, &(yx_adamw_args){&c.s, 1, &skip});
    for (int i = 0; i < num_outputs; i++) assert_memory_equal(outputs[i].data, outputs[i].initial, outputs[i].bytes);
}

// --- Scales
static void scale_is_the_power_of_two_below(void **state) {
    (void)state;
    enum { N = 4, L = YX_SCALE_HISTORY_LENGTH };
    yx_real gamma[3] = {0.5f, -1.5f, 1};
    const yx_scale_slot slots[N] = {{YX_SCALE_HISTORY, YX_E5M2},
                                    {YX_SCALE_NORM, YX_E4M3, gamma, 3},
                                    {YX_SCALE_WEIGHT, YX_E4M3},
                                    {YX_SCALE_HISTORY, YX_E4M3}};
    float scale[N] = {9, 9, 9, 9}, inverse[N][YX_SCALE_INV_SPACING] = {{9}, {9}, {9}, {9}}, amax[N] = {3, 7, 0.9f, 0},
          history[N * L] = {0};
    yx_step_scalars s = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99};
    yx_scales_args a = {slots, N, 0, N, 1u << YX_SCALE_HISTORY, 1, &s, scale, amax, inverse[0], history};
    ok(ops->scales(devices[0], NULL, &a));
    // 57344 / (2·3) = 9557: 8192. Without a bound: 1. The other kinds stay.
    assert_true(scale[0] == 8192 && inverse[0][0] == 1.0f / 8192 && scale[3] == 1 && inverse[3][0] == 1);
    assert_true(scale[1] == 9 && scale[2] == 9 && amax[1] == 7 && amax[2] == 0.9f && amax[0] == 0 && history[0] == 3);
    a.kinds = 1u << YX_SCALE_NORM | 1u << YX_SCALE_WEIGHT;
    ok(ops->scales(devices[0], NULL, &a));
    // 448 / (1.5·sqrt 3) = 172: 128. 448 / (0.9 + 0.01·1) = 492: 256.
    assert_true(scale[0] == 8192 && scale[1] == 128 && scale[2] == 256 && amax[2] == 0 && inverse[2][0] == 1.0f / 256);
    // A skipped step leaves the weights, and so their scale.
    s.skip = 1, amax[2] = 100;
    ok(ops->scales(devices[0], NULL, &a));
    assert_true(scale[2] == 256 && amax[2] == 100);
    // An exact power of two keeps its own: 448 / 448 = 1.
    s.skip = 0, s.lr = 0, amax[2] = 448;
    ok(ops->scales(devices[0], NULL, &a));
    assert_true(scale[2] == 1);
    amax[2] = nextafterf(448, 1000);
    ok(ops->scales(devices[0], NULL, &a));
    assert_true(scale[2] == 0.5f);
}

static void history_forgets(void **state) {
    (void)state;
    enum { L = YX_SCALE_HISTORY_LENGTH };
    const yx_scale_slot slot = {YX_SCALE_HISTORY, YX_E4M3};
    float scale = 0, inverse[YX_SCALE_INV_SPACING] = {0}, amax = 0, history[L] = {0};
    yx_step_scalars s = {0};
    yx_scales_args a = {&slot, 1, 0, 1, 1u << YX_SCALE_HISTORY, 0, &s, &scale, &amax, inverse, history};
    for (int t = 0; t < L + 2; t++) {
        amax = t == 0 ? 100.0f : t == 3 ? INFINITY : 1.0f;
        ok(ops->scales(devices[0], NULL, &a));
        assert_true(scale == (t < L ? 4 : 256) && inverse[0] == 1 / scale && amax == 0 && history[0] <= 100);
    }
}

static void cast_writes_copies(void **state) {
    (void)state;
    for (int t = YX_F32; t <= YX_E5M2; t++) {
        enum { ROWS = 67, COLS = 131 };
        yx_real *src = take_random(YX_F32, ROWS * COLS, 1);
        src[77] = 500, src[78] = -90000;
        yx_operand o = take_operand(t, ROWS, COLS, t == YX_F32 ? 1 : 2);
        RUN(cast, &(yx_cast_args){ROWS, COLS, YX_F32, src, o});
        check_operand(&o, ROWS, COLS, src);
        release_all();
    }
}

static void exponential_is_accurate(void **state) {
    (void)state;
    double worst = 0;
    for (int i = -8700; i <= 8800; i++) {
        yx_real x = (yx_real)i * (yx_real)0.01;
        double expected = exp((double)x);
        worst = fmax(worst, fabs((double)vexp(x) / expected - 1));
    }
    assert_true(worst < 2 * 1.1920929e-7);
    assert_true(vexp(0) == 1 && vexp(-INFINITY) == 0 && vexp(-1000) == 0 && isinf(vexp(1000)) && isnan(vexp(NAN)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_backends),
        cmocka_unit_test(device_holds_memory_and_time),
        cmocka_unit_test_teardown(matmul_equals_sums, release),
        cmocka_unit_test_teardown(matmul_in_pieces, release),
        cmocka_unit_test_teardown(matmul_refuses, release),
        cmocka_unit_test_teardown(embedding_both_ways, release),
        cmocka_unit_test_teardown(sum_of_squares, release),
        cmocka_unit_test(clipping),
        cmocka_unit_test(limits),
        cmocka_unit_test_teardown(adamw_steps, release),
        cmocka_unit_test_teardown(adamw_in_place, release),
        cmocka_unit_test_teardown(skipped_step_changes_nothing, release),
        cmocka_unit_test(scale_is_the_power_of_two_below),
        cmocka_unit_test(history_forgets),
        cmocka_unit_test_teardown(cast_writes_copies, release),
        cmocka_unit_test(exponential_is_accurate),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

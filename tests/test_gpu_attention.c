// Attention on a GPU, both directions, against the definition.
#define GPU_TEST
#include "tests/kernels_fixture.h"
#include "tests/reference_attention.h"

#ifdef EMULATED
enum { LONGEST = 256 };
#else
enum { LONGEST = 2048 };
#endif

static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}
static int open_all(void **state) {
    (void)state;
    open_devices(&(yx_workspace_query){.rows = LONGEST < 640 ? 640 : LONGEST,
                                       .hidden = 768,
                                       .heads = 12,
                                       .kv_heads = 2,
                                       .head_dim = 64,
                                       .intermediate = 2048,
                                       .rank = 128,
                                       .vocab = 1024,
                                       .act = YX_BF16});
    return 0;
}
static int close_all(void **state) {
    (void)state;
    close_devices();
    return 0;
}

// Both copies hold the same codes, those of o · 64 before it is rounded to bf16: o differs from the reference by bf16's
// rounding of the weights, which takes a few values over to the neighbouring code.
static void check_codes(const yx_operand *out, const double *o, int64_t rows, int64_t cols) {
    const yx_fp8 *row = out->row, *col = out->col;
    int64_t differ = 0;
    for (int64_t i = 0; i < rows * cols; i++) {
        assert_int_equal(row[i], col[i % cols * rows + i / cols]);
        differ += row[i] != yx_e4m3_from_float((float)(o[i] * 64));
        double error = fabs((double)yx_e4m3_to_float(row[i]) / 64 - o[i]);
        assert_true(error <= fabs(o[i]) * 0.07 + 4e-3);
    }
    assert_true(differ <= rows * cols / 16);
}

static void check_attention(shape s, double size) {
    int64_t n = s.rows * s.heads * s.head_dim;
    size_t bytes = (size_t)n * 2;
    double scale = 1 / sqrt((double)s.head_dim);
    s.act = YX_BF16;
    void *qkv = take_random(YX_BF16, s.rows * width(&s), size), *d_o = take_random(YX_BF16, n, 1);
    reference r = take_reference(&s, scale, qkv, d_o);
    yx_attention_args a = {s.rows,
                           s.heads,
                           s.kv_heads,
                           s.head_dim,
                           YX_BF16,
                           scale,
                           s.seq_start,
                           qkv,
                           take_output(bytes),
                           {0},
                           take_output((size_t)(s.heads * s.rows) * sizeof(yx_real))};
    a.out = take_operand(YX_E4M3, s.rows, s.heads * s.head_dim, 64);
    RUN(attention, &a);
    CLOSE(YX_BF16, a.o, r.o, n);
    CLOSE(YX_F32, a.lse, r.lse, s.heads * s.rows);
    if (size == 1) check_codes(&a.out, r.o, s.rows, s.heads * s.head_dim); // larger values saturate
    yx_attention_backward_args b = {s.rows,  s.heads, s.kv_heads,  s.head_dim,
                                    YX_BF16, scale,   s.seq_start, qkv,
                                    a.o,     d_o,     a.lse,       take((size_t)(s.rows * width(&s)) * 2)};
    untrack_all();
    track(b.dqkv, (size_t)(s.rows * width(&s)) * 2);
    RUN(attention_backward, &b);
    // Where a row attends to almost one key, d_o·vᵀ - delta is a difference of nearly equal numbers, and delta is of
    // the o that was rounded.
    CLOSE_WITHIN(YX_BF16, b.dqkv, r.dqkv, s.rows * width(&s), size == 1 ? 5e-3 : 1e-2);
    release_all();
}

static void packed_sequences(void **state) {
    (void)state;
    const int64_t groups[][2] = {{6, 1}, {3, 1}, {2, 2}, {6, 2}};
    const int64_t longest[] = {1, 3, 8, 40, 300};
    for (int g = 0; g < 4; g++)
        for (int l = 0; l < 5; l++) {
            check_attention((shape){384, groups[g][0], groups[g][1], 64, 0, take_sequences(384, longest[l], 37)}, 1);
            check_attention((shape){256, groups[g][0], groups[g][1], 128, 0, take_sequences(256, longest[l], 0)}, 1);
        }
}

static void equal_sequences(void **state) {
    (void)state;
    const int64_t lengths[] = {1, 8, 16, 32, 64, 128, 320, 640};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
        check_attention((shape){640, 6, 2, 64, 0, take_equal(640, lengths[l])}, 1);
    check_attention((shape){256, 2, 2, 128, 0, take_equal(256, 256)}, 1);
}

static void model_shape(void **state) {
    (void)state;
    check_attention((shape){LONGEST, 12, 2, 64, 0, take_equal(LONGEST, LONGEST)}, 1);
    check_attention((shape){LONGEST, 12, 2, 64, 0, take_sequences(LONGEST, 700, 11)}, 1);
}

// Scores far beyond what exp can hold without its maximum taken off.
static void large_scores(void **state) {
    (void)state;
    check_attention((shape){256, 3, 1, 64, 0, take_equal(256, 256)}, 5);
}

static void output_is_the_operand(void **state) {
    (void)state;
    enum { ROWS = 128, N = ROWS * 2 * 64 };
    yx_attention_args a = {ROWS,
                           2,
                           1,
                           64,
                           YX_BF16,
                           0.125,
                           take_equal(ROWS, 32),
                           take_random(YX_BF16, 2 * N, 1),
                           take_output(2 * N),
                           {0},
                           take_output(2 * ROWS * sizeof(yx_real))};
    RUN(attention, &a);
    void *plain = malloc(2 * N);
    memcpy(plain, a.o, 2 * N);
    a.out = (yx_operand){.dtype = YX_BF16, .row = a.o};
    RUN(attention, &a);
    assert_memory_equal(plain, a.o, 2 * N);
    free(plain);
}

static void refuses(void **state) {
    (void)state;
    yx_attention_args a = {.rows = 1, .heads = 3, .kv_heads = 2, .head_dim = 64};
    assert_int_equal(ops->attention(devices[0], NULL, &a), YX_ERR_INTERNAL);
    a = (yx_attention_args){.rows = 128, .heads = 2, .kv_heads = 2, .head_dim = 80, .scale = 1, .act = YX_BF16};
    assert_int_equal(ops->attention(devices[0], NULL, &a), YX_ERR_CONFIG);
    yx_attention_backward_args b = {
        .rows = 12800000, .heads = 2, .kv_heads = 2, .head_dim = 64, .scale = 1, .act = YX_BF16};
    assert_int_equal(ops->attention_backward(devices[0], NULL, &b), YX_ERR_INTERNAL);
    assert_non_null(strstr(yx_message(), "workspace"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(packed_sequences, release),      cmocka_unit_test_teardown(equal_sequences, release),
        cmocka_unit_test_teardown(model_shape, release),           cmocka_unit_test_teardown(large_scores, release),
        cmocka_unit_test_teardown(output_is_the_operand, release), cmocka_unit_test_teardown(refuses, release),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

// Attention, both directions, against the definition.
#include "tests/kernels_fixture.h"
#include "tests/reference_attention.h"

enum { MAX_ROWS = 640 };

static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}
static int open_all(void **state) {
    (void)state;
    open_devices(&(yx_workspace_query){.rows = MAX_ROWS,
                                       .hidden = 384,
                                       .heads = 6,
                                       .kv_heads = 6,
                                       .head_dim = 80,
                                       .intermediate = 64,
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

static void check_attention(shape s, double size) {
    int64_t n = s.rows * s.heads * s.head_dim;
    size_t bytes = (size_t)n * yx_dtype_size(s.act);
    double scale = 1 / sqrt((double)s.head_dim);
    void *qkv = take_random(s.act, s.rows * width(&s), size), *d_o = take_random(s.act, n, 1);
    reference r = take_reference(&s, scale, qkv, d_o);
    yx_attention_args a = {s.rows,
                           s.heads,
                           s.kv_heads,
                           s.head_dim,
                           s.act,
                           scale,
                           s.seq_start,
                           qkv,
                           take_output(bytes),
                           {0},
                           take_output((size_t)(s.heads * s.rows) * sizeof(yx_real))};
    a.out = take_operand(YX_E4M3, s.rows, s.heads * s.head_dim, 256);
    RUN(attention, &a);
    CLOSE(s.act, a.o, r.o, n);
    CLOSE(YX_F32, a.lse, r.lse, s.heads * s.rows);
    if (s.act == YX_F32) {
        check_copies(&a.out, s.rows, s.heads * s.head_dim, a.o);
        check_records(&a.out, n, a.o, false);
    }
    yx_attention_backward_args b = {
        s.rows,      s.heads, s.kv_heads, s.head_dim, s.act, scale,
        s.seq_start, qkv,     a.o,        d_o,        a.lse, take((size_t)(s.rows * width(&s)) * yx_dtype_size(s.act))};
    untrack_all();
    track(b.dqkv, (size_t)(s.rows * width(&s)) * yx_dtype_size(s.act));
    RUN(attention_backward, &b);
    CLOSE(s.act, b.dqkv, r.dqkv, s.rows * width(&s));
    release_all();
}

static void packed_sequences(void **state) {
    (void)state;
    const int64_t groups[][2] = {{6, 1}, {3, 1}, {2, 2}};
    const int64_t longest[] = {1, 3, 8, 40, 300};
    for (int g = 0; g < 3; g++)
        for (int l = 0; l < 5; l++)
            for (int act = YX_F32; act <= YX_BF16; act++) {
                check_attention((shape){384, groups[g][0], groups[g][1], 16, act, take_sequences(384, longest[l], 37)},
                                1);
                check_attention((shape){200, groups[g][0], groups[g][1], 80, act, take_sequences(200, longest[l], 0)},
                                1);
            }
}

static void equal_sequences(void **state) {
    (void)state;
    const int64_t lengths[] = {1, 8, 16, 32, 64, 128, 320, 640};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
        check_attention((shape){MAX_ROWS, 6, 2, 64, YX_F32, take_equal(MAX_ROWS, lengths[l])}, 1);
    check_attention((shape){MAX_ROWS, 6, 2, 64, YX_BF16, take_equal(MAX_ROWS, MAX_ROWS)}, 1);
    for (int64_t rows = 1; rows < 70; rows += 17)
        check_attention((shape){rows, 1, 1, 2, YX_F32, take_equal(rows, rows)}, 1);
}

// Scores far beyond what exp can hold without its maximum taken off.
static void large_scores(void **state) {
    (void)state;
    check_attention((shape){256, 3, 1, 32, YX_F32, take_equal(256, 256)}, 6);
}

// o's own row copy as the operand.
static void output_is_the_operand(void **state) {
    (void)state;
    enum { ROWS = 128, N = ROWS * 32 };
    float amax = 0;
    yx_attention_args a = {ROWS,
                           2,
                           1,
                           16,
                           YX_BF16,
                           0.25,
                           take_equal(ROWS, 32),
                           take_random(YX_BF16, 2 * N, 1),
                           take_output(2 * N),
                           {0},
                           take_output(2 * ROWS * sizeof(yx_real))};
    RUN(attention, &a);
    void *plain = take(2 * N);
    memcpy(plain, a.o, 2 * N);
    a.out = (yx_operand){YX_BF16, a.o, take_output(2 * N), {.amax = &amax}};
    RUN(attention, &a);
    assert_memory_equal(plain, a.o, 2 * N);
    for (int64_t i = 0; i < N; i++)
        assert_int_equal(((yx_bf16 *)a.o)[i], ((yx_bf16 *)a.out.col)[i % 32 * ROWS + i / 32]);
    assert_true(amax == 0);
}

static void refuses(void **state) {
    (void)state;
    yx_attention_args a = {.rows = 1, .heads = 3, .kv_heads = 2, .head_dim = 8};
    assert_int_equal(ops->attention(devices[0], NULL, &a), YX_ERR_INTERNAL);
    yx_attention_backward_args b = {.rows = 10000000, .heads = 2, .kv_heads = 2, .head_dim = 64};
    assert_int_equal(ops->attention_backward(devices[0], NULL, &b), YX_ERR_INTERNAL);
    assert_non_null(strstr(yx_message(), "workspace"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(packed_sequences, release), cmocka_unit_test_teardown(equal_sequences, release),
        cmocka_unit_test_teardown(large_scores, release),     cmocka_unit_test_teardown(output_is_the_operand, release),
        cmocka_unit_test_teardown(refuses, release),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

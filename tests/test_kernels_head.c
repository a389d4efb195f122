// The head: cross-entropy, dz and dE, against the matrix of logits.
#include "tests/kernels_fixture.h"
#include "tests/reference_head.h"

static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}
static int open_all(void **state) {
    (void)state;
    open_devices(&(yx_workspace_query){.rows = 640,
                                       .hidden = 64,
                                       .heads = 1,
                                       .kv_heads = 1,
                                       .head_dim = 16,
                                       .intermediate = 64,
                                       .rank = 128,
                                       .vocab = 5003,
                                       .act = YX_F32});
    return 0;
}
static int close_all(void **state) {
    (void)state;
    close_devices();
    return 0;
}

// padding: every such row is not scored (0: all are); `size` of the embeddings.
static void check_head(int64_t rows, int64_t rank, int64_t vocab, yx_dtype act, yx_dtype dtype, int64_t padding,
                       double size) {
    static const float inverse[] = {0.25f};
    int32_t *target = take((size_t)rows * sizeof *target);
    for (int64_t i = 0; i < rows; i++)
        target[i] = padding && i % padding == padding - 1 ? -1
                    : i == 0                              ? (int32_t)(vocab - 1)
                                                          : (int32_t)random_below(vocab);
    yx_operand E = {.dtype = dtype,
                    .row = take_random(dtype, vocab * rank, size),
                    .quant.scale_inv = dtype > YX_BF16 ? inverse : NULL};
    double *loss_sum = take(sizeof *loss_sum);
    *loss_sum = 3;
    yx_real *dE = take_random(YX_F32, vocab * rank, 1e-3);
    yx_head_args a = {rows,
                      rank,
                      vocab,
                      act,
                      take_random(act, rows * rank, 1),
                      E,
                      target,
                      1.0 / (double)rows,
                      take_output((size_t)rows * sizeof(yx_real)),
                      take_output((size_t)rows * sizeof(yx_real)),
                      track(loss_sum, sizeof *loss_sum),
                      take_output((size_t)(rows * rank) * yx_dtype_size(act))};
    head_reference r = take_head_reference(&a, take_values(YX_F32, dE, vocab * rank));
    RUN(head, &a);
    CLOSE(YX_F32, a.loss, r.loss, rows);
    CLOSE(YX_F32, a.lse, r.lse, rows);
    CLOSE(act, a.dz, r.dz, rows * rank);
    assert_true(fabs(*loss_sum - 3 - r.total) <= 1e-5 * r.total);
    for (int64_t i = 0; i < rows; i++)
        if (target[i] < 0)
            assert_true(a.loss[i] == 0 && get(act, a.dz, i * rank) == 0 && get(act, a.dz, i * rank + rank - 1) == 0);
    yx_real *lse = take((size_t)rows * sizeof *lse);
    memcpy(lse, a.lse, (size_t)rows * sizeof *lse);
    track(dE, (size_t)(vocab * rank) * sizeof *dE);
    RUN(head_backward, &(yx_head_backward_args){rows, rank, vocab, act, a.z, E, target, a.grad_scale, lse, dE});
    CLOSE(YX_F32, dE, r.dE, vocab * rank);
    release_all();
}

static void head_equals_reference(void **state) {
    (void)state;
    const yx_dtype types[] = {YX_F32, YX_BF16, YX_E4M3, YX_E5M2};
    for (int i = 0; i < 8; i++) {
        yx_dtype act = i & 1 ? YX_BF16 : YX_F32, dtype = types[i >> 1];
        check_head(130, 64, 1021, act, dtype, i & 2 ? 5 : 0, 1);
        check_head(97, 20, 67, act, dtype, 3, 1);
        check_head(1, 1, 2, act, dtype, 0, 1);
    }
    check_head(256, 128, 5003, YX_F32, YX_F32, 0, 0.02);
    check_head(640, 64, 2049, YX_F32, YX_BF16, 7, 0.02);
    check_head(256, 64, 300, YX_BF16, YX_BF16, 2, 8); // logits beyond what exp can hold
}

static void nothing_is_scored(void **state) {
    (void)state;
    enum { ROWS = 128, RANK = 16, VOCAB = 100 };
    int32_t target[ROWS];
    for (int i = 0; i < ROWS; i++) target[i] = -1;
    yx_real *dE = take_random(YX_F32, VOCAB * RANK, 1);
    yx_operand E = {.dtype = YX_F32, .row = take_random(YX_F32, VOCAB * RANK, 1)};
    void *z = take_random(YX_F32, ROWS * RANK, 1);
    yx_head_args a = {ROWS,
                      RANK,
                      VOCAB,
                      YX_F32,
                      z,
                      E,
                      target,
                      1,
                      take_output(ROWS * sizeof(yx_real)),
                      take_output(ROWS * sizeof(yx_real)),
                      NULL,
                      take_output(ROWS * RANK * sizeof(yx_real))};
    RUN(head, &a);
    for (int i = 0; i < ROWS * RANK; i++) assert_true(a.loss[i / RANK] == 0 && ((yx_real *)a.dz)[i] == 0);
    track(dE, VOCAB * RANK * sizeof(yx_real));
    RUN(head_backward, &(yx_head_backward_args){ROWS, RANK, VOCAB, YX_F32, z, E, target, 1, a.lse, dE});
    assert_memory_equal(dE, outputs[3].initial, outputs[3].bytes);
}

// Without dz the losses are the same.
static void evaluation_only(void **state) {
    (void)state;
    enum { ROWS = 200, RANK = 64, VOCAB = 700 };
    int32_t target[ROWS];
    for (int i = 0; i < ROWS; i++) target[i] = i % 9 ? i * 3 : -1;
    double with = 0, without = 0;
    yx_real loss[ROWS], *other = take(sizeof loss);
    yx_head_args a = {ROWS,
                      RANK,
                      VOCAB,
                      YX_BF16,
                      take_random(YX_BF16, ROWS * RANK, 1),
                      {.dtype = YX_BF16, .row = take_random(YX_BF16, VOCAB * RANK, 1)},
                      target,
                      1,
                      take(ROWS * sizeof(yx_real)),
                      loss,
                      &with,
                      take(ROWS * RANK * 2)};
    ok(ops->head(devices[1], NULL, &a));
    a.dz = NULL, a.loss = other, a.loss_sum = &without;
    ok(ops->head(devices[1], NULL, &a));
    assert_memory_equal(loss, other, sizeof loss);
    assert_true(with == without && with > 0);
}

static void refuses(void **state) {
    (void)state;
    yx_head_args a = {.rows = 1, .rank = 100000, .vocab = 4};
    assert_int_equal(ops->head(devices[0], NULL, &a), YX_ERR_INTERNAL);
    yx_real E;
    yx_head_backward_args b = {.rows = 100000, .rank = 64, .vocab = 4, .E = {.row = &E}};
    assert_int_equal(ops->head_backward(devices[0], NULL, &b), YX_ERR_INTERNAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(head_equals_reference, release),
        cmocka_unit_test_teardown(nothing_is_scored, release),
        cmocka_unit_test_teardown(evaluation_only, release),
        cmocka_unit_test_teardown(refuses, release),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

// The head on the GPU against the matrix of logits in double.
#define GPU_TEST
#include "tests/kernels_fixture.h"
#include "tests/reference_head.h"

static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}
static int open_all(void **state) {
    (void)state;
    open_devices(&(yx_workspace_query){.rows = 24576,
                                       .hidden = 768,
                                       .heads = 12,
                                       .kv_heads = 2,
                                       .head_dim = 64,
                                       .intermediate = 2048,
                                       .rank = 256,
                                       .vocab = 200005,
                                       .act = YX_BF16});
    return 0;
}
static int close_all(void **state) {
    (void)state;
    close_devices();
    return 0;
}

// Normal numbers, by all threads.
static yx_bf16 *take_normal(int64_t n, int64_t used, double size) {
    yx_bf16 *x = take((size_t)n * sizeof *x);
    uint64_t key = 100 + random_index++;
#pragma omp parallel for num_threads(omp_get_num_procs())
    for (int64_t i = 0; i < used; i++) x[i] = yx_bf16_from_float((float)(size * yx_normal(9, key, (uint64_t)i)));
    return x;
}

// Arguments of a pass over `rows` tokens with everything allocated. What lies behind the vocabulary is NaN. Targets:
// the last word, then any, or one of `few` words; every `padding`-th token is not scored (0: all are).
static yx_head_args take_head(int64_t rows, int64_t rank, int64_t vocab, int64_t padding, int64_t few, double size) {
    int64_t padded = (vocab + 127) / 128 * 128;
    int32_t *target = take((size_t)rows * sizeof *target);
    for (int64_t i = 0; i < rows; i++)
        target[i] = padding && i % padding == padding - 1 ? -1
                    : i == 0                              ? (int32_t)(vocab - 1)
                                                          : (int32_t)random_below(few ? few : vocab);
    double *loss_sum = take(sizeof *loss_sum);
    *loss_sum = 3;
    return (yx_head_args){.rows = rows,
                          .rank = rank,
                          .vocab = vocab,
                          .act = YX_BF16,
                          .z = take_normal(rows * rank, rows * rank, 1),
                          .E = {.dtype = YX_BF16, .row = take_normal(padded * rank, vocab * rank, size)},
                          .target = target,
                          .grad_scale = 1.0 / (double)rows,
                          .lse = take_output((size_t)rows * sizeof(yx_real)),
                          .loss = take_output((size_t)rows * sizeof(yx_real)),
                          .loss_sum = track(loss_sum, sizeof *loss_sum),
                          .dz = take_output((size_t)(rows * rank) * sizeof(yx_bf16))};
}

static yx_head_backward_args backward_of(const yx_head_args *a, yx_real *dE) {
    return (yx_head_backward_args){
        a->rows, a->rank,   a->vocab,      a->act, a->z,
        a->E,    a->target, a->grad_scale, a->lse, track(dE, (size_t)(a->vocab * a->rank) * 4)};
}

static void check_unscored(const yx_head_args *a) {
    const yx_bf16 *dz = a->dz;
    for (int64_t i = 0; i < a->rows; i++) {
        if (a->target[i] >= 0) continue;
        assert_true(a->loss[i] == 0 && a->lse[i] == 0);
        for (int64_t c = 0; c < a->rank; c++) assert_int_equal(dz[i * a->rank + c], 0);
    }
}

// A loss is lse less the logit: where the two are close, fp32 leaves it a few units in the last place of lse.
static void check_losses(const yx_real *loss, const double *expected, const double *lse, int64_t n) {
    double difference = 0, size = 0, size_lse = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)loss[i] - expected[i]) * ((double)loss[i] - expected[i]);
        size += expected[i] * expected[i], size_lse += lse[i] * lse[i];
    }
    double bound = 1e-5 * sqrt(size) + 4e-7 * sqrt(size_lse);
    if (!(sqrt(difference) <= bound)) fail_msg("loss: error %.3g exceeds %.3g", sqrt(difference), bound);
}

// Everything `a` asks for, forward and backward.
static void check_all(yx_head_args a) {
    yx_real *dE = take_random(YX_F32, a.vocab * a.rank, 1e-3);
    head_reference r = take_head_reference(&a, take_values(YX_F32, dE, a.vocab * a.rank));
    RUN(head, &a);
    check_losses(a.loss, r.loss, r.lse, a.rows);
    CLOSE(YX_F32, a.lse, r.lse, a.rows);
    CLOSE(YX_BF16, a.dz, r.dz, a.rows * a.rank);
    double sum = 3;
    for (int64_t i = 0; i < a.rows; i++) sum += (double)a.loss[i];
    assert_true(fabs(*a.loss_sum - sum) <= 1e-12 * sum);
    check_unscored(&a);
    untrack_all();
    // What the products alone add, so that what dE starts with does not hide an error.
    double *added = take_doubles(a.vocab * a.rank), *before = take_values(YX_F32, dE, a.vocab * a.rank);
    yx_head_backward_args b = backward_of(&a, dE);
    RUN(head_backward, &b);
    for (int64_t i = 0; i < a.vocab * a.rank; i++) {
        added[i] = (double)dE[i] - before[i];
        r.dE[i] -= before[i];
    }
    double difference = 0, expected = 0;
    for (int64_t i = 0; i < a.vocab * a.rank; i++) {
        difference += (added[i] - r.dE[i]) * (added[i] - r.dE[i]);
        expected += r.dE[i] * r.dE[i];
    }
    if (!(difference <= 5e-3 * 5e-3 * expected)) fail_msg("dE: relative error %.3g", sqrt(difference / expected));
    release_all();
}

static void small_shapes(void **state) {
    (void)state;
    check_all(take_head(128, 128, 1000, 0, 0, 1));
    check_all(take_head(128, 64, 67, 3, 0, 1));
    check_all(take_head(256, 128, 517, 5, 0, 0.02));
    check_all(take_head(1, 128, 2, 0, 0, 1));
    check_all(take_head(130, 64, 1021, 5, 0, 1));
    check_all(take_head(97, 256, 130, 0, 0, 1));
    check_all(take_head(256, 64, 300, 2, 0, 8)); // logits beyond what exp can hold
    check_all(take_head(128, 128, 777, 0, 0, 6));
    check_all(take_head(192, 128, 64, 0, 3, 1)); // words that are the target of many tokens
}

// Several blocks in both directions; on a CPU as few as still are.
#ifdef EMULATED
enum { SHRINK = 4 };
#else
enum { SHRINK = 1 };
#endif
static void larger_shapes(void **state) {
    (void)state;
    check_all(take_head(384, 128, 5003 / SHRINK, 7, 0, 0.02));
    check_all(take_head(4096 / SHRINK, 128, 3001 / SHRINK, 0, 20, 0.1));
    check_all(take_head(2048 / SHRINK, 64, 4999 / SHRINK, 11, 0, 0.3));
    check_all(take_head(1152 / SHRINK, 256, 2049, 0, 0, 0.1));
    check_all(take_head(640 / SHRINK, 128, 20011, 0, 0, 0.2));
}

// Words grow more likely from first to last: the maximum rises all the way.
static void rising_scores(void **state) {
    (void)state;
    yx_head_args a = take_head(128, 64, 1500, 0, 0, 0.1);
    yx_bf16 *z = (yx_bf16 *)a.z, *E = a.E.row;
    for (int64_t i = 0; i < 128; i++) set(YX_BF16, z, i * 64, i % 3 ? 1 : -1);
    for (int64_t v = 0; v < 1500; v++) set(YX_BF16, E, v * 64, 0.4 * (double)v - 300);
    check_all(a);
}

// p of the target within 1e-3 of 1: what is left of p - 1 decides.
static void confident(void **state) {
    (void)state;
    yx_head_args a = take_head(256, 128, 900, 0, 0, 0.1);
    yx_bf16 *z = (yx_bf16 *)a.z;
    const yx_bf16 *E = a.E.row;
    for (int64_t i = 0; i < a.rows; i++)
        for (int64_t c = 0; c < 128; c++)
            set(YX_BF16, z, i * 128 + c, 10 * get(YX_BF16, E, a.target[i] * 128 + c) + 0.1 * random_normal());
    check_all(a);
}

// Tokens that are not scored, at the end and everywhere: nothing is written for them, or added.
static void padding(void **state) {
    (void)state;
    yx_head_args a = take_head(512, 128, 600, 4, 0, 1);
    for (int64_t i = 200; i < 512; i++) ((int32_t *)a.target)[i] = -1;
    check_all(a);

    a = take_head(256, 128, 600, 1, 0, 1);
    yx_real *dE = take_random(YX_F32, 600 * 128, 1);
    for (int64_t i = 0; i < 256; i++) assert_int_equal(a.target[i], -1);
    RUN(head, &a);
    check_unscored(&a);
    assert_true(*a.loss_sum == 3);
    untrack_all();
    yx_head_backward_args b = backward_of(&a, dE);
    RUN(head_backward, &b);
    assert_memory_equal(dE, outputs[0].initial, outputs[0].bytes);
}

// Without dz the losses have the same bits; loss_sum may be left out.
static void evaluation_only(void **state) {
    (void)state;
    enum { N = 1024 };
    yx_head_args a = take_head(N, 128, 3000, 9, 0, 0.3);
    yx_real loss[N], lse[N];
    RUN(head, &a);
    memcpy(loss, a.loss, sizeof loss), memcpy(lse, a.lse, sizeof lse);
    a.dz = NULL, a.loss_sum = NULL;
    RUN(head, &a);
    assert_memory_equal(loss, a.loss, sizeof loss);
    assert_memory_equal(lse, a.lse, sizeof lse);
}

// What is not finite does not pass unseen.
static void not_a_number(void **state) {
    (void)state;
    yx_head_args a = take_head(128, 128, 500, 0, 0, 1);
    set(YX_BF16, (void *)a.z, 77 * 128 + 5, (double)NAN);
    set(YX_BF16, (void *)a.z, 78 * 128 + 5, (double)INFINITY);
    for (int device = 0; device < 2; device++) { // NaN is not equal to itself: no tracked memory
        yx_head_args on_device = a;
        gpu_upload(devices[device]);
        gpu_translate(&on_device, sizeof on_device);
        ok(ops->head(devices[device], NULL, &on_device));
        gpu_download(devices[device]);
        for (int i = 0; i < 128; i++) assert_true((i == 77 || i == 78) == !isfinite(a.loss[i]));
        assert_true(!isfinite(*a.loss_sum));
        *a.loss_sum = 3;
    }
}

#ifndef EMULATED
// The model's vocabulary: a few tokens against everything, and a full micro-batch by samples.
static void model_shape(void **state) {
    (void)state;
    check_all(take_head(384, 128, 200005, 0, 0, 0.1));
}

static int64_t model_rows = 16384;
enum { RANK = 128, VOCAB = 200005, TOKENS = 64, WORDS = 96 };
static void check_tokens(const yx_head_args *a) {
    static double lse[TOKENS], loss[TOKENS], dz[TOKENS * RANK];
    static yx_real got_lse[TOKENS], got_loss[TOKENS];
    static yx_bf16 got_dz[TOKENS * RANK];
#pragma omp parallel for num_threads(omp_get_num_procs())
    for (int n = 0; n < TOKENS; n++) {
        int64_t i = n * (model_rows - 1) / (TOKENS - 1);
        double z[RANK], E[RANK], *p = malloc(VOCAB * sizeof *p), top = -INFINITY, sum = 0;
        for (int c = 0; c < RANK; c++) z[c] = get(YX_BF16, a->z, i * RANK + c), dz[n * RANK + c] = 0;
        for (int64_t v = 0; v < VOCAB; v++) {
            for (int c = 0; c < RANK; c++) E[c] = get(YX_BF16, a->E.row, v * RANK + c);
            p[v] = head_dot(z, E, RANK), top = fmax(top, p[v]);
        }
        for (int64_t v = 0; v < VOCAB; v++) sum += exp(p[v] - top);
        lse[n] = top + log(sum), loss[n] = lse[n] - p[a->target[i]];
        for (int64_t v = 0; v < VOCAB; v++) {
            double d = a->grad_scale * (exp(p[v] - lse[n]) - (v == a->target[i]));
            for (int c = 0; c < RANK; c++) dz[n * RANK + c] += d * get(YX_BF16, a->E.row, v * RANK + c);
        }
        got_lse[n] = a->lse[i], got_loss[n] = a->loss[i];
        memcpy(got_dz + n * RANK, (yx_bf16 *)a->dz + i * RANK, RANK * sizeof *got_dz);
        free(p);
    }
    CLOSE(YX_F32, got_lse, lse, TOKENS);
    CLOSE(YX_F32, got_loss, loss, TOKENS);
    CLOSE(YX_BF16, got_dz, dz, TOKENS * RANK);
}
static void check_words(const yx_head_args *a, const yx_real *dE) {
    double *z = take_values(YX_BF16, a->z, model_rows * RANK), *lse = take_values(YX_F32, a->lse, model_rows);
    static double expected[WORDS * RANK];
    static yx_real got[WORDS * RANK];
    memset(expected, 0, sizeof expected);
#pragma omp parallel for num_threads(omp_get_num_procs())
    for (int n = 0; n < WORDS; n++) {
        int64_t v = n < 32 ? a->target[n] : n < 64 ? VOCAB - 64 + n : (int64_t)n * 2000; // VOCAB - 1 is target[0]
        double E[RANK];
        for (int c = 0; c < RANK; c++) E[c] = get(YX_BF16, a->E.row, v * RANK + c);
        head_reference_word(a, z, E, v, lse, expected + n * RANK);
        memcpy(got + n * RANK, dE + v * RANK, RANK * sizeof *got);
    }
    CLOSE_WITHIN(YX_F32, got, expected, WORDS * RANK, 5e-3);
}
static void model_batch(void **state) {
    (void)state;
    yx_head_args a = take_head(model_rows, RANK, VOCAB, 0, 0, 0.15);
    yx_real *dE = take((size_t)VOCAB * RANK * sizeof *dE);
    memset(dE, 0, (size_t)VOCAB * RANK * sizeof *dE);
    RUN(head, &a);
    check_tokens(&a);
    untrack_all();
    yx_head_backward_args b = backward_of(&a, dE);
    RUN(head_backward, &b);
    check_words(&a, dE);
}
#endif

static void refuses(void **state) {
    (void)state;
    yx_head_args a = take_head(128, 128, 64, 0, 0, 1), wrong = a;
    wrong.rank = 96;
    assert_int_equal(ops->head(devices[0], NULL, &wrong), YX_ERR_CONFIG);
    wrong = a, wrong.act = YX_F32;
    assert_int_equal(ops->head(devices[0], NULL, &wrong), YX_ERR_UNAVAILABLE);
    wrong = a, wrong.E.dtype = YX_F32;
    assert_int_equal(ops->head(devices[0], NULL, &wrong), YX_ERR_UNAVAILABLE);
    yx_head_backward_args b = {.rows = 128, .rank = 192, .vocab = 64, .act = YX_BF16, .z = a.z, .E = a.E};
    assert_int_equal(ops->head_backward(devices[0], NULL, &b), YX_ERR_CONFIG);
    b.rank = 128, b.rows = 1 << 23;
    assert_int_equal(ops->head_backward(devices[0], NULL, &b), YX_ERR_INTERNAL); // the workspace
}

// An argument: the tokens of model_batch, 128 or more: fewer for compute-sanitizer's racecheck, which is slow.
int main(int argc, char **argv) {
#ifndef EMULATED
    if (argc > 1 && (model_rows = atoll(argv[1])) < 128) return 2;
#else
    (void)argc, (void)argv;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(small_shapes, release),  cmocka_unit_test_teardown(larger_shapes, release),
        cmocka_unit_test_teardown(rising_scores, release), cmocka_unit_test_teardown(confident, release),
        cmocka_unit_test_teardown(padding, release),       cmocka_unit_test_teardown(evaluation_only, release),
        cmocka_unit_test_teardown(not_a_number, release),  cmocka_unit_test_teardown(refuses, release),
#ifndef EMULATED
        cmocka_unit_test_teardown(model_shape, release),   cmocka_unit_test_teardown(model_batch, release),
#endif
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

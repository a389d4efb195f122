// Every parameter tensor's gradient against central differences, with the CPU kernels compiled in double.
#include "worker/model.h"
#include "common/rng.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { ROWS = 128, DIRECTIONS = 4, ENTRIES = 6 };

typedef struct fixture {
    yx_model *model;
    int32_t token[ROWS], target[ROWS], seq_start[ROWS];
    double scored;
} fixture;

// Packed documents of uneven length, a padded tail.
static void fill_batch(fixture *f, int64_t vocab, const int *lengths) {
    int row = 0, padded = ROWS - 5;
    f->scored = 0;
    for (int k = 0; row < padded; k++) {
        int start = row;
        for (int i = 0; i < lengths[k % 4] && row < padded; i++, row++) {
            f->token[row] = (int32_t)(yx_uniform(1, 0, (uint64_t)row) * (double)vocab);
            f->target[row] = row % 11 == 3 ? -1 : (int32_t)(yx_uniform(1, 1, (uint64_t)row) * (double)vocab);
            f->scored += f->target[row] >= 0;
            f->seq_start[row] = start;
        }
    }
    for (; row < ROWS; row++) f->token[row] = 0, f->target[row] = -1, f->seq_start[row] = row;
}

static double loss(fixture *f) {
    yx_model *m = f->model;
    model_batch batch = {ROWS, f->token, f->target, f->seq_start};
    m->scalars->loss_sum = 0;
    assert_int_equal(model_refresh_copies(m), YX_OK);
    assert_int_equal(model_run(m, &batch, MODEL_EVALUATE, 1 / f->scored, NULL), YX_OK);
    double sum = 0;
    for (int i = 0; i < ROWS; i++) sum += m->loss[i];
    return sum / f->scored;
}

// d loss / d (step along `direction`), fourth-order central difference.
static double numeric(fixture *f, yx_real *x, const double *direction, int64_t n) {
    static const double at[] = {-2, -1, 1, 2}, weight[] = {1, -8, 8, -1};
    double h = 1e-4, sum = 0, *saved = malloc((size_t)n * sizeof *saved);
    assert_non_null(saved);
    for (int64_t i = 0; i < n; i++) saved[i] = x[i];
    for (int k = 0; k < 4; k++) {
        for (int64_t i = 0; i < n; i++) x[i] = saved[i] + at[k] * h * direction[i];
        sum += weight[k] * loss(f);
    }
    for (int64_t i = 0; i < n; i++) x[i] = saved[i];
    free(saved);
    return sum / (12 * h);
}

// Random directions in each tensor, and its entries with the largest gradient one by one.
static double check_tensor(fixture *f, int64_t index) {
    yx_model *m = f->model;
    const param *p = &m->table.items[index];
    int64_t n = param_size(p);
    const yx_real *g = m->grads + p->offset;
    double norm = 0, worst = 0, *direction = malloc((size_t)n * sizeof *direction);
    assert_non_null(direction);
    for (int64_t i = 0; i < n; i++) norm += g[i] * g[i];
    norm = sqrt(norm);
    assert_true(norm > 0);
    for (int k = 0; k < DIRECTIONS + ENTRIES; k++) {
        double exact = 0;
        int64_t only = (int64_t)(yx_uniform(9, (uint64_t)index, (uint64_t)k) * (double)n);
        for (int64_t i = 0; i < n; i++) {
            direction[i] = k >= DIRECTIONS
                               ? i == only
                               : yx_normal(7, (uint64_t)(index * 100 + k), (uint64_t)i) / sqrt((double)n) + g[i] / norm;
            exact += direction[i] * g[i];
        }
        double error = fabs(numeric(f, m->params + p->offset, direction, n) - exact) / norm;
        if (error > worst) worst = error;
    }
    free(direction);
    return worst;
}

static void check_model(int64_t heads, int64_t kv_heads, const int *lengths) {
    const yx_ops *ops = kernels_cpu();
    yx_device *device;
    fixture f;
    config_model c = {.hidden_size = 48,
                      .num_layers = 2,
                      .num_attention_heads = heads,
                      .num_key_value_heads = kv_heads,
                      .head_dim = 8,
                      .intermediate_size = 40,
                      .vocab_size = 101,
                      .embedding_rank = 16,
                      .max_position_embeddings = 512,
                      .rope_theta = 10000,
                      .rms_norm_eps = 1e-5,
                      .initializer_range = 0.3};
    assert_int_equal(ops->open(0, NULL, &device), YX_OK);
    assert_int_equal(
        model_create(ops, device, &c,
                     &(model_options){.precision = {.precision = PRECISION_FP32}, .max_rows = ROWS, .training = true},
                     &f.model),
        YX_OK);
    yx_model *m = f.model;
    assert_int_equal(model_init(m, 3), YX_OK);
    for (int64_t i = 0; i < m->table.count; i++) // gains away from 1
        if (!m->table.items[i].cols)
            for (int64_t k = 0; k < m->table.items[i].rows; k++)
                m->params[m->table.items[i].offset + k] += 0.3 * yx_normal(5, (uint64_t)i, (uint64_t)k);
    fill_batch(&f, c.vocab_size, lengths);
    model_batch batch = {ROWS, f.token, f.target, f.seq_start};
    assert_int_equal(ops->zero(device, NULL, m->grads, (size_t)m->table.elements * sizeof(yx_real)), YX_OK);
    m->scalars->loss_sum = 0;
    assert_int_equal(model_refresh_copies(m), YX_OK);
    assert_int_equal(model_run(m, &batch, MODEL_TRAIN, 1 / f.scored, NULL), YX_OK);
    assert_true(fabs(m->scalars->loss_sum / f.scored - loss(&f)) < 1e-12);
    double worst = 0;
    for (int64_t i = 0; i < m->table.count; i++) {
        double error = check_tensor(&f, i);
        if (error > 1e-6) print_error("%s: relative error %.2e\n", m->table.items[i].name, error);
        assert_true(error <= 1e-6);
        if (error > worst) worst = error;
    }
    print_message("%lld:%lld heads: worst relative gradient error of %lld tensors %.1e\n", (long long)heads,
                  (long long)kv_heads, (long long)m->table.count, worst);
    model_free(m);
    ops->close(device);
}

static void test_gradients(void **state) {
    (void)state;
    check_model(6, 1, (const int[]){1, 7, 30, 16});
    check_model(6, 2, (const int[]){8, 8, 8, 8});
    check_model(4, 4, (const int[]){100, 3, 2, 5});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

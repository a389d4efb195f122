// Limits on a step's loss and gradient norm.
#include "coordinator/spike.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

// Takes a step; whether it was left out.
static bool take(spike_watch *w, ledger *l, int64_t step, double loss, double norm) {
    spike_before_step(w, false, true);
    worker_step_result r = {.loss = loss, .grad_norm = norm};
    r.skipped = (w->loss_limit > 0 && loss > w->loss_limit) || (w->norm_limit > 0 && norm > w->norm_limit);
    assert_int_equal(spike_after_step(w, step, &r, l, false), YX_OK);
    return r.skipped;
}

// A loss that alternates around 3 and a norm around 1.
static void settle(spike_watch *w, ledger *l, int steps) {
    for (int i = 0; i < steps; i++) assert_false(take(w, l, i + 1, i % 2 ? 3.1 : 2.9, i % 2 ? 0.8 : 1.2));
}

static void limits_are_mean_and_deviations(void **state) {
    (void)state;
    ledger l;
    spike_watch w = {.sigma = 4};
    assert_int_equal(ledger_create(&l), YX_OK);
    settle(&w, &l, SPIKE_LEAST - 1);
    spike_before_step(&w, false, true);
    assert_true(w.loss_limit == 0 && w.norm_limit == 0);
    assert_false(take(&w, &l, SPIKE_LEAST, 3.1, 0.8));
    spike_before_step(&w, false, true);
    double deviation = sqrt(SPIKE_LEAST / (SPIKE_LEAST - 1.0)); // of ±1, of a sample
    assert_true(fabs(w.loss_limit - (3 + 4 * 0.1 * deviation)) < 1e-12);
    assert_true(fabs(w.norm_limit - (1 + 4 * 0.2 * deviation)) < 1e-12);
    assert_true(take(&w, &l, 40, 3, 3));
    assert_true(take(&w, &l, 41, 9, 1));
    assert_int_equal(json_array_size(l.entries), 2);
    assert_int_equal(ledger_in_a_row(&l, "spike", 41), 2);
    assert_int_equal(ledger_in_a_row(&l, "spike", 42), 0);
    assert_int_equal(ledger_in_a_row(&l, "skip", 41), 0);
    spike_before_step(&w, true, true);
    assert_true(w.loss_limit == 0 && w.norm_limit == 0);
    ledger_free(&l);
}

// A short step has no limit and says nothing of the others.
static void short_steps_do_not_count(void **state) {
    (void)state;
    ledger l;
    spike_watch w = {.sigma = 3};
    assert_int_equal(ledger_create(&l), YX_OK);
    settle(&w, &l, SPIKE_LEAST);
    spike_before_step(&w, false, false);
    assert_true(w.loss_limit == 0 && w.norm_limit == 0);
    const worker_step_result r = {.loss = 9, .grad_norm = 9};
    assert_int_equal(spike_after_step(&w, 100, &r, &l, false), YX_OK);
    assert_int_equal(w.count, SPIKE_LEAST);
    spike_before_step(&w, false, true);
    assert_true(w.loss_limit > 3 && w.loss_limit < 4);
    ledger_free(&l);
}

// With any factor a level that stays is left out for a while, then usual.
static void a_level_that_stays_becomes_usual(void **state) {
    (void)state;
    for (double sigma = 2; sigma <= 8; sigma += 1) {
        ledger l;
        spike_watch w = {.sigma = sigma};
        int left_out = 0;
        assert_int_equal(ledger_create(&l), YX_OK);
        settle(&w, &l, 3 * SPIKE_WINDOW);
        assert_int_equal(w.count, SPIKE_WINDOW);
        while (left_out < SPIKE_WINDOW && take(&w, &l, 1000 + left_out, 3, 50)) left_out++;
        assert_in_range(left_out, 1, 32);
        ledger_free(&l);
    }
}

static void nothing_without_sigma_or_of_what_is_not_finite(void **state) {
    (void)state;
    ledger l;
    spike_watch w = {.sigma = 0};
    assert_int_equal(ledger_create(&l), YX_OK);
    settle(&w, &l, SPIKE_WINDOW);
    assert_false(take(&w, &l, 200, 100, 100));
    w.sigma = 3;
    settle(&w, &l, SPIKE_LEAST);
    const worker_step_result broken = {.loss = 3, .grad_norm = NAN, .skipped = true};
    assert_int_equal(spike_after_step(&w, 300, &broken, &l, false), YX_OK);
    assert_int_equal(w.count, SPIKE_LEAST);
    assert_int_equal(json_array_size(l.entries), 0);
    ledger_free(&l);
}

static void the_window_is_kept(void **state) {
    (void)state;
    ledger l;
    spike_watch a = {.sigma = 3}, b = {.sigma = 3};
    assert_int_equal(ledger_create(&l), YX_OK);
    settle(&a, &l, SPIKE_WINDOW + 7);
    json_t *window = spike_to_json(&a);
    char *text = json_dumps(window, JSON_REAL_PRECISION(17));
    json_t *read = json_loads(text, 0, NULL);
    spike_from_json(&b, read);
    assert_int_equal(b.count, SPIKE_WINDOW);
    assert_memory_equal(&a.loss, &b.loss, sizeof a.loss);
    assert_memory_equal(&a.grad_norm, &b.grad_norm, sizeof a.grad_norm);
    json_array_append_new(json_object_get(read, "loss"), json_real(1)); // another number of them
    spike_from_json(&b, read);
    assert_int_equal(b.count, 0);
    json_object_set_new(read, "loss", json_pack("[s]", "x"));
    json_object_set_new(read, "grad_norm", json_pack("[f]", 1.0));
    spike_from_json(&b, read);
    assert_int_equal(b.count, 0);
    spike_from_json(&b, NULL);
    assert_int_equal(b.count, 0);
    json_decref(read);
    json_decref(window);
    free(text);
    ledger_free(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_are_mean_and_deviations), cmocka_unit_test(short_steps_do_not_count),
        cmocka_unit_test(a_level_that_stays_becomes_usual),
        cmocka_unit_test(nothing_without_sigma_or_of_what_is_not_finite), cmocka_unit_test(the_window_is_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

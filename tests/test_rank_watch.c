// Which rank holds up the others.
#include "coordinator/rank_watch.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { STEPS = 50 };

// Seconds a step: computing, waiting for data.
static int slowest(const double (*each)[2], int size, bool *by_data, double *ratio) {
    rank_sums sums[8] = {{0}};
    for (int r = 0; r < size; r++) sums[r].compute = each[r][0] * STEPS, sums[r].data_wait = each[r][1] * STEPS;
    return rank_watch_slowest(sums, size, STEPS, by_data, ratio);
}

static void test_slowest(void **state) {
    (void)state;
    bool by_data;
    double ratio;
    const double even[][2] = {{0.100, 0.001}, {0.101, 0}, {0.120, 0}, {0.099, 0.002}};
    assert_int_equal(slowest(even, 4, &by_data, &ratio), -1);
    const double one[][2] = {{0.100, 0}, {0.1, 0}, {0.15, 0}, {0.1, 0}};
    assert_int_equal(slowest(one, 4, &by_data, &ratio), 2);
    assert_true(!by_data && ratio > 1.49 && ratio < 1.51);
    const double of_two[][2] = {{0.2, 0}, {0.1, 0}};
    assert_int_equal(slowest(of_two, 2, &by_data, &ratio), 0);
    const double data[][2] = {{0.1, 0}, {0.1, 0}, {0.1, 0.05}};
    assert_int_equal(slowest(data, 3, &by_data, &ratio), 2);
    assert_true(by_data && ratio > 1.49 && ratio < 1.51);
    const double quick[][2] = {{0.001, 0}, {0.001, 0}, {0.002, 0}}; // a millisecond is noise
    assert_int_equal(slowest(quick, 3, &by_data, &ratio), -1);
    assert_int_equal(slowest(one, 1, &by_data, &ratio), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_slowest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

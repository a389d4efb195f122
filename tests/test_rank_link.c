// What is made of the times of sums between ranks.
#include "coordinator/rank_link.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static bool near(double a, double b) { return fabs(a - b) < 1e-9 * fabs(b); }

static void bandwidth(void **state) {
    (void)state;
    // 64 MB in 10 ms: two ranks send each byte once, four ranks one and a half times, in a whole sum.
    assert_true(near(rank_link_bandwidth(2, 64000000, 0.01, true), 6.4e9));
    assert_true(near(rank_link_bandwidth(4, 64000000, 0.01, true), 9.6e9));
    assert_true(near(rank_link_bandwidth(4, 64000000, 0.01, false), 4.8e9));
}

static void bucket(void **state) {
    (void)state;
    // 20 × 50 µs × 10 GB/s = 10 MB over the connection.
    assert_int_equal(rank_link_bucket(2, 50e-6, 10e9), 16); // 10 MB of gradients: 9.5 MiB
    assert_int_equal(rank_link_bucket(8, 50e-6, 10e9), 8);  // 10 / 1.75 MB
    assert_int_equal(rank_link_bucket(2, 10e-6, 1e9), 4);
    assert_int_equal(rank_link_bucket(2, 30e-6, 300e9), 64); // 180 MB
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(bandwidth), cmocka_unit_test(bucket)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

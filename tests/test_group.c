// Groups of processes. Alone it tests the group of one; under mpirun (tests/test_group_mpi.py) and over TCP
// (tests/test_group_tcp.py) the same checks on all ranks. With an argument, misbehaviour: "leave" (rank 1 ends after
// the first exchange), "sleep" (rank 1 does not come to the second).
#include "comm/comm.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static yx_group *group;

static void test_membership(void **state) {
    (void)state;
    const char *launched = getenv("EXPECTED_RANKS") ? getenv("EXPECTED_RANKS") : getenv("OMPI_COMM_WORLD_SIZE");
    const char *backend = getenv("EXPECTED_BACKEND");
    assert_int_equal(group_size(group), launched ? atoi(launched) : 1);
    assert_in_range(group_rank(group), 0, group_size(group) - 1);
    assert_int_equal(group_local_size(group), group_size(group)); // one host
    assert_string_equal(group_backend(group), group_size(group) == 1 ? "solo" : backend ? backend : "mpi");
}

static void test_broadcast(void **state) {
    (void)state;
    int root = group_size(group) - 1, value[3] = {group_rank(group), 7, -group_rank(group)};
    assert_int_equal(group_broadcast(group, value, sizeof value, root), YX_OK);
    assert_int_equal(value[0], root);
    assert_int_equal(value[2], -root);
}

// What rank r contributes at i.
static float part(int rank, size_t i) { return (float)((i * 2654435761u + (size_t)rank * 40503u) % 1000) / 997.0f; }

// More than one exchange, a count that no number of ranks divides; the order of the sum is that of the ranks.
static void test_sum_in_rank_order(void **state) {
    (void)state;
    size_t n = 3 * (1 << 20) + 17;
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = part(group_rank(group), i);
    assert_int_equal(group_all_reduce(group, x, n, GROUP_F32, GROUP_SUM), YX_OK);
    for (size_t i = 0; i < n; i++) {
        float expected = part(0, i);
        for (int r = 1; r < group_size(group); r++) expected += part(r, i);
        if (memcmp(&x[i], &expected, sizeof expected) != 0) fail_msg("element %zu: %.9g, not %.9g", i, x[i], expected);
    }
    free(x);
}

static void test_maximum(void **state) {
    (void)state;
    int rank = group_rank(group), last = group_size(group) - 1;
    float x[3] = {(float)rank, (float)-rank, rank == last ? NAN : 1};
    assert_int_equal(group_all_reduce(group, x, 3, GROUP_F32, GROUP_MAX), YX_OK);
    assert_true(x[0] == (float)last && x[1] == 0 && isnan(x[2]));
    uint64_t u[2] = {(uint64_t)rank << 60, UINT64_MAX - (uint64_t)rank};
    assert_int_equal(group_all_reduce(group, u, 2, GROUP_U64, GROUP_MAX), YX_OK);
    assert_true(u[0] == (uint64_t)last << 60 && u[1] == UINT64_MAX);
    double d = 0.1 * (rank + 1), sum = 0.1;
    for (int r = 1; r <= last; r++) sum += 0.1 * (r + 1);
    assert_int_equal(group_all_reduce(group, &d, 1, GROUP_F64, GROUP_SUM), YX_OK);
    assert_true(d == sum);
}

static void test_agree(void **state) {
    (void)state;
    assert_int_equal(group_agree(group, YX_OK), YX_OK);
    assert_int_equal(group_failed_rank(group), -1);
    int last = group_size(group) - 1;
    bool fails = group_rank(group) == last;
    yx_status mine = fails ? yx_fail(YX_ERR_DATA, "mine") : YX_OK;
    assert_int_equal(group_agree(group, mine), YX_ERR_DATA);
    char expected[64];
    snprintf(expected, sizeof expected, "rank %d failed (data error)", last);
    assert_string_equal(yx_message(), fails ? "mine" : expected);
    assert_int_equal(group_failed_rank(group), last > 0 ? last : -1);
    mine = group_rank(group) == 0 ? yx_fail(YX_ERR_IO, "mine") : fails ? YX_ERR_DATA : YX_OK;
    assert_int_equal(group_agree(group, mine), YX_ERR_IO); // one status on all ranks: that of the lowest
    assert_int_equal(group_failed_rank(group), last > 0 ? 0 : -1);
    assert_int_equal(group_barrier(group), YX_OK);
}

static int misbehave(const char *how) {
    char data[8][1024] = {{0}};
    yx_status status = group_barrier(group);
    if (status == YX_OK && group_rank(group) == 1) {
        if (strcmp(how, "leave") == 0) _exit(3);
        sleep(60);
    }
    if (group_rank(group) == 2) usleep(700000); // still computes when the others notice
    if (status == YX_OK) status = group_all_gather(group, data, sizeof data[0]);
    fprintf(stderr, "rank %d: %s\n", group_rank(group), status == YX_OK ? "ok" : yx_message());
    if (status != YX_OK) group_abort(group, (int)status);
    return (int)status;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_membership), cmocka_unit_test(test_broadcast),
                                       cmocka_unit_test(test_sum_in_rank_order), cmocka_unit_test(test_maximum),
                                       cmocka_unit_test(test_agree)};
    if (group_open(&group) != YX_OK) {
        fprintf(stderr, "%s\n", yx_message());
        return 1;
    }
    if (argc > 1) return misbehave(argv[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) group_abort(group, 1);
    group_close(group);
    return failed;
}

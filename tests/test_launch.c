// What is read from the environment of the launchers.
#include "comm/launch.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const VARIABLES[] = {"YX_RANK",
                                        "YX_RANKS",
                                        "YX_RENDEZVOUS",
                                        "YX_TOKEN",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_LOCAL_SIZE",
                                        "PMIX_NAMESPACE",
                                        "PMIX_RANK",
                                        "PMI_RANK",
                                        "PMI_SIZE",
                                        "PMI_FD",
                                        "SLURM_STEP_NUM_TASKS",
                                        "SLURM_PROCID",
                                        "SLURM_JOB_ID",
                                        "SLURM_STEP_ID",
                                        "SLURM_STEP_NODELIST",
                                        "SLURM_NODEID",
                                        "OMPI_MCA_ess_base_jobid"};

// Pairs of name and value, then NULL.
static launch_info read_with(yx_status expected, const char *const *pairs) {
    launch_info found;
    for (size_t i = 0; i < sizeof VARIABLES / sizeof *VARIABLES; i++) unsetenv(VARIABLES[i]);
    for (; *pairs; pairs += 2) setenv(pairs[0], pairs[1], 1);
    assert_int_equal(launch_read(&found), expected);
    return found;
}
#define READ(...) read_with(YX_OK, (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
#define REFUSE(...) read_with(YX_ERR_USAGE, (const char *const[]){__VA_ARGS__, NULL})

static void test_alone(void **state) {
    (void)state;
    launch_info one = READ();
    assert_true(one.kind == LAUNCH_NONE && one.rank == 0 && one.size == 1 && !one.rendezvous[0]);
    // The script of a job, and a shell inside an allocation: no step, one process.
    one = READ("SLURM_JOB_ID", "7", "SLURM_PROCID", "0");
    assert_true(one.kind == LAUNCH_NONE && one.size == 1);
}

static void test_srun(void **state) {
    (void)state;
    launch_info step = READ("SLURM_STEP_NUM_TASKS", "6", "SLURM_PROCID", "5", "SLURM_JOB_ID", "1234", "SLURM_STEP_ID",
                            "2", "SLURM_STEP_NODELIST", "gpu[07-09,12]", "SLURM_NODEID", "2");
    assert_true(step.kind == LAUNCH_SRUN && step.rank == 5 && step.size == 6);
    assert_string_equal(step.rendezvous, "gpu07:25660"); // 20000 + (37·1234 + 2) mod 20000
    assert_string_equal(step.token, "slurm-1234.2");
    assert_string_equal(step.node, "node 2");
    step = READ("SLURM_STEP_NUM_TASKS", "6", "SLURM_PROCID", "5", "SLURM_JOB_ID", "1234", "SLURM_STEP_ID", "2",
                "PMIX_RANK", "5", "SLURM_STEP_NODELIST", "a", "YX_RENDEZVOUS", "10.0.0.1:99");
    assert_true(step.kind == LAUNCH_PMI);
    assert_string_equal(step.rendezvous, "10.0.0.1:99");
    REFUSE("SLURM_STEP_NUM_TASKS", "6", "SLURM_PROCID", "6");
}

static void test_mpirun(void **state) {
    (void)state;
    launch_info here = READ("OMPI_COMM_WORLD_SIZE", "3", "OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_LOCAL_SIZE", "3",
                            "PMIX_NAMESPACE", "job/5");
    assert_true(here.kind == LAUNCH_MPIRUN && here.rank == 1 && here.size == 3);
    assert_non_null(strstr(here.rendezvous, "-job-5"));
    here =
        READ("OMPI_COMM_WORLD_SIZE", "3", "OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_LOCAL_SIZE", "2", // two hosts
             "PMIX_NAMESPACE", "job/5");
    assert_int_equal(here.rendezvous[0], 0);
    here = READ("PMI_SIZE", "4", "PMI_RANK", "2");
    assert_true(here.kind == LAUNCH_PMI && here.size == 4);
}

static void test_by_hand(void **state) {
    (void)state;
    launch_info own =
        READ("YX_RANK", "1", "YX_RANKS", "2", "YX_RENDEZVOUS", "file:/shared/x", "OMPI_COMM_WORLD_SIZE", "9");
    assert_true(own.kind == LAUNCH_HAND && own.rank == 1 && own.size == 2);
    REFUSE("YX_RANK", "2", "YX_RANKS", "2", "YX_RENDEZVOUS", "a:1");
    REFUSE("YX_RANK", "1");
    REFUSE("YX_RANKS", "2");
    REFUSE("YX_RANK", "x", "YX_RANKS", "2", "YX_RENDEZVOUS", "a:1");
    REFUSE("YX_RANK", "1", "YX_RANKS", "2");
    assert_non_null(strstr(yx_message(), "YX_RENDEZVOUS"));
}

static void test_node_lists(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"login1", "login1"},
                                           {"a,b", "a"},
                                           {"gpu[07-09,12],login1", "gpu07"},
                                           {"n[3]", "n3"},
                                           {"n[3,5]-ib,x", "n3-ib"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char found[64];
        launch_first_host(cases[i][0], found, sizeof found);
        assert_string_equal(found, cases[i][1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alone), cmocka_unit_test(test_srun),
                                       cmocka_unit_test(test_mpirun), cmocka_unit_test(test_by_hand),
                                       cmocka_unit_test(test_node_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

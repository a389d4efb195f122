// Checkpoints: what is written is read back; writers that die leave the last good one; damage is found; old ones are
// pruned.
#include "io/checkpoint.h"
#include "common/file.h"
#include "common/log.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { ROWS = 300, COLS = 70, KILLS = 25 };
static char run[64];
static float matrix[ROWS * COLS], vector[ROWS];

static int make_run(void **state) {
    (void)state;
    strcpy(run, "/tmp/yxanul-checkpoint-XXXXXX");
    return mkdtemp(run) ? 0 : -1;
}

static int remove_run(void **state) {
    (void)state;
    return yx_remove_tree(run) == YX_OK ? 0 : -1;
}

static void fill(int64_t step) {
    for (int i = 0; i < ROWS * COLS; i++) matrix[i] = (float)(step * 1000 + i);
    for (int i = 0; i < ROWS; i++) vector[i] = (float)(step - i);
}

static yx_status save(int64_t step, int64_t keep_last, int64_t keep_every) {
    const checkpoint_tensor tensors[] = {{"layers.0.qkv.weight", ROWS, COLS, matrix},
                                         {"moment1/norm.weight", ROWS, 0, vector}};
    const checkpoint_options options = {keep_last, keep_every};
    fill(step);
    json_t *meta = json_pack("{s:I}", "step", (json_int_t)step);
    yx_status status = checkpoint_write(run, step, tensors, 2, meta, NULL, &options);
    json_decref(meta);
    return status;
}

// The step of the newest checkpoint that can be used, with its content checked; 0 when there is none.
static int64_t newest(void) {
    static float a[ROWS * COLS], b[ROWS];
    const checkpoint_tensor tensors[] = {{"moment1/norm.weight", ROWS, 0, b}, {"layers.0.qkv.weight", ROWS, COLS, a}};
    checkpoint *c;
    assert_int_equal(checkpoint_open(run, &c), YX_OK);
    if (!c) return 0;
    int64_t step = json_integer_value(json_object_get(checkpoint_meta(c), "step"));
    assert_int_equal(checkpoint_read(c, tensors, 2), YX_OK);
    fill(step);
    assert_memory_equal(a, matrix, sizeof a);
    assert_memory_equal(b, vector, sizeof b);
    checkpoint_close(c);
    return step;
}

static void path_of(int64_t step, const char *file, char out[256]) {
    snprintf(out, 256, "%s/checkpoints/step_%09lld%s%s", run, (long long)step, *file ? "/" : "", file);
}
static bool exists(int64_t step) {
    char path[256];
    path_of(step, "", path);
    return yx_path_exists(path);
}

static void test_round_trip(void **state) {
    (void)state;
    assert_int_equal(newest(), 0);
    assert_int_equal(save(7, 2, 0), YX_OK);
    assert_int_equal(newest(), 7);
    assert_int_equal(save(7, 2, 0), YX_OK); // again: replaced
    assert_int_equal(newest(), 7);
}

static void test_pruning(void **state) {
    (void)state;
    // By number, not by name: 99 < 100 < 1000000000.
    const int64_t steps[] = {50, 99, 100, 120, 1000000000};
    for (int i = 0; i < 5; i++) assert_int_equal(save(steps[i], 2, 50), YX_OK);
    assert_true(exists(50) && exists(100) && exists(120) && exists(1000000000));
    assert_false(exists(99));
    assert_int_equal(newest(), 1000000000);
    assert_int_equal(save(60, 1, 0), YX_OK); // started over from before: what came later goes
    assert_int_equal(newest(), 60);
    assert_false(exists(120));
}

static void damage(int64_t step, const char *file, double where) {
    char path[256];
    path_of(step, file, path);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long at = (long)((double)ftell(f) * where);
    fseek(f, at, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(byte ^ 0x10, f);
    fclose(f);
}

static void test_damage(void **state) {
    (void)state;
    checkpoint *c;
    char path[256];
    yx_log_setup(YX_LOG_ERROR, -1);
    for (int64_t step = 1; step <= 4; step++) assert_int_equal(save(step, 0, 0), YX_OK);
    damage(4, "state.h5", 0.7);
    assert_int_equal(newest(), 3);
    path_of(3, "state.h5", path);
    assert_int_equal(truncate(path, 5000), 0);
    assert_int_equal(newest(), 2);
    path_of(2, "manifest.json", path);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(newest(), 1);
    damage(1, "state.h5", 0.3);
    assert_int_equal(checkpoint_open(run, &c), YX_ERR_DATA); // never a silent fresh start
    yx_log_setup(YX_LOG_INFO, -1);
}

static void test_shapes(void **state) {
    (void)state;
    checkpoint *c;
    float *x = matrix;
    assert_int_equal(save(1, 0, 0), YX_OK);
    assert_int_equal(checkpoint_open(run, &c), YX_OK);
    const checkpoint_tensor other = {"layers.0.qkv.weight", COLS, ROWS, x},
                            missing = {"layers.9.qkv.weight", ROWS, COLS, x};
    assert_int_equal(checkpoint_read(c, &other, 1), YX_ERR_MISMATCH);
    assert_int_equal(checkpoint_read(c, &missing, 1), YX_ERR_MISMATCH);
    checkpoint_close(c);
}

// A writer killed at any moment leaves the one before, or the new one, whole.
static void test_kill(void **state) {
    (void)state;
    int64_t last = 0;
    for (int k = 0; k < KILLS; k++) {
        pid_t writer = fork();
        if (writer == 0) {
            for (int64_t step = last + 1;; step++)
                if (save(step, 2, 0) != YX_OK) _exit(1);
        }
        usleep((useconds_t)(2000 + 1700 * k));
        kill(writer, SIGKILL);
        waitpid(writer, NULL, 0);
        int64_t step = newest();
        assert_true(step >= last);
        last = step;
    }
    assert_true(last > 0);
    assert_int_equal(save(last + 1, 1, 0), YX_OK); // and what the dead left is gone
    char path[256], command[300];
    snprintf(path, sizeof path, "%s/checkpoints", run);
    snprintf(command, sizeof command, "test $(ls %s | wc -l) = 2", path); // the checkpoint and LATEST
    assert_int_equal(system(command), 0);
}

// A file that cannot grow, as on a full disk: an error, the old checkpoint stays, no partial folder.
static void test_full_disk(void **state) {
    (void)state;
    assert_int_equal(save(1, 0, 0), YX_OK);
    pid_t writer = fork();
    if (writer == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){20000, 20000});
        _exit(save(2, 0, 0) == YX_OK ? 1 : 0);
    }
    int status;
    waitpid(writer, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(newest(), 1);
    assert_false(exists(2));
    char command[300];
    snprintf(command, sizeof command, "test $(ls %s/checkpoints | wc -l) = 2", run);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, make_run, remove_run),
        cmocka_unit_test_setup_teardown(test_pruning, make_run, remove_run),
        cmocka_unit_test_setup_teardown(test_damage, make_run, remove_run),
        cmocka_unit_test_setup_teardown(test_shapes, make_run, remove_run),
        cmocka_unit_test_setup_teardown(test_kill, make_run, remove_run),
        cmocka_unit_test_setup_teardown(test_full_disk, make_run, remove_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

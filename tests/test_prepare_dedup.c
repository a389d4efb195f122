// Near-duplicates: how often two texts share a band against the formula, what does not count as a difference, and the
// index that a later process takes up.
#include "common/file.h"
#include "common/log.h"
#include "common/rng.h"
#include "io/dedup.h"
#include "io/dedup_set.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char path[] = "/tmp/yx-dedup-XXXXXX";

// `n` words, numbers from `first` on; `run` makes them other words.
static void put_words(char *out, uint64_t run, int first, int n) {
    for (int i = 0; i < n; i++)
        out += sprintf(out, "w%llx ", (unsigned long long)(yx_mix64(run, (uint64_t)(first + i)) >> 24));
}

static bool share_a_band(const char *a, const char *b) {
    uint64_t x[DEDUP_BANDS], y[DEDUP_BANDS];
    assert_true(dedup_sign(a, strlen(a), x) && dedup_sign(b, strlen(b), y));
    bool shared = false;
    for (int i = 0; i < DEDUP_BANDS; i++) shared = shared || x[i] == y[i];
    return shared;
}

// Two texts of n words, the second `shift` words further: n - 4 grams each, of which n - 4 - shift are common.
static void bands_follow_the_formula(void **state) {
    (void)state;
    enum { WORDS = 304, GRAMS = WORDS - DEDUP_WORDS + 1, TRIALS = 600 };
    static const int shifts[] = {150, 100, 50, 33, 16, 5};
    static char a[WORDS * 16], b[WORDS * 16];
    for (size_t k = 0; k < sizeof shifts / sizeof *shifts; k++) {
        double s = (double)(GRAMS - shifts[k]) / (GRAMS + shifts[k]);
        double expected = 1 - pow(1 - pow(s, DEDUP_ROWS), DEDUP_BANDS);
        int shared = 0;
        for (uint64_t trial = 0; trial < TRIALS; trial++) {
            put_words(a, trial, 0, WORDS);
            put_words(b, trial, shifts[k], WORDS);
            shared += share_a_band(a, b);
        }
        double sigma = sqrt(TRIALS * expected * (1 - expected)) + 1;
        if (fabs(shared - TRIALS * expected) > 5 * sigma)
            fail_msg("similarity %.3f: %d of %d share a band, %.1f expected", s, shared, TRIALS, TRIALS * expected);
    }
}

static void only_the_words_count(void **state) {
    (void)state;
    uint64_t a[DEDUP_BANDS], b[DEDUP_BANDS];
    static const char text[] = "The quick brown fox jumps over the lazy dog, twice; 42 times in Zürich.";
    static const char same[] = "  the QUICK brown\nfox - jumps (over) the lazy dog twice 42 TIMES in Zürich";
    static const char other[] = "The quick brown fox jumps over the lazy dog, twice; 43 times in Zürich.";
    assert_true(dedup_sign(text, strlen(text), a) && dedup_sign(same, strlen(same), b));
    assert_memory_equal(a, b, sizeof a);
    assert_true(dedup_sign(other, strlen(other), b));
    assert_memory_not_equal(a, b, sizeof a);
    assert_true(dedup_sign("two words", 9, a) && dedup_sign("two Words!", 10, b)); // fewer than a gram
    assert_memory_equal(a, b, sizeof a);
    assert_true(dedup_sign("two", 3, b));
    assert_memory_not_equal(a, b, sizeof a);
    assert_false(dedup_sign("", 0, a));
    assert_false(dedup_sign(" .,;!? --\n", 10, a));
}

static void bands_of(uint64_t document, uint64_t bands[DEDUP_BANDS]) {
    for (uint64_t i = 0; i < DEDUP_BANDS; i++) bands[i] = yx_mix64(document, i);
}

static void the_index_is_taken_up_again(void **state) {
    (void)state;
    uint64_t bands[DEDUP_BANDS];
    dedup_index *d;
    int64_t documents = 0;
    assert_int_equal(dedup_index_open(path, 0, &d), YX_OK);
    for (uint64_t i = 0; i < 1000; i++) {
        bands_of(i, bands);
        assert_false(dedup_index_has(d, bands));
        assert_int_equal(dedup_index_add(d, bands), YX_OK);
        if (i == 599) assert_int_equal(dedup_index_sync(d, &documents), YX_OK);
    }
    assert_int_equal(documents, 600);
    dedup_index_close(d);
    for (int round = 0; round < 2; round++) { // the second time from the shortened file
        assert_int_equal(dedup_index_open(path, 600, &d), YX_OK);
        for (uint64_t i = 0; i < 1000; i++) {
            bands_of(i, bands);
            for (int b = 0; b < DEDUP_BANDS; b++) // one band is enough
                if (b != (int)i % DEDUP_BANDS) bands[b] = 0xabcdef + i;
            assert_int_equal(dedup_index_has(d, bands), i < 600);
        }
        dedup_index_close(d);
    }
    assert_int_equal(dedup_index_open(path, 601, &d), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "only 600 documents"));
    assert_int_equal(dedup_index_open(path, 0, &d), YX_OK);
    bands_of(0, bands);
    assert_false(dedup_index_has(d, bands));
    dedup_index_close(d);
}

static void the_set_holds_what_was_added(void **state) {
    (void)state;
    dedup_set s = {0};
    bool is_new;
    assert_false(dedup_set_has(&s, 0));
    for (uint64_t i = 0; i < 100000; i++) {
        uint64_t hash = yx_mix64(i, 1) << (i % 3 == 0 ? 40 : 0); // some crowd into few slots
        bool had = dedup_set_has(&s, hash);
        assert_int_equal(dedup_set_add(&s, hash, &is_new), YX_OK);
        assert_int_equal(is_new, !had);
        assert_true(dedup_set_has(&s, hash));
    }
    for (uint64_t i = 0; i < 100000; i++) assert_true(dedup_set_has(&s, yx_mix64(i, 1) << (i % 3 == 0 ? 40 : 0)));
    int strangers = 0;
    for (uint64_t i = 0; i < 100000; i++) strangers += dedup_set_has(&s, yx_mix64(i, 2));
    assert_int_equal(strangers, 0);
    assert_int_equal(dedup_set_add(&s, 0, &is_new), YX_OK); // 0 is a value too
    assert_true(dedup_set_has(&s, 0));
    dedup_set_free(&s);
}

static int setup(void **state) {
    (void)state;
    yx_log_setup(YX_LOG_ERROR, -1);
    int fd = mkstemp(path);
    if (fd >= 0) close(fd);
    return fd < 0;
}

static int teardown(void **state) {
    (void)state;
    return unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bands_follow_the_formula),
        cmocka_unit_test(only_the_words_count),
        cmocka_unit_test(the_index_is_taken_up_again),
        cmocka_unit_test(the_set_holds_what_was_added),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

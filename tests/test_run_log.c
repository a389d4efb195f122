// A log summed up: curves in buckets against all values, step lines read by hand against jansson, events that are left
// out, files that are cut or damaged; and the text of pages. tests/test_report.py has whole runs.
#include "coordinator/run_log.h"
#include "common/file.h"
#include "coordinator/html.h"
#include "coordinator/report.h"
#include "coordinator/step_line.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64], path[128];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/yxanul-run-log-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    return yx_remove_tree(folder) == YX_OK ? 0 : -1;
}

// The log that `size` bytes are; to free.
static run_log *read_bytes(const char *data, size_t size) {
    run_log *l;
    assert_int_equal(yx_write_file_atomic(path, data, size), YX_OK);
    assert_int_equal(run_log_create(&l), YX_OK);
    assert_int_equal(run_log_read(l, path), YX_OK);
    return l;
}

static run_log *read_text(const char *text) { return read_bytes(text, strlen(text)); }

// --- Curves
static double value_at(int64_t i) { return i % 17 == 5 ? (double)NAN : sin((double)i) * 10; }

static void test_curve(void **state) {
    (void)state;
    static const int64_t lengths[] = {0, 1, 7, 999, 1000, 1001, 1002, 2000, 2001, 4003, 12345};
    curve *c = malloc(sizeof *c);
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        int64_t n = lengths[k], width = 1;
        memset(c, 0, sizeof *c);
        for (int64_t i = 0; i < n; i++) {
            const double values[CURVE_SERIES] = {value_at(i), (double)i, NAN, INFINITY};
            curve_add(c, 3.0 * (double)i, values, i == 600);
        }
        while ((n + width - 1) / width > CURVE_BUCKETS) width *= 2;
        assert_int_equal(c->used, (n + width - 1) / width);
        if (n > 0) assert_int_equal(c->per_bucket, width);
        for (int64_t b = 0; b < c->used; b++) {
            int64_t begin = b * width, end = begin + width < n ? begin + width : n, count = 0;
            double sum = 0, least = INFINITY, largest = -INFINITY;
            for (int64_t i = begin; i < end; i++) {
                if (!isfinite(value_at(i))) continue;
                sum += value_at(i), count++;
                least = fmin(least, value_at(i)), largest = fmax(largest, value_at(i));
            }
            const curve_bucket *bucket = &c->buckets[b];
            assert_int_equal(bucket->count, end - begin);
            assert_int_equal(bucket->values[0].count, count);
            assert_int_equal(bucket->marked, begin <= 600 && 600 < end);
            assert_true(fabs(curve_x(bucket) - 1.5 * (double)(begin + end - 1)) < 1e-6);
            assert_true(fabs(curve_mean(bucket, 1) - 0.5 * (double)(begin + end - 1)) < 1e-6);
            assert_true(isnan(curve_mean(bucket, 2)) && isnan(curve_mean(bucket, 3)));
            if (count == 0) continue;
            assert_true(fabs(curve_mean(bucket, 0) - sum / (double)count) < 1e-9);
            assert_true(bucket->values[0].min == least && bucket->values[0].max == largest);
        }
    }
    free(c);
}

// --- Step lines
static void same_line(const step_line *a, const step_line *b) {
    const double x[] = {a->loss, a->lr, a->grad_clip, a->grad_norm, a->seconds, a->tokens_per_second, a->time};
    const double y[] = {b->loss, b->lr, b->grad_clip, b->grad_norm, b->seconds, b->tokens_per_second, b->time};
    assert_memory_equal(&a->step, &b->step, 5 * sizeof a->step);
    for (int i = 0; i < 7; i++) assert_true(x[i] == y[i] || (isnan(x[i]) && isnan(y[i])));
    assert_int_equal(a->skipped, b->skipped);
}

// By hand, if that takes it, as by jansson. `taken`: whether it has to take it.
static void check_line(const char *text, bool taken) {
    step_line by_hand, by_jansson;
    json_t *json = json_loads(text, 0, NULL);
    bool took = step_line_parse(text, strlen(text), &by_hand);
    assert_int_equal(took, taken);
    if (took) {
        assert_non_null(json);
        assert_string_equal(json_string_value(json_object_get(json, "type")), "step");
        step_line_from_json(json, &by_jansson);
        same_line(&by_hand, &by_jansson);
    }
    json_decref(json);
}

static void test_step_line(void **state) {
    (void)state;
    check_line("{\"type\":\"step\",\"step\":1,\"stage\":2,\"seq_len\":8,\"sequences\":64,\"tokens\":512,"
               "\"loss\":6.4301363080739975,\"lr\":7.9365079365079365e-4,\"grad_clip\":1.0,\"grad_norm\":null,"
               "\"token_hash\":\"45216ab2991c6236\",\"seconds\":0.1,\"tokens_per_second\":4914.2855968935382,"
               "\"skipped\":true,\"saturated\":0.0,\"amax\":{\"x1\":1.5,\"swiglu\":2},\"time\":1795727056.898}",
               true);
    check_line("{\"type\":\"step\",\"amax\":{},\"step\":7}", true);
    check_line("{\"type\":\"step\",\"step\":1.0,\"loss\":3,\"tokens\":-1,\"seq_len\":9007199254740993}", true);
    check_line("{\"type\":\"step\",\"step\":1,\"step\":2,\"skipped\":false,\"lr\":\"x\"}", true);
    check_line("{\"type\":\"step\",\"loss\":-0.0e+1,\"lr\":0,\"grad_norm\":-0,\"seconds\":1E5,\"time\":4.9e-324}",
               true);
    check_line("{\"type\":\"step\",\"amax\":{\"step\":5,\"type\":1}}", true);
    // Not taken: spaces, escapes, what is deeper, what is no JSON, other lines.
    static const char *const others[] = {"{\"type\":\"step\", \"step\":1}",
                                         "{\"type\":\"step\",\"a\":\"\\u0041\"}",
                                         "{\"type\":\"step\",\"a\":\"ü\"}",
                                         "{\"type\":\"step\",\"a\":[1]}",
                                         "{\"type\":\"step\",\"a\":{\"b\":{}}}",
                                         "{\"type\":\"step\",\"type\":\"stage\"}",
                                         "{\"type\":\"step\",\"step\":01}",
                                         "{\"type\":\"step\",\"step\":+1}",
                                         "{\"type\":\"step\",\"loss\":1.}",
                                         "{\"type\":\"step\",\"loss\":.5}",
                                         "{\"type\":\"step\",\"loss\":1e}",
                                         "{\"type\":\"step\",\"loss\":1e999}",
                                         "{\"type\":\"step\",\"loss\":0x10}",
                                         "{\"type\":\"step\",\"loss\":nan}",
                                         "{\"type\":\"step\",\"step\":99999999999999999999}",
                                         "{\"type\":\"step\",\"step\":1}}",
                                         "{\"type\":\"step\",\"step\":1} ",
                                         "{\"type\":\"step\",\"step\":1,}",
                                         "{\"type\":\"step\",\"step\"}",
                                         "{\"type\":\"step\",\"step\":tru}",
                                         "{\"type\":\"step\",}",
                                         "{\"type\":\"step\",",
                                         "{\"type\":\"step\"}",
                                         "{\"step\":1,\"type\":\"step\"}",
                                         "{\"type\":\"stage\",\"step\":1}",
                                         ""};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) check_line(others[i], false);
}

// Every way to cut or to change one character: as jansson, or not taken.
static void test_step_line_changed(void **state) {
    (void)state;
    static const char line[] =
        "{\"type\":\"step\",\"step\":12,\"loss\":-6.25e-1,\"skipped\":true,\"amax\":{\"x\":1},\"lr\":0}";
    static const char characters[] = "0-+.eE\"{}[],:xtn \\";
    char changed[sizeof line];
    for (size_t i = 0; i < sizeof line - 1; i++)
        for (size_t k = 0; k < sizeof characters; k++) { // its end, too: a cut line
            step_line by_hand;
            strcpy(changed, line);
            changed[i] = characters[k];
            check_line(changed, step_line_parse(changed, strlen(changed), &by_hand));
        }
}

// Decisions are events; a step that was left out is one by its own line.
static void test_decisions(void **state) {
    (void)state;
    run_log *l =
        read_text("{\"type\":\"decision\",\"step\":0,\"event\":\"initial\",\"detail\":\"weights of a\"}\n"
                  "{\"type\":\"step\",\"step\":7,\"stage\":1,\"tokens\":8,\"grad_norm\":9.5,\"skipped\":true}\n"
                  "{\"type\":\"decision\",\"step\":7,\"event\":\"spike\",\"detail\":\"loss 5\"}\n"
                  "{\"type\":\"decision\",\"step\":8,\"event\":\"skip\",\"detail\":\"x\"}\n"
                  "{\"type\":\"decision\",\"step\":9}\n");
    assert_int_equal(l->num_events, 3);
    assert_string_equal(run_log_event_at(l, 0)->text, "initial: weights of a");
    assert_true(run_log_event_at(l, 1)->skip && run_log_event_at(l, 1)->step == 7);
    assert_string_equal(run_log_event_at(l, 2)->text, "?: ?");
    run_log_free(l);
}

// --- Lines and files
static void test_damage(void **state) {
    (void)state;
    static const char text[] = "{\"type\":\"start\",\"step\":0,\"ranks\":2,\"time\":100}\n"
                               "{\"type\":\"step\",\"step\":1,\"stage\":1,\"tokens\":8,\"loss\":5.0,\"time\":101}\n"
                               "{\"type\":\"step\",\"step\":2,\"stage\":1,\"tok\n"
                               "[1]\n\n17\n{}\n"
                               "{\"type\":\"of a later version\",\"step\":1}\n"
                               "{\"type\":\"stage\",\"stage\":65}\n"
                               "{\"type\":\"step\",\"step\":3,\"stage\":1,\"tokens\":24,\"loss\":3.0,\"time\":103}\n"
                               "{\"type\":\"step\",\"step\":4,\"stage\":1,\"tokens\":32}";
    run_log *l = read_text(text);
    assert_int_equal(l->lines, 9);
    assert_int_equal(l->damaged, 5);
    assert_int_equal(l->step, 3); // the last line is not whole
    assert_int_equal(l->tokens, 24);
    assert_true(l->first_time == 100 && l->last_time == 103);
    assert_int_equal(l->stages[0].steps, 2);
    assert_int_equal(l->stages[0].tokens, -1); // of how many sequences is not said
    assert_true(isnan(l->stages[0].seconds));
    assert_true(run_log_end_loss(&l->stages[0]) == 4);
    assert_int_equal(l->steps.used, 2);
    run_log_free(l);
    run_log_free(NULL);
}

static void test_odd_files(void **state) {
    (void)state;
    run_log *l = read_text("");
    assert_int_equal(l->lines, 0);
    run_log_free(l);
    // Zeros, as a crash of the host leaves them, over more than is read at once; then a line that is good.
    static const char line[] = "\n{\"type\":\"step\",\"step\":5,\"tokens\":9}\n";
    size_t zeros = 9 << 20, size = zeros + strlen(line);
    char *data = calloc(size + 1, 1);
    memcpy(data + zeros, line, strlen(line));
    l = read_bytes(data, size);
    assert_int_equal(l->damaged, 1);
    assert_int_equal(l->lines, 2);
    assert_int_equal(l->step, 5);
    run_log_free(l);
    free(data);
    assert_int_equal(run_log_create(&l), YX_OK);
    assert_int_equal(run_log_read(l, "/tmp/yxanul-no-such-log"), YX_ERR_IO);
    run_log_free(l);
}

// Lines that lie across what is read at once.
static void test_many_lines(void **state) {
    (void)state;
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (int i = 1; i <= 60000; i++)
        fprintf(
            out,
            "{\"type\":\"step\",\"step\":%d,\"stage\":%d,\"seq_len\":4,\"sequences\":%d,\"tokens\":%d,\"loss\":%d.5,"
            "\"seconds\":0.5,\"token_hash\":\"0123456789abcdef\",\"skipped\":%s,\"communicate\":1.8690043361857533e-6}"
            "\n",
            i, i <= 40000 ? 1 : 2, i % 3, 8 * i, i % 7, i % 1000 == 0 ? "true" : "false");
    fclose(out);
    run_log *l = read_bytes(text, size);
    assert_true(size > 9 << 20);
    assert_int_equal(l->lines, 60000);
    assert_int_equal(l->damaged, 0);
    assert_int_equal(l->stages[0].steps, 40000);
    assert_int_equal(l->stages[1].steps, 20000);
    assert_int_equal(l->stages[0].tokens + l->stages[1].tokens, 4 * 60000);
    assert_int_equal(l->stages[0].skipped, 40);
    assert_true(l->stages[1].seconds == 10000);
    double sum = 0;
    for (int i = 59981; i <= 60000; i++) sum += i % 7 + 0.5;
    assert_true(fabs(run_log_end_loss(&l->stages[1]) - sum / 20) < 1e-12);
    assert_int_equal(l->num_events, 60);
    run_log_free(l);
    free(text);
}

// --- Events
static void test_events(void **state) {
    (void)state;
    run_log *l;
    assert_int_equal(run_log_create(&l), YX_OK);
    for (int i = 0; i < 1000; i++) {
        json_t *line = json_pack("{s:s, s:i, s:s, s:f}", "type", "start", "step", i, "device", "x", "time", 1.0 * i);
        assert_int_equal(run_log_add(l, line), YX_OK);
        json_decref(line);
    }
    assert_int_equal(l->num_events, 1000);
    assert_int_equal(run_log_num_kept(l), 200);
    for (int i = 0; i < 200; i++) assert_int_equal(run_log_event_at(l, i)->step, i < 50 ? i : 800 + i);
    run_log_free(l);

    assert_int_equal(run_log_create(&l), YX_OK);
    static const int skipped[] = {3, 4, 5, 7, 8, 9, 10};
    for (int i = 0; i < 7; i++) {
        json_t *norm = skipped[i] >= 9 ? json_real(50) : json_null(); // steps 9 and 10 are a spike
        json_t *line =
            json_pack("{s:s, s:i, s:b, s:o}", "type", "step", "step", skipped[i], "skipped", 1, "grad_norm", norm);
        assert_int_equal(run_log_add(l, line), YX_OK);
        json_decref(line);
    }
    assert_int_equal(l->num_events, 3);
    assert_int_equal(run_log_event_at(l, 0)->step, 3);
    assert_int_equal(run_log_event_at(l, 0)->last_step, 5);
    assert_int_equal(run_log_event_at(l, 1)->last_step, 8);
    assert_int_equal(run_log_event_at(l, 2)->last_step, 10);
    assert_true(run_log_event_at(l, 2)->finite && !run_log_event_at(l, 1)->finite);
    run_log_free(l);
}

// --- Text
static void check_text(const char *text, const char *expected) {
    char *written;
    size_t size;
    FILE *out = open_memstream(&written, &size);
    html_text(out, text);
    fclose(out);
    assert_string_equal(written, expected);
    free(written);
}

#define BAD "\xef\xbf\xbd"
static void test_text(void **state) {
    (void)state;
    char out[HTML_FIGURE];
    check_text("a<b>&\"c\" ü€😀\t\n", "a&lt;b&gt;&amp;&quot;c&quot; ü€😀\t\n");
    check_text(NULL, "–");
    check_text("\x01|\r|\x7f|\xc2\x85|\xef\xbf\xbe", BAD "|" BAD "|" BAD "|" BAD "|" BAD);
    check_text("\xff|\xc0\x80|\xe2\x82|\xed\xa0\x80|\xf4\x90\x80\x80|\xf0\x9f\x98",
               BAD "|" BAD BAD "|" BAD BAD "|" BAD BAD BAD "|" BAD BAD BAD BAD "|" BAD BAD BAD);
    assert_string_equal(html_count(0, out), "0");
    assert_string_equal(html_count(999, out), "999");
    assert_string_equal(html_count(1234567, out), "1,234,567");
    assert_string_equal(html_count(-1, out), "–");
    assert_string_equal(html_count(INT64_MAX, out), "9,223,372,036,854,775,807");
    assert_string_equal(html_short(999.4, out), "999");
    assert_string_equal(html_short(999.6, out), "1k");
    assert_string_equal(html_short(2.61e9, out), "2.61G");
    assert_string_equal(html_short(NAN, out), "–");
    assert_string_equal(html_duration(59.94, out), "59.9 s");
    assert_string_equal(html_duration(59.96, out), "0m59s");
    assert_string_equal(html_duration(3599.9, out), "59m59s");
    assert_string_equal(html_duration(11523, out), "3h12m");
    assert_string_equal(html_duration(183600, out), "2d03h");
    assert_string_equal(html_duration(-1, out), "–");
    assert_string_equal(html_real("%.4f", 1.23456, out), "1.2346");
    assert_string_equal(html_real("%.4f", 1e300, out), "–");
    assert_string_equal(html_time(1738326896.7, out), "2025-01-31 12:34:56 UTC");
    assert_string_equal(html_time(NAN, out), "–");
    assert_string_equal(html_time(1e300, out), "–");
}

// Figures that no run has: a page is written all the same.
static void test_extremes(void **state) {
    (void)state;
    static const char *const numbers[] = {"0", "-1", "1e300", "-1e300", "1e-300", "9007199254740992", "null", "5.0"};
    enum { N = sizeof numbers / sizeof *numbers };
    for (int i = 0; i < N * N; i++) {
        char *html, text[1024];
        const char *a = numbers[i % N], *b = numbers[i / N];
        size_t size;
        snprintf(
            text, sizeof text,
            "{\"type\":\"step\",\"step\":1,\"stage\":1,\"tokens\":%s,\"loss\":%s,\"lr\":%s,\"grad_norm\":%s,"
            "\"tokens_per_second\":%s,\"grad_clip\":%s,\"time\":%s}\n"
            "{\"type\":\"step\",\"step\":2,\"stage\":64,\"tokens\":%s,\"loss\":%s,\"grad_norm\":%s,\"grad_clip\":%s}\n"
            "{\"type\":\"evaluation\",\"step\":2,\"stage\":1,\"tokens\":%s,\"bits_per_byte\":%s,\"loss\":%s}\n",
            a, b, b, b, b, a, b, b, a, a, b, a, b, b);
        run_log *l = read_text(text);
        assert_int_equal(report_render(l, folder, NULL, REPORT_RUNNING, &html, &size), YX_OK);
        assert_non_null(strstr(html, "</html>"));
        const char *page = strstr(html, "<body>");
        assert_null(strstr(page, "nan"));
        assert_null(strstr(page, "inf"));
        free(html);
        run_log_free(l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_curve),    cmocka_unit_test(test_step_line), cmocka_unit_test(test_step_line_changed),
        cmocka_unit_test(test_damage),   cmocka_unit_test(test_odd_files), cmocka_unit_test(test_many_lines),
        cmocka_unit_test(test_events),   cmocka_unit_test(test_decisions), cmocka_unit_test(test_text),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

// Questions from files: the three formats, what is refused and with which message, names, damaged archives.
#include "common/file.h"
#include "io/tasks.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

static char folder[64];

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static const char *put(const char *name, const char *text) {
    const char *path = in_folder(name);
    assert_int_equal(yx_write_file_atomic(path, text, strlen(text)), YX_OK);
    return path;
}

static int setup(void **state) {
    (void)state;
    strcpy(folder, "/tmp/yx-tasks-XXXXXX");
    return mkdtemp(folder) ? 0 : 1;
}

static int teardown(void **state) {
    (void)state;
    return yx_remove_tree(folder) == YX_OK ? 0 : 1;
}

static void expect(const task_question *q, int64_t line, const char *context, int answer, int n, const char **choices) {
    assert_int_equal(q->line, line);
    assert_string_equal(q->context, context);
    assert_int_equal(q->answer, answer);
    assert_int_equal(q->num_choices, n);
    for (int i = 0; i < n; i++) assert_string_equal(q->choices[i], choices[i]);
}

static const char three[] = "\n"
                            "{\"context\": \"\", \"choices\": [\"x\", \" y\\n\"], \"answer\": 1, \"id\": 7}\r\n"
                            " \t\n"
                            "{\"ctx\": \"A man\", \"ctx_a\": \"A\", \"endings\": [\"sits.\", \"r\\u00fcns.\", \"-\"], "
                            "\"label\": \"2\", \"ind\": 3}\n"
                            "{\"question\": {\"stem\": \"Why?\", \"choices\": [{\"text\": \"a\", \"label\": \"1\"}, "
                            "{\"label\": \"2\", \"text\": \"b\"}]}, \"answerKey\": \"2\"}"; // the last needs no newline

static void test_formats(void **state) {
    (void)state;
    task_file f;
    assert_int_equal(tasks_read(put("some.set.jsonl", three), 0, &f), YX_OK);
    assert_string_equal(f.name, "some.set");
    assert_int_equal(f.count, 3);
    expect(&f.questions[0], 2, "", 1, 2, (const char *[]){"x", " y\n"});
    expect(&f.questions[1], 4, "A man", 2, 3, (const char *[]){" sits.", " r\u00fcns.", " -"});
    expect(&f.questions[2], 5, "Question: Why?\nAnswer:", 1, 2, (const char *[]){" a", " b"});
    tasks_free(&f);
    assert_int_equal(tasks_read(put("x", three), 2, &f), YX_OK);
    assert_string_equal(f.name, "x");
    assert_int_equal(f.count, 2);
    tasks_free(&f);
}

static void test_compressed(void **state) {
    (void)state;
    task_file f;
    const char *path = in_folder("x.jsonl.gz");
    gzFile out = gzopen(path, "wb");
    assert_int_equal(gzputs(out, three), (int)strlen(three));
    assert_int_equal(gzclose(out), Z_OK);
    assert_int_equal(tasks_read(path, 0, &f), YX_OK);
    assert_string_equal(f.name, "x");
    assert_int_equal(f.count, 3);
    tasks_free(&f);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(tasks_read(path, 0, &f), YX_ERR_DATA);
    assert_int_equal(f.count, 0);
    assert_null(f.questions);
}

static void refuse(const char *text, yx_status code, const char *word) {
    task_file f;
    assert_int_equal(tasks_read(put("bad.jsonl", text), 0, &f), code);
    if (!strstr(yx_message(), "bad.jsonl") || !strstr(yx_message(), word))
        fail_msg("'%s' is not in '%s'", word, yx_message());
    assert_null(f.questions);
}

// A question with as many choices.
static char *with_choices(int n) {
    static char text[1024];
    int used = snprintf(text, sizeof text, "{\"context\": \"a\", \"answer\": 0, \"choices\": [");
    for (int i = 0; i < n; i++) used += snprintf(text + used, sizeof text - (size_t)used, "%s\" b\"", i ? ", " : "");
    snprintf(text + used, sizeof text - (size_t)used, "]}\n");
    return text;
}

static void test_refusals(void **state) {
    (void)state;
    task_file f;
    refuse("", YX_ERR_DATA, "no question");
    refuse("\n\r\n \n", YX_ERR_DATA, "no question");
    refuse("\n{\"context\": \"a\"", YX_ERR_DATA, "line 2: no JSON");
    refuse("null\n", YX_ERR_DATA, "line 1");
    refuse("\"text\"\n", YX_ERR_DATA, "line 1");
    refuse("[{}]\n", YX_ERR_DATA, "line 1: the line is not");
    refuse("{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0} x\n", YX_ERR_DATA, "no JSON");
    refuse("{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 99999999999999999999}\n", YX_ERR_DATA,
           "line 1");
    refuse("{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 4294967296}\n", YX_ERR_DATA, "4294967296");
    refuse("{\"question\": {\"stem\": \"a\", \"choices\": [\"b\", \"c\"]}, \"answerKey\": \"A\"}\n", YX_ERR_DATA,
           "entry 0");
    refuse("{\"question\": {\"stem\": \"a\", \"choices\": {\"text\": []}}, \"answerKey\": \"A\"}\n", YX_ERR_DATA,
           "not a list");
    refuse("{\"question\": \"a\", \"answerKey\": \"A\"}\n", YX_ERR_DATA, "endings");
    refuse(with_choices(1), YX_ERR_DATA, "2 … 64");
    refuse(with_choices(65), YX_ERR_DATA, "65 entries");
    assert_int_equal(tasks_read(put("x", with_choices(64)), 0, &f), YX_OK);
    assert_int_equal(f.questions[0].num_choices, 64);
    tasks_free(&f);
    assert_int_equal(tasks_read(in_folder("none"), 0, &f), YX_ERR_IO);
    assert_int_equal(tasks_read(folder, 0, &f), YX_ERR_IO);
}

static void test_long_lines(void **state) {
    (void)state;
    char *line = malloc(TASK_MAX_LINE + 64);
    assert_non_null(line);
    int used = sprintf(line, "{\"choices\": [\"b\", \"c\"], \"answer\": 0, \"context\": \"");
    memset(line + used, 'a', TASK_MAX_LINE);
    strcpy(line + TASK_MAX_LINE, "\"}\n"); // three bytes too long
    refuse(line, YX_ERR_DATA, "longer than");
    strcpy(line + TASK_MAX_LINE - 3, "\"}\n");
    task_file f;
    assert_int_equal(tasks_read(put("x", line), 0, &f), YX_OK);
    assert_int_equal(strlen(f.questions[0].context), TASK_MAX_LINE - 3 - used);
    tasks_free(&f);
    free(line);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_long_lines),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

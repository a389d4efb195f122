#include "io/tasks.h"
#include "common/file.h"
#include "io/corpus_lines.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *kind_of(const json_t *value) { return value && !json_is_null(value) ? "not text" : "missing"; }

static yx_status take_text(const json_t *value, const char *key, const char *before, const char *behind, char **out) {
    const char *text = json_string_value(value);
    if (!text) return yx_fail(YX_ERR_DATA, "\"%s\" is %s", key, kind_of(value));
    return yx_format(out, "%s%s%s", before, text, behind);
}

// The choices of `list`; `inner`: what holds the text of one, NULL: it is the text.
static yx_status take_choices(task_question *q, const json_t *list, const char *key, const char *inner,
                              const char *before) {
    size_t n = json_array_size(list); // 0 for what is no list
    if (!json_is_array(list)) return yx_fail(YX_ERR_DATA, "\"%s\" is %s", key, list ? "not a list" : "missing");
    if (n < 2 || n > TASK_MAX_CHOICES)
        return yx_fail(YX_ERR_DATA, "\"%s\" has %zu entries: a question has 2 … %d", key, n, TASK_MAX_CHOICES);
    q->choices = calloc(n, sizeof *q->choices);
    if (!q->choices) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a question");
    for (; q->num_choices < (int)n; q->num_choices++) {
        const json_t *item = json_array_get(list, (size_t)q->num_choices);
        const json_t *text = inner ? json_object_get(item, inner) : item;
        if (json_string_length(text) == 0)
            return yx_fail(YX_ERR_DATA, "entry %d of \"%s\" is %s", q->num_choices, key,
                           json_is_string(text) ? "empty" : "no text");
        yx_status status = take_text(text, key, before, "", &q->choices[q->num_choices]);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

static yx_status take_answer(task_question *q, const json_t *value, const char *key) {
    if (!json_is_integer(value))
        return yx_fail(YX_ERR_DATA, "\"%s\" is %s", key, value && !json_is_null(value) ? "no whole number" : "missing");
    json_int_t answer = json_integer_value(value);
    if (answer < 0 || answer >= q->num_choices)
        return yx_fail(YX_ERR_DATA, "\"%s\" is %lld: the choices are 0 … %d", key, (long long)answer,
                       q->num_choices - 1);
    q->answer = (int)answer;
    return YX_OK;
}

// {"context": "…", "choices": ["…", …], "answer": 0}
static yx_status read_plain(const json_t *root, task_question *q) {
    yx_status status = YX_OK;
    YX_CHECK(take_text(json_object_get(root, "context"), "context", "", "", &q->context));
    YX_CHECK(take_choices(q, json_object_get(root, "choices"), "choices", NULL, ""));
    YX_CHECK(take_answer(q, json_object_get(root, "answer"), "answer"));
fail:
    return status;
}

// HellaSwag (github.com/rowanz/hellaswag, data/): {"ctx": "…", "endings": ["…", …], "label": 0}. Other copies of the
// set have the label as text.
static yx_status read_hellaswag(const json_t *root, task_question *q) {
    yx_status status = YX_OK;
    const json_t *label = json_object_get(root, "label");
    const char *digit = json_string_value(label);
    json_t *number = digit && digit[0] >= '0' && digit[0] <= '9' && !digit[1] ? json_integer(digit[0] - '0') : NULL;
    YX_CHECK(take_text(json_object_get(root, "ctx"), "ctx", "", "", &q->context));
    YX_CHECK(take_choices(q, json_object_get(root, "endings"), "endings", NULL, " "));
    YX_CHECK(take_answer(q, number ? number : label, "label"));
fail:
    json_decref(number);
    return status;
}

// ARC and OpenBookQA: {"question": {"stem": "…", "choices": [{"text": "…", "label": "A"}, …]}, "answerKey": "A"}
static yx_status read_labelled(const json_t *root, task_question *q) {
    yx_status status = YX_OK;
    const json_t *question = json_object_get(root, "question"), *choices = json_object_get(question, "choices");
    const char *key = json_string_value(json_object_get(root, "answerKey"));
    YX_CHECK(take_text(json_object_get(question, "stem"), "stem", "Question: ", "\nAnswer:", &q->context));
    YX_CHECK(take_choices(q, choices, "choices", "text", " "));
    if (!key) YX_FAIL(YX_ERR_DATA, "\"answerKey\" is %s", kind_of(json_object_get(root, "answerKey")));
    for (q->answer = 0; q->answer < q->num_choices; q->answer++) {
        const char *label = json_string_value(json_object_get(json_array_get(choices, (size_t)q->answer), "label"));
        if (label && strcmp(label, key) == 0) return YX_OK;
    }
    YX_FAIL(YX_ERR_DATA, "\"answerKey\" is \"%.20s\": no choice has that label", key);
fail:
    return status;
}

static void free_question(task_question *q) {
    for (int i = 0; i < q->num_choices; i++) free(q->choices[i]);
    free(q->choices);
    free(q->context);
}

// One key of each format tells it apart; other keys may stand beside.
static yx_status read_object(const json_t *root, task_question *q) {
    bool plain = json_object_get(root, "choices"), hellaswag = json_object_get(root, "endings"),
         labelled = json_is_object(json_object_get(root, "question"));
    if (plain + hellaswag + labelled != 1)
        return yx_fail(YX_ERR_DATA, "a question has one of \"choices\" (with \"context\" and \"answer\"), \"endings\" "
                                    "(with \"ctx\" and \"label\") and \"question\" {\"stem\", \"choices\"} (with "
                                    "\"answerKey\")");
    return plain ? read_plain(root, q) : hellaswag ? read_hellaswag(root, q) : read_labelled(root, q);
}

static yx_status read_line(const char *line, size_t size, task_question *q) {
    json_error_t error;
    json_t *root = json_loadb(line, size, JSON_REJECT_DUPLICATES, &error);
    if (!root) return yx_fail(YX_ERR_DATA, "no JSON: %s at byte %d", error.text, error.position);
    yx_status status = json_is_object(root) ? read_object(root, q) : yx_fail(YX_ERR_DATA, "the line is not {…}");
    json_decref(root);
    if (status != YX_OK) free_question(q);
    return status;
}

static yx_status append(task_file *f, int64_t *capacity, const task_question *q) {
    if (f->count == *capacity) {
        *capacity = *capacity * 2 + 64;
        task_question *grown = realloc(f->questions, (size_t)*capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %lld questions", (long long)*capacity);
        f->questions = grown;
    }
    f->questions[f->count++] = *q;
    return YX_OK;
}

static bool is_empty(const char *line, size_t size) {
    size_t i = 0;
    while (i < size && strchr(" \t\r\n", line[i]) && line[i]) i++;
    return i == size;
}

// The next question; `*end`: there is none.
static yx_status next_question(corpus_lines *lines, const char *path, task_question *q, bool *end) {
    char *line;
    size_t size;
    bool cut;
    *q = (task_question){0};
    do {
        yx_status status = corpus_lines_next(lines, &line, &size, &cut);
        if (status != YX_OK) return status; // of the file: it is named
    } while (line && !cut && is_empty(line, size));
    *end = !line;
    if (!line) return YX_OK;
    yx_status status =
        cut ? yx_fail(YX_ERR_DATA, "the line is longer than %d bytes", TASK_MAX_LINE) : read_line(line, size, q);
    q->line = lines->number;
    if (status == YX_OK) return status;
    return yx_context(status, "%s, line %lld", path, (long long)lines->number);
}

// "data/arc_easy.jsonl.gz" is arc_easy.
static yx_status take_name(const char *path, task_file *f) {
    static const char *const endings[] = {".gz", ".zst", ".jsonl"};
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t size = strlen(base);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i]);
        if (size > n && memcmp(base + size - n, endings[i], n) == 0) size -= n;
    }
    if (size >= TASK_MAX_NAME) return yx_fail(YX_ERR_USAGE, "%s: the name is too long", path);
    memcpy(f->name, base, size);
    return YX_OK;
}

yx_status tasks_read(const char *path, int64_t max_questions, task_file *out) {
    yx_status status = YX_OK;
    corpus_stream *stream = NULL;
    corpus_lines lines = {0};
    int64_t capacity = 0;
    *out = (task_file){0};
    YX_CHECK(take_name(path, out));
    YX_CHECK(corpus_stream_open(path, path, NULL, &stream));
    corpus_lines_start(&lines, stream, TASK_MAX_LINE);
    while (max_questions == 0 || out->count < max_questions) {
        task_question q;
        bool end;
        YX_CHECK(next_question(&lines, path, &q, &end));
        if (end) break;
        status = append(out, &capacity, &q);
        if (status != YX_OK) free_question(&q);
        YX_CHECK(status);
    }
    if (out->count == 0) YX_FAIL(YX_ERR_DATA, "%s has no question", path);
fail:
    corpus_lines_free(&lines);
    corpus_stream_close(stream);
    if (status != YX_OK) tasks_free(out);
    return status;
}

void tasks_free(task_file *f) {
    for (int64_t i = 0; i < f->count; i++) free_question(&f->questions[i]);
    free(f->questions);
    *f = (task_file){0};
}

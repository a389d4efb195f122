#include "io/corpus_json.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 4, 5))) static bool refuse(corpus_json *j, corpus_malformed *kind, corpus_malformed what,
                                                         const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(j->reason, sizeof j->reason, format, args);
    va_end(args);
    *kind = what;
    return false;
}

void corpus_json_free(corpus_json *j) {
    json_decref(j->root);
    j->root = NULL;
}

static bool load(corpus_json *j, const char *line, size_t size, corpus_malformed *kind) {
    json_error_t error;
    corpus_json_free(j);
    if (memchr(line, 0, size)) return refuse(j, kind, CORPUS_NUL, "a zero byte");
    // Whole numbers as doubles: a field of no interest may hold one beyond 64 bits.
    j->root = json_loadb(line, size, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, &error);
    if (j->root && !json_is_object(j->root)) return refuse(j, kind, CORPUS_NOT_OBJECT, "the line is not {…}");
    if (j->root) return true;
    switch (json_error_code(&error)) {
    case json_error_invalid_utf8:
        return refuse(j, kind, CORPUS_BAD_UTF8, "%s", error.text);
    case json_error_null_character:
        return refuse(j, kind, CORPUS_NUL, "\\u0000");
    default:
        return refuse(j, kind, CORPUS_BAD_JSON, "column %d: %s", error.column, error.text);
    }
}

// null counts as absent.
static const json_t *find(const json_t *root, const char *name) {
    const json_t *value = json_object_get(root, name);
    if (!value || json_is_null(value)) value = json_object_get(json_object_get(root, "metadata"), name);
    return json_is_null(value) ? NULL : value;
}

static bool read_id(corpus_json *j, const char *name, corpus_document *doc, corpus_malformed *kind) {
    const json_t *value = json_object_get(j->root, name);
    if (!value || json_is_null(value)) return true;
    if (json_is_real(value)) {
        snprintf(j->number_id, sizeof j->number_id, "%.17g", json_real_value(value));
        doc->id = j->number_id;
        return true;
    }
    if (!json_is_string(value)) return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not text", name);
    if (json_string_length(value) > 0) doc->id = json_string_value(value);
    return true;
}

static bool read_number(corpus_json *j, const char *name, double *out, corpus_malformed *kind) {
    const json_t *value = find(j->root, name);
    if (!value) return true;
    if (!json_is_real(value)) return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not a number", name);
    *out = json_real_value(value);
    return true;
}

static bool read_token_count(corpus_json *j, const char *name, corpus_document *doc, corpus_malformed *kind) {
    double count = NAN;
    if (!read_number(j, name, &count, kind)) return false;
    if (isnan(count)) return true;
    if (count < 0 || count > 9007199254740992.0 || count != floor(count))
        return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not a count", name);
    doc->token_count = (int64_t)count;
    return true;
}

static bool read_language(corpus_json *j, const char *name, corpus_document *doc, corpus_malformed *kind) {
    const json_t *value = find(j->root, name);
    if (value && !json_is_string(value)) return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not text", name);
    doc->language = json_string_value(value);
    return true;
}

bool corpus_json_parse(corpus_json *j, const char *line, size_t size, const corpus_options *options,
                       corpus_document *doc, corpus_malformed *kind) {
    if (!load(j, line, size, kind)) return false;
    const json_t *text = json_object_get(j->root, options->text_field);
    if (!json_is_string(text))
        return refuse(j, kind, CORPUS_NO_TEXT, "\"%s\" is %s", options->text_field, text ? "not text" : "missing");
    doc->text = json_string_value(text);
    doc->size = json_string_length(text);
    doc->id = doc->language = NULL;
    doc->score = NAN;
    doc->token_count = -1;
    if (!read_id(j, options->id_field, doc, kind) || !read_number(j, options->score_field, &doc->score, kind) ||
        !read_token_count(j, options->token_count_field, doc, kind) ||
        !read_language(j, options->language_field, doc, kind))
        return false;
    return !isnan(doc->score) || read_number(j, "int_score", &doc->score, kind);
}

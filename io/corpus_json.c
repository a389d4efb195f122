#include "io/corpus_json.h"
#include "io/corpus_scan.h"
#include "io/tokenizer_unicode.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { FIELD_TEXT, FIELD_ID, FIELD_SCORE, FIELD_INT_SCORE, FIELD_TOKEN_COUNT, FIELD_LANGUAGE, FIELDS };

// The values of the fields that are read; of kind SCAN_NULL where the line has none.
typedef struct fields {
    const char *names[FIELDS];
    scan_value root[FIELDS], metadata[FIELDS];
} fields;

__attribute__((format(printf, 4, 5))) static bool refuse(corpus_json *j, corpus_malformed *kind, corpus_malformed what,
                                                         const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(j->reason, sizeof j->reason, format, args);
    va_end(args);
    *kind = what;
    return false;
}

static void store(const fields *f, scan_value *values, const char *key, const scan_value *value) {
    for (int i = 0; i < FIELDS; i++)
        if (*key == *f->names[i] && strcmp(key, f->names[i]) == 0) values[i] = *value;
}

// The members of an object whose opening brace is taken, those of "metadata" apart.
static bool read_members(corpus_scan *s, fields *f, scan_value *values) {
    const char *key;
    size_t size;
    if (corpus_scan_take(s, '}')) return true;
    do {
        scan_value value;
        if (!corpus_scan_string(s, &key, &size)) return false;
        if (!corpus_scan_take(s, ':')) return corpus_scan_refuse(s, "a colon is missing");
        bool inner = values == f->root && strcmp(key, "metadata") == 0 && corpus_scan_take(s, '{');
        if (inner) {
            if (!read_members(s, f, f->metadata)) return false;
        } else {
            if (!corpus_scan_value(s, &value)) return false;
            store(f, values, key, &value);
        }
    } while (corpus_scan_take(s, ','));
    return corpus_scan_take(s, '}') || corpus_scan_refuse(s, "a comma or closing bracket is missing");
}

static bool load(corpus_json *j, char *line, size_t size, fields *f, corpus_malformed *kind) {
    corpus_scan s = {.begin = line, .p = line, .end = line + size};
    scan_value value;
    if (memchr(line, 0, size)) return refuse(j, kind, CORPUS_NUL, "a zero byte");
    size_t good = unicode_valid_prefix((const uint8_t *)line, size);
    if (good < size) return refuse(j, kind, CORPUS_BAD_UTF8, "at byte %zu", good + 1);
    bool is_object = corpus_scan_take(&s, '{');
    bool read = is_object ? read_members(&s, f, f->root) : corpus_scan_value(&s, &value);
    if (!read || !corpus_scan_ended(&s))
        return refuse(j, kind, s.nul ? CORPUS_NUL : CORPUS_BAD_JSON, "%s at byte %zu", s.error,
                      (size_t)(s.p - s.begin) + 1);
    return is_object || refuse(j, kind, CORPUS_NOT_OBJECT, "the line is not {…}");
}

// null counts as absent: NULL.
static const scan_value *find(const fields *f, int field) {
    const scan_value *value = &f->root[field];
    if (value->kind == SCAN_NULL) value = &f->metadata[field];
    return value->kind == SCAN_NULL ? NULL : value;
}

static bool read_text(corpus_json *j, const fields *f, corpus_document *doc, corpus_malformed *kind) {
    const scan_value *value = &f->root[FIELD_TEXT];
    if (value->kind != SCAN_STRING)
        return refuse(j, kind, CORPUS_NO_TEXT, "\"%s\" is %s", f->names[FIELD_TEXT],
                      value->kind == SCAN_NULL ? "missing" : "not text");
    doc->text = value->text;
    doc->size = value->size;
    return true;
}

static bool read_id(corpus_json *j, const fields *f, corpus_document *doc, corpus_malformed *kind) {
    const scan_value *value = &f->root[FIELD_ID];
    if (value->kind == SCAN_NULL) return true;
    if (value->kind == SCAN_NUMBER) {
        snprintf(j->number_id, sizeof j->number_id, "%.17g", value->number);
        doc->id = j->number_id;
        return true;
    }
    if (value->kind != SCAN_STRING) return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not text", f->names[FIELD_ID]);
    if (value->size > 0) doc->id = value->text;
    return true;
}

static bool read_number(corpus_json *j, const fields *f, int field, double *out, corpus_malformed *kind) {
    const scan_value *value = find(f, field);
    if (!value) return true;
    if (value->kind != SCAN_NUMBER || !isfinite(value->number))
        return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not a number", f->names[field]);
    *out = value->number;
    return true;
}

static bool read_score(corpus_json *j, const fields *f, corpus_document *doc, corpus_malformed *kind) {
    if (!read_number(j, f, FIELD_SCORE, &doc->score, kind)) return false;
    if (!isnan(doc->score)) return true;
    if (!read_number(j, f, FIELD_INT_SCORE, &doc->score, kind)) return false;
    doc->rounded_score = !isnan(doc->score);
    return true;
}

static bool read_token_count(corpus_json *j, const fields *f, corpus_document *doc, corpus_malformed *kind) {
    double count = NAN;
    if (!read_number(j, f, FIELD_TOKEN_COUNT, &count, kind)) return false;
    if (isnan(count)) return true;
    if (count < 0 || count > 9007199254740992.0 || count != floor(count))
        return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not a count", f->names[FIELD_TOKEN_COUNT]);
    doc->token_count = (int64_t)count;
    return true;
}

static bool read_language(corpus_json *j, const fields *f, corpus_document *doc, corpus_malformed *kind) {
    const scan_value *value = find(f, FIELD_LANGUAGE);
    if (value && value->kind != SCAN_STRING)
        return refuse(j, kind, CORPUS_BAD_FIELD, "\"%s\" is not text", f->names[FIELD_LANGUAGE]);
    doc->language = value ? value->text : NULL;
    return true;
}

bool corpus_json_parse(corpus_json *j, char *line, size_t size, const corpus_options *options, corpus_document *doc,
                       corpus_malformed *kind) {
    fields f = {.names = {options->text_field, options->id_field, options->score_field, "int_score",
                          options->token_count_field, options->language_field}};
    *doc = (corpus_document){.score = NAN, .token_count = -1};
    return load(j, line, size, &f, kind) && read_text(j, &f, doc, kind) && read_id(j, &f, doc, kind) &&
           read_score(j, &f, doc, kind) && read_token_count(j, &f, doc, kind) && read_language(j, &f, doc, kind);
}

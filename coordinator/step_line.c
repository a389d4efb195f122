#include "coordinator/step_line.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NUMBER = 40 }; // characters; longer ones are not written
static const int64_t MAX_WHOLE = (int64_t)1 << 53;
static const char BEGINNING[] = "{\"type\":\"step\",";

static const struct {
    const char *name;
    size_t offset;
    bool whole;
} fields[] = {
#define WHOLE(f)                                                                                                       \
    { #f, offsetof(step_line, f), true }
#define REAL(f)                                                                                                        \
    { #f, offsetof(step_line, f), false }
    WHOLE(step), WHOLE(stage),    WHOLE(seq_len),  WHOLE(sequences), WHOLE(tokens),           REAL(loss),
    REAL(lr),    REAL(grad_clip), REAL(grad_norm), REAL(seconds),    REAL(tokens_per_second), REAL(time),
#undef WHOLE
#undef REAL
};
enum { NUM_FIELDS = sizeof fields / sizeof *fields };

static void put(step_line *out, int field, double real, int64_t whole) {
    char *place = (char *)out + fields[field].offset;
    if (fields[field].whole) memcpy(place, &whole, sizeof whole);
    else memcpy(place, &real, sizeof real);
}

static void clear(step_line *out) {
    for (int i = 0; i < NUM_FIELDS; i++) put(out, i, (double)NAN, -1);
    out->skipped = false;
}

static int64_t in_range(int64_t x) { return x < 0 || x > MAX_WHOLE ? -1 : x; }

// --- A tree
int64_t line_whole(const json_t *line, const char *key) {
    const json_t *x = json_object_get(line, key);
    return json_is_integer(x) ? in_range((int64_t)json_integer_value(x)) : -1;
}

double line_real(const json_t *line, const char *key) {
    const json_t *x = json_object_get(line, key);
    return json_is_number(x) ? json_number_value(x) : (double)NAN;
}

void step_line_from_json(const json_t *line, step_line *out) {
    clear(out);
    for (int i = 0; i < NUM_FIELDS; i++) put(out, i, line_real(line, fields[i].name), line_whole(line, fields[i].name));
    out->skipped = json_is_true(json_object_get(line, "skipped"));
}

// --- Text
typedef struct scanner {
    const char *at, *end;
} scanner;

typedef struct scanned { // a value
    bool is_whole, is_true;
    int64_t whole;
    double real; // NaN: no number
} scanned;

static bool take(scanner *s, char c) {
    if (s->at == s->end || *s->at != c) return false;
    s->at++;
    return true;
}

static bool take_word(scanner *s, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) return false;
    s->at += n;
    return true;
}

static bool take_digits(scanner *s) {
    const char *begin = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') s->at++;
    return s->at > begin;
}

// JSON's grammar; then the C library's value of it.
static bool take_number(scanner *s, scanned *out) {
    char copy[MAX_NUMBER + 1];
    const char *begin = s->at;
    bool real = false;
    take(s, '-');
    if (!take(s, '0') && !take_digits(s)) return false;
    if (take(s, '.') && !(real = take_digits(s))) return false;
    if (take(s, 'e') || take(s, 'E')) {
        real = true;
        if (!take(s, '+')) take(s, '-');
        if (!take_digits(s)) return false;
    }
    size_t size = (size_t)(s->at - begin);
    if (size > MAX_NUMBER || (!real && size > 18)) return false;
    memcpy(copy, begin, size);
    copy[size] = 0;
    out->is_whole = !real;
    if (out->is_whole) out->whole = strtoll(copy, NULL, 10);
    out->real = real ? strtod(copy, NULL) : (double)out->whole;
    return isfinite(out->real);
}

static bool take_string(scanner *s, const char **text, size_t *size) {
    if (!take(s, '"')) return false;
    *text = s->at;
    while (s->at < s->end && *s->at >= ' ' && *s->at < 0x7f && *s->at != '"' && *s->at != '\\') s->at++;
    *size = (size_t)(s->at - *text);
    return take(s, '"');
}

static bool take_members(scanner *s, step_line *out);

static bool take_value(scanner *s, bool nested, scanned *out) {
    const char *text;
    size_t size;
    *out = (scanned){.real = (double)NAN};
    if (s->at == s->end) return false;
    switch (*s->at) {
    case '"':
        return take_string(s, &text, &size);
    case 't':
        return out->is_true = take_word(s, "true");
    case 'f':
        return take_word(s, "false");
    case 'n':
        return take_word(s, "null");
    case '{':
        s->at++;
        return nested && (take(s, '}') || take_members(s, NULL));
    default:
        return take_number(s, out);
    }
}

static void set(step_line *out, const char *name, size_t size, const scanned *value) {
    for (int i = 0; i < NUM_FIELDS; i++) {
        if (strlen(fields[i].name) != size || memcmp(fields[i].name, name, size) != 0) continue;
        put(out, i, value->real, value->is_whole ? in_range(value->whole) : -1);
        return;
    }
    if (size == 7 && memcmp(name, "skipped", size) == 0) out->skipped = value->is_true;
}

// "name":value,…} of the line; of an object in it `out` is NULL. The type is at the beginning, and nowhere else.
static bool take_members(scanner *s, step_line *out) {
    do {
        const char *name;
        size_t size;
        scanned value;
        if (!take_string(s, &name, &size) || !take(s, ':') || !take_value(s, out != NULL, &value)) return false;
        if (out && size == 4 && memcmp(name, "type", 4) == 0) return false;
        if (out) set(out, name, size, &value);
    } while (take(s, ','));
    return take(s, '}');
}

bool step_line_parse(const char *text, size_t size, step_line *out) {
    scanner s = {text, text + size};
    clear(out);
    return take_word(&s, BEGINNING) && take_members(&s, out) && s.at == s.end;
}

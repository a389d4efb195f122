// Oniguruma's syntax in PCRE2's. Three things differ in meaning: the Unicode version behind \p{..}, \d, \w, \s; the
// letters of some escapes and options; and what a quantifier behind a quantifier does.
// (Oniguruma 6.9, doc/RE, Ruby/Oniguruma syntax; pcre2pattern(3).)
#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/tokenizer_regex.h"
#include "io/tokenizer_unicode.h"
#include <ctype.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PATTERN = 8192, MAX_DEPTH = 200, MAX_SETS = 24, NO_ATOM = -1 };

// A set of code points: those with one of the class bits, or of one of the categories (bit i: category i).
typedef struct char_set {
    uint8_t bits;
    uint32_t categories;
} char_set;

typedef struct known_set {
    char_set set;
    bool negative;
    char *text; // items for the inside of a PCRE2 class
} known_set;

typedef struct translator {
    const char *original, *p;
    char *out;
    size_t size, capacity;
    int64_t group_start[MAX_DEPTH]; // in `out`
    int depth;
    int64_t atom;    // where the last atom starts in `out`, NO_ATOM when nothing can be repeated
    bool quantified; // the last atom already has a quantifier
    known_set sets[MAX_SETS];
    int n_sets;
    const uint8_t *classes;
} translator;

#define UNSUPPORTED(t, what)                                                                                           \
    yx_fail(YX_ERR_DATA, "the regular expression '%s' uses %s, which is not supported", (t)->original, (what))

// --- Output ----------------------------------------------------------------------------------------------------------

static yx_status reserve(translator *t, size_t more) {
    if (t->size + more + 1 <= t->capacity) return YX_OK;
    size_t capacity = (t->size + more + 1) * 2;
    char *grown = realloc(t->out, capacity);
    if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a regular expression");
    t->out = grown;
    t->capacity = capacity;
    return YX_OK;
}

static yx_status emit_bytes(translator *t, const char *text, size_t size) {
    yx_status status = reserve(t, size);
    if (status != YX_OK) return status;
    memcpy(t->out + t->size, text, size);
    t->size += size;
    t->out[t->size] = 0;
    return YX_OK;
}

static yx_status emit(translator *t, const char *text) { return emit_bytes(t, text, strlen(text)); }

static yx_status emit_code(translator *t, uint32_t code) {
    char text[16];
    int n = snprintf(text, sizeof text, "\\x{%x}", code);
    return emit_bytes(t, text, (size_t)n);
}

static yx_status emit_range(translator *t, uint32_t first, uint32_t last) {
    yx_status status = emit_code(t, first);
    if (status == YX_OK && last > first) status = emit(t, "-");
    if (status == YX_OK && last > first) status = emit_code(t, last);
    return status;
}

// --- Sets of code points ---------------------------------------------------------------------------------------------

static void fill_categories(uint8_t *category_of) {
    for (int i = 0; i < unicode_n_runs; i++) {
        uint32_t first = unicode_runs[i] >> 5;
        uint32_t end = i + 1 < unicode_n_runs ? unicode_runs[i + 1] >> 5 : UNICODE_END;
        memset(category_of + first, (int)(unicode_runs[i] & 31), end - first);
    }
}

// member[c] = 1 for the code points of the set; surrogates belong to none.
static yx_status set_members(const translator *t, char_set set, bool negative, uint8_t **member) {
    uint8_t *m = malloc(UNICODE_END);
    if (!m) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a regular expression");
    fill_categories(m);
    for (uint32_t c = 0; c < UNICODE_END; c++) {
        bool in = (t->classes[c] & set.bits) != 0 || (set.categories >> m[c] & 1) != 0;
        m[c] = m[c] != UNICODE_CS && in != negative;
    }
    *member = m;
    return YX_OK;
}

static yx_status emit_members(translator *t, const uint8_t *member) {
    yx_status status = YX_OK;
    for (uint32_t c = 0; c < UNICODE_END && status == YX_OK; c++) {
        if (!member[c]) continue;
        uint32_t first = c;
        while (c + 1 < UNICODE_END && member[c + 1]) c++;
        status = emit_range(t, first, c);
    }
    return status;
}

// Takes away the members that the installed PCRE2 itself knows to be in `items`.
static yx_status drop_known(uint8_t *member, const char *items) {
    yx_status status = YX_OK;
    char *pattern = NULL, *text = malloc(4 * (size_t)UNICODE_END);
    pcre2_code *code = NULL;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    size_t size = 0, n;
    if (!text || !data || asprintf(&pattern, "[%s]+", items) < 0) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a regex");
    for (uint32_t c = 0; c < UNICODE_END; c++)
        if (member[c]) size += unicode_encode(c, text + size);
    int error;
    PCRE2_SIZE where;
    code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &where, NULL);
    if (!code) YX_FAIL(YX_ERR_INTERNAL, "the class [%s] does not compile", items);
    size_t from = 0;
    while (pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, data, NULL) >= 0) {
        const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(data);
        for (size_t i = pair[0]; i < pair[1]; i += n) member[unicode_decode((const uint8_t *)text + i, &n)] = 0;
        from = pair[1];
    }
fail:
    free(pattern);
    free(text);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    return status;
}

static const char *const category_names[UNICODE_CATEGORIES] = {
    "Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps",
    "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};

// The set in PCRE2's properties, as far as they go: a compiled pattern is limited in size, so long lists of ranges are
// left to what PCRE2 does not know.
static void property_items(char_set set, char *items) {
    items[0] = 0;
    if (set.bits & (UNICODE_ONIG_WORD | UNICODE_ONIG_CLASS_WORD)) strcpy(items, "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}");
    if (set.bits == UNICODE_DIGIT) strcpy(items, "\\p{Nd}");
    for (int i = 0; i < UNICODE_CATEGORIES; i++)
        if (set.categories >> i & 1) {
            strcat(items, "\\p{");
            strcat(items, category_names[i]);
            strcat(items, "}");
        }
}

// Emits the items of a set for the inside of a class. PCRE2 may know an older Unicode: what it lacks is added.
// Unassigned code points and complements would need a subtraction instead: they are written out in ranges.
static yx_status build_set(translator *t, char_set set, bool negative) {
    uint8_t *member = NULL;
    char items[8 * UNICODE_CATEGORIES + 64];
    yx_status status = set_members(t, set, negative, &member);
    property_items(set, items);
    if (status == YX_OK && items[0] && !negative && !(set.categories & 1u << UNICODE_CN)) {
        status = drop_known(member, items);
        if (status == YX_OK) status = emit(t, items);
    }
    if (status == YX_OK) status = emit_members(t, member);
    free(member);
    return status;
}

static yx_status emit_set_items(translator *t, char_set set, bool negative) {
    for (int i = 0; i < t->n_sets; i++) {
        const known_set *k = &t->sets[i];
        if (k->set.bits == set.bits && k->set.categories == set.categories && k->negative == negative)
            return emit(t, k->text);
    }
    size_t before = t->size;
    yx_status status = build_set(t, set, negative);
    if (status != YX_OK || t->n_sets == MAX_SETS) return status;
    char *text = strdup(t->out + before);
    if (!text) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a regular expression");
    t->sets[t->n_sets++] = (known_set){set, negative, text};
    return YX_OK;
}

// A whole class; here the complement is a `^`.
static yx_status emit_set(translator *t, char_set set, bool negative) {
    yx_status status = emit(t, negative ? "[^" : "[");
    if (status == YX_OK) status = emit_set_items(t, set, false);
    return status == YX_OK ? emit(t, "]") : status;
}

// \d \w \s \h and their complements.
static bool shorthand_set(char letter, char_set *set, bool *negative) {
    *negative = isupper((unsigned char)letter) != 0;
    switch (tolower((unsigned char)letter)) {
    case 'd':
        *set = (char_set){.bits = UNICODE_DIGIT};
        return true;
    case 'w':
        *set = (char_set){.bits = UNICODE_ONIG_WORD};
        return true;
    case 's':
        *set = (char_set){.bits = UNICODE_SPACE};
        return true;
    default:
        return false;
    }
}

// General categories by short name ("L", "Lu") or by the long name of a group ("Letter").
static uint32_t category_mask(const char *name) {
    static const char *const groups[] = {"Letter", "Mark", "Number", "Punctuation", "Symbol", "Separator", "Other"};
    static const char letters[] = "LMNPSZC";
    uint32_t mask = 0;
    char group = name[0] && !name[1] ? (char)toupper((unsigned char)name[0]) : 0;
    for (int i = 0; i < 7; i++)
        if (strcasecmp(name, groups[i]) == 0) group = letters[i];
    for (int i = 0; i < UNICODE_CATEGORIES; i++)
        if (strcasecmp(name, category_names[i]) == 0 || (group && category_names[i][0] == group)) mask |= 1u << i;
    return mask;
}

// Reads {name} or {^name} behind \p or \P.
static yx_status read_property(translator *t, bool *negative, char name[32]) {
    const char *close = *t->p == '{' ? strchr(t->p, '}') : NULL;
    if (!close) return UNSUPPORTED(t, "\\p without {name}");
    const char *start = t->p + 1;
    if (*start == '^') *negative = !*negative, start++;
    size_t n = (size_t)(close - start);
    if (n == 0 || n > 31) return UNSUPPORTED(t, "an unknown property");
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)start[i]) && start[i] != '_') return UNSUPPORTED(t, "an unknown property");
        name[i] = start[i];
    }
    name[n] = 0;
    t->p = close + 1;
    return YX_OK;
}

static yx_status translate_property(translator *t, bool negative, bool in_class) {
    char name[32], text[48];
    yx_status status = read_property(t, &negative, name);
    if (status != YX_OK) return status;
    char_set set = {.categories = category_mask(name)};
    if (set.categories && in_class) return emit_set_items(t, set, negative);
    if (set.categories) return emit_set(t, set, negative);
    // Scripts and the like: PCRE2's own tables.
    snprintf(text, sizeof text, "\\%c{%s}", negative ? 'P' : 'p', name);
    return emit(t, text);
}

// --- Escapes ---------------------------------------------------------------------------------------------------------

static bool read_hex(const char **p, int min, int max, uint32_t *value) {
    int n = 0;
    for (*value = 0; n < max && isxdigit((unsigned char)(*p)[n]); n++) {
        char c = (*p)[n];
        *value = *value * 16 + (uint32_t)(isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10);
    }
    *p += n;
    return n >= min;
}

// \xHH (a byte: only ASCII is a character of its own), \x{H...}, \uHHHH.
static yx_status read_code_escape(translator *t, char letter, uint32_t *code) {
    bool good;
    if (letter == 'x' && *t->p == '{') {
        t->p++;
        good = read_hex(&t->p, 1, 8, code) && *t->p == '}';
        if (good) t->p++;
    } else if (letter == 'x') {
        good = read_hex(&t->p, 1, 2, code) && *code < 0x80;
    } else {
        good = read_hex(&t->p, 4, 4, code);
    }
    if (!good || *code >= UNICODE_END || (*code >= 0xd800 && *code < 0xe000))
        return UNSUPPORTED(t, "a code that is no character");
    return YX_OK;
}

// An escape that stands for one character; `*code` is set. Letters that mean something else are refused.
static yx_status read_char_escape(translator *t, bool in_class, uint32_t *code) {
    static const char letters[] = "tnrfave", values[] = "\t\n\r\f\a\v\x1b";
    char what[16];
    char letter = *t->p;
    if (letter == 'x' || letter == 'u') {
        t->p++;
        return read_code_escape(t, letter, code);
    }
    const char *known = letter ? strchr(letters, letter) : NULL;
    if (in_class && letter == 'b') {
        *code = '\b';
    } else if (known) {
        *code = (uint8_t)values[known - letters];
    } else if (isalnum((unsigned char)letter) || !letter) {
        snprintf(what, sizeof what, "\\%c", letter);
        return UNSUPPORTED(t, letter ? what : "a backslash at the end");
    } else {
        size_t n;
        *code = unicode_decode((const uint8_t *)t->p, &n);
        t->p += n;
        return YX_OK;
    }
    t->p++;
    return YX_OK;
}

// \b and \B with Oniguruma's idea of a word.
static yx_status emit_boundary(translator *t, bool negative) {
    static const char *const parts[2][5] = {{"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"},
                                            {"(?:(?<=", ")(?=", ")|(?<!", ")(?!", "))"}};
    yx_status status = YX_OK;
    for (int i = 0; i < 5 && status == YX_OK; i++) {
        status = emit(t, parts[negative][i]);
        if (i < 4 && status == YX_OK) status = emit_set(t, (char_set){.bits = UNICODE_ONIG_WORD}, false);
    }
    return status;
}

static yx_status translate_escape(translator *t) {
    char_set set;
    bool negative;
    char letter = *t->p;
    uint32_t code;
    int64_t start = (int64_t)t->size;
    yx_status status;
    t->quantified = false;
    t->atom = start;
    if (letter == 'p' || letter == 'P') {
        t->p++;
        return translate_property(t, letter == 'P', false);
    }
    if (shorthand_set(letter, &set, &negative)) {
        t->p++;
        return emit_set(t, set, negative);
    }
    if (letter == 'h' || letter == 'H') {
        t->p++;
        return emit(t, letter == 'h' ? "[0-9A-Fa-f]" : "[^0-9A-Fa-f]");
    }
    if (letter == 'b' || letter == 'B') {
        t->p++;
        return emit_boundary(t, letter == 'B');
    }
    if (letter && strchr("AzZGRN123456789", letter)) { // the same in both
        t->p++;
        return emit_bytes(t, t->p - 2, 2);
    }
    status = read_char_escape(t, false, &code);
    return status == YX_OK ? emit_code(t, code) : status;
}

// --- Classes ---------------------------------------------------------------------------------------------------------

// One item of a class that is a single character; sets are emitted by the caller.
static yx_status read_class_char(translator *t, uint32_t *code) {
    if (*t->p == '\\') {
        t->p++;
        return read_char_escape(t, true, code);
    }
    size_t n;
    *code = unicode_decode((const uint8_t *)t->p, &n);
    t->p += n;
    return YX_OK;
}

// Emits \p{..}, \d … inside a class; `*done` tells whether there was one.
static yx_status translate_class_set(translator *t, bool *done) {
    char_set set;
    bool negative;
    *done = false;
    if (t->p[0] != '\\') return YX_OK;
    char letter = t->p[1];
    if (letter == 'p' || letter == 'P') {
        *done = true;
        t->p += 2;
        return translate_property(t, letter == 'P', true);
    }
    if (shorthand_set(letter, &set, &negative)) {
        *done = true;
        t->p += 2;
        if (set.bits == UNICODE_ONIG_WORD) set.bits = UNICODE_ONIG_CLASS_WORD;
        return emit_set_items(t, set, negative);
    }
    if (letter == 'h') {
        *done = true;
        t->p += 2;
        return emit(t, "0-9A-Fa-f");
    }
    return YX_OK;
}

static yx_status translate_class_item(translator *t) {
    bool done;
    uint32_t first, last;
    if (t->p[0] == '[') return UNSUPPORTED(t, "a class inside a class");
    if (t->p[0] == '&' && t->p[1] == '&') return UNSUPPORTED(t, "an intersection of classes");
    yx_status status = translate_class_set(t, &done);
    if (status != YX_OK || done) return status;
    status = read_class_char(t, &first);
    if (status != YX_OK) return status;
    bool range = t->p[0] == '-' && t->p[1] && t->p[1] != ']' && t->p[1] != '[';
    if (!range || (t->p[1] == '\\' && t->p[2] && strchr("pPdDwWsSh", t->p[2]))) return emit_code(t, first);
    t->p++;
    status = read_class_char(t, &last);
    if (status != YX_OK) return status;
    if (last < first) return UNSUPPORTED(t, "a range that runs backwards");
    return emit_range(t, first, last);
}

static yx_status translate_class(translator *t) {
    yx_status status = YX_OK;
    t->atom = (int64_t)t->size;
    t->quantified = false;
    YX_CHECK(emit(t, "["));
    if (*t->p == '^') {
        t->p++;
        YX_CHECK(emit(t, "^"));
    }
    if (*t->p == ']') { // first: a character
        t->p++;
        YX_CHECK(emit(t, "\\]"));
    }
    while (*t->p && *t->p != ']') YX_CHECK(translate_class_item(t));
    if (!*t->p) YX_FAIL(YX_ERR_DATA, "the regular expression '%s' has a class without its end", t->original);
    t->p++;
    YX_CHECK(emit(t, "]"));
fail:
    return status;
}

// --- Groups and quantifiers ------------------------------------------------------------------------------------------

// (?i) (?i-m) (?i: : Oniguruma's m is PCRE2's s. A bare (?i) reaches over the alternatives behind it in Oniguruma; at
// the start of a group that is the same in PCRE2.
static yx_status translate_options(translator *t, bool *opens) {
    bool at_start = t->size == 0 || (t->depth > 0 && t->group_start[t->depth - 1] == (int64_t)t->size - 1);
    yx_status status = emit(t, "(?");
    for (t->p++; status == YX_OK && *t->p && strchr("im-", *t->p); t->p++)
        status = emit_bytes(t, *t->p == 'm' ? "s" : t->p, 1);
    if (status != YX_OK) return status;
    if (*t->p != ':' && (*t->p != ')' || !at_start)) return UNSUPPORTED(t, "such an option group");
    *opens = *t->p == ':';
    return emit_bytes(t, t->p++, 1);
}

static yx_status open_group(translator *t) {
    static const char *const plain[] = {"?:", "?=", "?!", "?>", "?<=", "?<!"};
    int64_t start = (int64_t)t->size;
    bool opens = true;
    yx_status status;
    if (t->depth == MAX_DEPTH) return UNSUPPORTED(t, "groups so deep");
    const char *match = NULL;
    for (int i = 0; i < 6; i++)
        if (strncmp(t->p, plain[i], strlen(plain[i])) == 0) match = plain[i];
    if (match) {
        status = emit(t, "(");
        if (status == YX_OK) status = emit(t, match);
        t->p += strlen(match);
    } else if (t->p[0] == '?' && t->p[1] && strchr("im-", t->p[1])) {
        status = translate_options(t, &opens);
    } else if (t->p[0] == '?' || t->p[0] == '*') {
        return UNSUPPORTED(t, "a group of an unknown kind");
    } else {
        status = emit(t, "(");
    }
    t->atom = NO_ATOM;
    if (opens) t->group_start[t->depth++] = start;
    return status;
}

static yx_status close_group(translator *t) {
    if (t->depth == 0) return yx_fail(YX_ERR_DATA, "the regular expression '%s' closes no group", t->original);
    t->atom = t->group_start[--t->depth];
    t->quantified = false;
    return emit(t, ")");
}

// Wraps the last atom in (?:...), so that another quantifier can follow.
static yx_status wrap_atom(translator *t) {
    yx_status status = reserve(t, 4);
    if (status != YX_OK) return status;
    char *atom = t->out + t->atom;
    memmove(atom + 3, atom, t->size - (size_t)t->atom);
    memcpy(atom, "(?:", 3);
    t->size += 3;
    return emit(t, ")");
}

// {n} {n,} {,m} {n,m}; anything else is a literal brace.
static bool read_interval(const char *p, const char **end, char text[32], bool *exact) {
    char low[8] = "0", high[8] = "";
    int n = 0, m = 0;
    p++;
    while (isdigit((unsigned char)p[n]) && n < 6) low[n] = p[n], n++;
    if (n) low[n] = 0;
    p += n;
    bool comma = *p == ',';
    if (comma) p++;
    while (comma && isdigit((unsigned char)p[m]) && m < 6) high[m] = p[m], m++;
    high[m] = 0;
    p += m;
    if (*p != '}' || (n == 0 && m == 0)) return false;
    *exact = !comma;
    *end = p + 1;
    snprintf(text, 32, comma ? "{%s,%s}" : "{%s}", low, high);
    return true;
}

static yx_status translate_quantifier(translator *t, bool interval, const char *text, bool exact) {
    yx_status status = YX_OK;
    if (t->atom == NO_ATOM) return yx_fail(YX_ERR_DATA, "the regular expression '%s' repeats nothing", t->original);
    if (t->quantified) status = wrap_atom(t);
    if (status == YX_OK) status = emit(t, text);
    t->quantified = true;
    if (status != YX_OK) return status;
    // A suffix: lazy or possessive. Behind {n} neither, behind {n,m} no possessive: there it repeats again.
    bool lazy = *t->p == '?' && !(interval && exact), possessive = *t->p == '+' && !interval;
    return lazy || possessive ? emit_bytes(t, t->p++, 1) : YX_OK;
}

static yx_status translate_literal(translator *t) {
    size_t n;
    t->atom = (int64_t)t->size;
    t->quantified = false;
    unicode_decode((const uint8_t *)t->p, &n);
    yx_status status = strchr("]{}", *t->p) ? emit(t, "\\") : YX_OK;
    if (status == YX_OK) status = emit_bytes(t, t->p, n);
    t->p += n;
    return status;
}

static yx_status translate_one(translator *t) {
    char interval[32];
    bool exact;
    switch (*t->p) {
    case '\\':
        t->p++;
        return translate_escape(t);
    case '[':
        t->p++;
        return translate_class(t);
    case '(':
        t->p++;
        return open_group(t);
    case ')':
        t->p++;
        return close_group(t);
    case '|':
    case '^':
    case '$':
        t->atom = NO_ATOM;
        return emit_bytes(t, t->p++, 1);
    case '*':
    case '+':
    case '?': {
        char text[2] = {*t->p++, 0};
        return translate_quantifier(t, false, text, false);
    }
    case '{':
        if (read_interval(t->p, &t->p, interval, &exact)) return translate_quantifier(t, true, interval, exact);
        return translate_literal(t);
    default:
        return translate_literal(t);
    }
}

yx_status regex_translate(const char *pattern, char **out) {
    yx_status status = YX_OK;
    translator t = {.original = pattern, .p = pattern, .atom = NO_ATOM};
    size_t size = strlen(pattern);
    if (size > MAX_PATTERN) YX_FAIL(YX_ERR_DATA, "a regular expression of %zu bytes is too long", size);
    if (unicode_valid_prefix((const uint8_t *)pattern, size) != size)
        YX_FAIL(YX_ERR_DATA, "a regular expression is not valid UTF-8");
    YX_CHECK(unicode_classes(&t.classes));
    YX_CHECK(emit(&t, ""));
    while (*t.p) YX_CHECK(translate_one(&t));
    *out = t.out;
    t.out = NULL;
fail:
    for (int i = 0; i < t.n_sets; i++) free(t.sets[i].text);
    free(t.out);
    return status;
}

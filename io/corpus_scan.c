#include "io/corpus_scan.h"
#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 512 };

bool corpus_scan_refuse(corpus_scan *s, const char *error) {
    if (!s->error) s->error = error;
    return false;
}

static void skip_space(corpus_scan *s) {
    while (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t') s->p++;
}

bool corpus_scan_take(corpus_scan *s, char c) {
    skip_space(s);
    bool found = *s->p == c && s->p < s->end;
    s->p += found;
    return found;
}

bool corpus_scan_ended(corpus_scan *s) {
    skip_space(s);
    return s->p == s->end || corpus_scan_refuse(s, "something behind the value");
}

// --- Strings --------------------------------------------------------------------------------------------------------
enum { PIECE = 16 };
typedef uint8_t piece_bytes __attribute__((vector_size(PIECE))); // GCC's and clang's, on any processor

// Bytes of the piece before its first quote, backslash or control character.
static size_t plain_bytes(piece_bytes piece) {
    uint64_t stops[2]; // a byte of ones for each that ends a run
    piece_bytes found = (piece_bytes)((piece < 0x20) | (piece == '"') | (piece == '\\'));
    memcpy(stops, &found, sizeof stops);
    if (stops[0]) return (size_t)__builtin_ctzll(le64toh(stops[0])) / 8;
    return 8 + (stops[1] ? (size_t)__builtin_ctzll(le64toh(stops[1])) / 8 : 8);
}

static bool is_plain(char c) { return (unsigned char)c >= 0x20 && c != '"' && c != '\\'; }

// Moves what stands before the next quote, backslash or control character to `to` (at most s->p); returns its end.
static char *move_plain(corpus_scan *s, char *to) {
    char *p = s->p, *end = s->end; // bytes that are written could lie in *s, for all that the compiler knows
    size_t n = PIECE;
    for (; n == PIECE && end - p >= PIECE; p += n, to += n) {
        piece_bytes piece;
        memcpy(&piece, p, PIECE);
        n = plain_bytes(piece);
        // What lies behind the run may be overwritten only where it was read before.
        if (n == PIECE || p - to >= PIECE) memcpy(to, &piece, PIECE);
        else memmove(to, p, n);
    }
    while (p < end && is_plain(*p)) *to++ = *p++; // nothing, unless the text ends in less than a piece
    s->p = p;
    return to;
}

// Four hexadecimal digits, -1 when they are not there (the text's zero byte ends them too).
static int32_t hex4(const char *p) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *to, uint32_t c) {
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 63));
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    }
    return to;
}

// s->p is behind "\u".
static bool unescape_unicode(corpus_scan *s, char **to) {
    int32_t c = hex4(s->p), low;
    if (c < 0) return corpus_scan_refuse(s, "\\u without four hexadecimal digits");
    s->p += 4;
    if (c == 0) {
        s->nul = true;
        return corpus_scan_refuse(s, "\\u0000");
    }
    if (c >= 0xd800 && c <= 0xdfff) {
        low = c <= 0xdbff && s->p[0] == '\\' && s->p[1] == 'u' ? hex4(s->p + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff) return corpus_scan_refuse(s, "half of a surrogate pair");
        s->p += 6;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    *to = put_utf8(*to, (uint32_t)c);
    return true;
}

// s->p is at the backslash.
static bool unescape(corpus_scan *s, char **to) {
    static const char escapes[] = "n\n\"\"\\\\t\tr\r//b\bf\f";
    char c = s->p[1];
    s->p += 2;
    if (c == 'u') return unescape_unicode(s, to);
    for (const char *e = escapes; *e; e += 2)
        if (*e == c) {
            *(*to)++ = e[1];
            return true;
        }
    s->p -= 1;
    return corpus_scan_refuse(s, "an unknown escape");
}

bool corpus_scan_string(corpus_scan *s, const char **text, size_t *size) {
    if (!corpus_scan_take(s, '"')) return corpus_scan_refuse(s, "a string is missing");
    char *begin = s->p, *to = begin;
    for (;;) {
        to = move_plain(s, to);
        if (s->p == s->end) return corpus_scan_refuse(s, "the line ends inside a string");
        if (*s->p == '"') break;
        if (*s->p != '\\') return corpus_scan_refuse(s, "a control character in a string");
        if (!unescape(s, &to)) return false;
    }
    s->p++;
    *to = 0; // at the closing quote at the latest
    *text = begin;
    *size = (size_t)(to - begin);
    return true;
}

// --- Other values ---------------------------------------------------------------------------------------------------
static bool skip_digits(corpus_scan *s) {
    const char *begin = s->p;
    while (*s->p >= '0' && *s->p <= '9') s->p++;
    return s->p > begin || corpus_scan_refuse(s, "a digit is missing");
}

static bool scan_number(corpus_scan *s, double *out) {
    const char *begin = s->p;
    s->p += *s->p == '-';
    bool zero = *s->p == '0';
    if (zero) s->p++;
    else if (!skip_digits(s)) return false;
    if (*s->p == '.') {
        s->p++;
        if (!skip_digits(s)) return false;
    }
    if (*s->p == 'e' || *s->p == 'E') {
        s->p++;
        s->p += *s->p == '+' || *s->p == '-';
        if (!skip_digits(s)) return false;
    }
    *out = strtod(begin, NULL); // ends where the number does: what follows is no part of one
    return true;
}

static bool scan_word(corpus_scan *s, const char *word) {
    size_t n = strlen(word);
    if (strncmp(s->p, word, n) != 0) return corpus_scan_refuse(s, "not a JSON value");
    s->p += n;
    return true;
}

static bool scan(corpus_scan *s, scan_value *out, int depth);

// The inside of an array or object, up to its closing bracket.
static bool skip_members(corpus_scan *s, bool is_object, int depth) {
    char close = is_object ? '}' : ']';
    scan_value value;
    const char *key;
    size_t size;
    if (depth == MAX_DEPTH) return corpus_scan_refuse(s, "nested too deep");
    if (corpus_scan_take(s, close)) return true;
    do {
        if (is_object && !corpus_scan_string(s, &key, &size)) return false;
        if (is_object && !corpus_scan_take(s, ':')) return corpus_scan_refuse(s, "a colon is missing");
        if (!scan(s, &value, depth + 1)) return false;
    } while (corpus_scan_take(s, ','));
    return corpus_scan_take(s, close) || corpus_scan_refuse(s, "a comma or closing bracket is missing");
}

static bool scan(corpus_scan *s, scan_value *out, int depth) {
    skip_space(s);
    *out = (scan_value){.kind = SCAN_NULL};
    switch (*s->p) {
    case '"':
        out->kind = SCAN_STRING;
        return corpus_scan_string(s, &out->text, &out->size);
    case '{':
    case '[':
        out->kind = *s->p == '{' ? SCAN_OBJECT : SCAN_ARRAY;
        s->p++;
        return skip_members(s, out->kind == SCAN_OBJECT, depth);
    case 't':
        out->kind = SCAN_BOOL;
        return scan_word(s, "true");
    case 'f':
        out->kind = SCAN_BOOL;
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        out->kind = SCAN_NUMBER;
        if (*s->p != '-' && (*s->p < '0' || *s->p > '9')) return corpus_scan_refuse(s, "not a JSON value");
        return scan_number(s, &out->number);
    }
}

bool corpus_scan_value(corpus_scan *s, scan_value *out) { return scan(s, out, 0); }

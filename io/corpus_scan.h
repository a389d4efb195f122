// JSON read in place, in one pass: strings are unescaped where they stand. Strict (RFC 8259); the caller has checked
// that the text is UTF-8 without zero bytes.
#pragma once
#include <stdbool.h>
#include <stddef.h>

typedef struct corpus_scan {
    char *begin, *p, *end; // p: the next byte; *end is a zero byte
    const char *error;     // what is wrong at p, NULL: nothing so far
    bool nul;              // the error is an escaped zero byte
} corpus_scan;

typedef enum scan_kind { SCAN_NULL, SCAN_BOOL, SCAN_NUMBER, SCAN_STRING, SCAN_ARRAY, SCAN_OBJECT } scan_kind;

typedef struct scan_value {
    scan_kind kind;
    const char *text; // of a string: zero-terminated, in the scanned text
    size_t size;
    double number;
} scan_value;

// All return false with s->error set; then the text is not to be read on.
// Skips white space; true when `c` follows, which is skipped too.
bool corpus_scan_take(corpus_scan *s, char c);
// A string, whose opening quote is the next byte but for white space.
bool corpus_scan_string(corpus_scan *s, const char **text, size_t *size);
// Any value; of an array or object only the kind is kept.
bool corpus_scan_value(corpus_scan *s, scan_value *out);
// Nothing but white space is left.
bool corpus_scan_ended(corpus_scan *s);
// Sets s->error; returns false.
bool corpus_scan_refuse(corpus_scan *s, const char *error);

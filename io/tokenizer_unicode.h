// What the tokenizer needs to know of Unicode: UTF-8, and properties of code points as Unicode 16 defines them (the
// version inside the Oniguruma that the `tokenizers` library uses; PCRE2's own tables depend on what is installed).
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef enum unicode_category {
    UNICODE_CN, // unassigned
    UNICODE_LU,
    UNICODE_LL,
    UNICODE_LT,
    UNICODE_LM,
    UNICODE_LO,
    UNICODE_MN,
    UNICODE_MC,
    UNICODE_ME,
    UNICODE_ND,
    UNICODE_NL,
    UNICODE_NO,
    UNICODE_PC,
    UNICODE_PD,
    UNICODE_PS,
    UNICODE_PE,
    UNICODE_PI,
    UNICODE_PF,
    UNICODE_PO,
    UNICODE_SM,
    UNICODE_SC,
    UNICODE_SK,
    UNICODE_SO,
    UNICODE_ZS,
    UNICODE_ZL,
    UNICODE_ZP,
    UNICODE_CC,
    UNICODE_CF,
    UNICODE_CS,
    UNICODE_CO,
    UNICODE_CATEGORIES
} unicode_category;

enum { UNICODE_END = 0x110000 };

// Runs of code points with one category: code point of the start << 5 | category, ascending.
extern const uint32_t unicode_runs[];
extern const int unicode_n_runs;

// Classes of a code point as pre-tokenizers see them.
enum {
    UNICODE_LETTER = 1,           // \p{L}
    UNICODE_NUMBER = 2,           // \p{N}
    UNICODE_DIGIT = 4,            // \d: Nd
    UNICODE_SPACE = 8,            // \s: White_Space (without U+180E)
    UNICODE_NUMERIC = 16,         // Rust's char::is_numeric, which knows Unicode 17's numbers
    UNICODE_WORD = 32,            // \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control
    UNICODE_ONIG_WORD = 64,       // \w and \b of Oniguruma
    UNICODE_ONIG_CLASS_WORD = 128 // \w of Oniguruma inside [..]
};

// classes[code point]; made on the first call, shared, never freed (1.1 MB).
yx_status unicode_classes(const uint8_t **classes);

// Decodes the code point at `p` of valid UTF-8; `*length` gets its bytes.
static inline uint32_t unicode_decode(const uint8_t *p, size_t *length) {
    if (p[0] < 0x80) {
        *length = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *length = 2;
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if (p[0] < 0xf0) {
        *length = 3;
        return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    }
    *length = 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 | (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

// Start of the code point before `p` (p > begin, valid UTF-8).
static inline const uint8_t *unicode_previous(const uint8_t *p) {
    do p--;
    while ((*p & 0xc0) == 0x80);
    return p;
}

// Writes `code` as UTF-8; returns the bytes (1 to 4).
size_t unicode_encode(uint32_t code, char out[4]);

// Bytes at the front of `text` that are valid UTF-8 (Unicode 15, table 3-7).
size_t unicode_valid_prefix(const uint8_t *text, size_t size);
// Copies `text` into `out` (room for 3 * size bytes) with U+FFFD in place of each maximal ill-formed part; returns the
// bytes written.
size_t unicode_repair(const uint8_t *text, size_t size, uint8_t *out);

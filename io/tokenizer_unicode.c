#include "io/tokenizer_unicode.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static uint8_t *class_table;
static pthread_once_t class_once = PTHREAD_ONCE_INIT;

static void mark(uint32_t first, uint32_t last, uint8_t bits) {
    for (uint32_t c = first; c <= last; c++) class_table[c] |= bits;
}

// A word character in all three senses.
enum { WORD = UNICODE_WORD | UNICODE_ONIG_WORD | UNICODE_ONIG_CLASS_WORD };

static uint8_t category_bits(unicode_category category) {
    switch (category) {
    case UNICODE_LU:
    case UNICODE_LL:
    case UNICODE_LT:
    case UNICODE_LM:
    case UNICODE_LO:
        return UNICODE_LETTER | WORD;
    case UNICODE_ND:
        return UNICODE_NUMBER | UNICODE_NUMERIC | UNICODE_DIGIT | WORD;
    case UNICODE_NL:
        return UNICODE_NUMBER | UNICODE_NUMERIC | WORD;
    case UNICODE_NO:
        return UNICODE_NUMBER | UNICODE_NUMERIC;
    case UNICODE_MN:
    case UNICODE_MC:
    case UNICODE_ME:
    case UNICODE_PC:
        return WORD;
    case UNICODE_ZS:
    case UNICODE_ZL:
    case UNICODE_ZP:
        return UNICODE_SPACE;
    default:
        return 0;
    }
}

static void make_classes(void) {
    class_table = calloc(UNICODE_END, 1);
    if (!class_table) return;
    for (int i = 0; i < unicode_n_runs; i++) {
        uint32_t end = i + 1 < unicode_n_runs ? unicode_runs[i + 1] >> 5 : UNICODE_END;
        mark(unicode_runs[i] >> 5, end - 1, category_bits((unicode_category)(unicode_runs[i] & 31)));
    }
    mark(0x09, 0x0d, UNICODE_SPACE);
    mark(0x85, 0x85, UNICODE_SPACE);
    // Alphabetic symbols: circled, squared and negative letters.
    mark(0x24b6, 0x24e9, WORD);
    mark(0x1f130, 0x1f149, WORD);
    mark(0x1f150, 0x1f169, WORD);
    mark(0x1f170, 0x1f189, WORD);
    mark(0x200c, 0x200d, UNICODE_WORD); // Join_Control
    // Oniguruma's Latin-1 table, which classes do not use, counts the superscripts and fractions as word characters.
    mark(0xb2, 0xb3, UNICODE_ONIG_WORD);
    mark(0xb9, 0xb9, UNICODE_ONIG_WORD);
    mark(0xbc, 0xbe, UNICODE_ONIG_WORD);
    // Numbers that Unicode 17 added.
    mark(0x11de0, 0x11de9, UNICODE_NUMERIC);
    mark(0x16ff4, 0x16ff6, UNICODE_NUMERIC);
}

yx_status unicode_classes(const uint8_t **classes) {
    pthread_once(&class_once, make_classes);
    if (!class_table) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the Unicode tables");
    *classes = class_table;
    return YX_OK;
}

size_t unicode_encode(uint32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

// What a lead byte promises: the length of the sequence (0: never a lead), and the range of the second byte, which
// alone excludes overlong forms, surrogates and code points above U+10FFFF.
static int lead_length(uint8_t lead, uint8_t *low, uint8_t *high) {
    *low = 0x80, *high = 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    if (lead < 0xe0) return 2;
    if (lead == 0xe0) *low = 0xa0;
    else if (lead == 0xed) *high = 0x9f;
    else if (lead == 0xf0) *low = 0x90;
    else if (lead == 0xf4) *high = 0x8f;
    return lead < 0xf0 ? 3 : 4;
}

// Bytes at `text` that belong to one sequence: `*complete` tells a whole code point from a maximal ill-formed part.
static size_t sequence_length(const uint8_t *text, size_t size, bool *complete) {
    uint8_t low, high;
    int length = lead_length(text[0], &low, &high);
    size_t n = 1;
    for (; length > 1 && n < (size_t)length && n < size; n++) {
        if (text[n] < low || text[n] > high) break;
        low = 0x80, high = 0xbf;
    }
    *complete = n == (size_t)length;
    return n;
}

// Bytes of `text` before the first one that is not ASCII.
static size_t ascii_prefix(const uint8_t *text, size_t size) {
    static const uint64_t high_bits = 0x8080808080808080u;
    uint64_t words[8];
    size_t i = 0;
    for (; size - i >= sizeof words; i += sizeof words) {
        memcpy(words, text + i, sizeof words);
        if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) & high_bits) break;
    }
    for (; size - i >= sizeof *words; i += sizeof *words) {
        memcpy(words, text + i, sizeof *words);
        if (words[0] & high_bits) break;
    }
    while (i < size && text[i] < 0x80) i++;
    return i;
}

size_t unicode_valid_prefix(const uint8_t *text, size_t size) {
    size_t i = 0;
    while (i < size) {
        bool complete;
        if (text[i] < 0x80) {
            i += ascii_prefix(text + i, size - i);
            continue;
        }
        size_t n = sequence_length(text + i, size - i, &complete);
        if (!complete) break;
        i += n;
    }
    return i;
}

size_t unicode_repair(const uint8_t *text, size_t size, uint8_t *out) {
    size_t written = 0;
    for (size_t i = 0; i < size;) {
        size_t good = unicode_valid_prefix(text + i, size - i);
        memcpy(out + written, text + i, good);
        written += good;
        i += good;
        if (i == size) break;
        bool complete;
        i += sequence_length(text + i, size - i, &complete);
        memcpy(out + written, "\xef\xbf\xbd", 3);
        written += 3;
    }
    return written;
}

#include "io/corpus_utf8.h"
#include <stdint.h>
#include <string.h>

// Bytes of the sequence that starts at p, 0 when it is ill-formed or cut off.
static size_t sequence(const unsigned char *p, size_t left) {
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf   ? 2
               : p[0] >= 0xe0 && p[0] <= 0xef ? 3
               : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                              : 0;
    if (n == 0 || left < n) return 0;
    // The second byte's range excludes overlong forms (E0, F0), surrogates (ED) and what lies above U+10FFFF (F4).
    unsigned char low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

size_t corpus_utf8_check(const char *text, size_t size) {
    const unsigned char *p = (const unsigned char *)text;
    size_t at = 0;
    while (at < size) {
        uint64_t word;
        if (size - at >= sizeof word) { // eight ASCII bytes at a time
            memcpy(&word, p + at, sizeof word);
            if (!(word & 0x8080808080808080ull)) {
                at += sizeof word;
                continue;
            }
        }
        size_t n = sequence(p + at, size - at);
        if (n == 0) return at;
        at += n;
    }
    return size;
}

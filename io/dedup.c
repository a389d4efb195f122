#include "io/dedup.h"
#include "common/hash.h"
#include "common/rng.h"
#include <string.h>

enum { HASHES = DEDUP_BANDS * DEDUP_ROWS };

typedef struct signature {
    uint32_t smallest[HASHES];
    uint32_t mask[HASHES], factor[HASHES];
} signature;

static void start(signature *s) {
    for (uint64_t i = 0; i < HASHES; i++) {
        uint64_t r = yx_mix64(0x6d696e68617368, i);
        s->smallest[i] = UINT32_MAX;
        s->mask[i] = (uint32_t)r;
        s->factor[i] = (uint32_t)(r >> 32) | 1;
    }
}

// Every hash is a permutation of the 32-bit numbers: two multiplications with a shift between them, so that the order
// by the upper bits depends on all bits of the gram. 32 bits wide, for the vector unit.
static void add_gram(signature *s, uint32_t gram) {
    for (int i = 0; i < HASHES; i++) {
        uint32_t x = (gram ^ s->mask[i]) * s->factor[i];
        x = (x ^ x >> 15) * 0x2c1b3c6d;
        s->smallest[i] = x < s->smallest[i] ? x : s->smallest[i];
    }
}

static bool in_word(unsigned char c) {
    return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// The hash of the next word, from `*at` on; false when there is none.
static bool next_word(const char *text, size_t size, size_t *at, uint64_t *word) {
    size_t i = *at;
    uint64_t h = 0xcbf29ce484222325ull;
    while (i < size && !in_word((unsigned char)text[i])) i++;
    size_t begin = i;
    for (; i < size && in_word((unsigned char)text[i]); i++) {
        unsigned char c = (unsigned char)text[i];
        h = (h ^ (c >= 'A' && c <= 'Z' ? c + 32 : c)) * 0x100000001b3ull; // FNV-1a
    }
    *at = i;
    *word = h;
    return i > begin;
}

static uint32_t gram_of(const uint64_t *words, int64_t newest, int64_t count) {
    uint64_t h = 0;
    for (int64_t k = newest - count + 1; k <= newest; k++) h = yx_mix64(h ^ words[k % DEDUP_WORDS], 5);
    return (uint32_t)(h >> 32);
}

bool dedup_sign(const char *text, size_t size, uint64_t bands[DEDUP_BANDS]) {
    uint64_t words[DEDUP_WORDS];
    int64_t n = 0;
    signature s;
    start(&s);
    for (size_t at = 0; next_word(text, size, &at, &words[n % DEDUP_WORDS]); n++)
        if (n >= DEDUP_WORDS - 1) add_gram(&s, gram_of(words, n, DEDUP_WORDS));
    if (n == 0) return false;
    if (n < DEDUP_WORDS) add_gram(&s, gram_of(words, n - 1, n)); // a short text is one gram
    for (int b = 0; b < DEDUP_BANDS; b++)
        bands[b] = yx_hash64(&s.smallest[b * DEDUP_ROWS], DEDUP_ROWS * sizeof *s.smallest, (uint64_t)b);
    return true;
}

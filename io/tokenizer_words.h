// Where a text can be cut for merges that stay within words, and a small memory of the words met last.
#pragma once
#include "common/status.h"
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the keys of words are cut for little-endian machines");

// Pairs of neighbouring bytes inside tokens. Between two bytes that no token has side by side, every encoding has a
// boundary: it is the encodings of the parts, one behind the other.
typedef struct word_joints {
    uint64_t bits[256][4]; // [byte] a bit for each byte that may follow
} word_joints;

void word_joints_add(word_joints *j, const uint8_t *token, size_t size);
// Writes where the parts of text[0 .. size) start, 0 first, then `size`; returns their number. `starts` has room for
// size + 1.
size_t word_find_starts(const word_joints *j, const uint8_t *text, size_t size, uint32_t *starts);

// --- Memory of words -------------------------------------------------------------------------------------------------

enum { WORD_MAX_BYTES = 15, WORD_MAX_SYMBOLS = 3 };

typedef struct word_key {
    uint64_t low, high; // the bytes, zeros behind them, their number in the last byte
} word_key;

typedef struct word_entry {
    word_key key; // high is 0 where the entry is empty
    uint32_t symbols[WORD_MAX_SYMBOLS];
    uint32_t count;
} word_entry;

typedef struct word_cache {
    word_entry *entries; // a word has one place
    uint64_t owner;      // whose symbols they are
} word_cache;

yx_status word_cache_allocate(word_cache *c);
// Forgets everything unless it is the symbols of `owner` (not 0) that it holds.
void word_cache_own(word_cache *c, uint64_t owner);
void word_cache_free(word_cache *c);

// Key of a word of 1 to WORD_MAX_BYTES bytes; text[0 .. readable) may be read.
static inline word_key word_make_key(const uint8_t *text, size_t size, size_t readable) {
    uint64_t parts[2] = {0, 0};
    if (readable >= sizeof parts) {
        memcpy(parts, text, sizeof parts);
        uint64_t low = size >= 8 ? UINT64_MAX : ((uint64_t)1 << 8 * size) - 1;
        uint64_t high = size <= 8 ? 0 : ((uint64_t)1 << 8 * (size - 8)) - 1;
        parts[0] &= low;
        parts[1] &= high;
    } else {
        memcpy(parts, text, size);
    }
    return (word_key){parts[0], parts[1] | (uint64_t)size << 56};
}

enum { WORD_CACHE_BITS = 15 };
static inline word_entry *word_cache_entry(const word_cache *c, word_key key) {
    uint64_t hash = (key.low ^ key.high * 0xff51afd7ed558ccdu) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 32) * 0xc4ceb9fe1a85ec53u;
    return &c->entries[hash >> (64 - WORD_CACHE_BITS)];
}

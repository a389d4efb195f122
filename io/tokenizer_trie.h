// A double-array trie (Aoe 1989) over byte strings that finds the longest one at the front of a text. What only one key
// goes on with is kept as a tail to compare, not as cells.
#pragma once
#include "common/status.h"
#include <stdint.h>
#include <string.h>

enum { TRIE_NONE = -1 };

typedef struct trie_key {
    const uint8_t *bytes;
    uint32_t size; // at least 1
    int32_t value; // at least 0
} trie_key;

typedef struct trie_cell {
    uint32_t base;   // the child for byte c is cell base ^ c …
    uint32_t parent; // … if that one names this cell as its parent
    int32_t longest; // value of the longest key that is a prefix of the cell's string, or TRIE_NONE
    uint32_t tail;   // 0, or where in `tails` the only key below goes on: the cell has no children then
} trie_cell;

typedef struct trie {
    trie_cell *cells; // cell 0 is the root; their number is a multiple of 256, so that base ^ c is always one of them
    uint8_t *tails;   // each: the value (4 bytes), the size (4 bytes), the bytes
    uint32_t n_cells;
} trie;

// Sorts `keys`, which must be distinct.
yx_status trie_build(trie_key *keys, size_t n_keys, trie *out);
void trie_free(trie *t);

// Value of the longest key at the front of text[0 .. size), or TRIE_NONE.
static inline int32_t trie_longest(const trie *t, const uint8_t *text, size_t size) {
    uint32_t cell = 0;
    size_t i = 0;
    for (; i < size; i++) {
        uint32_t child = t->cells[cell].base ^ text[i];
        if (t->cells[child].parent != cell) break;
        cell = child;
    }
    const trie_cell *last = &t->cells[cell];
    if (last->tail == 0) return last->longest;
    const uint8_t *tail = t->tails + last->tail;
    int32_t value;
    uint32_t length;
    memcpy(&value, tail, 4);
    memcpy(&length, tail + 4, 4);
    return length <= size - i && memcmp(tail + 8, text + i, length) == 0 ? value : last->longest;
}

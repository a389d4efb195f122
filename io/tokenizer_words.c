#include "io/tokenizer_words.h"
#include "io/tokenizer_memory.h"
#include <stdlib.h>

void word_joints_add(word_joints *j, const uint8_t *token, size_t size) {
    for (size_t i = 1; i < size; i++) j->bits[token[i - 1]][token[i] >> 6] |= (uint64_t)1 << (token[i] & 63);
}

size_t word_find_starts(const word_joints *j, const uint8_t *text, size_t size, uint32_t *starts) {
    size_t n = 1;
    starts[0] = 0;
    for (size_t i = 1; i < size; i++) { // without branches: they would be mispredicted at every other word
        starts[n] = (uint32_t)i;
        n += ~j->bits[text[i - 1]][text[i] >> 6] >> (text[i] & 63) & 1;
    }
    starts[n] = (uint32_t)size;
    return n;
}

yx_status word_cache_allocate(word_cache *c) {
    if (c->entries) return YX_OK;
    c->entries = table_alloc(sizeof *c->entries << WORD_CACHE_BITS);
    c->owner = 0;
    return c->entries ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for an encoder");
}

void word_cache_own(word_cache *c, uint64_t owner) {
    if (c->owner == owner) return;
    memset(c->entries, 0, sizeof *c->entries << WORD_CACHE_BITS);
    c->owner = owner;
}

void word_cache_free(word_cache *c) {
    free(c->entries);
    *c = (word_cache){0};
}

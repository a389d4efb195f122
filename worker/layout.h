// Arenas that are planned before they are allocated: the same function runs once without a base, to learn the size, and
// once with one, to hand out the pieces.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct layout {
    char *base; // NULL while measuring
    size_t used;
} layout;

// The next `bytes` of the arena, 256-byte aligned; NULL while measuring or when bytes is 0.
static inline void *layout_take(layout *a, size_t bytes) {
    size_t at = a->used;
    a->used += (bytes + 255) / 256 * 256;
    return a->base && bytes ? a->base + at : NULL;
}

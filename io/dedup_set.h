// A set of 64-bit hashes.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef struct dedup_set { // {0} is an empty one
    uint64_t *slots;       // open addressing, 0 = free, at most three quarters full
    size_t count, capacity;
} dedup_set;

void dedup_set_free(dedup_set *s);
bool dedup_set_has(const dedup_set *s, uint64_t hash);
// `*is_new`: it was not there; may be NULL.
yx_status dedup_set_add(dedup_set *s, uint64_t hash, bool *is_new);

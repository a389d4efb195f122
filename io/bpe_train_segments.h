// Distinct sequences of tokens with their counts, in the form that merging takes.
#pragma once
#include "io/bpe_train_merge.h"

typedef struct segment_set {
    train_text text; // the sequences one behind the other
    size_t capacity;
    size_t n;        // sequences
    uint32_t *slots; // where a sequence starts, by its hash; open addressing; BPE_NONE
    size_t n_slots;
} segment_set;

yx_status segments_add(segment_set *s, const uint32_t *ids, size_t n);
// Frees what only adding needs.
void segments_finish(segment_set *s);
void segments_free(segment_set *s);

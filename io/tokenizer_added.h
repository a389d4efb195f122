// Added tokens: strings that are cut out of a text before pre-tokenization, as the `tokenizers` library does.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef struct added_token {
    uint32_t id;
    char *content; // zero-terminated, not empty
    size_t size;
    bool special;        // decoding may leave it out
    bool normalized;     // found in a second pass, in what the others leave
    bool single_word;    // only between non-word characters
    bool lstrip, rstrip; // takes the white space beside it along
} added_token;

typedef struct added_set {
    added_token *tokens; // by id
    size_t count;
    const added_token **sorted[2]; // by content, for each pass
    size_t n_sorted[2];
    bool first[2][256]; // bytes that a token of the pass starts with
    int n_first[2];     // how many they are
    uint8_t a_first[2]; // one of them
} added_set;

// Takes a token over (its content was malloc'ed); one with the same content is replaced. Call added_prepare afterwards.
yx_status added_put(added_set *set, added_token token);
yx_status added_prepare(added_set *set);
void added_free(added_set *set);
const added_token *added_find(const added_set *set, const char *content);
const added_token *added_by_id(const added_set *set, uint32_t id);

typedef struct added_segment {
    size_t begin, end;
    int64_t id; // -1: ordinary text
} added_segment;

typedef struct added_scratch {
    added_segment *lists[2];
    size_t count[2], capacity[2];
} added_scratch;
void added_scratch_free(added_scratch *s);

// Cuts `text` (valid UTF-8) at the added tokens; without `special`, those are ordinary text. `classes`:
// unicode_classes().
yx_status added_split(const added_set *set, added_scratch *s, const uint8_t *classes, const uint8_t *text, size_t size,
                      bool special, const added_segment **segments, size_t *n_segments);

// Hand-written scanners for the pre-tokenization patterns that real tokenizers use. Each cuts one piece of valid UTF-8
// exactly as the regular expression would.
#pragma once
#include "io/tokenizer_split.h"
#include "io/tokenizer_unicode.h"
#include <stdlib.h>

typedef struct piece_list {
    split_piece *pieces;
    size_t count, capacity;
} piece_list;

yx_status piece_grow(piece_list *list);
// Appends text[begin .. end) unless it is empty.
static inline yx_status piece_push(piece_list *list, size_t begin, size_t end) {
    if (begin == end) return YX_OK;
    if (list->count == list->capacity) {
        yx_status status = piece_grow(list);
        if (status != YX_OK) return status;
    }
    list->pieces[list->count++] = (split_piece){begin, end};
    return YX_OK;
}

// `classes`: from unicode_classes().
typedef yx_status (*scan_function)(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out);
yx_status scan_number_runs(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out);
yx_status scan_each_number(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out);
yx_status scan_threes(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out);
yx_status scan_words(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out);
yx_status scan_gpt2(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out);

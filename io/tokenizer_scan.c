#include "io/tokenizer_scan.h"
#include <string.h>

yx_status piece_grow(piece_list *list) {
    size_t capacity = list->capacity ? list->capacity * 2 : 256;
    split_piece *grown = realloc(list->pieces, capacity * sizeof *grown);
    if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu pieces of a text", capacity);
    list->pieces = grown;
    list->capacity = capacity;
    return YX_OK;
}

// Class of the character at text[i]; `*length` gets its bytes.
static inline uint8_t class_at(const uint8_t *classes, const uint8_t *text, size_t i, size_t *length) {
    return classes[unicode_decode(text + i, length)];
}

// The first position in [i, end) whose character has one of `bits`, or end.
static inline size_t find_class(const uint8_t *classes, const uint8_t *text, size_t i, size_t end, uint8_t bits) {
    size_t length;
    while (i < end && !(class_at(classes, text, i, &length) & bits)) i += length;
    return i;
}

// Whether text[0 .. 8) is ASCII without 0 to 9.
static inline bool eight_without_number(const uint8_t *text) {
    static const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t eight;
    memcpy(&eight, text, sizeof eight);
    uint64_t from_0 = (eight & ~high) + ones * (0x80 - '0'), above_9 = (eight & ~high) + ones * (0x7f - '9');
    return ((eight | (from_0 & ~above_9)) & high) == 0;
}

// find_class for UNICODE_NUMERIC and UNICODE_DIGIT, which in ASCII are 0 to 9.
static inline size_t find_number(const uint8_t *classes, const uint8_t *text, size_t i, size_t end, uint8_t bits) {
    while (i < end) {
        while (i + 8 <= end && eight_without_number(text + i)) i += 8;
        size_t stop = i + 8 < end ? i + 8 : end, length;
        for (; i < stop; i += length)
            if (class_at(classes, text, i, &length) & bits) return i;
    }
    return end;
}

// The first position in [i, end) whose character has none of `bits`, or end.
static inline size_t skip_class(const uint8_t *classes, const uint8_t *text, size_t i, size_t end, uint8_t bits) {
    size_t length;
    while (i < end && class_at(classes, text, i, &length) & bits) i += length;
    return i;
}

static size_t count_characters(const uint8_t *text, size_t begin, size_t end) {
    size_t n = 0;
    for (size_t i = begin; i < end; i++) n += (text[i] & 0xc0) != 0x80;
    return n;
}

yx_status scan_number_runs(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out) {
    yx_status status = YX_OK;
    for (size_t i = piece.begin; i < piece.end;) {
        size_t start = find_number(classes, text, i, piece.end, UNICODE_NUMERIC);
        size_t end = skip_class(classes, text, start, piece.end, UNICODE_NUMERIC);
        YX_CHECK(piece_push(out, i, start));
        YX_CHECK(piece_push(out, start, end));
        i = end;
    }
fail:
    return status;
}

yx_status scan_each_number(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out) {
    yx_status status = YX_OK;
    for (size_t i = piece.begin; i < piece.end;) {
        size_t length = 0, start = find_number(classes, text, i, piece.end, UNICODE_NUMERIC);
        if (start < piece.end) unicode_decode(text + start, &length);
        YX_CHECK(piece_push(out, i, start));
        YX_CHECK(piece_push(out, start, start + length));
        i = start + length;
    }
fail:
    return status;
}

// Cuts [*start, …) in front of every group of three digits, counted from the right, in the run of digits [begin, end).
// *start moves to the last cut.
static yx_status cut_threes(const uint8_t *text, size_t begin, size_t end, size_t *start, piece_list *out) {
    size_t left = count_characters(text, begin, end), length;
    for (size_t i = begin; i < end; i += length, left--) {
        unicode_decode(text + i, &length);
        if (left % 3 != 0) continue;
        yx_status status = piece_push(out, *start, i);
        if (status != YX_OK) return status;
        *start = i;
    }
    return YX_OK;
}

yx_status scan_threes(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out) {
    yx_status status = YX_OK;
    size_t start = piece.begin;
    for (size_t i = piece.begin; i < piece.end;) {
        size_t run = find_number(classes, text, i, piece.end, UNICODE_DIGIT);
        i = skip_class(classes, text, run, piece.end, UNICODE_DIGIT);
        YX_CHECK(cut_threes(text, run, i, &start, out));
    }
    YX_CHECK(piece_push(out, start, piece.end));
fail:
    return status;
}

// End of \s+(?!\S)|\s+ at `i`: all the spaces but the last one, when something follows them.
static size_t spaces_end(const uint8_t *classes, const uint8_t *text, size_t i, size_t end) {
    size_t stop = skip_class(classes, text, i, end, UNICODE_SPACE);
    if (stop == end) return stop;
    size_t last = (size_t)(unicode_previous(text + stop) - text);
    return last > i ? last : stop;
}

// End of the match of ` ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` at `i`, with `| ?\p{N}+` if `numbers`; i when there
// is none, at a number.
static inline size_t word_end(const uint8_t *classes, const uint8_t *text, size_t i, size_t end, bool numbers) {
    size_t length, word = text[i] == ' ' && i + 1 < end ? i + 1 : i;
    uint8_t class = class_at(classes, text, word, &length);
    if (class & UNICODE_LETTER) return skip_class(classes, text, word + length, end, UNICODE_LETTER);
    if (class & UNICODE_NUMBER && numbers) return skip_class(classes, text, word + length, end, UNICODE_NUMBER);
    if (!(class & (UNICODE_NUMBER | UNICODE_SPACE)))
        return find_class(classes, text, word + length, end, UNICODE_LETTER | UNICODE_NUMBER | UNICODE_SPACE);
    if (class_at(classes, text, i, &length) & UNICODE_SPACE) return spaces_end(classes, text, i, end);
    return i;
}

yx_status scan_words(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out) {
    yx_status status = YX_OK;
    size_t start = piece.begin, length; // text[start .. i) is not in any piece yet
    for (size_t i = piece.begin; i < piece.end;) {
        size_t end = word_end(classes, text, i, piece.end, false);
        if (end > i) {
            YX_CHECK(piece_push(out, start, i));
            YX_CHECK(piece_push(out, i, end));
            start = i = end;
        } else if (class_at(classes, text, i, &length) & UNICODE_DIGIT) {
            end = skip_class(classes, text, i, piece.end, UNICODE_DIGIT);
            YX_CHECK(cut_threes(text, i, end, &start, out));
            i = end;
        } else {
            i += length;
        }
    }
    YX_CHECK(piece_push(out, start, piece.end));
fail:
    return status;
}

// Length of 's|'t|'re|'ve|'m|'ll|'d at text[i], 0 when there is none.
static inline size_t contraction(const uint8_t *text, size_t i, size_t end) {
    if (text[i] != '\'' || i + 1 >= end) return 0;
    uint8_t a = text[i + 1], b = i + 2 < end ? text[i + 2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

yx_status scan_gpt2(const uint8_t *classes, const uint8_t *text, split_piece piece, piece_list *out) {
    yx_status status = YX_OK;
    for (size_t i = piece.begin, end; i < piece.end; i = end) {
        size_t short_form = contraction(text, i, piece.end);
        end = short_form ? i + short_form : word_end(classes, text, i, piece.end, true);
        YX_CHECK(piece_push(out, i, end));
    }
fail:
    return status;
}

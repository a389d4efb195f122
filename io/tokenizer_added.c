#include "io/tokenizer_added.h"
#include "io/tokenizer_unicode.h"
#include <stdlib.h>
#include <string.h>

// --- The set ---------------------------------------------------------------------------------------------------------

const added_token *added_find(const added_set *set, const char *content) {
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->tokens[i].content, content) == 0) return &set->tokens[i];
    return NULL;
}

const added_token *added_by_id(const added_set *set, uint32_t id) {
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->tokens[middle].id < id) low = middle + 1;
        else high = middle;
    }
    return low < set->count && set->tokens[low].id == id ? &set->tokens[low] : NULL;
}

yx_status added_put(added_set *set, added_token token) {
    for (size_t i = 0; i < set->count; i++) {
        if (set->tokens[i].id != token.id) continue;
        free(set->tokens[i].content);
        set->tokens[i] = token;
        return YX_OK;
    }
    if ((set->count & (set->count - 1)) == 0) { // grows at powers of two
        added_token *grown = realloc(set->tokens, (set->count ? set->count * 2 : 1) * sizeof *grown);
        if (!grown) {
            free(token.content);
            return yx_fail(YX_ERR_NO_MEMORY, "no memory for added tokens");
        }
        set->tokens = grown;
    }
    set->tokens[set->count++] = token;
    return YX_OK;
}

static int compare_ids(const void *a, const void *b) {
    uint32_t x = ((const added_token *)a)->id, y = ((const added_token *)b)->id;
    return (x > y) - (x < y);
}

static int compare_contents(const void *a, const void *b) {
    return strcmp((*(const added_token *const *)a)->content, (*(const added_token *const *)b)->content);
}

// Where no token is found in the first pass, the second is the first: `normalized` then says nothing, and two files
// that differ in it are the same tokenizer.
static void drop_empty_pass(added_set *set) {
    for (size_t i = 0; i < set->count; i++)
        if (!set->tokens[i].normalized) return;
    for (size_t i = 0; i < set->count; i++) set->tokens[i].normalized = false;
}

yx_status added_prepare(added_set *set) {
    if (set->count == 0) return YX_OK;
    qsort(set->tokens, set->count, sizeof *set->tokens, compare_ids);
    drop_empty_pass(set);
    for (int pass = 0; pass < 2; pass++) {
        set->sorted[pass] = malloc(set->count * sizeof *set->sorted[pass]);
        if (!set->sorted[pass]) return yx_fail(YX_ERR_NO_MEMORY, "no memory for added tokens");
        for (size_t i = 0; i < set->count; i++) {
            if (set->tokens[i].normalized != (pass == 1)) continue;
            set->sorted[pass][set->n_sorted[pass]++] = &set->tokens[i];
            uint8_t first = (uint8_t)set->tokens[i].content[0];
            set->n_first[pass] += !set->first[pass][first];
            set->first[pass][first] = true;
            set->a_first[pass] = first;
        }
        qsort(set->sorted[pass], set->n_sorted[pass], sizeof *set->sorted[pass], compare_contents);
    }
    return YX_OK;
}

void added_free(added_set *set) {
    for (size_t i = 0; i < set->count; i++) free(set->tokens[i].content);
    free(set->tokens);
    free(set->sorted[0]);
    free(set->sorted[1]);
    *set = (added_set){0};
}

void added_scratch_free(added_scratch *s) {
    free(s->lists[0]);
    free(s->lists[1]);
}

// --- Finding ---------------------------------------------------------------------------------------------------------

// First of sorted[low .. high), which share `depth` bytes, whose next byte is at least `byte`.
static size_t lower_bound(const added_token *const *sorted, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)sorted[middle]->content[depth] < byte) low = middle + 1;
        else high = middle;
    }
    return low;
}

// The longest token of the pass at the front of text[0 .. size), or NULL.
static const added_token *longest_at(const added_set *set, int pass, const uint8_t *text, size_t size) {
    const added_token *const *sorted = set->sorted[pass], *best = NULL;
    size_t low = 0, high = set->n_sorted[pass];
    for (size_t depth = 0; low < high; depth++) {
        if (sorted[low]->size == depth) best = sorted[low++];
        if (depth == size) break;
        low = lower_bound(sorted, low, high, depth, text[depth]);
        high = lower_bound(sorted, low, high, depth, text[depth] + 1);
    }
    return best;
}

// The first position in [i, end) where a token of the pass may start, or end.
static size_t next_candidate(const added_set *set, int pass, const uint8_t *text, size_t i, size_t end) {
    if (set->n_first[pass] <= 1) { // nearly always: a library's search for one byte is the fastest
        const uint8_t *found = set->n_first[pass] ? memchr(text + i, set->a_first[pass], end - i) : NULL;
        return found ? (size_t)(found - text) : end;
    }
    while (i < end && !set->first[pass][text[i]]) i++;
    return i;
}

static bool word_before(const uint8_t *classes, const uint8_t *text, size_t begin, size_t i) {
    size_t length;
    return i > begin && classes[unicode_decode(unicode_previous(text + i), &length)] & UNICODE_WORD;
}

static bool word_after(const uint8_t *classes, const uint8_t *text, size_t i, size_t end) {
    size_t length;
    return i < end && classes[unicode_decode(text + i, &length)] & UNICODE_WORD;
}

static size_t strip_left(const uint8_t *classes, const uint8_t *text, size_t begin, size_t i) {
    size_t length;
    while (i > begin) {
        const uint8_t *previous = unicode_previous(text + i);
        if (!(classes[unicode_decode(previous, &length)] & UNICODE_SPACE)) break;
        i = (size_t)(previous - text);
    }
    return i;
}

static size_t strip_right(const uint8_t *classes, const uint8_t *text, size_t i, size_t end) {
    size_t length;
    while (i < end && classes[unicode_decode(text + i, &length)] & UNICODE_SPACE) i += length;
    return i;
}

static yx_status push(added_scratch *s, int list, size_t begin, size_t end, int64_t id) {
    if (s->count[list] == s->capacity[list]) {
        size_t capacity = s->capacity[list] ? s->capacity[list] * 2 : 16;
        added_segment *grown = realloc(s->lists[list], capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu parts of a text", capacity);
        s->lists[list] = grown;
        s->capacity[list] = capacity;
    }
    s->lists[list][s->count[list]++] = (added_segment){begin, end, id};
    return YX_OK;
}

static bool accepted(const added_token *token, const uint8_t *classes, const uint8_t *text, added_segment segment,
                     size_t start, size_t stop, bool special) {
    if (token->special && !special) return false;
    return !token->single_word ||
           (!word_before(classes, text, segment.begin, start) && !word_after(classes, text, stop, segment.end));
}

// One pass over one segment of ordinary text. A match that is not accepted still hides what overlaps it: the library
// finds its matches first and judges them afterwards.
static yx_status split_segment(const added_set *set, int pass, added_scratch *s, const uint8_t *classes,
                               const uint8_t *text, added_segment segment, bool special) {
    yx_status status = YX_OK;
    size_t covered = segment.begin;
    for (size_t i = segment.begin; (i = next_candidate(set, pass, text, i, segment.end)) < segment.end;) {
        const added_token *token = longest_at(set, pass, text + i, segment.end - i);
        size_t start = i, stop = token ? i + token->size : i + 1;
        i = stop;
        if (!token || !accepted(token, classes, text, segment, start, stop, special)) continue;
        if (token->lstrip) start = strip_left(classes, text, segment.begin, start);
        if (token->lstrip && start < covered) start = covered; // the last match has taken these spaces
        if (token->rstrip) stop = strip_right(classes, text, stop, segment.end);
        if (covered < start) YX_CHECK(push(s, pass, covered, start, -1));
        if (start < stop) YX_CHECK(push(s, pass, start, stop, token->id)); // otherwise it was stripped away as a space
        covered = stop;
    }
    if (covered != segment.end) YX_CHECK(push(s, pass, covered, segment.end, -1));
fail:
    return status;
}

yx_status added_split(const added_set *set, added_scratch *s, const uint8_t *classes, const uint8_t *text, size_t size,
                      bool special, const added_segment **segments, size_t *n_segments) {
    yx_status status = YX_OK;
    int list = 0;
    s->count[0] = s->count[1] = 0;
    YX_CHECK(split_segment(set, 0, s, classes, text, (added_segment){0, size, -1}, special));
    if (set->n_sorted[1] > 0) {
        list = 1;
        for (size_t i = 0; i < s->count[0]; i++) {
            added_segment segment = s->lists[0][i];
            YX_CHECK(segment.id < 0 ? split_segment(set, 1, s, classes, text, segment, special)
                                    : push(s, 1, segment.begin, segment.end, segment.id));
        }
    }
    *segments = s->lists[list];
    *n_segments = s->count[list];
fail:
    return status;
}

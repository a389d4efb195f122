// Follows the `tokenizers` library's BpeTrainer in what decides the result: the pair with the highest count first, then
// the one with the smaller ids; counts are brought up to date when a pair reaches the top; a pair's own count stays as
// it was when it is merged. Where that one keeps the words that hold a pair and rewrites them, this keeps the places in
// one array, so that a sequence may be a document. A token that covers several places stands at the first of them; the
// second and the last one say how many they are, so that both neighbours are found without links.
#include "io/bpe_train_merge.h"
#include "io/bpe_train_pairs.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKEN_BYTES = 1 << 16 };

// What stands at a place: the token's id, and above it the count of the sequence where that is small (0: its end tells
// it); or, inside a token, GAP | number of the token's places; or an end.
static const uint32_t GAP = 1u << 31, COUNT_UNIT = BPE_MAX_IDS, MAX_COUNT = 0xff;

// A place where the merge of this step made a new pair: group 2x has the pair (x, new), group 2x + 1 has (new, x).
typedef struct event {
    uint32_t group, place;
} event;

typedef struct trainer {
    train_text *text;
    const merge_limits *limits;
    train_vocab *vocab;
    merge_list *merges;
    pair_table pairs;
    candidate_heap heap;
    uint32_t *first_places; // what the first candidates' lists lie in
    event *events;
    size_t n_events, event_capacity;
    uint32_t *group_size; // [2 * tokens] of this step's events
    int64_t *group_count; // what they add up to
    uint32_t **group_places;
    uint32_t group_capacity;
    uint32_t *groups; // those in use
    size_t n_groups, groups_capacity;
    uint8_t *token; // the bytes of a new token
    size_t token_capacity;
} trainer;

// --- Texts -----------------------------------------------------------------------------------------------------------

static inline bool is_end(uint32_t symbol) { return symbol >= TRAIN_END; }
static inline bool is_gap(uint32_t symbol) { return symbol >= GAP && symbol < TRAIN_END; }
static inline uint32_t id_of(uint32_t symbol) { return symbol & (COUNT_UNIT - 1); }

static inline uint32_t next_place(const uint32_t *symbol, uint32_t place) {
    uint32_t s = symbol[place + 1];
    return is_gap(s) ? place + (s - GAP) : place + 1;
}

static inline uint32_t previous_place(const uint32_t *symbol, uint32_t place) {
    uint32_t s = symbol[place - 1];
    return is_gap(s) ? place - (s - GAP) : place - 1;
}

// Of the sequence that the token at `place` is in.
static int64_t count_at(const uint32_t *symbol, uint32_t place) {
    uint32_t count = symbol[place] / COUNT_UNIT;
    if (count > 0) return count;
    while (!is_end(symbol[place])) place = next_place(symbol, place);
    return symbol[place] - TRAIN_END;
}

// Writes the counts into the places.
static void spread_counts(train_text *t) {
    uint32_t count = 0;
    for (size_t i = t->size; i-- > 0;) {
        if (!is_end(t->symbol[i])) t->symbol[i] += count * COUNT_UNIT;
        else count = t->symbol[i] - TRAIN_END <= MAX_COUNT ? t->symbol[i] - TRAIN_END : 0;
    }
}

static inline bool has_pair(const uint32_t *symbol, size_t i) { return !is_end(symbol[i]) && !is_end(symbol[i + 1]); }

// A token of too many words is never made, nor one longer than any text would need.
static bool is_allowed(const trainer *t, uint64_t pair) {
    const train_vocab *v = t->vocab;
    uint32_t left = (uint32_t)(pair >> 32), right = (uint32_t)pair;
    if (v->offset[left + 1] - v->offset[left] + v->offset[right + 1] - v->offset[right] > MAX_TOKEN_BYTES) return false;
    if (t->limits->max_words == 0) return true;
    uint8_t last = v->blob[v->offset[left + 1] - 1], first = v->blob[v->offset[right]];
    bool joined = last > ' ' && first > ' '; // the last word of one goes on in the other
    return v->words[left] + v->words[right] - joined <= t->limits->max_words;
}

static int64_t least_count(const trainer *t) { return t->limits->min_frequency > 1 ? t->limits->min_frequency : 1; }

// --- The first count -------------------------------------------------------------------------------------------------

static yx_status count_pairs(trainer *t) {
    const uint32_t *symbol = t->text->symbol;
    for (size_t i = 0; i + 1 < t->text->size; i++) {
        if (!has_pair(symbol, i)) continue;
        pair_count *c = NULL;
        yx_status status = pair_get(&t->pairs, make_pair(id_of(symbol[i]), id_of(symbol[i + 1])), &c);
        if (status != YX_OK) return status;
        c->count += count_at(symbol, (uint32_t)i);
        c->places++;
    }
    return YX_OK;
}

// Sorts the places by pair: each pair's list starts at pairs[].places of first_places.
static yx_status list_places(trainer *t) {
    uint64_t start = 0;
    const uint32_t *symbol = t->text->symbol;
    for (size_t i = 0; i < t->pairs.n_slots; i++) {
        uint64_t n = t->pairs.slots[i].places;
        t->pairs.slots[i].places = start;
        start += n;
    }
    t->first_places = malloc((start + 1) * sizeof *t->first_places);
    if (!t->first_places) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the places of %zu pairs", (size_t)start);
    for (size_t i = 0; i + 1 < t->text->size; i++) {
        if (!has_pair(symbol, i)) continue;
        pair_count *c = pair_find(&t->pairs, make_pair(id_of(symbol[i]), id_of(symbol[i + 1])));
        t->first_places[c->places++] = (uint32_t)i;
    }
    return YX_OK;
}

// After list_places, pairs[].places is the end of a pair's list, which the next slot's list follows.
static yx_status first_candidates(trainer *t) {
    uint64_t start = 0;
    for (size_t i = 0; i < t->pairs.n_slots; i++) {
        const pair_count *c = &t->pairs.slots[i];
        uint64_t n = c->places - start;
        if (n > 0 && c->count >= least_count(t) && is_allowed(t, c->pair)) {
            candidate new = {c->count, c->pair, t->first_places + start, (uint32_t)n, false};
            yx_status status = candidate_push(&t->heap, new);
            if (status != YX_OK) return status;
        }
        start = c->places;
    }
    return YX_OK;
}

// --- One merge -------------------------------------------------------------------------------------------------------

static yx_status add_event(trainer *t, uint32_t group, uint32_t place, int64_t count) {
    if (t->n_events == t->event_capacity) {
        size_t capacity = t->event_capacity ? t->event_capacity * 2 : 1024;
        event *grown = realloc(t->events, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu places", capacity);
        t->events = grown;
        t->event_capacity = capacity;
    }
    if (t->group_size[group]++ == 0) {
        if (t->n_groups == t->groups_capacity) {
            size_t capacity = t->groups_capacity ? t->groups_capacity * 2 : 1024;
            uint32_t *grown = realloc(t->groups, capacity * sizeof *grown);
            if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu pairs", capacity);
            t->groups = grown;
            t->groups_capacity = capacity;
        }
        t->groups[t->n_groups++] = group;
    }
    t->events[t->n_events++] = (event){group, place};
    t->group_count[group] += count;
    return YX_OK;
}

// A pair that is not known stays so.
static void lower_count(trainer *t, uint32_t left, uint32_t right, int64_t by) {
    pair_count *c = pair_find(&t->pairs, make_pair(left, right));
    if (c->pair != PAIR_NONE) c->count -= by;
}

// A pair that is no more; with `new` in it, it may be one of this step.
static void drop_pair(trainer *t, uint32_t left, uint32_t right, uint32_t new, int64_t count) {
    if (left == new && t->group_size[2 * right + 1] > 0) t->group_count[2 * right + 1] -= count;
    else lower_count(t, left, right, count);
}

// Joins the tokens at `place` and behind it into `new`.
static yx_status merge_place(trainer *t, uint32_t place, uint32_t new) {
    yx_status status = YX_OK;
    uint32_t *symbol = t->text->symbol, right = next_place(symbol, place), after = next_place(symbol, right);
    uint32_t before = place > 0 ? previous_place(symbol, place) : place, size = after - place;
    int64_t count = count_at(symbol, place);
    if (before < place && !is_end(symbol[before])) {
        uint32_t id = id_of(symbol[before]);
        drop_pair(t, id, id_of(symbol[place]), new, count);
        YX_CHECK(add_event(t, 2 * id, before, count));
    }
    if (!is_end(symbol[after])) {
        uint32_t id = id_of(symbol[after]);
        lower_count(t, id_of(symbol[right]), id, count);
        YX_CHECK(add_event(t, id == new ? 2 * new : 2 * id + 1, place, count));
    }
    symbol[place] += new - id_of(symbol[place]);
    symbol[right] = GAP; // no longer a token
    symbol[place + 1] = symbol[after - 1] = GAP | size;
fail:
    return status;
}

static yx_status merge_places(trainer *t, const candidate *c, uint32_t new) {
    const uint32_t *symbol = t->text->symbol;
    uint32_t left = (uint32_t)(c->pair >> 32), right = (uint32_t)c->pair;
    for (uint32_t i = 0; i < c->n_places; i++) {
        uint32_t place = c->places[i];
        if (symbol[place] >= GAP || id_of(symbol[place]) != left) continue;
        uint32_t next = symbol[next_place(symbol, place)];
        if (is_end(next) || id_of(next) != right) continue;
        yx_status status = merge_place(t, place, new);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

static yx_status reserve_groups(trainer *t) {
    if (t->vocab->size <= t->group_capacity) return YX_OK;
    uint32_t capacity = t->vocab->size * 2;
    uint32_t *size = realloc(t->group_size, 2 * (size_t)capacity * sizeof *size);
    if (size) t->group_size = size;
    uint32_t **places = realloc(t->group_places, 2 * (size_t)capacity * sizeof *places);
    if (places) t->group_places = places;
    int64_t *count = realloc(t->group_count, 2 * (size_t)capacity * sizeof *count);
    if (count) t->group_count = count;
    if (!size || !places || !count) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", capacity);
    size_t old = 2 * (size_t)t->group_capacity, more = 2 * (size_t)(capacity - t->group_capacity);
    memset(size + old, 0, more * sizeof *size);
    memset(count + old, 0, more * sizeof *count);
    t->group_capacity = capacity;
    return YX_OK;
}

// Adds what this step made of a pair to its count; `*kept`: the pair may be merged later.
static yx_status count_group(trainer *t, uint32_t group, uint64_t pair, int64_t *count, bool *kept) {
    pair_count *c = pair_find(&t->pairs, pair);
    *count = t->group_count[group] + (c->pair == PAIR_NONE ? 0 : c->count);
    *kept = *count >= least_count(t) && is_allowed(t, pair);
    if (c->pair == PAIR_NONE) {
        if (!*kept && t->limits->forget_rare) return YX_OK;
        yx_status status = pair_get(&t->pairs, pair, &c);
        if (status != YX_OK) return status;
    }
    c->count = *count;
    return YX_OK;
}

// Turns one group of events into a candidate whose places are filled in by the caller.
static yx_status group_candidate(trainer *t, uint32_t group, uint32_t new) {
    uint32_t other = group / 2, *places = NULL;
    uint64_t pair = group % 2 ? make_pair(new, other) : make_pair(other, new);
    int64_t count;
    bool kept;
    t->group_places[group] = NULL;
    yx_status status = count_group(t, group, pair, &count, &kept);
    if (status != YX_OK || !kept) return status;
    places = malloc(t->group_size[group] * sizeof *places);
    if (!places) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the places of a pair");
    t->group_places[group] = places;
    status = candidate_push(&t->heap, (candidate){count, pair, places, t->group_size[group], true});
    if (status != YX_OK) free(places);
    return status;
}

// The pairs that this step made become candidates.
static yx_status new_candidates(trainer *t, uint32_t new) {
    for (size_t i = 0; i < t->n_groups; i++) {
        yx_status status = group_candidate(t, t->groups[i], new);
        if (status != YX_OK) return status;
    }
    for (size_t i = 0; i < t->n_events; i++) {
        uint32_t **places = &t->group_places[t->events[i].group];
        if (*places) *(*places)++ = t->events[i].place;
    }
    for (size_t i = 0; i < t->n_groups; i++) t->group_size[t->groups[i]] = 0, t->group_count[t->groups[i]] = 0;
    t->n_groups = t->n_events = 0;
    return YX_OK;
}

static yx_status make_token(trainer *t, uint64_t pair, uint32_t *id) {
    const train_vocab *v = t->vocab;
    uint32_t left = (uint32_t)(pair >> 32), right = (uint32_t)pair;
    size_t left_size = v->offset[left + 1] - v->offset[left], right_size = v->offset[right + 1] - v->offset[right];
    if (left_size + right_size > t->token_capacity) {
        free(t->token);
        t->token_capacity = (left_size + right_size) * 2;
        t->token = malloc(t->token_capacity);
        if (!t->token) t->token_capacity = 0;
        if (!t->token) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a token");
    }
    memcpy(t->token, v->blob + v->offset[left], left_size);
    memcpy(t->token + left_size, v->blob + v->offset[right], right_size);
    return train_vocab_add(t->vocab, t->token, left_size + right_size, id);
}

yx_status merge_list_add(merge_list *list, bpe_merge merge) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 1024;
        bpe_merge *grown = realloc(list->merges, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu merges", capacity);
        list->merges = grown;
        list->capacity = capacity;
    }
    list->merges[list->count++] = merge;
    return YX_OK;
}

static yx_status merge_candidate(trainer *t, const candidate *c) {
    yx_status status = YX_OK;
    uint32_t new = 0;
    YX_CHECK(make_token(t, c->pair, &new));
    YX_CHECK(merge_list_add(t->merges, (bpe_merge){(uint32_t)(c->pair >> 32), (uint32_t)c->pair, new}));
    YX_CHECK(reserve_groups(t));
    YX_CHECK(merge_places(t, c, new));
    YX_CHECK(new_candidates(t, new));
fail:
    return status;
}

static void trainer_free(trainer *t) {
    candidates_free(&t->heap);
    pair_table_free(&t->pairs);
    free(t->first_places);
    free(t->events);
    free(t->group_size);
    free(t->group_count);
    free(t->group_places);
    free(t->groups);
    free(t->token);
}

yx_status train_merge(train_text *text, const merge_limits *limits, train_vocab *vocab, merge_list *merges) {
    yx_status status = YX_OK;
    trainer t = {.text = text, .limits = limits, .vocab = vocab, .merges = merges};
    candidate top;
    if (text->size >= BPE_NONE) YX_FAIL(YX_ERR_DATA, "the text has too many tokens to train on; take less of it");
    spread_counts(text);
    YX_CHECK(pair_table_new(&t.pairs));
    YX_CHECK(count_pairs(&t));
    YX_CHECK(list_places(&t));
    YX_CHECK(first_candidates(&t));
    while (vocab->size < limits->vocab_size && candidate_pop(&t.heap, &t.pairs, &top)) {
        if (top.count >= least_count(&t)) status = merge_candidate(&t, &top);
        if (top.owned) free(top.places);
        if (top.count < least_count(&t) || status != YX_OK) break;
    }
fail:
    trainer_free(&t);
    return status;
}

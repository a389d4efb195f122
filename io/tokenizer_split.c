#include "io/tokenizer_split.h"
#include "common/file.h"
#include "io/tokenizer_regex.h"
#include "io/tokenizer_scan.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_STEPS = 32 };

typedef enum step_kind { STEP_DIGITS, STEP_PATTERN, STEP_PREFIX_SPACE } step_kind;

typedef struct split_step {
    step_kind kind;
    bool individual; // digits
    bool literal, invert;
    split_behavior behavior;
    char *pattern;
    scan_function scan; // instead of the regex
    regex *regex;
} split_step;

struct split_plan {
    split_step steps[MAX_STEPS];
    int n_steps;
    const uint8_t *classes;
};

typedef struct match {
    split_piece piece;
    bool is_match;
} match;

struct split_scratch {
    piece_list lists[2]; // the pieces before and after a step
    match *matches;
    size_t n_matches, match_capacity;
    uint8_t *texts[2];
    size_t text_capacity[2];
    regex_scratch *regex;
};

const char *const split_behavior_names[SPLIT_BEHAVIORS] = {"Removed", "Isolated", "MergedWithPrevious",
                                                           "MergedWithNext", "Contiguous"};

// --- Plans -----------------------------------------------------------------------------------------------------------

yx_status split_plan_new(split_plan **out) {
    split_plan *p = calloc(1, sizeof *p);
    if (!p) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a pre-tokenizer");
    yx_status status = unicode_classes(&p->classes);
    if (status != YX_OK) {
        free(p);
        return status;
    }
    *out = p;
    return YX_OK;
}

void split_plan_free(split_plan *p) {
    if (!p) return;
    for (int i = 0; i < p->n_steps; i++) {
        regex_free(p->steps[i].regex);
        free(p->steps[i].pattern);
    }
    free(p);
}

static yx_status add_step(split_plan *p, split_step step) {
    if (p->n_steps == MAX_STEPS)
        return yx_fail(YX_ERR_DATA, "more than %d pre-tokenizers in a sequence are not supported", MAX_STEPS);
    p->steps[p->n_steps++] = step;
    return YX_OK;
}

yx_status split_add_digits(split_plan *p, bool individual) {
    scan_function scan = individual ? scan_each_number : scan_number_runs;
    return add_step(p, (split_step){.kind = STEP_DIGITS, .individual = individual, .scan = scan});
}

yx_status split_add_prefix_space(split_plan *p) { return add_step(p, (split_step){.kind = STEP_PREFIX_SPACE}); }

static scan_function own_scanner(const split_step *step) {
    if (step->literal || step->behavior != SPLIT_ISOLATED) return NULL;
    if (strcmp(step->pattern, SPLIT_PATTERN_THREES) == 0) return scan_threes;
    if (strcmp(step->pattern, SPLIT_PATTERN_WORDS) == 0) return scan_words;
    return strcmp(step->pattern, SPLIT_PATTERN_GPT2) == 0 ? scan_gpt2 : NULL;
}

yx_status split_add_pattern(split_plan *p, const char *pattern, bool literal, split_behavior behavior, bool invert,
                            bool generic) {
    yx_status status = YX_OK;
    split_step step = {.kind = STEP_PATTERN, .literal = literal, .invert = invert, .behavior = behavior};
    step.pattern = strdup(pattern);
    if (!step.pattern) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a pre-tokenizer");
    step.scan = generic ? NULL : own_scanner(&step);
    if (!step.scan)
        YX_CHECK(literal ? regex_compile_literal(pattern, &step.regex) : regex_compile(pattern, &step.regex));
    YX_CHECK(add_step(p, step));
    return YX_OK;
fail:
    regex_free(step.regex);
    free(step.pattern);
    return status;
}

static yx_status describe_step(const split_step *step, char **out) {
    if (step->kind == STEP_DIGITS) return yx_format(out, "digits %s", step->individual ? "individual" : "runs");
    if (step->kind == STEP_PREFIX_SPACE) return yx_format(out, "prefix space");
    // What is isolated does not depend on which side of a cut is the match.
    bool invert = step->invert && step->behavior != SPLIT_ISOLATED;
    return yx_format(out, "%s %s%s %zu:%s", step->literal ? "string" : "regex", split_behavior_names[step->behavior],
                     invert ? " inverted" : "", strlen(step->pattern), step->pattern);
}

static yx_status explain_step(const split_step *step, char **out) {
    if (step->kind == STEP_DIGITS)
        return yx_format(out, step->individual ? "every digit apart" : "runs of digits apart");
    if (step->kind == STEP_PREFIX_SPACE) return yx_format(out, "a space in front");
    if (step->scan == scan_threes) return yx_format(out, "digits in threes from the right");
    if (step->scan == scan_words)
        return yx_format(out, "words (SuperBPE's first stage), digits in threes from the right");
    if (step->scan == scan_gpt2) return yx_format(out, "words (GPT-2)");
    return yx_format(out, "%s%s %s '%s'", step->invert ? "not " : "", split_behavior_names[step->behavior],
                     step->literal ? "string" : "regex", step->pattern);
}

static yx_status join_steps(const split_plan *p, yx_status (*word)(const split_step *, char **), const char *separator,
                            char **out) {
    yx_status status = YX_OK;
    char *text = strdup(""), *step = NULL;
    if (!text) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a pre-tokenizer");
    for (int i = 0; i < p->n_steps; i++) {
        char *longer;
        YX_CHECK(word(&p->steps[i], &step));
        YX_CHECK(yx_format(&longer, "%s%s%s", text, i ? separator : "", step));
        free(step);
        free(text);
        step = NULL;
        text = longer;
    }
    *out = text;
    return YX_OK;
fail:
    free(step);
    free(text);
    return status;
}

yx_status split_describe(const split_plan *p, char **out) { return join_steps(p, describe_step, "\n", out); }

yx_status split_explain(const split_plan *p, char **out) {
    if (p->n_steps > 0) return join_steps(p, explain_step, "; ", out);
    return yx_format(out, "none");
}

// --- Scratch ---------------------------------------------------------------------------------------------------------

yx_status split_scratch_new(split_scratch **out) {
    split_scratch *s = calloc(1, sizeof *s);
    if (!s) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a pre-tokenizer");
    yx_status status = regex_scratch_new(&s->regex);
    if (status != YX_OK) {
        split_scratch_free(s);
        return status;
    }
    *out = s;
    return YX_OK;
}

void split_scratch_free(split_scratch *s) {
    if (!s) return;
    for (int i = 0; i < 2; i++) {
        free(s->lists[i].pieces);
        free(s->texts[i]);
    }
    free(s->matches);
    regex_scratch_free(s->regex);
    free(s);
}

static yx_status push_match(split_scratch *s, size_t begin, size_t end, bool is_match) {
    if (s->n_matches == s->match_capacity) {
        size_t capacity = s->match_capacity ? s->match_capacity * 2 : 256;
        match *grown = realloc(s->matches, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu matches", capacity);
        s->matches = grown;
        s->match_capacity = capacity;
    }
    s->matches[s->n_matches++] = (match){{begin, end}, is_match};
    return YX_OK;
}

// --- Matches of a regular expression ---------------------------------------------------------------------------------

// All matches and what lies between them, in order. An empty match right behind the last one does not count: the search
// goes on one character later.
static yx_status find_matches(const split_step *step, split_scratch *s, const uint8_t *text, size_t size) {
    yx_status status = YX_OK;
    size_t from = 0, covered = 0, last_end = SIZE_MAX, start, end, length;
    bool found;
    s->n_matches = 0;
    while (from <= size) {
        YX_CHECK(regex_search(step->regex, s->regex, text, size, from, &found, &start, &end));
        if (!found) break;
        if (end == start && last_end == end) {
            length = 1;
            if (from < size) unicode_decode(text + from, &length);
            from += length;
            continue;
        }
        if (start > covered) YX_CHECK(push_match(s, covered, start, step->invert));
        YX_CHECK(push_match(s, start, end, !step->invert));
        from = last_end = covered = end;
    }
    if (covered < size) YX_CHECK(push_match(s, covered, size, step->invert));
fail:
    return status;
}

// Joins matches with their neighbours as the behaviour asks; the result takes the place of s->matches.
static void join_matches(split_scratch *s, split_behavior behavior) {
    bool backwards = behavior == SPLIT_MERGED_WITH_NEXT, previous = false;
    size_t n = s->n_matches, kept = 0;
    match *m = s->matches;
    for (size_t k = 0; k < n; k++) {
        size_t i = backwards ? n - 1 - k : k;
        size_t last = backwards ? n - kept : kept - 1; // where the last kept one is, if any
        match current = m[i];
        bool join = behavior == SPLIT_CONTIGUOUS ? current.is_match == previous : current.is_match && !previous;
        previous = current.is_match;
        if (join && kept > 0) {
            if (backwards) m[last].piece.begin = current.piece.begin;
            else m[last].piece.end = current.piece.end;
        } else {
            kept++;
            m[backwards ? n - kept : kept - 1] = current;
        }
    }
    if (backwards) memmove(m, m + (n - kept), kept * sizeof *m);
    s->n_matches = kept;
}

static yx_status split_by_regex(const split_step *step, split_scratch *s, const uint8_t *text, split_piece piece,
                                piece_list *out) {
    yx_status status = find_matches(step, s, text + piece.begin, piece.end - piece.begin);
    if (status != YX_OK) return status;
    if (step->behavior != SPLIT_ISOLATED && step->behavior != SPLIT_REMOVED) join_matches(s, step->behavior);
    for (size_t i = 0; i < s->n_matches && status == YX_OK; i++) {
        const match *m = &s->matches[i];
        if (step->behavior == SPLIT_REMOVED && m->is_match) continue;
        status = piece_push(out, piece.begin + m->piece.begin, piece.begin + m->piece.end);
    }
    return status;
}

// --- Running ---------------------------------------------------------------------------------------------------------

// Copies the pieces into texts[which], each with a space in front unless it has one.
static yx_status prefix_spaces(split_scratch *s, const uint8_t *text, const piece_list *in, piece_list *out,
                               int which) {
    size_t need = in->count, n = 0;
    yx_status status = YX_OK;
    for (size_t i = 0; i < in->count; i++) need += in->pieces[i].end - in->pieces[i].begin;
    if (need > s->text_capacity[which]) {
        free(s->texts[which]);
        s->texts[which] = malloc(need);
        s->text_capacity[which] = s->texts[which] ? need : 0;
        if (!s->texts[which]) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of text", need);
    }
    for (size_t i = 0; i < in->count && status == YX_OK; i++) {
        split_piece piece = in->pieces[i];
        size_t begin = n;
        if (text[piece.begin] != ' ') s->texts[which][n++] = ' ';
        memcpy(s->texts[which] + n, text + piece.begin, piece.end - piece.begin);
        n += piece.end - piece.begin;
        status = piece_push(out, begin, n);
    }
    return status;
}

yx_status split_run(const split_plan *p, split_scratch *s, const uint8_t *text, size_t size, const uint8_t **out_text,
                    const split_piece **pieces, size_t *n_pieces) {
    yx_status status = YX_OK;
    piece_list *in = &s->lists[0], *out = &s->lists[1];
    int text_buffer = 0;
    in->count = 0;
    YX_CHECK(piece_push(in, 0, size));
    for (int i = 0; i < p->n_steps; i++) {
        const split_step *step = &p->steps[i];
        out->count = 0;
        if (step->kind == STEP_PREFIX_SPACE) {
            YX_CHECK(prefix_spaces(s, text, in, out, text_buffer));
            text = s->texts[text_buffer];
            text_buffer = !text_buffer; // another such step reads this one's text
        } else {
            for (size_t j = 0; j < in->count; j++)
                YX_CHECK(step->scan ? step->scan(p->classes, text, in->pieces[j], out)
                                    : split_by_regex(step, s, text, in->pieces[j], out));
        }
        piece_list *swap = in;
        in = out;
        out = swap;
    }
    *out_text = text;
    *pieces = in->pieces;
    *n_pieces = in->count;
fail:
    return status;
}

// Pre-tokenization: a list of steps, each cutting the pieces of the one before. BPE works inside the final pieces.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
    SPLIT_BEHAVIORS
} split_behavior;
extern const char *const split_behavior_names[SPLIT_BEHAVIORS]; // as tokenizer.json spells them

// Patterns that real tokenizers use and that have a scanner of their own.
#define SPLIT_PATTERN_THREES "(?=(\\d{3})+(?!\\d))" // digits in groups of three from the right
#define SPLIT_PATTERN_WORDS SPLIT_PATTERN_THREES "| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define SPLIT_PATTERN_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

typedef struct split_plan split_plan;
yx_status split_plan_new(split_plan **out);
void split_plan_free(split_plan *p);

// Runs of numeric characters (or each one, with `individual`) apart from the rest.
yx_status split_add_digits(split_plan *p, bool individual);
// Cuts at the matches of a regular expression, or of a `literal` string. `generic` goes through PCRE2 even when the
// pattern has its own scanner (tests compare the two).
yx_status split_add_pattern(split_plan *p, const char *pattern, bool literal, split_behavior behavior, bool invert,
                            bool generic);
// Puts a space in front of every piece that does not start with one.
yx_status split_add_prefix_space(split_plan *p);

// A canonical text of the steps, the same for plans that cut the same way by construction; `*out` to free().
yx_status split_describe(const split_plan *p, char **out);
// The same for people.
yx_status split_explain(const split_plan *p, char **out);

typedef struct split_piece {
    size_t begin, end;
} split_piece;

typedef struct split_scratch split_scratch; // one per thread
yx_status split_scratch_new(split_scratch **out);
void split_scratch_free(split_scratch *s);

// Cuts `text` (valid UTF-8). The pieces, none empty, refer to `*out_text`: the text itself, or a copy with added
// spaces; both belong to the scratch or the caller and last until the next call.
yx_status split_run(const split_plan *p, split_scratch *s, const uint8_t *text, size_t size, const uint8_t **out_text,
                    const split_piece **pieces, size_t *n_pieces);

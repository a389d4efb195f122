// The figures of a `step` line of log.jsonl, of which a run has as many as steps: read without building a JSON tree,
// which takes five times as long.
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct step_line { // whole numbers that the line does not have are -1, real ones NaN
    int64_t step, stage, seq_len, sequences, tokens;
    double loss, lr, grad_clip, grad_norm, seconds, tokens_per_second, time;
    bool skipped;
} step_line;

void step_line_from_json(const json_t *line, step_line *out);
// Whether `text` is a step line as runs write them; what it refuses may still be one. (No space between tokens, ASCII
// without escapes, objects one level deep.)
bool step_line_parse(const char *text, size_t size, step_line *out);

// A whole number of 0 … 2^53, else -1; a number, else NaN.
int64_t line_whole(const json_t *line, const char *key);
double line_real(const json_t *line, const char *key);

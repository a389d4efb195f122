// Log-probabilities of continuations: what a multiple-choice task is scored by.
#pragma once
#include "worker/model.h"

typedef struct choice_sequence {
    const uint32_t *ids;    // [count]: what stands before and the continuation, below the vocabulary's size
    int64_t count;          // first + 1 … rows of a micro-batch + 1
    int64_t first;          // the continuation is ids[first, count); at least 1
    double log_probability; // result: natural logarithm, summed over the continuation's tokens
} choice_sequence;

// Scores every sequence by itself; as many as fit share a micro-batch. A sum that is not finite is YX_ERR_NUMERIC.
yx_status choices_score(yx_model *model, choice_sequence *sequences, int64_t count);

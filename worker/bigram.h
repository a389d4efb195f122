// The simplest model that uses context: a token bigram interpolated with the unigram, p(w | v) = λ·c(v,w)/c(v) +
// (1-λ)·p(w). What a trained model has to beat.
#pragma once
#include "io/shard.h"

typedef struct bigram_result {
    double bits_per_byte, unigram_bits_per_byte; // over the same text tokens as evaluate_run
    int64_t pairs;                               // distinct pairs counted
    int64_t held_out;                            // training tokens the weights were tuned on (EM), not counted
} bigram_result;

// Counts `train` but its last twentieth, tunes λ on that (one weight for each power of two of c(v)), and scores all of
// `validation`.
yx_status bigram_run(const dataset *train, const dataset *validation, bigram_result *out);

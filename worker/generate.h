// Text continuation.
#pragma once
#include "worker/model.h"

typedef struct generate_options {
    int64_t max_tokens;
    double temperature; // 0: the most likely token
    double top_p;       // keep the most likely tokens with together this probability; 1: all
    uint64_t seed;
    int64_t stop_token; // generation ends when it is drawn; -1: none
} generate_options;

// Called for each new token; returning other than YX_OK ends the generation with that status.
typedef yx_status (*generate_sink)(void *context, uint32_t token);

// Continues `prompt` (ids; starts with the end-of-text token that opens a document). The context is the last
// max_position_embeddings tokens that fit the model's micro-batch. A function of the arguments alone.
yx_status generate_run(yx_model *model, const uint32_t *prompt, size_t count, const generate_options *options,
                       generate_sink sink, void *context);
// Draws from logits [n] (float64 arithmetic); `index` is the number of the draw.
uint32_t generate_sample(const yx_real *logits, int64_t n, const generate_options *options, uint64_t index);

// Validation: bits per byte over windows of T tokens, stride T, and losses by position.
#pragma once
#include "comm/comm.h"
#include "io/loader.h"
#include "worker/model.h"

enum { EVALUATE_BUCKETS = 16 }; // positions [0,8), [8,16), [16,32), [32,64) … within a window

typedef struct evaluate_result {
    double loss;          // nats per text token (end-of-text targets are not text)
    double bits_per_byte; // nats of all text tokens / (ln 2 · UTF-8 bytes)
    int64_t tokens, bytes;
    double bucket_loss[EVALUATE_BUCKETS];
    int64_t bucket_tokens[EVALUATE_BUCKETS];
    int num_buckets;
} evaluate_result;

// Evaluates `data` (at most max_tokens of it, 0: all; whole documents are counted) with windows of seq_len tokens,
// divided over the ranks of `group`; every rank gets the result.
yx_status evaluate_run(yx_model *model, yx_group *group, const dataset *data, bool document_mask, int64_t seq_len,
                       int64_t max_tokens, evaluate_result *out);
// First position of a bucket.
int64_t evaluate_bucket_begin(int bucket);

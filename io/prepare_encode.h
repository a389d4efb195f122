// Threads that encode documents; results come back in the order of submission.
#pragma once
#include "common/status.h"
#include "io/tokenizer.h"
#include <stdint.h>

// A document on its way. What the caller sets travels along untouched.
typedef struct encode_job {
    char *text;
    size_t size;
    uint32_t *ids;
    size_t count;
    int64_t chars;
    uint64_t source_hash;
    float score;
} encode_job;

typedef struct encode_pool encode_pool;

// The tokenizer must outlive the pool.
yx_status encode_pool_open(const yx_tokenizer *tokenizer, int threads, encode_pool **out);
void encode_pool_close(encode_pool *p);
// No room (in documents or bytes) for another one: take first.
bool encode_pool_full(const encode_pool *p);
bool encode_pool_empty(const encode_pool *p);
// Copies the text; `job` gives chars, source_hash and score. The pool must not be full.
yx_status encode_pool_submit(encode_pool *p, const char *text, size_t size, const encode_job *job);
// The oldest document, waiting for it; valid until the next call of encode_pool_submit or encode_pool_take. The pool
// must not be empty.
yx_status encode_pool_take(encode_pool *p, const encode_job **out);

#include "io/shard.h"
#include "io/shard_file.h"
#include <stdlib.h>

enum { TABLE_PIECE = 65536, MANY = 128 };

// The place of the next `id` from `begin` on, or `end`: most tokens are passed by many at a time.
static int64_t find(const uint32_t *tokens, int64_t begin, int64_t end, uint32_t id) {
    while (end - begin >= MANY && !shard_contains(tokens + begin, MANY, id)) begin += MANY;
    while (begin < end && tokens[begin] != id) begin++;
    return begin;
}

// Every document's first token is an end-of-text token.
static yx_status verify_starts(const shard_file *f, int64_t begin, const uint32_t *tokens, int64_t count,
                               uint64_t *offsets, int64_t *doc) {
    yx_status status = YX_OK;
    for (int64_t i = find(tokens, 0, count, f->eot_id); i < count; i = find(tokens, i + 1, count, f->eot_id)) {
        // The table is read a piece at a time as the tokens pass.
        int64_t entry = *doc % TABLE_PIECE, left = f->num_docs + 1 - *doc;
        if (entry == 0)
            YX_CHECK(shard_file_read_docs(f, *doc, left < TABLE_PIECE ? left : TABLE_PIECE, offsets, NULL, NULL, NULL));
        if (offsets[entry] != (uint64_t)(begin + i))
            YX_FAIL(YX_ERR_DATA, "%s is damaged: document %lld starts at token %llu, an end-of-text token is at %lld",
                    f->path, (long long)*doc, (unsigned long long)offsets[entry], (long long)(begin + i));
        ++*doc;
    }
fail:
    return status;
}

// What verifying carries from block to block.
typedef struct verification {
    const shard_file *file;
    uint32_t *tokens;  // [SHARD_BLOCK]
    uint64_t *offsets; // [TABLE_PIECE]
    int64_t doc;       // documents whose start was seen
    yx_digest digest;
} verification;

static yx_status verify_block(verification *v, int64_t begin, int64_t count) {
    const shard_file *f = v->file;
    yx_status status = YX_OK;
    size_t size = (size_t)count * sizeof *v->tokens;
    uint32_t stored;
    YX_CHECK(shard_file_read_bytes(f, f->tokens_at + begin * 4, v->tokens, size));
    YX_CHECK(shard_file_read_bytes(f, f->crc_at + begin / SHARD_BLOCK * 4, &stored, sizeof stored));
    if (yx_crc32c(0, v->tokens, size) != stored)
        YX_FAIL(YX_ERR_DATA, "%s is damaged: the checksum of tokens %lld to %lld does not match", f->path,
                (long long)begin, (long long)(begin + count - 1));
    YX_CHECK(shard_file_check_ids(f, begin, count, v->tokens));
    YX_CHECK(verify_starts(f, begin, v->tokens, count, v->offsets, &v->doc));
    YX_CHECK(yx_digest_add(&v->digest, v->tokens, size));
fail:
    return status;
}

// What is no token, from `at` to `end`, only has its part in the digest.
static yx_status digest_range(verification *v, int64_t at, int64_t end) {
    yx_status status = YX_OK;
    for (int64_t n; at < end; at += n) {
        n = end - at < SHARD_BLOCK ? end - at : SHARD_BLOCK;
        YX_CHECK(shard_file_read_bytes(v->file, at, v->tokens, (size_t)n));
        YX_CHECK(yx_digest_add(&v->digest, v->tokens, (size_t)n));
    }
fail:
    return status;
}

yx_status shard_file_verify(const shard_file *f, char sha256[YX_SHA256_HEX]) {
    yx_status status = YX_OK;
    verification v = {.file = f,
                      .tokens = malloc(SHARD_BLOCK * sizeof *v.tokens),
                      .offsets = malloc(TABLE_PIECE * sizeof *v.offsets)};
    if (!v.tokens || !v.offsets) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to check %s", f->path);
    YX_CHECK(yx_digest_begin(&v.digest));
    YX_CHECK(digest_range(&v, 0, f->tokens_at));
    for (int64_t begin = 0; begin < f->num_tokens; begin += SHARD_BLOCK)
        YX_CHECK(verify_block(&v, begin, f->num_tokens - begin < SHARD_BLOCK ? f->num_tokens - begin : SHARD_BLOCK));
    YX_CHECK(digest_range(&v, f->tokens_at + f->num_tokens * 4, f->file_bytes));
    if (v.doc != f->num_docs)
        YX_FAIL(YX_ERR_DATA, "%s is damaged: %lld end-of-text tokens for %lld documents", f->path, (long long)v.doc,
                (long long)f->num_docs);
    YX_CHECK(yx_digest_end(&v.digest, sha256));
fail:
    yx_digest_free(&v.digest);
    free(v.offsets);
    free(v.tokens);
    return status;
}

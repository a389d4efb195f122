// Byte pair encoding of one pre-token: the merge of lowest rank first, the leftmost one among equals, until none
// applies.
#pragma once
#include "common/status.h"
#include <stdint.h>

#define BPE_NONE UINT32_MAX
enum { BPE_MAX_IDS = 1 << 21 };

// The bytes of every id. An id is text when its token is written in the byte-level alphabet: only those take part in
// BPE.
typedef struct token_table {
    uint32_t size;    // ids
    uint8_t *blob;    // the bytes of all tokens
    uint32_t *offset; // [size + 1] into blob; an id without a token is empty
    uint8_t *is_text; // [size]
} token_table;

void token_table_free(token_table *t);
static inline uint32_t token_size(const token_table *t, uint32_t id) { return t->offset[id + 1] - t->offset[id]; }
static inline const uint8_t *token_bytes(const token_table *t, uint32_t id) { return t->blob + t->offset[id]; }

// Ids; the position in the list is the rank.
typedef struct bpe_merge {
    uint32_t left, right, result;
} bpe_merge;

typedef struct bpe bpe; // immutable
typedef struct bpe_scratch bpe_scratch;

// `tokens` must outlive the result; `merges` need not. Where a pair occurs twice, the later rank holds. `with_find`
// makes bpe_find possible.
yx_status bpe_new(const token_table *tokens, const bpe_merge *merges, size_t n_merges, bool with_find, bpe **out);
void bpe_free(bpe *b);
// Id of the text token with exactly these bytes; BPE_NONE when there is none.
uint32_t bpe_find(const bpe *b, const uint8_t *bytes, size_t size);

yx_status bpe_scratch_new(bpe_scratch **out);
void bpe_scratch_free(bpe_scratch *s);
// Makes room to encode pieces of up to `size` bytes (at most 2^31 - 1).
yx_status bpe_reserve(bpe_scratch *s, size_t size);
// Encodes one pre-token, valid UTF-8; `ids` has room for `size` of them. Returns their number. Bytes without a token
// give nothing.
size_t bpe_encode(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *ids);
// The same, faster: text[0 .. readable), readable >= size, may be read.
size_t bpe_encode_part(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, size_t readable, uint32_t *ids);

// For tests: the same by the queue alone, and how many merges bpe_encode does without it.
size_t bpe_encode_queue(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *ids);
uint32_t bpe_word_merges(const bpe *b);

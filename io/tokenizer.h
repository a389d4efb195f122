// Byte-level BPE tokenizers in Hugging Face's file formats. Encoding equals the `tokenizers` library token for token.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef struct yx_tokenizer yx_tokenizer; // immutable after loading: any number of threads may encode with it

// `path`: a tokenizer.json, or a folder holding tokenizer.json, or a folder holding vocab.json + merges.txt.
yx_status tokenizer_load(const char *path, yx_tokenizer **out);
// From the text of a tokenizer.json; `name` is what tokenizer_name and tokenizer_path then say.
yx_status tokenizer_load_memory(const char *json, size_t size, const char *name, yx_tokenizer **out);
void tokenizer_free(yx_tokenizer *t);

// Largest id + 1.
uint32_t tokenizer_vocab_size(const yx_tokenizer *t);
// The end-of-text token that starts every document (<|endoftext|>, or what the file names as such); -1 when there is
// none.
int64_t tokenizer_eot(const yx_tokenizer *t);
// SHA-256 of what determines the encoding (vocabulary, merges, added tokens, pre-tokenizer), the same for every file
// layout and key order: the identity that shards and checkpoints record.
const char *tokenizer_sha256(const yx_tokenizer *t);
// The folder's or file's base name ("superbpe-t80k").
const char *tokenizer_name(const yx_tokenizer *t);
// Where it was loaded from.
const char *tokenizer_path(const yx_tokenizer *t);

typedef enum tokenizer_flags {
    TOKENIZER_DEFAULT = 0,
    TOKENIZER_NO_SPECIAL =
        1 // the text of a *special* added token is ordinary text (training documents: none may forge one)
} tokenizer_flags;

// Scratch of one encoding thread.
typedef struct tokenizer_scratch tokenizer_scratch;
yx_status tokenizer_scratch_new(const yx_tokenizer *t, tokenizer_scratch **out);
void tokenizer_scratch_free(tokenizer_scratch *s);

// Encodes `size` bytes. Bytes that are not UTF-8 become U+FFFD first, one for each maximal ill-formed part (Unicode
// 15, 3.9, as Rust's from_utf8_lossy and Python's errors="replace"). `*ids` points into the scratch until its next use.
yx_status tokenizer_encode(const yx_tokenizer *t, tokenizer_scratch *s, const char *text, size_t size,
                           tokenizer_flags flags, const uint32_t **ids, size_t *count);

// The bytes that `ids` stand for, without any clean-up (`*text` gets a terminating zero behind `*size`; free()). With
// `skip_special`, special tokens give nothing. An id outside the vocabulary fails.
yx_status tokenizer_decode(const yx_tokenizer *t, const uint32_t *ids, size_t count, bool skip_special, char **text,
                           size_t *size);
// The bytes of one token (a superword contains spaces); NULL for an id that has none.
const char *tokenizer_token_bytes(const yx_tokenizer *t, uint32_t id, size_t *size);

// --- For reports ---
size_t tokenizer_merge_count(const yx_tokenizer *t);
// The i-th added token in the order of ids (zero-terminated); NULL behind the last one.
const char *tokenizer_added(const yx_tokenizer *t, size_t i, uint32_t *id, bool *special);
// The pre-tokenizer in words; `*out` to free().
yx_status tokenizer_explain(const yx_tokenizer *t, char **out);
// Whether a token has white space between other characters ("of the").
bool tokenizer_is_superword(const yx_tokenizer *t, uint32_t id);
// Share of the vocabulary's tokens that do.
double tokenizer_superword_share(const yx_tokenizer *t);
// Merges that make words: those before the first one to cross a space (SuperBPE's transition).
size_t tokenizer_word_merges(const yx_tokenizer *t);

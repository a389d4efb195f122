// From text to a data set: read, filter, drop duplicates, split, encode, write shards, publish. docs/data-format.md
// describes the result and the rules.
#pragma once
#include "io/corpus.h"
#include <signal.h>

// Why a document is left out, in the order of the checks.
typedef enum prepare_drop {
    DROP_EMPTY,          // nothing but white space
    DROP_NO_SCORE,       // a score is asked for and the document has none
    DROP_SCORE,          // below min_score
    DROP_NO_LANGUAGE,    // a language is asked for and the document names none
    DROP_LANGUAGE,       // another language
    DROP_NO_TOKEN_COUNT, // min_token_count is given and the document has no such field
    DROP_TOKEN_COUNT,    // its field is below min_token_count
    DROP_CHARS,          // fewer code points than min_chars
    DROP_DUPLICATE,      // the same text came before
    DROP_TOKENS,         // fewer tokens than min_tokens, counted with this tokenizer
    DROP_END_OF_TEXT,    // its text encodes to an end-of-text token (only where the tokenizer does not mark it special)
    PREPARE_DROPS
} prepare_drop;

enum { PREPARE_TRAIN, PREPARE_VALIDATION, PREPARE_SPLITS };

typedef struct prepare_counts {
    corpus_counts corpus; // documents read, malformed lines, input bytes
    int64_t dropped[PREPARE_DROPS];
    int64_t kept, chars, bytes; // documents that are in the data set, and their text
    int64_t docs[PREPARE_SPLITS], tokens[PREPARE_SPLITS], shards[PREPARE_SPLITS]; // tokens: with the end-of-text tokens
    double seconds;
} prepare_counts;

typedef struct prepare_options {
    const char *tokenizer;     // file or folder
    const char *const *inputs; // as corpus_open takes them
    int n_inputs;
    const char *output; // the folder that appears when all is done
    corpus_options corpus;
    double min_score;                               // NaN: no such filter
    int64_t min_tokens, min_token_count, min_chars; // 0: no such filter
    const char *language;                           // NULL: any
    int64_t max_documents;                          // read no more than these; 0: all
    double validation_fraction;                     // share of the documents, [0, 1)
    uint64_t split_seed;
    int64_t shard_tokens; // a shard is closed before it would exceed these
    int threads;          // that encode; the result does not depend on them
    bool force;           // replace an existing data set
    // Called about twice a second from the calling thread; may be NULL.
    void (*progress)(void *context, const prepare_counts *counts);
    void *context;
    const volatile sig_atomic_t *stop; // may be NULL; when it becomes non-zero: YX_ERR_INTERRUPTED, nothing is left
} prepare_options;

// Everything is written into a folder beside `output` and renamed at the end; on failure that folder is removed.
// `counts` is filled also on failure. YX_ERR_DATA when no document is kept, YX_ERR_USAGE when `output` is in use.
yx_status prepare_run(const prepare_options *options, prepare_counts *counts);
// "below the score", for messages.
const char *prepare_drop_name(prepare_drop reason);

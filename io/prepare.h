// From text to a data set: read, filter, drop duplicates, split, encode, write shards, publish. docs/data-format.md
// describes the result and the rules. One thread reads and filters, several encode, the caller's writes; between them
// is a fixed number of places. A run that was stopped goes on behind its last complete shard.
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
    DROP_MAX_CHARS,      // more than max_chars
    DROP_DUPLICATE,      // the same text came before
    DROP_TOKENS,         // fewer tokens than min_tokens
    DROP_END_OF_TEXT,    // its text encodes to an end-of-text token (only where the tokenizer does not mark it special)
    DROP_NEAR_DUPLICATE, // nearly the same text was kept before
    PREPARE_DROPS
} prepare_drop;

enum { PREPARE_TRAIN, PREPARE_VALIDATION, PREPARE_SPLITS };

typedef struct prepare_counts {
    corpus_counts corpus; // documents read, malformed lines, input bytes
    int64_t dropped[PREPARE_DROPS];
    int64_t rounded_scores;     // documents that min_score judged by "int_score"
    int64_t kept, chars, bytes; // documents that are in the data set, and their text
    int64_t docs[PREPARE_SPLITS], tokens[PREPARE_SPLITS], shards[PREPARE_SPLITS]; // tokens: with the end-of-text tokens
    double seconds;
    // What an earlier run had finished: its documents and shards, and what reading over them took.
    int64_t resumed_documents, resumed_shards, resumed_input_bytes;
    double resumed_seconds; // negative while they are read over
} prepare_counts;

typedef struct prepare_options {
    const char *tokenizer;     // file or folder
    const char *const *inputs; // as corpus_open takes them
    int n_inputs;
    const char *source; // recorded as the source, NULL: the names of the inputs
    const char *output; // the folder that appears when all is done
    corpus_options corpus;
    double min_score;                                          // NaN: no such filter
    int64_t min_tokens, min_token_count, min_chars, max_chars; // 0: no such filter
    const char *count_tokenizer; // min_tokens counts with this one; NULL: with `tokenizer`
    const char *language;        // NULL: any
    bool near_duplicates;        // drop them too (io/dedup.h)
    int64_t max_documents;       // read no more than these; 0: all
    double validation_fraction;  // share of the documents, [0, 1)
    uint64_t split_seed;
    int64_t shard_tokens; // a shard is closed before it would exceed these
    int64_t pack; // order the documents for training so that few are cut at multiples of these tokens; 0: as they come
    int threads;  // that encode; the result does not depend on them
    bool force;   // replace an existing data set
    bool restart; // forget what an earlier run left
    // Called about twice a second from the calling thread; may be NULL.
    void (*progress)(void *context, const prepare_counts *counts);
    void *context;
    const volatile sig_atomic_t *stop; // may be NULL; when it becomes non-zero: YX_ERR_INTERRUPTED
} prepare_options;

// Everything is written into the folder "OUTPUT.partial", which is renamed at the end. On failure it stays when it
// holds a complete shard: the next call with the same options goes on from there, to the same bytes; YX_ERR_DATA when
// the input has changed meanwhile, YX_ERR_USAGE when the options have (`restart` starts anew). Otherwise it is removed.
// `counts` is filled also on failure. YX_ERR_DATA when no document is kept, YX_ERR_USAGE when `output` is in use.
yx_status prepare_run(const prepare_options *options, prepare_counts *counts);
// "score too low", for messages.
const char *prepare_drop_name(prepare_drop reason);

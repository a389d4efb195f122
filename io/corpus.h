// Documents from text on disk or a pipe, one at a time: JSON lines (plain, gzip or zstd, told apart by their first
// bytes), text files, folders of them. docs/data-format.md lists what is read.
#pragma once
#include "common/status.h"
#include <stdatomic.h>
#include <stdint.h>

// NULL or 0 means the default.
typedef struct corpus_options {
    const char *text_field;        // "text"
    const char *id_field;          // "id"
    const char *score_field;       // "score"; where it is absent, "int_score"
    const char *token_count_field; // "token_count"
    const char *language_field;    // "language"
    size_t max_line_bytes;         // 64 MiB: a longer JSON line, or text document, is malformed
    bool strict;                   // the first malformed line ends reading with YX_ERR_DATA
    const atomic_bool *stop;       // when it becomes non-zero, waiting for a pipe ends with YX_ERR_INTERRUPTED
} corpus_options;

// Everything is valid until the next corpus_next or corpus_close.
typedef struct corpus_document {
    const char *text;     // UTF-8 without NUL bytes, zero-terminated; NULL: no more documents
    size_t size;          // bytes
    const char *id;       // NULL when the line has none (or an empty one), and for text files
    double score;         // NaN when absent
    bool rounded_score;   // it is "int_score", which FineWeb-Edu rounds: the line has no score
    int64_t token_count;  // -1 when absent; the data set's own count (for FineWeb-Edu: GPT-2 tokens)
    const char *language; // NULL when absent
    const char *source;   // the file, or "standard input"
    int64_t line;         // 1-based line where the document starts
} corpus_document;

typedef enum corpus_malformed {
    CORPUS_BAD_JSON,
    CORPUS_NOT_OBJECT,
    CORPUS_NO_TEXT,   // the text field is absent or not a string
    CORPUS_BAD_FIELD, // another field that is read has a wrong type
    CORPUS_BAD_UTF8,
    CORPUS_NUL,      // a zero byte in the text
    CORPUS_TOO_LONG, // above max_line_bytes
    CORPUS_MALFORMED_KINDS
} corpus_malformed;

typedef struct corpus_counts {
    int64_t files;     // opened so far
    int64_t documents; // returned
    int64_t bytes;     // UTF-8 bytes of their text
    int64_t malformed[CORPUS_MALFORMED_KINDS];
    int64_t input_bytes,
        input_total; // read from the files as stored (compressed); of all files, -1 with standard input
} corpus_counts;

typedef struct corpus corpus; // one thread at a time

// `paths`: files, folders (read recursively, entries in byte order of their names, known endings only), or "-" for
// standard input. Missing paths and folders without a readable file fail here, not hours later. `options` may be NULL;
// the strings in it are copied.
yx_status corpus_open(const char *const *paths, int n_paths, const corpus_options *options, corpus **out);
// The next document, or doc->text == NULL at the end. Malformed lines are skipped, counted, and the first ten of each
// kind reported as warnings with file and line. A damaged archive (gzip, zstd) fails with YX_ERR_DATA.
yx_status corpus_next(corpus *c, corpus_document *doc);
void corpus_close(corpus *c);
corpus_counts corpus_get_counts(const corpus *c);
// What a kind of malformed line is called in messages ("not valid JSON").
const char *corpus_malformed_name(corpus_malformed kind);

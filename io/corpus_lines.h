// Lines of a stream, of bounded length.
#pragma once
#include "io/corpus_stream.h"

typedef struct corpus_lines {
    corpus_stream *stream; // owned by the caller
    size_t max_bytes;      // longer lines are cut
    char *piece;           // what of the stream's last piece is not used yet
    size_t piece_size;
    char *end, hidden; // behind a line that was returned in place: what its zero byte hides; NULL: nothing
    char *line;        // of a line that runs over several pieces
    size_t capacity;
    int64_t number; // of the line returned last; the first is 1
} corpus_lines;

// Starts on a new stream and keeps the buffer.
void corpus_lines_start(corpus_lines *l, corpus_stream *stream, size_t max_bytes);
void corpus_lines_free(corpus_lines *l);
// `*line`: the next line with its newline (the last may have none) and a zero byte behind it, valid until the next call
// and the caller's to write in; NULL at the end. `*cut`: it was longer than max_bytes, the rest is dropped.
yx_status corpus_lines_next(corpus_lines *l, char **line, size_t *size, bool *cut);

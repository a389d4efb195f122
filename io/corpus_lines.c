#include "io/corpus_lines.h"
#include <stdlib.h>
#include <string.h>

void corpus_lines_start(corpus_lines *l, corpus_stream *stream, size_t max_bytes) {
    l->stream = stream;
    l->max_bytes = max_bytes;
    l->piece = NULL;
    l->piece_size = 0;
    l->end = NULL;
    l->number = 0;
}

void corpus_lines_free(corpus_lines *l) {
    free(l->line);
    memset(l, 0, sizeof *l);
}

static yx_status append(corpus_lines *l, size_t used, size_t count) {
    if (used + count + 1 > l->capacity) {
        size_t capacity = (used + count + 1) * 2;
        char *grown = realloc(l->line, capacity);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a line of %zu bytes", used + count);
        l->line = grown;
        l->capacity = capacity;
    }
    memcpy(l->line + used, l->piece, count);
    l->line[used + count] = 0;
    return YX_OK;
}

static yx_status next_piece(corpus_lines *l) {
    if (l->end) *l->end = l->hidden;
    l->end = NULL;
    return l->piece_size > 0 ? YX_OK : corpus_stream_read(l->stream, &l->piece, &l->piece_size);
}

// Takes the first `count` bytes of the piece as they stand there, with a zero byte behind them.
static char *take_in_place(corpus_lines *l, size_t count) {
    char *line = l->piece;
    l->piece += count;
    l->piece_size -= count;
    l->end = l->piece;
    l->hidden = *l->end;
    *l->end = 0;
    l->number++;
    return line;
}

yx_status corpus_lines_next(corpus_lines *l, char **line, size_t *size, bool *cut) {
    size_t used = 0;
    bool any = false, ended = false;
    *cut = false;
    while (!ended) {
        yx_status status = next_piece(l);
        if (status != YX_OK) return status;
        if (l->piece_size == 0) break;
        const char *newline = memchr(l->piece, '\n', l->piece_size);
        size_t count = newline ? (size_t)(newline - l->piece) + 1 : l->piece_size;
        if (newline && !any && count <= l->max_bytes) { // the usual line costs no copy
            *line = take_in_place(l, count);
            *size = count;
            return YX_OK;
        }
        any = true;
        size_t kept = count < l->max_bytes - used ? count : l->max_bytes - used;
        *cut = *cut || kept < count;
        status = append(l, used, kept);
        if (status != YX_OK) return status;
        used += kept;
        l->piece += count;
        l->piece_size -= count;
        ended = newline != NULL;
    }
    l->number += any;
    *line = any ? l->line : NULL;
    *size = used;
    return YX_OK;
}

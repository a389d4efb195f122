#include "io/corpus.h"
#include "common/log.h"
#include "io/corpus_files.h"
#include "io/corpus_json.h"
#include "io/corpus_lines.h"
#include "io/tokenizer_unicode.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WARNINGS_PER_KIND = 10 };
static const size_t default_max_line = 64u << 20;

struct corpus {
    corpus_options options; // its strings are ours
    corpus_file_list files;
    size_t next_file;
    corpus_stream *stream; // NULL between files
    const char *name;      // of the open file, for messages
    corpus_file_kind kind;
    corpus_lines lines;
    corpus_json json;
    char *text; // the current document of a text file
    size_t text_capacity;
    corpus_counts counts;
    int64_t finished_bytes; // stored bytes of the files read to their end
};

const char *corpus_malformed_name(corpus_malformed kind) {
    static const char *const names[CORPUS_MALFORMED_KINDS] = {
        [CORPUS_BAD_JSON] = "not valid JSON",        [CORPUS_NOT_OBJECT] = "not a JSON object",
        [CORPUS_NO_TEXT] = "no text field",          [CORPUS_BAD_FIELD] = "a field of the wrong type",
        [CORPUS_BAD_UTF8] = "not valid UTF-8",       [CORPUS_NUL] = "a zero byte in the text",
        [CORPUS_TOO_LONG] = "longer than the limit",
    };
    return names[kind];
}

static yx_status copy_name(const char **field, const char *given, const char *fallback) {
    *field = strdup(given ? given : fallback);
    return *field ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory");
}

static yx_status copy_options(corpus *c, const corpus_options *given) {
    static const corpus_options none;
    yx_status status = YX_OK;
    if (!given) given = &none;
    YX_CHECK(copy_name(&c->options.text_field, given->text_field, "text"));
    YX_CHECK(copy_name(&c->options.id_field, given->id_field, "id"));
    YX_CHECK(copy_name(&c->options.score_field, given->score_field, "score"));
    YX_CHECK(copy_name(&c->options.token_count_field, given->token_count_field, "token_count"));
    YX_CHECK(copy_name(&c->options.language_field, given->language_field, "language"));
    c->options.max_line_bytes = given->max_line_bytes ? given->max_line_bytes : default_max_line;
    c->options.strict = given->strict;
    c->options.stop = given->stop;
fail:
    return status;
}

yx_status corpus_open(const char *const *paths, int n_paths, const corpus_options *options, corpus **out) {
    yx_status status = YX_OK;
    corpus *c = calloc(1, sizeof *c);
    if (!c) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    YX_CHECK(copy_options(c, options));
    YX_CHECK(corpus_files_expand(paths, n_paths, &c->files));
    c->counts.input_total = c->files.bytes;
    *out = c;
    return YX_OK;
fail:
    corpus_close(c);
    return status;
}

static void close_file(corpus *c) {
    if (c->stream) c->finished_bytes += corpus_stream_input_bytes(c->stream);
    corpus_stream_close(c->stream);
    c->stream = NULL;
}

void corpus_close(corpus *c) {
    if (!c) return;
    close_file(c);
    corpus_lines_free(&c->lines);
    corpus_files_free(&c->files);
    free((char *)c->options.text_field);
    free((char *)c->options.id_field);
    free((char *)c->options.score_field);
    free((char *)c->options.token_count_field);
    free((char *)c->options.language_field);
    free(c->text);
    free(c);
}

corpus_counts corpus_get_counts(const corpus *c) {
    corpus_counts counts = c->counts;
    counts.input_bytes = c->finished_bytes + (c->stream ? corpus_stream_input_bytes(c->stream) : 0);
    return counts;
}

static yx_status open_file(corpus *c) {
    const corpus_file *file = &c->files.items[c->next_file++];
    c->name = strcmp(file->path, "-") == 0 ? "standard input" : file->path;
    c->kind = file->kind;
    yx_status status = corpus_stream_open(file->path, c->name, c->options.stop, &c->stream);
    if (status != YX_OK) return status;
    corpus_lines_start(&c->lines, c->stream, c->options.max_line_bytes);
    c->counts.files++;
    return YX_OK;
}

static yx_status malformed(corpus *c, corpus_malformed kind, int64_t line, const char *reason) {
    const char *name = corpus_malformed_name(kind);
    if (c->options.strict) return yx_fail(YX_ERR_DATA, "%s:%lld: %s (%s)", c->name, (long long)line, name, reason);
    int64_t seen = ++c->counts.malformed[kind];
    if (seen <= WARNINGS_PER_KIND) yx_warn("%s:%lld: skipped, %s (%s)", c->name, (long long)line, name, reason);
    if (seen == WARNINGS_PER_KIND) yx_warn("further lines that are skipped as \"%s\" are only counted", name);
    return YX_OK;
}

// The next line without a byte-order mark at the start of the file.
static yx_status next_line(corpus *c, char **line, size_t *size, bool *cut) {
    yx_status status = corpus_lines_next(&c->lines, line, size, cut);
    if (status != YX_OK || !*line) return status;
    if (c->lines.number == 1 && *size >= 3 && memcmp(*line, "\xef\xbb\xbf", 3) == 0) {
        *line += 3;
        *size -= 3;
    }
    return YX_OK;
}

static bool is_blank(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (text[i] != ' ' && text[i] != '\n' && text[i] != '\r' && text[i] != '\t' && text[i] != '\f') return false;
    return true;
}

// doc->text stays NULL at the end of the file.
static yx_status next_json(corpus *c, corpus_document *doc) {
    yx_status status = YX_OK;
    char *line;
    size_t size;
    bool cut;
    for (;;) {
        corpus_malformed kind;
        YX_CHECK(next_line(c, &line, &size, &cut));
        if (!line) return YX_OK;
        if (cut) {
            YX_CHECK(malformed(c, CORPUS_TOO_LONG, c->lines.number, "the rest of the line is not read"));
            continue;
        }
        if (is_blank(line, size)) continue;
        if (corpus_json_parse(&c->json, line, size, &c->options, doc, &kind)) break;
        doc->text = NULL;
        YX_CHECK(malformed(c, kind, c->lines.number, c->json.reason));
    }
    doc->line = c->lines.number;
    return YX_OK;
fail:
    return status;
}

static bool is_separator(const char *line, size_t size) {
    static const char mark[] = "<|endoftext|>";
    while (size > 0 && (line[size - 1] == '\n' || line[size - 1] == '\r')) size--;
    return size == sizeof mark - 1 && memcmp(line, mark, size) == 0;
}

static yx_status append_text(corpus *c, size_t used, const char *line, size_t size) {
    if (used + size + 1 > c->text_capacity) {
        size_t capacity = (used + size + 1) * 2;
        char *grown = realloc(c->text, capacity);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a document of %zu bytes", used + size);
        c->text = grown;
        c->text_capacity = capacity;
    }
    memcpy(c->text + used, line, size);
    c->text[used + size] = 0;
    return YX_OK;
}

// Lines up to a separator or the end of the file. `*too_long`: above the limit, the rest is dropped.
static yx_status collect_text(corpus *c, size_t *size, int64_t *first_line, bool *too_long, bool *ended) {
    yx_status status = YX_OK;
    char *line;
    size_t count;
    bool cut;
    *size = 0;
    *too_long = false;
    *first_line = c->lines.number + 1;
    YX_CHECK(append_text(c, 0, "", 0));
    for (;;) {
        YX_CHECK(next_line(c, &line, &count, &cut));
        *ended = !line;
        if (!line || is_separator(line, count)) return YX_OK;
        *too_long = *too_long || cut || count > c->options.max_line_bytes - *size;
        if (*too_long) continue;
        YX_CHECK(append_text(c, *size, line, count));
        *size += count;
    }
fail:
    return status;
}

// doc->text stays NULL at the end of the file.
static yx_status next_text(corpus *c, corpus_document *doc) {
    yx_status status = YX_OK;
    for (bool ended = false; !ended;) {
        size_t size;
        int64_t line;
        bool too_long;
        YX_CHECK(collect_text(c, &size, &line, &too_long, &ended));
        if (too_long) {
            YX_CHECK(malformed(c, CORPUS_TOO_LONG, line, "the document is not read"));
        } else if (memchr(c->text, 0, size)) {
            YX_CHECK(malformed(c, CORPUS_NUL, line, "not a text file?"));
        } else if (unicode_valid_prefix((const uint8_t *)c->text, size) < size) {
            YX_CHECK(malformed(c, CORPUS_BAD_UTF8, line, "convert the file to UTF-8"));
        } else if (!is_blank(c->text, size)) {
            *doc = (corpus_document){.text = c->text, .size = size, .score = NAN, .token_count = -1, .line = line};
            return YX_OK;
        }
    }
fail:
    return status;
}

yx_status corpus_next(corpus *c, corpus_document *doc) {
    for (;;) {
        yx_status status = YX_OK;
        *doc = (corpus_document){.score = NAN, .token_count = -1};
        if (!c->stream && c->next_file == c->files.count) return YX_OK;
        if (!c->stream) status = open_file(c);
        if (status == YX_OK) status = c->kind == CORPUS_FILE_TEXT ? next_text(c, doc) : next_json(c, doc);
        if (status != YX_OK) return status;
        if (doc->text) break;
        close_file(c);
    }
    doc->source = c->name;
    c->counts.documents++;
    c->counts.bytes += (int64_t)doc->size;
    return YX_OK;
}

// libFuzzer target: any bytes as a corpus file. The first byte chooses JSON lines or a text file.
#include "common/log.h"
#include "io/corpus.h"
#include "io/corpus_json.h"
#include "io/tokenizer_unicode.h"
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const char *path) {
    corpus_options options = {.max_line_bytes = 4096};
    corpus *c;
    corpus_document doc;
    if (corpus_open(&path, 1, &options, &c) != YX_OK) abort();
    while (corpus_next(c, &doc) == YX_OK && doc.text) {
        if (strlen(doc.text) != doc.size || doc.size > 4096) abort();
        if (unicode_valid_prefix((const uint8_t *)doc.text, doc.size) != doc.size) abort();
        if (doc.id && !doc.id[0]) abort();
        if (doc.line < 1 || doc.token_count < -1) abort();
    }
    corpus_close(c);
}

// What one reader takes for JSON the other does, with the same text.
static void compare_with_jansson(const uint8_t *data, size_t size) {
    static const corpus_options names = {.text_field = "text",
                                         .id_field = "id",
                                         .score_field = "score",
                                         .token_count_field = "token_count",
                                         .language_field = "language"};
    corpus_json j = {0};
    corpus_document doc;
    corpus_malformed kind = CORPUS_MALFORMED_KINDS;
    json_error_t error;
    char *line = malloc(size + 1);
    if (!line) abort();
    memcpy(line, data, size);
    line[size] = 0;
    bool good = corpus_json_parse(&j, line, size, &names, &doc, &kind);
    bool is_json = good || kind == CORPUS_NO_TEXT || kind == CORPUS_BAD_FIELD;
    json_t *root = memchr(data, 0, size) ? NULL : json_loadb((const char *)data, size, JSON_DECODE_INT_AS_REAL, &error);
    bool is_deep = strstr(j.reason, "nested too deep") != NULL;
    if (json_is_object(root) && !is_json && !is_deep) abort(); // a line is an object
    // jansson also refuses what only using a field would: numbers that are too large.
    if (is_json && !root && json_error_code(&error) != json_error_numeric_overflow) abort();
    if (good && root && strcmp(doc.text, json_string_value(json_object_get(root, "text"))) != 0) abort();
    json_decref(root);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    yx_log_setup(YX_LOG_ERROR, -1);
    if (size < 1) return 0;
    compare_with_jansson(data + 1, size - 1);
    int fd = memfd_create("corpus", 0);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1)) abort();
    // The name of the link decides the kind of file.
    char target[64], path[64];
    snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
    snprintf(path, sizeof path, "/tmp/yx-fuzz-corpus-%d.%s", (int)getpid(), data[0] & 1 ? "txt" : "jsonl");
    unlink(path);
    if (symlink(target, path) != 0) abort();
    read_all(path);
    unlink(path);
    close(fd);
    return 0;
}

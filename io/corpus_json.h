// One JSON line as a document.
#pragma once
#include "io/corpus.h"
#include <jansson.h>

typedef struct corpus_json {
    json_t *root;       // owns the strings of the last document
    char number_id[32]; // an id that is a number, as text
    char reason[256];   // why the last line was refused
} corpus_json;

// Fills text, size, id, score, token_count and language; everything is valid until the next call. Fields other than the
// text and the id may also sit in an object "metadata". False: the line is malformed, `*kind` and j->reason say how,
// and `doc` is not to be used.
// `options` has no NULL names.
bool corpus_json_parse(corpus_json *j, const char *line, size_t size, const corpus_options *options,
                       corpus_document *doc, corpus_malformed *kind);
void corpus_json_free(corpus_json *j);

// One JSON line as a document.
#pragma once
#include "io/corpus.h"

typedef struct corpus_json {
    char number_id[32]; // an id that is a number, as text
    char reason[256];   // why the last line was refused
} corpus_json;

// Fills text, size, id, score, rounded_score, token_count and language from line[0 … size), which is rewritten: the
// texts stay in it. line[size] must be a zero byte. Fields other than the text and the id may also sit in an object
// "metadata". False: the line is malformed, `*kind` and j->reason say how, and `doc` is not to be used.
// `options` has no NULL names.
bool corpus_json_parse(corpus_json *j, char *line, size_t size, const corpus_options *options, corpus_document *doc,
                       corpus_malformed *kind);

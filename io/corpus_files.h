// The files that a list of paths stands for.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef enum corpus_file_kind { CORPUS_FILE_UNKNOWN, CORPUS_FILE_JSONL, CORPUS_FILE_TEXT } corpus_file_kind;

typedef struct corpus_file {
    char *path; // "-" for standard input
    corpus_file_kind kind;
} corpus_file;

typedef struct corpus_file_list {
    corpus_file *items;
    size_t count, capacity;
    int64_t bytes; // of all files; -1 when standard input is among them
} corpus_file_list;

// What the name says: .jsonl, .ndjson, .txt, .text, .md, each also with .gz, .zst or .zstd, and .json.gz, .json.zst.
corpus_file_kind corpus_file_kind_of(const char *name);
// Files are taken as they are named (an unknown ending means JSON lines); folders recursively, in byte order of the
// names, without hidden entries, known endings only. On failure the list is empty.
yx_status corpus_files_expand(const char *const *paths, int n_paths, corpus_file_list *out);
void corpus_files_free(corpus_file_list *list);

// The text of `yxanul tokenizer train`: named files, read once or twice.
#pragma once
#include "io/bpe_train.h"
#include "io/corpus.h"

typedef struct train_files {
    char **paths; // absolute, or "-"
    int n_paths;
    int64_t max_bytes; // 0: all
    int64_t bytes;     // read since the start
    corpus *corpus;
} train_files;

yx_status train_files_open(const char *const *paths, int n_paths, int64_t max_bytes, train_files *f);
// The files that an earlier run names as its text.
yx_status train_files_reopen(const char *source, train_files *f);
// Names, sizes and times of the files: another text has another one. NULL for standard input. `*out` to free().
yx_status train_files_source(const train_files *f, char **out);
bpe_documents train_files_documents(train_files *f);
void train_files_close(train_files *f);

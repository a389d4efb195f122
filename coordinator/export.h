// A checkpoint's model for other programs: Hugging Face's layout of Llama, with the tokenizer.
#pragma once
#include "common/dtype.h"
#include "common/status.h"

typedef struct export_options {
    const char *checkpoint; // or a run folder
    const char *output;     // a folder: must not exist, or be empty
    bool force;             // an earlier export there is replaced
    yx_dtype dtype;         // of the weights: YX_BF16 or YX_F32
} export_options;

typedef struct export_report {
    char checkpoint[512];
    int64_t step, parameters, bytes; // of the weights; the embedding counts with vocab_size · hidden_size
} export_report;

// Writes `output` under a temporary name and renames it: it appears whole or not at all.
yx_status export_run(const export_options *options, export_report *report);

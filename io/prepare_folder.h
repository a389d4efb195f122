// The folder of a data set while it is being made: OUTPUT.partial, held by one process at a time, renamed to OUTPUT.
#pragma once
#include "common/status.h"
#include "io/tokenizer.h"

typedef struct prepare_folder { // {.lock = -1} is none
    char *final, *partial;
    int lock; // a descriptor of the partial folder
    bool force, ours, published;
} prepare_folder;

#define PREPARE_STATE_NAME "prepare.json" // in a partial folder: what is done (io/prepare_state.h)

// Refuses (YX_ERR_USAGE) an output folder in use, a partial one that another process holds, and one without
// PREPARE_STATE_NAME that is not empty. `restart`: empties the partial folder. `*resumes`: an earlier run left a state.
yx_status prepare_folder_open(const char *output, bool force, bool restart, prepare_folder *out, bool *resumes);
// Renames the partial folder to the final one; with `force` an existing data set steps aside, and is removed.
yx_status prepare_folder_publish(prepare_folder *f);
// `keep`: leave the partial folder for a later run; otherwise it is removed if it was not published. Keeps the current
// message.
void prepare_folder_close(prepare_folder *f, bool keep);
// Copies the tokenizer's files, with those beside it that Hugging Face's libraries read, into the partial folder.
yx_status prepare_folder_copy_tokenizer(const prepare_folder *f, const yx_tokenizer *tokenizer);

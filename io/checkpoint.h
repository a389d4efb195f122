// Checkpoints: folders RUN/checkpoints/step_000001234/ with state.h5 (tensors by name) and manifest.json, published by
// rename, named by RUN/checkpoints/LATEST. docs/checkpoint-format.md describes them.
#pragma once
#include "common/status.h"
#include <jansson.h>
#include <stdint.h>

typedef struct checkpoint_tensor { // a float32 tensor in host memory
    const char *name;              // "layers.3.qkv.weight", "moment1/layers.3.qkv.weight"
    int64_t rows, cols;            // cols 0: a vector of `rows`
    float *data;
} checkpoint_tensor;

typedef struct checkpoint_options {
    int64_t keep_last, keep_every; // as config_checkpoint
} checkpoint_options;

// Writes step `step`: into a temporary folder, CRC-32C of each tensor taken before the write, fsync, read back and
// compared, rename, LATEST, and only then older ones are pruned (by number, never the one just written). `meta` is
// stored in manifest.json under "run". Copies the tokenizer folder `tokenizer_dir` when it is not NULL (folder or
// file).
yx_status checkpoint_write(const char *run_dir, int64_t step, const checkpoint_tensor *tensors, int64_t num_tensors,
                           const json_t *meta, const char *tokenizer_path, const checkpoint_options *options);

// A fresh start in the folder of an earlier run: its checkpoints/, log.jsonl, tensorboard/ and report.html are renamed
// to checkpoints-before-N/, log-before-N.jsonl, …, so that nothing is lost and no later resume takes them for the new
// run's. `*number` is N, or 0 when there were no checkpoints and nothing was renamed.
yx_status checkpoint_set_aside(const char *run_dir, int *number);

typedef struct checkpoint checkpoint;
// Opens one checkpoint folder, or of a run folder the newest that verifies: if the newest does not, says which and why
// (yx_warn) and falls back. `*out` is NULL and the result YX_OK when RUN holds no checkpoints at all. A folder whose
// every checkpoint is damaged is YX_ERR_DATA: never a silent fresh start.
yx_status checkpoint_open(const char *path, checkpoint **out);
void checkpoint_close(checkpoint *c);
const char *checkpoint_path(const checkpoint *c);
const json_t *checkpoint_meta(const checkpoint *c); // "run" of manifest.json, borrowed
// Reads tensors by name into `data`; shapes must agree. A missing one is YX_ERR_MISMATCH naming it.
yx_status checkpoint_read(checkpoint *c, const checkpoint_tensor *tensors, int64_t num_tensors);
// Number of tensors, and the name and shape of the i-th (sorted by name), for `yxanul inspect`.
int64_t checkpoint_count(const checkpoint *c);
yx_status checkpoint_describe(const checkpoint *c, int64_t i, const char **name, int64_t *rows, int64_t *cols);
// The checkpoint's copy of the tokenizer; fails when it has none. `*path` to free().
yx_status checkpoint_tokenizer(const checkpoint *c, char **path);

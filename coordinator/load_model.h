// A trained model from a checkpoint, ready to evaluate.
#pragma once
#include "io/checkpoint.h"
#include "io/config.h"
#include "io/tokenizer.h"
#include "worker/model.h"

// A checkpoint, or a run folder's newest, and the configuration of its run. A path without one is YX_ERR_USAGE.
yx_status load_checkpoint(const char *path, checkpoint **out, yx_config *config);

// All parameters of a checkpoint, at their offsets of the table's arena.
yx_status load_parameters(checkpoint *c, const param_table *table, float *values);

typedef struct loaded_model {
    yx_config config; // of the run
    checkpoint *checkpoint;
    yx_model *model; // forward only
    int64_t steps, tokens;
} loaded_model;

// `path`: a checkpoint or run folder. The model takes micro-batches of up to max_rows tokens (0: its longest sequence,
// rounded up). `precision` overrides the run's when ≥ 0 (config_precision); 8-bit evaluation is not offered: its scales
// belong to training.
yx_status load_model(const char *path, const yx_ops *ops, yx_device *device, int precision, int64_t max_rows,
                     loaded_model *out);
// Window of the run's validations.
int64_t loaded_model_seq_len(const loaded_model *m);
// The tokenizer at `path` (NULL: the checkpoint's copy). One that the model was not trained with is YX_ERR_MISMATCH,
// one without an end-of-text token YX_ERR_DATA.
yx_status loaded_model_tokenizer(const loaded_model *m, const char *path, yx_tokenizer **out);
void loaded_model_free(loaded_model *m);

#include "coordinator/initial.h"
#include "common/log.h"
#include "coordinator/load_model.h"
#include "coordinator/state.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct model_key {
    const char *name;
    size_t offset; // in config_model
} model_key;
#define KEY(f)                                                                                                         \
    { #f, offsetof(config_model, f) }

// What a parameter means depends on all of these; rank and widths give its shape, heads how its rows are grouped.
static yx_status check_shape(const config_model *here, const config_model *there, const char *path) {
    static const model_key keys[] = {KEY(hidden_size),         KEY(num_layers),    KEY(num_attention_heads),
                                     KEY(num_key_value_heads), KEY(head_dim),      KEY(intermediate_size),
                                     KEY(vocab_size),          KEY(embedding_rank)};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t a, b;
        memcpy(&a, (const char *)here + keys[i].offset, sizeof a);
        memcpy(&b, (const char *)there + keys[i].offset, sizeof b);
        if (a != b)
            return yx_fail(YX_ERR_MISMATCH,
                           "training.initial_checkpoint: %s has model.%s %lld, this run %lld: its weights fit a model "
                           "of the same shape only",
                           path, keys[i].name, (long long)b, (long long)a);
    }
    return YX_OK;
}

// May be changed on purpose (a longer context, say), but not without a word.
static void warn_of_changes(const config_model *here, const config_model *there) {
    static const model_key keys[] = {KEY(rope_theta), KEY(rms_norm_eps)};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        double a, b;
        memcpy(&a, (const char *)here + keys[i].offset, sizeof a);
        memcpy(&b, (const char *)there + keys[i].offset, sizeof b);
        if (a != b)
            yx_warn("model.%s is %g; the weights that this run begins with were trained with %g", keys[i].name, a, b);
    }
}

static yx_status check_tokenizer(const json_t *meta, const run_setup *setup, const char *path) {
    const char *theirs = json_string_value(json_object_get(meta, "tokenizer_sha256"));
    if (theirs && strcmp(theirs, dataset_get_info(setup->train)->tokenizer_sha256) == 0) return YX_OK;
    return yx_fail(
        YX_ERR_MISMATCH,
        "training.initial_checkpoint: %s was trained with another tokenizer than this run's data: prepare the "
        "data with the checkpoint's own, %s/tokenizer",
        path, path);
}

// Weights alone, or weights and moments; what is not read is zero.
static yx_status read_state(checkpoint *c, yx_worker *worker, bool moments, int64_t updates) {
    yx_status status = YX_OK;
    const worker_tensor *tensors;
    int64_t count;
    YX_CHECK(worker_state_buffers(worker, false, &tensors, &count));
    int64_t read = moments ? count : count / 3;
    for (int64_t i = read; i < count; i++)
        memset(tensors[i].data, 0, (size_t)(tensors[i].rows * (tensors[i].cols ? tensors[i].cols : 1)) * sizeof(float));
    YX_CHECK(state_read(c, tensors, read));
    YX_CHECK(worker_set_state(worker, false, moments ? updates : 0));
fail:
    return status;
}

static yx_status note(ledger *l, const char *path, const json_t *meta, bool moments, bool says) {
    char detail[CONFIG_MAX_TEXT + 128];
    snprintf(detail, sizeof detail, "%s of %s (step %lld, %lld tokens)", moments ? "weights and moments" : "weights",
             path, (long long)json_integer_value(json_object_get(meta, "step")),
             (long long)json_integer_value(json_object_get(meta, "tokens")));
    if (says) yx_info("begins with the %s", detail);
    return ledger_append(l, 0, "initial", detail);
}

static yx_status begin_with(const yx_config *config, const run_setup *setup, yx_worker *worker, ledger *l, bool says,
                            yx_config *theirs) {
    yx_status status = YX_OK;
    const config_training *t = &config->training;
    checkpoint *c = NULL;
    status = load_checkpoint(t->initial_checkpoint, &c, theirs);
    if (status == YX_ERR_USAGE) status = yx_context(YX_ERR_CONFIG, "training.initial_checkpoint");
    YX_CHECK(status);
    const json_t *meta = checkpoint_meta(c);
    YX_CHECK(check_shape(&config->model, &theirs->model, checkpoint_path(c)));
    YX_CHECK(check_tokenizer(meta, setup, checkpoint_path(c)));
    if (says) warn_of_changes(&config->model, &theirs->model);
    YX_CHECK(read_state(c, worker, t->initial_moments, json_integer_value(json_object_get(meta, "adam_steps"))));
    YX_CHECK(note(l, checkpoint_path(c), meta, t->initial_moments, says));
fail:
    checkpoint_close(c);
    return status;
}

yx_status initial_set(const yx_config *config, const run_setup *setup, yx_worker *worker, ledger *l, bool says) {
    if (!*config->training.initial_checkpoint) return model_init(worker_model(worker), (uint64_t)config->training.seed);
    yx_config *theirs = malloc(sizeof *theirs); // it is large
    if (!theirs) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a checkpoint's configuration");
    yx_status status = begin_with(config, setup, worker, l, says, theirs);
    free(theirs);
    return status;
}

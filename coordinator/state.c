#include "coordinator/state.h"
#include "common/hash.h"
#include "common/log.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCALES = 96 }; // bytes of a description

// What the 8-bit scales are made for: those of a checkpoint with another description are of no use. Empty without 8-bit
// operands.
static void describe_scales(yx_worker *worker, char out[SCALES]) {
    const precision_state *p = &worker_model(worker)->precision;
    *out = '\0';
    if (p->num_slots)
        snprintf(out, SCALES, "%s, %s and %s in layers %lld to %lld", config_recipe_name(p->recipe),
                 yx_dtype_name(p->forward), yx_dtype_name(p->gradient), (long long)p->first, (long long)p->end - 1);
}

static yx_status describe(const yx_config *config, const run_setup *setup, int ranks, const run_state *state,
                          json_t **out) {
    yx_status status = YX_OK;
    char identity[YX_SHA256_HEX], plan[17], scales[SCALES], *yaml = NULL;
    const dataset_info *info = dataset_get_info(setup->train);
    YX_CHECK(config_identity(config, identity));
    YX_CHECK(config_to_yaml(config, &yaml));
    snprintf(plan, sizeof plan, "%016llx", (unsigned long long)setup->plan.hash);
    describe_scales(state->worker, scales);
    *out = json_pack(
        "{s:I, s:I, s:I, s:i, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:O, s:o}", "step", (json_int_t)state->steps, "tokens",
        (json_int_t)state->tokens, "adam_steps", (json_int_t)worker_adam_steps(state->worker), "ranks", ranks,
        "micro_batch_tokens", (json_int_t)setup->micro_tokens, "config", yaml, "config_identity", identity, "plan_hash",
        plan, "data_manifest_sha256", info->manifest_sha256, "tokenizer_sha256", info->tokenizer_sha256, "fp8_scales",
        scales, "ledger", state->ledger->entries, "spike_window", spike_to_json(state->spikes));
    if (!*out) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the checkpoint's description");
fail:
    free(yaml);
    return status;
}

static checkpoint_tensor *as_checkpoint(const worker_tensor *tensors, int64_t count) {
    checkpoint_tensor *list = malloc((size_t)count * sizeof *list);
    for (int64_t i = 0; list && i < count; i++)
        list[i] = (checkpoint_tensor){tensors[i].name, tensors[i].rows, tensors[i].cols, tensors[i].data};
    return list;
}

// A value that is not finite never becomes finite again: such a state is no use to anyone.
static yx_status check_finite(const checkpoint_tensor *list, int64_t count, int64_t steps) {
    for (int64_t i = 0; i < count; i++) {
        int64_t n = list[i].rows * (list[i].cols ? list[i].cols : 1);
        bool finite = true;
        for (int64_t j = 0; j < n; j++) finite &= fabsf(list[i].data[j]) <= FLT_MAX;
        if (!finite)
            return yx_fail(YX_ERR_NUMERIC,
                           "%s is not finite after step %lld: no checkpoint is written of it. Lower "
                           "training.learning_rate or grad_clip, and continue an older checkpoint",
                           list[i].name, (long long)steps);
    }
    return YX_OK;
}

yx_status state_save(const yx_config *config, const run_setup *setup, int ranks, const run_state *state) {
    yx_status status = YX_OK;
    const worker_tensor *tensors;
    checkpoint_tensor *list = NULL;
    json_t *meta = NULL;
    int64_t count;
    checkpoint_options options = {config->checkpoint.keep_last, config->checkpoint.keep_every};
    YX_CHECK(worker_get_state(state->worker, &tensors, &count));
    YX_CHECK(describe(config, setup, ranks, state, &meta));
    list = as_checkpoint(tensors, count);
    if (!list) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a checkpoint's table");
    YX_CHECK(check_finite(list, count, state->steps));
    YX_CHECK(checkpoint_write(config->run_dir, state->steps, list, count, meta, config->data.tokenizer, &options));
fail:
    free(list);
    json_decref(meta);
    return status;
}

static const char *text_of(const json_t *meta, const char *key) {
    const char *text = json_string_value(json_object_get(meta, key));
    return text ? text : "";
}

// What the checkpoint's configuration has otherwise.
static void find_difference(const yx_config *config, const char *path, const json_t *meta, char *out, size_t size) {
    const char *yaml = text_of(meta, "config");
    yx_config *saved = malloc(sizeof *saved); // it is large
    *out = '\0';
    if (saved && config_load_text(yaml, strlen(yaml), path, ".", NULL, 0, saved) == YX_OK)
        config_difference(config, saved, out, size);
    free(saved);
}

static yx_status check(const yx_config *config, const run_setup *setup, const char *path, const json_t *meta) {
    char identity[YX_SHA256_HEX], difference[512];
    yx_status status = config_identity(config, identity);
    if (status != YX_OK) return status;
    if (strcmp(text_of(meta, "data_manifest_sha256"), dataset_get_info(setup->train)->manifest_sha256) != 0)
        return yx_fail(
            YX_ERR_MISMATCH,
            "%s was trained on other data than data.path names: name that data, or start afresh with another "
            "run_dir",
            path);
    if (strcmp(text_of(meta, "config_identity"), identity) == 0) return YX_OK;
    find_difference(config, path, meta, difference, sizeof difference);
    return yx_fail(
        YX_ERR_MISMATCH,
        "%s belongs to another model or schedule%s%s%s: change it back, or start afresh with another run_dir", path,
        *difference ? " (here " : "", difference, *difference ? ")" : "");
}

// Whether the checkpoint's scales are for the operands that this run has in 8 bits.
static bool has_scales(const json_t *meta, yx_worker *worker) {
    char scales[SCALES];
    describe_scales(worker, scales);
    return strcmp(text_of(meta, "fp8_scales"), scales) == 0;
}

yx_status state_read(checkpoint *c, const worker_tensor *tensors, int64_t count) {
    checkpoint_tensor *list = as_checkpoint(tensors, count);
    if (!list) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a checkpoint's table");
    yx_status status = checkpoint_read(c, list, count);
    free(list);
    return status;
}

static yx_status read_tensors(checkpoint *c, yx_worker *worker, bool scales, int64_t adam_steps) {
    yx_status status = YX_OK;
    const worker_tensor *tensors;
    int64_t count;
    YX_CHECK(worker_state_buffers(worker, scales, &tensors, &count));
    YX_CHECK(state_read(c, tensors, count));
    YX_CHECK(worker_set_state(worker, scales, adam_steps));
fail:
    return status;
}

static bool is_inside(const char *path, const char *folder) {
    char *inner = realpath(path, NULL), *outer = realpath(folder, NULL);
    size_t n = outer ? strlen(outer) : 0;
    bool is = inner && outer && strncmp(inner, outer, n) == 0 && (inner[n] == '/' || inner[n] == '\0');
    free(inner);
    free(outer);
    return is;
}

// The checkpoint to go on from; NULL: none. Another run's is only for a run that has none of its own, so that the same
// command, started again, goes on.
static yx_status open_checkpoint(const yx_config *config, const char *resume, checkpoint **out, run_state *state) {
    bool automatic = strcmp(resume, "auto") == 0, own = automatic || is_inside(resume, config->run_dir);
    yx_status status = YX_OK;
    *out = NULL;
    state->goes_back = own && !automatic;
    if (automatic || !own) status = checkpoint_open(config->run_dir, out);
    if (status == YX_OK && *out && !own) yx_info("%s has checkpoints of its own: it goes on", config->run_dir);
    if (status != YX_OK || *out || automatic) return status;
    status = checkpoint_open(resume, out);
    state->elsewhere = !own;
    return status == YX_OK && !*out ? yx_fail(YX_ERR_USAGE, "--resume %s: there is no checkpoint", resume) : status;
}

yx_status state_load(const yx_config *config, const run_setup *setup, const char *resume, run_state *state,
                     bool *resumed) {
    yx_status status = YX_OK;
    checkpoint *c = NULL;
    json_int_t steps, tokens, adam_steps;
    *resumed = false;
    if (strcmp(resume, "never") == 0) return YX_OK;
    YX_CHECK(open_checkpoint(config, resume, &c, state));
    if (!c) return YX_OK;
    const json_t *meta = checkpoint_meta(c);
    YX_CHECK(check(config, setup, checkpoint_path(c), meta));
    if (json_unpack((json_t *)meta, "{s:I, s:I, s:I}", "step", &steps, "tokens", &tokens, "adam_steps", &adam_steps))
        YX_FAIL(YX_ERR_DATA, "%s: the manifest lacks step, tokens or adam_steps", checkpoint_path(c));
    YX_CHECK(ledger_load(state->ledger, json_object_get(meta, "ledger")));
    spike_from_json(state->spikes, json_object_get(meta, "spike_window"));
    state->without_scales = !has_scales(meta, state->worker) && worker_calibrates(state->worker);
    YX_CHECK(read_tensors(c, state->worker, has_scales(meta, state->worker), adam_steps));
    state->steps = steps;
    state->tokens = tokens;
    *resumed = true;
fail:
    checkpoint_close(c);
    return status;
}

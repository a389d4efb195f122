#include "coordinator/load_model.h"
#include "common/file.h"
#include <stdlib.h>
#include <string.h>

yx_status load_parameters(checkpoint *c, const param_table *table, float *values) {
    checkpoint_tensor *list = calloc((size_t)table->count, sizeof *list);
    if (!list) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a checkpoint's table");
    for (int64_t i = 0; i < table->count; i++) {
        const param *p = &table->items[i];
        list[i] = (checkpoint_tensor){p->name, p->rows, p->cols, values + p->offset};
    }
    yx_status status = checkpoint_read(c, list, table->count);
    free(list);
    return status;
}

static yx_status read_parameters(loaded_model *m) {
    yx_status status = YX_OK;
    const param_table *table = &m->model->table;
    const yx_ops *ops = m->model->ops;
    float *host = malloc((size_t)table->elements * sizeof *host);
    if (!host) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the parameters");
    YX_CHECK(load_parameters(m->checkpoint, table, host));
    for (int64_t i = 0; i < table->count; i++) {
        const param *p = &table->items[i];
        YX_CHECK(ops->copy(m->model->device, NULL, m->model->params + p->offset, host + p->offset,
                           (size_t)param_size(p) * sizeof *host));
    }
    YX_CHECK(ops->stream_sync(m->model->device, NULL));
    YX_CHECK(model_refresh_copies(m->model));
fail:
    free(host);
    return status;
}

int64_t loaded_model_seq_len(const loaded_model *m) {
    const yx_config *c = &m->config;
    int64_t longest = c->evaluation.seq_len;
    if (longest > 0) return longest;
    for (int64_t i = 0; i < c->training.num_stages; i++)
        if (c->training.stages[i].seq_len > longest) longest = c->training.stages[i].seq_len;
    return longest;
}

yx_status load_checkpoint(const char *path, checkpoint **out, yx_config *config) {
    yx_status status = YX_OK;
    YX_CHECK(checkpoint_open(path, out));
    if (!*out)
        YX_FAIL(YX_ERR_USAGE, yx_path_exists(path) ? "%s holds no checkpoint" : "%s, of a checkpoint, does not exist",
                path);
    const char *yaml = json_string_value(json_object_get(checkpoint_meta(*out), "config"));
    if (!yaml) YX_FAIL(YX_ERR_DATA, "%s: the manifest lacks the configuration", checkpoint_path(*out));
    YX_CHECK(config_load_text(yaml, strlen(yaml), checkpoint_path(*out), ".", NULL, 0, config));
    return YX_OK;
fail:
    checkpoint_close(*out);
    *out = NULL;
    return status;
}

yx_status load_model(const char *path, const yx_ops *ops, yx_device *device, int precision, int64_t max_rows,
                     loaded_model *out) {
    yx_status status = YX_OK;
    *out = (loaded_model){0};
    YX_CHECK(load_checkpoint(path, &out->checkpoint, &out->config));
    const json_t *meta = checkpoint_meta(out->checkpoint);
    out->steps = json_integer_value(json_object_get(meta, "step"));
    out->tokens = json_integer_value(json_object_get(meta, "tokens"));
    config_precision p = precision >= 0 ? (config_precision)precision : out->config.training.precision;
    if (p == PRECISION_FP8) p = PRECISION_BF16;
    if (max_rows < loaded_model_seq_len(out)) max_rows = loaded_model_seq_len(out);
    max_rows = (max_rows + 127) / 128 * 128;
    model_options options = {.precision = {.precision = p}, .max_rows = max_rows};
    YX_CHECK(model_create(ops, device, &out->config.model, &options, &out->model));
    YX_CHECK(read_parameters(out));
    return YX_OK;
fail:
    loaded_model_free(out);
    return status;
}

yx_status loaded_model_tokenizer(const loaded_model *m, const char *path, yx_tokenizer **out) {
    yx_status status = YX_OK;
    char *copy = NULL;
    const char *sha = json_string_value(json_object_get(checkpoint_meta(m->checkpoint), "tokenizer_sha256"));
    *out = NULL;
    if (!path) YX_CHECK(checkpoint_tokenizer(m->checkpoint, &copy));
    YX_CHECK(tokenizer_load(path ? path : copy, out));
    if (!sha || strcmp(sha, tokenizer_sha256(*out)) != 0)
        YX_FAIL(YX_ERR_MISMATCH, "%s is not the tokenizer that the checkpoint was trained with", tokenizer_path(*out));
    if (tokenizer_eot(*out) < 0) YX_FAIL(YX_ERR_DATA, "%s has no end-of-text token", tokenizer_path(*out));
fail:
    free(copy);
    if (status != YX_OK) {
        tokenizer_free(*out);
        *out = NULL;
    }
    return status;
}

void loaded_model_free(loaded_model *m) {
    model_free(m->model);
    checkpoint_close(m->checkpoint);
    *m = (loaded_model){0};
}

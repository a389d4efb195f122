#include "coordinator/export.h"
#include "common/file.h"
#include "coordinator/load_model.h"
#include "io/safetensors.h"
#include "io/tokenizer.h"
#include "worker/params.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EMBEDDING_ROWS = 4096 }; // multiplied at a time

typedef struct export_job {
    const export_options *options;
    checkpoint *source;
    yx_config config;
    param_table table;
    float *values; // all parameters, at their offsets
    char *folder;  // temporary
    safetensors_tensor *tensors;
    int64_t num_tensors;
} export_job;

// --- What is written. A tensor of the other layout is a range of rows of one of ours, or the embedding.
static void add(export_job *j, int64_t layer, const char *name, int64_t rows, int64_t cols) {
    safetensors_tensor *t = &j->tensors[j->num_tensors++];
    *t = (safetensors_tensor){.rows = rows, .cols = cols};
    if (layer < 0) snprintf(t->name, sizeof t->name, "model.%s.weight", name);
    else snprintf(t->name, sizeof t->name, "model.layers.%lld.%s.weight", (long long)layer, name);
}

// In this order, a layer's values lie in the file as they lie in our tensors.
static yx_status list_tensors(export_job *j) {
    const config_model *m = &j->config.model;
    int64_t hidden = m->hidden_size, q = m->num_attention_heads * m->head_dim,
            kv = m->num_key_value_heads * m->head_dim;
    j->tensors = calloc((size_t)(2 + 9 * m->num_layers), sizeof *j->tensors);
    if (!j->tensors) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a table of tensors");
    add(j, -1, "embed_tokens", m->vocab_size, hidden);
    for (int64_t l = 0; l < m->num_layers; l++) {
        add(j, l, "input_layernorm", hidden, 0);
        add(j, l, "self_attn.q_proj", q, hidden);
        add(j, l, "self_attn.k_proj", kv, hidden);
        add(j, l, "self_attn.v_proj", kv, hidden);
        add(j, l, "self_attn.o_proj", hidden, q);
        add(j, l, "post_attention_layernorm", hidden, 0);
        add(j, l, "mlp.gate_proj", m->intermediate_size, hidden);
        add(j, l, "mlp.up_proj", m->intermediate_size, hidden);
        add(j, l, "mlp.down_proj", hidden, m->intermediate_size);
    }
    add(j, -1, "norm", hidden, 0);
    return YX_OK;
}

// out [rows, hidden] = E [rows, rank] · P [rank, hidden]
static void multiply(const float *E, const float *P, int64_t rows, int64_t rank, int64_t hidden, float *out) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        float *row = out + i * hidden;
        memset(row, 0, (size_t)hidden * sizeof *row);
        for (int64_t r = 0; r < rank; r++)
            for (int64_t c = 0; c < hidden; c++) row[c] += E[i * rank + r] * P[r * hidden + c];
    }
}

// E·P: the embedding without factors. The head is its transpose: (norm(x)·Pᵀ)·Eᵀ = norm(x)·(E·P)ᵀ.
static yx_status write_embedding(const export_job *j, safetensors_file *f) {
    yx_status status = YX_OK;
    const config_model *m = &j->config.model;
    const param *e = &j->table.items[param_index(&j->table, PARAM_EMBED, 0)];
    const param *p = &j->table.items[param_index(&j->table, PARAM_PROJ, 0)];
    float *rows = malloc((size_t)(EMBEDDING_ROWS * m->hidden_size) * sizeof *rows);
    if (!rows) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the embedding");
    for (int64_t begin = 0; begin < m->vocab_size; begin += EMBEDDING_ROWS) {
        int64_t n = m->vocab_size - begin < EMBEDDING_ROWS ? m->vocab_size - begin : EMBEDDING_ROWS;
        multiply(j->values + e->offset + begin * m->embedding_rank, j->values + p->offset, n, m->embedding_rank,
                 m->hidden_size, rows);
        YX_CHECK(safetensors_append(f, rows, n * m->hidden_size));
    }
fail:
    free(rows);
    return status;
}

static yx_status write_param(const export_job *j, safetensors_file *f, param_role role, int64_t layer) {
    const param *p = &j->table.items[param_index(&j->table, role, layer)];
    return safetensors_append(f, j->values + p->offset, param_size(p));
}

static yx_status write_weights(export_job *j, export_report *report) {
    static const param_role roles[PARAMS_PER_LAYER] = {PARAM_NORM1, PARAM_QKV,     PARAM_O,
                                                       PARAM_NORM2, PARAM_GATE_UP, PARAM_DOWN};
    yx_status status = YX_OK;
    char *path = NULL;
    safetensors_file *f = NULL;
    YX_CHECK(list_tensors(j));
    YX_CHECK(yx_format(&path, "%s/model.safetensors", j->folder));
    YX_CHECK(safetensors_create(path, j->options->dtype, j->tensors, j->num_tensors, &f));
    YX_CHECK(write_embedding(j, f));
    for (int64_t l = 0; l < j->config.model.num_layers; l++)
        for (int i = 0; i < PARAMS_PER_LAYER; i++) YX_CHECK(write_param(j, f, roles[i], l));
    YX_CHECK(write_param(j, f, PARAM_NORM, 0));
    YX_CHECK(safetensors_finish(f));
    for (int64_t i = 0; i < j->num_tensors; i++)
        report->parameters += j->tensors[i].rows * (j->tensors[i].cols ? j->tensors[i].cols : 1);
    report->bytes = report->parameters * (int64_t)yx_dtype_size(j->options->dtype);
fail:
    safetensors_close(f);
    free(path);
    return status;
}

// Takes `content`, which may be NULL when memory was short.
static yx_status write_json(const export_job *j, const char *name, json_t *content) {
    yx_status status = YX_OK;
    char *path = NULL, *text = content ? json_dumps(content, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(content);
    if (!text) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %s", name);
    YX_CHECK(yx_format(&path, "%s/%s", j->folder, name));
    YX_CHECK(yx_write_file_atomic(path, text, strlen(text)));
fail:
    free(path);
    free(text);
    return status;
}

static json_t *describe_model(const export_job *j, int64_t eot) {
    const config_model *m = &j->config.model;
    json_t *out = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:b, s:b, s:b, s:f, s:s}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "vocab_size", (json_int_t)m->vocab_size,
        "hidden_size", (json_int_t)m->hidden_size, "intermediate_size", (json_int_t)m->intermediate_size,
        "num_hidden_layers", (json_int_t)m->num_layers, "num_attention_heads", (json_int_t)m->num_attention_heads,
        "num_key_value_heads", (json_int_t)m->num_key_value_heads, "head_dim", (json_int_t)m->head_dim,
        "max_position_embeddings", (json_int_t)m->max_position_embeddings, "hidden_act", "silu", "rms_norm_eps",
        m->rms_norm_eps, "rope_theta", m->rope_theta, "initializer_range", m->initializer_range, "tie_word_embeddings",
        1, "attention_bias", 0, "mlp_bias", 0, "attention_dropout", 0.0, "torch_dtype",
        j->options->dtype == YX_BF16 ? "bfloat16" : "float32");
    if (out && eot >= 0)
        json_object_update_new(
            out, json_pack("{s:I, s:I}", "bos_token_id", (json_int_t)eot, "eos_token_id", (json_int_t)eot));
    return out;
}

// The text of the end-of-text token, which also begins every document.
static const char *eot_text(const yx_tokenizer *t) {
    uint32_t id;
    bool special;
    const char *text;
    for (size_t i = 0; (text = tokenizer_added(t, i, &id, &special)); i++)
        if ((int64_t)id == tokenizer_eot(t)) return text;
    return NULL;
}

static json_t *describe_tokenizer(const export_job *j, const yx_tokenizer *t) {
    const char *eot = eot_text(t);
    json_t *out = json_pack("{s:s, s:I, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "model_max_length",
                            (json_int_t)j->config.model.max_position_embeddings, "clean_up_tokenization_spaces", 0);
    if (out && eot) json_object_update_new(out, json_pack("{s:s, s:s}", "bos_token", eot, "eos_token", eot));
    return out;
}

static yx_status copy_tokenizer(const export_job *j, const char *from) {
    static const char *const names[] = {"tokenizer.json", "vocab.json", "merges.txt"};
    yx_status status = YX_OK;
    char *path = NULL, *to = NULL, *data = NULL;
    size_t size;
    for (int i = 0; i < 3; i++) {
        YX_CHECK(yx_format(&path, "%s/%s", from, names[i]));
        YX_CHECK(yx_format(&to, "%s/%s", j->folder, names[i]));
        if (yx_path_exists(path)) {
            YX_CHECK(yx_read_file(path, (size_t)1 << 30, &data, &size));
            YX_CHECK(yx_write_file_atomic(to, data, size));
        }
        free(path), free(to), free(data);
        path = to = data = NULL;
    }
fail:
    free(path);
    free(to);
    free(data);
    return status;
}

static yx_status write_texts(export_job *j) {
    yx_status status = YX_OK;
    char *path = NULL;
    yx_tokenizer *t = NULL;
    YX_CHECK(checkpoint_tokenizer(j->source, &path));
    YX_CHECK(tokenizer_load(path, &t));
    YX_CHECK(copy_tokenizer(j, path));
    YX_CHECK(write_json(j, "config.json", describe_model(j, tokenizer_eot(t))));
    YX_CHECK(write_json(j, "tokenizer_config.json", describe_tokenizer(j, t)));
    if (tokenizer_eot(t) >= 0)
        YX_CHECK(write_json(j, "generation_config.json",
                            json_pack("{s:I, s:I}", "bos_token_id", (json_int_t)tokenizer_eot(t), "eos_token_id",
                                      (json_int_t)tokenizer_eot(t))));
fail:
    tokenizer_free(t);
    free(path);
    return status;
}

// --- The folder
static bool is_export(const char *folder) {
    char *path;
    if (yx_format(&path, "%s/model.safetensors", folder) != YX_OK) return false;
    bool is = yx_path_exists(path);
    free(path);
    return is;
}

static yx_status check_output(const export_options *o) {
    if (!yx_path_exists(o->output) || rmdir(o->output) == 0) return YX_OK; // an empty folder is as none
    if (o->force && is_export(o->output)) return YX_OK;
    if (is_export(o->output))
        return yx_fail(YX_ERR_USAGE, "%s already holds a model: name another folder, or replace it with --force",
                       o->output);
    return yx_fail(YX_ERR_USAGE, "%s exists and is no earlier export: name another folder", o->output);
}

// An earlier export goes once the new one stands in its place.
static yx_status publish(const export_job *j) {
    yx_status status = YX_OK;
    const char *output = j->options->output;
    char *earlier = NULL;
    bool replaces = yx_path_exists(output);
    YX_CHECK(yx_fsync_path(j->folder));
    YX_CHECK(yx_format(&earlier, "%s.earlier", j->folder));
    if (replaces && rename(output, earlier) != 0) {
        status = yx_fail_errno("cannot rename %s to %s", output, earlier);
        goto fail;
    }
    if (rename(j->folder, output) != 0) {
        status = yx_fail_errno("cannot rename %s to %s", j->folder, output);
        if (replaces) rename(earlier, output);
        goto fail;
    }
    if (replaces) YX_CHECK(yx_remove_tree(earlier));
fail:
    free(earlier);
    return status;
}

// Without hiding why.
static void clean_up(const export_job *j) {
    char message[1024], origin[256];
    snprintf(message, sizeof message, "%s", yx_message());
    snprintf(origin, sizeof origin, "%s", yx_message_origin());
    if (j->folder) yx_remove_tree(j->folder);
    yx_set_message(message, origin);
}

yx_status export_run(const export_options *options, export_report *report) {
    yx_status status = YX_OK;
    export_job *j = calloc(1, sizeof *j);
    *report = (export_report){0};
    if (!j) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    j->options = options;
    YX_CHECK(load_checkpoint(options->checkpoint, &j->source, &j->config));
    YX_CHECK(param_table_create(&j->config.model, 1, 0, &j->table));
    YX_CHECK(check_output(options));
    j->values = malloc((size_t)j->table.elements * sizeof *j->values);
    if (!j->values) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %lld parameters", (long long)j->table.parameters);
    YX_CHECK(load_parameters(j->source, &j->table, j->values));
    size_t length = strlen(options->output); // without slashes at its end
    while (length > 1 && options->output[length - 1] == '/') length--;
    YX_CHECK(yx_format(&j->folder, "%.*s.tmp-%ld", (int)length, options->output, (long)getpid()));
    YX_CHECK(yx_make_dirs(j->folder));
    YX_CHECK(write_weights(j, report));
    YX_CHECK(write_texts(j));
    YX_CHECK(publish(j));
    snprintf(report->checkpoint, sizeof report->checkpoint, "%s", checkpoint_path(j->source));
    report->step = json_integer_value(json_object_get(checkpoint_meta(j->source), "step"));
fail:
    if (status != YX_OK) clean_up(j);
    checkpoint_close(j->source);
    param_table_free(&j->table);
    free(j->values);
    free(j->tensors);
    free(j->folder);
    free(j);
    return status;
}

#include "io/shard_manifest.h"
#include "common/file.h"
#include <stdlib.h>
#include <string.h>

static const size_t max_manifest = 256u << 20;

const char *manifest_split_name(int split) { return split == MANIFEST_TRAIN ? "train" : "validation"; }

int manifest_split_index(const char *name) {
    for (int i = 0; i < MANIFEST_SPLITS; i++)
        if (strcmp(name, manifest_split_name(i)) == 0) return i;
    return -1;
}

void manifest_free(shard_manifest *m) {
    for (int i = 0; i < MANIFEST_SPLITS; i++) free(m->splits[i].shards);
    memset(m, 0, sizeof *m);
}

yx_status manifest_add_shard(manifest_split *split, const manifest_shard *shard) {
    manifest_shard *grown = realloc(split->shards, (size_t)(split->n_shards + 1) * sizeof *grown);
    if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a list of shards");
    split->shards = grown;
    split->shards[split->n_shards++] = *shard;
    if (__builtin_add_overflow(split->num_tokens, shard->num_tokens, &split->num_tokens) ||
        __builtin_add_overflow(split->num_docs, shard->num_docs, &split->num_docs) ||
        __builtin_add_overflow(split->num_bytes, shard->num_bytes, &split->num_bytes))
        return yx_fail(YX_ERR_DATA, "the shards' counts add up to more than 2^63");
    return YX_OK;
}

// --- Reading --------------------------------------------------------------------------------------------------------
static yx_status get_integer(const json_t *object, const char *path, const char *name, int64_t min, int64_t max,
                             int64_t *out) {
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value)) return yx_fail(YX_ERR_DATA, "%s: \"%s\" is not a whole number", path, name);
    *out = json_integer_value(value);
    if (*out < min || *out > max)
        return yx_fail(YX_ERR_DATA, "%s: \"%s\" is %lld, outside %lld … %lld", path, name, (long long)*out,
                       (long long)min, (long long)max);
    return YX_OK;
}

static yx_status get_text(const json_t *object, const char *path, const char *name, char *out, size_t capacity) {
    const json_t *value = json_object_get(object, name);
    if (!json_is_string(value)) return yx_fail(YX_ERR_DATA, "%s: \"%s\" is not text", path, name);
    if (json_string_length(value) >= capacity) return yx_fail(YX_ERR_DATA, "%s: \"%s\" is too long", path, name);
    strcpy(out, json_string_value(value));
    return YX_OK;
}

static yx_status read_shard(const json_t *object, const char *path, manifest_split *split) {
    yx_status status = YX_OK;
    manifest_shard s;
    memset(&s, 0, sizeof s);
    YX_CHECK(get_text(object, path, "file", s.file, sizeof s.file));
    if (!s.file[0] || strchr(s.file, '/') || s.file[0] == '.')
        YX_FAIL(YX_ERR_DATA, "%s: '%s' is not the name of a shard in this folder", path, s.file);
    YX_CHECK(get_text(object, path, "sha256", s.sha256, sizeof s.sha256));
    YX_CHECK(get_integer(object, path, "file_bytes", 1, INT64_MAX, &s.file_bytes));
    YX_CHECK(get_integer(object, path, "n_tokens", 1, s.file_bytes / 4, &s.num_tokens));
    YX_CHECK(get_integer(object, path, "n_docs", 1, s.num_tokens, &s.num_docs));
    YX_CHECK(get_integer(object, path, "n_bytes", 0, INT64_MAX, &s.num_bytes));
    YX_CHECK(manifest_add_shard(split, &s));
fail:
    return status;
}

static yx_status read_split(const json_t *splits, const char *path, int index, manifest_split *split) {
    yx_status status = YX_OK;
    const char *name = manifest_split_name(index);
    const json_t *object = json_object_get(splits, name), *shards = json_object_get(object, "shards");
    if (!json_is_array(shards)) YX_FAIL(YX_ERR_DATA, "%s: \"splits\" has no list of shards for \"%s\"", path, name);
    for (size_t i = 0; i < json_array_size(shards); i++) YX_CHECK(read_shard(json_array_get(shards, i), path, split));
    int64_t total;
    YX_CHECK(get_integer(object, path, "n_tokens", 0, INT64_MAX, &total));
    if (total != split->num_tokens)
        YX_FAIL(YX_ERR_DATA, "%s: the shards of \"%s\" have %lld tokens, \"n_tokens\" says %lld", path, name,
                (long long)split->num_tokens, (long long)total);
fail:
    return status;
}

static yx_status read_root(const json_t *root, const char *path, shard_manifest *m) {
    yx_status status = YX_OK;
    char format[64];
    int64_t value = 0;
    YX_CHECK(get_text(root, path, "format", format, sizeof format));
    if (strcmp(format, MANIFEST_FORMAT) != 0)
        YX_FAIL(YX_ERR_DATA, "%s does not describe a data set: its format is \"%s\"", path, format);
    YX_CHECK(get_integer(root, path, "version", 0, INT64_MAX, &value));
    if (value != MANIFEST_VERSION)
        YX_FAIL(YX_ERR_DATA, "%s has version %lld; this program reads version %d", path, (long long)value,
                MANIFEST_VERSION);
    const json_t *tokenizer = json_object_get(root, "tokenizer");
    YX_CHECK(get_text(tokenizer, path, "name", m->tokenizer_name, sizeof m->tokenizer_name));
    YX_CHECK(get_text(tokenizer, path, "sha256", m->tokenizer_sha256, sizeof m->tokenizer_sha256));
    YX_CHECK(get_integer(tokenizer, path, "vocab_size", 1, INT32_MAX, &value));
    m->vocab_size = (uint32_t)value;
    YX_CHECK(get_integer(tokenizer, path, "eot_id", 0, (int64_t)m->vocab_size - 1, &value));
    m->eot_id = (uint32_t)value;
    for (int i = 0; i < MANIFEST_SPLITS; i++)
        YX_CHECK(read_split(json_object_get(root, "splits"), path, i, &m->splits[i]));
fail:
    return status;
}

yx_status manifest_read(const char *dir, shard_manifest *m) {
    yx_status status = YX_OK;
    char *path = NULL, *text = NULL;
    size_t size;
    json_error_t error;
    json_t *root = NULL;
    memset(m, 0, sizeof *m);
    YX_CHECK(yx_format(&path, "%s/" MANIFEST_NAME, dir));
    if (!yx_path_is_dir(dir)) YX_FAIL(YX_ERR_IO, "there is no folder %s: `yxanul prepare` makes a data set", dir);
    if (!yx_path_exists(path))
        YX_FAIL(YX_ERR_DATA, "%s is not a data set: it has no " MANIFEST_NAME " (`yxanul prepare` makes one)", dir);
    YX_CHECK(yx_read_file(path, max_manifest, &text, &size));
    root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!root) YX_FAIL(YX_ERR_DATA, "%s:%d: not valid JSON: %s", path, error.line, error.text);
    YX_CHECK(read_root(root, path, m));
    YX_CHECK(yx_sha256(text, size, m->sha256));
fail:
    json_decref(root);
    free(text);
    free(path);
    return status;
}

bool manifest_is_dataset(const char *dir) {
    char *path = NULL, *text = NULL;
    size_t size;
    bool found = yx_format(&path, "%s/" MANIFEST_NAME, dir) == YX_OK &&
                 yx_read_file(path, max_manifest, &text, &size) == YX_OK && strstr(text, "\"" MANIFEST_FORMAT "\"");
    free(text);
    free(path);
    return found;
}

// --- Writing --------------------------------------------------------------------------------------------------------
static json_t *split_to_json(const manifest_split *split) {
    json_t *shards = json_array();
    for (int i = 0; i < split->n_shards; i++) {
        const manifest_shard *s = &split->shards[i];
        json_array_append_new(shards,
                              json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "file", s->file, "sha256", s->sha256,
                                        "file_bytes", (json_int_t)s->file_bytes, "n_tokens", (json_int_t)s->num_tokens,
                                        "n_docs", (json_int_t)s->num_docs, "n_bytes", (json_int_t)s->num_bytes));
    }
    return json_pack("{s:I, s:I, s:I, s:o}", "n_tokens", (json_int_t)split->num_tokens, "n_docs",
                     (json_int_t)split->num_docs, "n_bytes", (json_int_t)split->num_bytes, "shards", shards);
}

static json_t *to_json(const shard_manifest *m) {
    json_t *splits = json_object();
    for (int i = 0; i < MANIFEST_SPLITS; i++)
        json_object_set_new(splits, manifest_split_name(i), split_to_json(&m->splits[i]));
    return json_pack("{s:s, s:i, s:s, s:{s:s, s:s, s:I, s:I}, s:o}", "format", MANIFEST_FORMAT, "version",
                     MANIFEST_VERSION, "writer", "yxanul " YX_VERSION, "tokenizer", "name", m->tokenizer_name, "sha256",
                     m->tokenizer_sha256, "vocab_size", (json_int_t)m->vocab_size, "eot_id", (json_int_t)m->eot_id,
                     "splits", splits);
}

yx_status manifest_write(const char *dir, const shard_manifest *m, const json_t *details) {
    yx_status status = YX_OK;
    char *path = NULL, *text = NULL;
    json_t *root = to_json(m);
    if (!root || json_object_update_missing(root, (json_t *)details) != 0)
        YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the manifest of %s", dir);
    text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text) YX_FAIL(YX_ERR_INTERNAL, "the manifest of %s cannot be written as JSON", dir);
    YX_CHECK(yx_format(&path, "%s/" MANIFEST_NAME, dir));
    YX_CHECK(yx_write_file_atomic(path, text, strlen(text)));
fail:
    json_decref(root);
    free(text);
    free(path);
    return status;
}

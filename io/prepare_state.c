#include "io/prepare_state.h"
#include "common/file.h"
#include "io/prepare_folder.h"
#include "io/shard_file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_VERSION = 1 };
#define STATE_FORMAT "yxanul-prepare"
static const size_t max_state = 1u << 30;

// --- Documents that wait --------------------------------------------------------------------------------------------
yx_status prepare_state_hold(prepare_state *s, const encode_job *doc) {
    held_document *grown = realloc(s->held, (size_t)(s->n_held + 1) * sizeof *grown);
    uint32_t *ids = malloc(doc->count * sizeof *ids + 1);
    if (grown) s->held = grown;
    if (!grown || !ids) {
        free(ids);
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for a document of %zu tokens", doc->count);
    }
    if (doc->count > 0) memcpy(ids, doc->ids, doc->count * sizeof *ids);
    held_document *h = &s->held[s->n_held++];
    h->job = *doc;
    h->job.ids = ids;
    h->job.text = NULL;
    return YX_OK;
}

void prepare_state_release(prepare_state *s, int index) {
    free(s->held[index].job.ids);
    s->n_held--;
    memmove(&s->held[index], &s->held[index + 1], (size_t)(s->n_held - index) * sizeof *s->held);
}

void prepare_state_free(prepare_state *s) {
    for (int i = 0; i < s->n_held; i++) free(s->held[i].job.ids);
    for (int i = 0; i < MANIFEST_SPLITS; i++) free(s->splits[i].shards);
    free(s->held);
    memset(s, 0, sizeof *s);
}

// --- Writing --------------------------------------------------------------------------------------------------------
// 64-bit hashes are kept as signed integers: JSON libraries know those.
static json_t *held_to_json(const encode_job *d) {
    json_t *ids = json_array();
    for (size_t i = 0; i < d->count; i++) json_array_append_new(ids, json_integer(d->ids[i]));
    return json_pack("{s:I, s:I, s:I, s:o, s:o}", "bytes", (json_int_t)d->size, "chars", (json_int_t)d->chars,
                     "source_hash", (json_int_t)d->source_hash, "score",
                     isnan(d->score) ? json_null() : json_real((double)d->score), "ids", ids);
}

json_t *prepare_state_to_json(const prepare_state *s, const json_t *identity) {
    json_t *held = json_array(), *dropped = json_array();
    for (int i = 0; i < s->n_held; i++) json_array_append_new(held, held_to_json(&s->held[i].job));
    for (int i = 0; i < PREPARE_DROPS; i++) json_array_append_new(dropped, json_integer(s->dropped[i]));
    return json_pack("{s:s, s:i, s:O, s:I, s:I, s:I, s:o, s:I, s:I, s:o}", "format", STATE_FORMAT, "version",
                     STATE_VERSION, "identity", (json_t *)identity, "documents", (json_int_t)s->position.documents,
                     "digest", (json_int_t)s->position.digest, "chars", (json_int_t)s->chars, "dropped", dropped,
                     "near_documents", (json_int_t)s->near_documents, "held_rank", (json_int_t)s->held_rank, "held",
                     held);
}

json_t *prepare_state_shard_to_json(const manifest_shard *e) {
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "file", e->file, "sha256", e->sha256, "file_bytes",
                     (json_int_t)e->file_bytes, "n_tokens", (json_int_t)e->num_tokens, "n_docs",
                     (json_int_t)e->num_docs, "n_bytes", (json_int_t)e->num_bytes);
}

yx_status prepare_state_write(const char *folder, const json_t *state) {
    yx_status status = YX_OK;
    char *path = NULL, *text = json_dumps(state, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (!text) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the state of %s", folder);
    YX_CHECK(yx_format(&path, "%s/" PREPARE_STATE_NAME, folder));
    YX_CHECK(yx_write_file_atomic(path, text, strlen(text)));
fail:
    free(path);
    free(text);
    return status;
}

// --- Reading --------------------------------------------------------------------------------------------------------
static yx_status damaged(const char *path, const char *name) {
    return yx_fail(YX_ERR_DATA, "%s is damaged (\"%s\"): start anew with --restart", path, name);
}

static yx_status get(const json_t *object, const char *path, const char *name, int64_t *out) {
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value)) return damaged(path, name);
    *out = json_integer_value(value);
    return YX_OK;
}

static yx_status read_held(const json_t *object, const char *path, prepare_state *s) {
    yx_status status = YX_OK;
    encode_job doc = {.score = NAN};
    const json_t *ids = json_object_get(object, "ids"), *score = json_object_get(object, "score");
    int64_t bytes = 0, hash = 0;
    YX_CHECK(get(object, path, "bytes", &bytes));
    YX_CHECK(get(object, path, "chars", &doc.chars));
    YX_CHECK(get(object, path, "source_hash", &hash));
    doc.size = (size_t)bytes;
    doc.source_hash = (uint64_t)hash;
    if (json_is_number(score)) doc.score = (float)json_number_value(score);
    doc.count = json_array_size(ids);
    doc.ids = malloc(doc.count * sizeof *doc.ids + 1);
    if (!doc.ids) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %s", path);
    for (size_t i = 0; i < doc.count; i++) doc.ids[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    YX_CHECK(prepare_state_hold(s, &doc));
fail:
    free(doc.ids);
    return status;
}

static yx_status read_shard(const json_t *object, const char *folder, const char *path, manifest_split *split) {
    yx_status status = YX_OK;
    manifest_shard e = {0};
    shard_file f = {.fd = -1};
    char *shard = NULL;
    const char *file = json_string_value(json_object_get(object, "file"));
    const char *sha256 = json_string_value(json_object_get(object, "sha256"));
    if (!file || strlen(file) >= sizeof e.file || strchr(file, '/')) return damaged(path, "file");
    if (!sha256 || strlen(sha256) >= sizeof e.sha256) return damaged(path, "sha256");
    strcpy(e.file, file);
    strcpy(e.sha256, sha256);
    YX_CHECK(get(object, path, "file_bytes", &e.file_bytes));
    YX_CHECK(get(object, path, "n_tokens", &e.num_tokens));
    YX_CHECK(get(object, path, "n_docs", &e.num_docs));
    YX_CHECK(get(object, path, "n_bytes", &e.num_bytes));
    YX_CHECK(yx_format(&shard, "%s/%s", folder, e.file));
    YX_CHECK(yx_context(shard_file_open(shard, &f), "going on with %s (--restart starts anew)", folder));
    if (f.file_bytes != e.file_bytes || f.num_tokens != e.num_tokens || f.num_docs != e.num_docs)
        YX_FAIL(YX_ERR_DATA, "%s is not the shard that was written: start anew with --restart", shard);
    YX_CHECK(manifest_add_shard(split, &e));
fail:
    shard_file_close(&f);
    free(shard);
    return status;
}

static yx_status read_lists(const json_t *root, const char *folder, const char *path, prepare_state *s) {
    yx_status status = YX_OK;
    const json_t *held = json_object_get(root, "held"), *dropped = json_object_get(root, "dropped");
    if (json_array_size(dropped) != PREPARE_DROPS) return damaged(path, "dropped");
    for (size_t i = 0; i < PREPARE_DROPS; i++) s->dropped[i] = json_integer_value(json_array_get(dropped, i));
    for (size_t i = 0; i < json_array_size(held); i++) YX_CHECK(read_held(json_array_get(held, i), path, s));
    for (int k = 0; k < MANIFEST_SPLITS; k++) {
        const json_t *shards = json_object_get(json_object_get(root, "splits"), manifest_split_name(k));
        for (size_t i = 0; i < json_array_size(shards); i++)
            YX_CHECK(read_shard(json_array_get(shards, i), folder, path, &s->splits[k]));
    }
fail:
    return status;
}

static yx_status read_numbers(const json_t *root, const char *path, prepare_state *s) {
    yx_status status = YX_OK;
    int64_t digest = 0, rank = 0;
    YX_CHECK(get(root, path, "documents", &s->position.documents));
    YX_CHECK(get(root, path, "digest", &digest));
    YX_CHECK(get(root, path, "chars", &s->chars));
    YX_CHECK(get(root, path, "near_documents", &s->near_documents));
    YX_CHECK(get(root, path, "held_rank", &rank));
    s->position.digest = (uint64_t)digest;
    s->held_rank = (uint64_t)rank;
    if (s->position.documents < 0 || s->near_documents < 0) status = damaged(path, "documents");
fail:
    return status;
}

// The deepest name whose values differ.
static const char *difference(const json_t *a, const json_t *b) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)a, name, value) {
        const json_t *other = json_object_get(b, name);
        if (json_equal(value, other)) continue;
        return json_is_object(value) && json_is_object(other) ? difference(value, other) : name;
    }
    return "writer";
}

static yx_status read_root(const json_t *root, const char *folder, const char *path, const json_t *identity,
                           prepare_state *s) {
    yx_status status = YX_OK;
    const char *format = json_string_value(json_object_get(root, "format"));
    const json_t *theirs = json_object_get(root, "identity");
    if (!format || strcmp(format, STATE_FORMAT) != 0) return damaged(path, "format");
    // A document id or text that is new to the format must not pass: the version is part of what is compared.
    if (json_integer_value(json_object_get(root, "version")) != STATE_VERSION || !json_equal(identity, theirs))
        return yx_fail(YX_ERR_USAGE,
                       "%s was begun with other settings (\"%s\" differs): give the same ones to go on, or start anew "
                       "with --restart",
                       folder, difference(identity, theirs));
    YX_CHECK(read_numbers(root, path, s));
    YX_CHECK(read_lists(root, folder, path, s));
fail:
    return status;
}

yx_status prepare_state_read(const char *folder, const json_t *identity, prepare_state *s) {
    yx_status status = YX_OK;
    char *path = NULL, *text = NULL;
    size_t size;
    json_error_t error;
    json_t *root = NULL;
    memset(s, 0, sizeof *s);
    YX_CHECK(yx_format(&path, "%s/" PREPARE_STATE_NAME, folder));
    YX_CHECK(yx_read_file(path, max_state, &text, &size));
    root = json_loadb(text, size, 0, &error);
    if (!root) YX_FAIL(YX_ERR_DATA, "%s is damaged (%s): start anew with --restart", path, error.text);
    YX_CHECK(read_root(root, folder, path, identity, s));
fail:
    json_decref(root);
    free(text);
    free(path);
    return status;
}

#include "cli/tokenizer_train_text.h"
#include "common/file.h"
#include "io/corpus_files.h"
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static yx_status set_path(train_files *f, const char *path) {
    f->paths[f->n_paths] = strcmp(path, "-") == 0 ? strdup(path) : realpath(path, NULL);
    if (!f->paths[f->n_paths]) return yx_fail_errno("cannot find %s", path);
    f->n_paths++;
    return YX_OK;
}

static yx_status rewind_files(void *context) {
    train_files *f = context;
    corpus_close(f->corpus);
    f->corpus = NULL;
    f->bytes = 0;
    return corpus_open((const char *const *)f->paths, f->n_paths, NULL, &f->corpus);
}

yx_status train_files_open(const char *const *paths, int n_paths, int64_t max_bytes, train_files *f) {
    yx_status status = YX_OK;
    *f = (train_files){.paths = calloc((size_t)n_paths + 1, sizeof *f->paths), .max_bytes = max_bytes};
    if (!f->paths) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d paths", n_paths);
    for (int i = 0; i < n_paths; i++) YX_CHECK(set_path(f, paths[i]));
    YX_CHECK(rewind_files(f));
fail:
    return status;
}

// --- Provenance ------------------------------------------------------------------------------------------------------

static yx_status add_file(json_t *list, const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) return yx_fail_errno("cannot find %s", path);
    int64_t time = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "path", path, "bytes", (json_int_t)info.st_size,
                                          "modified_ns", (json_int_t)time));
    return YX_OK;
}

static bool has_standard_input(const train_files *f) {
    for (int i = 0; i < f->n_paths; i++)
        if (strcmp(f->paths[i], "-") == 0) return true;
    return false;
}

yx_status train_files_source(const train_files *f, char **out) {
    yx_status status = YX_OK;
    corpus_file_list files = {0};
    json_t *paths = json_array(), *list = json_array();
    *out = NULL;
    if (has_standard_input(f)) goto fail;
    YX_CHECK(corpus_files_expand((const char *const *)f->paths, f->n_paths, &files));
    for (int i = 0; i < f->n_paths; i++) json_array_append_new(paths, json_string(f->paths[i]));
    for (size_t i = 0; i < files.count; i++) YX_CHECK(add_file(list, files.items[i].path));
    json_t *source = json_pack("{s:O, s:O, s:I}", "paths", paths, "files", list, "max_bytes", (json_int_t)f->max_bytes);
    *out = source ? json_dumps(source, JSON_COMPACT) : NULL;
    json_decref(source);
    if (!*out) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the names of %zu files", files.count);
fail:
    corpus_files_free(&files);
    json_decref(paths);
    json_decref(list);
    return status;
}

yx_status train_files_reopen(const char *source, train_files *f) {
    yx_status status = YX_OK;
    json_t *root = json_loads(source, 0, NULL);
    const json_t *paths = json_object_get(root, "paths");
    int n = (int)json_array_size(paths);
    const char **list = calloc((size_t)n + 1, sizeof *list);
    if (!list) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d paths", n);
    for (int i = 0; i < n; i++) {
        list[i] = json_string_value(json_array_get(paths, (size_t)i));
        if (!list[i]) YX_FAIL(YX_ERR_DATA, "the earlier run names no text: name it with --input");
    }
    YX_CHECK(train_files_open(list, n, json_integer_value(json_object_get(root, "max_bytes")), f));
fail:
    free(list);
    json_decref(root);
    return status;
}

// --- Documents -------------------------------------------------------------------------------------------------------

static yx_status next_document(void *context, const char **text, size_t *size) {
    train_files *f = context;
    corpus_document d;
    *text = NULL;
    *size = 0;
    if (f->max_bytes > 0 && f->bytes >= f->max_bytes) return YX_OK;
    yx_status status = corpus_next(f->corpus, &d);
    if (status != YX_OK || !d.text) return status;
    f->bytes += (int64_t)d.size;
    *text = d.text;
    *size = d.size;
    return YX_OK;
}

bpe_documents train_files_documents(train_files *f) {
    return (bpe_documents){next_document, has_standard_input(f) ? NULL : rewind_files, f};
}

void train_files_close(train_files *f) {
    corpus_close(f->corpus);
    for (int i = 0; i < f->n_paths; i++) free(f->paths[i]);
    free(f->paths);
    *f = (train_files){0};
}

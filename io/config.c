#include "io/config.h"
#include "common/file.h"
#include "io/config_check.h"
#include "io/config_read.h"
#include "io/config_set.h"
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

static const char mark[] = "{tokenizer}";

// The folder's name: "superbpe-t80k" of tokenizers/superbpe-t80k/ and of tokenizers/superbpe-t80k/tokenizer.json.
static yx_status tokenizer_name(const config_node *root, const char *tokenizer, char name[CONFIG_MAX_TEXT]) {
    char copy[CONFIG_MAX_TEXT];
    size_t n = strlen(tokenizer);
    strcpy(copy, tokenizer);
    bool is_file = n > 5 && strcmp(copy + n - 5, ".json") == 0;
    strcpy(name, basename(is_file ? dirname(copy) : copy));
    if (strcmp(name, ".") && strcmp(name, "..") && strcmp(name, "/")) return YX_OK;
    return config_node_fail(config_node_find(root, "data.tokenizer"),
                            "data.path contains %s, but data.tokenizer ('%.200s') names no folder", mark, tokenizer);
}

static yx_status no_braces(const config_node *root, const char *key, const char *text) {
    if (!strpbrk(text, "{}")) return YX_OK;
    return config_node_fail(config_node_find(root, key), "%s contains a brace; only %s, once in data.path, is replaced",
                            key, mark);
}

// Replaces "{tokenizer}" in data.path.
static yx_status expand_path(const config_node *root, config_data *data) {
    yx_status status = YX_OK;
    char name[CONFIG_MAX_TEXT], *expanded = NULL, *at = strstr(data->path, mark);
    YX_CHECK(no_braces(root, "data.tokenizer", data->tokenizer));
    if (at) {
        YX_CHECK(tokenizer_name(root, data->tokenizer, name));
        *at = 0;
        YX_CHECK(yx_format(&expanded, "%s%s%s", data->path, name, at + strlen(mark)));
        if (strlen(expanded) >= CONFIG_MAX_TEXT) {
            status = config_node_fail(config_node_find(root, "data.path"), "data.path is longer than %d bytes",
                                      CONFIG_MAX_TEXT - 1);
            goto fail;
        }
        memset(data->path, 0, sizeof data->path);
        strcpy(data->path, expanded);
    }
    YX_CHECK(no_braces(root, "data.path", data->path));
fail:
    free(expanded);
    return status;
}

yx_status config_load_text(const char *text, size_t size, const char *name, const char *folder,
                           const char *const *overrides, int n_overrides, yx_config *out) {
    yx_status status = YX_OK;
    config_tree tree = {.folder = folder};
    config_node *root, *model;
    YX_CHECK(config_tree_parse(&tree, text, size, name, &root));
    for (int i = 0; i < n_overrides; i++) YX_CHECK(config_set(&tree, root, overrides[i]));
    model = config_node_get(root, "model");
    if (model && model->kind == CONFIG_SCALAR && !config_node_is_null(model))
        YX_CHECK(config_tree_include(&tree, model));
    YX_CHECK(config_read(root, out));
    YX_CHECK(expand_path(root, &out->data));
    YX_CHECK(config_check(root, out));
fail:
    config_tree_free(&tree);
    return status;
}

yx_status config_load(const char *path, const char *const *overrides, int n_overrides, yx_config *out) {
    yx_status status = YX_OK;
    char *text = NULL, *folder = strdup(path);
    size_t size;
    if (!folder) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    status = yx_read_file(path, CONFIG_MAX_FILE, &text, &size);
    if (status != YX_OK && status != YX_ERR_NO_MEMORY) status = yx_context(YX_ERR_CONFIG, "the configuration");
    YX_CHECK(status);
    YX_CHECK(config_load_text(text, size, path, dirname(folder), overrides, n_overrides, out));
fail:
    free(text);
    free(folder);
    return status;
}

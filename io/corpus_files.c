#include "io/corpus_files.h"
#include "common/file.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 64 }; // deeper than any real folder: a loop of links

static bool ends_with(const char *name, size_t size, const char *ending) {
    size_t n = strlen(ending);
    return size > n && strncasecmp(name + size - n, ending, n) == 0;
}

corpus_file_kind corpus_file_kind_of(const char *name) {
    static const char *const packed[] = {".gz", ".zst", ".zstd"};
    size_t size = strlen(name);
    bool compressed = false;
    for (size_t i = 0; i < sizeof packed / sizeof *packed && !compressed; i++) {
        compressed = ends_with(name, size, packed[i]);
        if (compressed) size -= strlen(packed[i]);
    }
    if (ends_with(name, size, ".jsonl") || ends_with(name, size, ".ndjson")) return CORPUS_FILE_JSONL;
    // A bare .json in a folder is more often a settings file than a corpus.
    if (compressed && ends_with(name, size, ".json")) return CORPUS_FILE_JSONL;
    if (ends_with(name, size, ".txt") || ends_with(name, size, ".text") || ends_with(name, size, ".md"))
        return CORPUS_FILE_TEXT;
    return CORPUS_FILE_UNKNOWN;
}

static yx_status add(corpus_file_list *list, const char *path, corpus_file_kind kind, int64_t bytes) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 16;
        corpus_file *grown = realloc(list->items, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a list of files");
        list->items = grown;
        list->capacity = capacity;
    }
    char *copy = strdup(path);
    if (!copy) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a list of files");
    list->items[list->count++] = (corpus_file){copy, kind};
    list->bytes = bytes < 0 || list->bytes < 0 ? -1 : list->bytes + bytes;
    return YX_OK;
}

static int visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }
static int by_bytes(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static yx_status add_folder(corpus_file_list *list, const char *folder, int depth);

static yx_status add_entry(corpus_file_list *list, const char *folder, const char *name, int depth) {
    yx_status status = YX_OK;
    char *path = NULL;
    struct stat info;
    YX_CHECK(yx_format(&path, "%s/%s", folder, name));
    if (stat(path, &info) != 0) {
        status = yx_fail_errno("cannot read %s", path);
        goto fail;
    }
    if (S_ISDIR(info.st_mode)) status = add_folder(list, path, depth + 1);
    else if (S_ISREG(info.st_mode) && corpus_file_kind_of(name) != CORPUS_FILE_UNKNOWN)
        status = add(list, path, corpus_file_kind_of(name), info.st_size);
fail:
    free(path);
    return status;
}

static yx_status add_folder(corpus_file_list *list, const char *folder, int depth) {
    struct dirent **entries;
    if (depth > MAX_DEPTH) return yx_fail(YX_ERR_DATA, "%s: folders nested too deep (a loop of links?)", folder);
    int n = scandir(folder, &entries, visible, by_bytes);
    if (n < 0) return yx_fail_errno("cannot read the folder %s", folder);
    yx_status status = YX_OK;
    for (int i = 0; i < n; i++) {
        if (status == YX_OK) status = add_entry(list, folder, entries[i]->d_name, depth);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static yx_status add_path(corpus_file_list *list, const char *path) {
    struct stat info;
    if (strcmp(path, "-") == 0) return add(list, path, CORPUS_FILE_JSONL, -1);
    if (stat(path, &info) != 0) return yx_fail_errno("cannot read the input %s", path);
    if (!S_ISDIR(info.st_mode)) {
        corpus_file_kind kind = corpus_file_kind_of(path);
        bool regular = S_ISREG(info.st_mode); // a pipe has no size
        return add(list, path, kind == CORPUS_FILE_TEXT ? kind : CORPUS_FILE_JSONL, regular ? info.st_size : -1);
    }
    size_t before = list->count;
    yx_status status = add_folder(list, path, 0);
    if (status == YX_OK && list->count == before)
        status =
            yx_fail(YX_ERR_DATA, "the folder %s holds no .jsonl, .ndjson, .txt or .md file (also .gz, .zst)", path);
    return status;
}

yx_status corpus_files_expand(const char *const *paths, int n_paths, corpus_file_list *out) {
    yx_status status = YX_OK;
    memset(out, 0, sizeof *out);
    if (n_paths < 1) YX_FAIL(YX_ERR_USAGE, "no input was named");
    for (int i = 0; i < n_paths; i++) YX_CHECK(add_path(out, paths[i]));
    return YX_OK;
fail:
    corpus_files_free(out);
    return status;
}

void corpus_files_free(corpus_file_list *list) {
    for (size_t i = 0; i < list->count; i++) free(list->items[i].path);
    free(list->items);
    memset(list, 0, sizeof *list);
}

#include "io/prepare_folder.h"
#include "common/file.h"
#include "common/log.h"
#include "io/shard_manifest.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const size_t max_tokenizer_file = 1u << 30;

static int is_entry(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static bool is_empty_dir(const char *path) {
    struct dirent **entries;
    int n = scandir(path, &entries, is_entry, NULL);
    for (int i = 0; i < n; i++) free(entries[i]);
    if (n >= 0) free(entries);
    return n == 0;
}

static bool has(const char *folder, const char *name) {
    char *path = NULL;
    bool exists = yx_format(&path, "%s/%s", folder, name) == YX_OK && yx_path_exists(path);
    free(path);
    return exists;
}

static yx_status check_target(const prepare_folder *f) {
    if (!yx_path_exists(f->final)) return YX_OK;
    if (!yx_path_is_dir(f->final)) return yx_fail(YX_ERR_USAGE, "the output %s is a file", f->final);
    bool is_dataset = has(f->final, MANIFEST_NAME);
    if (is_dataset && !f->force)
        return yx_fail(YX_ERR_USAGE, "%s already holds a data set: name another folder, or replace it with --force",
                       f->final);
    if (!is_dataset && !is_empty_dir(f->final))
        return yx_fail(YX_ERR_USAGE, "%s is neither empty nor a data set: name another folder", f->final);
    return YX_OK;
}

static yx_status name_folders(prepare_folder *f, const char *output) {
    f->final = strdup(output);
    if (!f->final) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    for (size_t n = strlen(f->final); n > 1 && f->final[n - 1] == '/'; n--) f->final[n - 1] = 0;
    if (!f->final[0]) return yx_fail(YX_ERR_USAGE, "the output folder has no name");
    return yx_format(&f->partial, "%s.partial", f->final);
}

static yx_status hold(prepare_folder *f) {
    bool taken;
    yx_status status = yx_hold_folder(f->partial, &f->lock, &taken);
    if (status != YX_OK || !taken) return status;
    return yx_fail(YX_ERR_USAGE, "another process is preparing %s", f->final);
}

static yx_status empty(const char *folder) {
    struct dirent **entries;
    char *path = NULL;
    yx_status status = YX_OK;
    int n = scandir(folder, &entries, is_entry, NULL);
    if (n < 0) return yx_fail_errno("cannot read %s", folder);
    for (int i = 0; i < n; i++) {
        if (status == YX_OK) status = yx_format(&path, "%s/%s", folder, entries[i]->d_name);
        if (status == YX_OK) status = yx_remove_tree(path);
        free(path);
        path = NULL;
        free(entries[i]);
    }
    free(entries);
    return status;
}

yx_status prepare_folder_open(const char *output, bool force, bool restart, prepare_folder *out, bool *resumes) {
    yx_status status = YX_OK;
    *out = (prepare_folder){.lock = -1, .force = force};
    YX_CHECK(name_folders(out, output));
    YX_CHECK(check_target(out));
    YX_CHECK(yx_make_dirs(out->partial));
    YX_CHECK(hold(out));
    *resumes = has(out->partial, PREPARE_STATE_NAME);
    if (!*resumes && !is_empty_dir(out->partial))
        YX_FAIL(YX_ERR_USAGE, "%s is in the way: it was not made by `yxanul prepare`", out->partial);
    out->ours = true;
    if (*resumes && restart) {
        YX_CHECK(empty(out->partial));
        *resumes = false;
    }
fail:
    return status;
}

static yx_status fsync_parent(const char *path) {
    char *copy = strdup(path);
    if (!copy) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    yx_status status = yx_fsync_path(dirname(copy));
    free(copy);
    return status;
}

static yx_status rename_over(const char *from, const char *to) {
    return rename(from, to) == 0 ? YX_OK : yx_fail_errno("cannot rename %s to %s", from, to);
}

// With --force the old data set steps aside for the moment of the rename.
yx_status prepare_folder_publish(prepare_folder *f) {
    yx_status status = YX_OK;
    char *old = NULL;
    bool replaces = f->force && has(f->final, MANIFEST_NAME);
    YX_CHECK(yx_format(&old, "%s.old-%ld", f->final, (long)getpid()));
    if (replaces) YX_CHECK(rename_over(f->final, old));
    status = rename_over(f->partial, f->final);
    f->published = status == YX_OK;
    if (status != YX_OK && replaces && rename(old, f->final) != 0) yx_warn("the old data set is now %s", old);
    if (status == YX_OK && replaces) status = yx_remove_tree(old);
    if (status == YX_OK) status = fsync_parent(f->final);
fail:
    free(old);
    return status;
}

static void remove_partial(const prepare_folder *f) {
    char message[2048], origin[256];
    snprintf(message, sizeof message, "%s", yx_message());
    snprintf(origin, sizeof origin, "%s", yx_message_origin());
    if (yx_remove_tree(f->partial) != YX_OK) yx_warn("%s", yx_message());
    yx_set_message(message, origin);
}

void prepare_folder_close(prepare_folder *f, bool keep) {
    if (f->ours && !f->published && !keep) remove_partial(f);
    if (f->lock >= 0) close(f->lock);
    free(f->final);
    free(f->partial);
    *f = (prepare_folder){.lock = -1};
}

static yx_status copy_file(const char *from, const char *folder, const char *name) {
    yx_status status = YX_OK;
    char *path = NULL, *data = NULL;
    size_t size;
    YX_CHECK(yx_format(&path, "%s/%s", folder, name));
    YX_CHECK(yx_read_file(from, max_tokenizer_file, &data, &size));
    YX_CHECK(yx_write_file_atomic(path, data, size));
fail:
    free(data);
    free(path);
    return status;
}

yx_status prepare_folder_copy_tokenizer(const prepare_folder *f, const yx_tokenizer *tokenizer) {
    static const char *const names[] = {
        "tokenizer.json",         "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json",
        "special_tokens_map.json"};
    yx_status status = YX_OK;
    const char *from = tokenizer_path(tokenizer);
    char *folder = NULL, *path = NULL;
    YX_CHECK(yx_format(&folder, "%s/tokenizer", f->partial));
    YX_CHECK(yx_make_dirs(folder));
    if (!yx_path_is_dir(from)) {
        status = copy_file(from, folder, "tokenizer.json");
        goto fail;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        free(path);
        YX_CHECK(yx_format(&path, "%s/%s", from, names[i]));
        if (yx_path_exists(path)) YX_CHECK(copy_file(path, folder, names[i]));
    }
fail:
    free(path);
    free(folder);
    return status;
}

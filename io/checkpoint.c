#include "io/checkpoint.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/log.h"
#include "io/checkpoint_state.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECKPOINT_FORMAT "yxanul-checkpoint"
enum { CHECKPOINT_VERSION = 1, MANIFEST_MAX = 64 << 20, MAX_TENSORS = 1 << 20 };
static const int64_t MAX_ELEMENTS = (int64_t)1 << 36;

struct checkpoint {
    char *path;
    json_t *manifest;
    checkpoint_tensor *tensors; // names borrowed from the manifest, sorted; data NULL
    uint32_t *crcs;
    int64_t num_tensors;
};

// --- Folders

// The step of a published checkpoint's name ("step_000001234"), -1 for any other name.
static int64_t step_of(const char *name) {
    if (strncmp(name, "step_", 5) != 0 || !name[5] || strlen(name) > 5 + 18) return -1;
    for (const char *p = name + 5; *p; p++)
        if (!isdigit((unsigned char)*p)) return -1;
    return atoll(name + 5);
}

// What a writer that died left behind.
static bool is_leftover(const char *name) {
    return (strncmp(name, "step_", 5) == 0 || strncmp(name, "LATEST", 6) == 0) && strstr(name, ".tmp-");
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

// Steps of the published checkpoints of `folder`, newest first; to free(). Leftovers of writers that died go to
// `stale`.
static yx_status list_steps(const char *folder, int64_t **steps, size_t *count, bool remove_stale) {
    yx_status status = YX_OK;
    size_t capacity = 0;
    *steps = NULL;
    *count = 0;
    DIR *dir = opendir(folder);
    if (!dir) return errno == ENOENT || errno == ENOTDIR ? YX_OK : yx_fail_errno("cannot read the folder %s", folder);
    for (struct dirent *e; status == YX_OK && (e = readdir(dir));) {
        int64_t step = step_of(e->d_name);
        if (step < 0 && remove_stale && is_leftover(e->d_name)) {
            char *path;
            if ((status = yx_format(&path, "%s/%s", folder, e->d_name)) == YX_OK) status = yx_remove_tree(path);
            free(path);
        }
        if (step < 0 || status != YX_OK) continue;
        if (*count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            int64_t *more = realloc(*steps, capacity * sizeof *more);
            if (!more) status = yx_fail(YX_ERR_NO_MEMORY, "no memory to list %s", folder);
            else *steps = more;
        }
        if (status == YX_OK) (*steps)[(*count)++] = step;
    }
    closedir(dir);
    if (*count) qsort(*steps, *count, sizeof **steps, newest_first);
    if (status != YX_OK) {
        free(*steps);
        *steps = NULL;
    }
    return status;
}

// --- Writing
static yx_status copy_file(const char *from_folder, const char *to_folder, const char *name, bool *found) {
    yx_status status = YX_OK;
    char *from = NULL, *to = NULL, *data = NULL;
    size_t size;
    YX_CHECK(yx_format(&from, "%s/%s", from_folder, name));
    YX_CHECK(yx_format(&to, "%s/%s", to_folder, name));
    *found = yx_path_exists(from);
    if (*found) {
        YX_CHECK(yx_read_file(from, (size_t)1 << 30, &data, &size));
        YX_CHECK(yx_write_file_atomic(to, data, size));
    }
fail:
    free(from);
    free(to);
    free(data);
    return status;
}

// tokenizer.json, or vocab.json and merges.txt, of a folder; or the one file.
static yx_status copy_tokenizer(const char *from, const char *folder) {
    yx_status status = YX_OK;
    char *to = NULL, *file = NULL, *data = NULL;
    size_t size;
    bool found;
    YX_CHECK(yx_format(&to, "%s/tokenizer", folder));
    YX_CHECK(yx_make_dirs(to));
    if (!yx_path_is_dir(from)) {
        YX_CHECK(yx_format(&file, "%s/tokenizer.json", to));
        YX_CHECK(yx_read_file(from, (size_t)1 << 30, &data, &size));
        YX_CHECK(yx_write_file_atomic(file, data, size));
    } else {
        YX_CHECK(copy_file(from, to, "tokenizer.json", &found));
        if (!found) {
            YX_CHECK(copy_file(from, to, "vocab.json", &found));
            YX_CHECK(copy_file(from, to, "merges.txt", &found));
        }
    }
fail:
    free(to);
    free(file);
    free(data);
    return status;
}

static json_t *describe_tensors(const checkpoint_tensor *tensors, const uint32_t *crcs, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; list && i < n; i++) {
        const checkpoint_tensor *t = &tensors[i];
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I}", "name", t->name, "rows", (json_int_t)t->rows,
                                              "cols", (json_int_t)t->cols, "crc32c", (json_int_t)crcs[i]));
    }
    return list;
}

static yx_status write_manifest(const char *folder, const char *state, int64_t step, const checkpoint_tensor *tensors,
                                const uint32_t *crcs, int64_t n, const json_t *meta) {
    yx_status status = YX_OK;
    char *path = NULL, *text = NULL;
    struct stat info;
    json_t *manifest = NULL;
    if (stat(state, &info) != 0) {
        status = yx_fail_errno("cannot stat %s", state);
        goto fail;
    }
    manifest = json_pack("{s:s, s:i, s:I, s:I, s:o, s:O}", "format", CHECKPOINT_FORMAT, "version", CHECKPOINT_VERSION,
                         "step", (json_int_t)step, "state_bytes", (json_int_t)info.st_size, "tensors",
                         describe_tensors(tensors, crcs, n), "run", meta);
    if (manifest) text = json_dumps(manifest, JSON_INDENT(1));
    if (!text) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a manifest");
    YX_CHECK(yx_format(&path, "%s/manifest.json", folder));
    YX_CHECK(yx_write_file_atomic(path, text, strlen(text)));
fail:
    json_decref(manifest);
    free(text);
    free(path);
    return status;
}

// Everything under the temporary name, read back from there.
static yx_status write_folder(const char *folder, int64_t step, const checkpoint_tensor *tensors, int64_t n,
                              const json_t *meta, const char *tokenizer) {
    yx_status status = YX_OK;
    char *state = NULL;
    checkpoint *back = NULL;
    uint32_t *crcs = malloc((size_t)(n ? n : 1) * sizeof *crcs);
    if (!crcs) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a checkpoint");
    for (int64_t i = 0; i < n; i++) crcs[i] = yx_crc32c(0, tensors[i].data, checkpoint_tensor_bytes(&tensors[i]));
    YX_CHECK(yx_make_dirs(folder));
    YX_CHECK(yx_format(&state, "%s/state.h5", folder));
    YX_CHECK(state_file_write(state, tensors, n));
    if (tokenizer) YX_CHECK(copy_tokenizer(tokenizer, folder));
    YX_CHECK(write_manifest(folder, state, step, tensors, crcs, n, meta));
    YX_CHECK(yx_fsync_path(folder));
    YX_CHECK(checkpoint_open(folder, &back)); // verifies
fail:
    checkpoint_close(back);
    free(crcs);
    free(state);
    return status;
}

static yx_status publish(const char *folder, const char *temporary, const char *final, int64_t step) {
    yx_status status = YX_OK;
    char *latest = NULL, name[40];
    int length = snprintf(name, sizeof name, "step_%09lld\n", (long long)step);
    if (yx_path_exists(final)) YX_CHECK(yx_remove_tree(final)); // the same step again, after a resume from an older one
    if (rename(temporary, final) != 0) {
        status = yx_fail_errno("cannot rename %s to %s", temporary, final);
        goto fail;
    }
    YX_CHECK(yx_fsync_path(folder));
    YX_CHECK(yx_format(&latest, "%s/LATEST", folder));
    YX_CHECK(yx_write_file_atomic(latest, name, (size_t)length));
fail:
    free(latest);
    return status;
}

// Steps after the one just written belong to a run that was started over from before them: they go too.
static yx_status prune(const char *folder, int64_t written, const checkpoint_options *o) {
    int64_t *steps;
    size_t count;
    yx_status status = list_steps(folder, &steps, &count, false);
    int64_t kept = 0;
    for (size_t i = 0; i < count && status == YX_OK; i++) {
        bool newer = steps[i] > written, permanent = o->keep_every > 0 && steps[i] % o->keep_every == 0;
        if (!newer) kept++;
        if (!newer && (o->keep_last <= 0 || kept <= o->keep_last || permanent || steps[i] == written)) continue;
        char *path;
        status = yx_format(&path, "%s/step_%09lld", folder, (long long)steps[i]);
        if (status == YX_OK) status = yx_remove_tree(path);
        free(path);
    }
    free(steps);
    return status;
}

yx_status checkpoint_write(const char *run_dir, int64_t step, const checkpoint_tensor *tensors, int64_t num_tensors,
                           const json_t *meta, const char *tokenizer_path, const checkpoint_options *options) {
    yx_status status = YX_OK;
    char *folder = NULL, *temporary = NULL, *final = NULL;
    int64_t *steps = NULL;
    size_t count;
    YX_CHECK(yx_format(&folder, "%s/checkpoints", run_dir));
    YX_CHECK(yx_format(&final, "%s/step_%09lld", folder, (long long)step));
    YX_CHECK(yx_format(&temporary, "%s.tmp-%ld", final, (long)getpid()));
    YX_CHECK(yx_make_dirs(folder));
    YX_CHECK(list_steps(folder, &steps, &count, true));
    YX_CHECK(write_folder(temporary, step, tensors, num_tensors, meta, tokenizer_path));
    YX_CHECK(publish(folder, temporary, final, step));
    YX_CHECK(prune(folder, step, options));
fail:
    if (status != YX_OK && temporary) {
        char message[1024], origin[256]; // the cleaning must not hide why
        snprintf(message, sizeof message, "%s", yx_message());
        snprintf(origin, sizeof origin, "%s", yx_message_origin());
        yx_remove_tree(temporary);
        yx_set_message(message, origin);
    }
    free(steps);
    free(folder);
    free(temporary);
    free(final);
    return status;
}

static yx_status rename_if_there(const char *from, const char *to) {
    if (!yx_path_exists(from) || rename(from, to) == 0) return YX_OK;
    return yx_fail_errno("cannot rename %s to %s", from, to);
}

yx_status checkpoint_set_aside(const char *run_dir, int *number) {
    // The checkpoints last: as long as they are there, a start that was killed in between is made up for by the next.
    static const char *const names[][2] = {
        {"log", ".jsonl"}, {"tensorboard", ""}, {"report", ".html"}, {"checkpoints", ""}};
    enum { COUNT = sizeof names / sizeof *names };
    yx_status status = YX_OK;
    char *from[COUNT] = {0}, *to[COUNT] = {0};
    int64_t *steps = NULL;
    size_t count;
    *number = 0;
    for (int i = 0; i < COUNT; i++) YX_CHECK(yx_format(&from[i], "%s/%s%s", run_dir, names[i][0], names[i][1]));
    YX_CHECK(list_steps(from[COUNT - 1], &steps, &count, false));
    for (int n = 1; count > 0 && *number == 0; n++) {
        bool taken = false;
        for (int i = 0; i < COUNT; i++) {
            free(to[i]), to[i] = NULL;
            YX_CHECK(yx_format(&to[i], "%s/%s-before-%d%s", run_dir, names[i][0], n, names[i][1]));
            taken |= yx_path_exists(to[i]);
        }
        if (!taken) *number = n;
    }
    for (int i = 0; i < COUNT && *number; i++) YX_CHECK(rename_if_there(from[i], to[i]));
fail:
    for (int i = 0; i < COUNT; i++) free(from[i]), free(to[i]);
    free(steps);
    return status;
}

// --- Reading
static int by_name(const void *a, const void *b) {
    return strcmp(json_string_value(json_object_get(*(json_t *const *)a, "name")),
                  json_string_value(json_object_get(*(json_t *const *)b, "name")));
}

static yx_status parse_tensors(checkpoint *c) {
    yx_status status = YX_OK;
    json_t *list = json_object_get(c->manifest, "tensors"), **sorted = NULL;
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > MAX_TENSORS)
        YX_FAIL(YX_ERR_DATA, "%s: manifest.json lists no tensors", c->path);
    sorted = malloc(n * sizeof *sorted);
    c->tensors = calloc(n, sizeof *c->tensors);
    c->crcs = calloc(n, sizeof *c->crcs);
    if (!sorted || !c->tensors || !c->crcs) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        sorted[i] = json_array_get(list, i);
        if (!json_is_string(json_object_get(sorted[i], "name")))
            YX_FAIL(YX_ERR_DATA, "%s: tensor %zu of manifest.json has no name", c->path, i);
    }
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 0; i < n; i++) {
        const char *name;
        json_int_t rows, cols, crc;
        if (json_unpack(sorted[i], "{s:s, s:I, s:I, s:I}", "name", &name, "rows", &rows, "cols", &cols, "crc32c",
                        &crc) ||
            rows < 1 || cols < 0 || rows > MAX_ELEMENTS || cols > MAX_ELEMENTS / rows || crc < 0 || crc > UINT32_MAX)
            YX_FAIL(YX_ERR_DATA, "%s: tensor %zu of manifest.json is malformed", c->path, i);
        c->tensors[i] = (checkpoint_tensor){name, rows, cols, NULL};
        c->crcs[i] = (uint32_t)crc;
    }
    c->num_tensors = (int64_t)n;
fail:
    free(sorted);
    return status;
}

static yx_status read_manifest(checkpoint *c) {
    yx_status status = YX_OK;
    char *path = NULL, *text = NULL;
    const char *format;
    size_t size;
    int version;
    json_error_t error;
    YX_CHECK(yx_format(&path, "%s/manifest.json", c->path));
    YX_CHECK(yx_read_file(path, MANIFEST_MAX, &text, &size));
    c->manifest = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!c->manifest) YX_FAIL(YX_ERR_DATA, "%s:%d: %s", path, error.line, error.text);
    if (json_unpack(c->manifest, "{s:s, s:i}", "format", &format, "version", &version) ||
        strcmp(format, CHECKPOINT_FORMAT))
        YX_FAIL(YX_ERR_DATA, "%s is not the manifest of a checkpoint", path);
    if (version != CHECKPOINT_VERSION)
        YX_FAIL(YX_ERR_DATA, "%s has version %d; this program reads %d", path, version, CHECKPOINT_VERSION);
    if (!json_is_object(json_object_get(c->manifest, "run"))) YX_FAIL(YX_ERR_DATA, "%s has no run description", path);
    YX_CHECK(parse_tensors(c));
fail:
    free(path);
    free(text);
    return status;
}

static yx_status state_path(const checkpoint *c, char **path) { return yx_format(path, "%s/state.h5", c->path); }

// The file's size against the manifest, then every tensor against its checksum.
static yx_status verify(const checkpoint *c) {
    yx_status status = YX_OK;
    char *path = NULL;
    struct stat info;
    size_t largest = 0;
    float *buffer = NULL;
    YX_CHECK(state_path(c, &path));
    if (stat(path, &info) != 0) {
        status = yx_fail_errno("cannot stat %s", path);
        goto fail;
    }
    json_int_t expected = json_integer_value(json_object_get(c->manifest, "state_bytes"));
    if (info.st_size != expected)
        YX_FAIL(YX_ERR_DATA, "%s has %lld bytes instead of %lld", path, (long long)info.st_size, (long long)expected);
    for (int64_t i = 0; i < c->num_tensors; i++) {
        size_t bytes = checkpoint_tensor_bytes(&c->tensors[i]);
        if (bytes > (size_t)info.st_size) YX_FAIL(YX_ERR_DATA, "%s is smaller than %s", path, c->tensors[i].name);
        if (bytes > largest) largest = bytes;
    }
    buffer = malloc(largest);
    if (!buffer) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a tensor of %zu bytes", largest);
    for (int64_t i = 0; i < c->num_tensors; i++) c->tensors[i].data = buffer;
    status = state_file_read(path, c->tensors, c->crcs, c->num_tensors);
    for (int64_t i = 0; i < c->num_tensors; i++) c->tensors[i].data = NULL;
fail:
    free(buffer);
    free(path);
    return status;
}

static yx_status open_folder(const char *path, checkpoint **out) {
    yx_status status = YX_OK;
    checkpoint *c = calloc(1, sizeof *c);
    if (!c) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a checkpoint");
    YX_CHECK(yx_format(&c->path, "%s", path));
    YX_CHECK(read_manifest(c));
    YX_CHECK(verify(c));
    *out = c;
    return YX_OK;
fail:
    checkpoint_close(c);
    return status;
}

static bool is_checkpoint(const char *path) {
    char *manifest;
    if (yx_format(&manifest, "%s/manifest.json", path) != YX_OK) return false;
    bool is = yx_path_exists(manifest);
    free(manifest);
    return is;
}

yx_status checkpoint_open(const char *path, checkpoint **out) {
    yx_status status = YX_OK;
    char *folder = NULL, *candidate = NULL;
    int64_t *steps = NULL;
    size_t count = 0;
    *out = NULL;
    if (is_checkpoint(path)) return open_folder(path, out);
    YX_CHECK(yx_format(&folder, "%s/checkpoints", path));
    YX_CHECK(list_steps(folder, &steps, &count, false));
    for (size_t i = 0; i < count && !*out; i++) {
        free(candidate);
        YX_CHECK(yx_format(&candidate, "%s/step_%09lld", folder, (long long)steps[i]));
        status = open_folder(candidate, out);
        if (status == YX_ERR_NO_MEMORY) goto fail;
        if (status != YX_OK)
            yx_warn("%s cannot be used: %s%s", candidate, yx_message(),
                    i + 1 < count ? "; the one before it is tried" : "");
    }
    if (count > 0 && !*out) YX_FAIL(YX_ERR_DATA, "none of the %zu checkpoints in %s can be used", count, folder);
    status = YX_OK;
fail:
    free(folder);
    free(candidate);
    free(steps);
    return status;
}

void checkpoint_close(checkpoint *c) {
    if (!c) return;
    json_decref(c->manifest);
    free(c->tensors);
    free(c->crcs);
    free(c->path);
    free(c);
}

const char *checkpoint_path(const checkpoint *c) { return c->path; }
const json_t *checkpoint_meta(const checkpoint *c) { return json_object_get(c->manifest, "run"); }
int64_t checkpoint_count(const checkpoint *c) { return c->num_tensors; }

static int compare_names(const void *key, const void *tensor) {
    return strcmp(key, ((const checkpoint_tensor *)tensor)->name);
}

yx_status checkpoint_read(checkpoint *c, const checkpoint_tensor *tensors, int64_t num_tensors) {
    yx_status status = YX_OK;
    char *path = NULL;
    uint32_t *crcs = malloc((size_t)(num_tensors ? num_tensors : 1) * sizeof *crcs);
    if (!crcs) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to read a checkpoint");
    for (int64_t i = 0; i < num_tensors; i++) {
        const checkpoint_tensor *t =
            bsearch(tensors[i].name, c->tensors, (size_t)c->num_tensors, sizeof *c->tensors, compare_names);
        if (!t)
            YX_FAIL(YX_ERR_MISMATCH, "%s has no %s: it belongs to another model or precision", c->path,
                    tensors[i].name);
        if (t->rows != tensors[i].rows || t->cols != tensors[i].cols)
            YX_FAIL(YX_ERR_MISMATCH, "%s: %s is [%lld, %lld], not [%lld, %lld]", c->path, t->name, (long long)t->rows,
                    (long long)t->cols, (long long)tensors[i].rows, (long long)tensors[i].cols);
        crcs[i] = c->crcs[t - c->tensors];
    }
    YX_CHECK(state_path(c, &path));
    YX_CHECK(state_file_read(path, tensors, crcs, num_tensors));
fail:
    free(crcs);
    free(path);
    return status;
}

yx_status checkpoint_describe(const checkpoint *c, int64_t i, const char **name, int64_t *rows, int64_t *cols) {
    if (i < 0 || i >= c->num_tensors) return yx_fail(YX_ERR_INTERNAL, "no tensor %lld", (long long)i);
    *name = c->tensors[i].name;
    *rows = c->tensors[i].rows;
    *cols = c->tensors[i].cols;
    return YX_OK;
}

yx_status checkpoint_tokenizer(const checkpoint *c, char **path) {
    yx_status status = yx_format(path, "%s/tokenizer", c->path);
    if (status == YX_OK && !yx_path_is_dir(*path)) {
        status = yx_fail(YX_ERR_DATA, "%s has no tokenizer", c->path);
        free(*path);
        *path = NULL;
    }
    return status;
}

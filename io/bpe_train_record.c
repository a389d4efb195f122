#include "io/bpe_train_record.h"
#include "common/file.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, MAGIC_SIZE = 8, PREFIX = MAGIC_SIZE + 4, MAX_HEADER = 1 << 26 };
static const char magic[MAGIC_SIZE + 1] = "YXBPETRN";
static const size_t max_file = (size_t)1 << 40;
const char *const bpe_words_names[BPE_WORDS_KINDS] = {"superbpe", "gpt2"};

// --- Files -----------------------------------------------------------------------------------------------------------

typedef struct record_file {
    char *path, *data;
    json_t *header;
    const char *body;
    size_t body_size;
} record_file;

static yx_status record_path(const char *folder, const char *name, char **path) {
    return yx_format(path, "%s/training/%s.bin", folder, name);
}

static bool record_exists(const char *folder, const char *name) {
    char *path = NULL;
    bool exists = record_path(folder, name, &path) == YX_OK && yx_path_exists(path);
    free(path);
    return exists;
}

static void record_close(record_file *f) {
    json_decref(f->header);
    free(f->data);
    free(f->path);
    *f = (record_file){0};
}

static yx_status parse_record(record_file *f, size_t size, const char *name) {
    uint32_t header, stored;
    json_error_t error;
    if (size < PREFIX + 4 || memcmp(f->data, magic, MAGIC_SIZE) != 0) return yx_fail(YX_ERR_DATA, "not such a file");
    memcpy(&header, f->data + MAGIC_SIZE, 4);
    memcpy(&stored, f->data + size - 4, 4);
    if (yx_crc32c(0, f->data, size - 4) != stored) return yx_fail(YX_ERR_DATA, "the checksum is wrong");
    if (header > MAX_HEADER || header > size - PREFIX - 4) return yx_fail(YX_ERR_DATA, "the header is too long");
    f->header = json_loadb(f->data + PREFIX, header, JSON_REJECT_DUPLICATES, &error);
    if (!f->header) return yx_fail(YX_ERR_DATA, "the header is not JSON: %s", error.text);
    if (json_integer_value(json_object_get(f->header, "version")) != VERSION)
        return yx_fail(YX_ERR_DATA, "its version is not %d", VERSION);
    const char *kind = json_string_value(json_object_get(f->header, "kind"));
    if (!kind || strcmp(kind, name) != 0) return yx_fail(YX_ERR_DATA, "it does not hold %s", name);
    f->body = f->data + PREFIX + header;
    f->body_size = size - 4 - PREFIX - header;
    return YX_OK;
}

static yx_status record_open(const char *folder, const char *name, record_file *f) {
    yx_status status = YX_OK;
    size_t size;
    YX_CHECK(record_path(folder, name, &f->path));
    YX_CHECK(yx_read_file(f->path, max_file, &f->data, &size));
    status = yx_context(parse_record(f, size, name), "%s is damaged, remove it to train anew", f->path);
fail:
    return status;
}

// Takes `header` over. `*body` gets room for `body_size` bytes, to fill in before record_write.
static yx_status record_new(json_t *header, size_t body_size, record_file *f) {
    f->header = header;
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    uint32_t size = text ? (uint32_t)strlen(text) : 0;
    f->data = malloc(PREFIX + size + body_size + 4);
    if (text && f->data) {
        memcpy(f->data, magic, MAGIC_SIZE);
        memcpy(f->data + MAGIC_SIZE, &size, 4);
        memcpy(f->data + PREFIX, text, size);
        f->body = f->data + PREFIX + size;
        f->body_size = body_size;
    }
    free(text);
    return f->body ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory to keep %zu bytes of training", body_size);
}

static yx_status record_write(const char *folder, const char *name, record_file *f) {
    yx_status status = YX_OK;
    char *parent = NULL;
    size_t size = (size_t)(f->body - f->data) + f->body_size;
    uint32_t crc = yx_crc32c(0, f->data, size);
    memcpy(f->data + size, &crc, 4);
    YX_CHECK(yx_format(&parent, "%s/training", folder));
    YX_CHECK(yx_make_dirs(parent));
    YX_CHECK(record_path(folder, name, &f->path));
    YX_CHECK(yx_write_file_atomic(f->path, f->data, size + 4));
fail:
    free(parent);
    return status;
}

static char *record_body(const record_file *f) { return f->data + (f->body - f->data); }

// --- Fields ----------------------------------------------------------------------------------------------------------

static yx_status get_int(const json_t *header, const char *key, int64_t least, int64_t *out) {
    const json_t *value = json_object_get(header, key);
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= least) return YX_OK;
    return yx_fail(YX_ERR_DATA, "\"%s\" is missing or wrong", key);
}

static yx_status get_sha256(const json_t *header, const char *key, bool may_be_empty, char out[YX_SHA256_HEX]) {
    const char *text = json_string_value(json_object_get(header, key));
    size_t size = text ? strlen(text) : 0;
    if (size != YX_SHA256_HEX - 1 && !(text && size == 0 && may_be_empty))
        return yx_fail(YX_ERR_DATA, "\"%s\" is missing or wrong", key);
    memcpy(out, text, size + 1);
    return YX_OK;
}

static yx_status get_rule(const json_t *header, bpe_words *out) {
    const char *text = json_string_value(json_object_get(header, "words"));
    for (int i = 0; i < BPE_WORDS_KINDS; i++) {
        *out = (bpe_words)i;
        if (text && strcmp(text, bpe_words_names[i]) == 0) return YX_OK;
    }
    return yx_fail(YX_ERR_DATA, "\"words\" is missing or unknown");
}

// --- Words -----------------------------------------------------------------------------------------------------------

bool words_record_exists(const char *folder) { return record_exists(folder, "words"); }

yx_status words_record_save(const char *folder, const words_record *r) {
    yx_status status = YX_OK;
    record_file f = {0};
    const word_counts *w = &r->words;
    size_t n = w->n_words;
    json_t *header = json_pack("{s:s, s:i, s:s, s:I, s:I, s:s, s:s*, s:I, s:I}", "kind", "words", "version", VERSION,
                               "words", bpe_words_names[r->rule], "documents", (json_int_t)r->text.documents, "bytes",
                               (json_int_t)r->text.bytes, "text_sha256", r->text.sha256, "source", r->source,
                               "distinct", (json_int_t)n, "word_bytes", (json_int_t)w->blob_size);
    YX_CHECK(record_new(header, n * 12 + w->blob_size, &f));
    char *counts = record_body(&f), *sizes = counts + 8 * n;
    for (size_t i = 0; i < n; i++) {
        memcpy(counts + 8 * i, &w->words[i].count, 8);
        memcpy(sizes + 4 * i, &w->words[i].size, 4);
    }
    memcpy(sizes + 4 * n, w->blob, w->blob_size);
    YX_CHECK(record_write(folder, "words", &f));
fail:
    record_close(&f);
    return status;
}

static yx_status read_words(const record_file *f, word_counts *w) {
    yx_status status = YX_OK;
    int64_t n, bytes;
    size_t used = 0;
    YX_CHECK(get_int(f->header, "distinct", 0, &n));
    YX_CHECK(get_int(f->header, "word_bytes", 0, &bytes));
    if (n > UINT32_MAX || (uint64_t)bytes > max_file || (uint64_t)n * 12 + (uint64_t)bytes != f->body_size)
        YX_FAIL(YX_ERR_DATA, "its size is wrong");
    w->words = malloc(((size_t)n + 1) * sizeof *w->words);
    w->blob = malloc((size_t)bytes + 1);
    if (!w->words || !w->blob) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %lld words", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        word_entry *word = &w->words[i];
        *word = (word_entry){.offset = used};
        memcpy(&word->count, f->body + 8 * i, 8);
        memcpy(&word->size, f->body + 8 * n + 4 * i, 4);
        used += word->size;
        if (word->count <= 0 || used > (size_t)bytes) YX_FAIL(YX_ERR_DATA, "word %lld is wrong", (long long)i);
    }
    if (used != (size_t)bytes) YX_FAIL(YX_ERR_DATA, "the words' sizes are wrong");
    memcpy(w->blob, f->body + 12 * n, used);
    w->n_words = w->word_capacity = (size_t)n;
    w->blob_size = w->blob_capacity = used;
fail:
    return status;
}

yx_status words_record_load(const char *folder, bool with_words, words_record *r) {
    yx_status status = YX_OK;
    record_file f = {0};
    YX_CHECK(record_open(folder, "words", &f));
    const char *source = json_string_value(json_object_get(f.header, "source"));
    YX_CHECK(get_rule(f.header, &r->rule));
    YX_CHECK(get_int(f.header, "documents", 0, &r->text.documents));
    YX_CHECK(get_int(f.header, "distinct", 0, &r->n_distinct));
    YX_CHECK(get_int(f.header, "bytes", 0, &r->text.bytes));
    YX_CHECK(get_sha256(f.header, "text_sha256", false, r->text.sha256));
    if (source) YX_CHECK(yx_format(&r->source, "%s", source));
    if (with_words) YX_CHECK(yx_context(read_words(&f, &r->words), "%s is damaged", f.path));
fail:
    record_close(&f);
    return status;
}

void words_record_free(words_record *r) {
    words_free(&r->words);
    free(r->source);
    *r = (words_record){0};
}

yx_status bpe_train_source(const char *folder, char **out) {
    words_record r = {0};
    yx_status status = words_record_load(folder, false, &r);
    *out = r.source;
    r.source = NULL;
    words_record_free(&r);
    return status;
}

bool bpe_train_can_continue(const char *folder) { return words_record_exists(folder); }

// --- Subwords --------------------------------------------------------------------------------------------------------

bool subwords_record_exists(const char *folder) { return record_exists(folder, "subwords"); }

yx_status subwords_record_save(const char *folder, const subwords_record *r) {
    yx_status status = YX_OK;
    record_file f = {0};
    json_t *special = json_array();
    for (int i = 0; i < r->n_special_tokens; i++) json_array_append_new(special, json_string(r->special_tokens[i]));
    json_t *header =
        json_pack("{s:s, s:i, s:s, s:s, s:s, s:o, s:I, s:I, s:b, s:I}", "kind", "subwords", "version", VERSION, "words",
                  bpe_words_names[r->rule], "text_sha256", r->words_sha256, "base_sha256", r->base_sha256,
                  "special_tokens", special, "min_frequency", (json_int_t)r->min_frequency, "vocab_size",
                  (json_int_t)r->vocab_size, "exhausted", (int)r->exhausted, "merges", (json_int_t)r->merges.count);
    YX_CHECK(record_new(header, r->merges.count * sizeof *r->merges.merges, &f));
    if (f.body_size) memcpy(record_body(&f), r->merges.merges, f.body_size);
    YX_CHECK(record_write(folder, "subwords", &f));
fail:
    record_close(&f);
    return status;
}

static yx_status read_special(const json_t *list, subwords_record *r) {
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > MAX_HEADER) return yx_fail(YX_ERR_DATA, "\"special_tokens\" is not a list");
    r->special_tokens = calloc(n + 1, sizeof *r->special_tokens);
    if (!r->special_tokens) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu special tokens", n);
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text) return yx_fail(YX_ERR_DATA, "a special token is not a text");
        yx_status status = yx_format(&r->special_tokens[r->n_special_tokens], "%s", text);
        if (status != YX_OK) return status;
        r->n_special_tokens++;
    }
    return YX_OK;
}

static yx_status read_merges(const record_file *f, merge_list *list) {
    int64_t n;
    yx_status status = get_int(f->header, "merges", 0, &n);
    if (status != YX_OK) return status;
    if (n >= BPE_MAX_IDS || (size_t)n * sizeof *list->merges != f->body_size)
        return yx_fail(YX_ERR_DATA, "its size is wrong");
    list->merges = malloc(f->body_size + 1);
    if (!list->merges) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %lld merges", (long long)n);
    memcpy(list->merges, f->body, f->body_size);
    list->count = list->capacity = (size_t)n;
    return YX_OK;
}

yx_status subwords_record_load(const char *folder, subwords_record *r) {
    yx_status status = YX_OK;
    record_file f = {0};
    int64_t vocab_size = 0;
    YX_CHECK(record_open(folder, "subwords", &f));
    YX_CHECK(get_rule(f.header, &r->rule));
    YX_CHECK(get_sha256(f.header, "text_sha256", false, r->words_sha256));
    YX_CHECK(get_sha256(f.header, "base_sha256", true, r->base_sha256));
    YX_CHECK(get_int(f.header, "min_frequency", 1, &r->min_frequency));
    YX_CHECK(get_int(f.header, "vocab_size", 1, &vocab_size));
    r->vocab_size = (uint32_t)vocab_size;
    r->exhausted = json_is_true(json_object_get(f.header, "exhausted"));
    YX_CHECK(read_special(json_object_get(f.header, "special_tokens"), r));
    YX_CHECK(yx_context(read_merges(&f, &r->merges), "%s is damaged", f.path));
fail:
    record_close(&f);
    return status;
}

void subwords_record_free(subwords_record *r) {
    for (int i = 0; i < r->n_special_tokens; i++) free(r->special_tokens[i]);
    free(r->special_tokens);
    free(r->merges.merges);
    *r = (subwords_record){0};
}

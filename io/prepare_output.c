#include "io/prepare_output.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/rng.h"
#include "io/prepare_filter.h"
#include "io/shard.h"
#include "io/shard_file.h"
#include "io/shard_manifest.h"
#include <dirent.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const size_t max_tokenizer_file = 1u << 30;

// A document kept in memory.
typedef struct held_document {
    uint32_t *ids;
    encode_job job; // its ids are the above; no text
} held_document;

struct prepare_output {
    const prepare_options *options;
    const yx_tokenizer *tokenizer;
    char *final, *temporary;
    bool created, published;
    char source[SHARD_MAX_PROVENANCE], filter[SHARD_MAX_PROVENANCE];
    shard_writer *writer[PREPARE_SPLITS]; // NULL: no shard is open
    manifest_shard open[PREPARE_SPLITS];  // what the open shard holds
    shard_manifest manifest;
    uint64_t threshold; // documents whose rank is below go to validation
    held_document *held;
    int n_held; // several when documents share an id
    uint64_t held_rank;
    int64_t chars;
};

// --- The folder -----------------------------------------------------------------------------------------------------
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

static yx_status check_target(const prepare_output *o) {
    yx_status status = YX_OK;
    char *manifest = NULL;
    if (!yx_path_exists(o->final)) return YX_OK;
    if (!yx_path_is_dir(o->final)) return yx_fail(YX_ERR_USAGE, "the output %s is a file", o->final);
    YX_CHECK(yx_format(&manifest, "%s/" MANIFEST_NAME, o->final));
    bool is_dataset = yx_path_exists(manifest);
    if (is_dataset && !o->options->force)
        YX_FAIL(YX_ERR_USAGE, "%s already holds a data set: name another folder, or replace it with --force", o->final);
    if (!is_dataset && !is_empty_dir(o->final))
        YX_FAIL(YX_ERR_USAGE, "%s is neither empty nor a data set: name another folder", o->final);
fail:
    free(manifest);
    return status;
}

static yx_status name_folders(prepare_output *o) {
    o->final = strdup(o->options->output);
    if (!o->final) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    for (size_t n = strlen(o->final); n > 1 && o->final[n - 1] == '/'; n--) o->final[n - 1] = 0;
    if (!o->final[0]) return yx_fail(YX_ERR_USAGE, "the output folder has no name");
    return yx_format(&o->temporary, "%s.tmp-%ld", o->final, (long)getpid());
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

// The tokenizer's files, with those beside it that Hugging Face's libraries read.
static yx_status copy_tokenizer(const prepare_output *o) {
    static const char *const names[] = {
        "tokenizer.json",         "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json",
        "special_tokens_map.json"};
    yx_status status = YX_OK;
    const char *from = tokenizer_path(o->tokenizer);
    char *folder = NULL, *path = NULL;
    YX_CHECK(yx_format(&folder, "%s/tokenizer", o->temporary));
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

// "a.jsonl, b.jsonl and 7 more", within the room a shard's attribute has.
static void describe_inputs(const prepare_options *options, char *out, size_t capacity) {
    enum { TAIL = 32 };
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < options->n_inputs; i++) {
        if (used + strlen(options->inputs[i]) + TAIL >= capacity) {
            snprintf(out + used, capacity - used, " and %d more", options->n_inputs - i);
            return;
        }
        used += (size_t)snprintf(out + used, capacity - used, "%s%s", i ? ", " : "", options->inputs[i]);
    }
}

static yx_status describe(prepare_output *o) {
    shard_manifest *m = &o->manifest;
    int64_t eot = tokenizer_eot(o->tokenizer);
    if (eot < 0)
        return yx_fail(YX_ERR_DATA, "the tokenizer %s has no end-of-text token: documents cannot be told apart",
                       o->options->tokenizer);
    if (strlen(tokenizer_name(o->tokenizer)) >= sizeof m->tokenizer_name)
        return yx_fail(YX_ERR_DATA, "the tokenizer's name %s is too long", tokenizer_name(o->tokenizer));
    strcpy(m->tokenizer_name, tokenizer_name(o->tokenizer));
    strcpy(m->tokenizer_sha256, tokenizer_sha256(o->tokenizer));
    m->vocab_size = tokenizer_vocab_size(o->tokenizer);
    m->eot_id = (uint32_t)eot;
    describe_inputs(o->options, o->source, sizeof o->source);
    prepare_filter_describe(o->options, o->filter, sizeof o->filter);
    o->threshold = (uint64_t)ldexp(o->options->validation_fraction, 64);
    return YX_OK;
}

yx_status prepare_output_open(const prepare_options *options, const yx_tokenizer *tokenizer, prepare_output **out) {
    yx_status status = YX_OK;
    prepare_output *o = calloc(1, sizeof *o);
    if (!o) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    o->options = options;
    o->tokenizer = tokenizer;
    YX_CHECK(describe(o));
    YX_CHECK(name_folders(o));
    YX_CHECK(check_target(o));
    o->created = true;
    YX_CHECK(yx_remove_tree(o->temporary)); // of a killed process that had our number
    YX_CHECK(yx_make_dirs(o->temporary));
    YX_CHECK(copy_tokenizer(o));
    *out = o;
    return YX_OK;
fail:
    prepare_output_close(o);
    return status;
}

static void remove_temporary(const prepare_output *o) {
    char message[2048], origin[256];
    snprintf(message, sizeof message, "%s", yx_message());
    snprintf(origin, sizeof origin, "%s", yx_message_origin());
    if (yx_remove_tree(o->temporary) != YX_OK) yx_warn("%s", yx_message());
    yx_set_message(message, origin);
}

void prepare_output_close(prepare_output *o) {
    if (!o) return;
    for (int i = 0; i < PREPARE_SPLITS; i++) shard_writer_abort(o->writer[i]);
    if (o->created && !o->published) remove_temporary(o);
    for (int i = 0; i < o->n_held; i++) free(o->held[i].ids);
    free(o->held);
    manifest_free(&o->manifest);
    free(o->temporary);
    free(o->final);
    free(o);
}

// --- Shards ---------------------------------------------------------------------------------------------------------
static yx_status shard_path(const prepare_output *o, int split, char **out) {
    return yx_format(out, "%s/%s", o->temporary, o->open[split].file);
}

static yx_status open_shard(prepare_output *o, int split) {
    yx_status status = YX_OK;
    char *path = NULL;
    int index = o->manifest.splits[split].n_shards;
    const shard_provenance provenance = {.split = manifest_split_name(split),
                                         .tokenizer_name = o->manifest.tokenizer_name,
                                         .tokenizer_sha256 = o->manifest.tokenizer_sha256,
                                         .source = o->source,
                                         .filter = o->filter,
                                         .vocab_size = o->manifest.vocab_size,
                                         .eot_id = o->manifest.eot_id};
    memset(&o->open[split], 0, sizeof o->open[split]);
    snprintf(o->open[split].file, sizeof o->open[split].file, "%s-%05d.h5", manifest_split_name(split), index);
    YX_CHECK(shard_path(o, split, &path));
    YX_CHECK(shard_writer_open(path, index, &provenance, &o->writer[split]));
fail:
    free(path);
    return status;
}

static yx_status close_shard(prepare_output *o, int split) {
    yx_status status = YX_OK;
    char *path = NULL;
    struct stat info;
    manifest_shard *entry = &o->open[split];
    shard_writer *w = o->writer[split];
    if (!w) return YX_OK;
    entry->num_tokens = shard_writer_tokens(w);
    o->writer[split] = NULL;
    YX_CHECK(shard_writer_close(w));
    YX_CHECK(shard_path(o, split, &path));
    if (stat(path, &info) != 0) {
        status = yx_fail_errno("cannot read %s", path);
        goto fail;
    }
    entry->file_bytes = info.st_size;
    YX_CHECK(yx_sha256_file(path, entry->sha256));
    YX_CHECK(manifest_add_shard(&o->manifest.splits[split], entry));
fail:
    free(path);
    return status;
}

static yx_status write_document(prepare_output *o, int split, const encode_job *doc) {
    yx_status status = YX_OK;
    manifest_shard *entry = &o->open[split];
    int64_t tokens = (int64_t)doc->count + 1;
    if (o->writer[split] && shard_writer_tokens(o->writer[split]) + tokens > o->options->shard_tokens)
        YX_CHECK(close_shard(o, split));
    if (!o->writer[split]) YX_CHECK(open_shard(o, split));
    YX_CHECK(
        shard_writer_add(o->writer[split], doc->ids, doc->count, (uint32_t)doc->size, doc->score, doc->source_hash));
    entry->num_docs++;
    entry->num_bytes += (int64_t)doc->size;
fail:
    return status;
}

// --- The split ------------------------------------------------------------------------------------------------------
static yx_status hold(prepare_output *o, const encode_job *doc, uint64_t rank) {
    held_document *grown = realloc(o->held, (size_t)(o->n_held + 1) * sizeof *grown);
    uint32_t *ids = malloc(doc->count * sizeof *ids + 1);
    if (grown) o->held = grown;
    if (!grown || !ids) {
        free(ids);
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for a document of %zu tokens", doc->count);
    }
    if (doc->count > 0) memcpy(ids, doc->ids, doc->count * sizeof *ids);
    held_document *h = &o->held[o->n_held++];
    h->ids = ids;
    h->job = *doc;
    h->job.ids = ids;
    h->job.text = NULL;
    o->held_rank = rank;
    return YX_OK;
}

static yx_status release(prepare_output *o, int split) {
    yx_status status = YX_OK;
    for (int i = 0; i < o->n_held; i++) {
        if (status == YX_OK) status = write_document(o, split, &o->held[i].job);
        free(o->held[i].ids);
    }
    o->n_held = 0;
    return status;
}

static bool is_unused(const prepare_output *o, int split) {
    return !o->writer[split] && o->manifest.splits[split].n_shards == 0;
}

yx_status prepare_output_add(prepare_output *o, const encode_job *doc) {
    yx_status status = YX_OK;
    uint64_t rank = yx_mix64(doc->source_hash, o->options->split_seed);
    o->chars += doc->chars;
    if (rank < o->threshold) {
        YX_CHECK(release(o, PREPARE_TRAIN));
        return write_document(o, PREPARE_VALIDATION, doc);
    }
    bool may_be_smallest = o->threshold > 0 && is_unused(o, PREPARE_VALIDATION);
    if (!may_be_smallest || (o->n_held > 0 && rank > o->held_rank)) return write_document(o, PREPARE_TRAIN, doc);
    if (o->n_held > 0 && rank < o->held_rank) YX_CHECK(release(o, PREPARE_TRAIN));
    YX_CHECK(hold(o, doc, rank));
fail:
    return status;
}

void prepare_output_count(const prepare_output *o, prepare_counts *counts) {
    counts->chars = o->chars;
    counts->kept = o->n_held;
    counts->bytes = 0;
    for (int i = 0; i < o->n_held; i++) counts->bytes += (int64_t)o->held[i].job.size;
    for (int i = 0; i < PREPARE_SPLITS; i++) {
        const manifest_split *done = &o->manifest.splits[i];
        bool open = o->writer[i] != NULL;
        counts->shards[i] = done->n_shards + open;
        counts->docs[i] = done->num_docs + (open ? o->open[i].num_docs : 0);
        counts->tokens[i] = done->num_tokens + (open ? shard_writer_tokens(o->writer[i]) : 0);
        counts->bytes += done->num_bytes + (open ? o->open[i].num_bytes : 0);
        counts->kept += counts->docs[i];
    }
}

// --- The end --------------------------------------------------------------------------------------------------------
static json_t *list_inputs(const prepare_options *options) {
    json_t *list = json_array();
    for (int i = 0; i < options->n_inputs; i++) json_array_append_new(list, json_string(options->inputs[i]));
    return list;
}

static json_t *list_options(const prepare_options *o) {
    json_t *score = isnan(o->min_score) ? json_null() : json_real(o->min_score);
    return json_pack("{s:o, s:I, s:I, s:I, s:s?, s:I, s:f, s:I, s:I, s:b, s:s}", "min_score", score, "min_tokens",
                     (json_int_t)o->min_tokens, "min_token_count", (json_int_t)o->min_token_count, "min_chars",
                     (json_int_t)o->min_chars, "language", o->language, "max_documents", (json_int_t)o->max_documents,
                     "validation_fraction", o->validation_fraction, "split_seed", (json_int_t)o->split_seed,
                     "shard_tokens", (json_int_t)o->shard_tokens, "strict", (int)o->corpus.strict, "text_field",
                     o->corpus.text_field ? o->corpus.text_field : "text");
}

static json_t *list_counts(const prepare_counts *c) {
    json_t *dropped = json_object(), *malformed = json_object();
    for (int i = 0; i < PREPARE_DROPS; i++)
        json_object_set_new(dropped, prepare_drop_name(i), json_integer(c->dropped[i]));
    for (int i = 0; i < CORPUS_MALFORMED_KINDS; i++)
        json_object_set_new(malformed, corpus_malformed_name(i), json_integer(c->corpus.malformed[i]));
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "documents_read", (json_int_t)c->corpus.documents,
                     "text_bytes_read", (json_int_t)c->corpus.bytes, "documents_kept", (json_int_t)c->kept,
                     "characters_kept", (json_int_t)c->chars, "bytes_kept", (json_int_t)c->bytes, "dropped", dropped,
                     "malformed_lines", malformed);
}

static yx_status write_manifest(const prepare_output *o, const prepare_counts *counts) {
    json_t *details = json_pack("{s:s, s:o, s:o, s:o}", "filter", o->filter, "inputs", list_inputs(o->options),
                                "options", list_options(o->options), "counts", list_counts(counts));
    yx_status status = details ? manifest_write(o->temporary, &o->manifest, details)
                               : yx_fail(YX_ERR_DATA, "the manifest cannot be written: a name in it is not UTF-8");
    json_decref(details);
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
static yx_status rename_folder(prepare_output *o) {
    yx_status status = YX_OK;
    char *old = NULL, *manifest = NULL;
    YX_CHECK(yx_format(&manifest, "%s/" MANIFEST_NAME, o->final));
    bool replaces = o->options->force && yx_path_exists(manifest);
    YX_CHECK(yx_format(&old, "%s.old-%ld", o->final, (long)getpid()));
    if (replaces) YX_CHECK(rename_over(o->final, old));
    status = rename_over(o->temporary, o->final);
    o->published = status == YX_OK;
    if (status != YX_OK && replaces && rename(old, o->final) != 0) yx_warn("the old data set is now %s", old);
    if (status == YX_OK && replaces) status = yx_remove_tree(old);
fail:
    free(manifest);
    free(old);
    return status;
}

static yx_status nothing_left(const prepare_counts *c) {
    char reasons[1024] = "";
    int64_t malformed = 0;
    size_t used = 0;
    for (int i = 0; i < CORPUS_MALFORMED_KINDS; i++) malformed += c->corpus.malformed[i];
    for (int i = 0; i < PREPARE_DROPS; i++)
        if (c->dropped[i] > 0)
            used += (size_t)snprintf(reasons + used, sizeof reasons - used, ", %lld %s", (long long)c->dropped[i],
                                     prepare_drop_name(i));
    return yx_fail(YX_ERR_DATA, "no document is left: %lld read%s, %lld malformed lines",
                   (long long)c->corpus.documents, reasons, (long long)malformed);
}

// Who gets what was held back: validation, unless training would be left with nothing.
static yx_status settle_split(prepare_output *o, const prepare_counts *counts) {
    if (counts->kept == 0) return nothing_left(counts);
    if (counts->docs[PREPARE_TRAIN] == 0 && o->n_held == 0)
        return yx_fail(YX_ERR_DATA, "all %lld documents fell into the validation split: lower --validation-fraction",
                       (long long)counts->kept);
    bool alone = counts->docs[PREPARE_TRAIN] == 0;
    if (alone && o->n_held > 0) yx_warn("there is only one document: the validation split is empty");
    return release(o, alone ? PREPARE_TRAIN : PREPARE_VALIDATION);
}

yx_status prepare_output_publish(prepare_output *o, prepare_counts *counts) {
    yx_status status = YX_OK;
    prepare_output_count(o, counts);
    YX_CHECK(settle_split(o, counts));
    for (int i = 0; i < PREPARE_SPLITS; i++) YX_CHECK(close_shard(o, i));
    prepare_output_count(o, counts);
    YX_CHECK(write_manifest(o, counts));
    YX_CHECK(yx_fsync_path(o->temporary));
    YX_CHECK(rename_folder(o));
    YX_CHECK(fsync_parent(o->final));
fail:
    return status;
}

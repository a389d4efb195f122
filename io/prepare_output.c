#include "io/prepare_output.h"
#include "common/file.h"
#include "common/log.h"
#include "common/rng.h"
#include "io/prepare_filter.h"
#include "io/prepare_finish.h"
#include "io/prepare_folder.h"
#include "io/prepare_pack.h"
#include "io/shard_file.h"
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NEAR_NAME "near-duplicates.bin"

struct prepare_output {
    const prepare_options *options;
    const prepare_tokenizers *tokenizers;
    prepare_folder folder;
    json_t *identity;
    shard_manifest manifest; // its splits are those of the state
    char source[SHARD_MAX_PROVENANCE], filter[SHARD_MAX_PROVENANCE];
    prepare_state state;
    int64_t resumed_documents, resumed_shards;
    shard_writer *writer[PREPARE_SPLITS]; // NULL: no shard is open
    manifest_shard open[PREPARE_SPLITS];  // what the open shard holds
    int started[PREPARE_SPLITS];          // shards, also those that are finished
    int64_t stream[PREPARE_SPLITS];       // tokens written to each split
    prepare_pack pack;                    // documents for training whose order is open
    prepare_finish finish;
    dedup_index *near;  // NULL: near-duplicates are kept
    uint64_t threshold; // documents whose rank is below go to validation
};

// --- Opening --------------------------------------------------------------------------------------------------------
static yx_status describe(prepare_output *o) {
    shard_manifest *m = &o->manifest;
    const yx_tokenizer *t = o->tokenizers->tokenizer;
    int64_t eot = tokenizer_eot(t);
    if (eot < 0)
        return yx_fail(YX_ERR_DATA, "the tokenizer %s has no end-of-text token: documents cannot be told apart",
                       o->options->tokenizer);
    if (strlen(tokenizer_name(t)) >= sizeof m->tokenizer_name)
        return yx_fail(YX_ERR_DATA, "the tokenizer's name %s is too long", tokenizer_name(t));
    strcpy(m->tokenizer_name, tokenizer_name(t));
    strcpy(m->tokenizer_sha256, tokenizer_sha256(t));
    m->vocab_size = tokenizer_vocab_size(t);
    m->eot_id = (uint32_t)eot;
    prepare_describe_source(o->options, o->source, sizeof o->source);
    prepare_filter_describe(o->options, tokenizer_name(o->tokenizers->counter), o->filter, sizeof o->filter);
    o->threshold = (uint64_t)ldexp(o->options->validation_fraction, 64);
    o->identity = prepare_identity(o->options, o->tokenizers);
    return o->identity ? YX_OK : yx_fail(YX_ERR_DATA, "a name among the options or inputs is not UTF-8");
}

static bool is_known(const prepare_output *o, const char *name) {
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, PREPARE_STATE_NAME) == 0) return true;
    if (strcmp(name, NEAR_NAME) == 0) return o->near != NULL || o->options->near_duplicates;
    for (int k = 0; k < PREPARE_SPLITS; k++)
        for (int i = 0; i < o->state.splits[k].n_shards; i++)
            if (strcmp(name, o->state.splits[k].shards[i].file) == 0) return true;
    return false;
}

// What a killed process had begun.
static yx_status remove_unknown(const prepare_output *o) {
    struct dirent **entries;
    yx_status status = YX_OK;
    char *path = NULL;
    int n = scandir(o->folder.partial, &entries, NULL, NULL);
    if (n < 0) return yx_fail_errno("cannot read %s", o->folder.partial);
    for (int i = 0; i < n; i++) {
        bool known = is_known(o, entries[i]->d_name);
        if (status == YX_OK && !known) status = yx_format(&path, "%s/%s", o->folder.partial, entries[i]->d_name);
        if (status == YX_OK && !known) status = yx_remove_tree(path);
        free(path);
        path = NULL;
        free(entries[i]);
    }
    free(entries);
    return status;
}

// The state as it would be now, with room for the shards that are finished next; NULL without memory.
static json_t *snapshot(const prepare_output *o) {
    json_t *state = prepare_state_to_json(&o->state, o->identity), *splits = json_object();
    for (int k = 0; k < PREPARE_SPLITS; k++) {
        json_t *list = json_array();
        for (int i = 0; i < o->state.splits[k].n_shards; i++)
            json_array_append_new(list, prepare_state_shard_to_json(&o->state.splits[k].shards[i]));
        json_object_set_new(splits, manifest_split_name(k), list);
    }
    if (state) json_object_set_new(state, "splits", splits);
    else json_decref(splits);
    return state;
}

static yx_status begin_state(const prepare_output *o) {
    json_t *state = snapshot(o);
    if (!state) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the state of %s", o->folder.partial);
    yx_status status = prepare_state_write(o->folder.partial, state);
    json_decref(state);
    return status;
}

static yx_status resume(prepare_output *o) {
    yx_status status = prepare_state_read(o->folder.partial, o->identity, &o->state);
    if (status != YX_OK) return status;
    for (int k = 0; k < PREPARE_SPLITS; k++) {
        o->started[k] = o->state.splits[k].n_shards;
        o->resumed_shards += o->started[k];
        o->stream[k] = o->state.splits[k].num_tokens;
    }
    o->resumed_documents = o->state.position.documents;
    return remove_unknown(o);
}

static yx_status open_near(prepare_output *o) {
    char *path = NULL;
    if (!o->options->near_duplicates) return YX_OK;
    yx_status status = yx_format(&path, "%s/" NEAR_NAME, o->folder.partial);
    if (status == YX_OK) status = dedup_index_open(path, o->state.near_documents, &o->near);
    free(path);
    return status;
}

yx_status prepare_output_open(const prepare_options *options, const prepare_tokenizers *tokenizers,
                              prepare_output **out, prepare_position *begin) {
    yx_status status = YX_OK;
    bool resumes = false;
    prepare_output *o = calloc(1, sizeof *o);
    if (!o) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    o->options = options;
    o->tokenizers = tokenizers;
    o->folder.lock = -1;
    YX_CHECK(describe(o));
    YX_CHECK(prepare_folder_open(options->output, options->force, options->restart, &o->folder, &resumes));
    // A state that cannot be used is for the user to throw away.
    if (resumes && (status = resume(o)) != YX_OK) {
        o->folder.ours = false;
        goto fail;
    }
    if (!resumes) YX_CHECK(begin_state(o));
    YX_CHECK(prepare_folder_copy_tokenizer(&o->folder, o->tokenizers->tokenizer));
    YX_CHECK(open_near(o));
    *begin = o->state.position;
    *out = o;
    return YX_OK;
fail:
    prepare_output_close(o);
    return status;
}

// A later run can go on here: shards are complete, and nothing is published.
static bool can_resume(const prepare_output *o) {
    return !o->folder.published &&
           o->state.splits[PREPARE_TRAIN].n_shards + o->state.splits[PREPARE_VALIDATION].n_shards;
}

// Shards that are being finished are worth waiting for.
static void settle(prepare_output *o) {
    char message[2048], origin[256];
    snprintf(message, sizeof message, "%s", yx_message());
    snprintf(origin, sizeof origin, "%s", yx_message_origin());
    if (prepare_finish_wait(&o->finish, o->state.splits) == YX_OK || message[0]) yx_set_message(message, origin);
}

void prepare_output_close(prepare_output *o) {
    if (!o) return;
    settle(o);
    bool keep = can_resume(o);
    if (keep && o->folder.ours)
        yx_warn("%s keeps the %d shards that are complete: the same command goes on behind them", o->folder.partial,
                o->state.splits[PREPARE_TRAIN].n_shards + o->state.splits[PREPARE_VALIDATION].n_shards);
    for (int i = 0; i < PREPARE_SPLITS; i++) shard_writer_abort(o->writer[i]);
    dedup_index_close(o->near);
    prepare_folder_close(&o->folder, keep);
    prepare_pack_free(&o->pack);
    prepare_state_free(&o->state);
    json_decref(o->identity);
    free(o);
}

// --- Shards ---------------------------------------------------------------------------------------------------------
static yx_status open_shard(prepare_output *o, int split) {
    yx_status status = YX_OK;
    char *path = NULL;
    int index = o->started[split];
    const shard_provenance provenance = {.split = manifest_split_name(split),
                                         .tokenizer_name = o->manifest.tokenizer_name,
                                         .tokenizer_sha256 = o->manifest.tokenizer_sha256,
                                         .source = o->source,
                                         .filter = o->filter,
                                         .vocab_size = o->manifest.vocab_size,
                                         .eot_id = o->manifest.eot_id};
    memset(&o->open[split], 0, sizeof o->open[split]);
    snprintf(o->open[split].file, sizeof o->open[split].file, "%s-%05d.h5", manifest_split_name(split), index);
    YX_CHECK(yx_format(&path, "%s/%s", o->folder.partial, o->open[split].file));
    YX_CHECK(shard_writer_open(path, index, &provenance, &o->writer[split]));
    o->started[split]++;
fail:
    free(path);
    return status;
}

// Both splits' shards end together, so that a state needs no half-filled one.
static yx_status close_shards(prepare_output *o) {
    yx_status status = YX_OK;
    YX_CHECK(prepare_finish_wait(&o->finish, o->state.splits));
    if (o->near) YX_CHECK(dedup_index_sync(o->near, &o->state.near_documents));
    o->finish.folder = o->folder.partial;
    o->finish.state = snapshot(o);
    if (!o->finish.state) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the state of %s", o->folder.partial);
    for (int i = 0; i < PREPARE_SPLITS; i++) {
        o->finish.writer[i] = o->writer[i];
        o->finish.entry[i] = o->open[i];
        if (o->writer[i]) o->finish.entry[i].num_tokens = shard_writer_tokens(o->writer[i]);
        o->writer[i] = NULL;
    }
    prepare_finish_start(&o->finish);
fail:
    return status;
}

static yx_status append(prepare_output *o, int split, const encode_job *doc) {
    yx_status status = YX_OK;
    if (!o->writer[split]) YX_CHECK(open_shard(o, split));
    YX_CHECK(
        shard_writer_add(o->writer[split], doc->ids, doc->count, (uint32_t)doc->size, doc->score, doc->source_hash));
    o->open[split].num_docs++;
    o->open[split].num_bytes += (int64_t)doc->size;
    o->stream[split] += (int64_t)doc->count + 1;
fail:
    return status;
}

static yx_status append_best_fit(prepare_output *o) {
    encode_job doc = prepare_pack_pop(&o->pack, o->stream[PREPARE_TRAIN], o->options->pack);
    yx_status status = append(o, PREPARE_TRAIN, &doc);
    free(doc.ids);
    return status;
}

// What waits for its place belongs to the shard that is open.
static yx_status drain(prepare_output *o) {
    yx_status status = YX_OK;
    while (status == YX_OK && o->pack.count > 0) status = append_best_fit(o);
    return status;
}

static yx_status write_document(prepare_output *o, int split, const encode_job *doc) {
    yx_status status = YX_OK;
    bool packs = split == PREPARE_TRAIN && o->options->pack > 0;
    int64_t tokens = o->writer[split] ? shard_writer_tokens(o->writer[split]) : 0;
    if (packs) tokens += o->pack.tokens;
    if (tokens > 0 && tokens + (int64_t)doc->count + 1 > o->options->shard_tokens) {
        YX_CHECK(drain(o));
        YX_CHECK(close_shards(o));
    }
    if (!packs) return append(o, split, doc);
    YX_CHECK(prepare_pack_push(&o->pack, doc));
    if (prepare_pack_is_full(&o->pack)) YX_CHECK(append_best_fit(o));
fail:
    return status;
}

// --- The split ------------------------------------------------------------------------------------------------------
static yx_status release(prepare_output *o, int split) {
    yx_status status = YX_OK;
    while (status == YX_OK && o->state.n_held > 0) {
        status = write_document(o, split, &o->state.held[0].job);
        if (status == YX_OK) prepare_state_release(&o->state, 0);
    }
    return status;
}

static yx_status put(prepare_output *o, const encode_job *doc) {
    yx_status status = YX_OK;
    prepare_state *s = &o->state;
    uint64_t rank = yx_mix64(doc->source_hash, o->options->split_seed);
    if (rank < o->threshold) {
        YX_CHECK(release(o, PREPARE_TRAIN));
        return write_document(o, PREPARE_VALIDATION, doc);
    }
    bool may_be_smallest = o->threshold > 0 && o->started[PREPARE_VALIDATION] == 0;
    if (!may_be_smallest || (s->n_held > 0 && rank > s->held_rank)) return write_document(o, PREPARE_TRAIN, doc);
    if (s->n_held > 0 && rank < s->held_rank) YX_CHECK(release(o, PREPARE_TRAIN));
    YX_CHECK(prepare_state_hold(s, doc));
    s->held_rank = rank;
fail:
    return status;
}

static bool is_dropped(const prepare_output *o, const encode_job *doc, prepare_drop *reason) {
    bool near = o->near && doc->has_words;
    if (doc->counted < o->options->min_tokens) *reason = DROP_TOKENS;
    else if (shard_contains(doc->ids, (int64_t)doc->count, o->manifest.eot_id)) *reason = DROP_END_OF_TEXT;
    else if (near && dedup_index_has(o->near, doc->bands)) *reason = DROP_NEAR_DUPLICATE;
    else return false;
    return true;
}

yx_status prepare_output_add(prepare_output *o, const encode_job *doc) {
    yx_status status = YX_OK;
    prepare_drop reason;
    // Until it is in its place the document counts as not read: a later run would read it again.
    o->state.position = (prepare_position){doc->ordinal - 1, doc->digest};
    if (is_dropped(o, doc, &reason)) {
        o->state.dropped[reason]++;
        return YX_OK;
    }
    YX_CHECK(put(o, doc));
    o->state.chars += doc->chars;
    if (o->near && doc->has_words) YX_CHECK(dedup_index_add(o->near, doc->bands));
fail:
    return status;
}

static void count_shard(prepare_counts *counts, int split, const manifest_shard *s) {
    counts->shards[split]++;
    counts->docs[split] += s->num_docs;
    counts->tokens[split] += s->num_tokens;
    counts->bytes += s->num_bytes;
    counts->kept += s->num_docs;
}

void prepare_output_count(const prepare_output *o, prepare_counts *counts) {
    counts->chars = o->state.chars;
    counts->kept = o->state.n_held;
    counts->bytes = 0;
    counts->resumed_documents = o->resumed_documents;
    counts->resumed_shards = o->resumed_shards;
    for (int i = 0; i < PREPARE_DROPS; i++) counts->dropped[i] += o->state.dropped[i];
    for (int i = 0; i < o->state.n_held; i++) counts->bytes += (int64_t)o->state.held[i].job.size;
    for (int i = 0; i < PREPARE_SPLITS; i++) {
        const manifest_split *done = &o->state.splits[i];
        counts->shards[i] = counts->docs[i] = counts->tokens[i] = 0;
        for (int k = 0; k < done->n_shards; k++) count_shard(counts, i, &done->shards[k]);
        if (o->finish.busy && o->finish.has[i]) count_shard(counts, i, &o->finish.entry[i]);
        if (!o->writer[i]) continue;
        count_shard(counts, i, &o->open[i]);
        counts->tokens[i] += shard_writer_tokens(o->writer[i]);
    }
    counts->docs[PREPARE_TRAIN] += o->pack.count;
    counts->tokens[PREPARE_TRAIN] += o->pack.tokens;
    counts->bytes += o->pack.bytes;
    counts->kept += o->pack.count;
}

// --- The end --------------------------------------------------------------------------------------------------------
// Who gets what was held back: validation, unless training would be left with nothing.
static yx_status settle_split(prepare_output *o, const prepare_counts *counts) {
    if (counts->kept == 0) return prepare_nothing_left(counts);
    if (counts->docs[PREPARE_TRAIN] == 0 && o->state.n_held == 0)
        return yx_fail(YX_ERR_DATA, "all %lld documents fell into the validation split: lower --validation-fraction",
                       (long long)counts->kept);
    bool alone = counts->docs[PREPARE_TRAIN] == 0;
    if (alone && o->state.n_held > 0) yx_warn("there is only one document: the validation split is empty");
    return release(o, alone ? PREPARE_TRAIN : PREPARE_VALIDATION);
}

yx_status prepare_output_finish(prepare_output *o, prepare_position end, const prepare_counts *counts) {
    yx_status status = YX_OK;
    o->state.position = end;
    YX_CHECK(settle_split(o, counts));
    YX_CHECK(drain(o));
    if (o->writer[PREPARE_TRAIN] || o->writer[PREPARE_VALIDATION]) YX_CHECK(close_shards(o));
    YX_CHECK(prepare_finish_wait(&o->finish, o->state.splits));
fail:
    return status;
}

static yx_status write_manifest(prepare_output *o, const prepare_counts *counts) {
    json_t *details = prepare_details(o->options, o->tokenizers, counts);
    if (!details) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the manifest of %s", o->folder.partial);
    memcpy(o->manifest.splits, o->state.splits, sizeof o->manifest.splits);
    yx_status status = manifest_write(o->folder.partial, &o->manifest, details);
    json_decref(details);
    return status;
}

static void remove_helper(const prepare_output *o, const char *name) {
    char *path = NULL;
    if (yx_format(&path, "%s/%s", o->folder.final, name) == YX_OK) unlink(path);
    free(path);
}

// The files that only going on needs leave last: until the rename they are needed.
yx_status prepare_output_publish(prepare_output *o, const prepare_counts *counts) {
    yx_status status = YX_OK;
    YX_CHECK(write_manifest(o, counts));
    YX_CHECK(yx_fsync_path(o->folder.partial));
    YX_CHECK(prepare_folder_publish(&o->folder));
    remove_helper(o, PREPARE_STATE_NAME);
    remove_helper(o, NEAR_NAME);
fail:
    return status;
}

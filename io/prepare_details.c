#include "io/prepare_details.h"
#include "io/dedup.h"
#include "io/prepare_filter.h"
#include "io/shard_file.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

void prepare_describe_source(const prepare_options *options, char *out, size_t capacity) {
    enum { TAIL = 32 };
    size_t used = 0;
    if (options->source) {
        snprintf(out, capacity, "%s", options->source);
        return;
    }
    out[0] = 0;
    for (int i = 0; i < options->n_inputs; i++) {
        if (used + strlen(options->inputs[i]) + TAIL >= capacity) {
            snprintf(out + used, capacity - used, " and %d more", options->n_inputs - i);
            return;
        }
        used += (size_t)snprintf(out + used, capacity - used, "%s%s", i ? ", " : "", options->inputs[i]);
    }
}

static json_t *list_inputs(const prepare_options *options) {
    json_t *list = json_array();
    for (int i = 0; i < options->n_inputs; i++) json_array_append_new(list, json_string(options->inputs[i]));
    return list;
}

static json_t *describe_tokenizer(const yx_tokenizer *t) {
    return json_pack("{s:s, s:s}", "name", tokenizer_name(t), "sha256", tokenizer_sha256(t));
}

static json_t *describe_near_duplicates(const prepare_options *o) {
    if (!o->near_duplicates) return json_null();
    return json_pack("{s:s, s:i, s:i, s:i}", "method", "minhash", "words", DEDUP_WORDS, "bands", DEDUP_BANDS, "rows",
                     DEDUP_ROWS);
}

static json_t *list_fields(const corpus_options *c) {
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "text", c->text_field ? c->text_field : "text", "id",
                     c->id_field ? c->id_field : "id", "score", c->score_field ? c->score_field : "score",
                     "token_count", c->token_count_field ? c->token_count_field : "token_count", "language",
                     c->language_field ? c->language_field : "language");
}

static json_t *list_options(const prepare_options *o, const prepare_tokenizers *t) {
    json_t *score = isnan(o->min_score) ? json_null() : json_real(o->min_score);
    json_t *counter = o->min_tokens > 0 ? describe_tokenizer(t->counter) : json_null();
    return json_pack("{s:o, s:I, s:o, s:I, s:I, s:I, s:s?, s:o, s:I, s:f, s:I, s:I, s:I, s:I, s:b, s:o, s:s?}",
                     "min_score", score, "min_tokens", (json_int_t)o->min_tokens, "min_tokens_counted_with", counter,
                     "min_token_count", (json_int_t)o->min_token_count, "min_chars", (json_int_t)o->min_chars,
                     "max_chars", (json_int_t)o->max_chars, "language", o->language, "near_duplicates",
                     describe_near_duplicates(o), "max_documents", (json_int_t)o->max_documents, "validation_fraction",
                     o->validation_fraction, "split_seed", (json_int_t)o->split_seed, "shard_tokens",
                     (json_int_t)o->shard_tokens, "pack", (json_int_t)o->pack, "max_line_bytes",
                     (json_int_t)o->corpus.max_line_bytes, "strict", (int)o->corpus.strict, "fields",
                     list_fields(&o->corpus), "source", o->source);
}

static json_t *list_counts(const prepare_counts *c) {
    json_t *dropped = json_object(), *malformed = json_object();
    for (int i = 0; i < PREPARE_DROPS; i++)
        json_object_set_new(dropped, prepare_drop_name(i), json_integer(c->dropped[i]));
    for (int i = 0; i < CORPUS_MALFORMED_KINDS; i++)
        json_object_set_new(malformed, corpus_malformed_name(i), json_integer(c->corpus.malformed[i]));
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "documents_read", (json_int_t)c->corpus.documents,
                     "text_bytes_read", (json_int_t)c->corpus.bytes, "documents_kept", (json_int_t)c->kept,
                     "characters_kept", (json_int_t)c->chars, "bytes_kept", (json_int_t)c->bytes,
                     "documents_judged_by_int_score", (json_int_t)c->rounded_scores, "dropped", dropped,
                     "malformed_lines", malformed);
}

json_t *prepare_identity(const prepare_options *options, const prepare_tokenizers *t) {
    return json_pack("{s:s, s:o, s:o, s:o}", "writer", "yxanul " YX_VERSION, "tokenizer",
                     describe_tokenizer(t->tokenizer), "inputs", list_inputs(options), "options",
                     list_options(options, t));
}

json_t *prepare_details(const prepare_options *options, const prepare_tokenizers *t, const prepare_counts *counts) {
    char filter[SHARD_MAX_PROVENANCE];
    prepare_filter_describe(options, tokenizer_name(t->counter), filter, sizeof filter);
    return json_pack("{s:s, s:o, s:o, s:o}", "filter", filter, "inputs", list_inputs(options), "options",
                     list_options(options, t), "counts", list_counts(counts));
}

yx_status prepare_nothing_left(const prepare_counts *c) {
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

// yxanul eval.
#include "cli/cli.h"
#include "cli/options.h"
#include "coordinator/load_model.h"
#include "coordinator/setup.h"
#include "worker/bigram.h"
#include "worker/evaluate.h"
#include "comm/comm.h"
#include "common/file.h"
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: yxanul eval --checkpoint DIR [--data DIR] [options]\n"
    "\n"
    "Bits per byte of the validation documents: nats of all text tokens / (ln 2 · UTF-8 bytes), windows of T tokens.\n"
    "\n"
    "  --checkpoint DIR         a checkpoint, or a run folder (its newest)\n"
    "  --data DIR               prepared shards (default: the run's data.path)\n"
    "  --seq-len T              window (default: the run's evaluation length)\n"
    "  --max-tokens N           whole documents up to N tokens (default: all)\n"
    "  --precision fp32|bf16    default: the run's (bf16 for an fp8 run)\n"
    "  --device auto|cpu|cuda   default: auto\n"
    "  --bigram                 also a token bigram model counted on the training documents\n"
    "  --json                   one JSON object on standard output\n";

typedef struct options {
    const char *checkpoint, *data;
    int64_t seq_len, max_tokens;
    int precision;
    config_device device;
    bool bigram, json, help;
} options;

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"checkpoint", CLI_TEXT, &o->checkpoint},
        {"data", CLI_TEXT, &o->data},
        {"seq-len", CLI_INT, &o->seq_len, 1, 1 << 20},
        {"max-tokens", CLI_INT, &o->max_tokens, 1, INT64_MAX},
        {"precision", CLI_PRECISION, &o->precision},
        {"device", CLI_DEVICE, &o->device},
        {"bigram", CLI_FLAG, &o->bigram},
        {"json", CLI_FLAG, &o->json},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status == YX_OK && !o->help) status = cli_parse_rest(argc, argv, NULL);
    if (status != YX_OK || o->help || o->checkpoint) return status;
    return yx_fail(YX_ERR_USAGE, "eval needs --checkpoint DIR");
}

static void print_text(const loaded_model *m, const options *o, const evaluate_result *r, const bigram_result *b) {
    printf("checkpoint     %s (step %lld, %lld tokens)\n", checkpoint_path(m->checkpoint), (long long)m->steps,
           (long long)m->tokens);
    printf("validation     %lld text tokens, %lld bytes, windows of %lld\n", (long long)r->tokens, (long long)r->bytes,
           (long long)o->seq_len);
    printf("model          %.4f bits/byte   %.4f nats/token\n", r->bits_per_byte, r->loss);
    if (o->bigram) {
        printf("bigram         %.4f bits/byte   (%lld pairs; weights tuned on %lld held-out training tokens)\n",
               b->bits_per_byte, (long long)b->pairs, (long long)b->held_out);
        printf("unigram        %.4f bits/byte\n", b->unigram_bits_per_byte);
        printf("model/bigram   %.4f\n", r->bits_per_byte / b->bits_per_byte);
    }
    printf("by position    ");
    for (int i = 0; i < r->num_buckets; i++)
        printf("%s%lld+: %.3f", i ? "  " : "", (long long)evaluate_bucket_begin(i), r->bucket_loss[i]);
    printf("  (nats/token)\n");
}

static yx_status print_json(const loaded_model *m, const options *o, const evaluate_result *r, const bigram_result *b) {
    json_t *positions = json_array();
    for (int i = 0; i < r->num_buckets; i++)
        json_array_append_new(positions,
                              json_pack("{s:I, s:f, s:I}", "begin", (json_int_t)evaluate_bucket_begin(i), "loss",
                                        r->bucket_loss[i], "tokens", (json_int_t)r->bucket_tokens[i]));
    json_t *out =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:o}", "checkpoint", checkpoint_path(m->checkpoint), "step",
                  (json_int_t)m->steps, "seq_len", (json_int_t)o->seq_len, "tokens", (json_int_t)r->tokens, "bytes",
                  (json_int_t)r->bytes, "bits_per_byte", r->bits_per_byte, "loss", r->loss, "positions", positions);
    if (out && o->bigram) {
        json_object_set_new(out, "bigram_bits_per_byte", json_real(b->bits_per_byte));
        json_object_set_new(out, "unigram_bits_per_byte", json_real(b->unigram_bits_per_byte));
    }
    if (!out || json_dumpf(out, stdout, JSON_COMPACT) != 0) {
        json_decref(out);
        return yx_fail(YX_ERR_IO, "cannot write the result");
    }
    putchar('\n');
    json_decref(out);
    return YX_OK;
}

static yx_status evaluate(options *o) {
    yx_status status = YX_OK;
    const yx_ops *ops;
    yx_device *device = NULL;
    loaded_model m = {0};
    dataset *validation = NULL, *train = NULL;
    yx_group *group = NULL;
    const char *path;
    evaluate_result result;
    bigram_result bigram = {0};
    YX_CHECK(group_open_solo(&group));
    YX_CHECK(setup_device(o->device, NULL, 0, &ops, &device));
    YX_CHECK(load_model(o->checkpoint, ops, device, o->precision, o->seq_len > 4096 ? o->seq_len : 4096, &m));
    path = o->data ? o->data : m.config.data.path;
    YX_CHECK(dataset_open(path, "validation", m.config.data.verify, &validation));
    const char *sha = json_string_value(json_object_get(checkpoint_meta(m.checkpoint), "tokenizer_sha256"));
    if (!sha || strcmp(sha, dataset_get_info(validation)->tokenizer_sha256) != 0)
        YX_FAIL(YX_ERR_MISMATCH, "%s was made with another tokenizer than the checkpoint was trained with", path);
    if (o->seq_len == 0) o->seq_len = loaded_model_seq_len(&m);
    if (o->seq_len > m.config.model.max_position_embeddings)
        YX_FAIL(YX_ERR_USAGE, "--seq-len %lld: the model has %lld positions (model.max_position_embeddings)",
                (long long)o->seq_len, (long long)m.config.model.max_position_embeddings);
    YX_CHECK(evaluate_run(m.model, group, validation, m.config.data.document_mask, o->seq_len, o->max_tokens, &result));
    if (o->bigram) {
        YX_CHECK(dataset_open(path, "train", false, &train));
        YX_CHECK(bigram_run(train, validation, &bigram));
    }
    if (o->json) YX_CHECK(print_json(&m, o, &result, &bigram));
    else print_text(&m, o, &result, &bigram);
fail:
    dataset_close(train);
    dataset_close(validation);
    loaded_model_free(&m);
    if (device) ops->close(device);
    group_close(group);
    return status;
}

int cli_eval(int argc, char **argv) {
    options o = {.precision = -1};
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("eval", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    return cli_fail(evaluate(&o));
}

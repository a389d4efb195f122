// yxanul eval.
#include "cli/cli.h"
#include "cli/eval_print.h"
#include "cli/options.h"
#include "coordinator/setup.h"
#include "comm/comm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: yxanul eval --checkpoint DIR [--data DIR] [--tasks FILE …] [options]\n"
    "\n"
    "Bits per byte of the validation documents: nats of all text tokens / (ln 2 · UTF-8 bytes), windows of T tokens; "
    "and\n"
    "the share of multiple-choice questions whose answer the model finds the most probable.\n"
    "\n"
    "  --checkpoint DIR         a checkpoint, or a run folder (its newest)\n"
    "  --data DIR               prepared shards (default: the run's data.path; with --tasks: none, and no bits per "
    "byte)\n"
    "  --seq-len T              window (default: the run's evaluation length)\n"
    "  --max-tokens N           whole documents up to N tokens (default: all)\n"
    "  --bigram                 also a token bigram model counted on the training documents\n"
    "  --tasks FILE             questions, one a line: {\"context\": \"…\", \"choices\": [\" …\", …], \"answer\": 0}, "
    "or as HellaSwag,\n"
    "                           ARC and OpenBookQA are published; may be repeated: one task each (docs/evaluation.md)\n"
    "  --max-questions N        the first N of each file (default: all)\n"
    "  --per-question FILE      writes a JSON line for each question: every choice's log-probability\n"
    "  --precision fp32|bf16    default: the run's (bf16 for an fp8 run)\n"
    "  --device auto|cpu|cuda   default: auto\n"
    "  --json                   one JSON object on standard output\n";

enum { LEAST_ROWS = 4096 }; // of a micro-batch: short sequences share one

typedef struct options {
    const char *checkpoint, *data;
    int64_t seq_len, max_tokens;
    cli_values task_files;
    multiple_choice_options tasks;
    int precision;
    config_device device;
    bool bigram, json, help;
} options;

// What belongs to the documents or to the tasks is not silently without effect.
static yx_status check(options *o) {
    if (!o->checkpoint) return yx_fail(YX_ERR_USAGE, "eval needs --checkpoint DIR");
    o->tasks.paths = o->task_files.items;
    o->tasks.num_paths = o->task_files.count;
    if (o->tasks.num_paths == 0 && (o->tasks.max_questions || o->tasks.per_question))
        return yx_fail(YX_ERR_USAGE, "--max-questions and --per-question need --tasks FILE");
    if (o->tasks.num_paths > 0 && !o->data && (o->seq_len || o->max_tokens || o->bigram))
        return yx_fail(YX_ERR_USAGE, "with --tasks, --seq-len, --max-tokens and --bigram need --data DIR");
    return YX_OK;
}

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"checkpoint", CLI_TEXT, &o->checkpoint},
        {"data", CLI_TEXT, &o->data},
        {"seq-len", CLI_INT, &o->seq_len, 1, 1 << 20},
        {"max-tokens", CLI_INT, &o->max_tokens, 1, INT64_MAX},
        {"bigram", CLI_FLAG, &o->bigram},
        {"tasks", CLI_TEXTS, &o->task_files},
        {"max-questions", CLI_INT, &o->tasks.max_questions, 1, INT64_MAX},
        {"per-question", CLI_TEXT, &o->tasks.per_question},
        {"precision", CLI_PRECISION, &o->precision},
        {"device", CLI_DEVICE, &o->device},
        {"json", CLI_FLAG, &o->json},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status == YX_OK && !o->help) status = cli_parse_rest(argc, argv, NULL);
    return status != YX_OK || o->help ? status : check(o);
}

static const char *data_path(const options *o, const loaded_model *m) {
    return o->data ? o->data : m->config.data.path;
}

static yx_status open_documents(const options *o, const loaded_model *m, dataset **out, int64_t *seq_len) {
    yx_status status = YX_OK;
    const char *sha = json_string_value(json_object_get(checkpoint_meta(m->checkpoint), "tokenizer_sha256"));
    YX_CHECK(dataset_open(data_path(o, m), "validation", m->config.data.verify, out));
    if (!sha || strcmp(sha, dataset_get_info(*out)->tokenizer_sha256) != 0)
        YX_FAIL(YX_ERR_MISMATCH, "%s was made with another tokenizer than the checkpoint was trained with",
                data_path(o, m));
    *seq_len = o->seq_len ? o->seq_len : loaded_model_seq_len(m);
    if (*seq_len > m->config.model.max_position_embeddings)
        YX_FAIL(YX_ERR_USAGE, "--seq-len %lld: the model has %lld positions (model.max_position_embeddings)",
                (long long)*seq_len, (long long)m->config.model.max_position_embeddings);
fail:
    return status;
}

static yx_status evaluate_documents(const options *o, const loaded_model *m, const dataset *validation,
                                    eval_result *r) {
    yx_status status = YX_OK;
    yx_group *group = NULL;
    dataset *train = NULL;
    YX_CHECK(group_open_solo(&group));
    YX_CHECK(
        evaluate_run(m->model, group, validation, m->config.data.document_mask, r->seq_len, o->max_tokens, &r->bits));
    r->has_bits = true;
    if (o->bigram) {
        YX_CHECK(dataset_open(data_path(o, m), "train", false, &train));
        YX_CHECK(bigram_run(train, validation, &r->bigram));
        r->has_bigram = true;
    }
fail:
    dataset_close(train);
    group_close(group);
    return status;
}

static yx_status evaluate(const options *o) {
    yx_status status = YX_OK;
    const yx_ops *ops;
    yx_device *device = NULL;
    loaded_model m = {0};
    dataset *validation = NULL;
    multiple_choice_result *tasks = calloc((size_t)o->tasks.num_paths + 1, sizeof *tasks);
    eval_result result = {.model = &m, .tasks = tasks, .num_tasks = o->tasks.num_paths};
    if (!tasks) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d tasks", o->tasks.num_paths);
    YX_CHECK(setup_device(o->device, NULL, 0, &ops, &device));
    YX_CHECK(
        load_model(o->checkpoint, ops, device, o->precision, o->seq_len > LEAST_ROWS ? o->seq_len : LEAST_ROWS, &m));
    if (o->data || o->tasks.num_paths == 0) YX_CHECK(open_documents(o, &m, &validation, &result.seq_len));
    if (o->tasks.num_paths > 0) YX_CHECK(multiple_choice_run(&m, &o->tasks, tasks));
    if (validation) YX_CHECK(evaluate_documents(o, &m, validation, &result));
    if (o->json) YX_CHECK(eval_print_json(&result));
    else eval_print_text(&result);
fail:
    free(tasks);
    dataset_close(validation);
    loaded_model_free(&m);
    if (device) ops->close(device);
    return status;
}

int cli_eval(int argc, char **argv) {
    options o = {.precision = -1};
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("eval", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    return cli_fail(evaluate(&o));
}

// yxanul plan: what a configuration comes to. Trains nothing.
#include "coordinator/plan.h"
#include "cli/cli.h"
#include "cli/plan_ranks.h"
#include "coordinator/plan_lint.h"
#include "coordinator/plan_model.h"
#include "coordinator/setup.h"
#include "worker/memory.h"
#include "io/shard_manifest.h"
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

static const char help[] =
    "usage: yxanul plan --config FILE [--set KEY=VALUE …] [--corpus-tokens N] [--ranks N]\n"
    "                   [--bench FILE [--bus GB/s [--latency US]]] [--json]\n"
    "\n"
    "Shows what a configuration comes to: size of the model, stages with their tokens, steps and learning rates, "
    "operations\n"
    "to compute, and warnings. Trains nothing.\n"
    "\n"
    "  --config FILE        the configuration\n"
    "  --set KEY=VALUE …    change a key of it (docs/configuration.md); may be repeated\n"
    "  --corpus-tokens N    plan for N training tokens (1k = 1000, 1M, 1G) instead of reading data.path\n"
    "  --ranks N            memory as one of N ranks (default 1), and with --bench their speed\n"
    "  --bench FILE         what `yxanul bench train --json` printed for this configuration, on one rank or several: a "
    "second\n"
    "                       table says what its stages come to on --ranks ranks, computed, with the gradients in fp32 "
    "and in bf16\n"
    "                       (training.gradient_wire), and the fastest of 1, 2, 4 … N ranks: the fewest within 1 % of "
    "it\n"
    "  --bus GB/s           over each rank's connection, as `yxanul bench comm` prints them for sums (default: as FILE "
    "measured)\n"
    "  --latency US         microseconds of a small sum (default 0: in the GB/s)\n"
    "  --json               one JSON object on standard output\n"
    "  --print-reference    print docs/configuration.md: all keys of a configuration\n"
    "\n"
    "exit codes: 0 done, 2 wrong usage, 3 configuration wrong or its schedule does not add up, 4 the data's manifest\n"
    "is damaged, or FILE is not what bench train printed, 5 the data has another vocabulary, or FILE is of another\n"
    "model, precision or other stages, 6 reading failed\n";

typedef struct plan_options {
    const char *config;
    const char **sets;
    int num_sets;
    int64_t corpus_tokens; // 0: of data.path
    int64_t ranks;
    const char *bench;
    double bus, latency; // GB/s, 0: not given; microseconds
    bool json, print_reference, print_help;
} plan_options;

typedef struct plan_report {
    const yx_config *config;
    const yx_plan *plan;
    int64_t corpus_tokens, ranks;
    const plan_ranks *several; // NULL: without --bench
} plan_report;

// --- Figures both forms show ----------------------------------------------------------------------------------------
static double epochs_at(const yx_plan *p, int64_t tokens) {
    return (double)tokens / (double)(p->blocks_per_epoch * PLAN_BLOCK_TOKENS);
}

static int64_t stage_tokens(const plan_stage *s) { return s->token_end - s->token_begin; }

static double first_rate(const yx_plan *p, int64_t i) { return plan_learning_rate(p, i, p->stages[i].token_begin); }

static double last_rate(const yx_plan *p, int64_t i) {
    const plan_stage *s = &p->stages[i];
    return plan_learning_rate(p, i, s->token_begin + (s->num_steps - 1) * plan_tokens_per_step(s));
}

static double stage_flops(const plan_report *r, int64_t i) {
    const plan_stage *s = &r->plan->stages[i];
    return plan_flops_per_token(&r->config->model, s->seq_len) * (double)stage_tokens(s);
}

static double total_flops(const plan_report *r) {
    double sum = 0;
    for (int64_t i = 0; i < r->plan->num_stages; i++) sum += stage_flops(r, i);
    return sum;
}

// --- For people -----------------------------------------------------------------------------------------------------
static void print_run(const plan_report *r) {
    const yx_plan *p = r->plan;
    printf("model    %" PRId64 " parameters (%" PRId64 " of them gains of norms)\n",
           plan_model_parameters(&r->config->model), plan_norm_parameters(&r->config->model));
    printf("corpus   %" PRId64 " tokens, %" PRId64 " blocks of %d in shuffle windows of %" PRId64 "\n",
           r->corpus_tokens, p->blocks_per_epoch, PLAN_BLOCK_TOKENS, p->window_blocks);
    printf("run      %" PRId64 " tokens, %.4g epochs, %" PRId64 " windows, %" PRId64 " steps\n", p->total_tokens,
           epochs_at(p, p->total_tokens), plan_num_windows(p), p->total_steps);
    printf("compute  %.4g floating-point operations, %.4g per token\n\n", total_flops(r),
           total_flops(r) / (double)p->total_tokens);
}

static void print_stages(const plan_report *r) {
    const yx_plan *p = r->plan;
    printf("%5s %5s %9s %10s %8s %14s %6s %15s %9s %9s %5s %8s  %s\n", "stage", "T", "sequences", "tokens/step",
           "steps", "tokens", "%", "epochs", "lr first", "lr last", "clip", "GF/token", "description");
    for (int64_t i = 0; i < p->num_stages; i++) {
        const plan_stage *s = &p->stages[i];
        printf("%5" PRId64 " %5" PRId64 " %9" PRId64 " %11" PRId64 " %8" PRId64 " %14" PRId64
               " %6.2f %7.3f-%7.3f %9.3e "
               "%9.3e %5.3g %8.4g  %s\n",
               i + 1, s->seq_len, s->batch_size, plan_tokens_per_step(s), s->num_steps, stage_tokens(s),
               100 * (double)stage_tokens(s) / (double)p->total_tokens, epochs_at(p, s->token_begin),
               epochs_at(p, s->token_end), first_rate(p, i), last_rate(p, i), s->grad_clip,
               plan_flops_per_token(&r->config->model, s->seq_len) / 1e9, s->description);
    }
}

static void print_warning(void *context, const char *text) {
    bool *any = context;
    printf("%swarning: %s\n", *any ? "" : "\n", text);
    *any = true;
}

// Memory of one rank, by the device the configuration names.
static yx_status print_memory(const plan_report *r) {
    yx_status status = YX_OK;
    const yx_ops *ops;
    yx_device *device = NULL;
    yx_device_info info;
    memory_report m;
    int64_t tokens;
    YX_CHECK(setup_device(r->config->training.device, NULL, 0, &ops, &device));
    YX_CHECK(ops->info(device, &info));
    status = memory_micro_tokens(ops, device, r->config, (int)r->ranks, r->plan->window_blocks, &tokens);
    if (status == YX_ERR_NO_MEMORY) { // a plan may be for another machine than this
        printf("\nnot on this machine: %s\n", yx_message());
        status = YX_OK;
        goto fail;
    }
    YX_CHECK(status);
    YX_CHECK(memory_plan(ops, device, r->config, (int)r->ranks, r->plan->window_blocks, tokens, &m));
    printf("\nmemory of a rank on %s, micro-batches of up to %" PRId64 " tokens\n", info.name, m.micro_tokens);
    for (int i = 0; i < MEMORY_ITEMS && m.items[i].name; i++)
        printf("  %-28s %10.1f MB\n", m.items[i].name, (double)m.items[i].bytes / 1e6);
    printf("  %-28s %10.1f MB\n", "together", (double)m.total / 1e6);
fail:
    if (device) ops->close(device);
    return status;
}

static yx_status print_text(const plan_report *r) {
    bool any_warning = false;
    print_run(r);
    print_stages(r);
    yx_status status = print_memory(r);
    if (status != YX_OK) return status;
    if (r->several) plan_ranks_print(r->several);
    plan_lint(r->config, r->plan, print_warning, &any_warning);
    return fflush(stdout) == 0 ? YX_OK : yx_fail_errno("cannot write the plan");
}

// --- For programs ---------------------------------------------------------------------------------------------------
static json_t *stage_to_json(const plan_report *r, int64_t i) {
    const plan_stage *s = &r->plan->stages[i];
    return json_pack("{sI sI sI sI sI sI sI sI sf sf sf sf sf sf sf sI sf sf ss}", "stage", (json_int_t)(i + 1),
                     "seq_len", (json_int_t)s->seq_len, "batch_size", (json_int_t)s->batch_size, "tokens_per_step",
                     (json_int_t)plan_tokens_per_step(s), "step_begin", (json_int_t)s->step_begin, "num_steps",
                     (json_int_t)s->num_steps, "token_begin", (json_int_t)s->token_begin, "token_end",
                     (json_int_t)s->token_end, "share", (double)stage_tokens(s) / (double)r->plan->total_tokens,
                     "epoch_begin", epochs_at(r->plan, s->token_begin), "epoch_end", epochs_at(r->plan, s->token_end),
                     "lr_first", first_rate(r->plan, i), "lr_last", last_rate(r->plan, i), "lr_scale", s->lr_scale,
                     "grad_clip", s->grad_clip, "warmup_tokens", (json_int_t)s->warmup_tokens, "flops_per_token",
                     plan_flops_per_token(&r->config->model, s->seq_len), "flops", stage_flops(r, i), "description",
                     s->description);
}

static json_t *run_to_json(const plan_report *r) {
    const yx_plan *p = r->plan;
    char hash[32];
    snprintf(hash, sizeof hash, "%016" PRIx64, p->hash);
    return json_pack("{sI sI sI sI sI sI sI sI sf sf ss}", "parameters",
                     (json_int_t)plan_model_parameters(&r->config->model), "norm_parameters",
                     (json_int_t)plan_norm_parameters(&r->config->model), "corpus_tokens", (json_int_t)r->corpus_tokens,
                     "blocks_per_epoch", (json_int_t)p->blocks_per_epoch, "window_blocks", (json_int_t)p->window_blocks,
                     "num_windows", (json_int_t)plan_num_windows(p), "total_tokens", (json_int_t)p->total_tokens,
                     "total_steps", (json_int_t)p->total_steps, "epochs", epochs_at(p, p->total_tokens), "flops",
                     total_flops(r), "plan_hash", hash);
}

static void append_warning(void *context, const char *text) { json_array_append_new(context, json_string(text)); }

static yx_status print_json(const plan_report *r) {
    yx_status status = YX_OK;
    json_t *root = run_to_json(r), *stages = json_array(), *warnings = json_array();
    for (int64_t i = 0; i < r->plan->num_stages; i++) json_array_append_new(stages, stage_to_json(r, i));
    plan_lint(r->config, r->plan, append_warning, warnings);
    json_object_set(root, "stages", stages);
    json_object_set(root, "warnings", warnings);
    if (r->several) plan_ranks_json(r->several, root);
    if (json_array_size(json_object_get(root, "stages")) != (size_t)r->plan->num_stages ||
        !json_object_get(root, "warnings"))
        YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the plan");
    if (json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) != 0 || puts("") < 0 || fflush(stdout) != 0)
        status = yx_fail_errno("cannot write the plan");
fail:
    json_decref(stages);
    json_decref(warnings);
    json_decref(root);
    return status;
}

// --- The command ----------------------------------------------------------------------------------------------------
static yx_status read_corpus_tokens(const plan_options *o, const yx_config *config, int64_t *out) {
    yx_status status = YX_OK;
    shard_manifest manifest = {0};
    const char *path = config->data.path;
    *out = o->corpus_tokens;
    if (*out > 0) return YX_OK;
    status = yx_context(manifest_read(path, &manifest), "data.path (--corpus-tokens N plans without it)");
    *out = manifest.splits[MANIFEST_TRAIN].num_tokens;
    if (status == YX_OK && manifest.vocab_size != config->model.vocab_size)
        status = yx_fail(YX_ERR_MISMATCH, "%s was made with a vocabulary of %u tokens; model.vocab_size is %lld", path,
                         manifest.vocab_size, (long long)config->model.vocab_size);
    manifest_free(&manifest);
    return status;
}

static yx_status run(const plan_options *o) {
    yx_status status = YX_OK;
    yx_config *config = calloc(1, sizeof *config);
    yx_plan *plan = calloc(1, sizeof *plan);
    plan_ranks *several = calloc(1, sizeof *several);
    plan_ranks_options wanted = {o->bench, o->bus, o->latency, (int)o->ranks};
    plan_report report = {.config = config, .plan = plan, .ranks = o->ranks};
    if (!config || !plan || !several) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the plan");
    YX_CHECK(config_load(o->config, o->sets, o->num_sets, config));
    YX_CHECK(read_corpus_tokens(o, config, &report.corpus_tokens));
    YX_CHECK(plan_build(config, report.corpus_tokens, plan));
    if (o->bench) {
        YX_CHECK(plan_ranks_open(&wanted, config, plan, several));
        report.several = several;
    }
    YX_CHECK(o->json ? print_json(&report) : print_text(&report));
fail:
    free(several);
    free(plan);
    free(config);
    return status;
}

enum {
    OPT_CONFIG = 256,
    OPT_SET,
    OPT_CORPUS_TOKENS,
    OPT_RANKS,
    OPT_BENCH,
    OPT_BUS,
    OPT_LATENCY,
    OPT_JSON,
    OPT_REFERENCE,
    OPT_HELP
};
static const struct option long_options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"set", required_argument, NULL, OPT_SET},
    {"corpus-tokens", required_argument, NULL, OPT_CORPUS_TOKENS},
    {"ranks", required_argument, NULL, OPT_RANKS},
    {"bench", required_argument, NULL, OPT_BENCH},
    {"bus", required_argument, NULL, OPT_BUS},
    {"latency", required_argument, NULL, OPT_LATENCY},
    {"json", no_argument, NULL, OPT_JSON},
    {"print-reference", no_argument, NULL, OPT_REFERENCE},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

// `o->sets` has room for every argument. Returns an exit code, 0 to go on.
static int parse_option(int code, char **argv, plan_options *o) {
    switch (code) {
    case OPT_CONFIG:
        o->config = optarg;
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_REFERENCE:
        o->print_reference = true;
        return 0;
    case 'h':
    case OPT_HELP:
        o->print_help = true;
        return 0;
    case OPT_SET:
        o->sets[o->num_sets++] = optarg;
        return 0;
    case OPT_CORPUS_TOKENS:
        if (cli_parse_int("corpus-tokens", optarg, 1, INT64_MAX, &o->corpus_tokens) == YX_OK) return 0;
        return cli_usage_error("plan", "%s", yx_message());
    case OPT_RANKS:
        if (cli_parse_int("ranks", optarg, 1, 65536, &o->ranks) == YX_OK) return 0;
        return cli_usage_error("plan", "%s", yx_message());
    case OPT_BENCH:
        o->bench = optarg;
        return 0;
    case OPT_BUS:
        if (cli_parse_real("bus", optarg, 1e-6, 1e6, &o->bus) == YX_OK) return 0;
        return cli_usage_error("plan", "%s", yx_message());
    case OPT_LATENCY:
        if (cli_parse_real("latency", optarg, 0, 1e9, &o->latency) == YX_OK) return 0;
        return cli_usage_error("plan", "%s", yx_message());
    case 1: // behind a --set, more of them
        if (o->num_sets == 0) return cli_usage_error("plan", "unexpected argument '%s'", optarg);
        o->sets[o->num_sets++] = optarg;
        return 0;
    case ':':
        return cli_usage_error("plan", "%s needs a value", argv[optind - 1]);
    default:
        return cli_usage_error("plan", "unknown option %s", argv[optind - 1]);
    }
}

int cli_plan(int argc, char **argv) {
    plan_options o = {.ranks = 1, .sets = calloc((size_t)argc + 1, sizeof *o.sets)};
    int code, result = 0;
    if (!o.sets) return cli_fail(yx_fail(YX_ERR_NO_MEMORY, "no memory"));
    opterr = 0;
    optind = 1;
    while (result == 0 && (code = getopt_long(argc, argv, "-:h", long_options, NULL)) != -1)
        result = parse_option(code, argv, &o);
    if (result == 0 && o.print_help) fputs(help, stdout);
    else if (result == 0 && o.print_reference) result = cli_fail(config_write_reference(stdout));
    else if (result == 0 && !o.config) result = cli_usage_error("plan", "--config is missing");
    else if (result == 0 && o.bus > 0 && !o.bench) result = cli_usage_error("plan", "--bus needs --bench FILE");
    else if (result == 0 && o.latency > 0 && o.bus == 0)
        result = cli_usage_error("plan", "--latency needs --bus: what FILE measured has it in its GB/s");
    else if (result == 0) result = cli_fail(run(&o));
    free(o.sets);
    return result;
}

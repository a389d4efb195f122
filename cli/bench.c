// yxanul bench.
#include "cli/cli.h"
#include "coordinator/bench_train.h"
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: yxanul bench train --config FILE [options]\n"
    "\n"
    "Speed of whole optimizer steps on random tokens, stage by stage, beside the rate of a large fp32 matrix product\n"
    "(2048 × 2048 × 2048, best of 7) measured in the same run. GFLOP/s counts what a step strictly needs: 6 per weight "
    "and\n"
    "token, and causal attention.\n"
    "\n"
    "  --config FILE              the configuration (docs/configuration.md)\n"
    "  --set KEY=VALUE …          change keys; may be repeated\n"
    "  --stages 1,5,10            only these stages (default: all)\n"
    "  --steps N                  timed steps of each stage, the median counts (default 5)\n"
    "  --precision, --device      as for train\n"
    "  --json                     one JSON object on standard output\n";

enum { MAX_SETS = 256 };
typedef struct options {
    const char *config, *sets[MAX_SETS];
    int num_sets;
    uint64_t stages;
    int64_t steps;
    bool json, help;
    char shorthand[2][64];
} options;

static yx_status add_set(options *o, const char *text) {
    if (o->num_sets == MAX_SETS) return yx_fail(YX_ERR_USAGE, "at most %d --set", MAX_SETS);
    o->sets[o->num_sets++] = text;
    return YX_OK;
}

static yx_status parse_stages(const char *text, uint64_t *out) {
    *out = 0;
    for (const char *p = text;; p++) {
        char *end;
        long stage = strtol(p, &end, 10);
        if (end == p || stage < 1 || stage > CONFIG_MAX_STAGES || (*end && *end != ','))
            return yx_fail(YX_ERR_USAGE, "--stages: '%s' is not a list of stages such as 1,5,10", text);
        *out |= (uint64_t)1 << (stage - 1);
        p = end;
        if (!*end) return YX_OK;
    }
}

static yx_status parse_option(int c, const char *value, char **argv, options *o) {
    switch (c) {
    case 'c':
        o->config = value;
        return YX_OK;
    case 's':
        return add_set(o, value);
    case 'p':
        snprintf(o->shorthand[0], sizeof o->shorthand[0], "training.precision=%s", value);
        return add_set(o, o->shorthand[0]);
    case 'd':
        snprintf(o->shorthand[1], sizeof o->shorthand[1], "training.device=%s", value);
        return add_set(o, o->shorthand[1]);
    case 'g':
        return parse_stages(value, &o->stages);
    case 'n':
        return cli_parse_int("steps", value, 1, 1000, &o->steps);
    case 'j':
        o->json = true;
        return YX_OK;
    case 'h':
        o->help = true;
        return YX_OK;
    default:
        return yx_fail(YX_ERR_USAGE, "'%s' is not an option of bench, or lacks its value", argv[optind - 1]);
    }
}

static yx_status parse(int argc, char **argv, options *o) {
    static const struct option longs[] = {{"config", 1, 0, 'c'}, {"set", 1, 0, 's'},  {"stages", 1, 0, 'g'},
                                          {"steps", 1, 0, 'n'},  {"json", 0, 0, 'j'}, {"precision", 1, 0, 'p'},
                                          {"device", 1, 0, 'd'}, {"help", 0, 0, 'h'}, {0}};
    yx_status status = YX_OK;
    opterr = 0;
    optind = 1;
    for (int c; status == YX_OK && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;)
        status = parse_option(c, optarg, argv, o);
    if (status != YX_OK || o->help) return status;
    if (optind >= argc || strcmp(argv[optind++], "train") != 0)
        return yx_fail(YX_ERR_USAGE, "bench what? It knows: train");
    while (status == YX_OK && o->num_sets > 0 && optind < argc && strchr(argv[optind], '='))
        status = add_set(o, argv[optind++]);
    if (status != YX_OK) return status;
    if (optind < argc) return yx_fail(YX_ERR_USAGE, "bench does not know what to do with '%s'", argv[optind]);
    return o->config ? YX_OK : yx_fail(YX_ERR_USAGE, "bench train needs --config FILE");
}

static void print_text(const bench_train *b) {
    printf("%s: fp32 matrix product %.1f GFLOP/s; micro-batches of up to %lld tokens\n\n", b->device,
           b->matmul_rate / 1e9, (long long)b->micro_tokens);
    printf("%6s %9s %12s %11s %12s %10s %14s\n", "T", "sequences", "tokens/step", "ms/step", "tokens/s", "GFLOP/s",
           "of the product");
    for (int64_t i = 0; i < b->num_stages; i++) {
        const bench_stage *s = &b->stages[i];
        printf("%6lld %9lld %12lld %11.1f %12.0f %10.1f %13.1f%%\n", (long long)s->seq_len, (long long)s->batch_size,
               (long long)s->tokens, s->seconds * 1e3, (double)s->tokens / s->seconds, s->flops / s->seconds / 1e9,
               100 * s->flops / s->seconds / b->matmul_rate);
    }
}

static yx_status print_json(const bench_train *b) {
    json_t *stages = json_array(), *out;
    for (int64_t i = 0; i < b->num_stages; i++) {
        const bench_stage *s = &b->stages[i];
        json_array_append_new(
            stages, json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "seq_len", (json_int_t)s->seq_len, "sequences",
                              (json_int_t)s->batch_size, "tokens", (json_int_t)s->tokens, "seconds", s->seconds,
                              "tokens_per_second", (double)s->tokens / s->seconds, "flops_per_second",
                              s->flops / s->seconds, "share", s->flops / s->seconds / b->matmul_rate));
    }
    out = json_pack("{s:s, s:f, s:I, s:o}", "device", b->device, "matmul_flops_per_second", b->matmul_rate,
                    "micro_batch_tokens", (json_int_t)b->micro_tokens, "stages", stages);
    if (!out || json_dumpf(out, stdout, JSON_COMPACT) != 0) {
        json_decref(out);
        return yx_fail(YX_ERR_IO, "cannot write the result");
    }
    putchar('\n');
    json_decref(out);
    return YX_OK;
}

int cli_bench(int argc, char **argv) {
    options o = {.steps = 5, .stages = UINT64_MAX};
    static yx_config config;
    static bench_train result;
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("bench", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    status = config_load(o.config, o.sets, o.num_sets, &config);
    if (status == YX_OK) status = bench_train_run(&config, o.stages, o.steps, &result);
    if (status != YX_OK) return cli_fail(status);
    if (o.json) return cli_fail(print_json(&result));
    print_text(&result);
    return 0;
}

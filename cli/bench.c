// yxanul bench.
#include "cli/bench_print.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "coordinator/bench_train.h"
#include <getopt.h> // optind
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: yxanul bench train --config FILE [options]\n"
    "\n"
    "Speed of whole optimizer steps on random tokens, stage by stage, beside the rates of large matrix products of "
    "the\n"
    "same precision and of a large copy measured in the same run. \"of peak\" is the time that the operations a step\n"
    "strictly needs (6 a weight and token, and causal attention), each at the rate of its precision, would take, over "
    "the\n"
    "measured time. Then the time of each group of operations, and the share of its ceiling: products at the measured\n"
    "rate, the others at the speed of the copy.\n"
    "\n"
    "  --config FILE              the configuration (docs/configuration.md)\n"
    "  --set KEY=VALUE …          change keys; may be repeated\n"
    "  --stages 1,5,10            only these stages (default: all)\n"
    "  --steps N                  timed steps of each stage, the median counts (default 5)\n"
    "  --precision, --device      as for train\n"
    "  --portable                 only kernels that every supported card has\n"
    "  --json                     one JSON object on standard output\n";

typedef struct options {
    const char *config, *stage_list;
    cli_values sets;
    uint64_t stages;
    int64_t steps;
    bool json, portable, help;
    char precision[CLI_MAX_SETTING], device[CLI_MAX_SETTING];
} options;

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

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"config", CLI_TEXT, &o->config},
        {"set", CLI_TEXTS, &o->sets},
        {"precision", CLI_SETTING, &o->sets, .key = "training.precision", .setting = o->precision},
        {"device", CLI_SETTING, &o->sets, .key = "training.device", .setting = o->device},
        {"stages", CLI_TEXT, &o->stage_list},
        {"steps", CLI_INT, &o->steps, 1, 1000},
        {"portable", CLI_FLAG, &o->portable},
        {"json", CLI_FLAG, &o->json},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status == YX_OK && o->stage_list) status = parse_stages(o->stage_list, &o->stages);
    if (status != YX_OK || o->help) return status;
    if (optind >= argc || strcmp(argv[optind++], "train") != 0)
        return yx_fail(YX_ERR_USAGE, "bench what? It knows: train");
    status = cli_parse_rest(argc, argv, &o->sets);
    if (status != YX_OK || o->config) return status;
    return yx_fail(YX_ERR_USAGE, "bench train needs --config FILE");
}

int cli_bench(int argc, char **argv) {
    options o = {.steps = 5, .stages = UINT64_MAX};
    static yx_config config;
    static bench_train result;
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("bench", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    status = config_load(o.config, o.sets.items, o.sets.count, &config);
    bench_options wanted = {o.stages, o.steps, o.portable};
    if (status == YX_OK) status = bench_train_run(&config, &wanted, &result);
    if (status != YX_OK) return cli_fail(status);
    if (o.json) return cli_fail(bench_print_json(&result));
    bench_print_text(&result);
    return 0;
}

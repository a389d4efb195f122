// yxanul bench.
#include "cli/bench_loader.h"
#include "cli/bench_print.h"
#include "cli/cli.h"
#include "cli/options.h"
#include <ctype.h>
#include <getopt.h> // optind
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: yxanul bench train   --config FILE [--stages 1,5,10] [--steps N] [options]\n"
    "       yxanul bench kernels --config FILE [--tokens M] [--length T,…] [options]\n"
    "       mpirun -np N yxanul bench comm --config FILE [--device cuda|cpu] [--json]\n"
    "       yxanul bench loader  --config FILE: see yxanul bench loader --help\n"
    "\n"
    "train: speed of whole optimizer steps on random tokens, stage by stage, beside the rates of large matrix products "
    "of\n"
    "the same precision and of a large copy measured in the same run. \"of peak\" is the time that the operations a "
    "step\n"
    "strictly needs (6 a weight and token, and causal attention), each at the rate of its precision, would take, over "
    "the\n"
    "measured time. Then the time of each group of operations, and the share of its ceiling: products at the measured\n"
    "rate, the others at the speed of the copy.\n"
    "\n"
    "Under mpirun or srun the sequences are divided over the ranks, and a further table shows what they exchange in a\n"
    "step, and how much of that is not hidden behind the backward pass.\n"
    "\n"
    "comm: how fast the ranks exchange, by size.\n"
    "\n"
    "kernels: every operation of the model by itself on random tensors: its median time with nothing in the caches, "
    "its\n"
    "rate, the share of the same ceilings (operations count as in the profile of bench train: causal attention 2·T "
    "times its\n"
    "width a token forward and 2.5 times that backward, the head two products each way; bytes are those that must be "
    "read\n"
    "and written once), and the largest relative error of its results against a reference in float64.\n"
    "\n"
    "  --config FILE              the configuration (docs/configuration.md)\n"
    "  --set KEY=VALUE …          change keys; may be repeated\n"
    "  --stages 1,5,10            train: only these stages (default: all)\n"
    "  --steps N                  train: timed steps of each stage, the median counts (default 5)\n"
    "  --tokens M                 kernels: tokens of a micro-batch, a multiple of 128 (default: as train chooses)\n"
    "  --length T …               kernels: lengths of attention's sequences (default 8 32 128 512 2048, as they fit)\n"
    "  --precision, --device      as for train\n"
    "  --portable                 only kernels that every supported card has\n"
    "  --json                     one JSON object on standard output\n"
    "\n"
    "exit codes: 0 done, 1 an operation's results are wrong, 2 wrong usage, 3 configuration wrong, 6 writing failed,\n"
    "8 not enough memory, 9 no such device, or one that cannot compute in this precision\n";

typedef struct options {
    const char *config, *what, *stage_list;
    cli_values sets, length_lists;
    uint64_t stages;
    int64_t steps;
    bench_kernels_options kernels;
    bool json, portable, help;
    char precision[CLI_MAX_SETTING], device[CLI_MAX_SETTING];
} options;

// Adds the lengths of one list.
static yx_status parse_lengths(const char *text, bench_kernels_options *out) {
    for (const char *p = text;; p++) {
        char *end;
        long length = strtol(p, &end, 10);
        if (end == p || length < 1 || length > 1 << 24 || (*end && *end != ','))
            return yx_fail(YX_ERR_USAGE, "--length: '%s' is not a list of lengths such as 8,128,2048", text);
        if (out->num_lengths == BENCH_MAX_LENGTHS)
            return yx_fail(YX_ERR_USAGE, "--length: at most %d lengths", BENCH_MAX_LENGTHS);
        out->lengths[out->num_lengths++] = length;
        p = end;
        if (!*end) return YX_OK;
    }
}

// What only one of the two knows.
static yx_status check_train(options *o) {
    if (o->kernels.tokens || o->length_lists.count > 0)
        return yx_fail(YX_ERR_USAGE, "--tokens and --length are options of bench kernels");
    if (!o->steps) o->steps = 5;
    o->stages = UINT64_MAX;
    return o->stage_list ? cli_parse_stages(o->stage_list, &o->stages) : YX_OK;
}

static yx_status check_kernels(int argc, char **argv, options *o) {
    yx_status status = YX_OK;
    if (o->stage_list || o->steps) return yx_fail(YX_ERR_USAGE, "--stages and --steps are options of bench train");
    if (o->kernels.tokens % 128)
        return yx_fail(YX_ERR_USAGE, "--tokens: %lld is not a multiple of 128", (long long)o->kernels.tokens);
    for (int i = 0; i < o->length_lists.count && status == YX_OK; i++)
        status = parse_lengths(o->length_lists.items[i], &o->kernels);
    // --length 8 128: what follows the first
    while (status == YX_OK && o->length_lists.count > 0 && optind < argc && isdigit((unsigned char)*argv[optind]))
        status = parse_lengths(argv[optind++], &o->kernels);
    o->kernels.portable = o->portable;
    return status;
}

static yx_status parse_what(int argc, char **argv, options *o) {
    o->what = optind < argc ? argv[optind++] : "";
    if (strcmp(o->what, "train") == 0) return check_train(o);
    if (strcmp(o->what, "kernels") == 0) return check_kernels(argc, argv, o);
    if (strcmp(o->what, "comm") == 0) return YX_OK;
    return yx_fail(YX_ERR_USAGE, "bench what? It knows: train, kernels, comm, and (as the first word) loader");
}

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"config", CLI_TEXT, &o->config},
        {"set", CLI_TEXTS, &o->sets},
        {"precision", CLI_SETTING, &o->sets, .key = "training.precision", .setting = o->precision},
        {"device", CLI_SETTING, &o->sets, .key = "training.device", .setting = o->device},
        {"stages", CLI_TEXT, &o->stage_list},
        {"steps", CLI_INT, &o->steps, 1, 1000},
        {"tokens", CLI_INT, &o->kernels.tokens, 128, 1 << 24},
        {"length", CLI_TEXTS, &o->length_lists},
        {"portable", CLI_FLAG, &o->portable},
        {"json", CLI_FLAG, &o->json},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status != YX_OK || o->help) return status;
    status = parse_what(argc, argv, o);
    if (status == YX_OK) status = cli_parse_rest(argc, argv, &o->sets);
    if (status != YX_OK || o->config) return status;
    return yx_fail(YX_ERR_USAGE, "bench %s needs --config FILE", o->what);
}

static yx_status train_in(const options *o, const yx_config *config, yx_group *group) {
    static bench_train result;
    bench_options wanted = {o->stages, o->steps, o->portable};
    yx_status status = bench_train_run(config, &wanted, group, &result);
    if (status != YX_OK || group_rank(group) > 0) return status;
    if (o->json) return bench_print_json(&result);
    bench_print_text(&result);
    return YX_OK;
}

static yx_status comm_in(const options *o, const yx_config *config, yx_group *group) {
    bench_comm result;
    yx_status status = bench_comm_run(config->training.device, group, &result);
    if (status != YX_OK || group_rank(group) > 0) return status;
    if (o->json) return bench_print_comm_json(&result);
    bench_print_comm_text(&result);
    return YX_OK;
}

// On all ranks that the launcher started; one that fails ends the others.
static int run_in_group(const options *o, const yx_config *config,
                        yx_status (*work)(const options *, const yx_config *, yx_group *)) {
    yx_group *group;
    yx_status status = group_open(&group);
    if (status != YX_OK) return cli_fail(status);
    status = work(o, config, group);
    fflush(stdout);
    if (status != YX_OK) {
        cli_fail(status);
        if (group_size(group) > 1) group_abort(group, (int)status);
    }
    group_close(group);
    return (int)status;
}

static int run_kernels(const options *o, const yx_config *config) {
    static bench_kernels result;
    yx_status status = bench_kernels_run(config, &o->kernels, &result);
    if (status == YX_OK && o->json) status = bench_print_kernels_json(&result);
    if (status != YX_OK) return cli_fail(status);
    if (!o->json) bench_print_kernels_text(&result);
    int64_t wrong = bench_kernels_wrong(&result);
    if (wrong == 0) return 0;
    fflush(stdout); // the message comes after the table
    return cli_fail(yx_fail(YX_ERR_INTERNAL, "the results of %lld operations are further than %.0e from the reference",
                            (long long)wrong, result.error_bound));
}

int cli_bench(int argc, char **argv) {
    static options o;
    static yx_config config;
    if (argc > 1 && strcmp(argv[1], "loader") == 0) return cli_bench_loader(argc - 1, argv + 1);
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("bench", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    status = config_load(o.config, o.sets.items, o.sets.count, &config);
    if (status == YX_OK) status = cli_check_stages(o.stages, &config);
    if (status != YX_OK) return cli_fail(status);
    if (strcmp(o.what, "kernels") == 0) return run_kernels(&o, &config);
    return run_in_group(&o, &config, strcmp(o.what, "train") == 0 ? train_in : comm_in);
}

// yxanul train.
#include "cli/cli.h"
#include "comm/comm.h"
#include "common/log.h"
#include "coordinator/train.h"
#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: yxanul train --config FILE [options]\n"
    "       mpirun -np N yxanul train --config FILE [options]\n"
    "\n"
    "  --config FILE                 the run's configuration (docs/configuration.md)\n"
    "  --set KEY=VALUE …             change keys; may be repeated\n"
    "  --precision fp32|bf16|fp8     the same as --set training.precision=…\n"
    "  --device auto|cpu|cuda        the same as --set training.device=…\n"
    "  --resume auto|never|FOLDER    continue the run's newest checkpoint (default), start afresh, or load a "
    "checkpoint\n"
    "  --max-steps N                 stop, with a checkpoint, after N steps of this start\n"
    "  --quiet                       warnings and errors only\n"
    "\n"
    "SIGTERM, SIGINT and SIGUSR1 stop the run at the next step with a checkpoint and exit code 75; the same command\n"
    "continues it. Exit codes: docs/operations.md.\n";

enum { MAX_SETS = 256 };
typedef struct options {
    const char *config, *resume;
    const char *sets[MAX_SETS];
    int num_sets;
    int64_t max_steps;
    bool quiet, help;
    char shorthand[2][64]; // --precision and --device as --set
} options;

static yx_status add_set(options *o, const char *text) {
    if (o->num_sets == MAX_SETS) return yx_fail(YX_ERR_USAGE, "at most %d --set", MAX_SETS);
    o->sets[o->num_sets++] = text;
    return YX_OK;
}

static yx_status parse(int argc, char **argv, options *o) {
    static const struct option longs[] = {{"config", 1, 0, 'c'}, {"set", 1, 0, 's'},    {"precision", 1, 0, 'p'},
                                          {"device", 1, 0, 'd'}, {"resume", 1, 0, 'r'}, {"max-steps", 1, 0, 'm'},
                                          {"quiet", 0, 0, 'q'},  {"help", 0, 0, 'h'},   {0}};
    yx_status status = YX_OK;
    opterr = 0;
    optind = 1;
    for (int c; status == YX_OK && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        switch (c) {
        case 'c':
            o->config = optarg;
            break;
        case 's':
            status = add_set(o, optarg);
            break;
        case 'p':
            snprintf(o->shorthand[0], sizeof o->shorthand[0], "training.precision=%s", optarg);
            status = add_set(o, o->shorthand[0]);
            break;
        case 'd':
            snprintf(o->shorthand[1], sizeof o->shorthand[1], "training.device=%s", optarg);
            status = add_set(o, o->shorthand[1]);
            break;
        case 'r':
            o->resume = optarg;
            break;
        case 'm':
            status = cli_parse_int("max-steps", optarg, 1, INT64_MAX, &o->max_steps);
            break;
        case 'q':
            o->quiet = true;
            break;
        case 'h':
            o->help = true;
            break;
        default:
            status = yx_fail(YX_ERR_USAGE, "'%s' is not an option of train, or lacks its value", argv[optind - 1]);
        }
    }
    // More KEY=VALUE may follow one --set.
    while (status == YX_OK && o->num_sets > 0 && optind < argc && strchr(argv[optind], '='))
        status = add_set(o, argv[optind++]);
    if (status == YX_OK && !o->help && optind < argc)
        status = yx_fail(YX_ERR_USAGE, "train does not know what to do with '%s'", argv[optind]);
    if (status == YX_OK && !o->help && !o->config) status = yx_fail(YX_ERR_USAGE, "train needs --config FILE");
    return status;
}

int cli_train(int argc, char **argv) {
    options o = {.resume = "auto"};
    yx_group *group = NULL;
    static train_options train; // a configuration is large
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("train", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    status = group_open(&group);
    if (status != YX_OK) return cli_fail(status);
    yx_log_setup(o.quiet ? YX_LOG_WARN : YX_LOG_INFO, group_size(group) > 1 ? group_rank(group) : -1);
    status = config_load(o.config, o.sets, o.num_sets, &train.config);
    status = group_agree(group, status);
    if (status == YX_OK) {
        train.resume = o.resume;
        train.max_steps = o.max_steps;
        status = train_run(&train, group);
    }
    if (status == YX_ERR_INTERRUPTED) {
        yx_info("%s", yx_message());
    } else if (status != YX_OK) {
        cli_fail(status);
        group_abort(group, (int)status);
    }
    group_close(group);
    return (int)status;
}

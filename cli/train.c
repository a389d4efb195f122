// yxanul train.
#include "cli/cli.h"
#include "cli/options.h"
#include "comm/comm.h"
#include "common/log.h"
#include "coordinator/train.h"
#include <stdio.h>

static const char help[] =
    "usage: yxanul train --config FILE [options]\n"
    "       mpirun -np N yxanul train --config FILE [options]\n"
    "\n"
    "  --config FILE                 the run's configuration (docs/configuration.md)\n"
    "  --set KEY=VALUE …             change keys; may be repeated\n"
    "  --precision fp32|bf16|fp8     the same as --set training.precision=…\n"
    "  --device auto|cpu|cuda        the same as --set training.device=…\n"
    "  --resume auto|never|FOLDER    continue the run's newest checkpoint (default); start afresh; begin from another\n"
    "                                run's checkpoint, or go back to one of this run\n"
    "  --max-steps N                 stop, with a checkpoint, after N steps of this start\n"
    "  --quiet                       warnings and errors only\n"
    "\n"
    "SIGTERM, SIGINT, SIGUSR1 and SIGHUP stop the run at the next step with a checkpoint and exit code 75; the same\n"
    "command continues it. Exit codes: docs/operations.md.\n";

typedef struct options {
    const char *config, *resume;
    cli_values sets;
    int64_t max_steps;
    bool quiet, help;
    char precision[CLI_MAX_SETTING], device[CLI_MAX_SETTING];
} options;

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"config", CLI_TEXT, &o->config},
        {"set", CLI_TEXTS, &o->sets},
        {"precision", CLI_SETTING, &o->sets, .key = "training.precision", .setting = o->precision},
        {"device", CLI_SETTING, &o->sets, .key = "training.device", .setting = o->device},
        {"resume", CLI_TEXT, &o->resume},
        {"max-steps", CLI_INT, &o->max_steps, 1, INT64_MAX},
        {"quiet", CLI_FLAG, &o->quiet},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status == YX_OK && !o->help) status = cli_parse_rest(argc, argv, &o->sets);
    if (status != YX_OK || o->help || o->config) return status;
    return yx_fail(YX_ERR_USAGE, "train needs --config FILE");
}

// Says why a run failed. Where all ranks know that it did, the lowest that failed says so for all; a rank that failed
// alone says it and ends the others, which may be waiting for it.
static int report(yx_group *group, yx_status status, bool usage) {
    int rank = group_rank(group), failed = group_failed_rank(group);
    if (failed < 0 || failed == rank) {
        if (rank > 0) yx_context(status, "rank %d", rank);
        if (usage) cli_usage_error("train", "%s", yx_message());
        else cli_fail(status);
    }
    if (failed < 0) group_abort(group, (int)status);
    group_barrier(group); // a launcher ends all ranks when the first one exits: not before the message is out
    return (int)status;
}

static int train(const options *o, yx_group *group) {
    static train_options run; // a configuration is large
    yx_log_setup(o->quiet ? YX_LOG_WARN : YX_LOG_INFO, group_size(group) > 1 ? group_rank(group) : -1);
    run.resume = o->resume;
    run.max_steps = o->max_steps;
    yx_status status = config_load(o->config, o->sets.items, o->sets.count, &run.config);
    status = group_agree(group, status);
    if (status == YX_OK) status = train_run(&run, group);
    if (status == YX_ERR_INTERRUPTED) yx_info("%s", yx_message());
    return status == YX_OK || status == YX_ERR_INTERRUPTED ? (int)status : report(group, status, false);
}

int cli_train(int argc, char **argv) {
    options o = {.resume = "auto"};
    yx_group *group = NULL;
    yx_status status = group_open(&group);
    if (status != YX_OK) return cli_fail(status);
    int result;
    status = group_agree(group, parse(argc, argv, &o));
    if (status != YX_OK) result = report(group, status, true);
    else if (o.help) result = group_rank(group) == 0 && fputs(help, stdout) < 0;
    else result = train(&o, group);
    group_close(group);
    return result;
}

// yxanul report.
#include "coordinator/report.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "common/file.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] = "usage: yxanul report RUN [--output FILE]\n"
                           "\n"
                           "A page about the run folder RUN, which may be that of a run under way: curves, stages, "
                           "events. It needs nothing but\n"
                           "a browser. `yxanul train` writes the same page by itself (logging.report).\n"
                           "\n"
                           "  --output FILE   where to (default: report.html in RUN)\n"
                           "\n"
                           "exit codes: docs/operations.md\n";

static yx_status report(const char *run_dir, const char *output) {
    char *path = NULL;
    report_summary made;
    yx_status status = yx_format(&path, "%s%s", output ? output : run_dir, output ? "" : "/report.html");
    if (status == YX_OK) status = report_run(run_dir, path, &made);
    if (status == YX_OK) {
        printf("%s: ", path);
        if (made.step >= 0) printf("step %lld, %lld tokens", (long long)made.step, (long long)made.tokens);
        else printf("no step yet");
        if (made.damaged > 0) printf("; %lld damaged lines of the log left out", (long long)made.damaged);
        printf("\n");
    }
    free(path);
    return status;
}

int cli_report(int argc, char **argv) {
    const char *output = NULL;
    bool wants_help = false;
    const cli_option table[] = {{"output", CLI_TEXT, &output}, {"help", CLI_FLAG, &wants_help}, {0}};
    if (cli_parse_options(argc, argv, table) != YX_OK) return cli_usage_error("report", "%s", yx_message());
    if (wants_help) return fputs(help, stdout) < 0;
    if (argc - optind != 1) return cli_usage_error("report", "report takes one RUN");
    return cli_fail(report(argv[optind], output));
}

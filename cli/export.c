// yxanul export.
#include "cli/cli.h"
#include "cli/options.h"
#include "coordinator/export.h"
#include <stdio.h>

static const char help[] =
    "usage: yxanul export --checkpoint DIR --output DIR [options]\n"
    "\n"
    "A trained model for other programs: Hugging Face's layout of Llama (config.json, model.safetensors) with the\n"
    "tokenizer. The embedding is written without factors, E·P, and tied to the head.\n"
    "\n"
    "  --checkpoint DIR     a checkpoint, or a run folder (its newest)\n"
    "  --output DIR         a folder that does not exist or is empty\n"
    "  --precision P        of the weights: bf16 (default) or fp32\n"
    "  --force              replace an earlier export\n"
    "\n"
    "exit codes: docs/operations.md\n";

typedef struct options {
    export_options export;
    int precision;
    bool help;
} options;

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"checkpoint", CLI_TEXT, &o->export.checkpoint},
        {"output", CLI_TEXT, &o->export.output},
        {"precision", CLI_PRECISION, &o->precision},
        {"force", CLI_FLAG, &o->export.force},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status == YX_OK && !o->help) status = cli_parse_rest(argc, argv, NULL);
    if (status != YX_OK || o->help) return status;
    o->export.dtype = o->precision == PRECISION_FP32 ? YX_F32 : YX_BF16;
    if (!o->export.checkpoint) return yx_fail(YX_ERR_USAGE, "export needs --checkpoint DIR");
    return o->export.output ? YX_OK : yx_fail(YX_ERR_USAGE, "export needs --output DIR");
}

int cli_export(int argc, char **argv) {
    options o = {.precision = PRECISION_BF16};
    export_report report;
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("export", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    status = export_run(&o.export, &report);
    if (status != YX_OK) return cli_fail(status);
    printf("checkpoint  %s (step %lld)\n", report.checkpoint, (long long)report.step);
    printf("weights     %lld in %s, %.1f MB\n", (long long)report.parameters,
           o.export.dtype == YX_BF16 ? "bf16" : "fp32", (double)report.bytes / 1e6);
    printf("written to  %s\n", o.export.output);
    return 0;
}

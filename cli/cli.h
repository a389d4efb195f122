// What the commands share. A command is `int cli_NAME(int argc, char **argv)` with argv[0] its name; it parses, calls
// the rooms below, prints, and returns the exit code (common/status.h).
#pragma once
#include "common/status.h"
#include "io/config.h"
#include <stdint.h>

int cli_train(int argc, char **argv);
int cli_plan(int argc, char **argv);
int cli_prepare(int argc, char **argv);
int cli_tokenizer(int argc, char **argv);
int cli_eval(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_export(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_report(int argc, char **argv);

// Prints "error: MESSAGE" (and, with YX_DEBUG set in the environment, where it was raised) on standard error; returns
// the exit code for `status`.
int cli_fail(yx_status status);
// Prints "error: …" and "see `yxanul COMMAND --help`"; returns YX_ERR_USAGE.
int cli_usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Parses a whole number / a real number ("6e-4", "2.6e9"; 1k = 1000, 1M, 1G allowed for whole numbers) of option
// `name`.
yx_status cli_parse_int(const char *name, const char *text, int64_t min, int64_t max, int64_t *out);
yx_status cli_parse_real(const char *name, const char *text, double min, double max, double *out);
// "auto", "cpu", "cuda".
yx_status cli_parse_device(const char *text, config_device *out);
// "fp32", "bf16" (what evaluation can run in): the config_precision.
yx_status cli_parse_precision(const char *text, int *out);

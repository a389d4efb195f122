#include "cli/cli.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_fail(yx_status status) {
    if (status == YX_OK) return 0;
    fprintf(stderr, "error: %s\n", yx_message());
    if (getenv("YX_DEBUG")) fprintf(stderr, "  (%s, raised at %s)\n", yx_status_name(status), yx_message_origin());
    return (int)status;
}

int cli_usage_error(const char *command, const char *format, ...) {
    va_list args;
    fputs("error: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nsee `yxanul %s --help`\n", command);
    return YX_ERR_USAGE;
}

yx_status cli_parse_real(const char *name, const char *text, double min, double max, double *out) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) return yx_fail(YX_ERR_USAGE, "--%s: '%s' is not a number", name, text);
    if (value < min || value > max) return yx_fail(YX_ERR_USAGE, "--%s: %s is outside %g … %g", name, text, min, max);
    *out = value;
    return YX_OK;
}

yx_status cli_parse_int(const char *name, const char *text, int64_t min, int64_t max, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    int64_t unit = *end == 'k' ? 1000 : *end == 'M' ? 1000000 : *end == 'G' ? 1000000000 : 1;
    if (end == text || end[unit > 1 ? 1 : 0] || errno == ERANGE)
        return yx_fail(YX_ERR_USAGE, "--%s: '%s' is not a whole number", name, text);
    if (__builtin_mul_overflow(value, unit, &value) || value < min || value > max)
        return yx_fail(YX_ERR_USAGE, "--%s: %s is outside %lld … %lld", name, text, (long long)min, (long long)max);
    *out = value;
    return YX_OK;
}

yx_status cli_parse_device(const char *text, config_device *out) {
    static const char *const names[] = {[DEVICE_AUTO] = "auto", [DEVICE_CPU] = "cpu", [DEVICE_CUDA] = "cuda"};
    for (int i = DEVICE_AUTO; i <= DEVICE_CUDA; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = (config_device)i;
        return YX_OK;
    }
    return yx_fail(YX_ERR_USAGE, "--device: '%s' is none of auto, cpu, cuda", text);
}

yx_status cli_parse_precision(const char *text, int *out) {
    if (strcmp(text, "fp32") != 0 && strcmp(text, "bf16") != 0)
        return yx_fail(YX_ERR_USAGE, "--precision: '%s' is none of fp32, bf16", text);
    *out = strcmp(text, "fp32") == 0 ? PRECISION_FP32 : PRECISION_BF16;
    return YX_OK;
}

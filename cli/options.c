#include "cli/options.h"
#include "cli/cli.h"
#include "io/config.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static yx_status add(cli_values *values, const char *name, const char *text) {
    if (values->count == CLI_MAX_VALUES) return yx_fail(YX_ERR_USAGE, "at most %d --%s", CLI_MAX_VALUES, name);
    values->items[values->count++] = text;
    return YX_OK;
}

static yx_status take(const cli_option *o, const char *text) {
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->out = true;
        return YX_OK;
    case CLI_TEXT:
        *(const char **)o->out = text;
        return YX_OK;
    case CLI_TEXTS:
        return add(o->out, o->name, text);
    case CLI_INT:
        return cli_parse_int(o->name, text, o->min, o->max, o->out);
    case CLI_REAL:
        return cli_parse_real(o->name, text, o->low, o->high, o->out);
    case CLI_DEVICE:
        return cli_parse_device(text, o->out);
    case CLI_PRECISION:
        return cli_parse_precision(text, o->out);
    case CLI_SETTING:
        snprintf(o->setting, CLI_MAX_SETTING, "%s=%s", o->key, text);
        return add(o->out, "set", o->setting);
    }
    return yx_fail(YX_ERR_INTERNAL, "--%s is of no kind", o->name);
}

yx_status cli_parse_options(int argc, char **argv, const cli_option *table) {
    struct option longs[CLI_MAX_OPTIONS + 1] = {0};
    int count = 0;
    for (; table[count].name && count < CLI_MAX_OPTIONS; count++) {
        int value = strcmp(table[count].name, "help") == 0 ? 'h' : 256 + count;
        longs[count] = (struct option){table[count].name, table[count].kind != CLI_FLAG, NULL, value};
    }
    if (table[count].name) return yx_fail(YX_ERR_INTERNAL, "%s has too many options", argv[0]);
    opterr = 0;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        int i = 0;
        while (i < count && longs[i].val != c) i++;
        if (i == count)
            return yx_fail(YX_ERR_USAGE, "'%s' is not an option of %s, or lacks its value", argv[optind - 1], argv[0]);
        yx_status status = take(&table[i], optarg);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

yx_status cli_parse_rest(int argc, char **argv, cli_values *sets) {
    yx_status status = YX_OK;
    while (status == YX_OK && sets && sets->count > 0 && optind < argc && strchr(argv[optind], '='))
        status = add(sets, "set", argv[optind++]);
    if (status == YX_OK && optind < argc)
        status = yx_fail(YX_ERR_USAGE, "%s does not know what to do with '%s'", argv[0], argv[optind]);
    return status;
}

yx_status cli_parse_stages(const char *text, uint64_t *out) {
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

yx_status cli_check_stages(uint64_t stages, const yx_config *config) {
    int64_t n = config->training.num_stages;
    if (stages == UINT64_MAX || n >= 64 || stages >> n == 0) return YX_OK;
    return yx_fail(YX_ERR_USAGE, "--stages: the configuration has %lld stages", (long long)n);
}

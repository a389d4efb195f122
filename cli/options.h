// The options of a command as a table: names, kinds and where the values go.
#pragma once
#include "common/status.h"
#include "io/config.h"
#include <stdint.h>

enum { CLI_MAX_OPTIONS = 16, CLI_MAX_VALUES = 256, CLI_MAX_SETTING = 64 };

typedef struct cli_values { // of an option that may be repeated; borrowed from argv
    const char *items[CLI_MAX_VALUES];
    int count;
} cli_values;

typedef enum cli_kind {
    CLI_FLAG,      // bool: no value
    CLI_TEXT,      // const char *, borrowed from argv
    CLI_TEXTS,     // cli_values
    CLI_INT,       // int64_t in min … max
    CLI_REAL,      // double in low … high
    CLI_DEVICE,    // config_device
    CLI_PRECISION, // int: the config_precision of an evaluation
    CLI_SETTING    // cli_values: gets "KEY=VALUE", written to `setting`
} cli_kind;

typedef struct cli_option {
    const char *name; // without "--"
    cli_kind kind;
    void *out;
    int64_t min, max;
    double low, high;
    const char *key;
    char *setting; // [CLI_MAX_SETTING]
} cli_option;

// Reads the options of argv[1 …] (argv[0]: the command's name) by a table that ends with an empty entry; "-h" is short
// for its "help". Arguments that are no options are left, from argv[optind] on.
yx_status cli_parse_options(int argc, char **argv, const cli_option *table);
// What follows the options: KEY=VALUE behind a --set (`sets`, NULL: there is none), and nothing else.
yx_status cli_parse_rest(int argc, char **argv, cli_values *sets);
// "1,5,10" as bits 0, 4 and 9.
yx_status cli_parse_stages(const char *text, uint64_t *out);
// Whether the configuration has all of them (UINT64_MAX: whatever it has).
yx_status cli_check_stages(uint64_t stages, const yx_config *config);

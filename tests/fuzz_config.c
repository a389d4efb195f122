// libFuzzer target: any bytes as a configuration. What is accepted is written, read again, and the same. The first line
// may be overrides: "#set KEY=VALUE".
#include "common/log.h"
#include "coordinator/plan.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static yx_config config, again;
static yx_plan plan;

static void check_accepted(void) {
    char *yaml, first[65], second[65];
    if (config_to_yaml(&config, &yaml) != YX_OK) abort();
    if (config_load_text(yaml, strlen(yaml), "resolved", "/nonexistent", NULL, 0, &again) != YX_OK) abort();
    if (memcmp(&config, &again, sizeof config) != 0) abort();
    if (config_identity(&config, first) != YX_OK || config_identity(&again, second) != YX_OK) abort();
    if (strcmp(first, second) != 0) abort();
    free(yaml);
}

static void check_plan(void) {
    plan_step step;
    if (plan_build(&config, 20000000, &plan) != YX_OK) return;
    for (int64_t i = 0; i < plan.num_stages; i++)
        if (plan_step_at(&plan, plan.stages[i].token_begin, &step) != YX_OK || step.stage != i) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char mark[] = "#set ";
    char set[256];
    const char *sets[] = {set};
    size_t n = sizeof mark - 1;
    yx_log_setup(YX_LOG_ERROR, -1);
    const uint8_t *end = size > n && memcmp(data, mark, n) == 0 ? memchr(data, '\n', size) : NULL;
    bool has_set = end && (size_t)(end - data) - n < sizeof set;
    if (has_set) {
        memcpy(set, data + n, (size_t)(end - data) - n);
        set[(size_t)(end - data) - n] = 0;
    }
    if (config_load_text((const char *)data, size, "fuzz", "/nonexistent", sets, has_set, &config) != YX_OK) return 0;
    check_accepted();
    check_plan();
    return 0;
}

// The configuration back to text: the resolved YAML and the identity.
#include "common/hash.h"
#include "io/config_keys.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VALUE = 2 * CONFIG_MAX_TEXT + 4 };

typedef struct writer {
    FILE *out;
    const yx_config *config;
    bool identity_only;
} writer;

static bool is_written(const writer *w, const config_key *key) {
    return (key->identity || !w->identity_only) && (!key->applies || key->applies(w->config));
}

// The keys of one section, each with `indent` in front, the first with `first_indent`.
static void write_keys(const writer *w, config_section section, const void *base, const char *first_indent,
                       const char *indent) {
    char value[MAX_VALUE];
    for (int i = 0; i < config_num_keys; i++) {
        const config_key *key = &config_keys[i];
        if (key->section != section || !is_written(w, key)) continue;
        if (!config_key_format(key, base, value, sizeof value)) continue;
        fprintf(w->out, "%s%s: %s\n", first_indent, key->name, value);
        first_indent = indent;
    }
}

static bool has_written_keys(const writer *w, config_section section) {
    for (int i = 0; i < config_num_keys; i++)
        if (config_keys[i].section == section && is_written(w, &config_keys[i])) return true;
    return false;
}

static void write_config(const writer *w) {
    const config_training *t = &w->config->training;
    write_keys(w, SECTION_ROOT, w->config, "", "");
    for (int s = SECTION_ROOT + 1; s < SECTION_COUNT; s++) {
        if (s == SECTION_STAGE || !has_written_keys(w, (config_section)s)) continue;
        fprintf(w->out, "%s:\n", config_sections[s].name);
        write_keys(w, (config_section)s, w->config, "  ", "  ");
        if (s != SECTION_TRAINING) continue;
        fprintf(w->out, "  %s:\n", config_sections[SECTION_STAGE].name);
        for (int64_t i = 0; i < t->num_stages; i++) write_keys(w, SECTION_STAGE, &t->stages[i], "    - ", "      ");
    }
}

static yx_status write_to_memory(const yx_config *config, bool identity_only, char **out, size_t *size) {
    *out = NULL;
    FILE *file = open_memstream(out, size);
    if (!file) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the configuration");
    write_config(&(writer){.out = file, .config = config, .identity_only = identity_only});
    bool failed = ferror(file) != 0;
    if (fclose(file) == 0 && !failed) return YX_OK;
    free(*out);
    *out = NULL;
    return yx_fail(YX_ERR_NO_MEMORY, "no memory for the configuration");
}

yx_status config_to_yaml(const yx_config *config, char **out) {
    size_t size;
    return write_to_memory(config, false, out, &size);
}

// A key's value in words; whether it has one in this configuration.
static bool value_of(const config_key *key, const yx_config *config, int64_t stage, char value[MAX_VALUE]) {
    const void *base = key->section == SECTION_STAGE ? (const void *)&config->training.stages[stage] : config;
    bool there = key->section != SECTION_STAGE || stage < config->training.num_stages;
    there = there && (!key->applies || key->applies(config)) && config_key_format(key, base, value, MAX_VALUE);
    if (!there) strcpy(value, "absent");
    return there;
}

void config_difference(const yx_config *a, const yx_config *b, char *out, size_t size) {
    char x[MAX_VALUE], y[MAX_VALUE], path[CONFIG_MAX_TEXT];
    int64_t stages = a->training.num_stages > b->training.num_stages ? a->training.num_stages : b->training.num_stages;
    *out = '\0';
    for (int i = 0; i < config_num_keys; i++) {
        const config_key *key = &config_keys[i];
        for (int64_t s = 0; key->identity && s < (key->section == SECTION_STAGE ? stages : 1); s++) {
            bool one = value_of(key, a, s, x), other = value_of(key, b, s, y);
            if (one == other && (!one || strcmp(x, y) == 0)) continue;
            config_key_path(key, s, path, sizeof path);
            snprintf(out, size, "%s is %s, not %s", path, x, y);
            return;
        }
    }
}

yx_status config_identity(const yx_config *config, char hex[65]) {
    char *text;
    size_t size;
    yx_status status = write_to_memory(config, true, &text, &size);
    if (status != YX_OK) return status;
    status = yx_sha256(text, size, hex);
    free(text);
    return status;
}

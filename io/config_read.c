#include "io/config_read.h"
#include "common/log.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// --- Scalars --------------------------------------------------------------------------------------------------------
static const char *skip_digits(const char *s) {
    while (isdigit((unsigned char)*s)) s++;
    return s;
}

// Decimal numbers as people write them: 6e-4, 0.1, .5, -3. Not 010 (YAML 1.1 reads it as 8), 0x10, .inf, 1_000.
static bool is_number(const char *s) {
    if (*s == '-' || *s == '+') s++;
    const char *whole = s, *dot = skip_digits(s), *end = dot;
    if (dot - whole > 1 && *whole == '0') return false;
    if (*dot == '.') end = skip_digits(dot + 1);
    if (dot == whole && end - dot < 2) return false;
    if (*end != 'e' && *end != 'E') return *end == 0;
    end += end[1] == '-' || end[1] == '+' ? 2 : 1;
    return isdigit((unsigned char)*end) && *skip_digits(end) == 0;
}

static const char *wanted(const config_key *key) {
    switch (key->type) {
    case TYPE_INT:
        return "a whole number";
    case TYPE_REAL:
        return "a number";
    case TYPE_BOOL:
        return "true or false";
    case TYPE_NAME:
        return "one of its names";
    case TYPE_TEXT:
        return "text";
    }
    return "";
}

static yx_status wrong_type(const config_node *node, const config_key *key, const char *path) {
    char excerpt[CONFIG_EXCERPT];
    if (node->kind != CONFIG_SCALAR)
        return config_node_fail(node, "%s is a %s; it must be %s", path,
                                node->kind == CONFIG_LIST ? "list" : "group of keys", wanted(key));
    if (!*node->text) return config_node_fail(node, "%s has no value; it must be %s", path, wanted(key));
    if (!node->plain && (key->type == TYPE_BOOL || is_number(node->text)))
        return config_node_fail(node, "%s is text because of its quotes; it must be %s: remove the quotes", path,
                                wanted(key));
    return config_node_fail(node, "%s is '%s'; it must be %s", path, config_excerpt(node->text, excerpt), wanted(key));
}

static yx_status check_range(const config_node *node, const config_key *key, const char *path, double value) {
    bool too_small = key->above_min ? value <= key->min : value < key->min;
    char excerpt[CONFIG_EXCERPT], min[40], max[40];
    config_format_real(key->min, min, sizeof min);
    config_format_real(key->max, max, sizeof max);
    if (too_small || !(value <= key->max))
        return config_node_fail(node, "%s is %s; it must be %s %s and at most %s", path,
                                config_excerpt(node->text, excerpt), key->above_min ? "above" : "at least", min, max);
    if (key->multiple && fmod(value, (double)key->multiple) != 0)
        return config_node_fail(node, "%s is %s; it must be a multiple of %lld, for example %.0f", path,
                                config_excerpt(node->text, excerpt), (long long)key->multiple,
                                ceil(value / (double)key->multiple) * (double)key->multiple);
    return YX_OK;
}

static yx_status read_number(const config_node *node, const config_key *key, const char *path, void *at) {
    if (!node->plain || !is_number(node->text)) return wrong_type(node, key, path);
    double value = strtod(node->text, NULL);
    if (key->type == TYPE_INT && isfinite(value) && value != floor(value)) return wrong_type(node, key, path);
    yx_status status = check_range(node, key, path, value);
    if (status != YX_OK) return status;
    if (key->type == TYPE_INT) *(int64_t *)at = (int64_t)value;
    else *(double *)at = value;
    return YX_OK;
}

static yx_status read_bool(const config_node *node, const config_key *key, const char *path, bool *at) {
    *at = strcmp(node->text, "true") == 0;
    return node->plain && (*at || strcmp(node->text, "false") == 0) ? YX_OK : wrong_type(node, key, path);
}

static yx_status read_name(const config_node *node, const config_key *key, const char *path, unsigned *at) {
    char known[128] = "", excerpt[CONFIG_EXCERPT];
    for (unsigned i = 0; key->names[i]; i++) {
        *at = i;
        if (strcmp(node->text, key->names[i]) == 0) return YX_OK;
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", key->names[i]);
    }
    return config_node_fail(node, "%s is '%s'; it must be one of: %s", path, config_excerpt(node->text, excerpt),
                            known);
}

// What YAML does not take as it stands, and no path or description needs: control characters, U+2028, U+2029, the byte
// order mark, U+FFFE, U+FFFF. `s` is valid UTF-8.
static bool has_control_character(const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
        if (*s < 0x20 || *s == 0x7f || (s[0] == 0xC2 && s[1] < 0xA0)) return true;
        if (s[0] == 0xE2 && s[1] == 0x80 && (s[2] == 0xA8 || s[2] == 0xA9)) return true;
        if (s[0] == 0xEF && s[1] == 0xBB && s[2] == 0xBF) return true;
        if (s[0] == 0xEF && s[1] == 0xBF && s[2] >= 0xBE) return true;
    }
    return false;
}

static yx_status read_text(const config_node *node, const config_key *key, const char *path, char *at) {
    size_t size = strlen(node->text);
    if (size == 0 && !key->fallback) return config_node_fail(node, "%s is empty", path);
    if (size >= CONFIG_MAX_TEXT)
        return config_node_fail(node, "%s has %zu bytes; at most %d fit", path, size, CONFIG_MAX_TEXT - 1);
    if (has_control_character(node->text)) return config_node_fail(node, "%s contains a control character", path);
    memcpy(at, node->text, size + 1);
    return YX_OK;
}

static yx_status read_value(const config_node *node, const config_key *key, const char *path, void *at) {
    if (node->kind != CONFIG_SCALAR) return wrong_type(node, key, path);
    switch (key->type) {
    case TYPE_BOOL:
        return read_bool(node, key, path, at);
    case TYPE_NAME:
        return read_name(node, key, path, at);
    case TYPE_TEXT:
        return read_text(node, key, path, at);
    case TYPE_INT:
    case TYPE_REAL:
        break;
    }
    return read_number(node, key, path, at);
}

// --- Groups ---------------------------------------------------------------------------------------------------------
static yx_status unknown_key(config_section section, const config_node *node) {
    char excerpt[CONFIG_EXCERPT], nearest[128], known[512] = "";
    const char *group = config_sections[section].path;
    config_excerpt(node->key, excerpt);
    const char *meant = config_key_nearest(section, node->key, nearest, sizeof nearest);
    const char *last_part = meant && strrchr(meant, '.') ? strrchr(meant, '.') + 1 : meant;
    if (meant && strcmp(last_part, node->key) == 0)
        return config_node_fail(node, "unknown key '%s'%s%s; there is '%s': check the indentation", excerpt,
                                *group ? " in " : "", group, meant);
    if (meant)
        return config_node_fail(node, "unknown key '%s'%s%s; did you mean '%s'?", excerpt, *group ? " in " : "", group,
                                meant);
    config_known_names(section, known, sizeof known);
    return config_node_fail(node, "unknown key '%s'%s%s; known are:%s", excerpt, *group ? " in " : "", group, known);
}

static yx_status check_names(config_section section, const config_node *group) {
    char excerpt[CONFIG_EXCERPT];
    if (group->kind != CONFIG_MAPPING)
        return config_node_fail(group, "%s must be a group of 'key: value' lines%s%s%s", config_sections[section].path,
                                group->kind == CONFIG_SCALAR ? ", not '" : "",
                                group->kind == CONFIG_SCALAR ? config_excerpt(group->text, excerpt) : "",
                                group->kind == CONFIG_SCALAR ? "'" : "");
    for (int i = 0; i < group->num_items; i++) {
        const char *name = group->items[i]->key;
        if (!config_key_find(section, name) && config_section_find(section, name) == SECTION_COUNT)
            return unknown_key(section, group->items[i]);
    }
    return YX_OK;
}

static const config_node *entry(const config_node *group, const char *name) {
    const config_node *node = config_node_get(group, name);
    return node && !config_node_is_null(node) ? node : NULL;
}

static yx_status read_absent(const config_node *group, const config_key *key, const char *path, void *at) {
    config_node fallback = {.kind = CONFIG_SCALAR, .source = "default", .plain = true, .text = key->fallback};
    if (key->fallback) return read_value(&fallback, key, path, at);
    if (!key->optional)
        return config_node_fail(group, "%s is missing (%s: %s); add it", path, wanted(key), key->meaning);
    if (key->type == TYPE_TEXT) memset(at, 0, CONFIG_MAX_TEXT);
    else *(double *)at = key->absent; // of names and the like, none is optional
    return YX_OK;
}

// `base`: the structure of the section's keys. `index`: of a stage.
static yx_status read_group(config_section section, const config_node *group, int64_t index, void *base) {
    yx_status status = YX_OK;
    char path[128];
    YX_CHECK(check_names(section, group));
    for (int i = 0; i < config_num_keys; i++) {
        const config_key *key = &config_keys[i];
        if (key->section != section) continue;
        const config_node *node = entry(group, key->name);
        config_key_path(key, index, path, sizeof path);
        if (node) YX_CHECK(read_value(node, key, path, config_key_at(key, base)));
        else YX_CHECK(read_absent(group, key, path, config_key_at(key, base)));
    }
fail:
    return status;
}

static yx_status read_stages(const config_node *training, config_training *out) {
    yx_status status = YX_OK;
    const config_section_info *info = &config_sections[SECTION_STAGE];
    const config_node *list = entry(training, info->name);
    if (!list) return config_node_fail(training, "%s is missing (a list of stages); add it", info->path);
    if (list->kind != CONFIG_LIST || list->num_items < 1 || list->num_items > CONFIG_MAX_STAGES)
        return config_node_fail(list, "%s must be a list of 1 to %d stages, each '- seq_len: …'", info->path,
                                CONFIG_MAX_STAGES);
    out->num_stages = list->num_items;
    for (int i = 0; i < list->num_items; i++) {
        if (list->items[i]->kind != CONFIG_MAPPING)
            return config_node_fail(list->items[i], "%s.%d must be a group of keys: seq_len, batch_size, fraction …",
                                    info->path, i);
        YX_CHECK(read_group(SECTION_STAGE, list->items[i], i, &out->stages[i]));
    }
fail:
    return status;
}

static yx_status settle_idle_key(const config_key *key, const config_node *root, yx_config *out) {
    char place[512], path[128];
    const config_node *group = entry(root, config_sections[key->section].name);
    const config_node *node = group ? entry(group, key->name) : NULL;
    config_key_path(key, -1, path, sizeof path);
    if (node) {
        config_node_place(node, place, sizeof place);
        yx_warn("%s: %s has no effect without %s", place, path, key->only_with);
    }
    return read_absent(root, key, path, config_key_at(key, out));
}

yx_status config_read(const config_node *root, yx_config *out) {
    yx_status status = YX_OK;
    memset(out, 0, sizeof *out);
    YX_CHECK(read_group(SECTION_ROOT, root, -1, out));
    for (int s = SECTION_ROOT + 1; s < SECTION_COUNT; s++) {
        const config_node empty = {
            .kind = CONFIG_MAPPING, .source = root->source, .line = root->line, .column = root->column};
        const config_node *group = entry(root, config_sections[s].name);
        if (s == SECTION_STAGE) continue; // inside training
        YX_CHECK(read_group((config_section)s, group ? group : &empty, -1, out));
        if (s == SECTION_TRAINING) YX_CHECK(read_stages(group ? group : &empty, &out->training));
    }
    for (int i = 0; i < config_num_keys; i++)
        if (config_keys[i].applies && !config_keys[i].applies(out))
            YX_CHECK(settle_idle_key(&config_keys[i], root, out));
fail:
    return status;
}

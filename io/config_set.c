#include "io/config_set.h"
#include "common/file.h"
#include "io/tokenizer_unicode.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SEGMENTS = 6 };

typedef struct assignment {
    config_tree *tree;
    config_node place; // of the option
    const char *value;
    const char *segments[MAX_SEGMENTS];
    int num_segments;
} assignment;

// Splits a copy of "a.b.c=value".
static yx_status split(assignment *a, const char *text) {
    yx_status status = YX_OK;
    const char *equals = strchr(text, '='), *copy;
    YX_CHECK(config_tree_copy(a->tree, text, equals ? (size_t)(equals - text) : 0, &copy));
    if (!equals || !*copy)
        return config_node_fail(&a->place, "expected KEY=VALUE, for example training.learning_rate=3e-4");
    YX_CHECK(config_tree_copy(a->tree, equals + 1, strlen(equals + 1), &a->value));
    char *path = (char *)copy, *segment;
    while ((segment = strsep(&path, "."))) {
        if (!*segment) return config_node_fail(&a->place, "a name is missing beside a '.' of the key");
        if (a->num_segments == MAX_SEGMENTS)
            return config_node_fail(&a->place, "the key has more than %d parts", MAX_SEGMENTS);
        a->segments[a->num_segments++] = segment;
    }
fail:
    return status;
}

static yx_status new_scalar(const assignment *a, config_node **out) {
    yx_status status = config_tree_node(a->tree, CONFIG_SCALAR, &a->place, out);
    if (status != YX_OK) return status;
    (*out)->plain = true;
    (*out)->text = a->value;
    return YX_OK;
}

static yx_status assign(const assignment *a, config_node *node, int depth);

// Puts the value in the slot, or goes on into what is there.
static yx_status assign_child(const assignment *a, config_node **slot, int depth) {
    yx_status status = YX_OK;
    const char *key = (*slot)->key;
    if (depth + 1 < a->num_segments) return assign(a, *slot, depth + 1);
    YX_CHECK(new_scalar(a, slot));
    (*slot)->key = key;
fail:
    return status;
}

static yx_status assign_in_mapping(const assignment *a, config_node *mapping, int depth) {
    const char *key = a->segments[depth];
    config_node *child;
    for (int i = 0; i < mapping->num_items; i++)
        if (strcmp(mapping->items[i]->key, key) == 0) return assign_child(a, &mapping->items[i], depth);
    yx_status status = config_tree_node(a->tree, CONFIG_MAPPING, &a->place, &child);
    if (status == YX_OK) status = config_node_add(a->tree, mapping, key, child);
    return status == YX_OK ? assign_child(a, &mapping->items[mapping->num_items - 1], depth) : status;
}

static yx_status assign_in_list(const assignment *a, config_node *list, int depth) {
    yx_status status = YX_OK;
    char *end;
    char excerpt[CONFIG_EXCERPT];
    const char *segment = a->segments[depth];
    long first = strtol(segment, &end, 10), last = first;
    if (strcmp(segment, "*") == 0) first = 0, last = list->num_items - 1;
    else if (*end || first < 0 || first >= list->num_items)
        return config_node_fail(&a->place, "the list has %d elements, named 0 … %d, or * for all; '%s' is none of them",
                                list->num_items, list->num_items - 1, config_excerpt(segment, excerpt));
    for (long i = first; i <= last; i++) YX_CHECK(assign_child(a, &list->items[i], depth));
fail:
    return status;
}

// `node` is what the segments before `depth` name.
static yx_status assign(const assignment *a, config_node *node, int depth) {
    yx_status status = YX_OK;
    char excerpt[CONFIG_EXCERPT];
    if (config_node_is_null(node)) node->kind = CONFIG_MAPPING; // absent so far
    bool names_a_file = depth == 1 && strcmp(a->segments[0], "model") == 0 && node->kind == CONFIG_SCALAR;
    if (names_a_file) YX_CHECK(config_tree_include(a->tree, node));
    if (node->kind == CONFIG_MAPPING) return assign_in_mapping(a, node, depth);
    if (node->kind == CONFIG_LIST) return assign_in_list(a, node, depth);
    return config_node_fail(&a->place, "'%s' is a single value, '%s' cannot be inside it",
                            config_excerpt(a->segments[depth - 1], excerpt), a->segments[depth]);
fail:
    return status;
}

yx_status config_set(config_tree *tree, config_node *root, const char *text) {
    yx_status status = YX_OK;
    char *option = NULL;
    char excerpt[CONFIG_EXCERPT];
    assignment a = {.tree = tree};
    YX_CHECK(yx_format(&option, "--set %s", config_excerpt(text, excerpt)));
    YX_CHECK(config_tree_copy(tree, option, strlen(option), &a.place.source));
    if (strlen(text) > CONFIG_MAX_FILE || unicode_valid_prefix((const uint8_t *)text, strlen(text)) != strlen(text))
        YX_FAIL(YX_ERR_CONFIG, "%s: too long, or not UTF-8", option);
    YX_CHECK(split(&a, text));
    YX_CHECK(assign(&a, root, 0));
fail:
    free(option);
    return status;
}

// A YAML document as a tree that remembers where each value was written, so that every later complaint can say it. A
// small subset of YAML: mappings, lists and scalars; no anchors, tags, or second document.
#pragma once
#include "common/status.h"
#include <stdint.h>

enum { CONFIG_MAX_FILE = 256 * 1024, CONFIG_MAX_NODES = 20000, CONFIG_MAX_DEPTH = 8, CONFIG_EXCERPT = 64 };

typedef enum config_node_kind { CONFIG_SCALAR, CONFIG_MAPPING, CONFIG_LIST } config_node_kind;

typedef struct config_node config_node;
struct config_node {
    config_node_kind kind;
    const char *source; // name of the file, or the --set option as it was given
    int line, column;   // counted from 1, of the key for a mapping's entry; line 0: the source is an option
    const char *key;    // in its mapping; NULL in a list and at the root
    const char *text;   // of a scalar
    bool plain;         // a scalar without quotes
    config_node **items;
    int num_items, capacity;
};

// Owns the nodes and all text in them.
typedef struct config_tree {
    struct config_block *blocks;
    const char *folder; // that file names in a file's values start from
    int num_nodes;
} config_tree;

void config_tree_free(config_tree *tree);
// Parses `text`; `name` is for messages and is copied. Mistakes are YX_ERR_CONFIG with file, line and column.
yx_status config_tree_parse(config_tree *tree, const char *text, size_t size, const char *name, config_node **root);
// A scalar that holds the name of a file becomes the mapping in that file.
yx_status config_tree_include(config_tree *tree, config_node *scalar);
// A copy of `text` that lives as long as the tree.
yx_status config_tree_copy(config_tree *tree, const char *text, size_t size, const char **out);
// A node without content, placed where `place` is.
yx_status config_tree_node(config_tree *tree, config_node_kind kind, const config_node *place, config_node **out);
// Appends to a mapping (under `key`, which must live as long as the tree) or to a list (key NULL).
yx_status config_node_add(config_tree *tree, config_node *parent, const char *key, config_node *child);

// The entry of a mapping, or NULL.
config_node *config_node_get(const config_node *mapping, const char *key);
// `null` and `~` stand for an absent value.
bool config_node_is_null(const config_node *node);
// The node at a path of keys and indices ("training.curriculum_stages.2.seq_len"), or the last one on the way to it.
const config_node *config_node_find(const config_node *root, const char *path);
// "file:12:3: …" or "--set a.b=c: …" as YX_ERR_CONFIG.
yx_status config_node_fail(const config_node *node, const char *format, ...) __attribute__((format(printf, 2, 3)));
// "file:12:3" or "--set a.b=c" into `out`.
void config_node_place(const config_node *node, char *out, size_t size);
// Text from outside, shortened and made harmless for a message.
const char *config_excerpt(const char *text, char out[CONFIG_EXCERPT]);

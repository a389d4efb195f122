#include "io/config_node.h"
#include "common/file.h"
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

// --- Memory ---------------------------------------------------------------------------------------------------------
struct config_block {
    struct config_block *next;
    max_align_t data[];
};

static yx_status no_memory(void) { return yx_fail(YX_ERR_NO_MEMORY, "no memory for the configuration"); }

static void *allocate(config_tree *tree, size_t size) {
    struct config_block *block = calloc(1, sizeof *block + size);
    if (!block) return NULL;
    block->next = tree->blocks;
    tree->blocks = block;
    return block->data;
}

void config_tree_free(config_tree *tree) {
    while (tree->blocks) {
        struct config_block *next = tree->blocks->next;
        free(tree->blocks);
        tree->blocks = next;
    }
}

yx_status config_tree_copy(config_tree *tree, const char *text, size_t size, const char **out) {
    char *copy = allocate(tree, size + 1);
    if (!copy) return no_memory();
    memcpy(copy, text, size);
    *out = copy;
    return YX_OK;
}

yx_status config_tree_node(config_tree *tree, config_node_kind kind, const config_node *place, config_node **out) {
    if (++tree->num_nodes > CONFIG_MAX_NODES)
        return config_node_fail(place, "the configuration has more than %d values", CONFIG_MAX_NODES);
    *out = allocate(tree, sizeof(config_node));
    if (!*out) return no_memory();
    **out = (config_node){.kind = kind, .source = place->source, .line = place->line, .column = place->column};
    return YX_OK;
}

yx_status config_node_add(config_tree *tree, config_node *parent, const char *key, config_node *child) {
    if (parent->num_items == parent->capacity) {
        int capacity = parent->capacity ? 2 * parent->capacity : 8;
        config_node **items = allocate(tree, (size_t)capacity * sizeof *parent->items);
        if (!items) return no_memory();
        if (parent->num_items) memcpy(items, parent->items, (size_t)parent->num_items * sizeof *parent->items);
        parent->items = items;
        parent->capacity = capacity;
    }
    child->key = key;
    parent->items[parent->num_items++] = child;
    return YX_OK;
}

// --- Messages -------------------------------------------------------------------------------------------------------
const char *config_excerpt(const char *text, char out[CONFIG_EXCERPT]) {
    static const char tail[] = "…";
    size_t n = strlen(text), limit = CONFIG_EXCERPT - sizeof tail;
    bool cut = n > limit;
    if (cut) {
        n = limit;
        while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--; // not inside a character
    }
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    strcpy(out + n, cut ? tail : "");
    return out;
}

void config_node_place(const config_node *node, char *out, size_t size) {
    if (node->line > 0) snprintf(out, size, "%s:%d:%d", node->source, node->line, node->column);
    else snprintf(out, size, "%s", node->source);
}

yx_status config_node_fail(const config_node *node, const char *format, ...) {
    char place[512], text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    config_node_place(node, place, sizeof place);
    return yx_fail(YX_ERR_CONFIG, "%s: %s", place, text);
}

// --- Parsing --------------------------------------------------------------------------------------------------------
typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event; // the current one
    config_tree *tree;
    const char *name;
} reader;

static config_node place_of(const reader *r, yaml_mark_t mark) {
    int line = mark.line < INT_MAX ? (int)mark.line + 1 : INT_MAX;
    int column = mark.column < INT_MAX ? (int)mark.column + 1 : INT_MAX;
    return (config_node){.source = r->name, .line = line, .column = column};
}

static yx_status syntax_error(const reader *r) {
    const yaml_parser_t *p = &r->parser;
    const char *problem = p->problem ? p->problem : "unreadable";
    config_node place = place_of(r, p->error == YAML_READER_ERROR ? p->mark : p->problem_mark);
    if (p->error == YAML_MEMORY_ERROR) return no_memory();
    if (p->error == YAML_READER_ERROR) // its mark is where the parser stands, which may be some lines before
        return config_node_fail(&place, "not text in UTF-8: %s (byte %zu of the file)", problem, p->problem_offset);
    return config_node_fail(&place, "not valid YAML: %s%s%s", problem, p->context ? " " : "",
                            p->context ? p->context : "");
}

static yx_status next_event(reader *r) {
    yaml_event_delete(&r->event);
    return yaml_parser_parse(&r->parser, &r->event) ? YX_OK : syntax_error(r);
}

static yx_status check_plain_yaml(const reader *r, const config_node *place) {
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT) anchor = e->data.alias.anchor;
    if (e->type == YAML_SCALAR_EVENT) anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
    if (e->type == YAML_MAPPING_START_EVENT) anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
    if (e->type == YAML_SEQUENCE_START_EVENT) anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
    if (anchor) return config_node_fail(place, "anchors and aliases (&, *) are not supported; write the value out");
    if (tag) return config_node_fail(place, "tags (!) are not supported; remove it");
    return YX_OK;
}

static yx_status take_text(reader *r, const config_node *place, const char **out) {
    const char *text = (const char *)r->event.data.scalar.value;
    size_t size = r->event.data.scalar.length;
    if (strlen(text) != size) return config_node_fail(place, "the text contains a NUL byte; remove it");
    return config_tree_copy(r->tree, text, size, out);
}

static yx_status parse_value(reader *r, int depth, const config_node *key_place, config_node **out);

// The current event starts the key.
static yx_status parse_entry(reader *r, int depth, config_node *mapping) {
    yx_status status = YX_OK;
    config_node place = place_of(r, r->event.start_mark), *child;
    const char *key = NULL;
    char excerpt[CONFIG_EXCERPT];
    YX_CHECK(check_plain_yaml(r, &place));
    if (r->event.type != YAML_SCALAR_EVENT) return config_node_fail(&place, "a key must be a word");
    YX_CHECK(take_text(r, &place, &key));
    const config_node *first = config_node_get(mapping, key);
    if (first)
        return config_node_fail(&place, "key '%s' is given twice (first in line %d); remove one",
                                config_excerpt(key, excerpt), first->line);
    YX_CHECK(next_event(r));
    YX_CHECK(parse_value(r, depth, &place, &child));
    YX_CHECK(config_node_add(r->tree, mapping, key, child));
fail:
    return status;
}

static yx_status parse_items(reader *r, int depth, config_node *node) {
    yx_status status = YX_OK;
    yaml_event_type_t end = node->kind == CONFIG_LIST ? YAML_SEQUENCE_END_EVENT : YAML_MAPPING_END_EVENT;
    for (;;) {
        config_node *child;
        YX_CHECK(next_event(r));
        if (r->event.type == end) return YX_OK;
        if (node->kind == CONFIG_MAPPING) {
            YX_CHECK(parse_entry(r, depth, node));
        } else {
            YX_CHECK(parse_value(r, depth, NULL, &child));
            YX_CHECK(config_node_add(r->tree, node, NULL, child));
        }
    }
fail:
    return status;
}

// The value that starts with the current event; ends on the value's last event. `key_place`: where its key is, if any.
static yx_status parse_value(reader *r, int depth, const config_node *key_place, config_node **out) {
    yx_status status = YX_OK;
    config_node own_place = place_of(r, r->event.start_mark);
    const config_node *place = key_place ? key_place : &own_place;
    yaml_event_type_t type = r->event.type;
    config_node_kind kind = type == YAML_MAPPING_START_EVENT    ? CONFIG_MAPPING
                            : type == YAML_SEQUENCE_START_EVENT ? CONFIG_LIST
                                                                : CONFIG_SCALAR;
    YX_CHECK(check_plain_yaml(r, &own_place));
    if (depth > CONFIG_MAX_DEPTH) return config_node_fail(place, "nested more than %d deep", CONFIG_MAX_DEPTH);
    YX_CHECK(config_tree_node(r->tree, kind, place, out));
    if (kind != CONFIG_SCALAR) return parse_items(r, depth + 1, *out);
    (*out)->plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    YX_CHECK(take_text(r, &own_place, &(*out)->text));
fail:
    return status;
}

static yx_status parse_document(reader *r, config_node **root) {
    yx_status status = YX_OK;
    config_node place;
    YX_CHECK(next_event(r)); // stream start
    YX_CHECK(next_event(r)); // document start
    if (r->event.type == YAML_STREAM_END_EVENT) YX_FAIL(YX_ERR_CONFIG, "%s:1:1: the file is empty", r->name);
    YX_CHECK(next_event(r));
    place = place_of(r, r->event.start_mark);
    YX_CHECK(parse_value(r, 0, NULL, root));
    if ((*root)->kind != CONFIG_MAPPING) return config_node_fail(&place, "expected lines of the form 'key: value'");
    YX_CHECK(next_event(r)); // document end
    YX_CHECK(next_event(r));
    place = place_of(r, r->event.start_mark);
    if (r->event.type != YAML_STREAM_END_EVENT)
        return config_node_fail(&place, "a second document (---) starts here; a configuration is one document");
fail:
    return status;
}

yx_status config_tree_parse(config_tree *tree, const char *text, size_t size, const char *name, config_node **root) {
    reader r = {.tree = tree};
    yx_status status = YX_OK;
    if (size > CONFIG_MAX_FILE)
        return yx_fail(YX_ERR_CONFIG, "%s: %zu bytes; a configuration has at most %d", name, size, CONFIG_MAX_FILE);
    YX_CHECK(config_tree_copy(tree, name, strlen(name), &r.name));
    if (!yaml_parser_initialize(&r.parser)) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the configuration");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
    status = parse_document(&r, root);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
fail:
    return status;
}

// `name` beside the file that names it; from the command line, beside the current directory.
static yx_status included_path(const config_tree *tree, const config_node *scalar, char **out) {
    if (scalar->text[0] == '/' || scalar->line == 0) return yx_format(out, "%s", scalar->text);
    return yx_format(out, "%s/%s", tree->folder, scalar->text);
}

yx_status config_tree_include(config_tree *tree, config_node *scalar) {
    yx_status status = YX_OK;
    char *path = NULL, *text = NULL, place[512];
    size_t size;
    config_node *root;
    YX_CHECK(included_path(tree, scalar, &path));
    status = yx_read_file(path, CONFIG_MAX_FILE, &text, &size);
    if (status != YX_OK && status != YX_ERR_NO_MEMORY) {
        config_node_place(scalar, place, sizeof place);
        yx_context(status, "%s: the model's file", place);
        status = YX_ERR_CONFIG;
    }
    YX_CHECK(status);
    YX_CHECK(config_tree_parse(tree, text, size, path, &root));
    root->key = scalar->key;
    *scalar = *root;
fail:
    free(text);
    free(path);
    return status;
}

// --- Looking up -----------------------------------------------------------------------------------------------------
config_node *config_node_get(const config_node *mapping, const char *key) {
    for (int i = 0; i < mapping->num_items; i++)
        if (strcmp(mapping->items[i]->key, key) == 0) return mapping->items[i];
    return NULL;
}

bool config_node_is_null(const config_node *node) {
    return node->kind == CONFIG_SCALAR && node->plain && (!strcmp(node->text, "null") || !strcmp(node->text, "~"));
}

static const config_node *child_of(const config_node *node, const char *segment) {
    if (node->kind == CONFIG_MAPPING) return config_node_get(node, segment);
    if (node->kind != CONFIG_LIST) return NULL;
    long index = strtol(segment, NULL, 10);
    return index >= 0 && index < node->num_items ? node->items[index] : NULL;
}

const config_node *config_node_find(const config_node *root, const char *path) {
    const config_node *node = root;
    char segment[64];
    while (*path) {
        size_t n = strcspn(path, ".");
        snprintf(segment, sizeof segment, "%.*s", (int)n, path);
        const config_node *child = child_of(node, segment);
        if (!child) break;
        node = child;
        path += n + (path[n] == '.');
    }
    return node;
}

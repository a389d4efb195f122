// The table of parameters: name, shape, place in the flat arenas (values, gradients, both moments share the offsets).
#pragma once
#include "io/config.h"

enum { PARAM_NAME_MAX = 64, PARAM_ALIGN = 64, PARAM_VOCAB_ALIGN = 64, PARAMS_PER_LAYER = 6 };

typedef enum param_role { // order within a layer
    PARAM_NORM1,
    PARAM_QKV, // [(heads + 2·kv_heads)·head_dim, hidden]: q heads, k heads, v heads
    PARAM_O,   // [hidden, heads·head_dim]
    PARAM_NORM2,
    PARAM_GATE_UP, // [2·intermediate, hidden]: gate rows, then up rows
    PARAM_DOWN,    // [hidden, intermediate]
    PARAM_EMBED,   // E [vocab, rank]; its rows are padded to a multiple of PARAM_VOCAB_ALIGN
    PARAM_PROJ,    // P [rank, hidden]
    PARAM_NORM     // final
} param_role;

typedef struct param {
    char name[PARAM_NAME_MAX];
    param_role role;
    int64_t rows, cols;  // cols 0: a vector
    int64_t stored_rows; // with padding (zero, never updated)
    int64_t offset;      // elements into the arena
    bool decay;          // matrices decay, norms do not
    double init_std;     // 0: initialised to one
} param;

typedef struct param_table {
    int64_t count, elements; // elements: of the arena, padding included
    int64_t parameters;      // what the model has, without padding
    param *items;            // embed, proj, layers, norm
} param_table;

yx_status param_table_create(const config_model *model, param_table *out);
void param_table_free(param_table *table);
// Index of a parameter: `layer` counts only for the roles of a layer.
int64_t param_index(const param_table *table, param_role role, int64_t layer);
static inline int64_t param_size(const param *p) { return p->rows * (p->cols ? p->cols : 1); }
static inline int64_t param_stored(const param *p) { return p->stored_rows * (p->cols ? p->cols : 1); }

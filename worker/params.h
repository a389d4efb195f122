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

// A stretch of the arena whose gradients are complete at the same moment of the backward pass and that the ranks sum
// together: `ranks` pieces, the r-th of which is rank r's where the optimizer is sharded.
typedef struct param_bucket {
    int64_t begin, piece; // elements; a piece is a multiple of PARAM_ALIGN
    int64_t ready;        // complete once this layer's backward pass is: num_layers: the head's; -1: the embedding's
} param_bucket;

typedef struct param_table {
    int64_t count, elements; // elements: of the arena, padding included
    int64_t parameters;      // what the model has, without padding
    param *items;            // embed, proj, layers, norm
    int ranks;
    int64_t num_buckets;
    param_bucket *buckets; // in the order of the arena, which is that of the backward pass: embed, norm and the last
                           // layers, …, the first layers, proj
} param_table;

// bucket_bytes: of a bucket's gradients at least, but for the last; 0: PARAM_BUCKET_BYTES.
#define PARAM_BUCKET_BYTES ((int64_t)32 << 20)
yx_status param_table_create(const config_model *model, int ranks, int64_t bucket_bytes, param_table *out);
void param_table_free(param_table *table);
// Elements of the largest bucket.
int64_t param_largest_bucket(const param_table *table);
// Index of a parameter: `layer` counts only for the roles of a layer.
int64_t param_index(const param_table *table, param_role role, int64_t layer);
static inline int64_t param_size(const param *p) { return p->rows * (p->cols ? p->cols : 1); }
static inline int64_t param_stored(const param *p) { return p->stored_rows * (p->cols ? p->cols : 1); }

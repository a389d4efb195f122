// What the two directions of attention share: keys and values laid out for tile_product, and which part of a tile of
// queries × keys is visible.
//
// Queries and keys go in tiles of 64. A tile is walked in runs of rows that see the same range of its keys, so short
// packed sequences cost what their diagonal blocks cost, and causal tiles about what is visible of them.
#pragma once
#include "kernels/cpu/convert.h"
#include "kernels/cpu/tile.h"

enum { ATTENTION_TILE = 64, ATTENTION_GROUP = 16 };

typedef struct attention_shape {
    int64_t rows, heads, kv_heads, head_dim;
    int64_t padded; // head_dim rounded up to whole vectors; the columns added hold 0
    int64_t tiles;  // of rows
    yx_dtype act;
    yx_real scale;
    const int32_t *seq_start;
    const void *qkv;
} attention_shape;

// Fails when the arguments break the contract.
yx_status attention_shape_init(attention_shape *s, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                               yx_dtype act, double scale, const int32_t *seq_start, const void *qkv);

static inline int64_t attention_width(const attention_shape *s) { return (s->heads + 2 * s->kv_heads) * s->head_dim; }
static inline int64_t attention_kv_head(const attention_shape *s, int64_t head) {
    return head / (s->heads / s->kv_heads);
}
static inline int64_t attention_tile_rows(const attention_shape *s, int64_t tile) {
    return cpu_min(ATTENTION_TILE, s->rows - tile * ATTENTION_TILE);
}
// Values of one key/value head: a matrix by rows [tiles·64, padded], or transposed by tile [tiles][head_dim, 64].
static inline int64_t attention_rows_size(const attention_shape *s) { return s->tiles * ATTENTION_TILE * s->padded; }
static inline int64_t attention_columns_size(const attention_shape *s) {
    return s->tiles * ATTENTION_TILE * s->head_dim;
}

// Heads that one task takes, of each piece (tile or segment) of rows: all, whose rows lie side by side in memory, where
// that leaves every thread enough to do. Which heads share a task does not change what any of them computes.
static inline int64_t attention_heads_per_task(const attention_shape *s, const yx_device *d, int64_t pieces) {
    return pieces >= 4 * d->threads ? s->heads : 1;
}

// x[n, padded] = factor · head `head` (of matrix [rows, heads·head_dim], any layout of heads) for rows [row, row + n).
void attention_load(const attention_shape *s, const void *matrix, int64_t width, int64_t head, int64_t row, int64_t n,
                    yx_real factor, yx_real *x);
// Tile `tile` of head `head` of qkv by rows (64 rows, those behind the end 0) and, unless NULL, transposed.
void attention_load_keys(const attention_shape *s, int64_t head, int64_t tile, yx_real *by_rows, yx_real *transposed);

// Rows [begin, end) of a tile of queries see, of a tile of keys, nothing outside [lo, hi), which is in whole vectors.
typedef struct attention_run {
    int64_t begin, end, lo, hi;
} attention_run;
// The next run from row `begin` on, of query tile `tile` against key tile `keys`; false when there is none left.
bool attention_next_run(const attention_shape *s, int64_t tile, int64_t keys, int64_t begin, attention_run *run);
// The keys, within key tile `keys`, that row `row` (of the matrix) sees: [*lo, *hi), empty when *lo >= *hi.
static inline void attention_visible(const attention_shape *s, int64_t row, int64_t keys, int64_t *lo, int64_t *hi) {
    int64_t first = keys * ATTENTION_TILE;
    *lo = cpu_max(s->seq_start[row], first) - first;
    *hi = cpu_min(row + 1, first + ATTENTION_TILE) - first;
}
// Bytes of workspace of the backward pass.
size_t attention_backward_workspace(const yx_device *d, const attention_shape *s);
// The first key tile that any row of the query tile sees; the last is the query tile itself.
int64_t attention_first_tile(const attention_shape *s, int64_t tile);
// Sets the scores of the run's rows that they must not see, within [lo, hi), to -infinity. scores: [64, 64].
void attention_mask(const attention_shape *s, int64_t tile, int64_t keys, const attention_run *run, yx_real *scores);

// Attention, backward (Dao 2023, FlashAttention-2, algorithm 2). With p the probabilities and D = sum(o · do):
// dv = pᵀ·do, ds = p ∘ (do·vᵀ - D), dq = scale · ds·k, dk = scale · dsᵀ·q.
//
// The unit of work is one query head of one segment: rows between two tile borders that no sequence crosses. It owns
// its dq, and its own sums of dk and dv; those of the heads that share a key/value head are added in order at the end.
// So no two units write to the same place, and the result does not depend on which thread did what.
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vexp.h"
#include <omp.h>

typedef struct backward_buffers {
    yx_real *keys, *key_columns, *value_columns; // [kv_heads] by rows; transposed by tile, twice
    yx_real *values;                             // [threads] one tile by rows, on its way to value_columns
    yx_real *dk, *dv;                            // [heads] by rows
    yx_real *q, *d_o, *dq, *o;                   // [threads] one tile of queries [64, padded]
    yx_real *p, *ds;                             // [threads] [64, 64]
    yx_real *lse, *mean;                         // [threads] [64]: D is in `mean`
    int64_t *segment;                            // [tiles + 1] first tile of each segment, then the end
} backward_buffers;

static size_t lay_out(const yx_device *d, const attention_shape *s, void *base, backward_buffers *b) {
    cpu_scratch m = {base, 0};
    const int64_t by_rows = attention_rows_size(s), columns = attention_columns_size(s);
    const int64_t tile = d->threads * ATTENTION_TILE;
    b->keys = cpu_take(&m, s->kv_heads * by_rows, sizeof(yx_real));
    b->key_columns = cpu_take(&m, s->kv_heads * columns, sizeof(yx_real));
    b->value_columns = cpu_take(&m, s->kv_heads * columns, sizeof(yx_real));
    b->dk = cpu_take(&m, s->heads * by_rows, sizeof(yx_real));
    b->dv = cpu_take(&m, s->heads * by_rows, sizeof(yx_real));
    yx_real **tiles[] = {&b->values, &b->q, &b->d_o, &b->dq, &b->o};
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        *tiles[i] = cpu_take(&m, tile * s->padded, sizeof(yx_real));
    b->p = cpu_take(&m, tile * ATTENTION_TILE, sizeof(yx_real));
    b->ds = cpu_take(&m, tile * ATTENTION_TILE, sizeof(yx_real));
    b->lse = cpu_take(&m, tile, sizeof(yx_real));
    b->mean = cpu_take(&m, tile, sizeof(yx_real));
    b->segment = cpu_take(&m, s->tiles + 1, sizeof(int64_t));
    return m.used;
}

size_t attention_backward_workspace(const yx_device *d, const attention_shape *s) {
    backward_buffers b;
    return lay_out(d, s, NULL, &b);
}

static backward_buffers buffers_of(const attention_shape *s, const backward_buffers *all, int thread, int64_t head) {
    backward_buffers b = *all;
    int64_t kv = attention_kv_head(s, head), tile = thread * ATTENTION_TILE;
    b.keys += kv * attention_rows_size(s);
    b.key_columns += kv * attention_columns_size(s);
    b.value_columns += kv * attention_columns_size(s);
    b.dk += head * attention_rows_size(s);
    b.dv += head * attention_rows_size(s);
    b.q += tile * s->padded, b.d_o += tile * s->padded, b.dq += tile * s->padded, b.o += tile * s->padded;
    b.p += tile * ATTENTION_TILE, b.ds += tile * ATTENTION_TILE;
    b.lse += tile, b.mean += tile;
    return b;
}

// Fills `segment` and returns how many there are.
static int64_t find_segments(const attention_shape *s, int64_t *segment) {
    int64_t count = 0, start = s->rows;
    // From the end: a border is clean when no row behind it starts before it. The borders come out in reverse.
    segment[count++] = s->tiles;
    for (int64_t tile = s->tiles - 1; tile >= 0; tile--) {
        int64_t first = tile * ATTENTION_TILE;
        for (int64_t i = 0; i < attention_tile_rows(s, tile); i++) start = cpu_min(start, s->seq_start[first + i]);
        if (start >= first) segment[count++] = tile;
    }
    for (int64_t i = 0; i < count / 2; i++) {
        int64_t swap = segment[i];
        segment[i] = segment[count - 1 - i];
        segment[count - 1 - i] = swap;
    }
    return count - 1;
}

// p = exp(score - lse), which is 0 where masked, and ds = p · (do·v - D). Inlined with a constant n where that is
// common.
static inline __attribute__((always_inline)) void probabilities_row(int64_t n, yx_real lse, yx_real mean,
                                                                    yx_real *restrict p, yx_real *restrict ds) {
    for (int64_t j = 0; j < n; j++) {
        p[j] = vexp(p[j] - lse);
        ds[j] = p[j] * (ds[j] - mean);
    }
}

static void probabilities(const backward_buffers *b, const attention_run *run) {
    int64_t n = run->hi - run->lo;
    for (int64_t r = run->begin; r < run->end; r++) {
        yx_real *p = b->p + r * ATTENTION_TILE + run->lo, *ds = b->ds + r * ATTENTION_TILE + run->lo;
        if (n == ATTENTION_TILE) probabilities_row(ATTENTION_TILE, b->lse[r], b->mean[r], p, ds);
        else if (n == TILE_VECTOR) probabilities_row(TILE_VECTOR, b->lse[r], b->mean[r], p, ds);
        else probabilities_row(n, b->lse[r], b->mean[r], p, ds);
    }
}

// The five products of one tile of queries and one of keys.
static void backward_keys(const attention_shape *s, const backward_buffers *b, int64_t tile, int64_t keys) {
    const int64_t by_rows = keys * ATTENTION_TILE * s->padded, columns = keys * ATTENTION_TILE * s->head_dim;
    attention_run run = {0};
    while (attention_next_run(s, tile, keys, run.end, &run)) {
        int64_t n = run.end - run.begin, width = run.hi - run.lo, row = run.begin * s->padded;
        int64_t at = run.begin * ATTENTION_TILE + run.lo, key = by_rows + run.lo * s->padded;
        tile_product(n, width, s->head_dim, b->q + row, s->padded, 1, b->key_columns + columns + run.lo, ATTENTION_TILE,
                     b->p + at, ATTENTION_TILE, false);
        tile_product(n, width, s->head_dim, b->d_o + row, s->padded, 1, b->value_columns + columns + run.lo,
                     ATTENTION_TILE, b->ds + at, ATTENTION_TILE, false);
        attention_mask(s, tile, keys, &run, b->p);
        probabilities(b, &run);
        tile_product(width, s->padded, n, b->p + at, 1, ATTENTION_TILE, b->d_o + row, s->padded, b->dv + key, s->padded,
                     true);
        tile_product(width, s->padded, n, b->ds + at, 1, ATTENTION_TILE, b->q + row, s->padded, b->dk + key, s->padded,
                     true);
        tile_product(n, s->padded, width, b->ds + at, ATTENTION_TILE, 1, b->keys + key, s->padded, b->dq + row,
                     s->padded, true);
    }
}

static void load_queries(const yx_attention_backward_args *a, const attention_shape *s, const backward_buffers *b,
                         int64_t tile, int64_t head) {
    int64_t first = tile * ATTENTION_TILE, n = attention_tile_rows(s, tile), width = s->heads * s->head_dim;
    attention_load(s, s->qkv, attention_width(s), head, first, n, s->scale, b->q);
    attention_load(s, a->d_o, width, head, first, n, 1, b->d_o);
    attention_load(s, a->o, width, head, first, n, 1, b->o);
    for (int64_t i = 0; i < n; i++) {
        const yx_real *o = b->o + i * s->padded, *d_o = b->d_o + i * s->padded;
        yx_real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < s->padded; j++) sum += o[j] * d_o[j];
        b->mean[i] = sum;
        b->lse[i] = a->lse[head * s->rows + first + i];
    }
    memset(b->dq, 0, (size_t)(n * s->padded) * sizeof *b->dq);
}

static void backward_tile(const yx_attention_backward_args *a, const attention_shape *s, const backward_buffers *b,
                          int64_t tile, int64_t head) {
    load_queries(a, s, b, tile, head);
    for (int64_t keys = attention_first_tile(s, tile); keys <= tile; keys++) backward_keys(s, b, tile, keys);
    for (int64_t i = 0; i < attention_tile_rows(s, tile); i++) {
        yx_real *dq = b->dq + i * s->padded;
        for (int64_t j = 0; j < s->head_dim; j++) dq[j] *= s->scale;
        cpu_store(s->act, a->dqkv, (tile * ATTENTION_TILE + i) * attention_width(s) + head * s->head_dim, s->head_dim,
                  dq);
    }
}

// Heads [first, last) of one segment.
static void backward_segment(const yx_attention_backward_args *a, const attention_shape *s, const backward_buffers *all,
                             int64_t segment, int64_t first, int64_t last) {
    int64_t begin = all->segment[segment], end = all->segment[segment + 1], at = begin * ATTENTION_TILE * s->padded;
    size_t bytes = (size_t)((end - begin) * ATTENTION_TILE * s->padded) * sizeof(yx_real);
    for (int64_t tile = begin; tile < end; tile++)
        for (int64_t head = first; head < last; head++) {
            backward_buffers own = buffers_of(s, all, omp_get_thread_num(), head);
            if (tile == begin) memset(own.dk + at, 0, bytes);
            if (tile == begin) memset(own.dv + at, 0, bytes);
            backward_tile(a, s, &own, tile, head);
        }
}

// The sum over the query heads of one key/value head, of one row, to head `out` of dqkv.
static void add_heads(const yx_attention_backward_args *a, const attention_shape *s, const yx_real *parts, int64_t row,
                      int64_t kv, int64_t out) {
    int64_t group = s->heads / s->kv_heads;
    yx_real sum[CPU_MAX_HEAD];
    const yx_real *part = parts + kv * group * attention_rows_size(s) + row * s->padded;
    memcpy(sum, part, (size_t)s->head_dim * sizeof *sum);
    for (int64_t i = 1; i < group; i++)
        for (int64_t j = 0; j < s->head_dim; j++) sum[j] += part[i * attention_rows_size(s) + j];
    cpu_store(s->act, a->dqkv, row * attention_width(s) + out * s->head_dim, s->head_dim, sum);
}

yx_status cpu_attention_backward(yx_device *d, yx_stream *stream, const yx_attention_backward_args *a) {
    (void)stream;
    yx_status status = YX_OK;
    attention_shape s;
    backward_buffers all;
    YX_CHECK(
        attention_shape_init(&s, a->rows, a->heads, a->kv_heads, a->head_dim, a->act, a->scale, a->seq_start, a->qkv));
    YX_CHECK(cpu_check_workspace(d, lay_out(d, &s, NULL, &all), "attention_backward"));
    lay_out(d, &s, d->workspace, &all);
    const int64_t segments = find_segments(&s, all.segment), step = attention_heads_per_task(&s, d, segments);
#pragma omp parallel num_threads(d->threads)
    {
        yx_real *values = all.values + omp_get_thread_num() * ATTENTION_TILE * s.padded;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.tiles * s.kv_heads; i++) {
            int64_t tile = i / s.kv_heads, kv = i % s.kv_heads, at = kv * s.tiles + tile;
            int64_t columns = at * ATTENTION_TILE * s.head_dim;
            attention_load_keys(&s, s.heads + kv, tile, all.keys + at * ATTENTION_TILE * s.padded,
                                all.key_columns + columns);
            attention_load_keys(&s, s.heads + s.kv_heads + kv, tile, values, all.value_columns + columns);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < segments * s.heads / step; i++)
            backward_segment(a, &s, &all, i * step / s.heads, i * step % s.heads, i * step % s.heads + step);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < s.rows; row++)
            for (int64_t kv = 0; kv < s.kv_heads; kv++) {
                add_heads(a, &s, all.dk, row, kv, s.heads + kv);
                add_heads(a, &s, all.dv, row, kv, s.heads + s.kv_heads + kv);
            }
    }
fail:
    return status;
}

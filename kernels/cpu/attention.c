// Attention, forward: online softmax over tiles of keys (Dao et al. 2022, FlashAttention).
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vexp.h"
#include <omp.h>

yx_status attention_shape_init(attention_shape *s, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                               yx_dtype act, double scale, const int32_t *seq_start, const void *qkv) {
    if (rows < 0 || kv_heads <= 0 || heads <= 0 || heads % kv_heads || head_dim <= 0 || head_dim > CPU_MAX_HEAD ||
        !cpu_is_act(act))
        return yx_fail(YX_ERR_INTERNAL, "attention: arguments break the contract");
    *s = (attention_shape){.rows = rows,
                           .heads = heads,
                           .kv_heads = kv_heads,
                           .head_dim = head_dim,
                           .padded = cpu_round_up(head_dim, TILE_VECTOR),
                           .tiles = cpu_ceil_div(rows, ATTENTION_TILE),
                           .act = act,
                           .scale = (yx_real)scale,
                           .seq_start = seq_start,
                           .qkv = qkv};
    return YX_OK;
}

void attention_load(const attention_shape *s, const void *matrix, int64_t width, int64_t head, int64_t row, int64_t n,
                    yx_real factor, yx_real *x) {
    for (int64_t i = 0; i < n; i++, x += s->padded) {
        yx_decode(s->act, cpu_at(s->act, matrix, (row + i) * width + head * s->head_dim), s->head_dim, x);
        if (factor != 1)
            for (int64_t j = 0; j < s->head_dim; j++) x[j] *= factor;
        for (int64_t j = s->head_dim; j < s->padded; j++) x[j] = 0;
    }
}

void attention_load_keys(const attention_shape *s, int64_t head, int64_t tile, yx_real *by_rows, yx_real *transposed) {
    int64_t n = attention_tile_rows(s, tile);
    attention_load(s, s->qkv, attention_width(s), head, tile * ATTENTION_TILE, n, 1, by_rows);
    memset(by_rows + n * s->padded, 0, (size_t)((ATTENTION_TILE - n) * s->padded) * sizeof *by_rows);
    if (transposed) tile_transpose(ATTENTION_TILE, s->head_dim, by_rows, s->padded, transposed, ATTENTION_TILE);
}

// The hull of what a group of rows sees, in whole vectors; lo >= hi when that is nothing.
static void group_range(const attention_shape *s, int64_t row, int64_t n, int64_t keys, int64_t *lo, int64_t *hi) {
    *lo = ATTENTION_TILE, *hi = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t first, end;
        attention_visible(s, row + i, keys, &first, &end);
        if (first >= end) continue;
        *lo = cpu_min(*lo, first / TILE_VECTOR * TILE_VECTOR);
        *hi = cpu_max(*hi, cpu_round_up(end, TILE_VECTOR));
    }
}

bool attention_next_run(const attention_shape *s, int64_t tile, int64_t keys, int64_t begin, attention_run *run) {
    int64_t rows = attention_tile_rows(s, tile), first = tile * ATTENTION_TILE;
    run->lo = run->hi = 0;
    for (int64_t i = begin; i < rows; i += ATTENTION_GROUP) {
        int64_t lo, hi, end = cpu_min(rows, i + ATTENTION_GROUP);
        group_range(s, first + i, end - i, keys, &lo, &hi);
        bool open = run->hi > 0;
        if (open && (lo != run->lo || hi != run->hi)) return true;
        if (lo >= hi) continue;
        if (!open) *run = (attention_run){i, end, lo, hi};
        run->end = end;
    }
    return run->hi > 0;
}

int64_t attention_first_tile(const attention_shape *s, int64_t tile) {
    int64_t first = tile * ATTENTION_TILE, start = first;
    for (int64_t i = 0; i < attention_tile_rows(s, tile); i++) start = cpu_min(start, s->seq_start[first + i]);
    return start / ATTENTION_TILE;
}

void attention_mask(const attention_shape *s, int64_t tile, int64_t keys, const attention_run *run, yx_real *scores) {
    for (int64_t r = run->begin; r < run->end; r++) {
        yx_real *row = scores + r * ATTENTION_TILE;
        int64_t first, end;
        attention_visible(s, tile * ATTENTION_TILE + r, keys, &first, &end);
        for (int64_t j = run->lo; j < cpu_min(first, run->hi); j++) row[j] = -INFINITY;
        for (int64_t j = cpu_max(end, run->lo); j < run->hi; j++) row[j] = -INFINITY;
    }
}

typedef struct forward_buffers {
    yx_real *keys, *values;                 // [kv_heads] transposed by tile; by rows
    yx_real *q, *sum, *scores, *max, *norm; // [threads] one tile of queries: [64, padded] twice, [64, 64], [64] twice
} forward_buffers;

static size_t lay_out(const yx_device *d, const attention_shape *s, void *base, forward_buffers *b) {
    cpu_scratch m = {base, 0};
    b->keys = cpu_take(&m, s->kv_heads * attention_columns_size(s), sizeof(yx_real));
    b->values = cpu_take(&m, s->kv_heads * attention_rows_size(s), sizeof(yx_real));
    b->q = cpu_take(&m, d->threads * ATTENTION_TILE * s->padded, sizeof(yx_real));
    b->sum = cpu_take(&m, d->threads * ATTENTION_TILE * s->padded, sizeof(yx_real));
    b->scores = cpu_take(&m, d->threads * ATTENTION_TILE * ATTENTION_TILE, sizeof(yx_real));
    b->max = cpu_take(&m, d->threads * ATTENTION_TILE, sizeof(yx_real));
    b->norm = cpu_take(&m, d->threads * ATTENTION_TILE, sizeof(yx_real));
    return m.used;
}

// The buffers of one thread, and of the key/value head of `head`.
static forward_buffers buffers_of(const attention_shape *s, const forward_buffers *b, int thread, int64_t head) {
    int64_t kv = attention_kv_head(s, head), tile = thread * ATTENTION_TILE;
    return (forward_buffers){b->keys + kv * attention_columns_size(s),
                             b->values + kv * attention_rows_size(s),
                             b->q + tile * s->padded,
                             b->sum + tile * s->padded,
                             b->scores + tile * ATTENTION_TILE,
                             b->max + tile,
                             b->norm + tile};
}

// One row's n scores become exp(score - max); what is summed so far is brought to the new max. Inlined with a constant
// n where that is common.
static inline __attribute__((always_inline)) void softmax_row(int64_t n, int64_t padded, yx_real *restrict scores,
                                                              yx_real *max, yx_real *norm, yx_real *restrict sum) {
    yx_real top = *max, total = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++) top = scores[j] > top ? scores[j] : top;
    if (top == -INFINITY) { // sees nothing here, and nothing yet
        for (int64_t j = 0; j < n; j++) scores[j] = 0;
        return;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n; j++) {
        scores[j] = vexp(scores[j] - top);
        total += scores[j];
    }
    if (top > *max) {
        yx_real shrink = vexp(*max - top);
        *max = top;
        *norm *= shrink;
        for (int64_t j = 0; j < padded; j++) sum[j] *= shrink;
    }
    *norm += total;
}

static void softmax_run(const attention_shape *s, const forward_buffers *b, const attention_run *run) {
    int64_t n = run->hi - run->lo;
    for (int64_t r = run->begin; r < run->end; r++) {
        yx_real *scores = b->scores + r * ATTENTION_TILE + run->lo, *sum = b->sum + r * s->padded;
        if (n == ATTENTION_TILE) softmax_row(ATTENTION_TILE, s->padded, scores, b->max + r, b->norm + r, sum);
        else if (n == TILE_VECTOR) softmax_row(TILE_VECTOR, s->padded, scores, b->max + r, b->norm + r, sum);
        else softmax_row(n, s->padded, scores, b->max + r, b->norm + r, sum);
    }
}

// Adds the part of key tile `keys` to one tile of queries.
static void attend_keys(const attention_shape *s, const forward_buffers *b, int64_t tile, int64_t keys) {
    const yx_real *columns = b->keys + keys * ATTENTION_TILE * s->head_dim;
    const yx_real *values = b->values + keys * ATTENTION_TILE * s->padded;
    attention_run run = {0};
    while (attention_next_run(s, tile, keys, run.end, &run)) {
        int64_t n = run.end - run.begin, width = run.hi - run.lo;
        yx_real *scores = b->scores + run.begin * ATTENTION_TILE + run.lo;
        tile_product(n, width, s->head_dim, b->q + run.begin * s->padded, s->padded, 1, columns + run.lo,
                     ATTENTION_TILE, scores, ATTENTION_TILE, false);
        attention_mask(s, tile, keys, &run, b->scores);
        softmax_run(s, b, &run);
        tile_product(n, s->padded, width, scores, ATTENTION_TILE, 1, values + run.lo * s->padded, s->padded,
                     b->sum + run.begin * s->padded, s->padded, true);
    }
}

static void attend_tile(const yx_attention_args *a, const attention_shape *s, const forward_buffers *b, int64_t tile,
                        int64_t head, cpu_tally *tally) {
    int64_t first = tile * ATTENTION_TILE, n = attention_tile_rows(s, tile), width = s->heads * s->head_dim;
    attention_load(s, s->qkv, attention_width(s), head, first, n, s->scale, b->q);
    memset(b->sum, 0, (size_t)(n * s->padded) * sizeof *b->sum);
    for (int64_t i = 0; i < n; i++) b->max[i] = -INFINITY, b->norm[i] = 0;
    for (int64_t keys = attention_first_tile(s, tile); keys <= tile; keys++) attend_keys(s, b, tile, keys);
    for (int64_t i = 0; i < n; i++) {
        yx_real *o = b->sum + i * s->padded, inverse = 1 / b->norm[i];
        for (int64_t j = 0; j < s->head_dim; j++) o[j] *= inverse;
        a->lse[head * s->rows + first + i] = b->max[i] + real_log(b->norm[i]);
        if (a->out.row != a->o) cpu_store(s->act, a->o, (first + i) * width + head * s->head_dim, s->head_dim, o);
        operand_store(&a->out, s->rows, width, first + i, head * s->head_dim, s->head_dim, o, tally);
    }
}

yx_status cpu_attention(yx_device *d, yx_stream *stream, const yx_attention_args *a) {
    (void)stream;
    yx_status status = YX_OK;
    attention_shape s;
    forward_buffers all;
    yx_attention_args args = *a;
    args.out.quant.amax = NULL; // rope recorded the bound
    YX_CHECK(
        attention_shape_init(&s, a->rows, a->heads, a->kv_heads, a->head_dim, a->act, a->scale, a->seq_start, a->qkv));
    YX_CHECK(cpu_check_workspace(d, lay_out(d, &s, NULL, &all), "attention"));
    lay_out(d, &s, d->workspace, &all);
    const int64_t step = attention_heads_per_task(&s, d, s.tiles);
#pragma omp parallel num_threads(d->threads)
    {
        cpu_tally tally = {0};
        yx_real *by_rows = all.q + omp_get_thread_num() * ATTENTION_TILE * s.padded;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.tiles * s.kv_heads; i++) {
            int64_t tile = i / s.kv_heads, kv = i % s.kv_heads, at = kv * s.tiles + tile;
            attention_load_keys(&s, s.heads + kv, tile, by_rows, all.keys + at * ATTENTION_TILE * s.head_dim);
            attention_load_keys(&s, s.heads + s.kv_heads + kv, tile, all.values + at * ATTENTION_TILE * s.padded, NULL);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s.tiles * s.heads / step; i++) {
            int64_t tile = i * step / s.heads, first = i * step % s.heads;
            for (int64_t head = first; head < first + step; head++) {
                forward_buffers own = buffers_of(&s, &all, omp_get_thread_num(), head);
                attend_tile(&args, &s, &own, tile, head, &tally);
            }
        }
        tally_record(&tally, &args.out.quant);
    }
fail:
    return status;
}

size_t cpu_attention_workspace(const yx_device *d, const yx_workspace_query *q) {
    attention_shape s;
    forward_buffers b;
    if (attention_shape_init(&s, q->rows, q->heads, q->kv_heads, q->head_dim, q->act, 1, NULL, NULL) != YX_OK) return 0;
    size_t forward = lay_out(d, &s, NULL, &b), backward = attention_backward_workspace(d, &s);
    return forward > backward ? forward : backward;
}

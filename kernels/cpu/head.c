// The head: cross-entropy over the vocabulary without the matrix of logits. Forward it is attention without a mask
// whose keys and values are both E (online softmax, which gives dz at once); backward recomputes the logits from lse.
//
// Rows that are not scored are left out: the scored rows of z are gathered first.
#include "kernels/cpu/convert.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vexp.h"
#include <omp.h>

enum {
    TOKENS = 96, // rows of a tile
    WORDS = 256, // columns of a tile of logits
    PANEL = 64,  // words of a panel of transposed embeddings
    SUPER = 2048 // words laid out at a time in the forward pass
};

typedef struct head_shape {
    int64_t scored; // rows with a target
    int64_t rank, padded, vocab;
} head_shape;

typedef struct head_buffers {
    int64_t *row; // [scored] the row of M each one is
    yx_real *z;   // [scored, padded]
    yx_real *columns,
        *words;          // forward: SUPER words of E, transposed by panel [rank, PANEL] and by rows [SUPER, padded]
    yx_real *max, *norm; // [scored]
    yx_real *sum;        // [scored, padded] of p·E
    yx_real *logits;     // [threads] [TOKENS, WORDS]
    yx_real *own;        // backward: [threads] WORDS words of E by rows, transposed, and their gradient
} head_buffers;

static size_t lay_out_common(const yx_device *d, const head_shape *s, int64_t rows, cpu_scratch *m, head_buffers *b) {
    *b = (head_buffers){0};
    b->row = cpu_take(m, rows, sizeof(int64_t));
    b->z = cpu_take(m, rows * s->padded, sizeof(yx_real));
    b->logits = cpu_take(m, (int64_t)d->threads * TOKENS * WORDS, sizeof(yx_real));
    return m->used;
}
static size_t lay_out_forward(const yx_device *d, const head_shape *s, int64_t rows, void *base, head_buffers *b) {
    cpu_scratch m = {base, 0};
    lay_out_common(d, s, rows, &m, b);
    b->columns = cpu_take(&m, SUPER * s->padded, sizeof(yx_real));
    b->words = cpu_take(&m, SUPER * s->padded, sizeof(yx_real));
    b->max = cpu_take(&m, rows, sizeof(yx_real));
    b->norm = cpu_take(&m, rows, sizeof(yx_real));
    b->sum = cpu_take(&m, rows * s->padded, sizeof(yx_real));
    return m.used;
}
static size_t lay_out_backward(const yx_device *d, const head_shape *s, int64_t rows, void *base, head_buffers *b) {
    cpu_scratch m = {base, 0};
    lay_out_common(d, s, rows, &m, b);
    b->own = cpu_take(&m, (int64_t)d->threads * 3 * WORDS * s->padded, sizeof(yx_real));
    return m.used;
}

static head_shape shape_of(int64_t rank, int64_t vocab) {
    return (head_shape){.rank = rank, .padded = cpu_round_up(rank, TILE_VECTOR), .vocab = vocab};
}

static bool arguments_hold(int64_t rows, int64_t rank, int64_t vocab, yx_dtype act, const yx_operand *E) {
    return rows >= 0 && rank > 0 && rank <= CPU_MAX_RANK && vocab > 0 && cpu_is_act(act) && E->row;
}

// Rows [word, word + n) of E by rows [n, padded] and transposed, in panels of PANEL words; words behind them are 0.
static void load_words(const head_shape *s, const yx_operand *E, int64_t word, int64_t n, int64_t size,
                       yx_real *by_rows, yx_real *columns) {
    yx_real scale_inv = quant_scale_inv(&E->quant);
    for (int64_t i = 0; i < size; i++) {
        yx_real *x = by_rows + i * s->padded;
        int64_t known = i < n ? s->rank : 0;
        yx_decode(E->dtype, cpu_at(E->dtype, E->row, (word + i) * s->rank), known, x);
        for (int64_t j = 0; j < known; j++) x[j] *= scale_inv;
        for (int64_t j = known; j < s->padded; j++) x[j] = 0;
    }
    for (int64_t i = 0; i < size; i += PANEL)
        tile_transpose(PANEL, s->rank, by_rows + i * s->padded, s->padded, columns + i * s->rank, PANEL);
}

// Gathers the scored rows of z; fills s->scored.
static void gather(const yx_device *d, yx_dtype act, const void *z, const int32_t *target, int64_t rows, head_shape *s,
                   const head_buffers *b) {
    s->scored = 0;
    for (int64_t i = 0; i < rows; i++)
        if (target[i] >= 0) b->row[s->scored++] = i;
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t i = 0; i < s->scored; i++) {
        yx_real *x = b->z + i * s->padded;
        yx_decode(act, cpu_at(act, z, b->row[i] * s->rank), s->rank, x);
        for (int64_t j = s->rank; j < s->padded; j++) x[j] = 0;
    }
}

// logits[n, width] of tokens from `token` on against words laid out in `columns`.
static void compute_logits(const head_shape *s, const yx_real *z, int64_t n, const yx_real *columns, int64_t width,
                           yx_real *logits) {
    for (int64_t j = 0; j < width; j += PANEL)
        tile_product(n, PANEL, s->rank, z, s->padded, 1, columns + j * s->rank, PANEL, logits + j, WORDS, false);
}

// One row of logits becomes exp(logit - max); what is summed so far is brought to the new max.
static void softmax_row(int64_t n, yx_real *restrict logits, yx_real *max, yx_real *norm, yx_real *restrict sum,
                        int64_t padded) {
    yx_real top = *max, total = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++) top = logits[j] > top ? logits[j] : top;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n; j++) {
        logits[j] = vexp(logits[j] - top);
        total += logits[j];
    }
    if (top > *max) {
        yx_real shrink = vexp(*max - top);
        *max = top;
        *norm *= shrink;
        for (int64_t j = 0; j < padded; j++) sum[j] *= shrink;
    }
    *norm += total;
}

// Adds `words` words, laid out in b->columns and b->words from `begin` on, to tokens [token, token + n).
static void forward_tile(const head_shape *s, const head_buffers *b, yx_real *logits, int64_t token, int64_t n,
                         int64_t begin, int64_t words, bool gradient) {
    yx_real *sum = b->sum + token * s->padded;
    compute_logits(s, b->z + token * s->padded, n, b->columns + begin * s->rank, cpu_round_up(words, PANEL), logits);
    for (int64_t i = 0; i < n; i++)
        softmax_row(words, logits + i * WORDS, b->max + token + i, b->norm + token + i, sum + i * s->padded, s->padded);
    if (gradient)
        tile_product(n, s->padded, words, logits, WORDS, 1, b->words + begin * s->padded, s->padded, sum, s->padded,
                     true);
}

static void forward_sums(const yx_device *d, const yx_head_args *a, const head_shape *s, const head_buffers *b) {
    const int64_t tiles = cpu_ceil_div(s->scored, TOKENS);
#pragma omp parallel num_threads(d->threads)
    {
        yx_real *logits = b->logits + (int64_t)omp_get_thread_num() * TOKENS * WORDS;
        for (int64_t first = 0; first < s->vocab; first += SUPER) {
            int64_t words = cpu_min(SUPER, s->vocab - first);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < words; i += PANEL)
                load_words(s, &a->E, first + i, cpu_min(PANEL, words - i), PANEL, b->words + i * s->padded,
                           b->columns + i * s->rank);
#pragma omp for schedule(dynamic)
            for (int64_t tile = 0; tile < tiles; tile++) {
                int64_t token = tile * TOKENS, n = cpu_min(TOKENS, s->scored - token);
                for (int64_t i = 0; i < words; i += WORDS)
                    forward_tile(s, b, logits, token, n, i, cpu_min(WORDS, words - i), a->dz != NULL);
            }
        }
    }
}

// The loss of one scored row, and dz = grad_scale · (Σ p·E - E[target]).
static void finish_row(const yx_head_args *a, const head_shape *s, const head_buffers *b, int64_t i) {
    const yx_real *z = b->z + i * s->padded;
    yx_real target[CPU_MAX_RANK], dz[CPU_MAX_RANK], logit = 0;
    yx_real scale_inv = quant_scale_inv(&a->E.quant), inverse = 1 / b->norm[i], scale = (yx_real)a->grad_scale;
    int64_t row = b->row[i];
    yx_decode(a->E.dtype, cpu_at(a->E.dtype, a->E.row, a->target[row] * s->rank), s->rank, target);
    for (int64_t j = 0; j < s->rank; j++) target[j] *= scale_inv;
#pragma omp simd reduction(+ : logit)
    for (int64_t j = 0; j < s->rank; j++) logit += z[j] * target[j];
    a->lse[row] = b->max[i] + real_log(b->norm[i]);
    a->loss[row] = a->lse[row] - logit;
    if (!a->dz) return;
    const yx_real *sum = b->sum + i * s->padded;
    for (int64_t j = 0; j < s->rank; j++) dz[j] = scale * (sum[j] * inverse - target[j]);
    cpu_store(a->act, a->dz, row * s->rank, s->rank, dz);
}

static void clear_unscored(const yx_device *d, const yx_head_args *a) {
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t i = 0; i < a->rows; i++) {
        if (a->target[i] >= 0) continue;
        a->lse[i] = a->loss[i] = 0;
        if (a->dz) memset(cpu_at(a->act, a->dz, i * a->rank), 0, (size_t)a->rank * yx_dtype_size(a->act));
    }
}

yx_status cpu_head(yx_device *d, yx_stream *stream, const yx_head_args *a) {
    (void)stream;
    yx_status status = YX_OK;
    head_shape s = shape_of(a->rank, a->vocab);
    head_buffers b;
    if (!arguments_hold(a->rows, a->rank, a->vocab, a->act, &a->E))
        YX_FAIL(YX_ERR_INTERNAL, "head: arguments break the contract");
    YX_CHECK(cpu_check_workspace(d, lay_out_forward(d, &s, a->rows, NULL, &b), "head"));
    lay_out_forward(d, &s, a->rows, d->workspace, &b);
    gather(d, a->act, a->z, a->target, a->rows, &s, &b);
    memset(b.sum, 0, (size_t)(s.scored * s.padded) * sizeof *b.sum);
    for (int64_t i = 0; i < s.scored; i++) b.max[i] = -INFINITY, b.norm[i] = 0;
    forward_sums(d, a, &s, &b);
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t i = 0; i < s.scored; i++) finish_row(a, &s, &b, i);
    clear_unscored(d, a);
    if (a->loss_sum)
        for (int64_t i = 0; i < a->rows; i++) *a->loss_sum += (double)a->loss[i];
fail:
    return status;
}

// A tile of logits of words [word, word + words) becomes the gradient of the logits, without grad_scale.
static void logit_gradients(const yx_head_backward_args *a, const head_buffers *b, int64_t token, int64_t n,
                            int64_t word, int64_t words, yx_real *logits) {
    for (int64_t i = 0; i < n; i++) {
        yx_real *restrict row = logits + i * WORDS, lse = a->lse[b->row[token + i]];
        for (int64_t j = 0; j < words; j++) row[j] = vexp(row[j] - lse);
        int64_t target = a->target[b->row[token + i]] - word;
        if (target >= 0 && target < words) row[target] -= 1;
    }
}

// dE of words [word, word + n), in buffers of the thread.
static void backward_words(const yx_head_backward_args *a, const head_shape *s, const head_buffers *b, int64_t word,
                           yx_real *logits, yx_real *own) {
    int64_t words = cpu_min(WORDS, s->vocab - word), size = WORDS * s->padded;
    yx_real *by_rows = own, *columns = own + size, *gradient = own + 2 * size, scale = (yx_real)a->grad_scale;
    load_words(s, &a->E, word, words, WORDS, by_rows, columns);
    memset(gradient, 0, (size_t)size * sizeof *gradient);
    for (int64_t token = 0; token < s->scored; token += TOKENS) {
        int64_t n = cpu_min(TOKENS, s->scored - token);
        const yx_real *z = b->z + token * s->padded;
        compute_logits(s, z, n, columns, cpu_round_up(words, PANEL), logits);
        logit_gradients(a, b, token, n, word, words, logits);
        tile_product(words, s->padded, n, logits, 1, WORDS, z, s->padded, gradient, s->padded, true);
    }
    for (int64_t i = 0; i < words; i++)
        for (int64_t j = 0; j < s->rank; j++) a->dE[(word + i) * s->rank + j] += scale * gradient[i * s->padded + j];
}

yx_status cpu_head_backward(yx_device *d, yx_stream *stream, const yx_head_backward_args *a) {
    (void)stream;
    yx_status status = YX_OK;
    head_shape s = shape_of(a->rank, a->vocab);
    head_buffers b;
    if (!arguments_hold(a->rows, a->rank, a->vocab, a->act, &a->E))
        YX_FAIL(YX_ERR_INTERNAL, "head_backward: arguments break the contract");
    YX_CHECK(cpu_check_workspace(d, lay_out_backward(d, &s, a->rows, NULL, &b), "head_backward"));
    lay_out_backward(d, &s, a->rows, d->workspace, &b);
    gather(d, a->act, a->z, a->target, a->rows, &s, &b);
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
    for (int64_t word = 0; word < s.vocab; word += WORDS) {
        int64_t thread = omp_get_thread_num();
        backward_words(a, &s, &b, word, b.logits + thread * TOKENS * WORDS, b.own + thread * 3 * WORDS * s.padded);
    }
fail:
    return status;
}

size_t cpu_head_workspace(const yx_device *d, const yx_workspace_query *q) {
    head_shape s = shape_of(q->rank, q->vocab);
    head_buffers b;
    size_t forward = lay_out_forward(d, &s, q->rows, NULL, &b), backward = lay_out_backward(d, &s, q->rows, NULL, &b);
    return forward > backward ? forward : backward;
}

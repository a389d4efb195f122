// Matrix products by OpenBLAS. It knows one type, so operands in fewer bits are decoded into the workspace first, and
// outputs in fewer bits are rounded from there; both go through in pieces of rows, which bounds the workspace and stays
// in cache.
#include "kernels/cpu/convert.h"
#include <cblas.h>

enum { PIECE_ROWS = 2048, PIECE_OUTS = 8192, DECODE_PIECE = 4096 };

// A product as BLAS sees it, for one piece: c[m, n] = alpha · op(a) · op(b) + beta · c.
typedef struct gemm {
    CBLAS_TRANSPOSE op_a, op_b;
    int64_t m, n, k, lda, ldb;
} gemm;

typedef struct matmul_buffers {
    yx_real *a, *b, *out; // NULL: not needed
} matmul_buffers;

static bool shapes_fit(const yx_matmul_args *x) {
    return x->M >= 0 && x->N > 0 && x->K > 0 && x->M <= INT32_MAX && x->N <= INT32_MAX && x->K <= INT32_MAX &&
           x->a.row && x->b.row && x->out && cpu_is_act(x->out_dtype) &&
           (x->form != YX_MATMUL_DW || x->out_dtype == YX_F32);
}

static size_t lay_out(const yx_matmul_args *x, void *base, matmul_buffers *buffers) {
    cpu_scratch s = {base, 0};
    int64_t rows = cpu_min(x->M, PIECE_ROWS), outs = cpu_min(x->N, PIECE_OUTS);
    int64_t a_cols = x->form == YX_MATMUL_Y ? x->K : x->N, out_cols = x->form == YX_MATMUL_Y ? outs : x->K;
    int64_t b_size = x->form == YX_MATMUL_Y ? outs * x->K : x->form == YX_MATMUL_DX ? x->N * x->K : rows * x->K;
    *buffers = (matmul_buffers){0};
    if (x->a.dtype != YX_F32) buffers->a = cpu_take(&s, rows * a_cols, sizeof(yx_real));
    if (x->b.dtype != YX_F32) buffers->b = cpu_take(&s, b_size, sizeof(yx_real));
    if (x->out_dtype != YX_F32) buffers->out = cpu_take(&s, rows * out_cols, sizeof(yx_real));
    return s.used;
}

// n values of the operand from `index` on, as stored (the scales are in the product's alpha).
static const yx_real *values(const yx_device *d, const yx_operand *o, int64_t index, int64_t n, yx_real *buffer) {
    if (o->dtype == YX_F32) return (const yx_real *)o->row + index;
    int64_t pieces = cpu_ceil_div(n, DECODE_PIECE);
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t begin = i * DECODE_PIECE, count = cpu_min(DECODE_PIECE, n - begin);
        yx_decode(o->dtype, cpu_at(o->dtype, o->row, index + begin), count, buffer + begin);
    }
    return buffer;
}

// Rounds c [rows, cols] into the rows of the output from `row`, column `col` on.
static void store_output(const yx_device *d, const yx_matmul_args *x, int64_t out_cols, int64_t row, int64_t col,
                         int64_t rows, int64_t cols, yx_real *c) {
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j += CPU_CHUNK) {
            int64_t n = cpu_min(CPU_CHUNK, cols - j), at = (row + i) * out_cols + col + j;
            yx_real old[CPU_CHUNK], *sum = c + i * cols + j;
            if (x->accumulate) {
                yx_decode(x->out_dtype, cpu_at(x->out_dtype, x->out, at), n, old);
                for (int64_t p = 0; p < n; p++) sum[p] += old[p];
            }
            cpu_store(x->out_dtype, x->out, at, n, sum);
        }
    }
}

static void multiply(const gemm *g, yx_real alpha, const yx_real *a, const yx_real *b, yx_real beta, yx_real *c,
                     int64_t ldc) {
    cpu_gemm(CblasRowMajor, g->op_a, g->op_b, (int)g->m, (int)g->n, (int)g->k, alpha, a, (int)g->lda, b, (int)g->ldb,
             beta, c, (int)ldc);
}

// One piece of y or dx: rows [row, row + g->m) and columns [col, col + g->n) of the output.
static void output_piece(const yx_device *d, const yx_matmul_args *x, const gemm *g, yx_real alpha, const yx_real *a,
                         const yx_real *b, int64_t out_cols, int64_t row, int64_t col, yx_real *buffer) {
    if (x->out_dtype == YX_F32) {
        multiply(g, alpha, a, b, x->accumulate ? 1 : 0, (yx_real *)x->out + row * out_cols + col, out_cols);
        return;
    }
    multiply(g, alpha, a, b, 0, buffer, g->n);
    store_output(d, x, out_cols, row, col, g->m, g->n, buffer);
}

// Rows of y or dx in pieces, unless nothing needs converting.
static void rows_in_pieces(const yx_device *d, const yx_matmul_args *x, gemm g, yx_real alpha, const yx_real *b,
                           int64_t out_cols, int64_t col, const matmul_buffers *buffers) {
    bool whole = x->a.dtype == YX_F32 && x->out_dtype == YX_F32;
    int64_t step = whole ? x->M : PIECE_ROWS;
    for (int64_t row = 0; row < x->M; row += step) {
        g.m = cpu_min(step, x->M - row);
        const yx_real *a = values(d, &x->a, row * g.k, g.m * g.k, buffers->a);
        output_piece(d, x, &g, alpha, a, b, out_cols, row, col, buffers->out);
    }
}

static void matmul_y(const yx_device *d, const yx_matmul_args *x, yx_real alpha, const matmul_buffers *buffers) {
    bool whole = x->b.dtype == YX_F32 && x->out_dtype == YX_F32;
    int64_t step = whole ? x->N : PIECE_OUTS;
    for (int64_t col = 0; col < x->N; col += step) {
        int64_t n = cpu_min(step, x->N - col);
        gemm g = {CblasNoTrans, CblasTrans, 0, n, x->K, x->K, x->K};
        const yx_real *b = values(d, &x->b, col * x->K, n * x->K, buffers->b);
        rows_in_pieces(d, x, g, alpha, b, x->N, col, buffers);
    }
}

static void matmul_dx(const yx_device *d, const yx_matmul_args *x, yx_real alpha, const matmul_buffers *buffers) {
    gemm g = {CblasNoTrans, CblasNoTrans, 0, x->K, x->N, x->N, x->K};
    const yx_real *b = values(d, &x->b, 0, x->N * x->K, buffers->b);
    rows_in_pieces(d, x, g, alpha, b, x->K, 0, buffers);
}

static void matmul_dw(const yx_device *d, const yx_matmul_args *x, yx_real alpha, const matmul_buffers *buffers) {
    bool whole = x->a.dtype == YX_F32 && x->b.dtype == YX_F32;
    int64_t step = whole ? x->M : PIECE_ROWS;
    for (int64_t row = 0; row < x->M; row += step) {
        gemm g = {CblasTrans, CblasNoTrans, x->N, x->K, cpu_min(step, x->M - row), x->N, x->K};
        const yx_real *a = values(d, &x->a, row * x->N, g.k * x->N, buffers->a);
        const yx_real *b = values(d, &x->b, row * x->K, g.k * x->K, buffers->b);
        multiply(&g, alpha, a, b, x->accumulate || row ? 1 : 0, x->out, x->K);
    }
}

yx_status cpu_matmul(yx_device *d, yx_stream *stream, const yx_matmul_args *x) {
    (void)stream;
    yx_status status = YX_OK;
    if (!shapes_fit(x)) YX_FAIL(YX_ERR_INTERNAL, "matmul: arguments break the contract");
    matmul_buffers buffers;
    YX_CHECK(cpu_check_workspace(d, lay_out(x, NULL, &buffers), "matmul"));
    lay_out(x, d->workspace, &buffers);
    yx_real alpha = (yx_real)quant_scale_inv(&x->a.quant) * (yx_real)quant_scale_inv(&x->b.quant);
    switch (x->form) {
    case YX_MATMUL_Y:
        matmul_y(d, x, alpha, &buffers);
        break;
    case YX_MATMUL_DX:
        matmul_dx(d, x, alpha, &buffers);
        break;
    case YX_MATMUL_DW:
        matmul_dw(d, x, alpha, &buffers);
        break;
    }
fail:
    return status;
}

size_t cpu_matmul_workspace(const yx_workspace_query *q) {
    // Every weight [N, K] of the model.
    const int64_t weights[][2] = {{(q->heads + 2 * q->kv_heads) * q->head_dim, q->hidden},
                                  {q->hidden, q->heads * q->head_dim},
                                  {2 * q->intermediate, q->hidden},
                                  {q->hidden, q->intermediate},
                                  {q->hidden, q->rank},
                                  {q->rank, q->hidden}};
    const yx_operand narrow = {.dtype = YX_BF16}; // 8-bit operands need the same
    size_t largest = 0;
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        for (int form = YX_MATMUL_Y; form <= YX_MATMUL_DW; form++) {
            yx_matmul_args x = {.form = form,
                                .M = q->rows,
                                .N = weights[i][0],
                                .K = weights[i][1],
                                .a = narrow,
                                .b = narrow,
                                .out_dtype = form == YX_MATMUL_DW ? YX_F32 : q->act};
            matmul_buffers buffers;
            size_t size = lay_out(&x, NULL, &buffers);
            largest = size > largest ? size : largest;
        }
    }
    // Logits leave as YX_F32.
    yx_matmul_args logits = {
        .form = YX_MATMUL_Y, .M = q->rows, .N = q->vocab, .K = q->rank, .a = narrow, .b = narrow, .out_dtype = YX_F32};
    matmul_buffers buffers;
    size_t size = lay_out(&logits, NULL, &buffers);
    return size > largest ? size : largest;
}

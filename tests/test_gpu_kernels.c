// The GPU's row operations, products and optimizer beside the CPU's on the same inputs: values within rounding of an
// fp32 reference, 8-bit codes byte for byte but for ties.
#define GPU_TEST
#include "tests/kernels_fixture.h"

static const yx_ops *cpu;
static yx_device *cpu_device;
static void *cpu_workspace;

enum {
    MOST_ROWS = 16512,       // more than the resident blocks of a large GPU take at once
    MOST_EMBED_ROWS = 65664, // those of several ranks: more than one row for each thread that sorts
};
static int open_all(void **state) {
    (void)state;
    yx_workspace_query query = {.rows = MOST_ROWS,
                                .hidden = 1536,
                                .heads = 12,
                                .kv_heads = 2,
                                .head_dim = 64,
                                .intermediate = 2048,
                                .rank = 128,
                                .vocab = 200005,
                                .embed_rows = MOST_EMBED_ROWS,
                                .act = YX_BF16};
    open_devices(&query);
    omp_set_num_threads(omp_get_num_procs());
    cpu = kernels_cpu();
    ok(cpu->open(0, NULL, &cpu_device));
    size_t bytes = cpu->workspace_size(cpu_device, &query);
    ok(cpu->alloc(cpu_device, bytes, &cpu_workspace));
    cpu->set_workspace(cpu_device, cpu_workspace, bytes);
    return 0;
}
static int close_all(void **state) {
    (void)state;
    cpu->free(cpu_device, cpu_workspace);
    cpu->close(cpu_device);
    close_devices();
    return 0;
}
static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}

// --- The CPU's side: plain host memory
static void *hosts[256];
static int num_hosts;
static void *host(size_t bytes) {
    assert_true(num_hosts < 256);
    void *p = malloc(bytes);
    memset(p, 0xff, bytes);
    return hosts[num_hosts++] = p;
}
static void *host_copy(const void *x, size_t bytes) { return memcpy(host(bytes), x, bytes); }
static void release_hosts(void) {
    while (num_hosts) free(hosts[--num_hosts]);
    release_all();
}
// The values of a bf16 tensor as fp32.
static float *wide(const void *x, int64_t n) {
    float *out = host((size_t)n * 4);
    yx_decode(YX_BF16, x, n, out);
    return out;
}
static yx_operand host_operand(const yx_operand *like, int64_t values) {
    yx_operand o = *like;
    size_t bytes = (size_t)values * yx_dtype_size(o.dtype);
    quant_memory *q = host(sizeof *q);
    *q = (quant_memory){o.quant.scale_inv ? *o.quant.scale_inv : 1, o.quant.scale ? *o.quant.scale : 1, 0, 0};
    o.quant = (yx_quant){&q->scale, &q->scale_inv, &q->amax, &q->saturated};
    if (o.row) o.row = host(bytes);
    if (o.col) o.col = host(bytes);
    return o;
}
// An operand of the GPU: transposed copy only in 8 bits.
static yx_operand gpu_operand(yx_dtype t, int64_t rows, int64_t cols, float scale) {
    yx_operand o = take_operand(t, rows, cols, scale);
    if (t == YX_BF16) o.col = NULL;
    return o;
}

static double differing(const void *a, const void *b, int64_t n, size_t size) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += memcmp((const char *)a + (size_t)i * size, (const char *)b + (size_t)i * size, size) != 0;
    return (double)count / (double)n;
}
// Same codes but for ties, the transposed copy exactly transposed, and the same records.
static void same_operand(const char *what, const yx_operand *gpu, const yx_operand *reference, int64_t rows,
                         int64_t cols, double ties) {
    int64_t n = rows * cols;
    size_t size = yx_dtype_size(gpu->dtype);
    if (gpu->row) {
        double share = differing(gpu->row, reference->row, n, size);
        if (share > ties) fail_msg("%s: %.3g of the codes differ", what, share);
    }
    for (int64_t i = 0; gpu->row && gpu->col && i < n; i++)
        if (((uint8_t *)gpu->col)[i % cols * rows + i / cols] != ((uint8_t *)gpu->row)[i])
            fail_msg("%s: the transposed copy differs at row %lld, column %lld", what, (long long)(i / cols),
                     (long long)(i % cols));
    float a = *gpu->quant.amax, b = *reference->quant.amax;
    if (!(fabsf(a - b) <= 1e-2f * b)) fail_msg("%s: amax %g instead of %g", what, (double)a, (double)b);
    double clipped = *gpu->quant.saturated, expected = *reference->quant.saturated;
    if (fabs(clipped - expected) > 2 + 0.02 * expected)
        fail_msg("%s: %g clipped instead of %g", what, clipped, expected);
}
static void close_to(const char *what, yx_dtype t, const void *x, const float *expected, int64_t n, double bound) {
    double *e = malloc((size_t)n * sizeof *e);
    for (int64_t i = 0; i < n; i++) e[i] = (double)expected[i];
    double error = relative_error(t, x, e, n);
    free(e);
    if (!(error <= bound)) fail_msg("%s: relative error %.3g exceeds %.3g", what, error, bound);
}
#define ON_CPU(name, args) ok(cpu->name(cpu_device, NULL, (args)))
static const double BF16 = 5e-3, TIES = 1e-3;

// --- RMSNorm
static void check_norm(int64_t rows, int64_t cols, yx_dtype type, bool add) {
    int64_t n = rows * cols;
    yx_norm_args a = {.rows = rows,
                      .cols = cols,
                      .act = YX_BF16,
                      .eps = 1e-5,
                      .x = take_random(YX_BF16, n, 2),
                      .delta = add ? take_random(YX_BF16, n, 1) : NULL,
                      .sum = take_output((size_t)n * 2),
                      .gamma = take_random(YX_F32, cols, 1),
                      .rstd = take_output((size_t)rows * 4),
                      .y = gpu_operand(type, rows, cols, type == YX_BF16 ? 1 : 64)};
    RUN(norm, &a);
    yx_norm_args b = a;
    b.sum = host((size_t)n * 2), b.rstd = host((size_t)rows * 4), b.y = host_operand(&a.y, n);
    ON_CPU(norm, &b);
    same_operand("norm", &a.y, &b.y, rows, cols, TIES);
    close_to("rstd", YX_F32, a.rstd, b.rstd, rows, 1e-5);
    if (add) assert_true(differing(a.sum, b.sum, n, 2) == 0);
    release_hosts();
}
static void norm(void **state) {
    (void)state;
    static const yx_dtype types[] = {YX_BF16, YX_E4M3};
    static const int64_t shapes[][2] = {{128, 64}, {128, 768}, {384, 320}, {2048, 768}, {128, 1536}};
    for (int s = 0; s < 5; s++)
        for (int t = 0; t < 2; t++)
            for (int add = 0; add < 2; add++) check_norm(shapes[s][0], shapes[s][1], types[t], add);
}

static void check_norm_backward(int64_t rows, int64_t cols, yx_dtype type, int residual) {
    int64_t n = rows * cols;
    void *dres = residual ? take_random(YX_BF16, n, 1) : NULL;
    yx_norm_backward_args a = {.rows = rows,
                               .cols = cols,
                               .act = YX_BF16,
                               .dy = take_random(YX_BF16, n, 1),
                               .s = take_random(YX_BF16, n, 2),
                               .rstd = take_random(YX_F32, rows, 1),
                               .gamma = take_random(YX_F32, cols, 1),
                               .dres = dres,
                               .dx = residual == 2 ? track(dres, (size_t)n * 2) : take_output((size_t)n * 2),
                               .dx_operand = gpu_operand(type, rows, cols, type == YX_BF16 ? 1 : 1024),
                               .dgamma = track(take_random(YX_F32, cols, 1), (size_t)cols * 4)};
    if (type == YX_BF16) a.dx_operand.row = a.dx;
    yx_norm_backward_args b = a;
    b.dx = host((size_t)n * 2);
    if (dres) b.dres = host_copy(dres, (size_t)n * 2);
    b.dx_operand = host_operand(&a.dx_operand, n);
    if (type == YX_BF16) b.dx_operand.row = b.dx;
    b.dgamma = host_copy(a.dgamma, (size_t)cols * 4);
    RUN(norm_backward, &a);
    ON_CPU(norm_backward, &b);
    close_to("dx", YX_BF16, a.dx, wide(b.dx, n), n, BF16);
    same_operand("norm_backward", &a.dx_operand, &b.dx_operand, rows, cols, 2 * TIES);
    close_to("dgamma", YX_F32, a.dgamma, b.dgamma, cols, 1e-5);
    release_hosts();
}
static void norm_backward(void **state) {
    (void)state;
    static const yx_dtype types[] = {YX_BF16, YX_E4M3, YX_E5M2};
    static const int64_t shapes[][2] = {{128, 64}, {128, 768}, {384, 320}, {2048, 768}, {MOST_ROWS, 64}};
    for (int s = 0; s < 5; s++)
        for (int t = 0; t < 3; t++)
            for (int r = 0; r < 3; r++) check_norm_backward(shapes[s][0], shapes[s][1], types[t], r);
}

// --- Rotary positions
static void check_rope(int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim, bool inverse, yx_dtype type) {
    int64_t width = (heads + 2 * kv_heads) * dim, n = rows * width;
    float *table = take((size_t)(2048 * dim) * 4);
    for (int64_t i = 0; i < 2048 * dim / 2; i++) {
        double angle = (double)(i / (dim / 2)) * pow(10000, -2.0 * (double)(i % (dim / 2)) / (double)dim);
        table[2 * i] = (float)cos(angle), table[2 * i + 1] = (float)sin(angle);
    }
    yx_rope_args a = {.rows = rows,
                      .heads = heads,
                      .kv_heads = kv_heads,
                      .head_dim = dim,
                      .act = YX_BF16,
                      .inverse = inverse,
                      .seq_start = take_sequences(rows, 300, 40),
                      .table = table,
                      .qkv = track(take_random(YX_BF16, n, 1), (size_t)n * 2)};
    a.out = gpu_operand(type, rows, width, type == YX_BF16 ? 1 : 4096);
    if (type == YX_BF16) a.out.row = a.qkv;
    if (!inverse) a.out.col = NULL;
    yx_rope_args b = a;
    b.qkv = host_copy(a.qkv, (size_t)n * 2);
    b.out = host_operand(&a.out, n);
    if (type == YX_BF16) b.out.row = b.qkv;
    RUN(rope, &a);
    ON_CPU(rope, &b);
    if (type == YX_BF16) assert_true(differing(a.qkv, b.qkv, n, 2) < TIES);
    if (inverse) same_operand("rope", &a.out, &b.out, rows, width, 2 * TIES);
    else assert_true(*a.out.quant.amax == *b.out.quant.amax);
    release_hosts();
}
static void rope(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        static const int64_t heads[][3] = {{12, 2, 64}, {3, 1, 64}, {2, 2, 32}};
        const int64_t *h = heads[i];
        check_rope(1024, h[0], h[1], h[2], false, YX_BF16);
        check_rope(1024, h[0], h[1], h[2], true, YX_BF16);
        check_rope(1024, h[0], h[1], h[2], true, YX_E5M2);
    }
}

// --- SwiGLU
static void check_swiglu(int64_t rows, int64_t cols, yx_dtype type, yx_dtype gradient) {
    int64_t n = rows * cols;
    yx_swiglu_args a = {.rows = rows, .cols = cols, .act = YX_BF16, .gate_up = take_random(YX_BF16, 2 * n, 2)};
    a.h = gpu_operand(type, rows, cols, type == YX_BF16 ? 1 : 32);
    RUN(swiglu, &a);
    yx_swiglu_args b = a;
    b.h = host_operand(&a.h, n);
    ON_CPU(swiglu, &b);
    same_operand("swiglu", &a.h, &b.h, rows, cols, TIES);
    untrack_all();
    yx_swiglu_backward_args c = {.rows = rows, .cols = cols, .act = YX_BF16, .gate_up = a.gate_up};
    c.dh = take_random(YX_BF16, n, 1);
    c.dgate_up = gpu_operand(gradient, rows, 2 * cols, gradient == YX_BF16 ? 1 : 8192);
    c.h = gpu_operand(type, rows, cols, type == YX_BF16 ? 1 : 32);
    RUN(swiglu_backward, &c);
    yx_swiglu_backward_args e = c;
    e.dgate_up = host_operand(&c.dgate_up, 2 * n), e.h = host_operand(&c.h, n);
    ON_CPU(swiglu_backward, &e);
    same_operand("dgate_up", &c.dgate_up, &e.dgate_up, rows, 2 * cols, TIES);
    assert_true(differing(c.h.row, e.h.row, n, yx_dtype_size(type)) <= TIES);
    release_hosts();
}
static void swiglu(void **state) {
    (void)state;
    check_swiglu(128, 64, YX_BF16, YX_BF16);
    check_swiglu(1024, 2048, YX_BF16, YX_BF16);
    check_swiglu(1024, 2048, YX_E4M3, YX_E5M2);
    check_swiglu(384, 320, YX_E4M3, YX_E5M2);
    check_swiglu(256, 192, YX_E4M3, YX_BF16);
}

// --- Casts
static void check_cast(int64_t rows, int64_t cols, yx_dtype from, yx_dtype to, bool transposed) {
    int64_t n = rows * cols;
    size_t size = yx_dtype_size(to);
    yx_cast_args a = {rows, cols, from, take_random(from, n, 1), take_operand(to, rows, cols, 256)};
    if (!transposed) a.dst.col = NULL;
    RUN(cast, &a);
    yx_cast_args b = a;
    b.dst = host_operand(&a.dst, n);
    ON_CPU(cast, &b);
    assert_true(differing(a.dst.row, b.dst.row, n, size) == 0);
    if (transposed) assert_true(differing(a.dst.col, b.dst.col, n, size) == 0);
    assert_true(*a.dst.quant.amax == *b.dst.quant.amax);
    assert_int_equal(*a.dst.quant.saturated, *b.dst.quant.saturated);
    release_hosts();
}

static void cast(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {768, 1}, {67, 129}, {1024, 768}};
    static const yx_dtype types[] = {YX_BF16, YX_E4M3, YX_E5M2};
    for (int s = 0; s < 4; s++)
        for (int from = 0; from < 2; from++) {
            yx_dtype source = from ? YX_BF16 : YX_F32;
            for (int t = 0; t < 3; t++)
                for (int transposed = 0; transposed < 2; transposed++)
                    check_cast(shapes[s][0], shapes[s][1], source, types[t], transposed);
            check_cast(shapes[s][0], shapes[s][1], source, YX_F32, false);
        }
}

// --- Products: against sums in double
static double stored(yx_dtype t, const void *x, int64_t i, float scale_inv) { return get(t, x, i) * (double)scale_inv; }

static void check_matmul(int form, int64_t M, int64_t N, int64_t K, yx_dtype ta, yx_dtype tb) {
    yx_matmul_args a = {.form = (yx_matmul_form)form, .M = M, .N = N, .K = K};
    a.out_dtype = form == YX_MATMUL_DW ? YX_F32 : YX_BF16;
    a.accumulate = form == YX_MATMUL_DW;
    int64_t ar = M, ac = form == YX_MATMUL_Y ? K : N, br = form == YX_MATMUL_DW ? M : N, bc = K;
    int64_t rows = form == YX_MATMUL_DW ? N : M, cols = form == YX_MATMUL_Y ? N : K;
    bool eight = yx_dtype_size(ta) == 1;
    yx_operand *operands[] = {&a.a, &a.b};
    const int64_t sizes[][2] = {{ar, ac}, {br, bc}};
    for (int i = 0; i < 2; i++) {
        yx_dtype t = i ? tb : ta;
        quant_memory *q = take(sizeof *q);
        *q = (quant_memory){eight ? 0.25f : 1, 4, 0, 0};
        int64_t n = sizes[i][0] * sizes[i][1];
        *operands[i] = (yx_operand){.dtype = t, .row = take_random(t, n, 1)};
        if (!eight) continue;
        operands[i]->quant = (yx_quant){&q->scale, &q->scale_inv, NULL, NULL};
        uint8_t *col = operands[i]->col = take((size_t)n);
        for (int64_t k = 0; k < n; k++)
            col[k % sizes[i][1] * sizes[i][0] + k / sizes[i][1]] = ((uint8_t *)operands[i]->row)[k];
    }
    a.out = track(take_random(a.out_dtype, rows * cols, 1), (size_t)(rows * cols) * yx_dtype_size(a.out_dtype));
    double *expected = malloc((size_t)(rows * cols) * sizeof *expected);
    float sa = eight ? 0.25f : 1;
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            double sum = a.accumulate ? get(a.out_dtype, a.out, r * cols + c) : 0;
            int64_t inner = form == YX_MATMUL_Y ? K : form == YX_MATMUL_DX ? N : M;
            for (int64_t k = 0; k < inner; k++)
                sum += stored(ta, a.a.row, form == YX_MATMUL_DW ? k * N + r : r * ac + k, sa) *
                       stored(tb, a.b.row, form == YX_MATMUL_Y ? c * K + k : k * K + c, sa);
            expected[r * cols + c] = sum;
        }
    RUN(matmul, &a);
    // The quick accumulation of 8-bit forward products keeps about 14 bits.
    double bound = a.out_dtype == YX_BF16 ? BF16 : eight ? 1e-4 : 1e-5;
    double error = relative_error(a.out_dtype, a.out, expected, rows * cols);
    free(expected);
    if (!(error <= bound))
        fail_msg("form %d, %s: relative error %.3g exceeds %.3g", form, yx_dtype_name(ta), error, bound);
    release_hosts();
}
static void matmul(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{128, 128, 64}, {384, 256, 192}, {512, 768, 128}, {1024, 512, 768}};
    for (int s = 0; s < 4; s++)
        for (int form = 0; form < 3; form++) {
            const int64_t *n = shapes[s];
            check_matmul(form, n[0], n[1], n[2], YX_BF16, YX_BF16);
            check_matmul(form, n[0], n[1], n[2], form == YX_MATMUL_Y ? YX_E4M3 : YX_E5M2, YX_E4M3);
        }
}

// --- Embedding
static int by_word(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}
// dE, added to in the GPU's order: the rows by word, in pieces of 32; the sums of a word's pieces one after another,
// and what is there before plus that.
static void add_by_pieces(const yx_embed_backward_args *a, yx_real *dE) {
    int64_t n = a->rows, *word_row = host((size_t)n * sizeof *word_row);
    for (int64_t i = 0; i < n; i++) word_row[i] = (int64_t)a->token[i] << 32 | i;
    qsort(word_row, (size_t)n, sizeof *word_row, by_word);
    float *dz = wide(a->dz, n * a->rank);
    for (int64_t begin = 0, end; begin < n; begin = end) {
        int64_t word = word_row[begin] >> 32;
        for (end = begin + 1; end < n && word_row[end] >> 32 == word;) end++;
        for (int64_t col = 0; col < a->rank; col++) {
            float sum = 0, piece = 0;
            for (int64_t i = begin; i < end; i++) {
                piece += dz[(word_row[i] & INT32_MAX) * a->rank + col];
                if (i + 1 == end || (i + 1) % 32 == 0) sum += piece, piece = 0;
            }
            dE[word * a->rank + col] += sum;
        }
    }
}
static void embedding(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{128, 64, 5},      {1024, 128, 200005}, {4096, 128, 40},
                                        {4096, 128, 3000}, {512, 256, 1},       {1, 32, 2},
                                        {31, 512, 600},    {5001, 96, 50257},   {MOST_EMBED_ROWS, 32, 200005}};
    for (int s = 0; s < (int)(sizeof shapes / sizeof *shapes); s++) {
        int64_t rows = shapes[s][0], rank = shapes[s][1], vocab = shapes[s][2];
        int32_t *token = take((size_t)rows * 4);
        // A third of the rows are one word: runs longer than any piece.
        for (int64_t i = 0; i < rows; i++) token[i] = (int32_t)(random_below(3) == 0 ? vocab / 2 : random_below(vocab));
        yx_embed_args a = {.rows = rows, .rank = rank, .act = YX_BF16, .token = token};
        a.E = (yx_operand){.dtype = YX_BF16, .row = take_random(YX_BF16, vocab * rank, 1)};
        a.z = take_output((size_t)(rows * rank) * 2);
        RUN(embed, &a);
        for (int64_t i = 0; i < rows; i++)
            assert_memory_equal((char *)a.z + i * rank * 2, (char *)a.E.row + token[i] * rank * 2, (size_t)rank * 2);
        untrack_all();
        yx_embed_backward_args b = {.rows = rows, .rank = rank, .vocab = vocab, .act = YX_BF16, .token = token};
        b.dz = take_random(YX_BF16, rows * rank, 1);
        size_t bytes = (size_t)(vocab * rank) * 4;
        b.dE = track(take_random(YX_F32, vocab * rank, 1), bytes);
        yx_embed_backward_args c = b;
        c.dE = host_copy(b.dE, bytes);
        yx_real *in_order = host_copy(b.dE, bytes);
        RUN(embed_backward, &b);
        ON_CPU(embed_backward, &c);
        close_to("dE", YX_F32, b.dE, c.dE, vocab * rank, 1e-6);
        add_by_pieces(&b, in_order);
        assert_memory_equal(b.dE, in_order, bytes);
        release_hosts();
    }
}

// --- Optimizer
static void norm_and_clip(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 7, 4096, 1000003};
    for (int i = 0; i < 4; i++) {
        yx_real *x = take_random(YX_F32, sizes[i], 1);
        yx_step_scalars *s = take(sizeof *s), expected = {.grad_clip = 0.5};
        *s = expected;
        gpu_upload(devices[0]);
        for (int round = 0; round < 2; round++)
            ok(ops->sum_squares(devices[0], NULL, gpu_address(x), sizes[i],
                                &((yx_step_scalars *)gpu_address(s))->grad_sum_squares));
        ok(ops->clip(devices[0], NULL, gpu_address(s)));
        gpu_download(devices[0]);
        for (int round = 0; round < 2; round++)
            ok(cpu->sum_squares(cpu_device, NULL, x, sizes[i], &expected.grad_sum_squares));
        ok(cpu->clip(cpu_device, NULL, &expected));
        assert_true(fabs(s->grad_norm / expected.grad_norm - 1) < 1e-7 && !s->skip);
        assert_true(fabs(s->clip_coefficient / expected.clip_coefficient - 1) < 1e-7);
        x[sizes[i] / 2] = NAN;
        gpu_upload(devices[0]);
        ok(ops->sum_squares(devices[0], NULL, gpu_address(x), sizes[i],
                            &((yx_step_scalars *)gpu_address(s))->grad_sum_squares));
        ok(ops->clip(devices[0], NULL, gpu_address(s)));
        gpu_download(devices[0]);
        assert_true(s->skip == 1);
        release_hosts();
    }
}

// Beyond one of its limits a step is left out.
static void limits(void **state) {
    (void)state;
    const double cases[][3] = {{0, 0, 0}, {5, 70, 0}, {4.999, 0, 1}, {0, 69.99, 1}};
    for (int i = 0; i < 4; i++) {
        yx_step_scalars *s = take(sizeof *s);
        *s = (yx_step_scalars){
            .grad_sum_squares = 25, .loss_sum = 70, .norm_limit = cases[i][0], .loss_limit = cases[i][1], .skip = -1};
        gpu_upload(devices[0]);
        ok(ops->clip(devices[0], NULL, gpu_address(s)));
        gpu_download(devices[0]);
        assert_int_equal(s->skip, (int)cases[i][2]);
        release_hosts();
    }
}

// PIECE: the values of MATRIX as a sharded optimizer has them, in no matrix and without copies.
enum { MATRIX = 2, PIECE = 4, SEGMENTS = 5 };
typedef struct adamw_case {
    yx_adamw_segment host[SEGMENTS], device[SEGMENTS], cpu[SEGMENTS];
} adamw_case;

static void copy_values(yx_adamw_segment *to, const yx_adamw_segment *from, size_t bytes) {
    memcpy(to->param, from->param, bytes);
    memcpy(to->moment1, from->moment1, bytes);
    memcpy(to->moment2, from->moment2, bytes);
    memcpy((void *)to->grad, from->grad, bytes);
}

static adamw_case take_segments(void) {
    static const struct {
        int64_t rows, cols;
        yx_dtype type;
        bool copies, transposed;
    } kinds[SEGMENTS] = {{768, 1, YX_F32, false, false},
                         {300, 128, YX_BF16, true, false},
                         {256, 192, YX_E4M3, true, true},
                         {63, 7, YX_E4M3, true, false},
                         {1, 256 * 192, YX_F32, false, false}};
    adamw_case c;
    for (int i = 0; i < SEGMENTS; i++) {
        int64_t n = kinds[i].rows * kinds[i].cols;
        yx_adamw_segment *s = &c.host[i];
        *s = (yx_adamw_segment){.rows = kinds[i].rows, .cols = kinds[i].cols, .decay = i != 0};
        s->param = take_random(YX_F32, n, 0.05), s->grad = take_random(YX_F32, n, 1);
        s->moment1 = take_random(YX_F32, n, 0.1), s->moment2 = take_random(YX_F32, n, 0.1);
        for (int64_t k = 0; k < n; k++) s->moment2[k] *= s->moment2[k];
        if (i == PIECE) copy_values(s, &c.host[MATRIX], (size_t)n * 4);
        track(s->param, (size_t)n * 4), track(s->moment1, (size_t)n * 4), track(s->moment2, (size_t)n * 4);
        if (kinds[i].copies) s->operand = take_operand(kinds[i].type, s->rows, s->cols, 1024);
        if (!kinds[i].transposed) s->operand.col = NULL;
        c.cpu[i] = *s;
        c.cpu[i].param = host_copy(s->param, (size_t)n * 4);
        c.cpu[i].moment1 = host_copy(s->moment1, (size_t)n * 4);
        c.cpu[i].moment2 = host_copy(s->moment2, (size_t)n * 4);
        if (kinds[i].copies) c.cpu[i].operand = host_operand(&s->operand, n);
        c.device[i] = *s;
        gpu_translate(&c.device[i], sizeof c.device[i]);
    }
    return c;
}

static void adamw(void **state) {
    (void)state;
    adamw_case c = take_segments();
    yx_step_scalars *s = take(sizeof *s);
    *s = (yx_step_scalars){.lr = 0.02,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .weight_decay = 0.1,
                           .bias_correction1 = 0.3,
                           .bias_correction2 = 0.2,
                           .clip_coefficient = 0.7};
    RUN(adamw, (&(yx_adamw_args){c.device, SEGMENTS, s}));
    ok(cpu->adamw(cpu_device, NULL, &(yx_adamw_args){c.cpu, SEGMENTS, s}));
    for (int i = 0; i < SEGMENTS; i++) {
        yx_adamw_segment *g = &c.host[i], *h = &c.cpu[i];
        int64_t n = g->rows * g->cols;
        close_to("param", YX_F32, g->param, h->param, n, 1e-6);
        close_to("moment1", YX_F32, g->moment1, h->moment1, n, 1e-6);
        close_to("moment2", YX_F32, g->moment2, h->moment2, n, 1e-6);
        if (g->operand.row) same_operand("weights", &g->operand, &h->operand, g->rows, g->cols, TIES);
    }
    const yx_adamw_segment *matrix = &c.host[MATRIX], *piece = &c.host[PIECE];
    const size_t bytes = (size_t)(matrix->rows * matrix->cols) * 4;
    assert_memory_equal(piece->param, matrix->param, bytes);
    assert_memory_equal(piece->moment1, matrix->moment1, bytes);
    assert_memory_equal(piece->moment2, matrix->moment2, bytes);
    s->skip = 1;
    before_run(0);
    gpu_upload(devices[0]);
    ok(ops->adamw(devices[0], NULL, &(yx_adamw_args){c.device, SEGMENTS, gpu_address(s)}));
    gpu_download(devices[0]);
    for (int i = 0; i < num_outputs; i++) assert_memory_equal(outputs[i].data, outputs[i].initial, outputs[i].bytes);
    release_hosts();
}

static void scales(void **state) {
    (void)state;
    enum { N = 64, L = YX_SCALE_HISTORY_LENGTH };
    yx_scale_slot slots[N], on_gpu[N];
    yx_real *gamma = take_random(YX_F32, 768, 1);
    size_t bytes = N * sizeof(float);
    float *memory[4];
    const size_t sizes[4] = {bytes, YX_SCALE_INV_SPACING * bytes, bytes, L * bytes};
    for (int i = 0; i < 4; i++) memory[i] = track(take(sizes[i]), sizes[i]);
    memset(memory[1], 0, sizes[1]);
    for (int i = 0; i < N; i++) {
        slots[i] = (yx_scale_slot){(yx_scale_kind)(i % 4), i % 8 < 4 ? YX_E4M3 : YX_E5M2, gamma, 768 - i};
        on_gpu[i] = slots[i];
        on_gpu[i].gamma = gpu_address(gamma);
    }
    for (int round = 0; round < 40; round++) {
        yx_step_scalars *s = take(sizeof *s);
        *s = (yx_step_scalars){.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .skip = round == 7};
        for (int i = 0; i < N; i++) {
            memory[2][i] = round == 0 ? 0 : (float)exp2(20 * random_normal());
            if (random_below(20) == 0) memory[2][i] = i % 2 ? INFINITY : NAN;
            for (int k = 0; round == 0 && k < L; k++) memory[3][i * L + k] = 0;
            if (round == 0) memory[0][i] = memory[1][i * YX_SCALE_INV_SPACING] = 1;
        }
        num_outputs = 0;
        for (int i = 0; i < 4; i++) track(memory[i], sizes[i]);
        yx_scales_args a = {on_gpu, N, 3, N - 5, 15, round % 3, s, memory[0], memory[2], memory[1], memory[3]};
        yx_scales_args b = a;
        b.slots = slots;
        b.scale = host_copy(memory[0], bytes), b.scale_inv = host_copy(memory[1], sizes[1]);
        b.amax = host_copy(memory[2], bytes), b.history = host_copy(memory[3], L * bytes);
        ON_CPU(scales, &b);
        RUN(scales, &a);
        assert_memory_equal(memory[0], b.scale, bytes);
        assert_memory_equal(memory[1], b.scale_inv, sizes[1]);
        assert_memory_equal(memory[2] + 3, b.amax + 3, bytes - 5 * 4);
        assert_memory_equal(memory[3], b.history, L * bytes);
    }
    release_hosts();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(norm, release),      cmocka_unit_test_teardown(norm_backward, release),
        cmocka_unit_test_teardown(rope, release),      cmocka_unit_test_teardown(swiglu, release),
        cmocka_unit_test_teardown(cast, release),      cmocka_unit_test_teardown(matmul, release),
        cmocka_unit_test_teardown(embedding, release), cmocka_unit_test_teardown(norm_and_clip, release),
        cmocka_unit_test_teardown(limits, release),    cmocka_unit_test_teardown(adamw, release),
        cmocka_unit_test_teardown(scales, release),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

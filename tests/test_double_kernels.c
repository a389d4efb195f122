// Gradients against central differences, in double: for a random direction of the output w, the gradient of <w, f(x)>
// by every element of x.
#include "tests/kernels_fixture.h"

static int release(void **state) {
    (void)state;
    release_all();
    return 0;
}
static int open_all(void **state) {
    (void)state;
    open_devices(&(yx_workspace_query){.rows = 200,
                                       .hidden = 96,
                                       .heads = 4,
                                       .kv_heads = 4,
                                       .head_dim = 16,
                                       .intermediate = 64,
                                       .rank = 24,
                                       .vocab = 300,
                                       .act = YX_F32});
    return 0;
}
static int close_all(void **state) {
    (void)state;
    close_devices();
    return 0;
}

// A function of one vector, its value <w, f(x)>; everything else is in `context`.
typedef double (*objective)(void *context);

static double inner(const double *w, const double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += w[i] * y[i];
    return sum;
}

// Compares `gradient` with differences at up to 150 elements of x (spread evenly): relative error of the vector.
static void check_gradient(const char *name, objective f, void *context, double *x, const double *gradient, int64_t n) {
    double difference = 0, size = 0, h = 1e-5;
    int64_t step = n / 150 + 1;
    for (int64_t i = 0; i < n; i += step) {
        double old = x[i];
        x[i] = old + h;
        double above = f(context);
        x[i] = old - h;
        double below = f(context);
        x[i] = old;
        double expected = (above - below) / (2 * h);
        difference += (gradient[i] - expected) * (gradient[i] - expected);
        size += expected * expected;
    }
    double error = sqrt(difference / size);
    if (!(error <= 1e-6)) fail_msg("%s: relative error %.3g", name, error);
}

static double *take_copy(const double *x, int64_t n) {
    return memcpy(take((size_t)n * sizeof *x), x, (size_t)n * sizeof *x);
}
static double *take_normals(int64_t n) { return take_random(YX_F32, n, 1); }

// --- Products
enum { M = 12, N = 9, K = 7 };
typedef struct product {
    yx_matmul_args y;
    const double *w;
} product;
static double product_value(void *context) {
    const product *p = context;
    ok(ops->matmul(devices[1], NULL, &p->y));
    return inner(p->w, p->y.out, M * N);
}

static void matmul_gradients(void **state) {
    (void)state;
    double *x = take_normals(M * K), *w = take_normals(N * K), *dy = take_normals(M * N);
    double *dx = take_doubles(M * K), *dw = take_normals(N * K), *before = take_copy(dw, N * K);
    yx_operand X = {.row = x}, W = {.row = w}, DY = {.row = dy};
    product p = {{YX_MATMUL_Y, M, N, K, X, W, take_doubles(M * N), YX_F32, false}, dy};
    ok(ops->matmul(devices[1], NULL, &(yx_matmul_args){YX_MATMUL_DX, M, N, K, DY, W, dx, YX_F32, false}));
    ok(ops->matmul(devices[1], NULL, &(yx_matmul_args){YX_MATMUL_DW, M, N, K, DY, X, dw, YX_F32, true}));
    for (int64_t i = 0; i < N * K; i++) dw[i] -= before[i];
    check_gradient("dx", product_value, &p, x, dx, M * K);
    check_gradient("dw", product_value, &p, w, dw, N * K);
}

// --- Embedding
typedef struct embedding {
    yx_embed_args a;
    const double *w;
} embedding;
static double embedding_value(void *context) {
    const embedding *e = context;
    ok(ops->embed(devices[1], NULL, &e->a));
    return inner(e->w, e->a.z, e->a.rows * e->a.rank);
}

static void embed_gradient(void **state) {
    (void)state;
    enum { ROWS = 40, RANK = 6, VOCAB = 9 };
    int32_t token[ROWS];
    for (int i = 0; i < ROWS; i++) token[i] = (int32_t)random_below(VOCAB);
    double *E = take_normals(VOCAB * RANK), *dE = take_doubles(VOCAB * RANK);
    embedding e = {{ROWS, RANK, YX_F32, token, {.row = E}, take_doubles(ROWS * RANK)}, take_normals(ROWS * RANK)};
    ok(ops->embed_backward(devices[1], NULL, &(yx_embed_backward_args){ROWS, RANK, VOCAB, YX_F32, token, e.w, dE}));
    check_gradient("dE", embedding_value, &e, E, dE, VOCAB * RANK);
}

// --- RMSNorm
typedef struct norm {
    yx_norm_args a;
    const double *w;
} norm;
// <w, y> + <w, s>: the second term is the gradient that by-passes the norm.
static double norm_value(void *context) {
    const norm *n = context;
    ok(ops->norm(devices[1], NULL, &n->a));
    int64_t count = n->a.rows * n->a.cols;
    return inner(n->w, n->a.y.row, count) + inner(n->w, n->a.sum, count);
}

static void norm_gradients(void **state) {
    (void)state;
    enum { ROWS = 70, COLS = 96, COUNT = ROWS * COLS };
    double *x = take_normals(COUNT), *delta = take_normals(COUNT), *gamma = take_normals(COLS),
           *w = take_normals(COUNT);
    double *dx = take_doubles(COUNT), *dgamma = take_doubles(COLS);
    norm n = {{ROWS,
               COLS,
               YX_F32,
               1e-3,
               x,
               delta,
               take_doubles(COUNT),
               gamma,
               take_doubles(ROWS),
               {.row = take_doubles(COUNT)}},
              w};
    norm_value(&n);
    ok(ops->norm_backward(
        devices[1], NULL,
        &(yx_norm_backward_args){ROWS, COLS, YX_F32, w, n.a.sum, n.a.rstd, gamma, w, dx, {0}, dgamma}));
    check_gradient("dx", norm_value, &n, x, dx, COUNT);
    check_gradient("ddelta", norm_value, &n, delta, dx, COUNT);
    check_gradient("dgamma", norm_value, &n, gamma, dgamma, COLS);
}

// --- Rotary positions
typedef struct rope {
    yx_rope_args a;
    double *x;
    const double *w;
    int64_t n;
} rope;
static double rope_value(void *context) {
    const rope *r = context;
    memcpy(r->a.qkv, r->x, (size_t)r->n * sizeof *r->x);
    ok(ops->rope(devices[1], NULL, &r->a));
    return inner(r->w, r->a.qkv, r->n);
}

static void rope_gradient(void **state) {
    (void)state;
    enum { ROWS = 60, WIDTH = 5 * 8, COUNT = ROWS * WIDTH };
    double *table = take_doubles(64 * 8);
    for (int64_t i = 0; i < 64 * 4; i++) table[2 * i] = cos(0.1 * (double)i), table[2 * i + 1] = sin(0.1 * (double)i);
    rope r = {{ROWS, 3, 1, 8, YX_F32, false, take_sequences(ROWS, 30, 4), table, take_doubles(COUNT), {0}},
              take_normals(COUNT),
              take_normals(COUNT),
              COUNT};
    yx_rope_args back = r.a;
    back.inverse = true;
    back.qkv = take_copy(r.w, COUNT);
    ok(ops->rope(devices[1], NULL, &back));
    check_gradient("dqkv", rope_value, &r, r.x, back.qkv, COUNT);
}

// --- Attention
typedef struct attention {
    yx_attention_args a;
    const double *w;
} attention;
static double attention_value(void *context) {
    const attention *c = context;
    ok(ops->attention(devices[1], NULL, &c->a));
    return inner(c->w, c->a.o, c->a.rows * c->a.heads * c->a.head_dim);
}

static void check_attention(int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t longest) {
    int64_t n = rows * heads * head_dim, count = rows * (heads + 2 * kv_heads) * head_dim;
    double *qkv = take_normals(count), *dqkv = take_doubles(count), scale = 1 / sqrt((double)head_dim);
    attention c = {{rows,
                    heads,
                    kv_heads,
                    head_dim,
                    YX_F32,
                    scale,
                    take_sequences(rows, longest, 5),
                    qkv,
                    take_doubles(n),
                    {0},
                    take_doubles(heads * rows)},
                   take_normals(n)};
    attention_value(&c);
    double *o = take_copy(c.a.o, n), *lse = take_copy(c.a.lse, heads * rows);
    ok(ops->attention_backward(devices[1], NULL,
                               &(yx_attention_backward_args){rows, heads, kv_heads, head_dim, YX_F32, scale,
                                                             c.a.seq_start, qkv, o, c.w, lse, dqkv}));
    check_gradient("dqkv", attention_value, &c, qkv, dqkv, count);
    release_all();
}

static void attention_gradient(void **state) {
    (void)state;
    check_attention(140, 4, 1, 16, 140);
    check_attention(200, 4, 2, 6, 20);
    check_attention(70, 2, 2, 16, 8);
}

// --- SwiGLU
typedef struct swiglu {
    yx_swiglu_args a;
    const double *w;
} swiglu;
static double swiglu_value(void *context) {
    const swiglu *s = context;
    ok(ops->swiglu(devices[1], NULL, &s->a));
    return inner(s->w, s->a.h.row, s->a.rows * s->a.cols);
}

static void swiglu_gradient(void **state) {
    (void)state;
    enum { ROWS = 30, COLS = 21, COUNT = ROWS * COLS };
    double *x = take_normals(2 * COUNT), *dx = take_doubles(2 * COUNT);
    swiglu s = {{ROWS, COLS, YX_F32, x, {.row = take_doubles(COUNT)}}, take_normals(COUNT)};
    ok(ops->swiglu_backward(devices[1], NULL,
                            &(yx_swiglu_backward_args){ROWS, COLS, YX_F32, x, s.w, {.row = dx}, {0}}));
    check_gradient("dgate_up", swiglu_value, &s, x, dx, 2 * COUNT);
}

// --- Head
static double head_value(void *context) {
    const yx_head_args *a = context;
    *a->loss_sum = 0;
    ok(ops->head(devices[1], NULL, a));
    return *a->loss_sum * a->grad_scale;
}

static void head_gradients(void **state) {
    (void)state;
    enum { ROWS = 110, RANK = 24, VOCAB = 291 };
    int32_t target[ROWS];
    for (int i = 0; i < ROWS; i++) target[i] = i % 6 == 5 ? -1 : (int32_t)random_below(VOCAB);
    double *z = take_normals(ROWS * RANK), *E = take_normals(VOCAB * RANK), *dE = take_doubles(VOCAB * RANK), sum = 0;
    yx_head_args a = {ROWS,
                      RANK,
                      VOCAB,
                      YX_F32,
                      z,
                      {.row = E},
                      target,
                      0.03,
                      take_doubles(ROWS),
                      take_doubles(ROWS),
                      &sum,
                      take_doubles(ROWS * RANK)};
    head_value(&a);
    double *dz = take_copy(a.dz, ROWS * RANK), *lse = take_copy(a.lse, ROWS);
    ok(ops->head_backward(devices[1], NULL,
                          &(yx_head_backward_args){ROWS, RANK, VOCAB, YX_F32, z, {.row = E}, target, 0.03, lse, dE}));
    check_gradient("dz", head_value, &a, z, dz, ROWS * RANK);
    check_gradient("dE", head_value, &a, E, dE, VOCAB * RANK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(matmul_gradients, release),   cmocka_unit_test_teardown(embed_gradient, release),
        cmocka_unit_test_teardown(norm_gradients, release),     cmocka_unit_test_teardown(rope_gradient, release),
        cmocka_unit_test_teardown(attention_gradient, release), cmocka_unit_test_teardown(swiglu_gradient, release),
        cmocka_unit_test_teardown(head_gradients, release),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

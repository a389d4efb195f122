#include "coordinator/bench_kernels_tensors.h"
#include "common/rng.h"
#include <stdlib.h>

enum { PIECE = 4096 };

typedef struct quant_values {              // what the pointers of a yx_quant lead to
    float scale_inv[YX_SCALE_INV_SPACING]; // the first
    float scale, amax;
    uint32_t saturated;
} quant_values;

void tensors_free(tensors *t) {
    for (int i = 0; i < t->count; i++) {
        t->ops->free(t->device, t->items[i].device);
        free(t->items[i].before);
    }
    for (int i = 0; i < t->num_scratch; i++) free(t->scratch[i]);
    t->count = t->num_scratch = 0;
}

// --- Host memory
static void *host_memory(tensors *t, size_t bytes) {
    if (t->status != YX_OK) return NULL;
    void *p = malloc(bytes ? bytes : 1);
    if (!p) t->status = yx_fail(YX_ERR_NO_MEMORY, "no memory for a tensor of %.1f MiB", (double)bytes / 1048576);
    return p;
}

// Host memory that tensors_free frees.
static void *scratch(tensors *t, size_t bytes) {
    void *p = host_memory(t, bytes);
    if (!p) return NULL;
    if (t->num_scratch < TENSORS_MAX) return t->scratch[t->num_scratch++] = p;
    free(p);
    t->status = yx_fail(YX_ERR_INTERNAL, "an operation has too many tensors");
    return NULL;
}

static const tensor *find(const tensors *t, const void *address) {
    for (int i = 0; i < t->count; i++)
        if (t->items[i].device == address) return &t->items[i];
    return NULL;
}

static void upload(tensors *t, void *address, const void *host, size_t bytes) {
    if (t->status == YX_OK) t->status = t->ops->copy(t->device, NULL, address, host, bytes);
    if (t->status == YX_OK) t->status = t->ops->stream_sync(t->device, NULL);
}

// --- New ones
// A tensor with these contents; takes `host`, which may be NULL after a failure.
static void *add(tensors *t, void *host, size_t bytes) {
    tensor *item = &t->items[t->count];
    void *device = NULL;
    if (t->status == YX_OK && t->count == TENSORS_MAX)
        t->status = yx_fail(YX_ERR_INTERNAL, "an operation has too many tensors");
    if (t->status == YX_OK) t->status = t->ops->alloc(t->device, bytes, &device);
    if (t->status != YX_OK) {
        free(host);
        return NULL;
    }
    *item = (tensor){.device = device, .before = host, .bytes = bytes};
    t->count++;
    upload(t, device, host, bytes);
    if (!t->keep) {
        free(host);
        item->before = NULL;
    }
    return device;
}

// Sum of four uniform numbers of 16 bits each, shifted and stretched to mean 0 and variance 1.
static double draw(uint64_t key, uint64_t index) {
    uint64_t bits = yx_mix64(key, index), sum = 0;
    for (int i = 0; i < 4; i++) sum += bits >> 16 * i & 0xffff;
    return ((double)sum / 65535 - 2) * 1.7320508075688772;
}

static void fill_random(tensors *t, yx_dtype dtype, int64_t n, double mean, double size, float scale, char *out) {
    uint64_t key = ++t->drawn;
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < n; begin += PIECE) {
        yx_real x[PIECE];
        int64_t count = n - begin < PIECE ? n - begin : PIECE;
        for (int64_t i = 0; i < count; i++) x[i] = (yx_real)(mean + size * draw(key, (uint64_t)(begin + i)));
        yx_encode(dtype, x, scale, count, out + (size_t)begin * yx_dtype_size(dtype));
    }
}

void *tensors_random(tensors *t, yx_dtype dtype, int64_t n, double mean, double size) {
    size_t bytes = (size_t)n * yx_dtype_size(dtype);
    char *host = host_memory(t, bytes);
    if (host) fill_random(t, dtype, n, mean, size, 1, host);
    return add(t, host, bytes);
}

void *tensors_poisoned(tensors *t, size_t bytes) {
    void *host = host_memory(t, bytes);
    if (host) memset(host, 0xff, bytes);
    return add(t, host, bytes);
}

void *tensors_from(tensors *t, const void *data, size_t bytes) {
    void *host = host_memory(t, bytes);
    if (host) memcpy(host, data, bytes);
    return add(t, host, bytes);
}

const int32_t *tensors_ids(tensors *t, int64_t n, int64_t limit, int64_t holes) {
    int32_t *host = host_memory(t, (size_t)n * sizeof *host);
    uint64_t key = ++t->drawn;
    for (int64_t i = 0; host && i < n; i++)
        host[i] = i < holes ? -1 : (int32_t)(yx_uniform(key, 0, (uint64_t)i) * (double)limit);
    return add(t, host, (size_t)n * sizeof *host);
}

const int32_t *tensors_starts(tensors *t, int64_t rows, int64_t length) {
    int32_t *host = host_memory(t, (size_t)rows * sizeof *host);
    int64_t whole = rows / length * length;
    for (int64_t i = 0; host && i < rows; i++) host[i] = (int32_t)(i < whole ? i - i % length : i);
    return add(t, host, (size_t)rows * sizeof *host);
}

// --- Operands
static bool eight_bit(yx_dtype t) { return t == YX_E4M3 || t == YX_E5M2; }

// A power of two that keeps values of a few units, and products of two of them, inside the type.
static float scale_of(yx_dtype t) { return t == YX_E4M3 ? 16 : t == YX_E5M2 ? 256 : 1; }

static bool has_col(const tensors *t, yx_dtype dtype) { return t->transposed && t->ops->needs_transposed[dtype]; }

static yx_quant quant_of(tensors *t, yx_dtype dtype) {
    if (!eight_bit(dtype)) return (yx_quant){0};
    quant_values values = {.scale = scale_of(dtype), .scale_inv = {1 / scale_of(dtype)}};
    quant_values *q = tensors_from(t, &values, sizeof values);
    return q ? (yx_quant){&q->scale, q->scale_inv, &q->amax, &q->saturated} : (yx_quant){0};
}

static char *transposed(tensors *t, yx_dtype dtype, int64_t rows, int64_t cols, const char *x) {
    size_t size = yx_dtype_size(dtype);
    char *out = host_memory(t, (size_t)(rows * cols) * size);
    if (!out) return NULL;
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++)
            memcpy(out + (size_t)(j * rows + i) * size, x + (size_t)(i * cols + j) * size, size);
    return out;
}

yx_operand tensors_factor(tensors *t, yx_dtype dtype, int64_t rows, int64_t cols, double size) {
    size_t bytes = (size_t)(rows * cols) * yx_dtype_size(dtype);
    yx_operand o = {.dtype = dtype, .quant = quant_of(t, dtype)};
    char *row = host_memory(t, bytes);
    if (!row) return o;
    fill_random(t, dtype, rows * cols, 0, size, scale_of(dtype), row);
    if (has_col(t, dtype)) o.col = add(t, transposed(t, dtype, rows, cols, row), bytes);
    o.row = add(t, row, bytes);
    return o;
}

yx_operand tensors_copies(tensors *t, yx_dtype dtype, int64_t rows, int64_t cols) {
    size_t bytes = (size_t)(rows * cols) * yx_dtype_size(dtype);
    yx_operand o = {.dtype = dtype, .quant = quant_of(t, dtype)};
    o.row = tensors_poisoned(t, bytes);
    if (has_col(t, dtype)) o.col = tensors_poisoned(t, bytes);
    return o;
}

// --- Values
static void decode(yx_dtype dtype, const char *data, int64_t n, double *out) {
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < n; begin += PIECE) {
        yx_real x[PIECE];
        int64_t count = n - begin < PIECE ? n - begin : PIECE;
        yx_decode(dtype, data + (size_t)begin * yx_dtype_size(dtype), count, x);
        for (int64_t i = 0; i < count; i++) out[begin + i] = (double)x[i];
    }
}

double *tensors_zeros(tensors *t, int64_t n) {
    double *x = scratch(t, (size_t)n * sizeof *x);
    if (x) memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

const void *tensors_held(const tensors *t, const void *address) {
    const tensor *item = find(t, address);
    return item ? item->before : NULL;
}

double *tensors_before(tensors *t, yx_dtype dtype, const void *address, int64_t n) {
    const char *held = tensors_held(t, address);
    double *x = scratch(t, (size_t)n * sizeof *x);
    if (x && !held) t->status = yx_fail(YX_ERR_INTERNAL, "what this tensor held was not kept");
    if (x && held) decode(dtype, held, n, x);
    return x;
}

void tensors_read(tensors *t, const void *address, size_t bytes, void *out) { upload(t, out, address, bytes); }

double *tensors_after(tensors *t, yx_dtype dtype, const void *address, int64_t n) {
    size_t bytes = (size_t)n * yx_dtype_size(dtype);
    double *x = scratch(t, (size_t)n * sizeof *x);
    char *host = host_memory(t, bytes);
    if (host) tensors_read(t, address, bytes, host);
    if (x && host && t->status == YX_OK) decode(dtype, host, n, x);
    free(host);
    return x;
}

void tensors_replace(tensors *t, yx_dtype dtype, void *address, const double *values, int64_t n) {
    const tensor *item = find(t, address);
    if (t->status != YX_OK) return;
    for (int64_t i = 0; i < n; i++) {
        yx_real x = (yx_real)values[i];
        yx_encode(dtype, &x, 1, 1, item->before + (size_t)i * yx_dtype_size(dtype));
    }
    upload(t, address, item->before, item->bytes);
}

// What the tests of the operation table share: devices with one and two threads, random tensors of every type, and
// running an operation on both devices with the demand that they leave the same bits. With GPU_TEST defined before the
// include the devices are one GPU opened twice; each test tensor then has a twin on the device (tests/gpu_memory.h).
#pragma once
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/rng.h"
#include "kernels/kernels.h"

static const yx_ops *ops;
static yx_device *devices[2]; // one thread, two threads
static void *workspaces[2];

static inline void ok(yx_status status) {
    if (status != YX_OK) fail_msg("%s: %s", yx_status_name(status), yx_message());
}

// NaN: nobody may count on zeros there.
static inline void poison(yx_device *device, void *memory, size_t bytes) {
    void *nan = malloc(bytes ? bytes : 1);
    assert_non_null(nan);
    memset(nan, 0xff, bytes);
    ok(ops->copy(device, NULL, memory, nan, bytes));
    ok(ops->stream_sync(device, NULL));
    free(nan);
}
static inline void open_devices(const yx_workspace_query *query) {
#ifdef GPU_TEST
    if (kernels_find("cuda", &ops) != YX_OK || ops->open(0, NULL, &devices[0]) != YX_OK) {
        print_message("skipped: %s\n", yx_message());
        exit(77);
    }
    ops->close(devices[0]);
#else
    ops = kernels_cpu();
#endif
    for (int i = 0; i < 2; i++) {
        omp_set_num_threads(i + 1);
        ok(ops->open(0, &(yx_device_options){.deterministic = true}, &devices[i]));
        size_t bytes = ops->workspace_size(devices[i], query);
        ok(ops->alloc(devices[i], bytes, &workspaces[i]));
        poison(devices[i], workspaces[i], bytes);
        ops->set_workspace(devices[i], workspaces[i], bytes);
    }
}
static inline void close_devices(void) {
    for (int i = 0; i < 2; i++) {
        ops->free(devices[i], workspaces[i]);
        ops->close(devices[i]);
    }
}

// --- Memory of one test, freed together
typedef struct tracked {
    void *data, *initial, *first; // contents before the operation; after it on the first device
    size_t bytes;
} tracked;
static tracked outputs[64];
static int num_outputs;
static void *owned[256];
static int num_owned;

#ifdef GPU_TEST
#include "tests/gpu_memory.h"
#else
static inline void *take_memory(size_t bytes) { return malloc(bytes); }
static inline void release_memory(void *p) { free(p); }
#endif
static inline void *take(size_t bytes) {
    void *p = take_memory(bytes ? bytes : 1);
    assert_non_null(p);
    assert_true(num_owned < 256);
    memset(p, 0xff, bytes ? bytes : 1); // NaN in every type
    return owned[num_owned++] = p;
}
static inline void untrack_all(void) {
    for (int i = 0; i < num_outputs; i++) free(outputs[i].initial), free(outputs[i].first);
    num_outputs = 0;
}
static inline void release_all(void) {
    untrack_all();
    for (int i = 0; i < num_owned; i++) release_memory(owned[i]);
    num_owned = 0;
}
// From here on RUN starts with what `data` holds now and checks what it holds afterwards.
static inline void *track(void *data, size_t bytes) {
    assert_true(num_outputs < 64);
    tracked *t = &outputs[num_outputs++];
    *t = (tracked){data, malloc(bytes), malloc(bytes), bytes};
    memcpy(t->initial, data, bytes);
    return data;
}
static inline void *take_output(size_t bytes) { return track(take(bytes), bytes); }

static inline void before_run(int device) {
    omp_set_num_threads(device + 1);
    for (int i = 0; i < num_outputs; i++) memcpy(outputs[i].data, outputs[i].initial, outputs[i].bytes);
}
static inline void after_run(int device) {
    for (int i = 0; i < num_outputs; i++) {
        if (device == 0) memcpy(outputs[i].first, outputs[i].data, outputs[i].bytes);
        else assert_memory_equal(outputs[i].first, outputs[i].data, outputs[i].bytes);
    }
}
// Runs ops->NAME(device, NULL, arguments) with one thread and with two (GPU: twice); the tracked memory must get the
// same bits.
#ifdef GPU_TEST
#define RUN(name, arguments)                                                                                           \
    for (int device = 0; device < 2; device++) {                                                                       \
        __typeof__(*(arguments)) on_device = *(arguments);                                                             \
        before_run(device);                                                                                            \
        gpu_upload(devices[device]);                                                                                   \
        gpu_translate(&on_device, sizeof on_device);                                                                   \
        ok(ops->name(devices[device], NULL, &on_device));                                                              \
        gpu_download(devices[device]);                                                                                 \
        after_run(device);                                                                                             \
    }
#else
#define RUN(name, ...)                                                                                                 \
    for (int device = 0; device < 2; device++) {                                                                       \
        before_run(device);                                                                                            \
        ok(ops->name(devices[device], NULL, __VA_ARGS__));                                                             \
        after_run(device);                                                                                             \
    }
#endif

// --- Tensors
static uint64_t random_key;
static uint64_t random_index;
static inline double random_normal(void) { return yx_normal(7, random_key, random_index++); }
static inline int64_t random_below(int64_t n) {
    return (int64_t)(yx_uniform(8, random_key, random_index++) * (double)n);
}

static inline double get(yx_dtype t, const void *data, int64_t i) {
    switch (t) {
    case YX_F32:
        return (double)((const yx_real *)data)[i];
    case YX_BF16:
        return (double)yx_bf16_to_float(((const yx_bf16 *)data)[i]);
    case YX_E4M3:
        return (double)yx_e4m3_to_float(((const yx_fp8 *)data)[i]);
    case YX_E5M2:
        return (double)yx_e5m2_to_float(((const yx_fp8 *)data)[i]);
    }
    return NAN;
}
static inline void set(yx_dtype t, void *data, int64_t i, double x) {
    switch (t) {
    case YX_F32:
        ((yx_real *)data)[i] = (yx_real)x;
        break;
    case YX_BF16:
        ((yx_bf16 *)data)[i] = yx_bf16_from_float((float)x);
        break;
    case YX_E4M3:
        ((yx_fp8 *)data)[i] = yx_e4m3_from_float((float)x);
        break;
    case YX_E5M2:
        ((yx_fp8 *)data)[i] = yx_e5m2_from_float((float)x);
        break;
    }
}
static inline void *take_random(yx_dtype t, int64_t n, double size) {
    void *data = take((size_t)n * yx_dtype_size(t));
    for (int64_t i = 0; i < n; i++) set(t, data, i, size * random_normal());
    return data;
}
static inline double *take_doubles(int64_t n) {
    double *x = take((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = 0;
    return x;
}
// The values of a tensor as doubles.
static inline double *take_values(yx_dtype t, const void *data, int64_t n) {
    double *x = take_doubles(n);
    for (int64_t i = 0; i < n; i++) x[i] = get(t, data, i);
    return x;
}

// Frobenius norm of the difference over that of the expected; NaN in the data makes it NaN, and the check fail.
static inline double relative_error(yx_dtype t, const void *data, const double *expected, int64_t n) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = get(t, data, i) - expected[i];
        difference += e * e;
        size += expected[i] * expected[i];
    }
    return size > 0 ? sqrt(difference / size) : sqrt(difference);
}
#define CLOSE_WITHIN(t, data, expected, n, bound)                                                                      \
    do {                                                                                                               \
        double error = relative_error((t), (data), (expected), (n));                                                   \
        if (!(error <= (bound))) fail_msg("%s: relative error %.3g exceeds %.3g", #data, error, (double)(bound));      \
    } while (0)
#define CLOSE(t, data, expected, n) CLOSE_WITHIN(t, data, expected, n, (t) == YX_F32 ? 1e-5 : 5e-3)

// --- Operands
typedef struct quant_memory {
    _Alignas(16) float scale_inv;
    float scale, amax;
    uint32_t saturated;
} quant_memory;

// An operand with both copies, its scale and its records, all tracked.
static inline yx_operand take_operand(yx_dtype t, int64_t rows, int64_t cols, float scale) {
    quant_memory *q = take(sizeof *q);
    *q = (quant_memory){1 / scale, scale, 0, 0};
    track(q, sizeof *q);
    size_t bytes = (size_t)(rows * cols) * yx_dtype_size(t);
    return (yx_operand){t, take_output(bytes), take_output(bytes), {&q->scale, &q->scale_inv, &q->amax, &q->saturated}};
}

// Both copies hold the codes of values[i]·scale, byte for byte.
static inline void check_copies(const yx_operand *o, int64_t rows, int64_t cols, const yx_real *values) {
    size_t size = yx_dtype_size(o->dtype);
    float scale = *o->quant.scale;
    for (int64_t i = 0; i < rows * cols; i++) {
        yx_real code[1] = {0};
        if (o->dtype == YX_F32) code[0] = values[i] * (yx_real)scale;
        else set(o->dtype, code, 0, (double)((float)values[i] * scale));
        assert_memory_equal(code, (const char *)o->row + (size_t)i * size, size);
        assert_memory_equal(code, (const char *)o->col + (size_t)(i % cols * rows + i / cols) * size, size);
    }
}
// The largest magnitude and the number of clipped values are what the values say.
static inline void check_records(const yx_operand *o, int64_t n, const yx_real *values, bool amax) {
    float largest = 0;
    uint32_t saturated = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fmaxf(largest, fabsf((float)values[i]));
        if (yx_dtype_size(o->dtype) == 1 && fabsf((float)values[i] * *o->quant.scale) > yx_dtype_max(o->dtype))
            saturated++;
    }
    assert_true(*o->quant.amax == (amax ? largest : 0));
    assert_int_equal(*o->quant.saturated, saturated);
}
static inline void check_operand(const yx_operand *o, int64_t rows, int64_t cols, const yx_real *values) {
    check_copies(o, rows, cols, values);
    check_records(o, rows * cols, values, true);
}

// --- Packed sequences

// seq_start of sequences of random lengths in [1, longest], then `padding` rows that see themselves only.
static inline int32_t *take_sequences(int64_t rows, int64_t longest, int64_t padding) {
    int32_t *start = take((size_t)rows * sizeof *start);
    for (int64_t i = 0; i < rows - padding;) {
        int64_t end = i + 1 + random_below(longest);
        for (int64_t first = i; i < end && i < rows - padding; i++) start[i] = (int32_t)first;
    }
    for (int64_t i = rows - padding; i < rows; i++) start[i] = (int32_t)i;
    return start;
}

// The tensors of one operation: in device memory, and, for the reference, what they held before it in host memory.
#pragma once
#include "kernels/kernels.h"

enum { TENSORS_MAX = 128 };

typedef struct tensor {
    char *device, *before; // before: NULL unless kept
    size_t bytes;
} tensor;

typedef struct tensors {
    const yx_ops *ops;
    yx_device *device;
    bool keep;        // what they held before is kept
    bool transposed;  // operands have the transposed copies that their types need
    yx_status status; // of the first failure; what follows it does nothing and returns NULL
    uint64_t drawn;   // tensors with random numbers so far
    tensor items[TENSORS_MAX];
    int count;
    void *scratch[TENSORS_MAX];
    int num_scratch;
} tensors;

void tensors_free(tensors *t);

// --- New ones; the addresses are the device's.
// mean + size · (about normal: a sum of four uniform numbers, so at most 3.47 · size from the mean).
void *tensors_random(tensors *t, yx_dtype dtype, int64_t n, double mean, double size);
// All bits set, which is NaN in every type: nobody may count on what is there.
void *tensors_poisoned(tensors *t, size_t bytes);
void *tensors_from(tensors *t, const void *data, size_t bytes);
// Ids below `limit`; the first `holes` of them -1.
const int32_t *tensors_ids(tensors *t, int64_t n, int64_t limit, int64_t holes);
// seq_start of sequences of `length`; rows that fill none see themselves only.
const int32_t *tensors_starts(tensors *t, int64_t rows, int64_t length);
// A random factor of a product with every copy that its type needs, scaled where it has 8 bits.
yx_operand tensors_factor(tensors *t, yx_dtype dtype, int64_t rows, int64_t cols, double size);
// Copies for an operation to write: poisoned.
yx_operand tensors_copies(tensors *t, yx_dtype dtype, int64_t rows, int64_t cols);

// --- Their values, in memory that lives as long as `t`
double *tensors_zeros(tensors *t, int64_t n);
const void *tensors_held(const tensors *t, const void *address); // before the operation, as stored
double *tensors_before(tensors *t, yx_dtype dtype, const void *address, int64_t n);
double *tensors_after(tensors *t, yx_dtype dtype, const void *address, int64_t n);
void tensors_read(tensors *t, const void *address, size_t bytes, void *out);
// Puts values in place of what was there.
void tensors_replace(tensors *t, yx_dtype dtype, void *address, const double *values, int64_t n);

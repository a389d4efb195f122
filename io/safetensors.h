// Files of tensors in Hugging Face's safetensors format: a little-endian uint64 with the header's length, the header in
// JSON (each tensor's dtype, shape and place), the values without gaps.
#pragma once
#include "common/dtype.h"
#include "common/status.h"

typedef struct safetensors_tensor {
    char name[96];
    int64_t rows, cols; // cols 0: a vector of `rows`
} safetensors_tensor;

typedef struct safetensors_file safetensors_file;
// Begins a file whose tensors all have this type (YX_F32 or YX_BF16) and come in this order.
yx_status safetensors_create(const char *path, yx_dtype dtype, const safetensors_tensor *tensors, int64_t count,
                             safetensors_file **out);
// The next `count` values of the file, over the borders of its tensors.
yx_status safetensors_append(safetensors_file *f, const float *values, int64_t count);
// Ends a file that has all its values, and brings it to the disk. Without `finish` an unfinished file stays: the caller
// removes it.
yx_status safetensors_finish(safetensors_file *f);
void safetensors_close(safetensors_file *f);

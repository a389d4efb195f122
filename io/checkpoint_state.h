// state.h5: the tensors of a checkpoint, contiguous float32 data sets by name. Private to io/checkpoint.c.
#pragma once
#include "io/checkpoint.h"

// Creates `path` with all tensors and fsyncs it.
yx_status state_file_write(const char *path, const checkpoint_tensor *tensors, int64_t num_tensors);
// Reads tensor by tensor into `data` (shapes must agree: YX_ERR_MISMATCH) and checks its CRC-32C against crcs[i].
yx_status state_file_read(const char *path, const checkpoint_tensor *tensors, const uint32_t *crcs,
                          int64_t num_tensors);
static inline size_t checkpoint_tensor_bytes(const checkpoint_tensor *t) {
    return (size_t)(t->rows * (t->cols ? t->cols : 1)) * sizeof(float);
}

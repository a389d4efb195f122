// Small tables that the host hands over by pointer and that stay the same for the run: a copy on the device.
#pragma once
#include "kernels/cuda/cuda.cuh"

typedef struct device_table {
    void *host, *device; // copies of the contents
    size_t bytes;
} device_table;

struct cuda_optimizer_tables {
    device_table segments, tiles, slots;
};

// The device's copy of `data`; made when there is none yet or the contents changed, which a stream that is being
// captured cannot do.
yx_status table_on_device(yx_device *d, cudaStream_t stream, device_table *table, const void *data, size_t bytes);
// d->tables, made when first asked for.
yx_status tables_of(yx_device *d, cuda_optimizer_tables **out);

#include "kernels/cuda/tables.cuh"
#include <cstdlib>
#include <cstring>

static void release(device_table *t) {
    free(t->host);
    if (t->device) cudaFree(t->device);
    *t = device_table{};
}

yx_status tables_of(yx_device *d, cuda_optimizer_tables **out) {
    if (!d->tables) d->tables = (cuda_optimizer_tables *)calloc(1, sizeof *d->tables);
    *out = d->tables;
    return d->tables ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for the optimizer's tables");
}

yx_status table_on_device(yx_device *d, cudaStream_t stream, device_table *t, const void *data, size_t bytes) {
    (void)d;
    if (t->bytes == bytes && t->host && memcmp(t->host, data, bytes) == 0) return YX_OK;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CUDA_TRY(cudaStreamIsCapturing(stream, &capture));
    if (capture != cudaStreamCaptureStatusNone)
        return yx_fail(YX_ERR_INTERNAL, "a table changed while the work that reads it is being recorded");
    CUDA_TRY(cudaStreamSynchronize(stream)); // earlier work may still read the old one
    release(t);
    t->host = malloc(bytes);
    if (!t->host) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a table of %zu bytes", bytes);
    memcpy(t->host, data, bytes);
    t->bytes = bytes;
    CUDA_TRY(cudaMalloc(&t->device, bytes));
    CUDA_TRY(cudaMemcpyAsync(t->device, t->host, bytes, cudaMemcpyHostToDevice, stream));
    CUDA_TRY(cudaStreamSynchronize(stream));
    return YX_OK;
}

void cuda_optimizer_close(yx_device *d) {
    if (!d->tables) return;
    release(&d->tables->segments);
    release(&d->tables->tiles);
    release(&d->tables->slots);
    free(d->tables);
    d->tables = nullptr;
}

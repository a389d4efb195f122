// What the files of the CUDA backend share: the device, its workspace, failures, and small device functions.
//
// Portable kernels need sm_80 (8-bit casts: sm_89) and no more than CUDA_MAX_SHARED bytes of shared memory a block:
// what an RTX 4090 has. They have no __CUDA_ARCH__ branch above 890, so that what a 4090 runs is what is tested
// elsewhere.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
extern "C" {
#include "kernels/kernels.h"
}

struct yx_stream {
    cudaStream_t handle;
};
struct yx_event {
    cudaEvent_t handle;
};
struct yx_graph {
    cudaGraphExec_t handle;
};
struct cuda_matmul_cache; // matmul.cu

struct yx_device {
    int index;
    cudaDeviceProp properties;
    yx_device_options options;
    cudaStream_t stream; // the default stream
    char *workspace;
    size_t workspace_bytes;
    struct cuda_matmul_cache *matmul;
    struct cuda_optimizer_tables *tables; // optimizer.cu
};

enum { CUDA_MAX_SHARED = 99 * 1024, CUDA_WARP = 32 };

// Records a CUDA failure with the call that failed; cudaErrorMemoryAllocation is YX_ERR_NO_MEMORY.
yx_status cuda_fail_at(const char *file, int line, cudaError_t error, const char *call);
// In a function that returns yx_status: leaves it on failure. (A kernel launch: CUDA_LAUNCHED() after <<<>>>.)
#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        cudaError_t cuda_error = (call);                                                                               \
        if (cuda_error != cudaSuccess) return cuda_fail_at(__FILE__, __LINE__, cuda_error, #call);                     \
    } while (0)
#define CUDA_LAUNCHED() CUDA_TRY(cudaGetLastError())

static inline cudaStream_t cuda_stream(const yx_device *d, const yx_stream *s) { return s ? s->handle : d->stream; }

// Lets `kernel` take `bytes` of dynamic shared memory beside its static (the two together are limited to 48 KB until
// asked); call it before a launch, it is cheap to repeat.
template <typename Kernel> static inline cudaError_t cuda_allow_shared(Kernel kernel, int bytes) {
    return bytes <= 16 * 1024 ? cudaSuccess
                              : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// Hands out pieces of the workspace, 256-byte aligned; with base NULL it only measures (`used`).
struct cuda_scratch {
    char *base;
    size_t used;
    template <typename T> T *take(int64_t count) {
        char *p = base ? base + used : nullptr;
        used += ((size_t)count * sizeof(T) + 255) & ~(size_t)255;
        return (T *)p;
    }
};
// Fails when the workspace is smaller than `need` bytes.
yx_status cuda_check_workspace(const yx_device *d, size_t need, const char *who);

static inline int64_t cuda_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// --- Operations, one file each; *_workspace: bytes of scratch at the shapes of a query. An operation uses the
// workspace from its start, alone: operations of one device run in order on its default stream.
size_t cuda_matmul_workspace(const yx_device *, const yx_workspace_query *);
size_t cuda_norm_workspace(const yx_device *, const yx_workspace_query *);
size_t cuda_attention_workspace(const yx_device *, const yx_workspace_query *);
size_t cuda_head_workspace(const yx_device *, const yx_workspace_query *);
size_t cuda_embed_workspace(const yx_device *, const yx_workspace_query *);
size_t cuda_optimizer_workspace(const yx_device *, const yx_workspace_query *);

yx_status cuda_matmul_open(yx_device *);
void cuda_matmul_close(yx_device *);
void cuda_optimizer_close(yx_device *); // frees the device's copies of segment and slot tables

yx_status cuda_matmul(yx_device *, yx_stream *, const yx_matmul_args *);
yx_status cuda_embed(yx_device *, yx_stream *, const yx_embed_args *);
yx_status cuda_embed_backward(yx_device *, yx_stream *, const yx_embed_backward_args *);
yx_status cuda_norm(yx_device *, yx_stream *, const yx_norm_args *);
yx_status cuda_norm_backward(yx_device *, yx_stream *, const yx_norm_backward_args *);
yx_status cuda_rope(yx_device *, yx_stream *, const yx_rope_args *);
yx_status cuda_attention(yx_device *, yx_stream *, const yx_attention_args *);
yx_status cuda_attention_backward(yx_device *, yx_stream *, const yx_attention_backward_args *);
yx_status cuda_swiglu(yx_device *, yx_stream *, const yx_swiglu_args *);
yx_status cuda_swiglu_backward(yx_device *, yx_stream *, const yx_swiglu_backward_args *);
yx_status cuda_head(yx_device *, yx_stream *, const yx_head_args *);
yx_status cuda_head_backward(yx_device *, yx_stream *, const yx_head_backward_args *);
yx_status cuda_sum_squares(yx_device *, yx_stream *, const yx_real *x, int64_t n, double *accumulate);
yx_status cuda_clip(yx_device *, yx_stream *, yx_step_scalars *);
yx_status cuda_adamw(yx_device *, yx_stream *, const yx_adamw_args *);
yx_status cuda_scales(yx_device *, yx_stream *, const yx_scales_args *);
yx_status cuda_cast(yx_device *, yx_stream *, const yx_cast_args *);
yx_status cuda_clock(yx_device *, yx_stream *, int64_t *sum, int sign);

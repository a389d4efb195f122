// Private to matmul*.cu: a shape's descriptors and algorithm.
#pragma once
#include "kernels/cuda/cuda.cuh"
#include <cublasLt.h>

enum {
    MATMUL_WORKSPACE = 32 << 20, // bytes; NVIDIA's advice for Hopper, more than sm_89 uses
    MATMUL_MAX_PLANS = 256
};

typedef struct matmul_key { // compared and stored as bytes: no padding that is not zero
    int64_t M, N, K;
    int32_t form, a, b, out, accumulate, aligned;
} matmul_key;

typedef struct matmul_plan {
    matmul_key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, out;
    cublasLtMatmulAlgo_t algo;
} matmul_plan;

typedef struct matmul_call {
    const void *a, *b;
    void *out;
    float beta;
} matmul_call;

struct cuda_matmul_cache {
    cublasLtHandle_t handle;
    matmul_plan plans[MATMUL_MAX_PLANS];
    int count;
};

yx_status cuda_matmul_failed(const char *file, int line, cublasStatus_t error, const char *call);
#define CUBLAS_TRY(call)                                                                                               \
    do {                                                                                                               \
        cublasStatus_t cublas_error = (call);                                                                          \
        if (cublas_error != CUBLAS_STATUS_SUCCESS) return cuda_matmul_failed(__FILE__, __LINE__, cublas_error, #call); \
    } while (0)

// Fills plan->algo (matmul_tune.cu): the fastest of cuBLASLt's candidates by measurement, remembered on disk; where the
// run has to be reproducible, or the stream is being captured, cuBLASLt's first choice.
yx_status matmul_choose(yx_device *d, cudaStream_t stream, matmul_plan *plan, const matmul_call *call);
yx_status matmul_launch(yx_device *d, cudaStream_t stream, const matmul_plan *plan, const cublasLtMatmulAlgo_t *algo,
                        const matmul_call *call);

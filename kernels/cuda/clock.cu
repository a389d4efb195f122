// The device's own clock, read between operations: what the host cannot see of a recorded step.
#include "kernels/cuda/cuda.cuh"
#if !defined(__CUDACC__)
#include <time.h>
#endif

__device__ __forceinline__ int64_t nanoseconds() {
#if defined(__CUDACC__)
    int64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
#else
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
#endif
}

__global__ void clock_kernel(int64_t *sum, int sign) { *sum += sign * nanoseconds(); }

yx_status cuda_clock(yx_device *d, yx_stream *s, int64_t *sum, int sign) {
    clock_kernel<<<1, 1, 0, cuda_stream(d, s)>>>(sum, sign);
    CUDA_LAUNCHED();
    return YX_OK;
}

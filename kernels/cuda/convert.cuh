// Encoding of operands on the device: bytes as common/dtype.h defines them, and the records of a scaled tensor.
#pragma once
#include "kernels/cuda/cuda.cuh"

// Values already multiplied by the scale. Rounds to nearest even, saturates; NaN becomes NaN.
template <yx_dtype T> __device__ __forceinline__ uint16_t encode_fp8x2(float a, float b) {
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, T == YX_E4M3 ? __NV_E4M3 : __NV_E5M2);
}
template <yx_dtype T> __device__ __forceinline__ uint32_t encode_fp8x4(float a, float b, float c, float d) {
    return (uint32_t)encode_fp8x2<T>(a, b) | (uint32_t)encode_fp8x2<T>(c, d) << 16;
}
__device__ __forceinline__ uint32_t encode_bf16x2(float a, float b) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&pair;
}
__device__ __forceinline__ float2 decode_bf16x2(uint32_t bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

template <yx_dtype T> __device__ __forceinline__ constexpr float fp8_max() { return T == YX_E4M3 ? 448.0f : 57344.0f; }

__device__ __forceinline__ float quant_scale(const yx_quant &q) { return q.scale ? *q.scale : 1.0f; }

// The largest magnitude as its bit pattern: patterns of non-negative floats order as integers, infinity and NaN on top,
// so that a maximum is exact, independent of order, and does not lose what is not finite.
struct quant_tally {
    uint32_t largest, saturated;
};
// `value` before scaling; T tells the format's end (only 8-bit formats saturate).
template <yx_dtype T> __device__ __forceinline__ void tally(quant_tally &t, float value, float scale) {
    uint32_t bits = __float_as_uint(value) & 0x7fffffffu;
    t.largest = max(t.largest, bits);
    if constexpr (T == YX_E4M3 || T == YX_E5M2) t.saturated += fabsf(value * scale) > fp8_max<T>();
}
// All threads of a block take part; one atomic each for the block. The block is a multiple of 32 threads.
__device__ __forceinline__ void tally_record(quant_tally t, const yx_quant &q) {
    __shared__ uint32_t warp_largest[32], warp_saturated[32];
    if (!q.amax && !q.saturated) return;
    t.largest = __reduce_max_sync(0xffffffffu, t.largest);
    t.saturated = __reduce_add_sync(0xffffffffu, t.saturated);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z), warp = thread / 32;
    int warps = blockDim.x * blockDim.y * blockDim.z / 32;
    __syncthreads(); // a kernel may record more than one operand
    if (thread % 32 == 0) warp_largest[warp] = t.largest, warp_saturated[warp] = t.saturated;
    __syncthreads();
    if (warp) return;
    uint32_t largest = thread < warps ? warp_largest[thread] : 0,
             saturated = thread < warps ? warp_saturated[thread] : 0;
    largest = __reduce_max_sync(0xffffffffu, largest);
    saturated = __reduce_add_sync(0xffffffffu, saturated);
    if (thread) return;
    if (q.amax && largest) atomicMax((uint32_t *)q.amax, largest);
    if (q.saturated && saturated) atomicAdd(q.saturated, saturated);
}

// Scales of 8-bit tensors, a warp a slot; the same arithmetic, in double, as kernels/cpu/scales.c.
#include "kernels/cuda/tables.cuh"

enum { THREADS = 128 };

__device__ float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

// Newest first; a step whose amax is not finite counts as the one before it. Returns the largest.
__device__ float push_history(float *history, float amax, int lane) {
    float before = lane > 0 && lane < YX_SCALE_HISTORY_LENGTH ? history[lane - 1] : 0;
    if (lane == 0) before = isfinite(amax) ? amax : history[0];
    __syncwarp();
    if (lane < YX_SCALE_HISTORY_LENGTH) history[lane] = before;
    return warp_max(before);
}

__device__ float largest_gamma(const yx_scale_slot &slot, int lane) {
    float largest = 0;
    for (int64_t i = lane; i < slot.cols; i += 32) largest = fmaxf(largest, fabsf(slot.gamma[i]));
    return warp_max(largest);
}

__device__ double bound_of(const yx_scales_args &a, const yx_scale_slot &slot, int64_t i, int lane) {
    float *history = a.history + i * YX_SCALE_HISTORY_LENGTH;
    const yx_step_scalars *s = a.scalars;
    switch (slot.kind) {
    case YX_SCALE_HISTORY:
        return ldexp((double)push_history(history, a.amax[i], lane), a.margin_bits);
    case YX_SCALE_NORM:
        return sqrt((double)slot.cols) * (double)largest_gamma(slot, lane);
    case YX_SCALE_CURRENT:
        if (lane == 0) history[0] = a.amax[i];
        return (double)a.amax[i];
    case YX_SCALE_WEIGHT:
        return (double)a.amax[i] + s->lr * fmax(1.0, (1 - s->beta1) / sqrt(1 - s->beta2));
    }
    return 0;
}

// 2^floor(log2(max / bound)), kept where its inverse is a normal number too.
__device__ float power_of_two_scale(double max, double bound) {
    if (!(bound > 0) || !isfinite(bound)) return 1;
    int exponent;
    frexp(max / bound, &exponent);
    return ldexpf(1.0f, exponent - 1 < -126 ? -126 : exponent - 1 > 126 ? 126 : exponent - 1);
}

__global__ void __launch_bounds__(THREADS) scales_kernel(yx_scales_args a, const yx_scale_slot *slots) {
    const int lane = threadIdx.x % 32;
    const int64_t index = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32, i = a.first + index;
    if (index >= a.count) return;
    const yx_scale_slot slot = slots[i];
    if (!(a.kinds >> slot.kind & 1)) return;
    // AdamW will not touch the weights of a skipped step: their scale has to stay the one they were written with.
    if (slot.kind == YX_SCALE_WEIGHT && a.scalars->skip) return;
    const double max = slot.dtype == YX_E4M3 ? (double)YX_E4M3_MAX : (double)YX_E5M2_MAX;
    const float scale = power_of_two_scale(max, bound_of(a, slot, i, lane));
    __syncwarp();
    if (lane) return;
    a.scale[i] = scale;
    a.scale_inv[i * YX_SCALE_INV_SPACING] = 1 / scale;
    if (slot.kind != YX_SCALE_NORM) a.amax[i] = 0;
}

yx_status cuda_scales(yx_device *d, yx_stream *s, const yx_scales_args *a) {
    cudaStream_t stream = cuda_stream(d, s);
    cuda_optimizer_tables *tables = nullptr;
    if (a->first < 0 || a->count < 0 || a->first + a->count > a->num_slots)
        return yx_fail(YX_ERR_INTERNAL, "scales: slots %lld … %lld of %lld", (long long)a->first,
                       (long long)(a->first + a->count), (long long)a->num_slots);
    for (int64_t i = a->first; i < a->first + a->count; i++)
        if (a->slots[i].dtype != YX_E4M3 && a->slots[i].dtype != YX_E5M2)
            return yx_fail(YX_ERR_INTERNAL, "scales: slot %lld is not 8-bit", (long long)i);
    yx_status status = tables_of(d, &tables);
    if (status == YX_OK)
        status = table_on_device(d, stream, &tables->slots, a->slots, (size_t)a->num_slots * sizeof *a->slots);
    if (status != YX_OK || a->count == 0) return status;
    scales_kernel<<<(unsigned)cuda_ceil_div(a->count * 32, THREADS), THREADS, 0, stream>>>(
        *a, (const yx_scale_slot *)tables->slots.device);
    CUDA_LAUNCHED();
    return YX_OK;
}

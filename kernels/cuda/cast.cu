// Copies of a matrix as an operand: weights when they are loaded, activations whose scale is set from themselves,
// gradients on their way to other ranks. Any shape. With a transposed copy a block owns TILE × TILE values, else
// FLAT_GROUPS · THREADS groups of eight neighbouring ones.
#include "kernels/cuda/tile.cuh"

enum { TILE = 64, THREADS = 256, FLAT_GROUPS = 4 };

template <yx_dtype T> __device__ __forceinline__ void store_one(void *base, int64_t index, float scaled) {
    if constexpr (T == YX_F32) ((float *)base)[index] = scaled;
    else if constexpr (T == YX_BF16) ((__nv_bfloat16 *)base)[index] = __float2bfloat16_rn(scaled);
    else ((uint8_t *)base)[index] = (uint8_t)encode_fp8x2<T>(scaled, 0.0f);
}

template <yx_dtype T, yx_dtype S> __global__ void __launch_bounds__(THREADS) cast_kernel(yx_cast_args a) {
    __shared__ float tile[TILE][TILE + 1];
    const int64_t row0 = (int64_t)blockIdx.y * TILE, col0 = (int64_t)blockIdx.x * TILE;
    const float scale = quant_scale(a.dst.quant);
    quant_tally seen = {};
    for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
        const int64_t row = row0 + i / TILE, col = col0 + i % TILE;
        if (row >= a.rows || col >= a.cols) continue;
        const int64_t at = row * a.cols + col;
        float x;
        if constexpr (S == YX_F32) x = ((const float *)a.src)[at];
        else x = __bfloat162float(((const __nv_bfloat16 *)a.src)[at]);
        tally<T>(seen, x, scale);
        if (a.dst.row) store_one<T>(a.dst.row, at, x * scale);
        tile[i / TILE][i % TILE] = x * scale;
    }
    tally_record(seen, a.dst.quant);
    if (!a.dst.col) return;
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
        const int64_t row = row0 + i % TILE, col = col0 + i / TILE;
        if (row < a.rows && col < a.cols) store_one<T>(a.dst.col, col * a.rows + row, tile[i % TILE][i / TILE]);
    }
}

// --- Without a transposed copy
template <yx_dtype T>
__device__ __forceinline__ void put_group(const yx_operand &o, int64_t at, const values8 &x, float scale,
                                          quant_tally &seen) {
    if constexpr (T == YX_F32) {
        tally8<T>(seen, x, scale);
        float4 *out = (float4 *)((float *)o.row + at);
        out[0] = make_float4(x.v[0] * scale, x.v[1] * scale, x.v[2] * scale, x.v[3] * scale);
        out[1] = make_float4(x.v[4] * scale, x.v[5] * scale, x.v[6] * scale, x.v[7] * scale);
    } else {
        put_operand8<T>(o, at, x, scale, nullptr, 0, 0, 0, seen); // no transposed copy, no tile
    }
}

// The last, incomplete group is the last thread's.
template <yx_dtype T, yx_dtype S> __global__ void __launch_bounds__(THREADS) flat_kernel(yx_cast_args a) {
    const int64_t n = a.rows * a.cols, first = ((int64_t)blockIdx.x * FLAT_GROUPS * THREADS + threadIdx.x) * 8;
    const float scale = quant_scale(a.dst.quant);
    quant_tally seen = {};
    values8 x[FLAT_GROUPS];
#pragma unroll
    for (int k = 0; k < FLAT_GROUPS; k++) {
        const int64_t at = first + k * THREADS * 8;
        if (at + 8 > n) continue;
        if constexpr (S == YX_F32) x[k] = load8_fp32((const float *)a.src + at);
        else x[k] = load8(a.src, at);
    }
#pragma unroll
    for (int k = 0; k < FLAT_GROUPS; k++) {
        const int64_t at = first + k * THREADS * 8;
        if (at + 8 <= n) put_group<T>(a.dst, at, x[k], scale, seen);
        else
#pragma unroll 1
            for (int64_t i = at; i < n; i++) {
                const float value =
                    S == YX_F32 ? ((const float *)a.src)[i] : __bfloat162float(((const __nv_bfloat16 *)a.src)[i]);
                tally<T>(seen, value, scale);
                store_one<T>(a.dst.row, i, value * scale);
            }
    }
    tally_record(seen, a.dst.quant);
}

template <yx_dtype T> static void launch_flat(cudaStream_t stream, const yx_cast_args *a) {
    const unsigned blocks = (unsigned)cuda_ceil_div(a->rows * a->cols, 8 * FLAT_GROUPS * THREADS);
    if (a->src_dtype == YX_F32) flat_kernel<T, YX_F32><<<blocks, THREADS, 0, stream>>>(*a);
    else flat_kernel<T, YX_BF16><<<blocks, THREADS, 0, stream>>>(*a);
}

static bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

template <yx_dtype T> static yx_status launch(cudaStream_t stream, const yx_cast_args *a) {
    if (a->dst.row && !a->dst.col && aligned(a->dst.row) && aligned(a->src)) {
        launch_flat<T>(stream, a);
        return YX_OK;
    }
    if (cuda_ceil_div(a->rows, TILE) > 65535)
        return yx_fail(YX_ERR_CONFIG, "the GPU casts at most %d rows, not %lld", 65535 * TILE, (long long)a->rows);
    dim3 grid((unsigned)cuda_ceil_div(a->cols, TILE), (unsigned)cuda_ceil_div(a->rows, TILE));
    if (a->src_dtype == YX_F32) cast_kernel<T, YX_F32><<<grid, THREADS, 0, stream>>>(*a);
    else cast_kernel<T, YX_BF16><<<grid, THREADS, 0, stream>>>(*a);
    return YX_OK;
}

yx_status cuda_cast(yx_device *d, yx_stream *s, const yx_cast_args *a) {
    cudaStream_t stream = cuda_stream(d, s);
    if (a->rows < 1 || a->cols < 1 || (a->src_dtype != YX_F32 && a->src_dtype != YX_BF16))
        return yx_fail(YX_ERR_INTERNAL, "cast: arguments break the contract");
    yx_status status = YX_OK;
    switch (a->dst.dtype) {
    case YX_F32:
        status = launch<YX_F32>(stream, a);
        break;
    case YX_BF16:
        status = launch<YX_BF16>(stream, a);
        break;
    case YX_E4M3:
        status = launch<YX_E4M3>(stream, a);
        break;
    case YX_E5M2:
        status = launch<YX_E5M2>(stream, a);
        break;
    }
    if (status != YX_OK) return status;
    CUDA_LAUNCHED();
    return YX_OK;
}

// Copies of a matrix as an operand: weights when they are loaded, activations whose scale is set from themselves. Any
// shape; a block owns TILE × TILE values.
#include "kernels/cuda/convert.cuh"

enum { TILE = 64, THREADS = 256 };

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

template <yx_dtype T> static void launch(cudaStream_t stream, const yx_cast_args *a) {
    dim3 grid((unsigned)cuda_ceil_div(a->cols, TILE), (unsigned)cuda_ceil_div(a->rows, TILE));
    if (a->src_dtype == YX_F32) cast_kernel<T, YX_F32><<<grid, THREADS, 0, stream>>>(*a);
    else cast_kernel<T, YX_BF16><<<grid, THREADS, 0, stream>>>(*a);
}

yx_status cuda_cast(yx_device *d, yx_stream *s, const yx_cast_args *a) {
    cudaStream_t stream = cuda_stream(d, s);
    if (a->rows < 1 || a->cols < 1 || (a->src_dtype != YX_F32 && a->src_dtype != YX_BF16))
        return yx_fail(YX_ERR_INTERNAL, "cast: arguments break the contract");
    if (cuda_ceil_div(a->rows, TILE) > 65535)
        return yx_fail(YX_ERR_CONFIG, "the GPU casts at most %d rows, not %lld", 65535 * TILE, (long long)a->rows);
    switch (a->dst.dtype) {
    case YX_F32:
        launch<YX_F32>(stream, a);
        break;
    case YX_BF16:
        launch<YX_BF16>(stream, a);
        break;
    case YX_E4M3:
        launch<YX_E4M3>(stream, a);
        break;
    case YX_E5M2:
        launch<YX_E5M2>(stream, a);
        break;
    }
    CUDA_LAUNCHED();
    return YX_OK;
}

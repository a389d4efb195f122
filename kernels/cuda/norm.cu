// RMSNorm, forward: s = x + delta, y = gamma · s · rstd. Bytes a value: 2 (x) + 2 (delta) + 2 (sum) + copies of y (2 in
// bf16, 1 + 1 in 8 bits).
//
// A block owns NORM_ROWS rows, a warp one of them at a time, held in registers: read once. A lane has CHUNKS pieces of
// eight neighbouring columns, 256 columns apart. Few rows a block, so that enough warps share an SM to keep loads under
// way while others sum.
#include "kernels/cuda/tile.cuh"

enum { NORM_WARPS = 8, NORM_CHUNK = 256, NORM_ROWS = 32 };

// Lane's piece of a row of s = x + delta, which is stored; what is normalised is what is kept: the rounded sum.
__device__ __forceinline__ uint4 add_delta(const yx_norm_args &a, int64_t at, uint4 x, uint4 delta) {
    values8 s = decode8(x);
    const values8 d = decode8(delta);
#pragma unroll
    for (int i = 0; i < 8; i++) s.v[i] += d.v[i];
    const uint4 sum = pack8_bf16(s);
    *(uint4 *)((__nv_bfloat16 *)a.sum + at) = sum;
    return sum;
}

template <yx_dtype T, int CHUNKS>
__global__ void __launch_bounds__(32 * NORM_WARPS, CHUNKS <= 4   ? 4
                                                   : CHUNKS <= 8 ? 2
                                                                 : 1) norm_kernel(yx_norm_args a) {
    extern __shared__ uint32_t tile[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, cols = (int)a.cols, pitch = tile_pitch(cols);
    const int64_t first = (int64_t)blockIdx.x * NORM_ROWS;
    const float scale = quant_scale(a.y.quant);
    quant_tally seen = {};
    for (int row = warp; row < NORM_ROWS; row += NORM_WARPS) {
        const int64_t at = (first + row) * cols;
        uint4 s[CHUNKS], delta[CHUNKS];
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int col = k * NORM_CHUNK + lane * 8;
            if (col < cols) s[k] = load8_raw(a.x, at + col);
            if (col < cols && a.delta) delta[k] = load8_raw(a.delta, at + col);
        }
        float squares = 0;
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int col = k * NORM_CHUNK + lane * 8;
            if (col >= cols) continue;
            if (a.delta) s[k] = add_delta(a, at + col, s[k], delta[k]);
            const values8 x = decode8(s[k]);
#pragma unroll
            for (int i = 0; i < 8; i++) squares += x.v[i] * x.v[i];
        }
#pragma unroll
        for (int offset = 16; offset; offset /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
        const float rstd = 1.0f / sqrtf(squares / (float)cols + (float)a.eps);
        if (lane == 0) a.rstd[first + row] = rstd;
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int col = k * NORM_CHUNK + lane * 8;
            if (col >= cols) continue;
            const values8 gamma = load8_fp32(a.gamma + col), x = decode8(s[k]);
            values8 y;
#pragma unroll
            for (int i = 0; i < 8; i++) y.v[i] = gamma.v[i] * x.v[i] * rstd;
            put_operand8<T, NORM_ROWS>(a.y, at + col, y, scale, tile, pitch, row, col, seen);
        }
    }
    tally_record(seen, a.y.quant);
    if (T == YX_BF16 || !a.y.col) return;
    __syncthreads();
    tile_store_transposed<NORM_ROWS>(tile, pitch, cols, (uint8_t *)a.y.col + first, a.rows);
}

template <yx_dtype T, int CHUNKS> static yx_status launch(cudaStream_t stream, const yx_norm_args *a) {
    int shared = a->y.col ? NORM_ROWS * tile_pitch((int)a->cols) : 0;
    if (shared > CUDA_MAX_SHARED)
        return yx_fail(YX_ERR_CONFIG, "norm: 8-bit operands of %lld columns do not fit a block's memory (3072 do)",
                       (long long)a->cols);
    CUDA_TRY(cuda_allow_shared(norm_kernel<T, CHUNKS>, shared));
    norm_kernel<T, CHUNKS><<<(unsigned)(a->rows / NORM_ROWS), 32 * NORM_WARPS, shared, stream>>>(*a);
    CUDA_LAUNCHED();
    return YX_OK;
}

template <yx_dtype T> static yx_status launch_chunks(cudaStream_t stream, const yx_norm_args *a) {
    int64_t chunks = cuda_ceil_div(a->cols, NORM_CHUNK);
    return chunks <= 1   ? launch<T, 1>(stream, a)
           : chunks <= 2 ? launch<T, 2>(stream, a)
           : chunks <= 3 ? launch<T, 3>(stream, a)
           : chunks <= 4 ? launch<T, 4>(stream, a)
           : chunks <= 8 ? launch<T, 8>(stream, a)
                         : launch<T, 16>(stream, a);
}

yx_status cuda_norm(yx_device *d, yx_stream *s, const yx_norm_args *a) {
    yx_status status = check_rows("norm", a->rows, a->cols, a->act, &a->y);
    if (status == YX_OK && a->cols > 16 * NORM_CHUNK)
        status = yx_fail(YX_ERR_CONFIG, "the GPU normalises at most %d columns, not %lld", 16 * NORM_CHUNK,
                         (long long)a->cols);
    if (status == YX_OK) WITH_OPERAND_TYPE(a->y.dtype, status = launch_chunks<T>(cuda_stream(d, s), a));
    return status;
}

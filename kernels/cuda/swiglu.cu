// SwiGLU, both ways. Bytes a value of h: forward 4 (gate, up) + copies of h; backward 6 (gate, up, dh) + copies of the
// two gradients and of h, which is computed again.
//
// A block owns TILE_ROWS rows of BLOCK_COLS columns; a thread takes eight neighbouring values of a row at a time.
#include "kernels/cuda/tile.cuh"

enum { THREADS = 256, BLOCK_COLS = 128, PER_ROW = BLOCK_COLS / 8, ROWS_AT_ONCE = THREADS / PER_ROW };

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

template <yx_dtype T> __global__ void __launch_bounds__(THREADS) forward_kernel(yx_swiglu_args a) {
    __shared__ uint32_t tile[T == YX_BF16 ? 1 : TILE_ROWS * BLOCK_COLS / 4];
    const int64_t first = (int64_t)blockIdx.y * TILE_ROWS, cols = a.cols;
    const int col = threadIdx.x % PER_ROW * 8, begin = blockIdx.x * BLOCK_COLS;
    const float scale = quant_scale(a.h.quant);
    quant_tally seen = {};
    if (begin + col < cols)
#pragma unroll
        for (int r = 0; r < TILE_ROWS; r += ROWS_AT_ONCE) {
            const int row = r + threadIdx.x / PER_ROW;
            const int64_t at = (first + row) * 2 * cols + begin + col;
            const values8 gate = load8(a.gate_up, at), up = load8(a.gate_up, at + cols);
            values8 h;
#pragma unroll
            for (int i = 0; i < 8; i++) h.v[i] = gate.v[i] * sigmoid(gate.v[i]) * up.v[i];
            put_operand8<T>(a.h, (first + row) * cols + begin + col, h, scale, tile, BLOCK_COLS, row, col, seen);
        }
    tally_record(seen, a.h.quant);
    if (T == YX_BF16 || !a.h.col) return;
    __syncthreads();
    tile_store_transposed(tile, BLOCK_COLS, min(BLOCK_COLS, (int)cols - begin),
                          (uint8_t *)a.h.col + begin * a.rows + first, a.rows);
}

// D: type of the gradients; H: type of h.
template <yx_dtype D, yx_dtype H>
__global__ void __launch_bounds__(THREADS) backward_kernel(yx_swiglu_backward_args a) {
    constexpr int WORDS = TILE_ROWS * BLOCK_COLS / 4;
    __shared__ uint32_t gate_tile[D == YX_BF16 ? 1 : WORDS], up_tile[D == YX_BF16 ? 1 : WORDS];
    __shared__ uint32_t h_tile[H == YX_BF16 ? 1 : WORDS];
    const int64_t first = (int64_t)blockIdx.y * TILE_ROWS, cols = a.cols;
    const int col = threadIdx.x % PER_ROW * 8, begin = blockIdx.x * BLOCK_COLS;
    const float scale = quant_scale(a.dgate_up.quant), h_scale = quant_scale(a.h.quant);
    quant_tally seen = {}, unused = {};
    if (begin + col < cols)
#pragma unroll 2
        for (int r = 0; r < TILE_ROWS; r += ROWS_AT_ONCE) {
            const int row = r + threadIdx.x / PER_ROW;
            const int64_t at = (first + row) * 2 * cols + begin + col, h_at = (first + row) * cols + begin + col;
            const values8 gate = load8(a.gate_up, at), up = load8(a.gate_up, at + cols), dh = load8(a.dh, h_at);
            values8 dgate, dup, h;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float s = sigmoid(gate.v[i]), silu = gate.v[i] * s;
                dgate.v[i] = dh.v[i] * up.v[i] * (s + silu * (1 - s));
                dup.v[i] = dh.v[i] * silu;
                h.v[i] = silu * up.v[i];
            }
            put_operand8<H>(a.h, h_at, h, h_scale, h_tile, BLOCK_COLS, row, col, unused);
            put_operand8<D>(a.dgate_up, at, dgate, scale, gate_tile, BLOCK_COLS, row, col, seen);
            put_operand8<D>(a.dgate_up, at + cols, dup, scale, up_tile, BLOCK_COLS, row, col, seen);
        }
    tally_record(seen, a.dgate_up.quant);
    __syncthreads();
    const int width = min(BLOCK_COLS, (int)cols - begin);
    if (D != YX_BF16 && a.dgate_up.col) {
        uint8_t *out = (uint8_t *)a.dgate_up.col + begin * a.rows + first;
        tile_store_transposed(gate_tile, BLOCK_COLS, width, out, a.rows);
        tile_store_transposed(up_tile, BLOCK_COLS, width, out + cols * a.rows, a.rows);
    }
    if (H != YX_BF16 && a.h.col)
        tile_store_transposed(h_tile, BLOCK_COLS, width, (uint8_t *)a.h.col + begin * a.rows + first, a.rows);
}

static dim3 blocks(int64_t rows, int64_t cols) {
    return dim3((unsigned)cuda_ceil_div(cols, BLOCK_COLS), (unsigned)(rows / TILE_ROWS));
}

yx_status cuda_swiglu(yx_device *d, yx_stream *s, const yx_swiglu_args *a) {
    yx_status status = check_rows("swiglu", a->rows, a->cols, a->act, &a->h);
    if (status != YX_OK) return status;
    cudaStream_t stream = cuda_stream(d, s);
    WITH_OPERAND_TYPE(a->h.dtype, (forward_kernel<T><<<blocks(a->rows, a->cols), THREADS, 0, stream>>>(*a)));
    CUDA_LAUNCHED();
    return YX_OK;
}

yx_status cuda_swiglu_backward(yx_device *d, yx_stream *s, const yx_swiglu_backward_args *a) {
    yx_status status = check_rows("swiglu_backward", a->rows, a->cols, a->act, &a->dgate_up);
    if (status == YX_OK) status = check_rows("swiglu_backward", a->rows, a->cols, a->act, &a->h);
    if (status != YX_OK) return status;
    cudaStream_t stream = cuda_stream(d, s);
    dim3 grid = blocks(a->rows, a->cols);
    if (a->h.dtype == YX_BF16)
        WITH_OPERAND_TYPE(a->dgate_up.dtype, (backward_kernel<T, YX_BF16><<<grid, THREADS, 0, stream>>>(*a)));
    else if (a->h.dtype == YX_E4M3)
        WITH_OPERAND_TYPE(a->dgate_up.dtype, (backward_kernel<T, YX_E4M3><<<grid, THREADS, 0, stream>>>(*a)));
    else WITH_OPERAND_TYPE(a->dgate_up.dtype, (backward_kernel<T, YX_E5M2><<<grid, THREADS, 0, stream>>>(*a)));
    CUDA_LAUNCHED();
    return YX_OK;
}

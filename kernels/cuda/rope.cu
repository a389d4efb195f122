// Rotary positions, in place; forward also looks at v, backward also writes the operand's copies of everything. Bytes a
// row: 4 for each rotated value, 2 for each of v that is looked at, and the copies.
//
// A thread owns the same eight angles of every head of a row, so that it reads their cosines once.
#include "kernels/cuda/tile.cuh"

enum { THREADS = 256, ANGLES = 8 };

struct angles8 {
    float cos[ANGLES], sin[ANGLES];
};

__device__ __forceinline__ angles8 load_angles(const float *table, float direction) {
    angles8 out;
#pragma unroll
    for (int i = 0; i < ANGLES; i += 2) {
        const float4 pair = *(const float4 *)(table + 2 * i);
        out.cos[i] = pair.x, out.sin[i] = direction * pair.y;
        out.cos[i + 1] = pair.z, out.sin[i + 1] = direction * pair.w;
    }
    return out;
}

// (x1, x2) -> (x1·cos − x2·sin, x2·cos + x1·sin)
__device__ __forceinline__ void rotate8(values8 &x1, values8 &x2, const angles8 &a) {
#pragma unroll
    for (int i = 0; i < ANGLES; i++) {
        const float a1 = x1.v[i], a2 = x2.v[i];
        x1.v[i] = a1 * a.cos[i] - a2 * a.sin[i];
        x2.v[i] = a2 * a.cos[i] + a1 * a.sin[i];
    }
}

// In place without copies. `watch`: v's magnitudes are recorded.
__global__ void __launch_bounds__(THREADS) rotate_kernel(yx_rope_args a, bool watch) {
    const int half = (int)a.head_dim / 2, pieces = half / ANGLES, rotated = (int)(a.heads + a.kv_heads);
    const int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = item / pieces;
    const int piece = (int)(item % pieces) * ANGLES;
    const int64_t width = (a.heads + 2 * a.kv_heads) * a.head_dim, base = row * width + piece;
    quant_tally seen = {};
    if (row < a.rows) {
        const int64_t position = row - a.seq_start[row];
        const angles8 angles = load_angles(a.table + (position * half + piece) * 2, a.inverse ? -1.0f : 1.0f);
#pragma unroll 4
        for (int head = 0; head < rotated; head++) {
            const int64_t at = base + head * a.head_dim;
            values8 x1 = load8(a.qkv, at), x2 = load8(a.qkv, at + half);
            rotate8(x1, x2, angles);
            store8(a.qkv, at, x1);
            store8(a.qkv, at + half, x2);
        }
        for (int head = rotated; watch && head < rotated + (int)a.kv_heads; head++) {
            const int64_t at = base + head * a.head_dim;
            tally8<YX_BF16>(seen, load8(a.qkv, at), 1);
            tally8<YX_BF16>(seen, load8(a.qkv, at + half), 1);
        }
    }
    tally_record(seen, a.out.quant);
}

// Backward with copies: a block owns TILE_ROWS rows of `group` heads.
template <yx_dtype T> __global__ void __launch_bounds__(THREADS) rotate_copy_kernel(yx_rope_args a, int group) {
    extern __shared__ uint32_t tile[];
    const int half = (int)a.head_dim / 2, pieces = half / ANGLES, rotated = (int)(a.heads + a.kv_heads);
    const int all = rotated + (int)a.kv_heads, begin = blockIdx.x * group, end = min(all, begin + group);
    const int cols = (end - begin) * (int)a.head_dim, pitch = tile_pitch(group * (int)a.head_dim);
    const int64_t first = (int64_t)blockIdx.y * TILE_ROWS, width = (int64_t)all * a.head_dim;
    const float scale = quant_scale(a.out.quant);
    quant_tally seen = {};
    for (int item = threadIdx.x; item < TILE_ROWS * pieces; item += THREADS) {
        const int row = item / pieces, piece = item % pieces * ANGLES;
        const int64_t position = first + row - a.seq_start[first + row], base = (first + row) * width + piece;
        const angles8 angles = load_angles(a.table + (position * half + piece) * 2, a.inverse ? -1.0f : 1.0f);
#pragma unroll 4
        for (int head = begin; head < end; head++) {
            const int64_t at = base + head * a.head_dim;
            const int col = (head - begin) * (int)a.head_dim + piece;
            values8 x1 = load8(a.qkv, at), x2 = load8(a.qkv, at + half);
            if (head < rotated) {
                rotate8(x1, x2, angles);
            }
            put_operand8<T>(a.out, at, x1, scale, tile, pitch, row, col, seen);
            put_operand8<T>(a.out, at + half, x2, scale, tile, pitch, row, col + half, seen);
        }
    }
    tally_record(seen, a.out.quant);
    if (T == YX_BF16 || !a.out.col) return;
    __syncthreads();
    tile_store_transposed(tile, pitch, cols, (uint8_t *)a.out.col + (int64_t)begin * a.head_dim * a.rows + first,
                          a.rows);
}

// Heads of a block: about 512 columns of codes.
static yx_status launch_copy(cudaStream_t stream, const yx_rope_args *a) {
    int heads = (int)(a->heads + 2 * a->kv_heads), group = 512 / (int)a->head_dim;
    if (group < 1) group = 1;
    int shared = a->out.col ? TILE_ROWS * tile_pitch(group * (int)a->head_dim) : 0;
    dim3 grid((unsigned)cuda_ceil_div(heads, group), (unsigned)(a->rows / TILE_ROWS));
    WITH_OPERAND_TYPE(a->out.dtype, {
        CUDA_TRY(cuda_allow_shared(rotate_copy_kernel<T>, shared));
        (rotate_copy_kernel<T><<<grid, THREADS, shared, stream>>>(*a, group));
    });
    CUDA_LAUNCHED();
    return YX_OK;
}

yx_status cuda_rope(yx_device *d, yx_stream *s, const yx_rope_args *a) {
    yx_status status = check_rows("rope", a->rows, (a->heads + 2 * a->kv_heads) * a->head_dim, a->act, &a->out);
    if (status != YX_OK) return status;
    if (a->head_dim % 16)
        return yx_fail(YX_ERR_CONFIG, "the GPU needs a head_dim that is a multiple of 16, not %lld",
                       (long long)a->head_dim);
    cudaStream_t stream = cuda_stream(d, s);
    const bool copies = (a->out.row && a->out.row != a->qkv) || a->out.col;
    if (a->inverse && (copies || a->out.quant.amax)) return launch_copy(stream, a);
    int64_t items = a->rows * (a->head_dim / 2 / ANGLES);
    rotate_kernel<<<(unsigned)cuda_ceil_div(items, THREADS), THREADS, 0, stream>>>(*a, a->out.quant.amax != nullptr);
    CUDA_LAUNCHED();
    return YX_OK;
}

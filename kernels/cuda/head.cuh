// What both directions of the head share. Each is one half of attention with one set of rows kept in registers and
// another streamed past it, the streamed rows being keys and values at once:
//   forward   kept: tokens (z)   streamed: words (E)    Σ_words  p·E   becomes dz
//   backward  kept: words  (E)   streamed: tokens (z)   Σ_tokens p·z   becomes dE
// A warp keeps 16·BLOCKS rows as the A operand of the scores, and their sums. A step takes CHUNK streamed rows: the
// columns of one product of scores and the k of one product of sums. The scores of the next chunk and the sums of this
// one are multiplied in turns (head_step): neither waits for the other, so one warp alone keeps the tensor cores busy
// while the other warp of its scheduler is at its exponentials.
//
// Registers of a thread at rank 128: kept 64, sums 128, scores 16, probabilities 8; two blocks of 128 threads fill an
// SM. 32 rows a warp make ldmatrix's share of the shared memory's time about 2/3 of the tensor cores'. A warp of 16
// rows (rank 256) fits too, but reads twice as much for each product.
#pragma once
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/mma.cuh"

enum { HEAD_CHUNK = 16 };
constexpr float HEAD_LOG2E = 1.44269504088896341f, HEAD_LN2 = 0.693147180559945309f;
template <int RANK> constexpr int HEAD_BLOCKS = RANK <= 128 ? 2 : 1;

// What both directions refuse; `who` names the operation.
yx_status cuda_head_check(const char *who, int64_t rows, int64_t rank, int64_t vocab, yx_dtype act, const void *z,
                          const yx_operand *E);
size_t cuda_head_backward_workspace(const yx_workspace_query *);

// The A operand of rows [row, row + 16·BLOCKS) of x [rows, RANK]; rows that do not exist are 0.
template <int RANK, int BLOCKS>
__device__ __forceinline__ void head_keep(uint32_t (&kept)[BLOCKS][RANK / 16][4], const __nv_bfloat16 *x, int row,
                                          int rows) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int k = 0; k < RANK / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int r = row + 16 * b + g + 8 * (i % 2), column = 16 * k + 2 * t + 8 * (i / 2);
                kept[b][k][i] = r < rows ? *(const uint32_t *)(x + (int64_t)r * RANK + column) : 0;
            }
}

// Begins to copy rows [first, first + TILE) of x [rows, RANK] to shared memory; rows that do not exist become 0.
template <int RANK, int THREADS, int TILE>
__device__ __forceinline__ void head_stage(uint32_t tile, const __nv_bfloat16 *x, int first, int rows) {
    constexpr int CHUNKS = RANK / 8, STRIDE = THREADS / CHUNKS;
    static_assert(THREADS % CHUNKS == 0 && TILE % STRIDE == 0, "every thread copies the same number of chunks");
    int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const __nv_bfloat16 *from = x + (int64_t)(first + row) * RANK + chunk * 8;
    if (first + TILE <= rows) {
#pragma unroll
        for (int i = 0; i < TILE; i += STRIDE) async_copy_16(tile + swizzled<CHUNKS>(row + i, chunk), from + i * RANK);
    } else {
#pragma unroll 1
        for (int i = 0; i < TILE; i += STRIDE) {
            bool inside = first + row + i < rows;
            async_copy_16_or_zero(tile + swizzled<CHUNKS>(row + i, chunk), inside ? from + i * RANK : x, inside);
        }
    }
}

// Where this lane points ldmatrix in the first chunk of a tile (mma.cuh): as rows of scores, and as k of sums. Columns
// 16·i … follow by exclusive-or with 32·i, since rows begin at multiples of their length.
struct head_lanes {
    uint32_t key, value;
};
template <int RANK> __device__ __forceinline__ head_lanes head_lane_addresses(uint32_t ring) {
    int lane = threadIdx.x % 32;
    return {ring + swizzled<RANK / 8>(lane % 8 + 8 * (lane / 16), lane / 8 % 2),
            ring + swizzled<RANK / 8>(lane % 16, lane / 16)};
}

// score = kept · nextᵀ, and with SUM sum += p · now; `next` and `now` are this lane's addresses in two chunks.
// score[b][n] is the C tile of rows 16b…, chunk rows 8n…; sum[b][n] that of rows 16b…, columns 8n….
// TURNS: the compiler may not gather the products of one kind (it would have all of the sums first, and then scores
// that wait for each other and for ldmatrix).
template <int RANK, int BLOCKS, bool SUM, bool TURNS>
__device__ __forceinline__ void head_step(float (&score)[BLOCKS][2][4], float (&sum)[BLOCKS][SUM ? RANK / 8 : 1][4],
                                          const uint32_t (&kept)[BLOCKS][RANK / 16][4], const uint32_t (&p)[BLOCKS][4],
                                          uint32_t next, uint32_t now) {
    uint32_t key[2][4], value[2][4]; // one is read while the other arrives
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 8; i++) score[b][i / 4][i % 4] = 0;
    ldmatrix_x4(key[0], next);
    if (SUM) ldmatrix_x4_transposed(value[0], now);
#pragma unroll
    for (int i = 0; i < RANK / 16; i++) {
        if (i + 1 < RANK / 16) {
            ldmatrix_x4(key[(i + 1) % 2], next ^ (uint32_t)(i * 32 + 32));
            if (SUM) ldmatrix_x4_transposed(value[(i + 1) % 2], now ^ (uint32_t)(i * 32 + 32));
        }
        if (TURNS) __syncwarp(); // no instruction but an order for the compiler
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            mma_bf16(score[b][0], kept[b][i], key[i % 2][0], key[i % 2][1]);
            mma_bf16(score[b][1], kept[b][i], key[i % 2][2], key[i % 2][3]);
            if (SUM) {
                mma_bf16(sum[b][SUM ? 2 * i : 0], p[b], value[i % 2][0], value[i % 2][1]);
                mma_bf16(sum[b][SUM ? 2 * i + 1 : 0], p[b], value[i % 2][2], value[i % 2][3]);
            }
        }
    }
}

// What both directions of attention on the GPU share. Private to attention*.cu.
//
// Tiles of rows × head_dim bf16 lie swizzled in shared memory (mma.cuh). Every product is one of two: rows times rows
// (scores, dp), and weights in registers times rows (o, dv, dk, dq). Accumulators are [TILES][columns / 8][4] in a
// warp: TILES·16 rows, and of each 16×8 tile the four elements mma.cuh says.
#pragma once
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/mma.cuh"

typedef struct attention_problem {
    int32_t rows, heads, kv_heads;
    float scale, scale_log2; // of the scores; the same times log2(e)
    const int32_t *seq_start;
    const __nv_bfloat16 *qkv; // [rows, (heads + 2·kv_heads)·head_dim]
} attention_problem;

#define ATTENTION_LOG2E 1.4426950408889634f

// What both directions ask of their arguments (attention.cu).
yx_status cuda_attention_problem(const char *who, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                                 yx_dtype act, double scale, const int32_t *seq_start, const void *qkv,
                                 attention_problem *out);

template <int HEAD_DIM> static __device__ __forceinline__ int attention_width(const attention_problem &a) {
    return (a.heads + 2 * a.kv_heads) * HEAD_DIM;
}

// --- Order of launch. Work a tile of queries takes grows along its sequence, so the ends of sequences go first. The
// host does not know the sequences; it takes them as ATTENTION_STRETCH rows long: all last tiles of such stretches,
// then all before them, and so on. That is longest first for aligned sequences of that length, and within each of
// `tiles_per_stretch` tiles' sequences for shorter ones. Returns the tile of place `place` among `tiles`.
enum { ATTENTION_STRETCH = 2048 };
static __device__ __forceinline__ int attention_last_first(int place, int tiles, int tiles_per_stretch) {
    int stretches = (tiles + tiles_per_stretch - 1) / tiles_per_stretch;
    int in_last = tiles - (stretches - 1) * tiles_per_stretch; // the last stretch may be shorter
    int ahead = (tiles_per_stretch - in_last) * (stretches - 1);
    int position, stretch;
    if (place < ahead) {
        position = tiles_per_stretch - 1 - place / (stretches - 1);
        stretch = place % (stretches - 1);
    } else {
        position = in_last - 1 - (place - ahead) / stretches;
        stretch = (place - ahead) % stretches;
    }
    return stretch * tiles_per_stretch + position;
}

// Work a tile of keys takes falls along its sequence: first tiles first, in the same way.
static __device__ __forceinline__ int attention_first_first(int place, int tiles, int tiles_per_stretch) {
    int stretches = (tiles + tiles_per_stretch - 1) / tiles_per_stretch;
    int in_last = tiles - (stretches - 1) * tiles_per_stretch;
    int whole = in_last * stretches; // places of positions that the last stretch has too
    if (place < whole) return place % stretches * tiles_per_stretch + place / stretches;
    place -= whole;
    return place % (stretches - 1) * tiles_per_stretch + in_last + place / (stretches - 1);
}

// --- Addresses. A lane's own offset in a tile for ldmatrix, the same for every operand: of the 16×16 at the tile's
// corner r[0] and r[1] get rows 0…7, columns 0…7 and 8…15; r[2] and r[3] rows 8…15. So A is {r0, r2, r1, r3}; B stored
// [columns, k] is {r0, r1} and {r2, r3} for the first and the next 8 columns; B stored [k, columns], read transposed,
// is {r0, r2} and {r1, r3}. The k-th 16 columns of the tile are at offset ^ (k · 32) (tiles start at multiples of 256
// bytes), 16 rows further down is + 16 rows.
template <int HEAD_DIM> static __device__ __forceinline__ uint32_t lane_offset_of(unsigned thread) {
    unsigned lane = thread % 32;
    return swizzled<HEAD_DIM / 8>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}
template <int HEAD_DIM> static __device__ __forceinline__ uint32_t lane_offset() {
    return lane_offset_of<HEAD_DIM>(threadIdx.x);
}

// Indices read afresh: what is worked out from them is then not kept in registers over the loop before.
static __device__ __forceinline__ unsigned thread_again() {
    unsigned x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}
static __device__ __forceinline__ unsigned block_again() {
    unsigned x;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
    return x;
}
static __device__ __forceinline__ unsigned block_again_y() {
    unsigned x;
    asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(x));
    return x;
}

static __device__ __forceinline__ unsigned block_again_z() {
    unsigned x;
    asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(x));
    return x;
}

// What one of THREADS threads copies of tiles of ROWS rows of HEAD_DIM: a chunk of 16 bytes every THREADS / CHUNKS
// rows. Its place in the tile and in memory is worked out once.
template <int HEAD_DIM, int THREADS> struct tile_copier {
    static constexpr int CHUNKS = HEAD_DIM / 8, ROWS_AT_ONCE = THREADS / CHUNKS;
    static_assert(THREADS % CHUNKS == 0, "a thread keeps its chunk");
    unsigned row, chunk;
    int stride; // elements from row to row in memory
    __device__ __forceinline__ tile_copier(unsigned thread, int stride_)
        : row(thread / CHUNKS), chunk(thread % CHUNKS), stride(stride_) {}
    // This thread's place in the tile whose row 0 is at `from`.
    __device__ __forceinline__ const __nv_bfloat16 *place(const __nv_bfloat16 *from) const {
        return from + (int64_t)row * stride + chunk * 8;
    }
    // `from`: its place.
    template <int ROWS> __device__ __forceinline__ void copy(uint32_t tile, const __nv_bfloat16 *from) const {
#pragma unroll
        for (int i = 0; i < ROWS; i += ROWS_AT_ONCE, from += ROWS_AT_ONCE * stride) {
            if (ROWS % ROWS_AT_ONCE && row + i >= ROWS) break;
            async_copy_16(tile + swizzled<CHUNKS>(row + i, chunk), from);
        }
    }
};

// --- Products
// A operand of TILES·16 rows of HEAD_DIM, in registers.
template <int HEAD_DIM, int TILES> struct rows_in_registers { uint32_t part[HEAD_DIM / 16][TILES][4]; };
// The same, read again from shared memory wherever it is used.
struct rows_in_shared {
    uint32_t at; // this lane's address
};

template <int HEAD_DIM, int TILES>
static __device__ __forceinline__ void rows_part(const rows_in_shared &a, int k, uint32_t (&part)[TILES][4]) {
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        uint32_t r[4];
        ldmatrix_x4(r, (a.at ^ (k * 32)) + t * 16 * HEAD_DIM * 2);
        part[t][0] = r[0], part[t][1] = r[2], part[t][2] = r[1], part[t][3] = r[3];
    }
}
template <int HEAD_DIM, int TILES>
static __device__ __forceinline__ void rows_part(const rows_in_registers<HEAD_DIM, TILES> &a, int k,
                                                 uint32_t (&part)[TILES][4]) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) part[t][i] = a.part[k][t][i];
}
// From the tile's row that `at`, this lane's address, points at.
template <int HEAD_DIM, int TILES> static __device__ __forceinline__ void rows_load(rows_in_shared &a, uint32_t at) {
    a.at = at;
}
template <int HEAD_DIM, int TILES>
static __device__ __forceinline__ void rows_load(rows_in_registers<HEAD_DIM, TILES> &a, uint32_t at) {
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) rows_part<HEAD_DIM, TILES>(rows_in_shared{at}, k, a.part[k]);
}

// c = a · bᵀ, b: PAIRS·16 rows of a tile from the one that `at` points at.
template <int HEAD_DIM, int TILES, int PAIRS, typename Rows>
static __device__ __forceinline__ void product_rows(float (&c)[TILES][2 * PAIRS][4], const Rows &a, uint32_t at) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < 2 * PAIRS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) c[t][n][i] = 0;
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t part[TILES][4];
        rows_part<HEAD_DIM, TILES>(a, k, part);
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            uint32_t b[4];
            ldmatrix_x4(b, (at ^ (k * 32)) + p * 16 * HEAD_DIM * 2);
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                mma_bf16(c[t][2 * p], part[t], b[0], b[1]);
                mma_bf16(c[t][2 * p + 1], part[t], b[2], b[3]);
            }
        }
    }
}

// c += w · b, w: [TILES·16, PAIRS·16] rounded to bf16, b: PAIRS·16 rows of a tile from the one that `at` points at.
template <int HEAD_DIM, int TILES, int PAIRS>
static __device__ __forceinline__ void product_weights(float (&c)[TILES][HEAD_DIM / 8][4],
                                                       const float (&w)[TILES][2 * PAIRS][4], uint32_t at) {
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        uint32_t a[TILES][4];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            a[t][0] = encode_bf16x2(w[t][2 * p][0], w[t][2 * p][1]);
            a[t][1] = encode_bf16x2(w[t][2 * p][2], w[t][2 * p][3]);
            a[t][2] = encode_bf16x2(w[t][2 * p + 1][0], w[t][2 * p + 1][1]);
            a[t][3] = encode_bf16x2(w[t][2 * p + 1][2], w[t][2 * p + 1][3]);
        }
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) {
            uint32_t b[4];
            ldmatrix_x4_transposed(b, (at ^ (k * 32)) + p * 16 * HEAD_DIM * 2);
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                mma_bf16(c[t][2 * k], a[t], b[0], b[2]);
                mma_bf16(c[t][2 * k + 1], a[t], b[1], b[3]);
            }
        }
    }
}

// --- Mask. Scores of TILES·16 query rows and keys from `key` on, both counted from the warp's first row; `start`:
// seq_start of row `lane`, counted likewise.
template <int TILES, int PAIRS>
static __device__ __forceinline__ void mask_scores(int start, int key, float (&s)[TILES][2 * PAIRS][4]) {
    const int g = threadIdx.x % 32 / 4, t4 = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = t * 16 + half * 8 + g, row_start = __shfl_sync(0xffffffffu, start, row);
#pragma unroll
            for (int n = 0; n < 2 * PAIRS; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    int j = key + n * 8 + 2 * t4 + i;
                    if (j < row_start || j > row) s[t][n][2 * half + i] = -INFINITY;
                }
        }
}

// --- From accumulators to memory
// Among the four lanes t of a quad: v[s] of lane t becomes what v[t] of lane s was.
static __device__ __forceinline__ void quad_transpose(uint32_t (&v)[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? v[i] : v[i + 1], 1);
        v[i] = odd ? got : v[i];
        v[i + 1] = odd ? v[i + 1] : got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t got = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i + 2], 2);
        v[i] = high ? got : v[i];
        v[i + 2] = high ? v[i + 2] : got;
    }
}

// Stores factor · c as bf16, rows of HEAD_DIM `stride` elements apart, 64 contiguous bytes a quad at a time. `to`: row
// 0 of the accumulator.
template <int HEAD_DIM, int TILES>
static __device__ __forceinline__ void tile_store(__nv_bfloat16 *to, int64_t stride,
                                                  const float (&c)[TILES][HEAD_DIM / 8][4], float factor) {
    const int g = threadIdx.x % 32 / 4, t4 = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; n += 4) {
                uint32_t v[4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    v[i] = encode_bf16x2(c[t][n + i][2 * half] * factor, c[t][n + i][2 * half + 1] * factor);
                quad_transpose(v);
                *(uint4 *)(to + (t * 16 + half * 8 + g) * stride + (n + t4) * 8) = make_uint4(v[0], v[1], v[2], v[3]);
            }
}

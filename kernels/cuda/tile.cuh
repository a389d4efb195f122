// A tile of 8-bit codes in shared memory, on its way to the transposed copy of an operand.
//
// The tile holds ROWS (64 or 32) tokens of a block of columns, a row of `pitch` bytes each (a multiple of 128). Words
// (4 codes) are stored with the upper two bits of their bank exclusive-ored with row / 16: then both the rows that are
// written and the 16 × 4 pieces that are read touch each bank once.
#pragma once
#include "kernels/cuda/convert.cuh"

enum { TILE_ROWS = 64 };

__host__ __device__ constexpr int tile_pitch(int cols) { return (cols + 127) / 128 * 128; }

// Where word `word` of row `row` lies, in words. Eight codes (an even word and the next) stay together.
template <int ROWS> __device__ __forceinline__ int tile_word(int pitch, int row, int word) {
    static_assert(ROWS == 64 || ROWS == 32, "four or two pieces of 16 rows");
    return row * (pitch / 4) + (word ^ (row / 16 * (ROWS == 64 ? 8 : 16)));
}
template <int ROWS>
__device__ __forceinline__ void tile_put8(uint32_t *tile, int pitch, int row, int col, uint2 codes) {
    *(uint2 *)&tile[tile_word<ROWS>(pitch, row, col / 4)] = codes;
}

// Byte j of the four words, one row each, become word j.
__device__ __forceinline__ void transpose_4x4(const uint32_t (&in)[4], uint32_t (&out)[4]) {
    uint32_t low01 = __byte_perm(in[0], in[1], 0x5140), high01 = __byte_perm(in[0], in[1], 0x7362);
    uint32_t low23 = __byte_perm(in[2], in[3], 0x5140), high23 = __byte_perm(in[2], in[3], 0x7362);
    out[0] = __byte_perm(low01, low23, 0x5410);
    out[1] = __byte_perm(low01, low23, 0x7632);
    out[2] = __byte_perm(high01, high23, 0x5410);
    out[3] = __byte_perm(high01, high23, 0x7632);
}

// Writes columns [0, cols) of the tile to `col`, which points at [first column, first row] of a [.., rows] matrix. Each
// thread moves 16 rows × 4 columns; ROWS / 16 neighbouring lanes make the bytes of a column. All threads of the block
// take part; the block is a whole number of warps. cols is a multiple of 4.
template <int ROWS = TILE_ROWS>
__device__ __forceinline__ void tile_store_transposed(const uint32_t *tile, int pitch, int cols, uint8_t *col,
                                                      int64_t rows) {
    constexpr int PIECES = ROWS / 16, WARP_COLS = 32 / PIECES * 4;
    int lane = threadIdx.x % 32, warps = blockDim.x / 32, piece = lane % PIECES;
    for (int c = threadIdx.x / 32 * WARP_COLS + lane / PIECES * 4; c < cols; c += warps * WARP_COLS) {
        uint32_t columns[4][4]; // [column][group of 4 rows]
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t in[4], out[4];
#pragma unroll
            for (int i = 0; i < 4; i++) in[i] = tile[tile_word<ROWS>(pitch, piece * 16 + k * 4 + i, c / 4)];
            transpose_4x4(in, out);
#pragma unroll
            for (int j = 0; j < 4; j++) columns[j][k] = out[j];
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
            *(uint4 *)(col + (int64_t)(c + j) * rows + piece * 16) =
                make_uint4(columns[j][0], columns[j][1], columns[j][2], columns[j][3]);
    }
}

// --- Eight neighbouring values
struct values8 {
    float v[8];
};
__device__ __forceinline__ uint4 load8_raw(const void *bf16, int64_t index) {
    return *(const uint4 *)((const __nv_bfloat16 *)bf16 + index);
}
__device__ __forceinline__ values8 decode8(uint4 raw) {
    uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    values8 out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 pair = decode_bf16x2(words[i]);
        out.v[2 * i] = pair.x, out.v[2 * i + 1] = pair.y;
    }
    return out;
}
__device__ __forceinline__ values8 load8(const void *bf16, int64_t index) { return decode8(load8_raw(bf16, index)); }
__device__ __forceinline__ values8 load8_fp32(const float *x) {
    float4 a = *(const float4 *)x, b = *(const float4 *)(x + 4);
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ uint4 pack8_bf16(const values8 &x) {
    return make_uint4(encode_bf16x2(x.v[0], x.v[1]), encode_bf16x2(x.v[2], x.v[3]), encode_bf16x2(x.v[4], x.v[5]),
                      encode_bf16x2(x.v[6], x.v[7]));
}
__device__ __forceinline__ void store8(void *bf16, int64_t index, const values8 &x) {
    *(uint4 *)((__nv_bfloat16 *)bf16 + index) = pack8_bf16(x);
}
template <yx_dtype T> __device__ __forceinline__ uint2 pack8_fp8(const values8 &x, float scale) {
    return make_uint2(encode_fp8x4<T>(x.v[0] * scale, x.v[1] * scale, x.v[2] * scale, x.v[3] * scale),
                      encode_fp8x4<T>(x.v[4] * scale, x.v[5] * scale, x.v[6] * scale, x.v[7] * scale));
}
template <yx_dtype T> __device__ __forceinline__ void tally8(quant_tally &t, const values8 &x, float scale) {
#pragma unroll
    for (int i = 0; i < 8; i++) tally<T>(t, x.v[i], scale);
}

// Eight values of an operand: its row copy at `index`, and the codes in the tile for its transposed copy; recorded.
// T = YX_BF16 has no transposed copy. `itself`: the buffer that already holds these values (the row copy may be it).
template <yx_dtype T, int ROWS = TILE_ROWS>
__device__ __forceinline__ void put_operand8(const yx_operand &o, int64_t index, const values8 &x, float scale,
                                             uint32_t *tile, int pitch, int row, int col, quant_tally &t) {
    tally8<T>(t, x, scale);
    if constexpr (T == YX_BF16) {
        if (!o.row) return;
        values8 scaled;
#pragma unroll
        for (int i = 0; i < 8; i++) scaled.v[i] = x.v[i] * scale;
        store8(o.row, index, scaled);
    } else {
        uint2 codes = pack8_fp8<T>(x, scale);
        if (o.row) *(uint2 *)((uint8_t *)o.row + index) = codes;
        if (o.col) tile_put8<ROWS>(tile, pitch, row, col, codes);
    }
}

// Runs `call` with T a compile-time type: BF16, E4M3 or E5M2.
#define WITH_OPERAND_TYPE(dtype, call)                                                                                 \
    do {                                                                                                               \
        if ((dtype) == YX_BF16) {                                                                                      \
            constexpr yx_dtype T = YX_BF16;                                                                            \
            call;                                                                                                      \
        } else if ((dtype) == YX_E4M3) {                                                                               \
            constexpr yx_dtype T = YX_E4M3;                                                                            \
            call;                                                                                                      \
        } else {                                                                                                       \
            constexpr yx_dtype T = YX_E5M2;                                                                            \
            call;                                                                                                      \
        }                                                                                                              \
    } while (0)

// What every row operation asks of its arguments: bf16 activations, whole tiles of rows, an operand it can write.
static inline yx_status check_rows(const char *who, int64_t rows, int64_t cols, yx_dtype act, const yx_operand *o) {
    if (act != YX_BF16)
        return yx_fail(YX_ERR_UNAVAILABLE, "the GPU computes in bf16 and 8 bits; precision fp32 runs on the CPU");
    if (rows < 1 || rows % TILE_ROWS || cols < 64 || cols % 64)
        return yx_fail(YX_ERR_CONFIG,
                       "%s: %lld rows of %lld columns; the GPU needs rows and widths that are multiples of 64", who,
                       (long long)rows, (long long)cols);
    if (o && (o->dtype == YX_F32 || (o->dtype == YX_BF16 && o->col)))
        return yx_fail(YX_ERR_INTERNAL, "%s: an operand that this backend does not write", who);
    return YX_OK;
}

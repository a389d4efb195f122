// Tensor cores and the moves that feed them: thin wrappers around PTX of sm_80, so that every supported card runs them.
//
// Layouts, lane = 4·g + t (g in 0…7, t in 0…3). A register is a pair of bf16, the lower column (or k) in the low half.
//
// A [16 rows, 16 k]: a[0] row g, k 2t and 2t+1; a[1] row g+8, the same k; a[2], a[3] the same rows, k 2t+8 and 2t+9.
//
// B [16 k, 8 columns]: b0 column g, k 2t and 2t+1; b1 column g, k 2t+8 and 2t+9.
//
// C [16 rows, 8 columns]: c[0], c[1] row g, columns 2t and 2t+1; c[2], c[3] row g+8, the same columns.
//
// So a C tile of 16×16 (two products side by side), rounded to bf16 pairs, is the A operand of the next product:
// a = {c0[0..1], c0[2..3], c1[0..1], c1[2..3]}.
#pragma once
#include "kernels/cuda/cuda.cuh"

// --- Shared memory addresses
// What ldmatrix and cp.async take: 32 bits, counted from the start of shared memory.
__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Byte offset of 16-byte chunk `chunk` of row `row` in a tile whose rows hold CHUNKS chunks (8 or a multiple of it: 64,
// 128 … bf16). The chunk's low three bits are exclusive-ored with the row's: eight rows of one column of chunks, what a
// phase of ldmatrix reads, then lie in eight different groups of banks, and so do the eight chunks of one row.
template <int CHUNKS> __device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
    static_assert(CHUNKS % 8 == 0, "a row of the tile is a whole number of 128-byte lines");
    return (uint32_t)((row * CHUNKS + (chunk ^ (row & 7))) * 16);
}

// --- ldmatrix: 8×8 tiles of bf16 from shared memory
// Four of them: lanes 8i…8i+7 give the addresses of tile i's rows (16 bytes each); r[i] gets tile i, row g, columns
// 2t…2t+1. For A [16 rows, 16 k] lane l points at row l%16, k chunk l/16. For two B tiles of an operand stored
// [columns, k] lane l points at column l%8 + 8·(l/16), k chunk l/8%2: r = {b0, b1 of the first 8 columns, b0, b1 of the
// next 8}.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
// The same, each tile transposed: r[i] gets column g, rows 2t…2t+1 of tile i. For two B tiles of an operand stored
// [k, columns] lane l points at k row l%16, column chunk l/16: r = {b0, b1, b0, b1} as above. For A of an operand
// stored [k, rows] lane l points at k row l%8 + 8·(l/16), row chunk l/8%2.
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// --- Products
// c += a·b, bf16 into fp32.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- cp.async: global to shared memory without registers
// 16 bytes, past the L1; both addresses 16-byte aligned.
__device__ __forceinline__ void async_copy_16(uint32_t shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
// The same where `inside`; else 16 bytes of zeros (nothing is read).
__device__ __forceinline__ void async_copy_16_or_zero(uint32_t shared, const void *global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(inside ? 16 : 0)
                 : "memory");
}
// 4 bytes (through the L1: the only form of that size).
__device__ __forceinline__ void async_copy_4(uint32_t shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
}
// Ends this thread's current group of copies; waits until at most PENDING of its groups are under way. What other
// threads copied is there after the __syncthreads() that follows the wait.
__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// --- Fast functions
// 2^x by the special function unit: relative error 2^-22; 2^-infinity = 0, results below 2^-126 are 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

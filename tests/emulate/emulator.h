// Runs the CUDA kernels on the CPU, so that a machine without a GPU can check what they compute: every thread of a
// block is a fiber, blocks run one after another. Warp-wide operations, barriers, ldmatrix, mma and cp.async (whose
// copies are made as late as they may be) do what the hardware's do. It says nothing about speed, and finds no races.
//
// Included in front of every file that tests/emulate/translate.py wrote.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

using std::isfinite;
// As CUDA's: of any two numbers, enumerators included.
template <typename A, typename B> static inline auto min(A a, B b) { return +a < +b ? (decltype(+a + +b))+a : +b; }
template <typename A, typename B> static inline auto max(A a, B b) { return +a > +b ? (decltype(+a + +b))+a : +b; }

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

// --- The fiber that runs
struct emulate_thread {
    uint3 index;
    int linear, warp, lane;
};
extern emulate_thread *emulate_self;
extern uint3 emulate_block;
extern dim3 emulate_block_dim, emulate_grid_dim;
#define threadIdx (emulate_self->index)
#define blockIdx emulate_block
#define blockDim emulate_block_dim
#define gridDim emulate_grid_dim
static const int warpSize = 32;

void *emulate_dynamic_shared();
void emulate_launch(const void *kernel, dim3 grid, dim3 block, size_t shared, std::function<void()> body);

// --- Barriers and exchanges in a warp
void emulate_barrier();
bool emulate_barrier_any(bool value);
// Every lane of `mask` hands in `bytes` at `in`; `all` [32, bytes] is what they handed in.
void emulate_exchange(unsigned mask, const void *in, size_t bytes, void *all);

static inline void __syncthreads() { emulate_barrier(); }
static inline int __syncthreads_or(int x) { return emulate_barrier_any(x != 0); }
static inline int __syncthreads_and(int x) { return !emulate_barrier_any(x == 0); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    int nothing = 0, all[32];
    emulate_exchange(mask, &nothing, sizeof nothing, all);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <typename T> static inline T emulate_from(unsigned mask, T x, int lane) {
    T all[32];
    emulate_exchange(mask, &x, sizeof x, all);
    return all[lane & 31];
}
template <typename T> static inline T __shfl_sync(unsigned mask, T x, int lane, int width = 32) {
    int self = emulate_self->lane;
    return emulate_from(mask, x, self / width * width + lane % width);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T x, int bits, int = 32) {
    return emulate_from(mask, x, emulate_self->lane ^ bits);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32) {
    int self = emulate_self->lane;
    return emulate_from(mask, x, self % width < (int)by ? self : self - (int)by);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32) {
    int self = emulate_self->lane;
    return emulate_from(mask, x, self % width + (int)by >= width ? self : self + (int)by);
}
template <typename T, typename F> static inline T emulate_reduce(unsigned mask, T x, F f) {
    T all[32], out = x;
    emulate_exchange(mask, &x, sizeof x, all);
    bool first = true;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) out = first ? all[i] : f(out, all[i]), first = false;
    return out;
}
static inline unsigned __reduce_max_sync(unsigned m, unsigned x) {
    return emulate_reduce(m, x, [](unsigned a, unsigned b) { return a > b ? a : b; });
}
static inline unsigned __reduce_min_sync(unsigned m, unsigned x) {
    return emulate_reduce(m, x, [](unsigned a, unsigned b) { return a < b ? a : b; });
}
static inline unsigned __reduce_add_sync(unsigned m, unsigned x) {
    return emulate_reduce(m, x, [](unsigned a, unsigned b) { return a + b; });
}
static inline unsigned __reduce_or_sync(unsigned m, unsigned x) {
    return emulate_reduce(m, x, [](unsigned a, unsigned b) { return a | b; });
}
static inline unsigned __ballot_sync(unsigned m, int x) {
    return __reduce_or_sync(m, x ? 1u << emulate_self->lane : 0u);
}
static inline int __any_sync(unsigned m, int x) { return __ballot_sync(m, x) != 0; }
static inline int __all_sync(unsigned m, int x) { return __ballot_sync(m, x) == m; }
static inline unsigned __match_any_sync(unsigned m, unsigned x) {
    unsigned all[32], out = 0;
    emulate_exchange(m, &x, sizeof x, all);
    for (int i = 0; i < 32; i++) out |= (m >> i & 1 && all[i] == x) ? 1u << i : 0u;
    return out;
}

// --- Atomics: one fiber runs at a time
template <typename T> static inline T atomicAdd(T *p, T x) {
    T old = *p;
    *p += x;
    return old;
}
template <typename T> static inline T atomicMax(T *p, T x) {
    T old = *p;
    if (x > old) *p = x;
    return old;
}

// --- Functions
#define __expf expf
#define __logf logf
#define __log2f log2f
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
static inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline float __int_as_float(int bits) { return __uint_as_float((uint32_t)bits); }
static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) out |= (uint32_t)(bytes >> (s >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return out;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline T __ldlu(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T x) { *p = x; }
template <typename T> static inline void __stcg(T *p, T x) { *p = x; }

// --- Shared memory by 32-bit address: from the dynamic piece, which lies near the static ones
extern char emulate_shared_memory[];
static inline size_t __cvta_generic_to_shared(const void *p) {
    return (uint32_t)((const char *)p - emulate_shared_memory);
}
static inline char *emulate_pointer(uint32_t address) { return emulate_shared_memory + (int32_t)address; }

template <typename... A>
static inline cudaError_t cudaFuncSetAttribute(void (*f)(A...), cudaFuncAttribute a, int value) {
    return cudaFuncSetAttribute((const void *)f, a, value);
}
template <typename... A>
static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, void (*f)(A...), int threads,
                                                                        size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(n, (const void *)f, threads, shared);
}

// --- PTX
static inline void emulate_tid_x(unsigned &x) { x = threadIdx.x; }
static inline void emulate_ctaid_x(unsigned &x) { x = blockIdx.x; }
static inline void emulate_ctaid_y(unsigned &x) { x = blockIdx.y; }
static inline void emulate_ctaid_z(unsigned &x) { x = blockIdx.z; }
void emulate_ldmatrix_sync_aligned_m8n8_x4_shared_b16(uint32_t &, uint32_t &, uint32_t &, uint32_t &, uint32_t address);
void emulate_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(uint32_t &, uint32_t &, uint32_t &, uint32_t &,
                                                            uint32_t address);
void emulate_ldmatrix_sync_aligned_m8n8_x2_shared_b16(uint32_t &, uint32_t &, uint32_t address);
void emulate_ldmatrix_sync_aligned_m8n8_x2_trans_shared_b16(uint32_t &, uint32_t &, uint32_t address);
void emulate_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(float &, float &, float &, float &, uint32_t, uint32_t,
                                                                 uint32_t, uint32_t, uint32_t, uint32_t);
void emulate_movmatrix_sync_aligned_m8n8_trans_b16(uint32_t &, uint32_t);
void emulate_copy_later(uint32_t to, const void *from, int size, int bytes);
static inline void emulate_cp_async_cg_shared_global(uint32_t to, const void *from, int bytes = 16) {
    emulate_copy_later(to, from, 16, bytes);
}
static inline void emulate_cp_async_ca_shared_global(uint32_t to, const void *from) {
    emulate_copy_later(to, from, 4, 4);
}
void emulate_cp_async_commit_group();
void emulate_cp_async_wait_group(int pending);
static inline void emulate_cp_async_wait_all() { emulate_cp_async_wait_group(-1); }
static inline void emulate_ex2_approx_ftz_f32(float &y, float x) { y = exp2f(x) < 1.17549435e-38f ? 0 : exp2f(x); }
static inline void emulate_ex2_approx_f32(float &y, float x) { y = exp2f(x); }

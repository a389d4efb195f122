// Products of small tiles by one thread, for the kernels that keep their intermediate matrices in cache.
#pragma once
#include "kernels/cpu/cpu.h"

#if defined(__AVX512F__)
enum { TILE_VECTOR_BYTES = 64 };
#elif defined(__AVX__)
enum { TILE_VECTOR_BYTES = 32 };
#else
enum { TILE_VECTOR_BYTES = 16 };
#endif
// Columns of a product come in multiples of this.
enum { TILE_VECTOR = TILE_VECTOR_BYTES / sizeof(yx_real) };

// c[m, n] = a · b, or += with `accumulate`. a[i, p] is a[i·a_row + p·a_col]; b: [k, n], rows ldb apart; c: rows ldc
// apart. n is a multiple of TILE_VECTOR.
void tile_product(int64_t m, int64_t n, int64_t k, const yx_real *a, int64_t a_row, int64_t a_col, const yx_real *b,
                  int64_t ldb, yx_real *c, int64_t ldc, bool accumulate);

// out[cols, ldo] = transpose of x[rows, ldx]; columns of out from `rows` up to ldo become 0.
void tile_transpose(int64_t rows, int64_t cols, const yx_real *x, int64_t ldx, yx_real *out, int64_t ldo);

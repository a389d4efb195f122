#include "kernels/cpu/tile.h"

typedef yx_real vec __attribute__((vector_size(TILE_VECTOR_BYTES), aligned(sizeof(yx_real)), may_alias));

// A block of rows × vectors of c stays in registers while k runs: 24 of the 32 registers of AVX-512, 12 of the 16 of
// others, and one row of b. Narrow blocks are one vector wide.
#if defined(__AVX512F__)
enum { WIDE = 4 };
#else
enum { WIDE = 2 };
#endif
enum { WIDE_ROWS = 6, NARROW_ROWS = 8 };

static inline __attribute__((always_inline)) void block(int m, int n, int64_t k, const yx_real *a, int64_t a_row,
                                                        int64_t a_col, const yx_real *b, int64_t ldb, yx_real *c,
                                                        int64_t ldc, bool accumulate) {
    vec sum[NARROW_ROWS][WIDE];
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) sum[i][j] = accumulate ? *(const vec *)(c + i * ldc + j * TILE_VECTOR) : (vec){0};
    for (int64_t p = 0; p < k; p++) {
        vec row[WIDE];
        for (int j = 0; j < n; j++) row[j] = *(const vec *)(b + p * ldb + j * TILE_VECTOR);
        for (int i = 0; i < m; i++) {
            yx_real x = a[i * a_row + p * a_col];
            for (int j = 0; j < n; j++) sum[i][j] += x * row[j];
        }
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) *(vec *)(c + i * ldc + j * TILE_VECTOR) = sum[i][j];
}

// All rows of a block of columns. A constant m and n at each call keep the sums in registers.
#define ROWS(m, n) block(m, n, k, a, a_row, a_col, b, ldb, c, ldc, accumulate)
static void wide_column(int64_t m, int64_t k, const yx_real *a, int64_t a_row, int64_t a_col, const yx_real *b,
                        int64_t ldb, yx_real *c, int64_t ldc, bool accumulate) {
    for (; m >= WIDE_ROWS; m -= WIDE_ROWS, a += WIDE_ROWS * a_row, c += WIDE_ROWS * ldc) ROWS(WIDE_ROWS, WIDE);
    switch (m) {
    case 5:
        ROWS(5, WIDE);
        break;
    case 4:
        ROWS(4, WIDE);
        break;
    case 3:
        ROWS(3, WIDE);
        break;
    case 2:
        ROWS(2, WIDE);
        break;
    case 1:
        ROWS(1, WIDE);
        break;
    default:
        break;
    }
}

static void narrow_column(int64_t m, int64_t k, const yx_real *a, int64_t a_row, int64_t a_col, const yx_real *b,
                          int64_t ldb, yx_real *c, int64_t ldc, bool accumulate) {
    for (; m >= NARROW_ROWS; m -= NARROW_ROWS, a += NARROW_ROWS * a_row, c += NARROW_ROWS * ldc) ROWS(NARROW_ROWS, 1);
    for (; m > 0; m--, a += a_row, c += ldc) ROWS(1, 1);
}

void tile_product(int64_t m, int64_t n, int64_t k, const yx_real *a, int64_t a_row, int64_t a_col, const yx_real *b,
                  int64_t ldb, yx_real *c, int64_t ldc, bool accumulate) {
    enum { WIDE_COLUMNS = WIDE * TILE_VECTOR };
    int64_t j = 0;
    for (; j + WIDE_COLUMNS <= n; j += WIDE_COLUMNS)
        wide_column(m, k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
    for (; j < n; j += TILE_VECTOR) narrow_column(m, k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
}

void tile_transpose(int64_t rows, int64_t cols, const yx_real *x, int64_t ldx, yx_real *out, int64_t ldo) {
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++) out[j * ldo + i] = x[i * ldx + j];
        for (int64_t i = rows; i < ldo; i++) out[j * ldo + i] = 0;
    }
}

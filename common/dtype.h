// Number formats. Storage only: the kernels compute in yx_real. In the build that checks gradients (YX_DOUBLE) yx_real,
// and with it the storage of YX_F32, is a double; everywhere else it is a float.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef YX_DOUBLE
typedef double yx_real;
#else
typedef float yx_real;
#endif

typedef enum yx_dtype {
    YX_F32,  // yx_real
    YX_BF16, // 1-8-7
    YX_E4M3, // OCP 8-bit float 1-4-3, "fn": no infinity, NaN = 0x7f/0xff, largest 448
    YX_E5M2  // OCP 8-bit float 1-5-2, IEEE-like, largest finite 57344
} yx_dtype;

typedef uint16_t yx_bf16;
typedef uint8_t yx_fp8;

#define YX_E4M3_MAX 448.0f
#define YX_E5M2_MAX 57344.0f

// Bytes of one element.
static inline size_t yx_dtype_size(yx_dtype t) { return t == YX_F32 ? sizeof(yx_real) : t == YX_BF16 ? 2 : 1; }
const char *yx_dtype_name(yx_dtype t);
// Largest finite value of an 8-bit format.
static inline float yx_dtype_max(yx_dtype t) { return t == YX_E4M3 ? YX_E4M3_MAX : YX_E5M2_MAX; }

static inline float yx_bf16_to_float(yx_bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// Round to nearest even; NaN stays NaN (quiet).
static inline yx_bf16 yx_bf16_from_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, nan = (bits >> 16) | 0x40u;
    return (yx_bf16)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// Decoding: exact. Encoding: round to nearest even, saturating to the largest finite value (as cvt.rn.satfinite does on
// the GPU): every magnitude above it, infinity included, becomes it. NaN becomes NaN: 0x7f or 0xff by its sign.
float yx_e4m3_to_float(yx_fp8 x);
float yx_e5m2_to_float(yx_fp8 x);
yx_fp8 yx_e4m3_from_float(float f);
yx_fp8 yx_e5m2_from_float(float f);

// Many at once, vectorised. `src` and `out` hold n elements and do not overlap, except that for YX_F32 they may be the
// same memory.
void yx_decode(yx_dtype t, const void *src, int64_t n, yx_real *out);
// Stores src[i]·scale as `t`; returns how many magnitudes lay above the format's largest finite value (8-bit formats; 0
// for the others, which do not saturate).
uint32_t yx_encode(yx_dtype t, const yx_real *src, float scale, int64_t n, void *out);

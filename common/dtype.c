#include "common/dtype.h"

const char *yx_dtype_name(yx_dtype t) {
    static const char *const names[] = {"fp32", "bf16", "e4m3", "e5m2"};
    return names[t];
}

// One description serves both 8-bit formats: value = (-1)^s · 2^(e - bias) · (1 + m / 2^mantissa), subnormal at e = 0.
// The functions below are inlined with a constant format and have no branches, so that loops over them vectorise.
typedef struct format {
    uint32_t mantissa, bias;
    float largest, smallest_normal;
    uint32_t infinity, nan; // the code from which on a magnitude is not finite, and the first that is NaN
} format;
static const format e4m3 = {3, 7, YX_E4M3_MAX, 0x1p-6f, 0x7f, 0x7f};
static const format e5m2 = {2, 15, YX_E5M2_MAX, 0x1p-14f, 0x7c, 0x7d};

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static inline float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline float power_of_two(uint32_t biased_exponent) { return from_bits(biased_exponent << 23); }

static inline __attribute__((always_inline)) float decode(format f, yx_fp8 code) {
    uint32_t magnitude = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
    uint32_t normal = (magnitude << (23 - f.mantissa)) + ((127 - f.bias) << 23);
    uint32_t subnormal = bits_of((float)(int32_t)magnitude * power_of_two(128 - f.bias - f.mantissa));
    uint32_t bits = magnitude < (1u << f.mantissa) ? subnormal : normal;
    bits = magnitude >= f.infinity ? 0x7f800000u : bits;
    bits = magnitude >= f.nan ? 0x7fc00000u : bits;
    return from_bits(bits | sign);
}

static inline __attribute__((always_inline)) yx_fp8 encode(format f, float x) {
    uint32_t bits = bits_of(x), sign = (bits >> 24) & 0x80u, magnitude = bits & 0x7fffffffu;
    float a = from_bits(magnitude);
    uint32_t clipped = bits_of(a > f.largest ? f.largest : a);
    // A carry out of the rounded mantissa lands in the exponent field by itself.
    uint32_t shift = 23 - f.mantissa, half = (1u << (shift - 1)) - 1;
    uint32_t normal = ((clipped + half + ((clipped >> shift) & 1u)) >> shift) - ((127 - f.bias) << f.mantissa);
    // Adding a number whose last place is the subnormal step rounds to that step.
    float anchor = power_of_two(128 - f.bias - f.mantissa + 23);
    uint32_t subnormal = bits_of(a + anchor) - bits_of(anchor);
    uint32_t code = a < f.smallest_normal ? subnormal : normal;
    code = magnitude > 0x7f800000u ? 0x7fu : code;
    return (yx_fp8)(code | sign);
}

float yx_e4m3_to_float(yx_fp8 x) { return decode(e4m3, x); }
float yx_e5m2_to_float(yx_fp8 x) { return decode(e5m2, x); }
yx_fp8 yx_e4m3_from_float(float f) { return encode(e4m3, f); }
yx_fp8 yx_e5m2_from_float(float f) { return encode(e5m2, f); }

static inline __attribute__((always_inline)) void decode_all(format f, const yx_fp8 *restrict src, int64_t n,
                                                             yx_real *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = decode(f, src[i]);
}

void yx_decode(yx_dtype t, const void *src, int64_t n, yx_real *out) {
    switch (t) {
    case YX_F32:
        if (src != out) memcpy(out, src, (size_t)n * sizeof *out);
        break;
    case YX_BF16: {
        const yx_bf16 *restrict codes = src;
        yx_real *restrict values = out;
        for (int64_t i = 0; i < n; i++) values[i] = yx_bf16_to_float(codes[i]);
        break;
    }
    case YX_E4M3:
        decode_all(e4m3, src, n, out);
        break;
    case YX_E5M2:
        decode_all(e5m2, src, n, out);
        break;
    }
}

static inline __attribute__((always_inline)) uint32_t encode_all(format f, const yx_real *restrict src, float scale,
                                                                 int64_t n, yx_fp8 *restrict out) {
    uint32_t clipped = 0;
    for (int64_t i = 0; i < n; i++) {
        float x = (float)src[i] * scale, a = from_bits(bits_of(x) & 0x7fffffffu);
        clipped += a > f.largest;
        out[i] = encode(f, x);
    }
    return clipped;
}

uint32_t yx_encode(yx_dtype t, const yx_real *src, float scale, int64_t n, void *out) {
    switch (t) {
    case YX_F32: {
        yx_real *values = out;
        if (scale == 1.0f && src != values) memcpy(values, src, (size_t)n * sizeof *values);
        if (scale == 1.0f) return 0;
        for (int64_t i = 0; i < n; i++) values[i] = src[i] * (yx_real)scale;
        return 0;
    }
    case YX_BF16: {
        const yx_real *restrict values = src;
        yx_bf16 *restrict codes = out;
        for (int64_t i = 0; i < n; i++) codes[i] = yx_bf16_from_float((float)values[i] * scale);
        return 0;
    }
    case YX_E4M3:
        return encode_all(e4m3, src, scale, n, out);
    case YX_E5M2:
        return encode_all(e5m2, src, scale, n, out);
    }
    return 0;
}

// exp without a function call, so that loops over it vectorise.
#pragma once
#include "kernels/cpu/cpu.h"

#ifdef YX_DOUBLE
static inline yx_real vexp(yx_real x) { return exp(x); }
#else
// exp(x) = 2^n · exp(r), n = round(x / ln 2), |r| <= ln 2 / 2: the reduction in two parts and the polynomial of Cephes'
// expf (S. L. Moshier, 1989). Relative error below 2 units in the last place; 0 below the smallest normal number, where
// the functions that call it need no more; infinity above the largest.
static inline float vexp(float x) {
    const float round = 0x1.8p23f;                               // adding it leaves the nearest integer in the low bits
    float bounded = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x; // NaN stays
    float shifted = bounded * 1.44269504088896341f + round, n = shifted - round;
    float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &p, sizeof bits);
    bits = (int32_t)((uint32_t)bits + ((uint32_t)exponent << 23));
    float y;
    memcpy(&y, &bits, sizeof y);
    return x < -87.0f ? 0.0f : x > 88.0f ? INFINITY : y;
}
#endif

// Counter-based random numbers (Philox4x32-10, Salmon et al. 2011): value i of stream `key` is a pure function, so
// initialisation and sampling do not depend on the number of threads or ranks, nor on what was drawn before.
#pragma once
#include <stdint.h>

// Four 32-bit words for (key, counter).
void yx_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo, uint32_t out[4]);
// Uniform in [0, 1) with 53 random bits.
double yx_uniform(uint64_t key, uint64_t stream, uint64_t index);
// Standard normal (Box–Muller over value `index` of `stream`).
double yx_normal(uint64_t key, uint64_t stream, uint64_t index);
// A 64-bit mix of two words (splitmix64 finaliser), to derive keys.
uint64_t yx_mix64(uint64_t a, uint64_t b);

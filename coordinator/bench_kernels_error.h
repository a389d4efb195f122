// How far the results of an operation are from the values they should have.
#pragma once
#include "coordinator/bench_kernels_tensors.h"

// Relative errors: Frobenius norm of the difference over that of what is expected. NaN in the results makes them NaN.
// expected: [n]. NaN after a failure of `t`.
double error_of(tensors *t, yx_dtype dtype, const void *address, int64_t n, const double *expected);
// Of every copy [rows, cols] that an operand has, and of the amax it records; the largest of them. Of an 8-bit copy
// only what its rounding does not explain counts: how far the expected value is from those that round to the code.
double error_of_operand(tensors *t, const yx_operand *o, int64_t rows, int64_t cols, const double *expected);
double error_of_scalar(double value, double expected);
// The larger one; NaN if either is.
double error_worse(double a, double b);

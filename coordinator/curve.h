// Curves of any length in a fixed number of points: consecutive entries share a bucket, and whenever the buckets run
// out each takes twice as many.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { CURVE_BUCKETS = 1000, CURVE_SERIES = 4 };

typedef struct curve_value { // of the finite values in a bucket
    int64_t count;
    double sum, min, max;
} curve_value;

typedef struct curve_bucket {
    int64_t count; // entries
    double x_sum;
    bool marked; // one of them is
    curve_value values[CURVE_SERIES];
} curve_bucket;

// All zero is an empty curve.
typedef struct curve {
    int64_t per_bucket, used; // bucket i holds entries i·per_bucket … (i + 1)·per_bucket - 1
    curve_bucket buckets[CURVE_BUCKETS];
} curve;

// `values`: of each series; one that is not finite leaves its series out.
void curve_add(curve *c, double x, const double values[CURVE_SERIES], bool marked);
// Mean of x, mean of a series (NaN: it has no value there).
double curve_x(const curve_bucket *b);
double curve_mean(const curve_bucket *b, int series);

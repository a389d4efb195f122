#include "coordinator/curve.h"
#include <math.h>

static void merge_value(curve_value *a, const curve_value *b) {
    if (b->count == 0) return;
    bool first = a->count == 0;
    a->count += b->count;
    a->sum += b->sum;
    if (first || b->min < a->min) a->min = b->min;
    if (first || b->max > a->max) a->max = b->max;
}

static void merge(curve_bucket *a, const curve_bucket *b) {
    a->count += b->count;
    a->x_sum += b->x_sum;
    a->marked |= b->marked;
    for (int i = 0; i < CURVE_SERIES; i++) merge_value(&a->values[i], &b->values[i]);
}

// Two neighbours each become one.
static void halve(curve *c) {
    for (int64_t i = 0; i < c->used; i += 2) {
        curve_bucket both = c->buckets[i];
        if (i + 1 < c->used) merge(&both, &c->buckets[i + 1]);
        c->buckets[i / 2] = both;
    }
    c->used = (c->used + 1) / 2;
    c->per_bucket *= 2;
}

void curve_add(curve *c, double x, const double values[CURVE_SERIES], bool marked) {
    curve_bucket entry = {.count = 1, .x_sum = x, .marked = marked};
    for (int i = 0; i < CURVE_SERIES; i++)
        if (isfinite(values[i])) entry.values[i] = (curve_value){1, values[i], values[i], values[i]};
    if (c->per_bucket == 0) c->per_bucket = 1;
    bool full = c->used == 0 || c->buckets[c->used - 1].count == c->per_bucket;
    if (full && c->used == CURVE_BUCKETS) {
        halve(c);
        full = c->buckets[c->used - 1].count == c->per_bucket;
    }
    if (full) c->buckets[c->used++] = entry;
    else merge(&c->buckets[c->used - 1], &entry);
}

double curve_x(const curve_bucket *b) { return b->x_sum / (double)b->count; }

double curve_mean(const curve_bucket *b, int series) {
    const curve_value *v = &b->values[series];
    return v->count > 0 ? v->sum / (double)v->count : (double)NAN;
}

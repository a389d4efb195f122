// What yxanul bench prints.
#pragma once
#include "coordinator/bench_comm.h"
#include "coordinator/bench_kernels.h"
#include "coordinator/bench_train.h"
#include <jansson.h>

void bench_print_text(const bench_train *b);
yx_status bench_print_json(const bench_train *b);
void bench_print_kernels_text(const bench_kernels *b);
yx_status bench_print_kernels_json(const bench_kernels *b);

// --- What both print
// "DEVICE: large products … TFLOP/s, copy … TB/s"
void bench_print_ceiling(const char *device, const profile_ceiling *c);
// {type: FLOP/s}
json_t *bench_print_rates(const profile_ceiling *c);
// Writes `out` as a line of its own and releases it; NULL: it could not be made.
yx_status bench_print_object(json_t *out);

void bench_print_comm_text(const bench_comm *b);
yx_status bench_print_comm_json(const bench_comm *b);

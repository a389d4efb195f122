// What yxanul bench train prints.
#pragma once
#include "coordinator/bench_train.h"

void bench_print_text(const bench_train *b);
yx_status bench_print_json(const bench_train *b);

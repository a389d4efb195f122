// What a backend's module exports: kernels_NAME(fail) returns its table. `fail` is the program's yx_fail_at: a module
// does not share the program's thread-local message. Private to kernels/.
#pragma once
#include "common/status.h"

typedef yx_status (*kernels_fail)(const char *file, int line, yx_status code, const char *format, ...);

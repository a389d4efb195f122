// UTF-8 validation.
#pragma once
#include <stddef.h>

// Offset of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7), or `size` when all are.
size_t corpus_utf8_check(const char *text, size_t size);

// Regular expressions written for Oniguruma (as the `tokenizers` library runs them), executed by PCRE2 with its JIT.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef struct regex regex; // immutable: any number of threads may search with it

// Translates and compiles a zero-terminated UTF-8 pattern. Refuses, naming it, what has no counterpart with the same
// meaning.
yx_status regex_compile(const char *pattern, regex **out);
// Compiles a pattern that matches `literal` itself.
yx_status regex_compile_literal(const char *literal, regex **out);
void regex_free(regex *r);
// The PCRE2 pattern that stands for an Oniguruma pattern; `*out` to free().
yx_status regex_translate(const char *pattern, char **out);

typedef struct regex_scratch regex_scratch; // one per thread, for any regex
yx_status regex_scratch_new(regex_scratch **out);
void regex_scratch_free(regex_scratch *s);

// The first match in `text` (valid UTF-8) at or behind byte `from`. Fails when the pattern takes too many steps.
yx_status regex_search(const regex *r, regex_scratch *s, const uint8_t *text, size_t size, size_t from, bool *found,
                       size_t *start, size_t *end);

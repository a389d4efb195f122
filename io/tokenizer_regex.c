#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/tokenizer_regex.h"
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MATCH_LIMIT = 10000000,    // steps before a match is given up: Oniguruma's own limit
    HEAP_LIMIT_KIB = 64 << 10, // for the interpreter, where there is no JIT
    JIT_STACK_START = 32 << 10,
    JIT_STACK_MAX = 8 << 20
};

struct regex {
    pcre2_code *code;
};

struct regex_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static yx_status compile_pcre(const char *pattern, const char *original, regex **out) {
    yx_status status = YX_OK;
    regex *r = calloc(1, sizeof *r);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!r || !context) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a regular expression");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error;
    PCRE2_SIZE where;
    r->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error,
                            &where, context);
    if (!r->code) {
        char message[256];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
        YX_FAIL(YX_ERR_DATA, "the regular expression '%s' does not compile: %s", original, message);
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); // without a JIT, pcre2_match interprets
    *out = r;
    r = NULL;
fail:
    pcre2_compile_context_free(context);
    regex_free(r);
    return status;
}

yx_status regex_compile(const char *pattern, regex **out) {
    char *translated;
    yx_status status = regex_translate(pattern, &translated);
    if (status != YX_OK) return status;
    status = compile_pcre(translated, pattern, out);
    free(translated);
    return status;
}

yx_status regex_compile_literal(const char *literal, regex **out) {
    size_t size = strlen(literal);
    char *escaped = malloc(size * 2 + 1);
    if (!escaped) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a regular expression");
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        if (strchr("\\.+*?()|[]{}^$", literal[i])) escaped[n++] = '\\';
        escaped[n++] = literal[i];
    }
    escaped[n] = 0;
    yx_status status = compile_pcre(escaped, literal, out);
    free(escaped);
    return status;
}

void regex_free(regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    free(r);
}

yx_status regex_scratch_new(regex_scratch **out) {
    regex_scratch *s = calloc(1, sizeof *s);
    if (!s) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a regular expression");
    s->data = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (!s->data || !s->context) {
        regex_scratch_free(s);
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for a regular expression");
    }
    pcre2_set_match_limit(s->context, MATCH_LIMIT);
    pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    if (s->stack) pcre2_jit_stack_assign(s->context, NULL, s->stack);
    *out = s;
    return YX_OK;
}

void regex_scratch_free(regex_scratch *s) {
    if (!s) return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    free(s);
}

yx_status regex_search(const regex *r, regex_scratch *s, const uint8_t *text, size_t size, size_t from, bool *found,
                       size_t *start, size_t *end) {
    int rc = pcre2_match(r->code, text, size, from, PCRE2_NO_UTF_CHECK, s->data, s->context);
    *found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(s->data);
        *start = pair[0], *end = pair[1];
    } else if (rc != PCRE2_ERROR_NOMATCH) {
        char message[256];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
        return yx_fail(YX_ERR_DATA, "the pre-tokenizer's regular expression gives up at byte %zu of the text: %s", from,
                       message);
    }
    return YX_OK;
}

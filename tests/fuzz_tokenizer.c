// libFuzzer target: any bytes as a tokenizer.json, which then encodes a text and decodes it again. The text is the part
// of the input behind the first zero byte, or a fixed one.
#include "common/log.h"
#include "io/tokenizer.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char fixed[] = "The 1234567 quick\u00a0brown foxes' <|endoftext|> don't jump \xf0\x9f\x98\x80 over\n\n "
                            "\xff 12\xc2\xb2 the the\tdogs. aaaaaaaa";

static void encode(const yx_tokenizer *t, const char *text, size_t size, tokenizer_flags flags) {
    tokenizer_scratch *s;
    const uint32_t *ids;
    size_t count, decoded_size;
    char *decoded;
    if (tokenizer_scratch_new(t, &s) != YX_OK) abort();
    if (tokenizer_encode(t, s, text, size, flags, &ids, &count) == YX_OK) {
        for (size_t i = 0; i < count; i++)
            if (ids[i] >= tokenizer_vocab_size(t)) abort();
        if (tokenizer_decode(t, ids, count, false, &decoded, &decoded_size) != YX_OK) abort();
        free(decoded);
    }
    tokenizer_scratch_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    yx_tokenizer *t;
    yx_log_setup(YX_LOG_ERROR, -1);
    const uint8_t *zero = size > 0 ? memchr(data, 0, size) : NULL;
    size_t json = zero ? (size_t)(zero - data) : size;
    if (tokenizer_load_memory((const char *)data, json, "fuzz", &t) != YX_OK) return 0;
    if (zero) encode(t, (const char *)zero + 1, size - json - 1, TOKENIZER_DEFAULT);
    encode(t, fixed, sizeof fixed - 1, TOKENIZER_DEFAULT);
    encode(t, fixed, sizeof fixed - 1, TOKENIZER_NO_SPECIAL);
    tokenizer_free(t);
    return 0;
}

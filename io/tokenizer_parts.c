#include "io/tokenizer_parts.h"
#include "common/hash.h"
#include <stdlib.h>
#include <string.h>

enum { FIRST_MOVED = 256, N_MOVED = 68 }; // bytes without a printable character of their own follow from U+0100

static bool is_printable(int c) {
    return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

uint32_t byte_to_char(uint8_t byte) {
    if (is_printable(byte)) return byte;
    uint32_t moved = FIRST_MOVED;
    for (int c = 0; c < byte; c++) moved += !is_printable(c);
    return moved;
}

int char_to_byte(uint32_t code) {
    if (code < FIRST_MOVED) return is_printable((int)code) ? (int)code : -1;
    if (code >= FIRST_MOVED + N_MOVED) return -1;
    uint32_t i = code - FIRST_MOVED; // the printable stretches lie between 0-32, 127-160 and 173
    return i <= 32 ? (int)i : i < 67 ? (int)(i - 33 + 127) : 173;
}

void parts_free(tokenizer_parts *parts) {
    token_table_free(&parts->tokens);
    free(parts->merges);
    split_plan_free(parts->plan);
    added_free(&parts->added);
    *parts = (tokenizer_parts){0};
}

// --- Identity --------------------------------------------------------------------------------------------------------

// Numbers go in as 32-bit little-endian words.
typedef struct digest_buffer {
    uint8_t *data;
    size_t size;
} digest_buffer;

static void put_word(digest_buffer *b, uint64_t value) {
    for (int i = 0; i < 4; i++) b->data[b->size++] = (uint8_t)(value >> (8 * i));
}

static void put_bytes(digest_buffer *b, const void *data, size_t size) {
    put_word(b, size);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static size_t digest_size(const tokenizer_parts *parts, size_t description) {
    size_t size = 64 + description;
    for (uint32_t i = 0; i < parts->tokens.size; i++) size += 12 + token_size(&parts->tokens, i);
    for (size_t i = 0; i < parts->added.count; i++) size += 12 + parts->added.tokens[i].size;
    return size + parts->n_merges * 12;
}

static void put_added(digest_buffer *b, const added_set *added) {
    put_word(b, added->count);
    for (size_t i = 0; i < added->count; i++) {
        const added_token *a = &added->tokens[i];
        put_word(b, a->id);
        put_word(b, (uint64_t)a->special | (uint64_t)a->normalized << 1 | (uint64_t)a->single_word << 2 |
                        (uint64_t)a->lstrip << 3 | (uint64_t)a->rstrip << 4);
        put_bytes(b, a->content, a->size);
    }
}

yx_status parts_sha256(const tokenizer_parts *parts, char hex[65]) {
    static const char title[] = "yxanul tokenizer 1";
    yx_status status = YX_OK;
    char *description = NULL;
    digest_buffer b = {0};
    YX_CHECK(split_describe(parts->plan, &description));
    b.data = malloc(digest_size(parts, strlen(description)));
    if (!b.data) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a tokenizer's digest");
    put_bytes(&b, title, strlen(title));
    put_bytes(&b, description, strlen(description));
    put_word(&b, parts->ignore_merges);
    put_word(&b, parts->tokens.size);
    for (uint32_t i = 0; i < parts->tokens.size; i++) {
        put_word(&b, parts->tokens.is_text[i]);
        put_bytes(&b, token_bytes(&parts->tokens, i), token_size(&parts->tokens, i));
    }
    put_word(&b, parts->n_merges);
    for (size_t i = 0; i < parts->n_merges; i++) {
        put_word(&b, parts->merges[i].left);
        put_word(&b, parts->merges[i].right);
        put_word(&b, parts->merges[i].result);
    }
    put_added(&b, &parts->added);
    YX_CHECK(yx_sha256(b.data, b.size, hex));
fail:
    free(description);
    free(b.data);
    return status;
}

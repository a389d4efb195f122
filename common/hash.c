#include "common/hash.h"
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL // for the vectors of the processor this is compiled for
#include <xxhash.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

static void to_hex(const unsigned char digest[32], char hex[YX_SHA256_HEX]) {
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

yx_status yx_sha256(const void *data, size_t size, char hex[YX_SHA256_HEX]) {
    unsigned char digest[32];
    if (!EVP_Digest(data, size, digest, NULL, EVP_sha256(), NULL)) return yx_fail(YX_ERR_INTERNAL, "SHA-256 failed");
    to_hex(digest, hex);
    return YX_OK;
}

yx_status yx_digest_begin(yx_digest *d) {
    d->context = EVP_MD_CTX_new();
    if (!d->context || !EVP_DigestInit_ex(d->context, EVP_sha256(), NULL))
        return yx_fail(YX_ERR_INTERNAL, "SHA-256 failed");
    return YX_OK;
}

yx_status yx_digest_add(yx_digest *d, const void *data, size_t size) {
    return EVP_DigestUpdate(d->context, data, size) ? YX_OK : yx_fail(YX_ERR_INTERNAL, "SHA-256 failed");
}

yx_status yx_digest_end(yx_digest *d, char hex[YX_SHA256_HEX]) {
    unsigned char digest[32];
    if (!EVP_DigestFinal_ex(d->context, digest, NULL)) return yx_fail(YX_ERR_INTERNAL, "SHA-256 failed");
    to_hex(digest, hex);
    return YX_OK;
}

void yx_digest_free(yx_digest *d) {
    EVP_MD_CTX_free(d->context);
    d->context = NULL;
}

yx_status yx_sha256_file(const char *path, char hex[YX_SHA256_HEX]) {
    yx_status status = YX_OK;
    static const size_t piece = 1 << 16;
    unsigned char buffer[1 << 16];
    yx_digest digest = {0};
    FILE *file = fopen(path, "rb");
    if (!file) {
        status = yx_fail_errno("cannot open %s", path);
        goto fail;
    }
    YX_CHECK(yx_digest_begin(&digest));
    for (size_t got; (got = fread(buffer, 1, piece, file)) > 0;) YX_CHECK(yx_digest_add(&digest, buffer, got));
    if (ferror(file)) {
        status = yx_fail_errno("cannot read %s", path);
        goto fail;
    }
    YX_CHECK(yx_digest_end(&digest, hex));
fail:
    if (file) fclose(file);
    yx_digest_free(&digest);
    return status;
}

// CRC-32C, polynomial 0x1EDC6F41 reflected, eight bytes a step by tables ("slicing by 8").
static uint32_t crc_table[8][256];
static uint32_t (*crc_update)(uint32_t c, const unsigned char *p, size_t size);
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static uint32_t crc_by_table(uint32_t c, const unsigned char *p, size_t size) {
    for (; size >= 8; size -= 8, p += 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = crc_table[7][c & 0xff] ^ crc_table[6][(c >> 8) & 0xff] ^ crc_table[5][(c >> 16) & 0xff] ^
            crc_table[4][c >> 24] ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^ crc_table[1][p[6]] ^ crc_table[0][p[7]];
    }
    while (size--) c = (c >> 8) ^ crc_table[0][(c ^ *p++) & 0xff];
    return c;
}

#ifdef __x86_64__
// SSE 4.2 has an instruction for this very polynomial.
__attribute__((target("sse4.2"))) static uint32_t crc_by_instruction(uint32_t c, const unsigned char *p, size_t size) {
    uint64_t wide = c, word;
    for (; size >= sizeof word; size -= sizeof word, p += sizeof word) {
        memcpy(&word, p, sizeof word);
        wide = _mm_crc32_u64(wide, word);
    }
    c = (uint32_t)wide;
    while (size--) c = _mm_crc32_u8(c, *p++);
    return c;
}
#endif

static void choose_crc(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? (c >> 1) ^ 0x82F63B78u : c >> 1;
        crc_table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++)
            crc_table[t][i] = (crc_table[t - 1][i] >> 8) ^ crc_table[0][crc_table[t - 1][i] & 0xff];
    crc_update = crc_by_table;
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2")) crc_update = crc_by_instruction;
#endif
}

uint32_t yx_crc32c(uint32_t crc, const void *data, size_t size) {
    pthread_once(&crc_once, choose_crc);
    return ~crc_update(~crc, data, size);
}

uint32_t yx_crc32c_portable(uint32_t crc, const void *data, size_t size) {
    pthread_once(&crc_once, choose_crc);
    return ~crc_by_table(~crc, data, size);
}

uint64_t yx_hash64(const void *data, size_t size, uint64_t seed) { return XXH3_64bits_withSeed(data, size, seed); }

// Digests: SHA-256 for identity (tokenizer, shard, config), CRC-32C for blocks of stored data, XXH3 for hash tables.
#pragma once
#include "common/status.h"
#include <stdint.h>

enum { YX_SHA256_HEX = 65 }; // 64 hexadecimal digits and the terminating zero

yx_status yx_sha256(const void *data, size_t size, char hex[YX_SHA256_HEX]);
yx_status yx_sha256_file(const char *path, char hex[YX_SHA256_HEX]);
// SHA-256 of what comes in pieces; to be freed also when one of them failed.
typedef struct yx_digest { // {0} is nothing to free
    void *context;
} yx_digest;
yx_status yx_digest_begin(yx_digest *d);
yx_status yx_digest_add(yx_digest *d, const void *data, size_t size);
yx_status yx_digest_end(yx_digest *d, char hex[YX_SHA256_HEX]);
void yx_digest_free(yx_digest *d);
// CRC-32C (Castagnoli) of `data`, continuing from `crc` (0 to start).
uint32_t yx_crc32c(uint32_t crc, const void *data, size_t size);
// The same without the processor's instruction for it, which yx_crc32c uses where there is one.
uint32_t yx_crc32c_portable(uint32_t crc, const void *data, size_t size);
uint64_t yx_hash64(const void *data, size_t size, uint64_t seed);

// libFuzzer target: any bytes as a shard file.
#include "common/log.h"
#include "io/shard_file.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// HDF5 1.10 itself loses 424 bytes for each damaged object header it refuses.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static void read_all(const shard_file *f) {
    enum { PIECE = 4096 };
    static uint32_t tokens[PIECE];
    char sha256[YX_SHA256_HEX];
    if (shard_file_verify(f, sha256) != YX_OK) return;
    for (int64_t at = 0; at < f->num_tokens; at += PIECE) {
        int64_t n = f->num_tokens - at < PIECE ? f->num_tokens - at : PIECE;
        if (shard_file_read_tokens(f, at, n, tokens) != YX_OK) abort(); // verified above
        for (int64_t i = 0; i < n; i++)
            if (tokens[i] >= f->vocab_size) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    shard_file f;
    char path[64];
    // A file with a name: HDF5 wants the real path.
    snprintf(path, sizeof path, "/tmp/yx-fuzz-shard-%d.h5", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    close(fd);
    if (shard_file_open(path, &f) == YX_OK) read_all(&f);
    shard_file_close(&f);
    unlink(path);
    return 0;
}

// libFuzzer target: any bytes as a corpus file. The first byte chooses JSON lines or a text file.
#include "common/log.h"
#include "io/corpus.h"
#include "io/corpus_utf8.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const char *path) {
    corpus_options options = {.max_line_bytes = 4096};
    corpus *c;
    corpus_document doc;
    if (corpus_open(&path, 1, &options, &c) != YX_OK) abort();
    while (corpus_next(c, &doc) == YX_OK && doc.text) {
        if (strlen(doc.text) != doc.size || doc.size > 4096) abort();
        if (corpus_utf8_check(doc.text, doc.size) != doc.size) abort();
        if (doc.id && !doc.id[0]) abort();
        if (doc.line < 1 || doc.token_count < -1) abort();
    }
    corpus_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    yx_log_setup(YX_LOG_ERROR, -1);
    if (size < 1) return 0;
    int fd = memfd_create("corpus", 0);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1)) abort();
    // The name of the link decides the kind of file.
    char target[64], path[64];
    snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
    snprintf(path, sizeof path, "/tmp/yx-fuzz-corpus-%d.%s", (int)getpid(), data[0] & 1 ? "txt" : "jsonl");
    unlink(path);
    if (symlink(target, path) != 0) abort();
    read_all(path);
    unlink(path);
    close(fd);
    return 0;
}

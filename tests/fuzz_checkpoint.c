// Any bytes as a checkpoint's manifest and state: refused or read, never a crash. The first two bytes say how long the
// manifest is.
#include "io/checkpoint.h"
#include "common/file.h"
#include "common/log.h"
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; } // 1.10 leaks where it refuses a damaged header

static void write_file(const char *folder, const char *name, const uint8_t *data, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file) abort();
    fwrite(data, 1, size, file);
    fclose(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char folder[] = "/tmp/yxanul-fuzz-checkpoint-XXXXXX";
    static bool made;
    checkpoint *c;
    if (size < 2) return 0;
    if (!made && !mkdtemp(folder)) abort();
    made = true;
    yx_log_setup(YX_LOG_ERROR, -1);
    size_t manifest = (size_t)(data[0] << 8 | data[1]);
    if (manifest > size - 2) manifest = size - 2;
    write_file(folder, "manifest.json", data + 2, manifest);
    write_file(folder, "state.h5", data + 2 + manifest, size - 2 - manifest);
    if (checkpoint_open(folder, &c) == YX_OK) checkpoint_close(c);
    return 0;
}

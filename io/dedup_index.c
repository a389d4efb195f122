#include "io/dedup.h"
#include "io/dedup_set.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENTRY = DEDUP_BANDS * sizeof(uint64_t) };

struct dedup_index {
    char *path;
    FILE *file;
    int64_t documents;
    dedup_set seen; // of all bands: the hash of a band depends on its number
};

static yx_status remember(dedup_index *d, const uint64_t bands[DEDUP_BANDS]) {
    yx_status status = YX_OK;
    for (int b = 0; b < DEDUP_BANDS && status == YX_OK; b++) status = dedup_set_add(&d->seen, bands[b], NULL);
    d->documents += status == YX_OK;
    return status;
}

static yx_status read_entries(dedup_index *d, int64_t documents) {
    uint64_t bands[DEDUP_BANDS];
    while (d->documents < documents) {
        if (fread(bands, ENTRY, 1, d->file) != 1)
            return yx_fail(YX_ERR_DATA, "%s has only %lld documents instead of %lld", d->path, (long long)d->documents,
                           (long long)documents);
        yx_status status = remember(d, bands);
        if (status != YX_OK) return status;
    }
    if (ftruncate(fileno(d->file), documents * ENTRY) != 0 || fseek(d->file, 0, SEEK_END) != 0)
        return yx_fail_errno("cannot shorten %s", d->path);
    return YX_OK;
}

yx_status dedup_index_open(const char *path, int64_t documents, dedup_index **out) {
    yx_status status = YX_OK;
    dedup_index *d = calloc(1, sizeof *d);
    if (!d || !(d->path = strdup(path))) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    d->file = fopen(path, documents > 0 ? "r+be" : "w+be");
    if (!d->file) {
        status = yx_fail_errno("cannot open %s", path);
        goto fail;
    }
    YX_CHECK(read_entries(d, documents));
    *out = d;
    return YX_OK;
fail:
    dedup_index_close(d);
    return status;
}

void dedup_index_close(dedup_index *d) {
    if (!d) return;
    if (d->file) fclose(d->file);
    dedup_set_free(&d->seen);
    free(d->path);
    free(d);
}

bool dedup_index_has(const dedup_index *d, const uint64_t bands[DEDUP_BANDS]) {
    for (int b = 0; b < DEDUP_BANDS; b++)
        if (dedup_set_has(&d->seen, bands[b])) return true;
    return false;
}

yx_status dedup_index_add(dedup_index *d, const uint64_t bands[DEDUP_BANDS]) {
    if (fwrite(bands, ENTRY, 1, d->file) != 1) return yx_fail_errno("cannot write %s", d->path);
    return remember(d, bands);
}

yx_status dedup_index_sync(dedup_index *d, int64_t *documents) {
    if (fflush(d->file) != 0 || fsync(fileno(d->file)) != 0) return yx_fail_errno("cannot write %s", d->path);
    *documents = d->documents;
    return YX_OK;
}

// Full shards are finished (checksums, fsync, reading back, digest) by a thread while the next ones are being filled;
// then the state of the partial folder names them.
#pragma once
#include "io/prepare_state.h"
#include "io/shard.h"
#include <pthread.h>

typedef struct prepare_finish { // {0}: nothing is being finished
    bool busy, threaded;
    pthread_t thread;
    const char *folder;                    // borrowed
    shard_writer *writer[MANIFEST_SPLITS]; // NULL: no shard of that split
    bool has[MANIFEST_SPLITS];
    manifest_shard entry[MANIFEST_SPLITS]; // file and counts on the way in
    json_t *state;                         // gets the entries, is written, and is freed
    yx_status status;
    char message[2048], origin[256];
} prepare_finish;

// Takes over what `f` holds (its folder, writers, entries, state); `f` must not be busy.
void prepare_finish_start(prepare_finish *f);
// Waits; appends the finished shards to `splits`. Nothing when `f` is not busy.
yx_status prepare_finish_wait(prepare_finish *f, manifest_split splits[MANIFEST_SPLITS]);

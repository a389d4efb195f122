#include "io/prepare_finish.h"
#include "common/file.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Shards never change: nobody may write to them any more.
static yx_status seal(const char *path, manifest_shard *entry) {
    struct stat info;
    yx_status status = YX_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0 || fchmod(fd, info.st_mode & 0444) != 0) {
        status = yx_fail_errno("cannot seal %s", path);
        goto fail;
    }
    entry->file_bytes = info.st_size;
fail:
    if (fd >= 0) close(fd);
    return status;
}

static yx_status finish_shard(prepare_finish *f, int split) {
    yx_status status = YX_OK;
    char *path = NULL;
    shard_writer *w = f->writer[split];
    f->writer[split] = NULL;
    YX_CHECK(shard_writer_close(w, f->entry[split].sha256));
    YX_CHECK(yx_format(&path, "%s/%s", f->folder, f->entry[split].file));
    YX_CHECK(seal(path, &f->entry[split]));
    json_t *list = json_object_get(json_object_get(f->state, "splits"), manifest_split_name(split));
    if (json_array_append_new(list, prepare_state_shard_to_json(&f->entry[split])) != 0)
        YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the state of %s", f->folder);
fail:
    free(path);
    return status;
}

static yx_status finish(prepare_finish *f) {
    yx_status status = YX_OK;
    for (int i = 0; i < MANIFEST_SPLITS && status == YX_OK; i++)
        if (f->has[i]) status = finish_shard(f, i);
    if (status == YX_OK) status = prepare_state_write(f->folder, f->state);
    return status;
}

static void *work(void *arg) {
    prepare_finish *f = arg;
    f->status = finish(f);
    if (f->status != YX_OK) {
        snprintf(f->message, sizeof f->message, "%s", yx_message());
        snprintf(f->origin, sizeof f->origin, "%s", yx_message_origin());
    }
    return NULL;
}

void prepare_finish_start(prepare_finish *f) {
    sigset_t all, before;
    for (int i = 0; i < MANIFEST_SPLITS; i++) f->has[i] = f->writer[i] != NULL;
    f->busy = true;
    sigfillset(&all); // signals are for the main thread
    pthread_sigmask(SIG_SETMASK, &all, &before);
    f->threaded = pthread_create(&f->thread, NULL, work, f) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!f->threaded) work(f);
}

yx_status prepare_finish_wait(prepare_finish *f, manifest_split splits[MANIFEST_SPLITS]) {
    if (!f->busy) return YX_OK;
    if (f->threaded) pthread_join(f->thread, NULL);
    yx_status status = f->status;
    if (status != YX_OK) yx_set_message(f->message, f->origin);
    for (int i = 0; i < MANIFEST_SPLITS; i++) {
        shard_writer_abort(f->writer[i]);
        if (f->has[i] && status == YX_OK) status = manifest_add_shard(&splits[i], &f->entry[i]);
    }
    json_decref(f->state);
    memset(f, 0, sizeof *f);
    return status;
}

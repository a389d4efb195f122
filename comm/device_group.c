#include "comm/device_group.h"
#include "comm/device_module.h"
#include "comm/module.h"
#include "common/log.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECONDS_TO_END = 30 }; // after a failure

struct device_group {
    yx_group *group;
    const device_module *module;
    void *comm;
    bool direct;
    bool aborted;
    pthread_t leaving;
};

// --- Which GPUs
typedef struct device_place {
    char node[64], name[128];
    int32_t device;
    int32_t loaded; // NCCL's module is here
    int32_t direct; // the GPU reads the memory of all others on this host
} device_place;

static yx_status judge(const device_place *all, int size) {
    for (int r = 1; r < size; r++) {
        if (strcmp(all[r].name, all[0].name) != 0)
            return yx_fail(
                YX_ERR_UNAVAILABLE,
                "rank 0 has a %s (GPU %d of %s), rank %d a %s (GPU %d of %s): the ranks of a run need GPUs of "
                "one kind",
                all[0].name, all[0].device, all[0].node, r, all[r].name, all[r].device, all[r].node);
        for (int q = 0; q < r; q++)
            if (all[q].device == all[r].device && strcmp(all[q].node, all[r].node) == 0)
                return yx_fail(YX_ERR_UNAVAILABLE,
                               "ranks %d and %d are both on GPU %d (%s) of %s: start one rank for each GPU", q, r,
                               all[r].device, all[r].name, all[r].node);
    }
    return YX_OK;
}

// Whether this rank's GPU and those of the other ranks on its host read each other's memory.
static bool reaches_all(const device_module *module, const device_place *all, int size, int rank) {
    for (int r = 0; r < size; r++)
        if (r != rank && strcmp(all[r].node, all[rank].node) == 0 && !module->reaches(all[rank].device, all[r].device))
            return false;
    return true;
}

static yx_status compare_places(yx_group *g, int device, const char *name, const device_module *module,
                                bool *all_loaded, bool *all_direct) {
    int size = group_size(g);
    device_place *all = calloc((size_t)size, sizeof *all), *own = all ? all + group_rank(g) : NULL;
    if (!all) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %d ranks", size);
    snprintf(own->node, sizeof own->node, "%.60s", group_node(g));
    snprintf(own->name, sizeof own->name, "%s", name);
    own->device = device, own->loaded = module != NULL;
    yx_status status = group_all_gather(g, all, sizeof *all);
    if (status == YX_OK) status = judge(all, size);
    *all_loaded = *all_direct = true;
    for (int r = 0; r < size; r++) *all_loaded = *all_loaded && all[r].loaded;
    if (status == YX_OK && *all_loaded) {
        own->direct = reaches_all(module, all, size, group_rank(g));
        status = group_all_gather(g, all, sizeof *all);
    }
    for (int r = 0; r < size; r++) *all_direct = *all_direct && all[r].direct;
    free(all);
    return status;
}

// --- Joining
static const device_module *load(void) {
    void *library = module_open_library("yxanul_nccl.so");
    device_module_entry entry = NULL;
    if (library) *(void **)&entry = module_symbol(library, DEVICE_MODULE_SYMBOL);
    const device_module *module = entry ? entry(yx_fail_at) : NULL;
    return module && module->version == DEVICE_MODULE_VERSION ? module : NULL;
}

yx_status device_group_open(yx_group *g, int device, const char *name, int blocks, device_group **out) {
    yx_status status = YX_OK;
    char id[DEVICE_ID_BYTES] = "";
    bool all_loaded = false, direct = false;
    *out = NULL;
    if (group_size(g) == 1) return YX_OK;
    const device_module *module = load();
    YX_CHECK(compare_places(g, device, name, module, &all_loaded, &direct));
    if (!all_loaded) {
        if (group_rank(g) == 0)
            yx_warn("NCCL is not available on all ranks (%s): gradients are summed by the hosts, which is far slower",
                    module ? "on another" : module_load_error());
        return YX_OK;
    }
    device_group *d = calloc(1, sizeof *d);
    if (!d) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a group of GPUs");
    *d = (device_group){.group = g, .module = module, .direct = direct};
    status = group_rank(g) == 0 ? module->make_id(id) : YX_OK;
    status = group_agree(g, status);
    if (status == YX_OK) status = group_broadcast(g, id, sizeof id, 0);
    if (status == YX_OK)
        status = group_agree(g, module->join(id, group_rank(g), group_size(g), device, blocks, &d->comm));
    if (status == YX_OK) *out = d;
    else free(d);
fail:
    return status;
}

void device_group_close(device_group *d) {
    if (!d) return;
    bool together = group_failed_rank(d->group) < 0 && !group_is_broken(d->group);
    if (!together) device_group_fail(d, YX_ERR_COMM); // leaving orderly takes all
    if (d->aborted) pthread_join(d->leaving, NULL);
    else d->module->leave(d->comm);
    free(d);
}

const char *device_group_library(const device_group *d) { return d->module->library(); }
bool device_group_direct(const device_group *d) { return d->direct; }

yx_status device_group_all_reduce(device_group *d, void *data, size_t count, group_type type, group_op op,
                                  void *stream) {
    return d->module->all_reduce(d->comm, data, count, type, op, stream);
}
yx_status device_group_reduce_scatter(device_group *d, void *data, size_t count_each, group_type type, void *stream) {
    return d->module->reduce_scatter(d->comm, group_rank(d->group), data, count_each, type, stream);
}
yx_status device_group_all_gather(device_group *d, void *data, size_t bytes_each, void *stream) {
    return d->module->all_gather(d->comm, group_rank(d->group), data, bytes_each, stream);
}

// --- Failure
// In a thread of its own: the exchanges under way end at once, but it returns only when the graphs that recorded some
// are gone, which their owner destroys as it ends.
static void *abort_comm(void *argument) {
    device_group *d = argument;
    d->module->abort(d->comm);
    return NULL;
}

typedef struct last_words {
    yx_group *group;
    yx_status status;
    char message[1024];
    pthread_t thread;
} last_words;
static void *end_in_time(void *argument) {
    last_words *w = argument;
    sleep(SECONDS_TO_END);
    yx_error("%s (ended by force: the GPU did not come to rest)", w->message);
    group_abort(w->group, (int)w->status);
    return NULL;
}

void device_group_fail(device_group *d, yx_status status) {
    last_words *w = d->aborted ? NULL : calloc(1, sizeof *w); // for as long as the process lives
    if (d->aborted) return;
    if (w) {
        *w = (last_words){.group = d->group, .status = status};
        snprintf(w->message, sizeof w->message, "%s", yx_message());
        if (pthread_create(&w->thread, NULL, end_in_time, w) == 0) pthread_detach(w->thread);
    }
    d->aborted = pthread_create(&d->leaving, NULL, abort_comm, d) == 0;
}

yx_status device_group_check(device_group *d) {
    yx_status status = d->module->check(d->comm);
    if (status == YX_OK) status = group_check(d->group);
    if (status != YX_OK) device_group_fail(d, status); // what is queued would wait for ever
    return status;
}

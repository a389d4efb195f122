// Twins on the device of a test's tensors: uploaded before an operation, downloaded after it. Arguments are written
// with host pointers, as for the CPU, and translated.
#pragma once

typedef struct twin {
    char *host;
    void *device;
    size_t bytes;
} twin;
static twin twins[256];
static int num_twins;

static inline void *take_memory(size_t bytes) {
    assert_true(num_twins < 256);
    twin *t = &twins[num_twins++];
    *t = (twin){.host = malloc(bytes), .bytes = bytes};
    ok(ops->alloc(devices[0], bytes, &t->device));
    return t->host;
}
static inline void release_memory(void *p) {
    for (int i = 0; i < num_twins; i++) {
        if (twins[i].host != p) continue;
        ops->free(devices[0], twins[i].device);
        free(p);
        twins[i] = twins[--num_twins];
        return;
    }
    fail_msg("%p is not a tensor of this test", p);
}

static inline void gpu_upload(yx_device *d) {
    for (int i = 0; i < num_twins; i++) ok(ops->copy(d, NULL, twins[i].device, twins[i].host, twins[i].bytes));
}
static inline void gpu_download(yx_device *d) {
    for (int i = 0; i < num_twins; i++) ok(ops->copy(d, NULL, twins[i].host, twins[i].device, twins[i].bytes));
    ok(ops->stream_sync(d, NULL));
}

// The device address that stands for a host address inside a tensor; others stay as they are.
static inline void *gpu_address(const void *p) {
    for (int i = 0; i < num_twins; i++)
        if ((const char *)p >= twins[i].host && (const char *)p < twins[i].host + twins[i].bytes)
            return (char *)twins[i].device + ((const char *)p - twins[i].host);
    return (void *)p;
}
// Replaces every pointer into a tensor in a structure of arguments (whose pointers are aligned, as C lays them out).
static inline void gpu_translate(void *arguments, size_t bytes) {
    for (size_t at = 0; at + sizeof(void *) <= bytes; at += sizeof(void *)) {
        void *p;
        memcpy(&p, (char *)arguments + at, sizeof p);
        p = gpu_address(p);
        memcpy((char *)arguments + at, &p, sizeof p);
    }
}

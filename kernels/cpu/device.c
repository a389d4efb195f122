// Memory, streams, events and the table. Operations run at once, so a stream holds nothing and an event is a time.
#include "kernels/cpu/cpu.h"
#include <omp.h>
#include <stdlib.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

struct yx_stream {
    const yx_device *device;
};
struct yx_event {
    struct timespec when;
};

static yx_status cpu_open(int index, const yx_device_options *options, yx_device **out) {
    (void)options; // one way of doing things, and a deterministic one
    if (index != 0) return yx_fail(YX_ERR_UNAVAILABLE, "cpu device %d does not exist; the only one is 0", index);
    yx_device *d = calloc(1, sizeof *d);
    if (!d) return yx_fail(YX_ERR_NO_MEMORY, "cpu device: out of memory");
    d->threads = omp_get_max_threads();
    *out = d;
    return YX_OK;
}

static void cpu_close(yx_device *d) { free(d); }

static void processor_name(char *out, size_t size) {
    snprintf(out, size, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    char line[256], *colon;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "model name", 10) != 0 || !(colon = strchr(line, ':'))) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    fclose(f);
}

static yx_status cpu_info(yx_device *d, yx_device_info *out) {
    (void)d;
    int64_t page = sysconf(_SC_PAGESIZE);
    *out = (yx_device_info){.memory_total = page * sysconf(_SC_PHYS_PAGES),
                            .memory_free = page * sysconf(_SC_AVPHYS_PAGES),
                            .eight_bit = true};
    processor_name(out->name, sizeof out->name);
    return YX_OK;
}

static yx_status cpu_alloc(yx_device *d, size_t bytes, void **out) {
    (void)d;
    *out = NULL;
    if (bytes > SIZE_MAX - 256) return yx_fail(YX_ERR_NO_MEMORY, "cpu: %zu bytes are more than there can be", bytes);
    *out = aligned_alloc(256, bytes ? (bytes + 255) & ~(size_t)255 : 256);
    if (!*out) return yx_fail(YX_ERR_NO_MEMORY, "cpu: no %.1f MiB of memory left", (double)bytes / 1048576);
    return YX_OK;
}

static void cpu_free(yx_device *d, void *p) {
    (void)d;
    free(p);
}

static yx_status cpu_copy(yx_device *d, yx_stream *s, void *dst, const void *src, size_t bytes) {
    (void)d, (void)s;
    if (bytes) memmove(dst, src, bytes);
    return YX_OK;
}

static yx_status cpu_zero(yx_device *d, yx_stream *s, void *dst, size_t bytes) {
    (void)s;
    const int64_t piece = 1 << 20, pieces = cpu_ceil_div((int64_t)bytes, piece);
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t i = 0; i < pieces; i++)
        memset((char *)dst + i * piece, 0, (size_t)cpu_min(piece, (int64_t)bytes - i * piece));
    return YX_OK;
}

static yx_status cpu_stream_create(yx_device *d, yx_stream **out) {
    *out = malloc(sizeof **out);
    if (!*out) return yx_fail(YX_ERR_NO_MEMORY, "cpu stream: out of memory");
    (*out)->device = d;
    return YX_OK;
}
static void cpu_stream_destroy(yx_device *d, yx_stream *s) {
    (void)d;
    free(s);
}
static yx_status cpu_stream_sync(yx_device *d, yx_stream *s) {
    (void)d, (void)s;
    return YX_OK;
}

static void *cpu_native_stream(yx_device *d, yx_stream *s) {
    (void)d, (void)s;
    return NULL;
}
static yx_status cpu_event_done(yx_device *d, yx_event *e, bool *done) {
    (void)d, (void)e;
    *done = true;
    return YX_OK;
}

static yx_status cpu_clock(yx_device *d, yx_stream *s, int64_t *sum, int sign) {
    (void)d, (void)s;
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t)) return yx_fail_errno("clock_gettime");
    *sum += sign * ((int64_t)t.tv_sec * 1000000000 + t.tv_nsec);
    return YX_OK;
}

static yx_status cpu_event_create(yx_device *d, yx_event **out) {
    (void)d;
    *out = calloc(1, sizeof **out);
    return *out ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "cpu event: out of memory");
}
static void cpu_event_destroy(yx_device *d, yx_event *e) {
    (void)d;
    free(e);
}
static yx_status cpu_event_record(yx_device *d, yx_event *e, yx_stream *s) {
    (void)d, (void)s;
    if (clock_gettime(CLOCK_MONOTONIC, &e->when)) return yx_fail_errno("clock_gettime");
    return YX_OK;
}
static yx_status cpu_event_sync(yx_device *d, yx_event *e) {
    (void)d, (void)e;
    return YX_OK;
}
static yx_status cpu_event_seconds(yx_device *d, yx_event *begin, yx_event *end, double *seconds) {
    (void)d;
    *seconds =
        (double)(end->when.tv_sec - begin->when.tv_sec) + 1e-9 * (double)(end->when.tv_nsec - begin->when.tv_nsec);
    return YX_OK;
}
static yx_status cpu_stream_wait(yx_device *d, yx_stream *s, yx_event *e) {
    (void)d, (void)s, (void)e;
    return YX_OK;
}

static size_t cpu_workspace_size(const yx_device *d, const yx_workspace_query *q) {
    size_t sizes[] = {cpu_matmul_workspace(q), cpu_norm_workspace(q), cpu_attention_workspace(d, q),
                      cpu_head_workspace(d, q)};
    size_t largest = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) largest = sizes[i] > largest ? sizes[i] : largest;
    return largest;
}

static void cpu_set_workspace(yx_device *d, void *workspace, size_t bytes) {
    d->workspace = workspace;
    d->workspace_bytes = workspace ? bytes : 0;
}

yx_status cpu_check_workspace(const yx_device *d, size_t need, const char *who) {
    if (need <= d->workspace_bytes) return YX_OK;
    return yx_fail(YX_ERR_INTERNAL,
                   "%s: needs %zu bytes of workspace, has %zu; the shapes exceed those it was sized for", who, need,
                   d->workspace_bytes);
}

const yx_ops *kernels_cpu(void) {
    static const yx_ops ops = {.name = "cpu",
                               .host_memory = true,
                               .open = cpu_open,
                               .close = cpu_close,
                               .info = cpu_info,
                               .alloc = cpu_alloc,
                               .free = cpu_free,
                               .alloc_host = cpu_alloc,
                               .free_host = cpu_free,
                               .copy = cpu_copy,
                               .zero = cpu_zero,
                               .stream_create = cpu_stream_create,
                               .stream_destroy = cpu_stream_destroy,
                               .stream_sync = cpu_stream_sync,
                               .native_stream = cpu_native_stream,
                               .event_done = cpu_event_done,
                               .clock = cpu_clock,
                               .event_create = cpu_event_create,
                               .event_destroy = cpu_event_destroy,
                               .event_record = cpu_event_record,
                               .event_sync = cpu_event_sync,
                               .event_seconds = cpu_event_seconds,
                               .stream_wait = cpu_stream_wait,
                               .workspace_size = cpu_workspace_size,
                               .set_workspace = cpu_set_workspace,
                               .matmul = cpu_matmul,
                               .embed = cpu_embed,
                               .embed_backward = cpu_embed_backward,
                               .norm = cpu_norm,
                               .norm_backward = cpu_norm_backward,
                               .rope = cpu_rope,
                               .attention = cpu_attention,
                               .attention_backward = cpu_attention_backward,
                               .swiglu = cpu_swiglu,
                               .swiglu_backward = cpu_swiglu_backward,
                               .head = cpu_head,
                               .head_backward = cpu_head_backward,
                               .sum_squares = cpu_sum_squares,
                               .clip = cpu_clip,
                               .adamw = cpu_adamw,
                               .scales = cpu_scales,
                               .cast = cpu_cast};
    return &ops;
}

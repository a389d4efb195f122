// The device: memory, copies, streams, events, graphs, and the table.
#include "kernels/cuda/cuda.cuh"
#include "kernels/module.h"
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// --- Failures. The module does not share the program's thread-local message: it is handed over.
static kernels_fail program_fail;

extern "C" yx_status yx_fail_at(const char *file, int line, yx_status code, const char *format, ...) {
    char message[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    return program_fail(file, line, code, "%s", message);
}

yx_status cuda_fail_at(const char *file, int line, cudaError_t error, const char *call) {
    yx_status code = error == cudaErrorMemoryAllocation ? YX_ERR_NO_MEMORY
                     : error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ||
                             error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDevice
                         ? YX_ERR_UNAVAILABLE
                         : YX_ERR_INTERNAL;
    return yx_fail_at(file, line, code, "CUDA: %s (%s) in %.200s", cudaGetErrorString(error), cudaGetErrorName(error),
                      call);
}

yx_status cuda_check_workspace(const yx_device *d, size_t need, const char *who) {
    if (need <= d->workspace_bytes) return YX_OK;
    return yx_fail(YX_ERR_INTERNAL,
                   "%s: needs %zu bytes of workspace, has %zu; the shapes exceed those it was sized for", who, need,
                   d->workspace_bytes);
}

// --- Device
static void cuda_close(yx_device *d) {
    if (!d) return;
    cuda_matmul_close(d);
    cuda_optimizer_close(d);
    if (d->stream) cudaStreamDestroy(d->stream);
    free(d);
}

static yx_status open_on(yx_device *d) {
    CUDA_TRY(cudaSetDevice(d->index));
    CUDA_TRY(cudaGetDeviceProperties(&d->properties, d->index));
    if (d->properties.major < 8)
        return yx_fail(YX_ERR_UNAVAILABLE, "%s has compute capability %d.%d; 8.0 or newer is needed",
                       d->properties.name, d->properties.major, d->properties.minor);
    CUDA_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
    return cuda_matmul_open(d);
}

static yx_status cuda_open(int index, const yx_device_options *options, yx_device **out) {
    int count = 0;
    CUDA_TRY(cudaGetDeviceCount(&count));
    if (index < 0 || index >= count)
        return yx_fail(YX_ERR_UNAVAILABLE, "there is no GPU %d: this machine shows %d (CUDA_VISIBLE_DEVICES?)", index,
                       count);
    yx_device *d = (yx_device *)calloc(1, sizeof *d);
    if (!d) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a device");
    d->index = index;
    if (options) d->options = *options;
    yx_status status = open_on(d);
    if (status == YX_OK) *out = d;
    else cuda_close(d);
    return status;
}

static yx_status cuda_info(yx_device *d, yx_device_info *out) {
    size_t available, total;
    CUDA_TRY(cudaMemGetInfo(&available, &total));
    *out = yx_device_info{};
    snprintf(out->name, sizeof out->name, "%.127s", d->properties.name);
    out->index = d->index;
    out->eight_bit = d->properties.major * 10 + d->properties.minor >= 89;
    out->memory_total = (int64_t)total;
    out->memory_free = (int64_t)available;
    return YX_OK;
}

// --- Memory
static yx_status cuda_alloc(yx_device *d, size_t bytes, void **out) {
    cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
    if (error != cudaErrorMemoryAllocation) {
        CUDA_TRY(error);
        return YX_OK;
    }
    cudaGetLastError(); // it is not sticky
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    return yx_fail(YX_ERR_NO_MEMORY, "GPU %d (%s) has %.2f GB free of %.2f; %.2f GB more were asked for", d->index,
                   d->properties.name, (double)available / 1e9, (double)total / 1e9, (double)bytes / 1e9);
}
static void cuda_free(yx_device *d, void *p) {
    (void)d;
    if (p) cudaFree(p);
}
static yx_status cuda_alloc_host(yx_device *d, size_t bytes, void **out) {
    (void)d;
    CUDA_TRY(cudaHostAlloc(out, bytes ? bytes : 1, cudaHostAllocPortable));
    return YX_OK;
}
static void cuda_free_host(yx_device *d, void *p) {
    (void)d;
    if (p) cudaFreeHost(p);
}
static yx_status cuda_copy(yx_device *d, yx_stream *s, void *dst, const void *src, size_t bytes) {
    CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, cuda_stream(d, s)));
    return YX_OK;
}
static yx_status cuda_zero(yx_device *d, yx_stream *s, void *dst, size_t bytes) {
    CUDA_TRY(cudaMemsetAsync(dst, 0, bytes, cuda_stream(d, s)));
    return YX_OK;
}

// --- Streams and events
static yx_status cuda_stream_create(yx_device *d, yx_stream **out) {
    (void)d;
    yx_stream *s = (yx_stream *)calloc(1, sizeof *s);
    if (!s) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a stream");
    cudaError_t error = cudaStreamCreateWithFlags(&s->handle, cudaStreamNonBlocking);
    if (error != cudaSuccess) free(s);
    CUDA_TRY(error);
    *out = s;
    return YX_OK;
}
static void cuda_stream_destroy(yx_device *d, yx_stream *s) {
    (void)d;
    if (!s) return;
    cudaStreamDestroy(s->handle);
    free(s);
}
static yx_status cuda_stream_sync(yx_device *d, yx_stream *s) {
    CUDA_TRY(cudaStreamSynchronize(cuda_stream(d, s)));
    return YX_OK;
}
static void *cuda_native_stream(yx_device *d, yx_stream *s) { return cuda_stream(d, s); }
static yx_status cuda_event_done(yx_device *d, yx_event *e, bool *done) {
    (void)d;
    cudaError_t state = cudaEventQuery(e->handle);
    *done = state != cudaErrorNotReady;
    if (*done) CUDA_TRY(state);
    return YX_OK;
}
static yx_status cuda_event_create(yx_device *d, yx_event **out) {
    (void)d;
    yx_event *e = (yx_event *)calloc(1, sizeof *e);
    if (!e) return yx_fail(YX_ERR_NO_MEMORY, "no memory for an event");
    cudaError_t error = cudaEventCreate(&e->handle);
    if (error != cudaSuccess) free(e);
    CUDA_TRY(error);
    *out = e;
    return YX_OK;
}
static void cuda_event_destroy(yx_device *d, yx_event *e) {
    (void)d;
    if (!e) return;
    cudaEventDestroy(e->handle);
    free(e);
}
static yx_status cuda_event_record(yx_device *d, yx_event *e, yx_stream *s) {
    CUDA_TRY(cudaEventRecord(e->handle, cuda_stream(d, s)));
    return YX_OK;
}
static yx_status cuda_event_sync(yx_device *d, yx_event *e) {
    (void)d;
    CUDA_TRY(cudaEventSynchronize(e->handle));
    return YX_OK;
}
static yx_status cuda_event_seconds(yx_device *d, yx_event *begin, yx_event *end, double *seconds) {
    (void)d;
    float milliseconds;
    CUDA_TRY(cudaEventElapsedTime(&milliseconds, begin->handle, end->handle));
    *seconds = 1e-3 * milliseconds;
    return YX_OK;
}
static yx_status cuda_stream_wait(yx_device *d, yx_stream *s, yx_event *e) {
    CUDA_TRY(cudaStreamWaitEvent(cuda_stream(d, s), e->handle, 0));
    return YX_OK;
}

// --- Graphs
static yx_status cuda_graph_begin(yx_device *d, yx_stream *s) {
    CUDA_TRY(cudaStreamBeginCapture(cuda_stream(d, s), cudaStreamCaptureModeThreadLocal));
    return YX_OK;
}
static yx_status cuda_graph_end(yx_device *d, yx_stream *s, yx_graph **out) {
    cudaGraph_t graph = nullptr;
    CUDA_TRY(cudaStreamEndCapture(cuda_stream(d, s), &graph));
    yx_graph *g = (yx_graph *)calloc(1, sizeof *g);
    cudaError_t error = g ? cudaGraphInstantiate(&g->handle, graph, 0) : cudaSuccess;
    cudaGraphDestroy(graph);
    if (!g) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a graph");
    if (error != cudaSuccess) free(g);
    CUDA_TRY(error);
    *out = g;
    return YX_OK;
}
static yx_status cuda_graph_launch(yx_device *d, yx_graph *g, yx_stream *s) {
    CUDA_TRY(cudaGraphLaunch(g->handle, cuda_stream(d, s)));
    return YX_OK;
}
static void cuda_graph_destroy(yx_device *d, yx_graph *g) {
    (void)d;
    if (!g) return;
    cudaGraphExecDestroy(g->handle);
    free(g);
}

// --- Workspace
static size_t cuda_workspace_size(const yx_device *d, const yx_workspace_query *q) {
    const size_t sizes[] = {cuda_matmul_workspace(d, q), cuda_norm_workspace(d, q),  cuda_attention_workspace(d, q),
                            cuda_head_workspace(d, q),   cuda_embed_workspace(d, q), cuda_optimizer_workspace(d, q)};
    size_t largest = 0;
    for (size_t size : sizes) largest = size > largest ? size : largest;
    return largest;
}
static void cuda_set_workspace(yx_device *d, void *workspace, size_t bytes) {
    d->workspace = (char *)workspace;
    d->workspace_bytes = workspace ? bytes : 0;
}

extern "C" __attribute__((visibility("default"))) const yx_ops *kernels_cuda(kernels_fail fail) {
    static yx_ops ops;
    program_fail = fail;
    ops.name = "cuda";
    ops.needs_transposed[YX_E4M3] = ops.needs_transposed[YX_E5M2] = true;
    ops.has_graphs = true;
    ops.open = cuda_open;
    ops.close = cuda_close;
    ops.info = cuda_info;
    ops.alloc = cuda_alloc;
    ops.free = cuda_free;
    ops.alloc_host = cuda_alloc_host;
    ops.free_host = cuda_free_host;
    ops.copy = cuda_copy;
    ops.zero = cuda_zero;
    ops.stream_create = cuda_stream_create;
    ops.stream_destroy = cuda_stream_destroy;
    ops.stream_sync = cuda_stream_sync;
    ops.native_stream = cuda_native_stream;
    ops.event_done = cuda_event_done;
    ops.event_create = cuda_event_create;
    ops.event_destroy = cuda_event_destroy;
    ops.event_record = cuda_event_record;
    ops.event_sync = cuda_event_sync;
    ops.event_seconds = cuda_event_seconds;
    ops.stream_wait = cuda_stream_wait;
    ops.graph_begin = cuda_graph_begin;
    ops.graph_end = cuda_graph_end;
    ops.graph_launch = cuda_graph_launch;
    ops.graph_destroy = cuda_graph_destroy;
    ops.workspace_size = cuda_workspace_size;
    ops.set_workspace = cuda_set_workspace;
    ops.clock = cuda_clock;
    ops.matmul = cuda_matmul;
    ops.embed = cuda_embed;
    ops.embed_backward = cuda_embed_backward;
    ops.norm = cuda_norm;
    ops.norm_backward = cuda_norm_backward;
    ops.rope = cuda_rope;
    ops.attention = cuda_attention;
    ops.attention_backward = cuda_attention_backward;
    ops.swiglu = cuda_swiglu;
    ops.swiglu_backward = cuda_swiglu_backward;
    ops.head = cuda_head;
    ops.head_backward = cuda_head_backward;
    ops.sum_squares = cuda_sum_squares;
    ops.clip = cuda_clip;
    ops.adamw = cuda_adamw;
    ops.scales = cuda_scales;
    ops.cast = cuda_cast;
    return &ops;
}

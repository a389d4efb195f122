// Fibers, warps and shared memory of tests/emulate/emulator.h.
#include "tests/emulate/emulator.h"
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) (void)0
#endif

#undef threadIdx

enum { STACK_BYTES = 128 << 10, MOST_SHARED = 227 << 10, MOST_THREADS = 1024 };

emulate_thread *emulate_self;
uint3 emulate_block;
dim3 emulate_block_dim, emulate_grid_dim;
alignas(1024) char emulate_shared_memory[MOST_SHARED + 1024];
void *emulate_dynamic_shared() { return emulate_shared_memory; }

[[noreturn]] static void stop(const char *what) {
    fprintf(stderr, "emulated GPU: %s (block %u,%u,%u, thread %d)\n", what, emulate_block.x, emulate_block.y,
            emulate_block.z, emulate_self ? emulate_self->linear : -1);
    abort();
}

// --- Switching between stacks (x86-64, System V): the callee-saved registers lie on the stack that is left.
extern "C" void emulate_switch(void **save, void *to);
asm(R"(
.text
.globl emulate_switch
.hidden emulate_switch
.type emulate_switch, @function
emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulate_switch, .-emulate_switch
)");

struct copy_job {
    uint32_t to;
    const void *from;
    int size, bytes;
};

struct fiber : emulate_thread {
    void *stack_pointer = nullptr;
    char *stack = nullptr;
    bool done = true;
    uint64_t warp_count = 0;                   // exchanges this lane took part in
    std::vector<std::vector<copy_job>> groups; // committed copies, oldest first
    std::vector<copy_job> open;
};

struct warp_state { // exchanges alternate between two sets of slots
    uint64_t arrived[2] = {}, generation = 0;
    unsigned seen = 0;
    alignas(16) char slots[2][32][64];
};

static fiber fibers[MOST_THREADS];
static warp_state warps[MOST_THREADS / 32];
static std::function<void()> *running_body;
static void *scheduler_stack;
static int num_threads, num_alive, at_barrier;
static uint64_t barrier_generation;
static bool barrier_any, barrier_result;

static void yield() {
    fiber *f = (fiber *)emulate_self;
    emulate_switch(&f->stack_pointer, scheduler_stack);
}

extern "C" void emulate_fiber_main() {
    (*running_body)();
    fiber *f = (fiber *)emulate_self;
    if (!f->open.empty()) stop("asynchronous copies that were never committed");
    f->done = true;
    num_alive--;
    yield();
    stop("a finished thread went on");
}

static void prepare(fiber *f) {
    if (!f->stack) f->stack = (char *)aligned_alloc(4096, STACK_BYTES);
    f->done = false;
    f->warp_count = 0;
    f->groups.clear();
    f->open.clear();
    ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES); // the last thread never returned from its frames
    uint64_t *top = (uint64_t *)(f->stack + STACK_BYTES);
    *--top = 0; // keeps the stack aligned as after a call
    *--top = (uint64_t)emulate_fiber_main;
    for (int i = 0; i < 6; i++) *--top = 0;
    f->stack_pointer = top;
}

// The barrier opens when all threads that still run are there.
static void open_barrier() {
    at_barrier = 0;
    barrier_result = barrier_any;
    barrier_any = false;
    barrier_generation++;
}

// Warps run in another order each time, which shows as another result where a barrier is missing: tests run every
// operation twice and compare.
static uint64_t order = 1;
static int first_warp(int num_warps) {
    order = order * 6364136223846793005u + 1442695040888963407u;
    return (int)((order >> 33) % (uint64_t)num_warps);
}
static void run_warp(int warp) {
    for (int i = warp * 32; i < std::min(num_threads, warp * 32 + 32); i++) {
        if (fibers[i].done) continue;
        emulate_self = &fibers[i];
        emulate_switch(&scheduler_stack, fibers[i].stack_pointer);
    }
}

static void run_block(dim3 block) {
    num_threads = (int)(block.x * block.y * block.z);
    num_alive = num_threads;
    at_barrier = 0;
    barrier_any = false;
    for (int i = 0; i < num_threads; i++) {
        fiber *f = &fibers[i];
        f->index = make_uint3((unsigned)i % block.x, (unsigned)i / block.x % block.y, (unsigned)i / block.x / block.y);
        f->linear = i, f->warp = i / 32, f->lane = i % 32;
        prepare(f);
    }
    for (warp_state &w : warps) w.arrived[0] = w.arrived[1] = 0, w.generation = 0, w.seen = 0;
    memset(emulate_shared_memory, 0xff, sizeof emulate_shared_memory);
    const int num_warps = (num_threads + 31) / 32;
    const int direction = order >> 40 & 1 ? 1 : -1;
    uint64_t idle = 0, last = 0;
    while (num_alive > 0) {
        for (int w = 0, warp = first_warp(num_warps); w < num_warps;
             w++, warp = (warp + direction + num_warps) % num_warps)
            run_warp(warp);
        if (at_barrier > 0 && at_barrier == num_alive) open_barrier();
        uint64_t progress = barrier_generation + (uint64_t)(num_threads - num_alive);
        for (int w = 0; w < num_warps; w++) progress += warps[w].generation;
        idle = progress == last ? idle + 1 : 0;
        last = progress;
        if (idle > 8) stop("threads wait for each other for ever");
    }
    emulate_self = nullptr;
}

void emulate_barrier() { emulate_barrier_any(false); }
bool emulate_barrier_any(bool value) {
    uint64_t generation = barrier_generation;
    barrier_any |= value;
    at_barrier++;
    while (barrier_generation == generation) yield();
    return barrier_result;
}

void emulate_exchange(unsigned mask, const void *in, size_t bytes, void *all) {
    fiber *f = (fiber *)emulate_self;
    warp_state *w = &warps[f->warp];
    if (bytes > sizeof w->slots[0][0]) stop("too much in one exchange");
    if (!(mask >> f->lane & 1)) stop("a lane that is not in its own mask");
    unsigned lanes = mask;
    for (int i = 0; i < 32; i++)
        if (f->warp * 32 + i >= num_threads) lanes &= ~(1u << i);
    int parity = (int)(w->generation & 1);
    memcpy(w->slots[parity][f->lane], in, bytes);
    w->seen |= 1u << f->lane;
    uint64_t generation = w->generation;
    if ((w->seen & lanes) == lanes) {
        w->seen = 0;
        w->generation++;
    }
    while (w->generation == generation) {
        for (int i = 0; i < 32; i++)
            if (lanes >> i & 1 && fibers[f->warp * 32 + i].done) stop("a lane of the mask has returned");
        yield();
    }
    for (int i = 0; i < 32; i++) memcpy((char *)all + i * bytes, w->slots[parity][i], bytes);
}

// --- PTX
static uint16_t half_at(const char *p) {
    uint16_t x;
    memcpy(&x, p, 2);
    return x;
}

static void load_matrices(uint32_t *out, int count, uint32_t address, bool transposed) {
    uint32_t all[32];
    int lane = emulate_self->lane, g = lane / 4, t = lane % 4;
    if (address % 16) stop("ldmatrix of an address that is not a multiple of 16");
    emulate_exchange(0xffffffffu, &address, sizeof address, all);
    for (int i = 0; i < count; i++) {
        uint16_t low, high;
        if (transposed) {
            low = half_at(emulate_pointer(all[8 * i + 2 * t]) + 2 * g);
            high = half_at(emulate_pointer(all[8 * i + 2 * t + 1]) + 2 * g);
        } else {
            low = half_at(emulate_pointer(all[8 * i + g]) + 4 * t);
            high = half_at(emulate_pointer(all[8 * i + g]) + 4 * t + 2);
        }
        out[i] = (uint32_t)high << 16 | low;
    }
    __syncwarp(); // nobody writes there before all have read
}
void emulate_ldmatrix_sync_aligned_m8n8_x4_shared_b16(uint32_t &a, uint32_t &b, uint32_t &c, uint32_t &d,
                                                      uint32_t address) {
    uint32_t r[4];
    load_matrices(r, 4, address, false);
    a = r[0], b = r[1], c = r[2], d = r[3];
}
void emulate_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(uint32_t &a, uint32_t &b, uint32_t &c, uint32_t &d,
                                                            uint32_t address) {
    uint32_t r[4];
    load_matrices(r, 4, address, true);
    a = r[0], b = r[1], c = r[2], d = r[3];
}
void emulate_ldmatrix_sync_aligned_m8n8_x2_shared_b16(uint32_t &a, uint32_t &b, uint32_t address) {
    uint32_t r[2];
    load_matrices(r, 2, address, false);
    a = r[0], b = r[1];
}
void emulate_ldmatrix_sync_aligned_m8n8_x2_trans_shared_b16(uint32_t &a, uint32_t &b, uint32_t address) {
    uint32_t r[2];
    load_matrices(r, 2, address, true);
    a = r[0], b = r[1];
}

static float low_bf16(uint32_t x) { return __uint_as_float(x << 16); }
static float high_bf16(uint32_t x) { return __uint_as_float(x & 0xffff0000u); }

struct mma_operands {
    uint32_t a[4], b[2];
};
// c[row, column] += Σ a[row, k]·b[k, column]: lane 4·(row % 8) + k % 8 / 2 holds a, lane 4·column + k % 8 / 2 holds b.
static float product(const mma_operands *all, int row, int column, float c) {
    double sum = c;
    for (int pair = 0; pair < 8; pair++) {
        uint32_t a = all[4 * (row % 8) + pair % 4].a[row / 8 + pair / 4 * 2];
        uint32_t b = all[4 * column + pair % 4].b[pair / 4];
        sum += (double)low_bf16(a) * low_bf16(b) + (double)high_bf16(a) * high_bf16(b);
    }
    return (float)sum;
}
void emulate_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(float &c0, float &c1, float &c2, float &c3,
                                                                 uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                                 uint32_t b0, uint32_t b1) {
    mma_operands mine = {{a0, a1, a2, a3}, {b0, b1}}, all[32];
    int g = emulate_self->lane / 4, t = emulate_self->lane % 4;
    emulate_exchange(0xffffffffu, &mine, sizeof mine, all);
    c0 = product(all, g, 2 * t, c0), c1 = product(all, g, 2 * t + 1, c1);
    c2 = product(all, g + 8, 2 * t, c2), c3 = product(all, g + 8, 2 * t + 1, c3);
}

void emulate_movmatrix_sync_aligned_m8n8_trans_b16(uint32_t &out, uint32_t in) {
    uint32_t all[32];
    int g = emulate_self->lane / 4, t = emulate_self->lane % 4;
    emulate_exchange(0xffffffffu, &in, sizeof in, all);
    // out: row g, columns 2t, 2t+1 of the transpose, which are rows 2t, 2t+1, column g.
    uint32_t low = all[4 * (2 * t) + g / 2] >> 16 * (g % 2) & 0xffff;
    uint32_t high = all[4 * (2 * t + 1) + g / 2] >> 16 * (g % 2) & 0xffff;
    out = high << 16 | low;
}

void emulate_copy_later(uint32_t to, const void *from, int size, int bytes) {
    if (to % (uint32_t)size || (uintptr_t)from % (uintptr_t)size) stop("an asynchronous copy that is not aligned");
    ((fiber *)emulate_self)->open.push_back({to, from, size, bytes});
}
void emulate_cp_async_commit_group() {
    fiber *f = (fiber *)emulate_self;
    f->groups.push_back(std::move(f->open));
    f->open.clear();
}
void emulate_cp_async_wait_group(int pending) {
    fiber *f = (fiber *)emulate_self;
    if (pending < 0) emulate_cp_async_commit_group(), pending = 0;
    while ((int)f->groups.size() > pending) {
        for (const copy_job &c : f->groups.front()) {
            char *to = emulate_pointer(c.to);
            memset(to, 0, (size_t)c.size);
            if (c.bytes) memcpy(to, c.from, (size_t)c.bytes);
        }
        f->groups.erase(f->groups.begin());
    }
}

// --- The runtime's functions. Streams are done with at once; a recorded graph is a list of calls.
static std::map<const void *, int> shared_limits;
struct CUgraph_st {
    std::vector<std::function<void()>> calls;
};
struct CUgraphExec_st : CUgraph_st {};
static std::unique_ptr<CUgraph_st> recording;

void emulate_perform(std::function<void()> call) {
    if (recording) recording->calls.push_back(std::move(call));
    else call();
}

void emulate_launch(const void *kernel, dim3 grid, dim3 block, size_t shared, std::function<void()> body) {
    if (emulate_self) stop("a launch from a kernel");
    if (block.x * block.y * block.z > MOST_THREADS || grid.y > 65535 || grid.z > 65535 || grid.x == 0)
        stop("a grid or block that no GPU takes");
    const int allowed = std::max(16 << 10, shared_limits[kernel]); // 48 KB, less what may be static
    if ((int)shared > allowed) stop("more dynamic shared memory than was allowed");
    emulate_perform([=]() mutable {
        running_body = &body;
        emulate_block_dim = block, emulate_grid_dim = grid;
        for (emulate_block.z = 0; emulate_block.z < grid.z; emulate_block.z++)
            for (emulate_block.y = 0; emulate_block.y < grid.y; emulate_block.y++)
                for (emulate_block.x = 0; emulate_block.x < grid.x; emulate_block.x++) run_block(block);
    });
}

extern "C" {
cudaError_t cudaFuncSetAttribute(const void *f, cudaFuncAttribute attribute, int value) {
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value > MOST_SHARED) return cudaErrorInvalidValue;
        shared_limits[f] = value;
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *n) {
    const char *text = getenv("EMULATED_GPUS");
    return *n = text ? atoi(text) : 1, cudaSuccess;
}
// For what other modules queue (tests/emulate/nccl.cpp).
__attribute__((visibility("default"))) void emulate_enqueue(void (*call)(void *), void *argument) {
    emulate_perform([=] { call(argument); });
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->major = 8, p->minor = 9, p->multiProcessorCount = 4;
    p->sharedMemPerBlockOptin = 99 << 10, p->sharedMemPerMultiprocessor = 100 << 10;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : 0;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *, int, size_t) {
    return *n = 1, cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    return *available = (size_t)4 << 30, *total = (size_t)4 << 30, cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (*p) memset(*p, 0xff, bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p) { return free(p), cudaSuccess; }
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeHost(void *p) { return free(p), cudaSuccess; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    return emulate_perform([=] { memcpy(to, from, bytes); }), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t) {
    return emulate_perform([=] { memset(to, value, bytes); }), cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { return *s = (cudaStream_t)1, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return recording ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return *e = (cudaEvent_t) new double(0), cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete (double *)e, cudaSuccess; }
static double seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) { return *(double *)e = seconds(), cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    return *ms = (float)(1e3 * (*(double *)b - *(double *)a)), cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *s) {
    *s = recording ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    return recording = std::make_unique<CUgraph_st>(), cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *g) { return *g = recording.release(), cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long) {
    *out = new CUgraphExec_st;
    (*out)->calls = g->calls;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) { return delete g, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t) {
    for (auto &call : g->calls) call();
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t) { return "failed"; }
const char *cudaGetErrorName(cudaError_t) { return "emulated error"; }
}

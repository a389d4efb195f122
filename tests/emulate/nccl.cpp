// NCCL's functions for emulated GPUs: the processes of one machine meet in shared memory. What is queued on a stream is
// done or recorded in order, as the emulator does everything; sums are in rank order.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <nccl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20, MOST_RANKS = 8 };

// The emulator's: runs or records (tests/emulate/emulator.cpp).
extern "C" void emulate_enqueue(void (*call)(void *), void *argument);

struct shared_area {
    std::atomic<int> joined, arrived, generation, broken;
    alignas(64) char slots[MOST_RANKS][PIECE];
};

struct ncclComm {
    shared_area *area;
    int rank, size;
    char name[64];
};

static void nap() {
    timespec t = {0, 50000};
    nanosleep(&t, nullptr);
}

static void meet(ncclComm *c) {
    int generation = c->area->generation.load();
    if (c->area->arrived.fetch_add(1) + 1 == c->size) {
        c->area->arrived = 0;
        c->area->generation.fetch_add(1);
        return;
    }
    for (int i = 0; c->area->generation.load() == generation; i++) {
        if (i > 1000000 / 50 * 60) {
            fprintf(stderr, "emulated NCCL: rank %d waits for ever\n", c->rank);
            abort();
        }
        nap();
    }
}

template <typename T> static void combine(T *to, const T *from, size_t n, ncclRedOp_t op) {
    for (size_t i = 0; i < n; i++) to[i] = op == ncclSum ? to[i] + from[i] : std::max(to[i], from[i]);
}
static size_t size_of(ncclDataType_t type) {
    return type == ncclUint8 ? 1 : type == ncclBfloat16 ? 2 : type == ncclFloat32 ? 4 : 8;
}
static void add_bf16(uint16_t *to, const uint16_t *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t a = (uint32_t)to[i] << 16, b = (uint32_t)from[i] << 16;
        float x, y;
        memcpy(&x, &a, 4), memcpy(&y, &b, 4);
        x += y;
        memcpy(&a, &x, 4);
        to[i] = (uint16_t)((a + 0x7fff + (a >> 16 & 1)) >> 16);
    }
}

// Sums `n` elements of all ranks into `out`, or leaves them where `out` is null.
static void reduce_piece(ncclComm *c, const char *in, char *out, size_t n, ncclDataType_t type, ncclRedOp_t op) {
    size_t bytes = n * size_of(type);
    memcpy(c->area->slots[c->rank], in, bytes);
    meet(c);
    if (out) {
        memcpy(out, c->area->slots[0], bytes);
        for (int r = 1; r < c->size; r++) {
            const char *from = c->area->slots[r];
            if (type == ncclFloat32) combine((float *)out, (const float *)from, n, op);
            else if (type == ncclFloat64) combine((double *)out, (const double *)from, n, op);
            else if (type == ncclBfloat16) add_bf16((uint16_t *)out, (const uint16_t *)from, n);
            else combine((uint64_t *)out, (const uint64_t *)from, n, op);
        }
    }
    meet(c);
}

static void reduce(ncclComm *c, const char *in, char *out, size_t n, ncclDataType_t type, ncclRedOp_t op) {
    size_t most = PIECE / size_of(type);
    for (size_t at = 0; at < n; at += most) {
        size_t offset = at * size_of(type);
        reduce_piece(c, in + offset, out ? out + offset : nullptr, std::min(most, n - at), type, op);
    }
}

static void gather(ncclComm *c, const char *in, char *out, size_t bytes) {
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t n = std::min((size_t)PIECE, bytes - at);
        memcpy(c->area->slots[c->rank], in + at, n);
        meet(c);
        for (int r = 0; r < c->size; r++) memcpy(out + (size_t)r * bytes + at, c->area->slots[r], n);
        meet(c);
    }
}

static void enqueue(std::function<void()> work) {
    // Kept: a recorded call may run again.
    emulate_enqueue([](void *f) { (*(std::function<void()> *)f)(); }, new std::function<void()>(std::move(work)));
}

extern "C" {
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t) { return "emulated error"; }
ncclResult_t ncclGetVersion(int *version) { return *version = 10000, ncclSuccess; }
const char *ncclGetErrorString(ncclResult_t) { return "emulated error"; }
const char *ncclGetLastError(ncclComm_t) { return ""; }
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(id->internal, sizeof id->internal, "/yxanul-nccl-%d-%ld", (int)getpid(), t.tv_nsec);
    return ncclSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) { return *can = 0, cudaSuccess; }
ncclResult_t ncclCommInitRank(ncclComm_t *out, int size, ncclUniqueId id, int rank) {
    if (size > MOST_RANKS) return ncclInvalidArgument;
    ncclComm *c = new ncclComm{nullptr, rank, size, ""};
    snprintf(c->name, sizeof c->name, "%s", id.internal);
    int fd = shm_open(c->name, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(shared_area)) != 0) return ncclSystemError;
    c->area = (shared_area *)mmap(nullptr, sizeof(shared_area), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (c->area == MAP_FAILED) return ncclSystemError;
    meet(c);
    if (rank == 0) shm_unlink(c->name);
    *out = c;
    return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank, ncclConfig_t *config) {
    if (config->maxCTAs < config->minCTAs || config->minCTAs < 1) return ncclInvalidArgument;
    return ncclCommInitRank(out, size, id, rank);
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
    munmap(c->area, sizeof(shared_area));
    delete c;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) { return ncclCommDestroy(c); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t *state) { return *state = ncclSuccess, ncclSuccess; }
ncclResult_t ncclAllReduce(const void *in, void *out, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t c,
                           cudaStream_t) {
    enqueue([=] { reduce(c, (const char *)in, (char *)out, n, type, op); });
    return ncclSuccess;
}
ncclResult_t ncclReduceScatter(const void *in, void *out, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t c,
                               cudaStream_t) {
    enqueue([=] {
        for (int r = 0; r < c->size; r++)
            reduce(c, (const char *)in + (size_t)r * n * size_of(type), r == c->rank ? (char *)out : nullptr, n, type,
                   op);
    });
    return ncclSuccess;
}
ncclResult_t ncclAllGather(const void *in, void *out, size_t n, ncclDataType_t type, ncclComm_t c, cudaStream_t) {
    enqueue([=] { gather(c, (const char *)in, (char *)out, n * size_of(type)); });
    return ncclSuccess;
}
}

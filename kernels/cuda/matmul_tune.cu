// Which of cuBLASLt's algorithms a product runs with. Its own ranking is off by up to a tenth at these shapes, so the
// candidates are timed where they will run; the result is kept on disk, by GPU, driver and library version.
//
// Timing picks different algorithms in different runs, and with them other roundings: with `deterministic` the
// library's first choice is taken, which depends on the shape alone.
#include "kernels/cuda/matmul.cuh"
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CANDIDATES = 24, ROUNDS = 8 };

// --- The file: one line a product, the key and the algorithm in hexadecimal.
static bool cache_path(const yx_device *d, char *path, size_t size, bool make_folder) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char folder[PATH_MAX], name[64];
    int driver = 0, at = 0;
    if (base && *base) snprintf(folder, sizeof folder, "%s/yxanul", base);
    else if (home && *home) snprintf(folder, sizeof folder, "%s/.cache/yxanul", home);
    else return false;
    if (cudaDriverGetVersion(&driver) != cudaSuccess) return false;
    for (const char *c = d->properties.name; *c && at < (int)sizeof name - 1; c++) name[at++] = *c == ' ' ? '_' : *c;
    name[at] = '\0';
    if (make_folder) {
        char parent[PATH_MAX];
        snprintf(parent, sizeof parent, "%s", folder);
        *strrchr(parent, '/') = '\0';
        mkdir(parent, 0777);
        if (mkdir(folder, 0777) != 0 && errno != EEXIST) return false;
    }
    return (size_t)snprintf(path, size, "%s/matmul-%s-driver%d-cublasLt%zu.txt", folder, name, driver,
                            cublasLtGetVersion()) < size;
}

static void to_hex(const void *data, size_t bytes, char *out) {
    for (size_t i = 0; i < bytes; i++) snprintf(out + 2 * i, 3, "%02x", ((const unsigned char *)data)[i]);
}

typedef struct cache_line {
    char text[2 * (sizeof(matmul_key) + sizeof(cublasLtMatmulAlgo_t)) + 3];
} cache_line;

static cache_line line_of(const matmul_plan *plan) {
    cache_line line;
    to_hex(&plan->key, sizeof plan->key, line.text);
    line.text[2 * sizeof plan->key] = ' ';
    to_hex(&plan->algo, sizeof plan->algo, line.text + 2 * sizeof plan->key + 1);
    snprintf(line.text + sizeof line.text - 2, 2, "\n");
    return line;
}

static bool read_algo(const char *hex, cublasLtMatmulAlgo_t *algo) {
    for (size_t i = 0; i < sizeof *algo; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1) return false;
        ((unsigned char *)algo)[i] = (unsigned char)byte;
    }
    return true;
}

// Takes the algorithm from the file, if it is there and this library accepts it for this product.
static bool recall(yx_device *d, matmul_plan *plan) {
    char path[PATH_MAX];
    cache_line line, wanted = line_of(plan);
    size_t key = 2 * sizeof plan->key + 1;
    bool found = false;
    FILE *f = cache_path(d, path, sizeof path, false) ? fopen(path, "r") : nullptr;
    if (!f) return false;
    while (!found && fread(line.text, 1, sizeof line.text - 1, f) == sizeof line.text - 1)
        found = memcmp(line.text, wanted.text, key) == 0 && read_algo(line.text + key, &plan->algo);
    fclose(f);
    cublasLtMatmulHeuristicResult_t result;
    return found &&
           cublasLtMatmulAlgoCheck(d->matmul->handle, plan->product, plan->a, plan->b, plan->out, plan->out,
                                   &plan->algo, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= MATMUL_WORKSPACE;
}

// Remembering is a convenience: where it cannot be written, the next run measures again. Ranks append whole lines.
static void remember(yx_device *d, const matmul_plan *plan) {
    char path[PATH_MAX];
    cache_line line = line_of(plan);
    if (!cache_path(d, path, sizeof path, true)) return;
    int f = open(path, O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (f < 0) return;
    ssize_t written = write(f, line.text, sizeof line.text - 1);
    (void)written;
    close(f);
}

// --- Candidates
static yx_status list(yx_device *d, const matmul_plan *plan, cublasLtMatmulHeuristicResult_t *results, int *count) {
    cublasLtMatmulPreference_t preference = nullptr;
    uint64_t workspace = MATMUL_WORKSPACE;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t alignment = plan->key.aligned ? 256 : 16;
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    CUBLAS_TRY(cublasLtMatmulPreferenceCreate(&preference));
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                         sizeof workspace);
    // Partial sums in fp32 only.
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                                         sizeof schemes);
    for (cublasLtMatmulPreferenceAttributes_t which : alignments)
        cublasLtMatmulPreferenceSetAttribute(preference, which, &alignment, sizeof alignment);
    cublasStatus_t error = cublasLtMatmulAlgoGetHeuristic(d->matmul->handle, plan->product, plan->a, plan->b, plan->out,
                                                          plan->out, preference, CANDIDATES, results, count);
    cublasLtMatmulPreferenceDestroy(preference);
    if (error == CUBLAS_STATUS_SUCCESS && *count > 0) return YX_OK;
    const matmul_key *k = &plan->key;
    return yx_fail(YX_ERR_UNAVAILABLE,
                   "cuBLASLt (%s) has no algorithm for %lld × %lld × %lld of %s and %s into %s on %s (compute "
                   "capability %d.%d)",
                   cublasLtGetStatusString(error), (long long)k->M, (long long)k->N, (long long)k->K,
                   yx_dtype_name((yx_dtype)k->a), yx_dtype_name((yx_dtype)k->b), yx_dtype_name((yx_dtype)k->out),
                   d->properties.name, d->properties.major, d->properties.minor);
}

// Milliseconds of one run (mean of ROUNDS after one to warm up); negative when the algorithm does not run.
static float measure(yx_device *d, cudaStream_t stream, const matmul_plan *plan, const cublasLtMatmulAlgo_t *algo,
                     const matmul_call *call, cudaEvent_t begin, cudaEvent_t end) {
    float milliseconds = -1;
    bool ran = matmul_launch(d, stream, plan, algo, call) == YX_OK && cudaEventRecord(begin, stream) == cudaSuccess;
    for (int i = 0; ran && i < ROUNDS; i++) ran = matmul_launch(d, stream, plan, algo, call) == YX_OK;
    if (!ran || cudaEventRecord(end, stream) != cudaSuccess || cudaEventSynchronize(end) != cudaSuccess ||
        cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess)
        return -1;
    return milliseconds / ROUNDS;
}

static void time_all(yx_device *d, cudaStream_t stream, matmul_plan *plan, const matmul_call *call,
                     const cublasLtMatmulHeuristicResult_t *results, int count) {
    cudaEvent_t begin, end;
    float best = 0;
    int fastest = 0;
    if (cudaEventCreate(&begin) != cudaSuccess) return;
    if (cudaEventCreate(&end) == cudaSuccess) {
        for (int i = 0; i < count; i++) {
            float t = measure(d, stream, plan, &results[i].algo, call, begin, end);
            if (t > 0 && (best == 0 || t < best)) best = t, fastest = i;
        }
        cudaEventDestroy(end);
    }
    cudaEventDestroy(begin);
    plan->algo = results[fastest].algo;
}

yx_status matmul_choose(yx_device *d, cudaStream_t stream, matmul_plan *plan, const matmul_call *call) {
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    int count = 0;
    if (!d->options.deterministic && recall(d, plan)) return YX_OK;
    yx_status status = list(d, plan, results, &count);
    if (status != YX_OK) return status;
    plan->algo = results[0].algo;
    CUDA_TRY(cudaStreamIsCapturing(stream, &capture));
    if (d->options.deterministic || capture != cudaStreamCaptureStatusNone) return YX_OK;
    // Timing writes the output many times: into memory of its own, unless there is too little.
    matmul_call timed = *call;
    size_t size = yx_dtype_size((yx_dtype)plan->key.out);
    size_t elements = (size_t)(plan->key.form == YX_MATMUL_Y    ? plan->key.M * plan->key.N
                               : plan->key.form == YX_MATMUL_DX ? plan->key.M * plan->key.K
                                                                : plan->key.N * plan->key.K);
    if (cudaMalloc(&timed.out, elements * size) != cudaSuccess) {
        cudaGetLastError();
        return YX_OK;
    }
    cudaMemsetAsync(timed.out, 0, elements * size, stream);
    time_all(d, stream, plan, &timed, results, count);
    cudaFree(timed.out);
    remember(d, plan);
    return YX_OK;
}

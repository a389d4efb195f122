// The embedding's rows, and the sum of gradients per word.
//
// Backward, in an order that does not depend on timing: the rows are sorted by token (stable), cut into pieces of 32
// rows, and each piece's runs of one token summed by one warp. A run inside a piece goes to dE at once; what crosses
// pieces is kept in the workspace and added up, piece after piece, by the warp of the piece where the run starts.
#include "kernels/cuda/convert.cuh"

enum {
    THREADS = 256,
    SORT_THREADS = 512,
    DIGIT_BITS = 5,
    DIGITS = 1 << DIGIT_BITS,
    PIECE = 32,
    MAX_RANK = 512,
    SORT_SHARED = DIGITS * SORT_THREADS * 4
};

__global__ void embed_kernel(yx_embed_args a) {
    const int pieces = (int)a.rank / 8;
    const int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = item / pieces;
    if (row >= a.rows) return;
    const int64_t piece = item % pieces;
    const uint4 *E = (const uint4 *)a.E.row;
    ((uint4 *)a.z)[row * pieces + piece] = E[(int64_t)a.token[row] * pieces + piece];
}

static yx_status check(int64_t rows, int64_t rank, yx_dtype act) {
    if (act != YX_BF16)
        return yx_fail(YX_ERR_UNAVAILABLE, "the GPU computes in bf16 and 8 bits; precision fp32 runs on the CPU");
    if (rows < 1 || rank < 32 || rank % 32 || rank > MAX_RANK)
        return yx_fail(YX_ERR_CONFIG, "the GPU needs an embedding_rank that is a multiple of 32 up to %d, not %lld",
                       MAX_RANK, (long long)rank);
    return YX_OK;
}

yx_status cuda_embed(yx_device *d, yx_stream *s, const yx_embed_args *a) {
    yx_status status = check(a->rows, a->rank, a->act);
    if (status != YX_OK) return status;
    if (a->E.dtype != YX_BF16 || a->E.quant.scale_inv)
        return yx_fail(YX_ERR_INTERNAL, "embed: E is not bf16 without a scale");
    embed_kernel<<<(unsigned)cuda_ceil_div(a->rows * a->rank / 8, THREADS), THREADS, 0, cuda_stream(d, s)>>>(*a);
    CUDA_LAUNCHED();
    return YX_OK;
}

// --- Sorting: one block, DIGIT_BITS bits a pass, from the lowest
// Exclusive sums of v over the block; shared: [SORT_THREADS / 32].
__device__ __forceinline__ uint32_t block_exclusive_sum(uint32_t v, uint32_t *shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t inclusive = v;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, inclusive, offset);
        if (lane >= offset) inclusive += other;
    }
    if (lane == 31) shared[warp] = inclusive;
    __syncthreads();
    if (warp == 0) {
        uint32_t sum = lane < SORT_THREADS / 32 ? shared[lane] : 0;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const uint32_t other = __shfl_up_sync(0xffffffffu, sum, offset);
            if (lane >= offset) sum += other;
        }
        if (lane < SORT_THREADS / 32) shared[lane] = sum;
    }
    __syncthreads();
    return inclusive - v + (warp ? shared[warp - 1] : 0);
}

// counts[digit, thread] of the keys that thread `thread` holds becomes where its first key of that digit goes. Each
// thread adds up DIGITS neighbouring counts.
__device__ __forceinline__ int count_at(int digit, int thread) { return digit * SORT_THREADS + thread; }

__device__ void scan_counts(uint32_t *counts, uint32_t *shared) {
    const int base = threadIdx.x * DIGITS;
    uint32_t sum = 0;
    for (int i = 0; i < DIGITS; i++) sum += counts[base + (i + threadIdx.x) % DIGITS]; // rotated: no two in one bank
    uint32_t before = block_exclusive_sum(sum, shared);
    for (int i = 0; i < DIGITS; i++) {
        const uint32_t count = counts[base + i];
        counts[base + i] = before;
        before += count;
    }
    __syncthreads();
}

// One pass: stable, by the digit at `shift`. `from` NULL: the keys are `token` and the rows count up.
__device__ void sort_pass(const int32_t *token, const uint2 *from, uint2 *to, int n, int shift, uint32_t *counts,
                          uint32_t *shared) {
    const int each = (n + SORT_THREADS - 1) / SORT_THREADS, begin = min(n, (int)threadIdx.x * each);
    const int end = min(n, begin + each);
    for (int digit = 0; digit < DIGITS; digit++) counts[count_at(digit, threadIdx.x)] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = begin; i < end; i++) {
        const uint32_t key = from ? from[i].x : (uint32_t)token[i];
        counts[count_at((key >> shift) % DIGITS, threadIdx.x)]++;
    }
    __syncthreads();
    scan_counts(counts, shared);
#pragma unroll 4
    for (int i = begin; i < end; i++) {
        const uint2 entry = from ? from[i] : make_uint2((uint32_t)token[i], (uint32_t)i);
        to[counts[count_at((entry.x >> shift) % DIGITS, threadIdx.x)]++] = entry;
    }
    __syncthreads(); // and what is written to global memory is seen by the whole block
}

// sorted[i] = {token, row}; passes alternate between the two buffers and end in buffers[0].
__global__ void __launch_bounds__(SORT_THREADS)
    sort_kernel(const int32_t *token, uint2 *first, uint2 *second, int n, int passes) {
    extern __shared__ uint32_t counts[];
    __shared__ uint32_t shared[SORT_THREADS / 32];
    const uint2 *from = nullptr;
    for (int pass = 0; pass < passes; pass++) {
        uint2 *to = (passes - pass) % 2 ? first : second;
        sort_pass(token, from, to, n, pass * DIGIT_BITS, counts, shared);
        from = to;
    }
}

// --- Sums
// A lane's share of a row: `per_lane` quarters of four columns, 128 columns apart.
template <int QUARTERS> struct lane_sum {
    float v[QUARTERS][4];
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++)
#pragma unroll
            for (int i = 0; i < 4; i++) v[q][i] = 0;
    }
    __device__ __forceinline__ void add_row(const void *dz, int64_t row, int rank) {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            const int col = q * 128 + threadIdx.x % 32 * 4;
            if (col >= rank) continue;
            const uint2 raw = *(const uint2 *)((const __nv_bfloat16 *)dz + row * rank + col);
            const float2 low = decode_bf16x2(raw.x), high = decode_bf16x2(raw.y);
            v[q][0] += low.x, v[q][1] += low.y, v[q][2] += high.x, v[q][3] += high.y;
        }
    }
    // memory += v, or memory = v
    __device__ __forceinline__ void put(float *memory, int rank, bool add) const {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            const int col = q * 128 + threadIdx.x % 32 * 4;
            if (col >= rank) continue;
            float4 *at = (float4 *)(memory + col);
            float4 old = add ? *at : make_float4(0, 0, 0, 0);
            *at = make_float4(old.x + v[q][0], old.y + v[q][1], old.z + v[q][2], old.w + v[q][3]);
        }
    }
    __device__ __forceinline__ void add(const float *memory, int rank) {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            const int col = q * 128 + threadIdx.x % 32 * 4;
            if (col >= rank) continue;
            const float4 x = *(const float4 *)(memory + col);
            v[q][0] += x.x, v[q][1] += x.y, v[q][2] += x.z, v[q][3] += x.w;
        }
    }
};

// One warp a piece. heads[p]: the piece's first run where it continues the piece before; tails[p]: its last run where
// that goes on in the next piece and begins in this one.
template <int QUARTERS>
__global__ void __launch_bounds__(THREADS)
    sum_pieces(yx_embed_backward_args a, const uint2 *sorted, float *heads, float *tails) {
    const int piece = (int)(((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32), rank = (int)a.rank, n = (int)a.rows;
    if (piece * PIECE >= n) return;
    const int begin = piece * PIECE, end = min(n, begin + PIECE);
    bool continues = begin > 0 && sorted[begin - 1].x == sorted[begin].x;
    lane_sum<QUARTERS> sum;
    sum.clear();
    for (int i = begin; i < end; i++) {
        const uint2 entry = sorted[i];
        sum.add_row(a.dz, entry.y, rank);
        const bool last = i + 1 == end, ends = i + 1 == n || sorted[i + 1].x != entry.x;
        if (!ends && !last) continue;
        if (continues) sum.put(heads + (int64_t)piece * rank, rank, false);
        else if (ends) sum.put(a.dE + (int64_t)entry.x * rank, rank, true);
        else sum.put(tails + (int64_t)piece * rank, rank, false);
        sum.clear();
        continues = false;
    }
}

// The runs that go on past the piece they begin in.
template <int QUARTERS>
__global__ void __launch_bounds__(THREADS)
    sum_runs(yx_embed_backward_args a, const uint2 *sorted, const float *heads, const float *tails) {
    const int piece = (int)(((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32), rank = (int)a.rank, n = (int)a.rows;
    const int next = (piece + 1) * PIECE;
    if (next >= n) return;
    const uint32_t token = sorted[next].x;
    if (sorted[next - 1].x != token) return; // nothing crosses here
    const int begin = piece * PIECE;
    if (begin > 0 && sorted[begin].x == token && sorted[begin - 1].x == token) return; // the run began before
    lane_sum<QUARTERS> sum;
    sum.clear();
    sum.add(tails + (int64_t)piece * rank, rank);
#pragma unroll(QUARTERS > 2 ? 2 : 4)
    for (int q = piece + 1; q * PIECE < n && sorted[q * PIECE].x == token; q++)
        sum.add(heads + (int64_t)q * rank, rank);
    sum.put(a.dE + (int64_t)token * rank, rank, true);
}

struct backward_memory {
    uint2 *first, *second; // [rows]
    float *heads, *tails;  // [pieces, rank]
};
static size_t lay_out(int64_t rows, int64_t rank, char *base, backward_memory *m) {
    cuda_scratch s = {base, 0};
    m->first = s.take<uint2>(rows);
    m->second = s.take<uint2>(rows);
    m->heads = s.take<float>(cuda_ceil_div(rows, PIECE) * rank);
    m->tails = s.take<float>(cuda_ceil_div(rows, PIECE) * rank);
    return s.used;
}

size_t cuda_embed_workspace(const yx_device *, const yx_workspace_query *q) {
    backward_memory m;
    return lay_out(q->embed_rows > q->rows ? q->embed_rows : q->rows, q->rank, nullptr, &m);
}

template <int QUARTERS>
static yx_status launch_sums(cudaStream_t stream, const yx_embed_backward_args *a, const backward_memory *m) {
    const unsigned blocks = (unsigned)cuda_ceil_div(cuda_ceil_div(a->rows, PIECE) * 32, THREADS);
    sum_pieces<QUARTERS><<<blocks, THREADS, 0, stream>>>(*a, m->first, m->heads, m->tails);
    CUDA_LAUNCHED();
    sum_runs<QUARTERS><<<blocks, THREADS, 0, stream>>>(*a, m->first, m->heads, m->tails);
    CUDA_LAUNCHED();
    return YX_OK;
}

yx_status cuda_embed_backward(yx_device *d, yx_stream *s, const yx_embed_backward_args *a) {
    backward_memory m;
    cudaStream_t stream = cuda_stream(d, s);
    yx_status status = check(a->rows, a->rank, a->act);
    if (status == YX_OK) status = cuda_check_workspace(d, lay_out(a->rows, a->rank, nullptr, &m), "embed_backward");
    if (status != YX_OK) return status;
    lay_out(a->rows, a->rank, d->workspace, &m);
    int bits = 1;
    while ((int64_t)1 << bits < a->vocab) bits++;
    CUDA_TRY(cuda_allow_shared(sort_kernel, SORT_SHARED));
    sort_kernel<<<1, SORT_THREADS, SORT_SHARED, stream>>>(a->token, m.first, m.second, (int)a->rows,
                                                          (bits + DIGIT_BITS - 1) / DIGIT_BITS);
    CUDA_LAUNCHED();
    switch (cuda_ceil_div(a->rank, 128)) {
    case 1:
        return launch_sums<1>(stream, a, &m);
    case 2:
        return launch_sums<2>(stream, a, &m);
    default:
        return launch_sums<4>(stream, a, &m);
    }
}

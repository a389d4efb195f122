// The embedding's rows, and the sum of gradients per word.
//
// Backward, in an order that does not depend on timing: the rows are sorted by token (stable), cut into pieces of 32
// rows, and each piece's runs of one token summed by one warp. A run inside a piece goes to dE at once; what crosses
// pieces is kept in the workspace and added up, piece after piece, by the warps of the piece where the run starts.
#include "kernels/cuda/convert.cuh"

enum {
    THREADS = 256,
    SUM_THREADS = 128, // small blocks: a micro-batch has few pieces for each multiprocessor
    SORT_THREADS = 512,
    SORT_WARPS = SORT_THREADS / 32,
    SORT_BLOCKS = 64, // at most: every block of a pass reads the counts of all
    DIGIT_BITS = 9,
    DIGITS = 1 << DIGIT_BITS, // no more than SORT_THREADS
    MAX_PASSES = 4,           // of 31 bits
    PIECE = 32,
    MAX_RANK = 512
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

// --- Sorting: by one digit a pass, from the lowest. A block has `chunk` neighbouring rows, a warp a share of those.
// counts[pass, block, digit]: the keys of this digit among a block's rows as they lie before the pass. The first pass
// has a launch for them; each other's are counted while the one before moves the rows. They are sums of integers, so
// their atomics may come in any order.
struct sort_plan {
    int n, chunk, bits, passes; // chunk: a multiple of SORT_THREADS; bits: of a digit
    const int32_t *token;       // [n]
    uint2 *first, *second;      // [n] {token, row}; passes alternate between the two and end in `first`
    uint32_t *counts;           // [passes, blocks, 1 << bits]

    __device__ __forceinline__ int digit(uint32_t key, int pass) const {
        return (int)(key >> pass * bits & ((1u << bits) - 1));
    }
    __device__ __forceinline__ uint32_t *counts_of(int pass, int block) const {
        return counts + (((int64_t)pass * gridDim.x + block) << bits);
    }
    __device__ __forceinline__ uint2 *written_by(int pass) const { return (passes - pass) % 2 ? first : second; }
    __device__ __forceinline__ uint2 entry(int i, int pass) const {
        return pass ? written_by(pass - 1)[i] : make_uint2((uint32_t)token[i], (uint32_t)i);
    }
    __device__ __forceinline__ uint32_t key(int i, int pass) const {
        return pass ? written_by(pass - 1)[i].x : (uint32_t)token[i];
    }
};

// The first pass's counts, and zeros for the others'.
__global__ void __launch_bounds__(SORT_THREADS) count_kernel(sort_plan p) {
    __shared__ uint32_t counts[DIGITS];
    const int digit = threadIdx.x, begin = blockIdx.x * p.chunk, end = min(p.n, begin + p.chunk);
    if (digit < DIGITS) counts[digit] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = begin + (int)threadIdx.x; i < end; i += SORT_THREADS) atomicAdd(&counts[p.digit(p.key(i, 0), 0)], 1u);
    __syncthreads();
    if (digit >> p.bits) return;
    for (int pass = 0; pass < p.passes; pass++) p.counts_of(pass, blockIdx.x)[digit] = pass ? 0 : counts[digit];
}

// Exclusive sums of v over the block; shared: [SORT_WARPS].
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
    uint32_t before = 0;
#pragma unroll
    for (int w = 0; w < SORT_WARPS; w++) before += w < warp ? shared[w] : 0;
    return before + inclusive - v;
}

// Where this block's first key of the digit `threadIdx.x` goes: behind all smaller digits, and this digit's keys in
// earlier blocks. All threads take part, those that stand for no digit too.
__device__ __forceinline__ uint32_t first_of_digit(const sort_plan &p, int pass, uint32_t *shared) {
    enum { AT_A_TIME = 16 }; // loads that are under way together
    const bool has_digit = threadIdx.x >> p.bits == 0;
    const int blocks = gridDim.x;
    uint32_t before = 0, total = 0;
    for (int from = 0; from < blocks; from += AT_A_TIME) {
        const uint32_t *counts = p.counts_of(pass, from) + threadIdx.x;
        uint32_t count[AT_A_TIME];
#pragma unroll
        for (int i = 0; i < AT_A_TIME; i++, counts += 1 << p.bits)
            count[i] = has_digit && from + i < blocks ? *counts : 0;
#pragma unroll
        for (int i = 0; i < AT_A_TIME; i++) {
            total += count[i];
            before += from + i < (int)blockIdx.x ? count[i] : 0;
        }
    }
    return block_exclusive_sum(total, shared) + before;
}

// The lanes that have this lane's digit; `bits`: those of a digit that any lane has.
__device__ __forceinline__ uint32_t lanes_with(int digit, int bits) {
    uint32_t lanes = 0xffffffffu;
#pragma unroll 5
    for (int bit = 0; bit < bits; bit++) {
        const bool set = digit >> bit & 1;
        const uint32_t with = __ballot_sync(0xffffffffu, set);
        lanes &= set ? with : ~with;
    }
    return lanes;
}

// A warp moves its rows [begin, end) in order, 32 at a time; next[digit]: where its next key of this digit goes.
__device__ __forceinline__ void move_rows(const sort_plan &p, int pass, int begin, int end, uint32_t *next) {
    const int lane = threadIdx.x % 32;
    uint2 *to = p.written_by(pass);
#pragma unroll 2
    for (int i = begin + lane; i - lane < end; i += 32) {
        const bool here = i < end;
        const uint2 entry = here ? p.entry(i, pass) : make_uint2(0, 0);
        const int digit = here ? p.digit(entry.x, pass) : 1 << p.bits; // one more digit, of the lanes without a row
        const uint32_t lanes = lanes_with(digit, p.bits + 1);
        const int leader = __ffs((int)lanes) - 1;
        uint32_t at = 0;
        if (here && lane == leader) {
            at = next[digit];
            next[digit] = at + (uint32_t)__popc(lanes);
        }
        at = __shfl_sync(0xffffffffu, at, leader) + (uint32_t)__popc(lanes & ((1u << lane) - 1));
        __syncwarp(); // another lane may lead this digit in the next 32 rows
        if (!here) continue;
        to[at] = entry;
        if (pass + 1 < p.passes)
            atomicAdd(p.counts_of(pass + 1, (int)(at / (uint32_t)p.chunk)) + p.digit(entry.x, pass + 1), 1u);
    }
}

// One pass, stable.
__global__ void __launch_bounds__(SORT_THREADS) sort_kernel(sort_plan p, int pass) {
    __shared__ uint32_t next[SORT_WARPS][DIGITS]; // the warp's count of a digit, then where its next key goes
    __shared__ uint32_t shared[SORT_WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, share = p.chunk / SORT_WARPS;
    const int begin = min(p.n, (int)blockIdx.x * p.chunk + warp * share), end = min(p.n, begin + share);
    for (int w = 0; w < SORT_WARPS && threadIdx.x < DIGITS; w++) next[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = begin + lane; i < end; i += 32) atomicAdd(&next[warp][p.digit(p.key(i, pass), pass)], 1u);
    uint32_t at = first_of_digit(p, pass, shared); // with a barrier: all has been counted
    if (threadIdx.x < DIGITS) {
#pragma unroll
        for (int w = 0; w < SORT_WARPS; w++) {
            const uint32_t count = next[w][threadIdx.x];
            next[w][threadIdx.x] = at;
            at += count;
        }
    }
    __syncthreads();
    move_rows(p, pass, begin, end, next[warp]);
}

// --- Sums
// A lane's share of a row: QUARTERS quarters of four columns, 128 columns apart.
// (What lies beyond the rank's columns is neither read nor written.)
template <int QUARTERS> struct lane_row {
    uint2 v[QUARTERS]; // bf16
    __device__ __forceinline__ void load(const void *dz, int64_t row, int rank) {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            const int col = q * 128 + threadIdx.x % 32 * 4;
            if (col < rank) v[q] = *(const uint2 *)((const __nv_bfloat16 *)dz + row * rank + col);
        }
    }
};
template <int QUARTERS> struct lane_sum {
    float4 v[QUARTERS];
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) v[q] = make_float4(0, 0, 0, 0);
    }
    __device__ __forceinline__ void load(const float *memory, int rank) {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            const int col = q * 128 + threadIdx.x % 32 * 4;
            if (col < rank) v[q] = *(const float4 *)(memory + col);
        }
    }
    __device__ __forceinline__ void add(const lane_row<QUARTERS> &row) {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            const float2 low = decode_bf16x2(row.v[q].x), high = decode_bf16x2(row.v[q].y);
            v[q].x += low.x, v[q].y += low.y, v[q].z += high.x, v[q].w += high.y;
        }
    }
    __device__ __forceinline__ void add(const lane_sum &other) {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++)
            v[q].x += other.v[q].x, v[q].y += other.v[q].y, v[q].z += other.v[q].z, v[q].w += other.v[q].w;
    }
    __device__ __forceinline__ void store(float *memory, int rank) const {
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            const int col = q * 128 + threadIdx.x % 32 * 4;
            if (col < rank) *(float4 *)(memory + col) = v[q];
        }
    }
};

// The runs of a piece's rows; bit i: of its row i.
struct piece_runs {
    int rows;
    uint2 entry;   // lane i: that of row i
    uint32_t ends; // the run ends with this row
    uint32_t own;  // and all of it is in this piece: its sum goes to dE
    bool head;     // the first run continues the piece before
};
__device__ __forceinline__ piece_runs find_runs(const uint2 *sorted, int begin, int n) {
    const int lane = threadIdx.x % 32, i = begin + lane;
    piece_runs r;
    r.rows = min(PIECE, n - begin);
    r.entry = i < n ? sorted[i] : make_uint2(0, 0);
    uint32_t next = __shfl_down_sync(0xffffffffu, r.entry.x, 1), before = __shfl_up_sync(0xffffffffu, r.entry.x, 1);
    if (lane == 31 && i + 1 < n) next = sorted[i + 1].x;
    if (lane == 0 && begin > 0) before = sorted[begin - 1].x;
    r.ends = __ballot_sync(0xffffffffu, i < n && (i + 1 == n || next != r.entry.x));
    r.head = __shfl_sync(0xffffffffu, begin > 0 && before == r.entry.x, 0);
    r.own = r.head ? r.ends & (r.ends - 1) : r.ends;
    return r;
}

// One warp a piece, the rows AT_A_TIME at a time. heads[p]: the piece's first run where it continues the piece before;
// tails[p]: its last run where that goes on in the next piece and begins in this one.
template <int QUARTERS>
__global__ void __launch_bounds__(SUM_THREADS)
    sum_pieces(yx_embed_backward_args a, const uint2 *sorted, float *heads, float *tails) {
    enum { AT_A_TIME = 8 / QUARTERS };
    const int piece = (int)(((int64_t)blockIdx.x * SUM_THREADS + threadIdx.x) / 32), rank = (int)a.rank;
    if ((int64_t)piece * PIECE >= a.rows) return;
    piece_runs r = find_runs(sorted, piece * PIECE, (int)a.rows);
    lane_sum<QUARTERS> sum, old[AT_A_TIME];
    lane_row<QUARTERS> row[AT_A_TIME];
    sum.clear();
    for (int from = 0; from < r.rows; from += AT_A_TIME) {
        uint32_t token[AT_A_TIME];
#pragma unroll
        for (int k = 0; k < AT_A_TIME; k++) {
            token[k] = __shfl_sync(0xffffffffu, r.entry.x, from + k);
            const uint32_t at = __shfl_sync(0xffffffffu, r.entry.y, from + k);
            if (from + k < r.rows) row[k].load(a.dz, at, rank);
            if (r.own >> (from + k) & 1) old[k].load(a.dE + (int64_t)token[k] * rank, rank);
        }
#pragma unroll
        for (int k = 0; k < AT_A_TIME; k++) {
            const int i = from + k;
            if (i >= r.rows) break;
            sum.add(row[k]);
            const bool ends = r.ends >> i & 1;
            if (!ends && i + 1 < r.rows) continue;
            if (r.own >> i & 1) {
                old[k].add(sum);
                old[k].store(a.dE + (int64_t)token[k] * rank, rank);
            } else {
                sum.store((r.head ? heads : tails) + (int64_t)piece * rank, rank);
            }
            sum.clear();
            r.head = false;
        }
    }
}

// The runs that go on past the piece they begin in; a warp has 32 columns of one (blockIdx.y: which) and adds the
// pieces' sums one after another, loaded 32 pieces at a time.
__global__ void __launch_bounds__(SUM_THREADS)
    sum_runs(yx_embed_backward_args a, const uint2 *sorted, const float *heads, const float *tails) {
    const int rank = (int)a.rank, lane = threadIdx.x % 32, col = (int)blockIdx.y * 32 + lane;
    const int64_t n = a.rows, piece = ((int64_t)blockIdx.x * SUM_THREADS + threadIdx.x) / 32;
    const int64_t begin = piece * PIECE, next = begin + PIECE;
    if (next >= n) return;
    const uint32_t token = sorted[next].x, last = sorted[next - 1].x, first = sorted[begin].x;
    const bool head = begin > 0 && sorted[begin - 1].x == first;
    if (last != token || (first == token && head)) return; // nothing crosses here, or it began before
    float *dE = a.dE + (int64_t)token * rank + col;
    const float old = *dE, *from = heads + (piece + 1) * rank + col;
    float sum = tails[piece * rank + col];
    int64_t check = next + lane * PIECE; // the first row of the lane's piece of the next 32
    bool same = check < n && sorted[check].x == token;
    for (int count = 32; count == 32;) {
        count = __popc(__ballot_sync(0xffffffffu, same));
        check += 32 * PIECE;
        same = check < n && sorted[check].x == token; // on its way together with the sums
        float part[32];
#pragma unroll
        for (int i = 0; i < 32; i++, from += rank)
            if (i < count) part[i] = *from;
#pragma unroll
        for (int i = 0; i < 32; i++)
            if (i < count) sum += part[i];
    }
    *dE = old + sum;
}

struct backward_memory {
    uint2 *first, *second; // [rows]
    uint32_t *counts;      // [MAX_PASSES, SORT_BLOCKS, DIGITS]
    float *heads, *tails;  // [pieces, rank]
};
static size_t lay_out(int64_t rows, int64_t rank, char *base, backward_memory *m) {
    cuda_scratch s = {base, 0};
    m->first = s.take<uint2>(rows);
    m->second = s.take<uint2>(rows);
    m->counts = s.take<uint32_t>(MAX_PASSES * SORT_BLOCKS * DIGITS);
    m->heads = s.take<float>(cuda_ceil_div(rows, PIECE) * rank);
    m->tails = s.take<float>(cuda_ceil_div(rows, PIECE) * rank);
    return s.used;
}

size_t cuda_embed_workspace(const yx_device *, const yx_workspace_query *q) {
    backward_memory m;
    return lay_out(q->embed_rows > q->rows ? q->embed_rows : q->rows, q->rank, nullptr, &m);
}

// m->first = the rows by token.
static yx_status sort_rows(cudaStream_t stream, const yx_embed_backward_args *a, const backward_memory *m) {
    int bits = 1;
    while ((int64_t)1 << bits < a->vocab) bits++;
    const int passes = (int)cuda_ceil_div(bits, DIGIT_BITS);
    const int chunk = (int)cuda_ceil_div(a->rows, SORT_BLOCKS * SORT_THREADS) * SORT_THREADS;
    const unsigned blocks = (unsigned)cuda_ceil_div(a->rows, chunk);
    const sort_plan plan = {(int)a->rows, chunk,    (int)cuda_ceil_div(bits, passes), passes, a->token, m->first,
                            m->second,    m->counts};
    count_kernel<<<blocks, SORT_THREADS, 0, stream>>>(plan);
    CUDA_LAUNCHED();
    for (int pass = 0; pass < passes; pass++) {
        sort_kernel<<<blocks, SORT_THREADS, 0, stream>>>(plan, pass);
        CUDA_LAUNCHED();
    }
    return YX_OK;
}

static yx_status sum_rows(cudaStream_t stream, const yx_embed_backward_args *a, const backward_memory *m) {
    const unsigned blocks = (unsigned)cuda_ceil_div(cuda_ceil_div(a->rows, PIECE) * 32, SUM_THREADS);
    auto pieces = a->rank <= 128 ? sum_pieces<1> : a->rank <= 256 ? sum_pieces<2> : sum_pieces<4>;
    pieces<<<blocks, SUM_THREADS, 0, stream>>>(*a, m->first, m->heads, m->tails);
    CUDA_LAUNCHED();
    const dim3 grid(blocks, (unsigned)a->rank / 32);
    sum_runs<<<grid, SUM_THREADS, 0, stream>>>(*a, m->first, m->heads, m->tails);
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
    status = sort_rows(stream, a, &m);
    return status == YX_OK ? sum_rows(stream, a, &m) : status;
}

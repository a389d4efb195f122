// Attention, backward, from the forward pass's log-sum-exp (Dao 2023, FlashAttention-2). With p = exp(s - lse),
// delta = rowsum(d_o ∘ o) and ds = p ∘ (d_o·vᵀ - delta):
//
//   dq = scale · ds·k     dk = scale · dsᵀ·q     dv = pᵀ·d_o
//
// Two kernels, each of which computes p and ds again: one whose warps own queries and sum dq over keys (it also leaves
// delta for the other), one whose warps own keys and sum dk and dv over the queries of all heads that share them. So
// every sum stays in one warp's registers: no atomics, no exchange, the same bits in every run.
#include "kernels/cuda/attention.cuh"
#include <type_traits>

typedef struct backward_args {
    attention_problem problem;
    const __nv_bfloat16 *o, *d_o; // [rows, heads·head_dim]
    const float *lse;             // [heads, rows]
    float *delta;                 // [heads, rows]
    __nv_bfloat16 *dqkv;
} backward_args;

// --- Queries
// A block takes HEADS query heads of one key/value head and BLOCKS·TILES·16 tokens, a warp one head and TILES·16
// tokens. RESIDENT keeps q and d_o in registers. CTAS: blocks an SM should hold.
template <int HEAD_DIM_, int TILES_, int HEADS_, int BLOCKS_, int TILE_, int STEP_, bool RESIDENT_, int CTAS_>
struct queries_shape {
    static constexpr int HEAD_DIM = HEAD_DIM_, TILES = TILES_, HEADS = HEADS_, BLOCKS = BLOCKS_;
    static constexpr int TILE = TILE_, STEP = STEP_, CTAS = CTAS_, WARP_ROWS = TILES * 16, ROWS = BLOCKS * WARP_ROWS;
    static constexpr bool RESIDENT = RESIDENT_;
    static constexpr int WARPS = HEADS * BLOCKS, THREADS = WARPS * 32;
    static constexpr int KEYS_BYTES = TILE * HEAD_DIM * 2, STAGE_BYTES = 2 * KEYS_BYTES; // keys, values
    static constexpr int WARP_BYTES = WARP_ROWS * HEAD_DIM * 2;                          // of q, of d_o
    // Shared memory: stage 0, stage 1, and each warp's q and d_o. Those that go to registers pass through from stage 1
    // on.
    static constexpr int ROWS_AT = RESIDENT ? STAGE_BYTES : 2 * STAGE_BYTES, ROWS_BYTES = 2 * WARPS * WARP_BYTES;
    static constexpr int SHARED_BYTES = RESIDENT && ROWS_BYTES < STAGE_BYTES ? 2 * STAGE_BYTES : ROWS_AT + ROWS_BYTES;
    using rows = std::conditional_t<RESIDENT, rows_in_registers<HEAD_DIM, TILES>, rows_in_shared>;
    static_assert(TILE % STEP == 0 && STEP % 16 == 0 && ATTENTION_STRETCH % ROWS == 0 && 128 % TILE == 0, "");
    static_assert(128 % ROWS == 0, "whole blocks of rows");
};
//                       head_dim, tiles, heads, blocks, tile, step, resident, blocks an SM
using queries_even = queries_shape<64, 2, 2, 2, 64, 32, true, 2>; // an even number of query heads a key/value head
using queries_odd = queries_shape<64, 2, 1, 4, 64, 32, true, 2>;
using queries_even_128 = queries_shape<128, 1, 2, 2, 32, 16, false, 3>;
using queries_odd_128 = queries_shape<128, 1, 1, 4, 32, 16, false, 3>;

// delta of row `lane` (of WARP_ROWS) of this warp: eight lanes take a row's 16-byte chunks, four rows at a time.
template <typename S> static __device__ __forceinline__ float row_delta(const backward_args &a, int first, int head) {
    const int lane = threadIdx.x % 32;
    const int64_t width = (int64_t)a.problem.heads * S::HEAD_DIM;
    float own = 0;
#pragma unroll
    for (int i = 0; i < S::WARP_ROWS / 4; i++) {
        float sum = 0;
#pragma unroll
        for (int c = 0; c < S::HEAD_DIM; c += 64) {
            const int64_t at = (first + i * 4 + lane / 8) * width + head * S::HEAD_DIM + c + lane % 8 * 8;
            const uint4 o = *(const uint4 *)(a.o + at), d = *(const uint4 *)(a.d_o + at);
            const uint32_t x[4] = {o.x, o.y, o.z, o.w}, y[4] = {d.x, d.y, d.z, d.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float2 p = decode_bf16x2(x[j]), q = decode_bf16x2(y[j]);
                sum = fmaf(p.x, q.x, fmaf(p.y, q.y, sum));
            }
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        sum += __shfl_xor_sync(0xffffffffu, sum, 4);
        float row = __shfl_sync(0xffffffffu, sum, lane % 4 * 8);
        if (i == lane % S::WARP_ROWS / 4) own = row;
    }
    return own;
}

// What a warp knows of its rows 16·t + 8·half + g; `start`: seq_start of row `lane`, counted from the warp's first.
template <typename S> struct queries_warp {
    int start;
    float lse_log2[S::TILES][2], delta[S::TILES][2];
};

// Adds the part of STEP keys from `key` on. `keys`: this lane's address of their rows in the tile.
template <typename S>
static __device__ __forceinline__ void queries_step(const attention_problem &a, const queries_warp<S> &w,
                                                    const typename S::rows &q, const typename S::rows &d_o,
                                                    uint32_t keys, int key, bool masked,
                                                    float (&dq)[S::TILES][S::HEAD_DIM / 8][4]) {
    float s[S::TILES][S::STEP / 8][4], dp[S::TILES][S::STEP / 8][4];
    product_rows<S::HEAD_DIM, S::TILES, S::STEP / 16>(s, q, keys);
    product_rows<S::HEAD_DIM, S::TILES, S::STEP / 16>(dp, d_o, keys + S::KEYS_BYTES);
    if (masked) mask_scores<S::TILES, S::STEP / 16>(w.start, key, s);
#pragma unroll
    for (int t = 0; t < S::TILES; t++)
#pragma unroll
        for (int n = 0; n < S::STEP / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float p = exp2_fast(fmaf(s[t][n][i], a.scale_log2, -w.lse_log2[t][i / 2]));
                s[t][n][i] = p * (dp[t][n][i] - w.delta[t][i / 2]);
            }
    product_weights<S::HEAD_DIM, S::TILES, S::STEP / 16>(dq, s, keys);
}

// Grid: (heads / HEADS, rows / ROWS).
template <typename S>
__global__ void __launch_bounds__(S::THREADS, S::CTAS) attention_backward_queries(const backward_args a) {
    extern __shared__ __align__(256) unsigned char attention_shared[];
    const attention_problem &problem = a.problem;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    const int head = blockIdx.x * S::HEADS + warp % S::HEADS;
    const int tile = attention_last_first(blockIdx.y, problem.rows / S::ROWS, ATTENTION_STRETCH / S::ROWS);
    const int kv = blockIdx.x * S::HEADS / (problem.heads / problem.kv_heads);
    const int first = tile * S::ROWS, last_stage = (first + S::ROWS - 1) / S::TILE;
    const int warp_first = first + warp / S::HEADS * S::WARP_ROWS;
    const int width = attention_width<S::HEAD_DIM>(problem), o_width = problem.heads * S::HEAD_DIM;
    const uint32_t shared = shared_address(attention_shared);

    // This warp's q and d_o, and the tile on the diagonal.
    const uint32_t own_q = shared + S::ROWS_AT + warp * 2 * S::WARP_BYTES, own_d_o = own_q + S::WARP_BYTES;
    const tile_copier<S::HEAD_DIM, 32> q_copier(lane, width), d_o_copier(lane, o_width);
    const tile_copier<S::HEAD_DIM, S::THREADS> copier(threadIdx.x, width);
    const __nv_bfloat16 *next_keys =
        copier.place(problem.qkv + (problem.heads + kv) * S::HEAD_DIM + (int64_t)last_stage * S::TILE * width);
    const int to_values = problem.kv_heads * S::HEAD_DIM;
    q_copier.template copy<S::WARP_ROWS>(
        own_q, q_copier.place(problem.qkv + (int64_t)warp_first * width + head * S::HEAD_DIM));
    d_o_copier.template copy<S::WARP_ROWS>(
        own_d_o, d_o_copier.place(a.d_o + (int64_t)warp_first * o_width + head * S::HEAD_DIM));
    copier.template copy<S::TILE>(shared, next_keys);
    copier.template copy<S::TILE>(shared + S::KEYS_BYTES, next_keys + to_values);
    async_commit();

    const int own_row = warp_first + lane % S::WARP_ROWS;
    const int64_t own_statistic = (int64_t)head * problem.rows + own_row;
    const int first_key = problem.seq_start[first] / S::TILE * S::TILE - warp_first;
    const float own_lse = a.lse[own_statistic] * ATTENTION_LOG2E, own_delta = row_delta<S>(a, warp_first, head);
    if (lane < S::WARP_ROWS) a.delta[own_statistic] = own_delta;
    queries_warp<S> w;
    w.start = problem.seq_start[own_row] - warp_first;
    float dq[S::TILES][S::HEAD_DIM / 8][4];
#pragma unroll
    for (int t = 0; t < S::TILES; t++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            w.lse_log2[t][half] = __shfl_sync(0xffffffffu, own_lse, t * 16 + half * 8 + g);
            w.delta[t][half] = __shfl_sync(0xffffffffu, own_delta, t * 16 + half * 8 + g);
        }
#pragma unroll
        for (int n = 0; n < S::HEAD_DIM / 8; n++) dq[t][n][0] = dq[t][n][1] = dq[t][n][2] = dq[t][n][3] = 0;
    }
    async_wait<0>();
    __syncthreads();
    typename S::rows q, d_o;
    rows_load<S::HEAD_DIM, S::TILES>(q, own_q + lane_offset<S::HEAD_DIM>());
    rows_load<S::HEAD_DIM, S::TILES>(d_o, own_d_o + lane_offset<S::HEAD_DIM>());
    if (S::RESIDENT) __syncthreads(); // stage 1 is free

    const uint32_t keys = shared + lane_offset<S::HEAD_DIM>();
    uint32_t stage = 0; // offset of the one in use
    for (int tile_key = last_stage * S::TILE - warp_first; tile_key >= first_key;
         tile_key -= S::TILE, stage ^= S::STAGE_BYTES) {
        if (tile_key > first_key) {
            const tile_copier<S::HEAD_DIM, S::THREADS> again(thread_again(), width);
            next_keys -= S::TILE * width;
            again.template copy<S::TILE>(shared + (stage ^ S::STAGE_BYTES), next_keys);
            again.template copy<S::TILE>(shared + (stage ^ S::STAGE_BYTES) + S::KEYS_BYTES, next_keys + to_values);
            async_commit();
        }
#pragma unroll
        for (int j = S::TILE - S::STEP; j >= 0; j -= S::STEP) {
            const int key = tile_key + j;
            const bool masked = key + S::STEP - 1 > 0 || __any_sync(0xffffffffu, key < w.start);
            if (masked && (key >= S::WARP_ROWS || __all_sync(0xffffffffu, key + S::STEP <= w.start))) continue;
            queries_step<S>(problem, w, q, d_o, keys + stage + j * S::HEAD_DIM * 2, key, masked, dq);
        }
        async_wait<0>(); // the next tile is here, and
        __syncthreads(); // nobody reads this one any more
    }
    tile_store<S::HEAD_DIM, S::TILES>(a.dqkv + (int64_t)warp_first * width + head * S::HEAD_DIM, width, dq,
                                      problem.scale);
}

// --- Keys
// A block takes WARPS·TILES·16 keys of one key/value head, a warp TILES·16 of them, and walks over tiles of ROWS
// queries, head after head. Scores are kept transposed, [keys, queries]: rounded they are the weights of dv and dk.
template <int HEAD_DIM_, int TILES_, int WARPS_, int ROWS_, int STEP_, bool RESIDENT_, int CTAS_> struct keys_shape {
    static constexpr int HEAD_DIM = HEAD_DIM_, TILES = TILES_, WARPS = WARPS_, ROWS = ROWS_, STEP = STEP_;
    static constexpr bool RESIDENT = RESIDENT_;
    static constexpr int CTAS = CTAS_, THREADS = WARPS * 32, WARP_KEYS = TILES * 16, KEYS = WARPS * WARP_KEYS;
    static constexpr int KEYS_BYTES = KEYS * HEAD_DIM * 2, ROWS_BYTES = ROWS * HEAD_DIM * 2;
    // A stage: q, d_o, and lse, delta and seq_start of its rows.
    static constexpr int STATISTICS_AT = 2 * ROWS_BYTES, STAGE_BYTES = (STATISTICS_AT + 3 * ROWS * 4 + 255) / 256 * 256;
    static constexpr int STAGES_AT = 2 * KEYS_BYTES, SHARED_BYTES = STAGES_AT + 2 * STAGE_BYTES;
    using rows = std::conditional_t<RESIDENT, rows_in_registers<HEAD_DIM, TILES>, rows_in_shared>;
    static_assert(ROWS % STEP == 0 && STEP % 16 == 0 && ATTENTION_STRETCH % KEYS == 0 && KEYS % ROWS == 0, "");
    static_assert(128 % KEYS == 0 && 3 * ROWS / 4 <= THREADS, "whole blocks of keys");
};
//                  head_dim, tiles, warps, rows, step, resident, blocks an SM
using keys_64 = keys_shape<64, 1, 4, 64, 32, true, 3>;
using keys_128 = keys_shape<128, 1, 4, 32, 16, false, 2>;

// Tiles of ROWS queries, from the one at `first_key` on, that see some of the block's keys: a tile does if its first
// row's sequence starts before the keys' end, because starts do not fall.
template <typename S> static __device__ __forceinline__ int tiles_that_see(const attention_problem &a, int first_key) {
    const int end = first_key + S::KEYS, lane = threadIdx.x % 32;
    int tiles = S::KEYS / S::ROWS;
    for (;;) {
        int row = first_key + (tiles + lane) * S::ROWS;
        unsigned see = __ballot_sync(0xffffffffu, row < a.rows && a.seq_start[row] < end);
        tiles += __popc(see);
        if (see != 0xffffffffu) return tiles;
    }
}

// Adds the part of STEP queries. `q`: this lane's address of their rows; `statistics`: lse, delta, seq_start of them,
// ROWS floats apart. `query`: the first, counted from the warp's first key.
template <typename S>
static __device__ __forceinline__ void
keys_step(const attention_problem &a, const typename S::rows &k, const typename S::rows &v, uint32_t q,
          const float *statistics, int query, int warp_first, bool masked, float (&dk)[S::TILES][S::HEAD_DIM / 8][4],
          float (&dv)[S::TILES][S::HEAD_DIM / 8][4]) {
    const int g = threadIdx.x % 32 / 4, t4 = threadIdx.x % 4;
    float s[S::TILES][S::STEP / 8][4], dp[S::TILES][S::STEP / 8][4];
    product_rows<S::HEAD_DIM, S::TILES, S::STEP / 16>(s, k, q);
    if (masked) {
#pragma unroll
        for (int n = 0; n < S::STEP / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int column = n * 8 + 2 * t4 + i;
                const int start = __float_as_int(statistics[2 * S::ROWS + column]) - warp_first;
#pragma unroll
                for (int t = 0; t < S::TILES; t++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int key = t * 16 + half * 8 + g;
                        if (key < start || key > query + column) s[t][n][2 * half + i] = -INFINITY;
                    }
            }
    }
#pragma unroll
    for (int n = 0; n < S::STEP / 8; n++) {
        const float2 lse = *(const float2 *)(statistics + n * 8 + 2 * t4);
        const float shift[2] = {-lse.x * ATTENTION_LOG2E, -lse.y * ATTENTION_LOG2E};
#pragma unroll
        for (int t = 0; t < S::TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[t][n][i] = exp2_fast(fmaf(s[t][n][i], a.scale_log2, shift[i % 2]));
    }
    product_rows<S::HEAD_DIM, S::TILES, S::STEP / 16>(dp, v, q + S::ROWS_BYTES);
    product_weights<S::HEAD_DIM, S::TILES, S::STEP / 16>(dv, s, q + S::ROWS_BYTES);
#pragma unroll
    for (int n = 0; n < S::STEP / 8; n++) {
        const float2 delta = *(const float2 *)(statistics + S::ROWS + n * 8 + 2 * t4);
#pragma unroll
        for (int t = 0; t < S::TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[t][n][i] *= dp[t][n][i] - (i % 2 ? delta.y : delta.x);
    }
    product_weights<S::HEAD_DIM, S::TILES, S::STEP / 16>(dk, s, q);
}

// What one thread copies of a tile of queries: its chunks of q and d_o, and of one of the three statistics.
template <typename S>
static __device__ __forceinline__ void copy_queries(const backward_args &a, uint32_t stage, int head, int row) {
    const attention_problem &problem = a.problem;
    const unsigned thread = thread_again();
    const int width = attention_width<S::HEAD_DIM>(problem), o_width = problem.heads * S::HEAD_DIM;
    const tile_copier<S::HEAD_DIM, S::THREADS> q(thread, width), d_o(thread, o_width);
    q.template copy<S::ROWS>(stage, q.place(problem.qkv + (int64_t)row * width + head * S::HEAD_DIM));
    d_o.template copy<S::ROWS>(stage + S::ROWS_BYTES, d_o.place(a.d_o + (int64_t)row * o_width + head * S::HEAD_DIM));
    constexpr unsigned CHUNKS = S::ROWS / 4;
    if (thread < 3 * CHUNKS) {
        const unsigned which = thread / CHUNKS, at = thread % CHUNKS * 4;
        const int64_t statistic = (int64_t)head * problem.rows + row + at;
        const void *from = which == 0   ? (const void *)(a.lse + statistic)
                           : which == 1 ? (const void *)(a.delta + statistic)
                                        : (const void *)(problem.seq_start + row + at);
        async_copy_16(stage + S::STATISTICS_AT + thread * 16, from);
    }
    async_commit();
}

// Grid: (kv_heads, rows / KEYS).
template <typename S>
__global__ void __launch_bounds__(S::THREADS, S::CTAS) attention_backward_keys(const backward_args a) {
    extern __shared__ __align__(256) unsigned char attention_shared[];
    const attention_problem &problem = a.problem;
    const int warp = threadIdx.x / 32, kv = blockIdx.x, group = problem.heads / problem.kv_heads;
    const int first_key =
        attention_first_first(blockIdx.y, problem.rows / S::KEYS, ATTENTION_STRETCH / S::KEYS) * S::KEYS;
    const int warp_first = first_key + warp * S::WARP_KEYS;
    const int width = attention_width<S::HEAD_DIM>(problem);
    const uint32_t shared = shared_address(attention_shared);
    {
        const tile_copier<S::HEAD_DIM, S::THREADS> copier(threadIdx.x, width);
        const __nv_bfloat16 *from =
            copier.place(problem.qkv + (problem.heads + kv) * S::HEAD_DIM + (int64_t)first_key * width);
        copier.template copy<S::KEYS>(shared, from);
        copier.template copy<S::KEYS>(shared + S::KEYS_BYTES, from + problem.kv_heads * S::HEAD_DIM);
    }
    copy_queries<S>(a, shared + S::STAGES_AT, kv * group, first_key);
    const int tiles = tiles_that_see<S>(problem, first_key);
    float dk[S::TILES][S::HEAD_DIM / 8][4], dv[S::TILES][S::HEAD_DIM / 8][4];
#pragma unroll
    for (int t = 0; t < S::TILES; t++)
#pragma unroll
        for (int n = 0; n < S::HEAD_DIM / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) dk[t][n][i] = dv[t][n][i] = 0;
    async_wait<0>();
    __syncthreads();
    typename S::rows k, v;
    const uint32_t own = shared + warp * S::WARP_KEYS * S::HEAD_DIM * 2 + lane_offset<S::HEAD_DIM>();
    rows_load<S::HEAD_DIM, S::TILES>(k, own);
    rows_load<S::HEAD_DIM, S::TILES>(v, own + S::KEYS_BYTES);

    uint32_t stage = S::STAGES_AT;
    int head = kv * group, tile = 0;
    for (int left = group * tiles; left > 0; left--) {
        const int row = first_key + tile * S::ROWS - warp_first; // of the tile in use, from the warp's first key
        const uint32_t other = 2 * S::STAGES_AT + S::STAGE_BYTES - stage;
        if (++tile == tiles) tile = 0, head++;
        if (left > 1) copy_queries<S>(a, shared + other, head, first_key + tile * S::ROWS);
        const float *statistics = (const float *)(attention_shared + stage + S::STATISTICS_AT);
        const int *starts = (const int *)statistics + 2 * S::ROWS;
#pragma unroll
        for (int j = 0; j < S::ROWS; j += S::STEP) {
            const int query = row + j;
            if (query + S::STEP <= 0 || starts[j] - warp_first >= S::WARP_KEYS) continue;
            const bool masked = query < S::WARP_KEYS - 1 || starts[j + S::STEP - 1] > warp_first;
            keys_step<S>(problem, k, v, shared + stage + j * S::HEAD_DIM * 2 + lane_offset<S::HEAD_DIM>(),
                         statistics + j, query, warp_first, masked, dk, dv);
        }
        async_wait<0>(); // the next tile is here, and
        __syncthreads(); // nobody reads this one any more
        stage = other;
    }
    __nv_bfloat16 *to = a.dqkv + (int64_t)warp_first * width + (problem.heads + kv) * S::HEAD_DIM;
    tile_store<S::HEAD_DIM, S::TILES>(to, width, dk, problem.scale);
    tile_store<S::HEAD_DIM, S::TILES>(to + problem.kv_heads * S::HEAD_DIM, width, dv, 1);
}

// --- Host
template <typename S> static yx_status launch_queries(cudaStream_t stream, const backward_args *a) {
    CUDA_TRY(cuda_allow_shared(attention_backward_queries<S>, S::SHARED_BYTES));
    dim3 blocks(a->problem.heads / S::HEADS, a->problem.rows / S::ROWS);
    attention_backward_queries<S><<<blocks, S::THREADS, S::SHARED_BYTES, stream>>>(*a);
    CUDA_LAUNCHED();
    return YX_OK;
}
template <typename S> static yx_status launch_keys(cudaStream_t stream, const backward_args *a) {
    CUDA_TRY(cuda_allow_shared(attention_backward_keys<S>, S::SHARED_BYTES));
    dim3 blocks(a->problem.kv_heads, a->problem.rows / S::KEYS);
    attention_backward_keys<S><<<blocks, S::THREADS, S::SHARED_BYTES, stream>>>(*a);
    CUDA_LAUNCHED();
    return YX_OK;
}

size_t cuda_attention_workspace(const yx_device *, const yx_workspace_query *q) {
    cuda_scratch scratch = {};
    scratch.take<float>(q->heads * q->rows); // delta
    return scratch.used;
}

yx_status cuda_attention_backward(yx_device *d, yx_stream *s, const yx_attention_backward_args *args) {
    backward_args a = {};
    yx_status status =
        cuda_attention_problem("attention_backward", args->rows, args->heads, args->kv_heads, args->head_dim, args->act,
                               args->scale, args->seq_start, args->qkv, &a.problem);
    if (status != YX_OK || args->rows == 0) return status;
    cuda_scratch scratch = {d->workspace, 0};
    a.delta = scratch.take<float>(args->heads * args->rows);
    status = cuda_check_workspace(d, scratch.used, "attention_backward");
    if (status != YX_OK) return status;
    a.o = (const __nv_bfloat16 *)args->o;
    a.d_o = (const __nv_bfloat16 *)args->d_o;
    a.lse = args->lse;
    a.dqkv = (__nv_bfloat16 *)args->dqkv;
    cudaStream_t stream = cuda_stream(d, s);
    const bool even = args->heads / args->kv_heads % 2 == 0, wide = args->head_dim == 128;
    if (wide)
        status = even ? launch_queries<queries_even_128>(stream, &a) : launch_queries<queries_odd_128>(stream, &a);
    else status = even ? launch_queries<queries_even>(stream, &a) : launch_queries<queries_odd>(stream, &a);
    if (status != YX_OK) return status;
    return wide ? launch_keys<keys_128>(stream, &a) : launch_keys<keys_64>(stream, &a);
}

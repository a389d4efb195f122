// Attention, forward: online softmax over tiles of keys (Dao et al. 2022, FlashAttention), one kernel for every length
// of sequence.
//
// A block takes HEADS query heads of one key/value head and BLOCKS·32 tokens; each of its HEADS·BLOCKS warps one head
// and 32 tokens, so that a fragment of keys that ldmatrix brings serves four products. The warps share tiles of keys
// and values. Tiles are walked from the diagonal back to the first key that the block's first row sees: every row meets
// its own key first, so its maximum is finite from then on, and the first tile is known before seq_start is read. A
// step is STEP keys of a tile; steps that a warp's rows do not see are skipped, those they see whole need no mask.
//
// The sums are brought to a new maximum only when it exceeds the one in use by 2^FORWARD_SLACK: weights up to that
// size are as exact in bf16 and fp32 as those below 1, and most steps then leave o alone (as FlashAttention 4 does).
#include "kernels/cuda/attention.cuh"
#include <type_traits>

// RESIDENT keeps the queries in registers. CTAS: blocks an SM should hold.
template <int HEAD_DIM_, int HEADS_, int BLOCKS_, int TILE_, int STEP_, bool RESIDENT_, int CTAS_>
struct forward_shape {
    static constexpr int HEAD_DIM = HEAD_DIM_, HEADS = HEADS_, BLOCKS = BLOCKS_, TILE = TILE_, STEP = STEP_;
    static constexpr bool RESIDENT = RESIDENT_;
    static constexpr int CTAS = CTAS_, WARPS = HEADS * BLOCKS, THREADS = WARPS * 32, ROWS = BLOCKS * 32;
    static constexpr int KEYS_BYTES = TILE * HEAD_DIM * 2, STAGE_BYTES = 2 * KEYS_BYTES; // keys, values
    static constexpr int WARP_QUERIES_BYTES = 32 * HEAD_DIM * 2, QUERIES_BYTES = WARPS * WARP_QUERIES_BYTES;
    // Shared memory: stage 0, stage 1, queries. Those that go to registers pass through from stage 1 on.
    static constexpr int QUERIES_AT = RESIDENT ? STAGE_BYTES : 2 * STAGE_BYTES;
    static constexpr int SHARED_BYTES =
        RESIDENT && QUERIES_BYTES < STAGE_BYTES ? 2 * STAGE_BYTES : QUERIES_AT + QUERIES_BYTES;
    using queries = std::conditional_t<RESIDENT, rows_in_registers<HEAD_DIM, 2>, rows_in_shared>;
    static_assert(TILE % STEP == 0 && STEP % 16 == 0 && ATTENTION_STRETCH % ROWS == 0 && 128 % TILE == 0, "");
};
//                     head_dim, heads, 32 tokens, tile, step, resident, blocks an SM
using forward_even = forward_shape<64, 2, 2, 64, 32, true, 3>; // an even number of query heads a key/value head
using forward_odd = forward_shape<64, 1, 4, 64, 32, true, 3>;
using forward_even_128 = forward_shape<128, 2, 2, 32, 32, false, 2>;
using forward_odd_128 = forward_shape<128, 1, 4, 32, 32, false, 2>;

constexpr float FORWARD_SLACK = 8; // in powers of two

typedef struct forward_args {
    attention_problem problem;
    float slack; // FORWARD_SLACK in units of the scores before scaling
    __nv_bfloat16 *o;
    float *lse;
    yx_operand out; // what else to write: E4M3 copies, or a bf16 row copy; amax is NULL
} forward_args;

// What a warp knows of its 32 rows of one head. In the loop over keys they are numbered from the warp's first row on.
typedef struct forward_warp {
    int start;        // seq_start of row `lane`
    float max[2][2];  // in use, of the scores before scaling, of rows 16·t + 8·half + g
    float norm[2][2]; // this lane's part of the sum of exp
} forward_warp;

// Brings the sums to new maxima if any row's asks for it. A lane looks at its own scores; only then do the lanes of a
// row meet.
template <typename S>
static __device__ __forceinline__ void raise_maxima(const forward_args &a, forward_warp &w,
                                                    const float (&s)[2][S::STEP / 8][4],
                                                    float (&o)[2][S::HEAD_DIM / 8][4]) {
    float top[2][2];
    bool raise = false;
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float m = fmaxf(s[t][0][2 * half], s[t][0][2 * half + 1]);
#pragma unroll
            for (int n = 1; n < S::STEP / 8; n++) m = fmaxf(m, fmaxf(s[t][n][2 * half], s[t][n][2 * half + 1]));
            top[t][half] = m;
            raise |= m > w.max[t][half] + a.slack;
        }
    if (!__any_sync(0xffffffffu, raise)) return;
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float m = fmaxf(w.max[t][half], top[t][half]);
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
            float shrink = exp2_fast((w.max[t][half] - m) * a.problem.scale_log2);
            w.max[t][half] = m;
            w.norm[t][half] *= shrink;
#pragma unroll
            for (int n = 0; n < S::HEAD_DIM / 8; n++) o[t][n][2 * half] *= shrink, o[t][n][2 * half + 1] *= shrink;
        }
}

// Adds the part of STEP keys from `key` on. `keys`: this lane's address of their rows in the tile.
template <typename S, typename Rows>
static __device__ __forceinline__ void attend_step(const forward_args &a, forward_warp &w, const Rows &q, uint32_t keys,
                                                   int key, bool masked, float (&o)[2][S::HEAD_DIM / 8][4]) {
    float s[2][S::STEP / 8][4];
    product_rows<S::HEAD_DIM, 2, S::STEP / 16>(s, q, keys);
    if (masked) mask_scores<2, S::STEP / 16>(w.start, key, s);
    raise_maxima<S>(a, w, s, o);
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float shift = -w.max[t][half] * a.problem.scale_log2;
#pragma unroll
            for (int n = 0; n < S::STEP / 8; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float &p = s[t][n][2 * half + i];
                    p = exp2_fast(fmaf(p, a.problem.scale_log2, shift));
                    w.norm[t][half] += p;
                }
        }
    product_weights<S::HEAD_DIM, 2, S::STEP / 16>(o, s, keys + S::KEYS_BYTES);
}

// --- Copies of o as an operand
// Eight-bit codes of a warp's o: word t of codes[n] holds, from the lowest byte, rows 16·t + g (columns 8·n + 2·t4 and
// + 1), and rows 16·t + 8 + g (the same columns).
template <typename S>
static __device__ __forceinline__ void encode_codes(const float (&o)[2][S::HEAD_DIM / 8][4], float scale,
                                                    quant_tally &seen, uint32_t (&codes)[S::HEAD_DIM / 8][2]) {
#pragma unroll
    for (int n = 0; n < S::HEAD_DIM / 8; n++)
#pragma unroll
        for (int t = 0; t < 2; t++) {
            const float(&c)[4] = o[t][n];
#pragma unroll
            for (int i = 0; i < 4; i++) tally<YX_E4M3>(seen, c[i], scale);
            codes[n][t] = encode_fp8x4<YX_E4M3>(c[0] * scale, c[1] * scale, c[2] * scale, c[3] * scale);
        }
}

// Rows of codes. Tiles n and n + 4 travel together: a quad stores 32 contiguous bytes twice. `to`: row 0 of the warp.
template <typename S>
static __device__ __forceinline__ void store_code_rows(uint8_t *to, int64_t stride,
                                                       const uint32_t (&codes)[S::HEAD_DIM / 8][2]) {
    const int g = threadIdx.x % 32 / 4, t4 = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int n = 0; n < S::HEAD_DIM / 8; n += 8) {
                uint32_t v[4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    v[i] = __byte_perm(codes[n + i][t], codes[n + 4 + i][t], half ? 0x7632 : 0x5410);
                quad_transpose(v);
                uint8_t *at = to + (t * 16 + half * 8 + g) * stride + (n + t4) * 8;
                *(uint2 *)at = make_uint2(__byte_perm(v[0], v[1], 0x5410), __byte_perm(v[2], v[3], 0x5410));
                *(uint2 *)(at + 32) = make_uint2(__byte_perm(v[0], v[1], 0x7632), __byte_perm(v[2], v[3], 0x7632));
            }
}

// The transposed codes: of each 8 columns, 32 bytes of each. A lane's eight bytes of codes[n] are indexed by three bits
// (tile t, half, column parity); three exchanges swap them with the three bits of g, after which it holds eight rows
// of one column: byte i is row 8·octet + i, octet = g / 2, of column 8·n + 2·t4 + g % 2. `to`: row 0 of the warp in
// column 0 of the head.
template <typename S>
static __device__ __forceinline__ void store_code_columns(uint8_t *to, int64_t rows,
                                                          const uint32_t (&codes)[S::HEAD_DIM / 8][2]) {
    const int g = threadIdx.x % 32 / 4, t4 = threadIdx.x % 4;
    const uint32_t send_half = g & 2 ? 0x5410 : 0x7632, low_half = g & 2 ? 0x3254 : 0x5410;
    const uint32_t high_half = g & 2 ? 0x3276 : 0x7610;
    const uint32_t send_byte = g & 1 ? 0x6420 : 0x7531, low_byte = g & 1 ? 0x3514 : 0x5240;
    const uint32_t high_byte = g & 1 ? 0x3716 : 0x7260;
    to += (2 * t4 + g % 2) * rows + g / 2 * 8;
#pragma unroll
    for (int n = 0; n < S::HEAD_DIM / 8; n++) {
        uint32_t low = codes[n][0], high = codes[n][1];
        uint32_t got = __shfl_xor_sync(0xffffffffu, g & 4 ? low : high, 16);
        if (g & 4) low = got;
        else high = got;
        got = __shfl_xor_sync(0xffffffffu, __byte_perm(low, high, send_half), 8);
        low = __byte_perm(low, got, low_half), high = __byte_perm(high, got, high_half);
        got = __shfl_xor_sync(0xffffffffu, __byte_perm(low, high, send_byte), 4);
        low = __byte_perm(low, got, low_byte), high = __byte_perm(high, got, high_byte);
        *(uint2 *)(to + n * 8 * rows) = make_uint2(low, high);
    }
}

template <typename S>
static __device__ __forceinline__ void store_operand(const forward_args &a, int first, int head,
                                                     const float (&o)[2][S::HEAD_DIM / 8][4]) {
    const int64_t width = (int64_t)a.problem.heads * S::HEAD_DIM, rows = a.problem.rows;
    const float scale = quant_scale(a.out.quant);
    const int64_t at = first * width + head * S::HEAD_DIM;
    if (a.out.dtype == YX_BF16) {
        if (a.out.row) tile_store<S::HEAD_DIM, 2>((__nv_bfloat16 *)a.out.row + at, width, o, scale);
        return;
    }
    quant_tally seen = {0, 0};
    uint32_t codes[S::HEAD_DIM / 8][2];
    encode_codes<S>(o, scale, seen, codes);
    if (a.out.row) store_code_rows<S>((uint8_t *)a.out.row + at, width, codes);
    if (a.out.col) store_code_columns<S>((uint8_t *)a.out.col + head * S::HEAD_DIM * rows + first, rows, codes);
    tally_record(seen, a.out.quant);
}

// o / norm, and everything that is written of it.
template <typename S>
static __device__ __forceinline__ void finish(const forward_args &a, const forward_warp &w, int first, int head,
                                              float (&o)[2][S::HEAD_DIM / 8][4]) {
    const int g = threadIdx.x % 32 / 4, t4 = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float norm = w.norm[t][half];
            norm += __shfl_xor_sync(0xffffffffu, norm, 1);
            norm += __shfl_xor_sync(0xffffffffu, norm, 2);
            float lse = fmaf(w.max[t][half], a.problem.scale, __logf(norm)), inverse = __fdividef(1, norm);
            if (t4 == 0) a.lse[(int64_t)head * a.problem.rows + first + t * 16 + half * 8 + g] = lse;
#pragma unroll
            for (int n = 0; n < S::HEAD_DIM / 8; n++) o[t][n][2 * half] *= inverse, o[t][n][2 * half + 1] *= inverse;
        }
    const int64_t width = (int64_t)a.problem.heads * S::HEAD_DIM;
    tile_store<S::HEAD_DIM, 2>(a.o + first * width + head * S::HEAD_DIM, width, o, 1);
    if (a.out.row || a.out.col) store_operand<S>(a, first, head, o);
}

template <typename S> static __device__ __forceinline__ int forward_tile(const attention_problem &a, int place) {
    return attention_last_first(place, a.rows / S::ROWS, ATTENTION_STRETCH / S::ROWS);
}
template <typename S> static __device__ __forceinline__ int forward_first_row(int tile, int warp) {
    return tile * S::ROWS + warp / S::HEADS * 32;
}

// Grid: (heads / HEADS, rows / ROWS).
template <typename S> __global__ void __launch_bounds__(S::THREADS, S::CTAS) attention_forward(const forward_args a) {
    extern __shared__ __align__(256) unsigned char attention_shared[];
    const attention_problem &problem = a.problem;
    int warp = threadIdx.x / 32;
    const int head = blockIdx.x * S::HEADS + warp % S::HEADS;
    const int tile = forward_tile<S>(problem, blockIdx.y);
    const int kv = blockIdx.x * S::HEADS / (problem.heads / problem.kv_heads);
    const int first = tile * S::ROWS, last = first + S::ROWS - 1;
    const int last_stage = last / S::TILE;
    const int width = attention_width<S::HEAD_DIM>(problem);
    const uint32_t shared = shared_address(attention_shared);
    const int warp_first = forward_first_row<S>(tile, warp);
    forward_warp w;

    // The queries of this warp, and the tile on the diagonal.
    const uint32_t own_queries = shared + S::QUERIES_AT + warp * S::WARP_QUERIES_BYTES;
    const tile_copier<S::HEAD_DIM, 32> warp_copier(threadIdx.x % 32, width);
    const tile_copier<S::HEAD_DIM, S::THREADS> copier(threadIdx.x, width);
    const __nv_bfloat16 *next_keys =
        copier.place(problem.qkv + (problem.heads + kv) * S::HEAD_DIM + (int64_t)last_stage * S::TILE * width);
    const int to_values = problem.kv_heads * S::HEAD_DIM;
    warp_copier.template copy<32>(own_queries,
                                  warp_copier.place(problem.qkv + (int64_t)warp_first * width + head * S::HEAD_DIM));
    copier.template copy<S::TILE>(shared, next_keys);
    copier.template copy<S::TILE>(shared + S::KEYS_BYTES, next_keys + to_values);
    async_commit();
    const int first_key = problem.seq_start[first] / S::TILE * S::TILE - warp_first;
    w.start = problem.seq_start[warp_first + threadIdx.x % 32] - warp_first;
    float o[2][S::HEAD_DIM / 8][4];
#pragma unroll
    for (int t = 0; t < 2; t++) {
        w.max[t][0] = w.max[t][1] = -INFINITY, w.norm[t][0] = w.norm[t][1] = 0;
#pragma unroll
        for (int n = 0; n < S::HEAD_DIM / 8; n++) o[t][n][0] = o[t][n][1] = o[t][n][2] = o[t][n][3] = 0;
    }
    async_wait<0>();
    __syncthreads();
    typename S::queries q;
    rows_load<S::HEAD_DIM, 2>(q, own_queries + lane_offset<S::HEAD_DIM>());
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
            if (masked && (key > 31 || __all_sync(0xffffffffu, key + S::STEP <= w.start))) continue;
            attend_step<S>(a, w, q, keys + stage + j * S::HEAD_DIM * 2, key, masked, o);
        }
        async_wait<0>(); // the next tile is here, and
        __syncthreads(); // nobody reads this one any more
    }
    warp = thread_again() / 32;
    finish<S>(a, w, forward_first_row<S>(forward_tile<S>(problem, block_again_y()), warp),
              block_again() * S::HEADS + warp % S::HEADS, o);
}

// --- Host
yx_status cuda_attention_problem(const char *who, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                                 yx_dtype act, double scale, const int32_t *seq_start, const void *qkv,
                                 attention_problem *out) {
    if (rows < 0 || rows >= INT32_MAX || rows % 128 || heads <= 0 || kv_heads <= 0 || heads % kv_heads ||
        heads > INT32_MAX / head_dim || !(scale > 0) || (uintptr_t)qkv % 16)
        return yx_fail(YX_ERR_INTERNAL, "%s: arguments break the contract", who);
    if (act != YX_BF16)
        return yx_fail(YX_ERR_UNAVAILABLE, "%s: the cuda backend computes in bf16, not %s; the cpu backend can", who,
                       yx_dtype_name(act));
    if (head_dim != 64 && head_dim != 128)
        return yx_fail(YX_ERR_CONFIG, "%s: head_dim %lld; the cuda backend has kernels for 64 and 128", who,
                       (long long)head_dim);
    *out = attention_problem{(int32_t)rows,
                             (int32_t)heads,
                             (int32_t)kv_heads,
                             (float)scale,
                             (float)(scale * ATTENTION_LOG2E),
                             seq_start,
                             (const __nv_bfloat16 *)qkv};
    return YX_OK;
}

static yx_status check_operand(const yx_attention_args *a) {
    const yx_operand *out = &a->out;
    if (!out->row && !out->col) return YX_OK;
    if (out->dtype == YX_E4M3) return YX_OK;
    if (out->dtype == YX_BF16 && !out->col) return YX_OK;
    return yx_fail(YX_ERR_UNAVAILABLE, "attention: the cuda backend writes no %s copy of the output in %s",
                   out->col ? "transposed" : "row", yx_dtype_name(out->dtype));
}

template <typename S> static yx_status launch_forward(cudaStream_t stream, const forward_args *a) {
    CUDA_TRY(cuda_allow_shared(attention_forward<S>, S::SHARED_BYTES));
    dim3 blocks(a->problem.heads / S::HEADS, a->problem.rows / S::ROWS);
    attention_forward<S><<<blocks, S::THREADS, S::SHARED_BYTES, stream>>>(*a);
    CUDA_LAUNCHED();
    return YX_OK;
}

yx_status cuda_attention(yx_device *d, yx_stream *s, const yx_attention_args *args) {
    forward_args a = {};
    yx_status status = cuda_attention_problem("attention", args->rows, args->heads, args->kv_heads, args->head_dim,
                                              args->act, args->scale, args->seq_start, args->qkv, &a.problem);
    if (status == YX_OK) status = check_operand(args);
    if (status != YX_OK || args->rows == 0) return status;
    a.slack = FORWARD_SLACK / a.problem.scale_log2;
    a.o = (__nv_bfloat16 *)args->o;
    a.lse = args->lse;
    a.out = args->out;
    a.out.quant.amax = NULL; // rope recorded the bound
    if (a.out.row == args->o) a.out.row = NULL;
    cudaStream_t stream = cuda_stream(d, s);
    bool even = args->heads / args->kv_heads % 2 == 0;
    if (args->head_dim == 128)
        return even ? launch_forward<forward_even_128>(stream, &a) : launch_forward<forward_odd_128>(stream, &a);
    return even ? launch_forward<forward_even>(stream, &a) : launch_forward<forward_odd>(stream, &a);
}

// The head, forward: log-sum-exp, loss and dz of every token in one pass over the words (online softmax, Milakov &
// Gimelshein 2018; tiled as FlashAttention-2, Dao 2023, with z as queries and E as keys and values).
//
// The words are split among several blocks for each tile of tokens, so that the blocks fill the card; each leaves its
// maximum, norm and sum in the workspace, and a second kernel puts them together.
//
// The maximum is followed lazily: `top` lies SLACK above the largest score (as a power of 2) seen when it was last set,
// so that probabilities, in bf16 as precise at 2^-16 as at 1, stay below 2 until the scores have grown by another
// SLACK + 1. The top bit of the exponent says when: a bitwise or of the probabilities is all that is looked at.
//
// The target's probability is left out of Σ p·E: dz gets (p - 1)·E[target] in fp32 at the end, which keeps its
// precision where p is near 1 and the two would cancel.
#include "kernels/cuda/head.cuh"

enum {
    FORWARD_WARPS = 4, // warps of a block
    FORWARD_TILE = 64, // words staged at a time
    FORWARD_STAGES = 3,
    FINISH_WARPS = 8, // a warp finishes a token
    MOST_SPLITS = 32,
    MOST_WAVES = 3,    // of blocks, when words are split: bounds the workspace
    BLOCK_COST = 3,    // what a block costs besides its tiles, in tiles: fragments, first copies, writing the sums
    PARTS_A_TILE = 64, // sums of blocks that cost as much as a tile to put together
};
constexpr float SLACK = 16;
constexpr uint32_t TWO_OR_MORE = 0x40004000u; // the exponent's top bit of two bf16: 2 and more, infinity, NaN

struct forward_job {
    const __nv_bfloat16 *z, *E; // [rows, rank], [vocab, rank]
    const int32_t *target;
    int rows, vocab, splits, padded; // padded: rows rounded up to whole tiles of tokens
    float *top, *norm;               // [splits, padded]
    float *sum;                      // [splits, padded, rank] Σ p·E without the target
    float *logit;                    // [padded] of the target
};

// p = 2^(score - top) in bf16, as an A operand; part: this thread's sums of them by row. Returns all p or'ed.
template <int BLOCKS>
__device__ __forceinline__ uint32_t exponentials(uint32_t (&p)[BLOCKS][4], float (&part)[BLOCKS][2],
                                                 const float (&score)[BLOCKS][2][4], const float (&top)[BLOCKS][2]) {
    uint32_t any = 0;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) { // rows g, g + 8
                float x = exp2_fast(fmaf(score[b][n][2 * h], HEAD_LOG2E, -top[b][h]));
                float y = exp2_fast(fmaf(score[b][n][2 * h + 1], HEAD_LOG2E, -top[b][h]));
                part[b][h] = n ? part[b][h] + (x + y) : x + y;
                p[b][2 * n + h] = encode_bf16x2(x, y);
                any |= p[b][2 * n + h];
            }
    return any;
}

// Brings `top` up to SLACK above the largest score of this chunk where that is more, and what was summed to it. A NaN
// is passed over here and appears in the norm.
template <int BLOCKS, int COLUMNS>
__device__ __forceinline__ void raise_top(float (&top)[BLOCKS][2], float (&norm)[BLOCKS][2],
                                          float (&sum)[BLOCKS][COLUMNS][4], const float (&score)[BLOCKS][2][4]) {
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float largest = fmaxf(fmaxf(score[b][0][2 * h], score[b][0][2 * h + 1]),
                                  fmaxf(score[b][1][2 * h], score[b][1][2 * h + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
            float raised = fmaxf(top[b][h], fmaf(largest, HEAD_LOG2E, SLACK));
            float factor = raised == top[b][h] ? 1.0f : exp2_fast(top[b][h] - raised);
            top[b][h] = raised;
            norm[b][h] = __fmul_rn(norm[b][h], factor);
#pragma unroll
            for (int n = 0; n < COLUMNS; n++) sum[b][n][2 * h] *= factor, sum[b][n][2 * h + 1] *= factor;
        }
}

// Words from `words` on (of this chunk) do not exist.
template <int BLOCKS> __device__ __forceinline__ void cut_words(float (&score)[BLOCKS][2][4], int words) {
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (8 * (i / 4) + 2 * ((int)threadIdx.x % 4) + i % 2 >= words) score[b][i / 4][i % 4] = -INFINITY;
}

// Tokens of this warp whose target is in this chunk: their logit goes out, the target's p becomes 0. `target` is that
// of token `lane`; `logit` begins with the warp's first token.
template <int BLOCKS>
__device__ __forceinline__ void take_targets(uint32_t (&p)[BLOCKS][4], const float (&score)[BLOCKS][2][4], int target,
                                             int word, float *logit) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int token = 16 * b + 8 * h + g, wanted = __shfl_sync(~0u, target, token) - word - 2 * t;
#pragma unroll
            for (int i = 0; i < 4; i++) // columns 2t, 2t + 1, 2t + 8, 2t + 9
                if (wanted == 8 * (i / 2) + i % 2) {
                    logit[token] = score[b][i / 2][2 * h + i % 2];
                    p[b][2 * (i / 2) + h] &= i % 2 ? 0x0000ffffu : 0xffff0000u;
                }
        }
}

// Block (x, y): tokens of tile x against words of split y, so that blocks that run together read the same words. SUM:
// with Σ p·E.
template <int RANK, int WARPS, int TILE, int STAGES, bool SUM, bool TURNS = true>
__global__ void __launch_bounds__(32 * WARPS, (SUM ? 8 : 16) / WARPS) head_forward_kernel(const forward_job job) {
    constexpr int BLOCKS = HEAD_BLOCKS<RANK>, ROWS = 16 * BLOCKS, COLUMNS = SUM ? RANK / 8 : 1,
                  STEPS = TILE / HEAD_CHUNK;
    constexpr uint32_t BYTES = TILE * RANK * 2, RING = STAGES * BYTES, STEP = BYTES / STEPS;
    static_assert(STAGES >= 3, "one tile is read, the next must be there, one is on its way");
    extern __shared__ __align__(1024) unsigned char head_memory[];
    const int lane = threadIdx.x % 32, row = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
    const int target = lane < ROWS && row + lane < job.rows ? job.target[row + lane] : -1;
    if (!__syncthreads_or(target >= 0)) return; // no token is scored: nobody reads what would be written

    const int tiles = (job.vocab + TILE - 1) / TILE;
    const int first = tiles * (int)blockIdx.y / job.splits, last = tiles * ((int)blockIdx.y + 1) / job.splits;
    const uint32_t ring = shared_address(head_memory);
    const head_lanes at = head_lane_addresses<RANK>(ring);
    for (int i = 0; i < STAGES - 1; i++) {
        if (first + i < last)
            head_stage<RANK, 32 * WARPS, TILE>(ring + i * BYTES, job.E, (first + i) * TILE, job.vocab);
        async_commit();
    }
    uint32_t kept[BLOCKS][RANK / 16][4], p[BLOCKS][4] = {};
    float score[BLOCKS][2][4], sum[BLOCKS][COLUMNS][4], top[BLOCKS][2], norm[BLOCKS][2], part[BLOCKS][2];
    head_keep<RANK, BLOCKS>(kept, job.z, row, job.rows);
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        top[b][0] = top[b][1] = -INFINITY, norm[b][0] = norm[b][1] = 0;
#pragma unroll
        for (int i = 0; i < COLUMNS * 4; i++) sum[b][i / 4][i % 4] = 0;
    }
    async_wait<STAGES - 2>();
    __syncthreads();
    {
        float none[BLOCKS][1][4];
        head_step<RANK, BLOCKS, false, TURNS>(score, none, kept, p, at.key, at.value);
    }

    int word = first * TILE, ahead = first + STAGES - 1; // the tile to be staged next
    const int end = min(last * TILE, job.vocab);
    uint32_t now = 0, next = STEP, staged = RING - BYTES; // in the ring
    for (int step = 0; word < end; step++, word += HEAD_CHUNK) {
        if (word + HEAD_CHUNK > job.vocab) cut_words(score, job.vocab - word);
        uint32_t any = exponentials(p, part, score, top);
        if (__any_sync(~0u, (any & TWO_OR_MORE) || (uint32_t)(target - word) < HEAD_CHUNK)) { // rarely
            raise_top(top, norm, sum, score);
            exponentials(p, part, score, top);
            take_targets(p, score, target, word, job.logit + row);
        }
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) norm[b][0] += part[b][0], norm[b][1] += part[b][1];
        if (step % STEPS == STEPS - 1) { // the next tile is needed now; all are done with the one before this
            async_wait<STAGES - 3>();
            __syncthreads();
            if (ahead < last) head_stage<RANK, 32 * WARPS, TILE>(ring + staged, job.E, ahead * TILE, job.vocab);
            async_commit();
            ahead++;
            staged = staged + BYTES == RING ? 0 : staged + BYTES;
        }
        // Behind the last chunk: scores of whatever lies there, which nobody reads.
        head_step<RANK, BLOCKS, SUM, TURNS>(score, sum, kept, p, at.key + next, at.value + now);
        now = next;
        next = next + STEP == RING ? 0 : next + STEP;
    }

    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int64_t to = (int64_t)blockIdx.y * job.padded + row + 16 * b + 8 * h + g;
            float total = norm[b][h];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            if (t == 0) job.top[to] = top[b][h], job.norm[to] = total;
#pragma unroll
            for (int n = 0; SUM && n < COLUMNS; n++)
                *(float2 *)(job.sum + to * RANK + 8 * n + 2 * t) = make_float2(sum[b][n][2 * h], sum[b][n][2 * h + 1]);
        }
}

// Puts the splits of a token together; a warp each. dz NULL: not wanted.
template <int RANK>
__global__ void __launch_bounds__(32 * FINISH_WARPS)
    head_finish_kernel(const forward_job job, float scale, float *lse, float *loss, __nv_bfloat16 *dz) {
    const int lane = threadIdx.x % 32, token = blockIdx.x * FINISH_WARPS + threadIdx.x / 32;
    if (token >= job.rows) return;
    const int target = job.target[token];
    uint32_t *out = dz ? (uint32_t *)(dz + (int64_t)token * RANK) : nullptr; // pairs
    if (target < 0) {
        if (lane == 0) lse[token] = loss[token] = 0;
        for (int c = lane; out && c < RANK / 2; c += 32) out[c] = 0;
        return;
    }
    float top = -INFINITY, norm = 0;
    for (int s = 0; s < job.splits; s++) top = fmaxf(top, job.top[(int64_t)s * job.padded + token]);
    for (int s = 0; s < job.splits; s++) {
        int64_t at = (int64_t)s * job.padded + token;
        norm = fmaf(job.norm[at], exp2_fast(job.top[at] - top), norm);
    }
    float logit = job.logit[token], log2_sum = top + log2f(norm);
    if (lane == 0) {
        float x = log2_sum * HEAD_LN2;
        lse[token] = x;
        loss[token] = x - logit;
    }
    if (!out) return;
    float inverse = 1 / norm, rest = exp2f(fmaf(logit, HEAD_LOG2E, -log2_sum)) - 1; // p - 1 of the target
    const uint32_t *word = (const uint32_t *)(job.E + (int64_t)target * RANK);
    for (int c = lane; c < RANK / 2; c += 32) {
        float x = 0, y = 0;
        for (int s = 0; s < job.splits; s++) {
            int64_t at = (int64_t)s * job.padded + token;
            float weight = exp2_fast(job.top[at] - top);
            float2 sum = ((const float2 *)(job.sum + at * RANK))[c];
            x = fmaf(weight, sum.x, x), y = fmaf(weight, sum.y, y);
        }
        float2 e = decode_bf16x2(word[c]);
        out[c] = encode_bf16x2(scale * fmaf(x, inverse, rest * e.x), scale * fmaf(y, inverse, rest * e.y));
    }
}

// *sum += Σ loss, in a fixed order: one block.
enum { SUM_THREADS = 1024 };
__global__ void __launch_bounds__(SUM_THREADS) head_loss_sum_kernel(const float *loss, int rows, double *sum) {
    __shared__ double parts[SUM_THREADS];
    double own = 0;
    for (int i = threadIdx.x; i < rows; i += SUM_THREADS) own += (double)loss[i];
    parts[threadIdx.x] = own;
    for (int half = SUM_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *sum += parts[0];
}

// --- Host
static int64_t tile_rows(int64_t rank) { return 16 * (rank <= 128 ? 2 : 1) * FORWARD_WARPS; }
static int64_t blocks_at_once(const yx_device *d) { return d->properties.multiProcessorCount * (8 / FORWARD_WARPS); }
static int64_t most_parts(const yx_device *d, int64_t tiles) {
    int64_t limit = blocks_at_once(d) * MOST_WAVES;
    int64_t parts = tiles * MOST_SPLITS < limit ? tiles * MOST_SPLITS : limit;
    return parts > tiles ? parts : tiles;
}

// Among how many blocks the words of a tile of tokens are split: what needs the least time where
//   time = waves · (⌈word tiles / splits⌉ + BLOCK_COST) + parts / PARTS_A_TILE,  parts = tiles · splits,
//   waves = ⌈parts / blocks the card runs at once⌉   (all blocks are equally long),
// in tiles of words. H200, 200,005 words: 4 for 8,192 tokens, 2 for 16,384, 4 for 24,576, 1 for 32,768.
static int choose_splits(const yx_device *d, int64_t tiles, int64_t vocab) {
    int64_t words = cuda_ceil_div(vocab, FORWARD_TILE), best = 1, best_time = INT64_MAX;
    for (int64_t splits = 1; splits <= MOST_SPLITS && splits <= words; splits++) {
        int64_t parts = tiles * splits, waves = cuda_ceil_div(parts, blocks_at_once(d));
        if (splits > 1 && parts > most_parts(d, tiles)) break;
        int64_t time = waves * (cuda_ceil_div(words, splits) + BLOCK_COST) * PARTS_A_TILE + parts;
        if (time < best_time) best = splits, best_time = time;
    }
    return (int)best;
}

// Pieces of the workspace for `parts` blocks of a launch over `tiles` tiles of tokens.
static size_t lay_out(char *base, int64_t tiles, int64_t parts, int64_t rank, forward_job *job) {
    cuda_scratch m = {base, 0};
    int64_t rows = tile_rows(rank);
    job->top = m.take<float>(parts * rows);
    job->norm = m.take<float>(parts * rows);
    job->logit = m.take<float>(tiles * rows);
    job->sum = m.take<float>(parts * rows * rank);
    return m.used;
}

yx_status cuda_head_check(const char *who, int64_t rows, int64_t rank, int64_t vocab, yx_dtype act, const void *z,
                          const yx_operand *E) {
    if (act != YX_BF16 || E->dtype != YX_BF16)
        return yx_fail(YX_ERR_UNAVAILABLE,
                       "%s: the GPU computes the head from bf16 activations and embeddings; precision fp32 runs on the "
                       "CPU",
                       who);
    if (rank != 64 && rank != 128 && rank != 256)
        return yx_fail(YX_ERR_CONFIG, "%s: embedding_rank is %lld; on the GPU it can be 64, 128 or 256", who,
                       (long long)rank);
    if (rows < 0 || rows > 1 << 24 || vocab < 1 || vocab > 1 << 24 || !z || !E->row)
        return yx_fail(YX_ERR_INTERNAL, "%s: arguments break the contract", who);
    if ((uintptr_t)z % 16 || (uintptr_t)E->row % 16)
        return yx_fail(YX_ERR_INTERNAL, "%s: z and E must be aligned to 16 bytes", who);
    return YX_OK;
}

template <int RANK, bool SUM> static yx_status launch_products(cudaStream_t stream, const forward_job *job, int tiles) {
    constexpr int SHARED = FORWARD_STAGES * FORWARD_TILE * RANK * 2;
    static_assert(SHARED <= CUDA_MAX_SHARED, "more than an RTX 4090 has");
    auto kernel = head_forward_kernel<RANK, FORWARD_WARPS, FORWARD_TILE, FORWARD_STAGES, SUM>;
    CUDA_TRY(cuda_allow_shared(kernel, SHARED));
    kernel<<<dim3(tiles, job->splits), 32 * FORWARD_WARPS, SHARED, stream>>>(*job);
    CUDA_LAUNCHED();
    return YX_OK;
}
template <int RANK>
static yx_status launch(cudaStream_t stream, const yx_head_args *a, const forward_job *job, int tiles) {
    yx_status status =
        a->dz ? launch_products<RANK, true>(stream, job, tiles) : launch_products<RANK, false>(stream, job, tiles);
    if (status != YX_OK) return status;
    head_finish_kernel<RANK><<<(job->rows + FINISH_WARPS - 1) / FINISH_WARPS, 32 * FINISH_WARPS, 0, stream>>>(
        *job, (float)a->grad_scale, a->lse, a->loss, (__nv_bfloat16 *)a->dz);
    CUDA_LAUNCHED();
    return YX_OK;
}

yx_status cuda_head(yx_device *d, yx_stream *s, const yx_head_args *a) {
    yx_status status = YX_OK;
    cudaStream_t stream = cuda_stream(d, s);
    forward_job job = {};
    int64_t tiles;
    YX_CHECK(cuda_head_check("head", a->rows, a->rank, a->vocab, a->act, a->z, &a->E));
    if (a->rows == 0) return YX_OK;
    tiles = cuda_ceil_div(a->rows, tile_rows(a->rank));
    job.z = (const __nv_bfloat16 *)a->z;
    job.E = (const __nv_bfloat16 *)a->E.row;
    job.target = a->target;
    job.rows = (int)a->rows, job.vocab = (int)a->vocab, job.padded = (int)(tiles * tile_rows(a->rank));
    job.splits = choose_splits(d, tiles, a->vocab);
    YX_CHECK(cuda_check_workspace(d, lay_out(nullptr, tiles, tiles * job.splits, a->rank, &job), "head"));
    lay_out(d->workspace, tiles, tiles * job.splits, a->rank, &job);
    if (a->rank == 64) YX_CHECK(launch<64>(stream, a, &job, (int)tiles));
    else if (a->rank == 128) YX_CHECK(launch<128>(stream, a, &job, (int)tiles));
    else YX_CHECK(launch<256>(stream, a, &job, (int)tiles));
    if (a->loss_sum) {
        head_loss_sum_kernel<<<1, SUM_THREADS, 0, stream>>>(a->loss, job.rows, a->loss_sum);
        CUDA_LAUNCHED();
    }
fail:
    return status;
}

size_t cuda_head_workspace(const yx_device *d, const yx_workspace_query *q) {
    forward_job job;
    int64_t tiles = cuda_ceil_div(q->rows, tile_rows(q->rank));
    size_t forward = lay_out(nullptr, tiles, most_parts(d, tiles), q->rank, &job);
    size_t backward = cuda_head_backward_workspace(q);
    return forward > backward ? forward : backward;
}

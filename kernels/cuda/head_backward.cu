// The head, backward: dE += grad_scale · (softmax - onehot)ᵀ · z. A block owns some words, and all tokens pass by it,
// so every element of dE has one writer and one order of summation. The probabilities come from lse at once: no
// maximum.
//
// The one of the target is subtracted from p in fp32 before p is rounded: p - 1 is as precise as p.
#include "kernels/cuda/head.cuh"

enum {
    BACKWARD_WARPS = 4, // warps of a block
    BACKWARD_TILE = 64, // tokens staged at a time
    BACKWARD_STAGES = 3,
    PREPARE_THREADS = 1024
};

struct backward_job {
    const __nv_bfloat16 *z, *E; // [rows, rank], [vocab, rank]
    int rows, vocab;
    float scale;
    float *dE;            // [vocab, rank]
    const uint32_t *side; // what belongs to a tile of tokens: [tiles][TILE lse·log2(e), TILE targets]
    const int *ends;      // [num_ends] tokens from the largest of them on are not scored
    int num_ends;
};

// The tokens' lse as a power of 2 and targets, by tiles. Tokens that are not scored: lse is infinity (so p is 0),
// target -1. ends[block] = 1 + the last token of the block's that is scored, or 0.
template <int TILE>
__global__ void __launch_bounds__(PREPARE_THREADS)
    head_prepare_kernel(const float *lse, const int32_t *target, int rows, uint32_t *side, int *ends) {
    __shared__ int end;
    const int token = blockIdx.x * PREPARE_THREADS + threadIdx.x;
    const bool scored = token < rows && target[token] >= 0;
    if (threadIdx.x == 0) end = 0;
    __syncthreads();
    if (scored) atomicMax(&end, token + 1);
    if (token < (rows + TILE - 1) / TILE * TILE) {
        uint32_t *to = side + token / TILE * 2 * TILE + token % TILE;
        to[0] = __float_as_uint(scored ? lse[token] * HEAD_LOG2E : INFINITY);
        to[TILE] = scored ? (uint32_t)target[token] : ~0u;
    }
    __syncthreads();
    if (threadIdx.x == 0) ends[blockIdx.x] = end;
}

// p = 2^(score - lse) in bf16, as an A operand; columns 2t, 2t + 1, 2t + 8, 2t + 9 of the chunk have `lse`.
template <int BLOCKS>
__device__ __forceinline__ void probabilities(uint32_t (&p)[BLOCKS][4], const float (&score)[BLOCKS][2][4],
                                              const float2 (&lse)[2]) {
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) // rows g, g + 8
                p[b][2 * n + h] = encode_bf16x2(exp2_fast(fmaf(score[b][n][2 * h], HEAD_LOG2E, -lse[n].x)),
                                                exp2_fast(fmaf(score[b][n][2 * h + 1], HEAD_LOG2E, -lse[n].y)));
}

// The same less 1 where a token's target is the row. `lse` and `targets` are of the chunk; `word` is the warp's first.
template <int BLOCKS>
__device__ __forceinline__ void subtract_targets(uint32_t (&p)[BLOCKS][4], const float (&score)[BLOCKS][2][4],
                                                 const float *lse, const int *targets, int word) {
#pragma unroll
    for (int i = 0; i < 4; i++) { // the four columns
        int column = 2 * ((int)threadIdx.x % 4) + 8 * (i / 2) + i % 2;
        int wanted = targets[column] - word - (int)threadIdx.x % 32 / 4;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                if (wanted == 16 * b + 8 * h) {
                    float x = exp2_fast(fmaf(score[b][i / 2][2 * h + i % 2], HEAD_LOG2E, -lse[column])) - 1;
                    uint32_t &pair = p[b][2 * (i / 2) + h];
                    pair = i % 2 ? (pair & 0xffffu) | encode_bf16x2(0, x) : (pair & 0xffff0000u) | encode_bf16x2(x, 0);
                }
    }
}

// Begins to copy a tile's side: the first threads, 16 bytes each.
template <int TILE> __device__ __forceinline__ void stage_side(uint32_t to, const uint32_t *side, int tile) {
    if (threadIdx.x < TILE / 2)
        async_copy_16(to + threadIdx.x * 16, side + ((int64_t)tile * TILE * 2 + threadIdx.x * 4));
}

// Block x: words of tile x.
template <int RANK, int WARPS, int TILE, int STAGES, bool TURNS = true>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) head_backward_kernel(const backward_job job) {
    constexpr int BLOCKS = HEAD_BLOCKS<RANK>, ROWS = 16 * BLOCKS, STEPS = TILE / HEAD_CHUNK;
    constexpr uint32_t BYTES = TILE * RANK * 2, RING = STAGES * BYTES, STEP = BYTES / STEPS, SIDE = TILE * 8;
    static_assert(STAGES >= 3, "one tile is read, the next must be there, one is on its way");
    static_assert(TILE / 2 <= 32 * WARPS, "a thread copies 16 bytes of the side");
    extern __shared__ __align__(1024) unsigned char head_memory[]; // the ring of tiles, then STAGES - 1 sides
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int word = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
    int end = 0;
    for (int i = lane; i < job.num_ends; i += 32) end = max(end, job.ends[i]);
    const int tiles = ((int)__reduce_max_sync(~0u, (uint32_t)end) + TILE - 1) / TILE;
    if (tiles == 0) return;

    const uint32_t ring = shared_address(head_memory);
    const head_lanes at = head_lane_addresses<RANK>(ring);
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < tiles) {
            head_stage<RANK, 32 * WARPS, TILE>(ring + i * BYTES, job.z, i * TILE, job.rows);
            stage_side<TILE>(ring + RING + i * SIDE, job.side, i);
        }
        async_commit();
    }
    uint32_t kept[BLOCKS][RANK / 16][4], p[BLOCKS][4] = {};
    float score[BLOCKS][2][4], sum[BLOCKS][RANK / 8][4];
    head_keep<RANK, BLOCKS>(kept, job.E, word, job.vocab);
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < RANK / 2; i++) sum[b][i / 4][i % 4] = 0;
    async_wait<STAGES - 2>();
    __syncthreads();
    {
        float none[BLOCKS][1][4];
        head_step<RANK, BLOCKS, false, TURNS>(score, none, kept, p, at.key, at.value);
    }

    int ahead = STAGES - 1;                               // the tile to be staged next
    uint32_t now = 0, next = STEP, staged = RING - BYTES; // in the ring
    uint32_t side = RING;                                 // this tile's
    for (int step = 0; step < tiles * STEPS; step++) {
        const float *lse = (const float *)(head_memory + side) + step % STEPS * HEAD_CHUNK; // this chunk's
        const int *targets = (const int *)lse + TILE;
        const int target = targets[lane % HEAD_CHUNK];
        probabilities(p, score, {*(const float2 *)(lse + 2 * t), *(const float2 *)(lse + 2 * t + 8)});
        if (__any_sync(~0u, (uint32_t)(target - word) < ROWS)) // rarely
            subtract_targets(p, score, lse, targets, word);
        if (step % STEPS == STEPS - 1) { // the next tile is needed now; all are done with the one before this
            async_wait<STAGES - 3>();
            __syncthreads(); // and with this one's side
            if (ahead < tiles) {
                head_stage<RANK, 32 * WARPS, TILE>(ring + staged, job.z, ahead * TILE, job.rows);
                stage_side<TILE>(ring + side, job.side, ahead);
            }
            async_commit();
            ahead++;
            staged = staged + BYTES == RING ? 0 : staged + BYTES;
            side = side + SIDE == RING + (STAGES - 1) * SIDE ? RING : side + SIDE;
        }
        // Behind the last chunk: scores of whatever lies there, which nobody reads.
        head_step<RANK, BLOCKS, true, TURNS>(score, sum, kept, p, at.key + next, at.value + now);
        now = next;
        next = next + STEP == RING ? 0 : next + STEP;
    }

#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = word + 16 * b + 8 * h + g;
            if (row >= job.vocab) continue;
            float2 *to = (float2 *)(job.dE + (int64_t)row * RANK + 2 * t), old[RANK / 8];
#pragma unroll
            for (int n = 0; n < RANK / 8; n++) old[n] = to[4 * n];
#pragma unroll
            for (int n = 0; n < RANK / 8; n++)
                to[4 * n] = make_float2(fmaf(job.scale, sum[b][n][2 * h], old[n].x),
                                        fmaf(job.scale, sum[b][n][2 * h + 1], old[n].y));
        }
}

// --- Host
static size_t lay_out(char *base, int64_t rows, uint32_t **side, int **ends) {
    cuda_scratch m = {base, 0};
    *side = m.take<uint32_t>(cuda_ceil_div(rows, BACKWARD_TILE) * BACKWARD_TILE * 2);
    *ends = m.take<int>(cuda_ceil_div(rows, PREPARE_THREADS) + 1);
    return m.used;
}

template <int RANK> static yx_status launch(cudaStream_t stream, const backward_job *job) {
    constexpr int WORDS = 16 * HEAD_BLOCKS<RANK> * BACKWARD_WARPS;
    constexpr int SHARED = BACKWARD_STAGES * BACKWARD_TILE * RANK * 2 + (BACKWARD_STAGES - 1) * BACKWARD_TILE * 8;
    static_assert(SHARED <= CUDA_MAX_SHARED, "more than an RTX 4090 has");
    auto kernel = head_backward_kernel<RANK, BACKWARD_WARPS, BACKWARD_TILE, BACKWARD_STAGES>;
    CUDA_TRY(cuda_allow_shared(kernel, SHARED));
    kernel<<<(job->vocab + WORDS - 1) / WORDS, 32 * BACKWARD_WARPS, SHARED, stream>>>(*job);
    CUDA_LAUNCHED();
    return YX_OK;
}

yx_status cuda_head_backward(yx_device *d, yx_stream *s, const yx_head_backward_args *a) {
    yx_status status = YX_OK;
    cudaStream_t stream = cuda_stream(d, s);
    backward_job job = {};
    uint32_t *side;
    int *ends, blocks;
    YX_CHECK(cuda_head_check("head_backward", a->rows, a->rank, a->vocab, a->act, a->z, &a->E));
    if (a->rows == 0) return YX_OK;
    YX_CHECK(cuda_check_workspace(d, lay_out(nullptr, a->rows, &side, &ends), "head_backward"));
    lay_out(d->workspace, a->rows, &side, &ends);
    blocks = (int)cuda_ceil_div(cuda_ceil_div(a->rows, BACKWARD_TILE) * BACKWARD_TILE, PREPARE_THREADS);
    head_prepare_kernel<BACKWARD_TILE>
        <<<blocks, PREPARE_THREADS, 0, stream>>>(a->lse, a->target, (int)a->rows, side, ends);
    CUDA_LAUNCHED();
    job.z = (const __nv_bfloat16 *)a->z;
    job.E = (const __nv_bfloat16 *)a->E.row;
    job.rows = (int)a->rows, job.vocab = (int)a->vocab;
    job.scale = (float)a->grad_scale;
    job.dE = a->dE;
    job.side = side, job.ends = ends, job.num_ends = blocks;
    if (a->rank == 64) YX_CHECK(launch<64>(stream, &job));
    else if (a->rank == 128) YX_CHECK(launch<128>(stream, &job));
    else YX_CHECK(launch<256>(stream, &job));
fail:
    return status;
}

size_t cuda_head_backward_workspace(const yx_workspace_query *q) {
    uint32_t *side;
    int *ends;
    return lay_out(nullptr, q->rows, &side, &ends);
}

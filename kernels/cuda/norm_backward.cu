// RMSNorm, backward: dx = dres + rstd · (gamma · dy − x̂ · mean(gamma · dy · x̂)), dgamma += Σ dy · x̂ with x̂ = s · rstd.
// Bytes a value: 2 (dy) + 2 (s) + 2 (dres) + 2 (dx) + copies of dx.
//
// As in norm.cu a warp has one row at a time in registers, and the next on its way. As many blocks as the GPU holds at
// a time walk over groups of ROWS rows, so that loads never stop while there are rows. gamma's gradient: a lane adds up
// its columns over the rows of its warp, the block over its warps, a second kernel over the blocks; always in the same
// order.
#include "kernels/cuda/tile.cuh"

enum { WARPS = 8, CHUNK = 256, ROWS = 32, SUM_COLS = 32, SUM_PARTS = 32 };

// Blocks that share an SM, by the registers they need.
__host__ __device__ constexpr int resident(int chunks) { return chunks <= 3 ? 2 : 1; }

// What a warp reads of a row, as it is stored.
template <int CHUNKS> struct norm_row {
    uint4 s[CHUNKS], dy[CHUNKS], dres[CHUNKS];
    float rstd;
};
template <int CHUNKS>
__device__ __forceinline__ void load_row(norm_row<CHUNKS> &x, const yx_norm_backward_args &a, int64_t row, int lane) {
    x.rstd = a.rstd[row];
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int col = k * CHUNK + lane * 8;
        const int64_t at = row * a.cols + col;
        if (col >= a.cols) continue;
        x.s[k] = load8_raw(a.s, at), x.dy[k] = load8_raw(a.dy, at);
        if (a.dres) x.dres[k] = load8_raw(a.dres, at);
    }
}

// Adds the warps' sums in order and writes the block's: `sums` is shared memory, [WARPS, cols] a chunk of columns at a
// time.
template <int CHUNKS>
__device__ __forceinline__ void write_partial(const values8 (&dgamma)[CHUNKS], float *sums, float *partial, int cols) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 8; i++) sums[warp * CHUNK + i * 32 + lane] = dgamma[k].v[i];
        __syncthreads();
        // Thread t adds value t / 32 of lane t % 32: column 8 · lane + i.
        const int i = threadIdx.x / 32, col = k * CHUNK + lane * 8 + i;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += sums[w * CHUNK + i * 32 + lane];
        if (col < cols) partial[col] = sum;
    }
}

// mean(gamma · dy · x̂) of a row; dgamma += dy · x̂.
template <int CHUNKS>
__device__ __forceinline__ float mean_product(const norm_row<CHUNKS> &x, const float *gamma, int cols, int lane,
                                              values8 (&dgamma)[CHUNKS]) {
    float mean = 0;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int col = k * CHUNK + lane * 8;
        if (col >= cols) continue;
        const values8 s = decode8(x.s[k]), dy = decode8(x.dy[k]), g = load8_fp32(gamma + col);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float product = dy.v[i] * (s.v[i] * x.rstd);
            dgamma[k].v[i] += product;
            mean += g.v[i] * product;
        }
    }
#pragma unroll
    for (int offset = 16; offset; offset /= 2) mean += __shfl_xor_sync(0xffffffffu, mean, offset);
    return mean / (float)cols;
}

template <yx_dtype T, int CHUNKS>
__global__ void __launch_bounds__(32 * WARPS, resident(CHUNKS))
    backward_kernel(yx_norm_backward_args a, float *partials) {
    extern __shared__ uint32_t tile[];
    __shared__ float sums[WARPS * CHUNK];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, cols = (int)a.cols, pitch = tile_pitch(cols);
    const int64_t stride = (int64_t)gridDim.x * ROWS;
    const float scale = quant_scale(a.dx_operand.quant);
    const bool itself = a.dx_operand.row == a.dx, transposes = T != YX_BF16 && a.dx_operand.col;
    quant_tally seen = {};
    values8 dgamma[CHUNKS] = {};
    norm_row<CHUNKS> next;
    load_row(next, a, (int64_t)blockIdx.x * ROWS + warp, lane);
    for (int64_t first = (int64_t)blockIdx.x * ROWS; first < a.rows; first += stride) {
        for (int row = warp; row < ROWS; row += WARPS) {
            const norm_row<CHUNKS> x = next;
            const int64_t following = first + (row + WARPS < ROWS ? row + WARPS : stride + warp);
            if (following < a.rows) load_row(next, a, following, lane);
            const float mean = mean_product(x, a.gamma, cols, lane, dgamma);
#pragma unroll
            for (int k = 0; k < CHUNKS; k++) {
                const int col = k * CHUNK + lane * 8;
                const int64_t at = (first + row) * cols + col;
                if (col >= cols) continue;
                const values8 s = decode8(x.s[k]), dy = decode8(x.dy[k]), gamma = load8_fp32(a.gamma + col);
                values8 dx = a.dres ? decode8(x.dres[k]) : values8{};
#pragma unroll
                for (int i = 0; i < 8; i++) dx.v[i] += x.rstd * (gamma.v[i] * dy.v[i] - s.v[i] * x.rstd * mean);
                if (!itself) store8(a.dx, at, dx);
                put_operand8<T, ROWS>(a.dx_operand, at, dx, scale, tile, pitch, row, col, seen);
            }
        }
        if (!transposes) continue;
        __syncthreads();
        tile_store_transposed<ROWS>(tile, pitch, cols, (uint8_t *)a.dx_operand.col + first, a.rows);
        __syncthreads(); // before the next group's codes
    }
    tally_record(seen, a.dx_operand.quant);
    if (partials) write_partial(dgamma, sums, partials + (int64_t)blockIdx.x * cols, cols);
}

// dgamma[col] += the blocks' partial sums: SUM_PARTS threads a column take every SUM_PARTS-th block, then one adds
// them.
__global__ void __launch_bounds__(SUM_COLS *SUM_PARTS)
    sum_partials(const float *partials, int blocks, int cols, float *dgamma) {
    __shared__ float parts[SUM_PARTS][SUM_COLS];
    const int col = blockIdx.x * SUM_COLS + threadIdx.x;
    float sum = 0;
#pragma unroll 8
    for (int b = threadIdx.y; b < blocks; b += SUM_PARTS) sum += partials[(int64_t)b * cols + col];
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y) return;
    for (int p = 1; p < SUM_PARTS; p++) sum += parts[p][threadIdx.x];
    dgamma[col] += sum;
}

static size_t lay_out(int64_t rows, int64_t cols, char *base, float **partials) {
    cuda_scratch s = {base, 0};
    *partials = s.take<float>(cuda_ceil_div(rows, ROWS) * cols);
    return s.used;
}

size_t cuda_norm_workspace(const yx_device *, const yx_workspace_query *q) {
    float *partials;
    return lay_out(q->rows, q->hidden, nullptr, &partials);
}

template <yx_dtype T, int CHUNKS>
static yx_status launch(const yx_device *d, cudaStream_t stream, const yx_norm_backward_args *a, float *partials) {
    int shared = a->dx_operand.col ? ROWS * tile_pitch((int)a->cols) : 0;
    int groups = (int)(a->rows / ROWS), most = d->properties.multiProcessorCount * resident(CHUNKS);
    int blocks = groups < most ? groups : most;
    if (shared + (int)sizeof(float) * WARPS * CHUNK > CUDA_MAX_SHARED)
        return yx_fail(YX_ERR_CONFIG, "norm_backward: 8-bit operands of %lld columns do not fit a block's memory",
                       (long long)a->cols);
    CUDA_TRY(cuda_allow_shared(backward_kernel<T, CHUNKS>, shared));
    backward_kernel<T, CHUNKS><<<blocks, 32 * WARPS, shared, stream>>>(*a, partials);
    CUDA_LAUNCHED();
    if (!partials) return YX_OK;
    sum_partials<<<(unsigned)(a->cols / SUM_COLS), dim3(SUM_COLS, SUM_PARTS), 0, stream>>>(partials, blocks,
                                                                                           (int)a->cols, a->dgamma);
    CUDA_LAUNCHED();
    return YX_OK;
}

template <yx_dtype T>
static yx_status launch_chunks(const yx_device *d, cudaStream_t stream, const yx_norm_backward_args *a,
                               float *partials) {
    int64_t chunks = cuda_ceil_div(a->cols, CHUNK);
    return chunks <= 1   ? launch<T, 1>(d, stream, a, partials)
           : chunks <= 2 ? launch<T, 2>(d, stream, a, partials)
           : chunks <= 3 ? launch<T, 3>(d, stream, a, partials)
           : chunks <= 4 ? launch<T, 4>(d, stream, a, partials)
                         : launch<T, 6>(d, stream, a, partials);
}

yx_status cuda_norm_backward(yx_device *d, yx_stream *s, const yx_norm_backward_args *a) {
    float *partials = nullptr;
    yx_status status = check_rows("norm_backward", a->rows, a->cols, a->act, &a->dx_operand);
    if (status != YX_OK) return status;
    if (a->cols > 6 * CHUNK)
        return yx_fail(YX_ERR_CONFIG, "the GPU differentiates norms of at most %d columns, not %lld", 6 * CHUNK,
                       (long long)a->cols);
    if (a->dx_operand.row == a->dx && a->dx_operand.dtype != a->act)
        return yx_fail(YX_ERR_INTERNAL, "norm_backward: arguments break the contract");
    if (a->dgamma) {
        status = cuda_check_workspace(d, lay_out(a->rows, a->cols, nullptr, &partials), "norm_backward");
        if (status != YX_OK) return status;
        lay_out(a->rows, a->cols, d->workspace, &partials);
    }
    WITH_OPERAND_TYPE(a->dx_operand.dtype, status = launch_chunks<T>(d, cuda_stream(d, s), a, partials));
    return status;
}

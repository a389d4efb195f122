// Gradient norm, clipping, AdamW.
//
// AdamW reads and writes 28 bytes a parameter and the working copies. A block takes a tile of 4096 values: neighbours
// in memory, or, where a transposed copy is wanted, 64 × 64 of the matrix, whose codes it turns in shared memory.
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/tables.cuh"
#include <cstdlib>

enum {
    THREADS = 256,
    NORM_BLOCKS = 1024, // fixed, so that the order of the sum is
    EDGE = 64,
    TILE = EDGE * EDGE,
    PER_THREAD = TILE / THREADS / 4 // groups of four values
};

// --- Sum of squares
// Thread t of all takes groups of four values t, t + threads, …; sixteen squares at a time in fp32, then in double.
__global__ void __launch_bounds__(THREADS) square_kernel(const float *x, int64_t n, double *partials) {
    __shared__ double warps[THREADS / 32];
    const int64_t groups = n / 4, stride = (int64_t)NORM_BLOCKS * THREADS;
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    double sum = 0;
    for (; i + 3 * stride < groups; i += 4 * stride) {
        float4 v[4];
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = __ldcs((const float4 *)x + i + k * stride);
        float part = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) part += v[k].x * v[k].x + v[k].y * v[k].y + v[k].z * v[k].z + v[k].w * v[k].w;
        sum += (double)part;
    }
    for (; i < groups; i += stride) {
        const float4 v = ((const float4 *)x)[i];
        sum += (double)(v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w);
    }
    if (blockIdx.x == 0 && threadIdx.x < n % 4) {
        const float v = x[groups * 4 + threadIdx.x];
        sum += (double)v * v;
    }
#pragma unroll
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < THREADS / 32; w++) sum += warps[w];
    partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS) add_partials(const double *partials, double *accumulate) {
    __shared__ double sums[THREADS];
    double sum = 0;
    for (int i = threadIdx.x; i < NORM_BLOCKS; i += THREADS) sum += partials[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) *accumulate += sums[0];
}

size_t cuda_optimizer_workspace(const yx_device *, const yx_workspace_query *) { return NORM_BLOCKS * sizeof(double); }

yx_status cuda_sum_squares(yx_device *d, yx_stream *s, const yx_real *x, int64_t n, double *accumulate) {
    cudaStream_t stream = cuda_stream(d, s);
    if (n < 0) return yx_fail(YX_ERR_INTERNAL, "sum_squares: %lld values", (long long)n);
    yx_status status = cuda_check_workspace(d, NORM_BLOCKS * sizeof(double), "sum_squares");
    if (status != YX_OK) return status;
    double *partials = (double *)d->workspace;
    square_kernel<<<NORM_BLOCKS, THREADS, 0, stream>>>(x, n, partials);
    CUDA_LAUNCHED();
    add_partials<<<1, THREADS, 0, stream>>>(partials, accumulate);
    CUDA_LAUNCHED();
    return YX_OK;
}

// --- Clipping
__global__ void clip_kernel(yx_step_scalars *s) {
    s->grad_norm = sqrt(s->grad_sum_squares);
    s->skip = !isfinite(s->grad_norm) || (s->norm_limit > 0 && s->grad_norm > s->norm_limit) ||
              (s->loss_limit > 0 && s->loss_sum > s->loss_limit);
    s->clip_coefficient = s->grad_clip > 0 && s->grad_norm > s->grad_clip ? s->grad_clip / s->grad_norm : 1;
}

yx_status cuda_clip(yx_device *d, yx_stream *s, yx_step_scalars *scalars) {
    clip_kernel<<<1, 1, 0, cuda_stream(d, s)>>>(scalars);
    CUDA_LAUNCHED();
    return YX_OK;
}

// --- AdamW
struct factors {
    float lr, beta1, beta2, rest1, rest2, eps, decay, unbias1, unbias2, clip;
};

__device__ factors factors_of(const yx_step_scalars *s, bool decay) {
    factors f;
    f.lr = (float)s->lr, f.beta1 = (float)s->beta1, f.beta2 = (float)s->beta2;
    f.rest1 = (float)(1 - s->beta1), f.rest2 = (float)(1 - s->beta2);
    f.eps = (float)s->eps, f.decay = decay ? (float)s->weight_decay : 0.0f;
    f.unbias1 = (float)(1 / s->bias_correction1), f.unbias2 = (float)(1 / s->bias_correction2);
    f.clip = (float)s->clip_coefficient;
    return f;
}

// Every product that is added to something is written as fmaf: what the compiler contracts by itself differs from one
// inlined copy to another, and a parameter's bits must not depend on the kind of tile that it lies in.
__device__ __forceinline__ float update(const factors &f, float param, float &m, float &v, float grad) {
    const float g = grad * f.clip;
    m = fmaf(f.beta1, m, f.rest1 * g);
    v = fmaf(f.beta2, v, f.rest2 * (g * g));
    const float direction = m * f.unbias1 / (sqrtf(v * f.unbias2) + f.eps);
    return fmaf(-f.lr, fmaf(f.decay, param, direction), param);
}

// What belongs to four neighbouring parameters.
struct state4 {
    float4 p, m, v, g;
};

// `count`: how many of the four are there.
__device__ __forceinline__ state4 load4(const yx_adamw_segment &s, int64_t at, int count) {
    state4 x = {};
    if (count >= 4) {
        x.p = *(const float4 *)(s.param + at), x.m = *(const float4 *)(s.moment1 + at);
        x.v = *(const float4 *)(s.moment2 + at), x.g = __ldcs((const float4 *)(s.grad + at));
    } else {
#pragma unroll
        for (int i = 0; i < 3; i++) {
            if (i >= count) break;
            (&x.p.x)[i] = s.param[at + i], (&x.m.x)[i] = s.moment1[at + i];
            (&x.v.x)[i] = s.moment2[at + i], (&x.g.x)[i] = s.grad[at + i];
        }
    }
    return x;
}

__device__ __forceinline__ void update4(const factors &f, state4 &x) {
    x.p.x = update(f, x.p.x, x.m.x, x.v.x, x.g.x);
    x.p.y = update(f, x.p.y, x.m.y, x.v.y, x.g.y);
    x.p.z = update(f, x.p.z, x.m.z, x.v.z, x.g.z);
    x.p.w = update(f, x.p.w, x.m.w, x.v.w, x.g.w);
}

__device__ __forceinline__ void store4(const yx_adamw_segment &s, const state4 &x, int64_t at, int count) {
    if (count >= 4) {
        *(float4 *)(s.param + at) = x.p;
        __stcs((float4 *)(s.moment1 + at), x.m);
        __stcs((float4 *)(s.moment2 + at), x.v);
    } else {
#pragma unroll
        for (int i = 0; i < 3; i++) {
            if (i >= count) break;
            s.param[at + i] = (&x.p.x)[i], s.moment1[at + i] = (&x.m.x)[i], s.moment2[at + i] = (&x.v.x)[i];
        }
    }
}

template <yx_dtype T> __device__ __forceinline__ void tally4(quant_tally &t, float4 p, float scale) {
    tally<T>(t, p.x, scale), tally<T>(t, p.y, scale), tally<T>(t, p.z, scale), tally<T>(t, p.w, scale);
}

// The row copy of four values in bf16 or 8 bits.
__device__ __forceinline__ void store_copy4(const yx_operand &o, float4 p, float scale, int64_t at, int count) {
    const float values[4] = {p.x * scale, p.y * scale, p.z * scale, p.w * scale};
    if (o.dtype == YX_BF16) {
        __nv_bfloat16 *out = (__nv_bfloat16 *)o.row + at;
        if (count >= 4)
            *(uint2 *)out = make_uint2(encode_bf16x2(values[0], values[1]), encode_bf16x2(values[2], values[3]));
        else
#pragma unroll
            for (int i = 0; i < 3; i++)
                if (i < count) out[i] = __float2bfloat16_rn(values[i]);
    } else {
        uint32_t codes = encode_fp8x4<YX_E4M3>(values[0], values[1], values[2], values[3]);
        uint8_t *out = (uint8_t *)o.row + at;
        if (count >= 4) *(uint32_t *)out = codes;
        else
#pragma unroll
            for (int i = 0; i < 3; i++, codes >>= 8)
                if (i < count) out[i] = (uint8_t)codes;
    }
}

// Neighbouring values; working copies in bf16 or 8 bits without a transposed one, or none. All is read before anything
// is written, here and below: the compiler may not move a read over a write.
__device__ __forceinline__ void flat_tile(const yx_adamw_segment &s, const factors &f, int64_t tile) {
    const int64_t n = s.rows * s.cols, first = tile * TILE + threadIdx.x * 4;
    const float scale = quant_scale(s.operand.quant);
    const bool copies = s.operand.row && s.operand.row != s.param;
    quant_tally seen = {};
    state4 x[PER_THREAD];
    int count[PER_THREAD];
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t at = first + k * THREADS * 4;
        count[k] = (int)min((int64_t)4, n - at);
        x[k] = load4(s, at, count[k]);
    }
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t at = first + k * THREADS * 4;
        if (count[k] <= 0) continue;
        update4(f, x[k]);
        store4(s, x[k], at, count[k]);
        if (s.operand.dtype == YX_E4M3) tally4<YX_E4M3>(seen, x[k].p, scale);
        else tally4<YX_BF16>(seen, x[k].p, scale);
        if (copies) store_copy4(s.operand, x[k].p, scale, at, count[k]);
    }
    tally_record(seen, s.operand.quant);
}

// 64 × 64 of a matrix with E4M3 row and transposed copies.
__device__ __forceinline__ void square_tile(const yx_adamw_segment &s, const factors &f, int64_t tile,
                                            uint32_t (*codes)[EDGE / 4 + 1]) {
    const int across = (int)(s.cols / EDGE), row0 = (int)tile / across * EDGE, col0 = (int)tile % across * EDGE;
    const float scale = quant_scale(s.operand.quant);
    quant_tally seen = {};
    const int word = threadIdx.x % (EDGE / 4), first = threadIdx.x / (EDGE / 4);
    const int64_t begin_at = (row0 + first) * s.cols + col0 + word * 4, step = EDGE / PER_THREAD * s.cols;
    state4 x[PER_THREAD];
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) x[k] = load4(s, begin_at + k * step, 4);
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t at = begin_at + k * step;
        update4(f, x[k]);
        store4(s, x[k], at, 4);
        const float4 p = x[k].p;
        tally4<YX_E4M3>(seen, p, scale);
        const uint32_t code = encode_fp8x4<YX_E4M3>(p.x * scale, p.y * scale, p.z * scale, p.w * scale);
        codes[k * (EDGE / PER_THREAD) + first][word] = code;
        if (s.operand.row) *(uint32_t *)((uint8_t *)s.operand.row + at) = code;
    }
    tally_record(seen, s.operand.quant);
    __syncthreads();
    // Thread t writes 16 rows of column t / 4.
    const int col = threadIdx.x / 4, begin = threadIdx.x % 4 * 16;
    uint32_t out[4] = {};
#pragma unroll
    for (int i = 0; i < 16; i++) out[i / 4] |= (codes[begin + i][col / 4] >> (col % 4 * 8) & 0xff) << (i % 4 * 8);
    *(uint4 *)((uint8_t *)s.operand.col + (col0 + col) * s.rows + row0 + begin) =
        make_uint4(out[0], out[1], out[2], out[3]);
}

// first_tile: [segments + 1], tiles before each segment.
__global__ void __launch_bounds__(THREADS, 2) adamw_kernel(const yx_adamw_segment *segments, const int64_t *first_tile,
                                                           int num_segments, const yx_step_scalars *scalars) {
    __shared__ uint32_t codes[EDGE][EDGE / 4 + 1];
    __shared__ yx_adamw_segment s;
    __shared__ factors f;
    __shared__ int64_t tile;
    if (scalars->skip) return;
    if (threadIdx.x == 0) {
        int low = 0, high = num_segments; // the last segment that begins at or before this tile
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (first_tile[middle] <= (int64_t)blockIdx.x) low = middle;
            else high = middle;
        }
        s = segments[low];
        f = factors_of(scalars, s.decay);
        tile = (int64_t)blockIdx.x - first_tile[low];
    }
    __syncthreads();
    if (s.operand.col) square_tile(s, f, tile, codes);
    else flat_tile(s, f, tile);
}

static yx_status check(const yx_adamw_segment *s, int64_t i) {
    const yx_operand *o = &s->operand;
    if (s->rows <= 0 || s->cols <= 0) return yx_fail(YX_ERR_INTERNAL, "adamw: segment %lld is empty", (long long)i);
    if (o->col && (o->dtype != YX_E4M3 || s->rows % EDGE || s->cols % EDGE))
        return yx_fail(YX_ERR_CONFIG, "the GPU keeps 8-bit weights of sizes that are multiples of %d, not %lld × %lld",
                       EDGE, (long long)s->rows, (long long)s->cols);
    if (o->dtype == YX_E5M2 || (o->dtype == YX_F32 && o->row && o->row != (void *)s->param))
        return yx_fail(YX_ERR_INTERNAL, "adamw: working copies that this backend does not write");
    return YX_OK;
}

yx_status cuda_adamw(yx_device *d, yx_stream *stream_, const yx_adamw_args *a) {
    yx_status status = YX_OK;
    cudaStream_t stream = cuda_stream(d, stream_);
    cuda_optimizer_tables *tables = nullptr;
    int64_t *first = (int64_t *)calloc((size_t)a->num_segments + 1, sizeof *first);
    if (!first) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the optimizer's table");
    for (int64_t i = 0; i < a->num_segments; i++) {
        YX_CHECK(check(&a->segments[i], i));
        first[i + 1] = first[i] + cuda_ceil_div(a->segments[i].rows * a->segments[i].cols, TILE);
    }
    YX_CHECK(tables_of(d, &tables));
    YX_CHECK(table_on_device(d, stream, &tables->segments, a->segments, (size_t)a->num_segments * sizeof *a->segments));
    YX_CHECK(table_on_device(d, stream, &tables->tiles, first, (size_t)(a->num_segments + 1) * sizeof *first));
    adamw_kernel<<<(unsigned)first[a->num_segments], THREADS, 0, stream>>>(
        (const yx_adamw_segment *)tables->segments.device, (const int64_t *)tables->tiles.device, (int)a->num_segments,
        a->scalars);
    {
        cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) status = cuda_fail_at(__FILE__, __LINE__, error, "adamw");
    }
fail:
    free(first);
    return status;
}

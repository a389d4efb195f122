// Matrix products through cuBLASLt. Everything that can be decided once per shape is kept: descriptors, and the
// algorithm (matmul_tune.cu).
//
// cuBLASLt is column-major: a row-major [r, c] matrix is its c × r one. So out is computed transposed, from b and a in
// this order. 8-bit products exist only with the reduced dimension contiguous in both factors: DX reads the weights'
// transposed copy, DW both transposed copies.
#include "kernels/cuda/matmul.cuh"
#include <cstdlib>
#include <cstring>

static bool eight_bit(yx_dtype t) { return t == YX_E4M3 || t == YX_E5M2; }

static cudaDataType_t data_type(yx_dtype t) {
    switch (t) {
    case YX_BF16:
        return CUDA_R_16BF;
    case YX_E4M3:
        return CUDA_R_8F_E4M3;
    case YX_E5M2:
        return CUDA_R_8F_E5M2;
    default:
        return CUDA_R_32F;
    }
}

yx_status cuda_matmul_failed(const char *file, int line, cublasStatus_t error, const char *call) {
    return yx_fail_at(file, line, error == CUBLAS_STATUS_ALLOC_FAILED ? YX_ERR_NO_MEMORY : YX_ERR_INTERNAL,
                      "cuBLASLt: %s in %.200s", cublasLtGetStatusString(error), call);
}

// --- How one product is put to cuBLASLt
typedef struct factor {
    const void *data;
    int64_t rows, cols; // as stored, column-major; rows is the leading dimension
    cublasOperation_t operation;
} factor;
typedef struct product {
    factor a, b;
    int64_t m, n, k;
} product;

static product product_of(const yx_matmul_args *x) {
    int64_t M = x->M, N = x->N, K = x->K;
    bool eight = eight_bit(x->a.dtype);
    product p = {};
    if (x->form == YX_MATMUL_Y) {
        p = {{x->b.row, K, N, CUBLAS_OP_T}, {x->a.row, K, M, CUBLAS_OP_N}, N, M, K};
    } else if (x->form == YX_MATMUL_DX) {
        p = {{x->b.row, K, N, CUBLAS_OP_N}, {x->a.row, N, M, CUBLAS_OP_N}, K, M, N};
        if (eight) p.a = {x->b.col, N, K, CUBLAS_OP_T};
    } else {
        p = {{x->b.row, K, M, CUBLAS_OP_N}, {x->a.row, N, M, CUBLAS_OP_T}, K, N, M};
        if (eight) p.a = {x->b.col, M, K, CUBLAS_OP_T}, p.b = {x->a.col, M, N, CUBLAS_OP_N};
    }
    return p;
}

static bool aligned(const void *p) { return (uintptr_t)p % 256 == 0; }

static matmul_key key_of(const yx_matmul_args *x, const product *p) {
    matmul_key key;
    memset(&key, 0, sizeof key); // compared as bytes
    key.form = x->form;
    key.M = x->M, key.N = x->N, key.K = x->K;
    key.a = x->a.dtype, key.b = x->b.dtype, key.out = x->out_dtype;
    key.accumulate = x->accumulate;
    key.aligned = aligned(p->a.data) && aligned(p->b.data) && aligned(x->out);
    return key;
}

static yx_status describe_layout(cublasLtMatrixLayout_t *out, yx_dtype type, int64_t rows, int64_t cols) {
    CUBLAS_TRY(cublasLtMatrixLayoutCreate(out, data_type(type), (uint64_t)rows, (uint64_t)cols, rows));
    return YX_OK;
}

#define SET_ATTRIBUTE(descriptor, name, value)                                                                         \
    CUBLAS_TRY(cublasLtMatmulDescSetAttribute(descriptor, CUBLASLT_MATMUL_DESC_##name, &(value), sizeof(value)))

static yx_status describe(const yx_matmul_args *x, const product *p, matmul_plan *plan) {
    yx_status status = YX_OK;
    // The imprecise accumulation of 8-bit products is good enough where the sums are short and feed a rounding:
    // forward.
    int8_t fast = eight_bit(x->a.dtype) && x->form == YX_MATMUL_Y;
    CUBLAS_TRY(cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SET_ATTRIBUTE(plan->product, TRANSA, p->a.operation);
    SET_ATTRIBUTE(plan->product, TRANSB, p->b.operation);
    if (fast) SET_ATTRIBUTE(plan->product, FAST_ACCUM, fast);
    YX_CHECK(describe_layout(&plan->a, x->b.dtype, p->a.rows, p->a.cols));
    YX_CHECK(describe_layout(&plan->b, x->a.dtype, p->b.rows, p->b.cols));
    YX_CHECK(describe_layout(&plan->out, x->out_dtype, p->m, p->n));
fail:
    return status;
}

static yx_status set_scales(const yx_matmul_args *x, const matmul_plan *plan) {
    const float *a = x->b.quant.scale_inv, *b = x->a.quant.scale_inv;
    if (eight_bit(x->b.dtype)) SET_ATTRIBUTE(plan->product, A_SCALE_POINTER, a);
    if (eight_bit(x->a.dtype)) SET_ATTRIBUTE(plan->product, B_SCALE_POINTER, b);
    return YX_OK;
}

static void forget(matmul_plan *plan) {
    if (plan->product) cublasLtMatmulDescDestroy(plan->product);
    if (plan->a) cublasLtMatrixLayoutDestroy(plan->a);
    if (plan->b) cublasLtMatrixLayoutDestroy(plan->b);
    if (plan->out) cublasLtMatrixLayoutDestroy(plan->out);
}

// --- Plans of this process
static matmul_plan *find(cuda_matmul_cache *cache, const matmul_key *key) {
    for (int i = 0; i < cache->count; i++)
        if (memcmp(&cache->plans[i].key, key, sizeof *key) == 0) return &cache->plans[i];
    return nullptr;
}

static yx_status add(yx_device *d, cudaStream_t stream, const yx_matmul_args *x, const product *p,
                     const matmul_key *key, matmul_plan **out) {
    cuda_matmul_cache *cache = d->matmul;
    if (cache->count == MATMUL_MAX_PLANS) { // a run uses a few dozen
        for (int i = 0; i < cache->count; i++) forget(&cache->plans[i]);
        cache->count = 0;
    }
    matmul_plan *plan = &cache->plans[cache->count];
    memset(plan, 0, sizeof *plan);
    plan->key = *key;
    matmul_call call = {p->a.data, p->b.data, x->out, x->accumulate ? 1.0f : 0.0f};
    yx_status status = describe(x, p, plan);
    if (status == YX_OK) status = set_scales(x, plan);
    if (status == YX_OK) status = matmul_choose(d, stream, plan, &call);
    if (status != YX_OK) {
        forget(plan);
        return status;
    }
    cache->count++;
    *out = plan;
    return YX_OK;
}

static yx_status check(const yx_matmul_args *x, const product *p) {
    if (x->M < 1 || x->N < 1 || x->K < 1)
        return yx_fail(YX_ERR_INTERNAL, "matmul: %lld × %lld × %lld", (long long)x->M, (long long)x->N,
                       (long long)x->K);
    if (x->a.dtype == YX_F32 || x->b.dtype == YX_F32)
        return yx_fail(YX_ERR_UNAVAILABLE,
                       "the GPU multiplies bf16 and 8-bit matrices; precision fp32 runs on the CPU");
    if (eight_bit(x->a.dtype) != eight_bit(x->b.dtype))
        return yx_fail(YX_ERR_INTERNAL, "matmul: an 8-bit factor with one that is not");
    if (eight_bit(x->a.dtype) && (x->M % 16 || x->N % 16 || x->K % 16))
        return yx_fail(YX_ERR_CONFIG, "8-bit products need sizes that are multiples of 16, not %lld × %lld × %lld",
                       (long long)x->M, (long long)x->N, (long long)x->K);
    if (eight_bit(x->a.dtype) && ((uintptr_t)x->a.quant.scale_inv % 16 || (uintptr_t)x->b.quant.scale_inv % 16))
        return yx_fail(YX_ERR_INTERNAL, "matmul: a scale that is not aligned to 16 bytes");
    if (!p->a.data || !p->b.data) return yx_fail(YX_ERR_INTERNAL, "matmul: a factor lacks the copy this product reads");
    return YX_OK;
}

yx_status matmul_launch(yx_device *d, cudaStream_t stream, const matmul_plan *plan, const cublasLtMatmulAlgo_t *algo,
                        const matmul_call *call) {
    const float one = 1;
    const matmul_key *k = &plan->key;
    cublasStatus_t error =
        cublasLtMatmul(d->matmul->handle, plan->product, &one, call->a, plan->a, call->b, plan->b, &call->beta,
                       call->out, plan->out, call->out, plan->out, algo, d->workspace, MATMUL_WORKSPACE, stream);
    if (error == CUBLAS_STATUS_SUCCESS) return YX_OK;
    return yx_fail(YX_ERR_INTERNAL, "cuBLASLt: %s: %s of %lld × %lld × %lld, %s and %s into %s, factors at %p and %p",
                   cublasLtGetStatusString(error),
                   k->form == YX_MATMUL_Y    ? "y"
                   : k->form == YX_MATMUL_DX ? "dx"
                                             : "dw",
                   (long long)k->M, (long long)k->N, (long long)k->K, yx_dtype_name((yx_dtype)k->a),
                   yx_dtype_name((yx_dtype)k->b), yx_dtype_name((yx_dtype)k->out), call->a, call->b);
}

yx_status cuda_matmul(yx_device *d, yx_stream *s, const yx_matmul_args *x) {
    yx_status status = YX_OK;
    cudaStream_t stream = cuda_stream(d, s);
    product p = product_of(x);
    matmul_call call = {p.a.data, p.b.data, x->out, x->accumulate ? 1.0f : 0.0f};
    matmul_key key = key_of(x, &p);
    matmul_plan *plan = find(d->matmul, &key);
    if (!plan) {
        YX_CHECK(check(x, &p));
        YX_CHECK(cuda_check_workspace(d, MATMUL_WORKSPACE, "matmul"));
        YX_CHECK(add(d, stream, x, &p, &key, &plan));
    }
    YX_CHECK(set_scales(x, plan));
    YX_CHECK(matmul_launch(d, stream, plan, &plan->algo, &call));
fail:
    return status;
}

size_t cuda_matmul_workspace(const yx_device *, const yx_workspace_query *) { return MATMUL_WORKSPACE; }

yx_status cuda_matmul_open(yx_device *d) {
    d->matmul = (cuda_matmul_cache *)calloc(1, sizeof *d->matmul);
    if (!d->matmul) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the table of products");
    CUBLAS_TRY(cublasLtCreate(&d->matmul->handle));
    return YX_OK;
}

void cuda_matmul_close(yx_device *d) {
    if (!d->matmul) return;
    for (int i = 0; i < d->matmul->count; i++) forget(&d->matmul->plans[i]);
    if (d->matmul->handle) cublasLtDestroy(d->matmul->handle);
    free(d->matmul);
}

// Products for the emulated GPU, in place of cuBLASLt: plain sums that read the copies cuBLASLt would read.
#include "kernels/cuda/cuda.cuh"

static float value(yx_dtype t, const void *x, int64_t i) {
    switch (t) {
    case YX_F32:
        return ((const float *)x)[i];
    case YX_BF16:
        return yx_bf16_to_float(((const yx_bf16 *)x)[i]);
    case YX_E4M3:
        return yx_e4m3_to_float(((const yx_fp8 *)x)[i]);
    default:
        return yx_e5m2_to_float(((const yx_fp8 *)x)[i]);
    }
}
static bool eight_bit(yx_dtype t) { return t == YX_E4M3 || t == YX_E5M2; }

// A factor with `inner` contiguous: [outer, inner], decoded.
static void gather(const yx_operand *o, bool stored_by_inner, int64_t outer, int64_t inner, float *out) {
    const float scale = o->quant.scale_inv && eight_bit(o->dtype) ? *o->quant.scale_inv : 1;
    const bool use_col = stored_by_inner && eight_bit(o->dtype); // row-major by inner: the transposed copy is read
    for (int64_t i = 0; i < outer; i++)
        for (int64_t k = 0; k < inner; k++)
            out[i * inner + k] = scale * (use_col           ? value(o->dtype, o->col, i * inner + k)
                                          : stored_by_inner ? value(o->dtype, o->row, k * outer + i)
                                                            : value(o->dtype, o->row, i * inner + k));
}

static void multiply(const yx_matmul_args *x) {
    const int64_t M = x->M, N = x->N, K = x->K;
    const bool y = x->form == YX_MATMUL_Y, dw = x->form == YX_MATMUL_DW;
    const int64_t rows = dw ? N : M, cols = y ? N : K, inner = y ? K : dw ? M : N;
    float *a = new float[(size_t)(rows * inner)], *b = new float[(size_t)(cols * inner)];
    gather(&x->a, dw, rows, inner, a);
    gather(&x->b, !y, cols, inner, b);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float sum = 0;
            for (int64_t k = 0; k < inner; k++) sum += a[r * inner + k] * b[c * inner + k];
            const int64_t at = r * cols + c;
            if (x->accumulate) sum += value(x->out_dtype, x->out, at);
            if (x->out_dtype == YX_F32) ((float *)x->out)[at] = sum;
            else ((yx_bf16 *)x->out)[at] = yx_bf16_from_float(sum);
        }
    delete[] a;
    delete[] b;
}

void emulate_perform(std::function<void()> call);
yx_status cuda_matmul(yx_device *, yx_stream *, const yx_matmul_args *x) {
    const yx_matmul_args args = *x;
    emulate_perform([=] { multiply(&args); });
    return YX_OK;
}
size_t cuda_matmul_workspace(const yx_device *, const yx_workspace_query *) { return 0; }
yx_status cuda_matmul_open(yx_device *) { return YX_OK; }
void cuda_matmul_close(yx_device *) {}

// What the files of the CPU backend share: the device, its workspace, and the choice of precision.
#pragma once
#include "kernels/kernels.h"
#include <math.h>

struct yx_device {
    int threads;
    char *workspace;
    size_t workspace_bytes;
};

#ifdef YX_DOUBLE
#define cpu_gemm cblas_dgemm
#define real_sqrt sqrt
#define real_log log
#else
#define cpu_gemm cblas_sgemm
#define real_sqrt sqrtf
#define real_log logf
#endif

enum {
    CPU_CHUNK = 1024,   // columns of a row handled at once in buffers on the stack
    CPU_MAX_HEAD = 512, // largest head_dim
    CPU_MAX_RANK = 1024 // largest rank
};

static inline int64_t cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t cpu_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t cpu_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t cpu_round_up(int64_t a, int64_t b) { return cpu_ceil_div(a, b) * b; }

// Hands out pieces of the workspace, 256-byte aligned. The functions that lay a kernel's scratch out run twice: with
// base NULL to learn its size (`used`), then on the workspace.
typedef struct cpu_scratch {
    char *base;
    size_t used;
} cpu_scratch;
static inline void *cpu_take(cpu_scratch *s, int64_t count, size_t size) {
    void *p = s->base ? s->base + s->used : NULL;
    s->used += ((size_t)count * size + 255) & ~(size_t)255;
    return p;
}
// Fails when the workspace is smaller than `need` bytes.
yx_status cpu_check_workspace(const yx_device *d, size_t need, const char *who);

// Bytes of workspace each kernel needs at the shapes of a query.
size_t cpu_matmul_workspace(const yx_workspace_query *q);
size_t cpu_norm_workspace(const yx_workspace_query *q);
size_t cpu_attention_workspace(const yx_device *d, const yx_workspace_query *q);
size_t cpu_head_workspace(const yx_device *d, const yx_workspace_query *q);

yx_status cpu_matmul(yx_device *, yx_stream *, const yx_matmul_args *);
yx_status cpu_embed(yx_device *, yx_stream *, const yx_embed_args *);
yx_status cpu_embed_backward(yx_device *, yx_stream *, const yx_embed_backward_args *);
yx_status cpu_norm(yx_device *, yx_stream *, const yx_norm_args *);
yx_status cpu_norm_backward(yx_device *, yx_stream *, const yx_norm_backward_args *);
yx_status cpu_rope(yx_device *, yx_stream *, const yx_rope_args *);
yx_status cpu_attention(yx_device *, yx_stream *, const yx_attention_args *);
yx_status cpu_attention_backward(yx_device *, yx_stream *, const yx_attention_backward_args *);
yx_status cpu_swiglu(yx_device *, yx_stream *, const yx_swiglu_args *);
yx_status cpu_swiglu_backward(yx_device *, yx_stream *, const yx_swiglu_backward_args *);
yx_status cpu_head(yx_device *, yx_stream *, const yx_head_args *);
yx_status cpu_head_backward(yx_device *, yx_stream *, const yx_head_backward_args *);
yx_status cpu_sum_squares(yx_device *, yx_stream *, const yx_real *x, int64_t n, double *accumulate);
yx_status cpu_clip(yx_device *, yx_stream *, yx_step_scalars *);
yx_status cpu_adamw(yx_device *, yx_stream *, const yx_adamw_args *);
yx_status cpu_scales(yx_device *, yx_stream *, const yx_scales_args *);
yx_status cpu_cast(yx_device *, yx_stream *, const yx_cast_args *);

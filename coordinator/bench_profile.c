#include "coordinator/bench_profile.h"
#include <stdlib.h>
#include <string.h>

typedef struct timed {
    profile_group group;
    yx_dtype dtype; // of the factors, where it multiplies
    double flops, bytes;
    yx_event *begin, *end;
} timed;

static struct {
    const yx_ops *real;
    yx_ops table;
    yx_device *device;
    int64_t seq_len;
    timed *calls;
    int64_t count, capacity;
} profile;

const char *profile_group_name(profile_group g) {
    static const char *const names[] = {"products y", "products dx", "products dw", "attention",   "attention bwd",
                                        "head",       "head bwd",    "rmsnorm",     "rmsnorm bwd", "rope",
                                        "swiglu",     "swiglu bwd",  "embedding",   "optimizer",   "zeros and copies"};
    return names[g];
}

// --- Recording
static yx_status grow(void) {
    if (profile.count < profile.capacity) return YX_OK;
    int64_t capacity = profile.capacity ? 2 * profile.capacity : 1024;
    timed *calls = realloc(profile.calls, (size_t)capacity * sizeof *calls);
    if (!calls) return yx_fail(YX_ERR_NO_MEMORY, "no memory to time %lld operations", (long long)capacity);
    memset(calls + profile.capacity, 0, (size_t)(capacity - profile.capacity) * sizeof *calls);
    profile.calls = calls;
    profile.capacity = capacity;
    return YX_OK;
}

static yx_status begin(profile_group group, yx_dtype dtype, double flops, double bytes, yx_stream *stream) {
    yx_status status = grow();
    if (status != YX_OK) return status;
    timed *t = &profile.calls[profile.count];
    if (!t->begin) status = profile.real->event_create(profile.device, &t->begin);
    if (status == YX_OK && !t->end) status = profile.real->event_create(profile.device, &t->end);
    t->group = group, t->dtype = dtype, t->flops = flops, t->bytes = bytes;
    return status == YX_OK ? profile.real->event_record(profile.device, t->begin, stream) : status;
}
static yx_status end(yx_status status, yx_stream *stream) {
    return status == YX_OK ? profile.real->event_record(profile.device, profile.calls[profile.count++].end, stream)
                           : status;
}
#define TIMED(group, dtype, flops, bytes, call)                                                                        \
    do {                                                                                                               \
        yx_status status = begin(group, dtype, flops, bytes, stream);                                                  \
        return status == YX_OK ? end(call, stream) : status;                                                           \
    } while (0)

// --- The work of each operation
static double size(yx_dtype t) { return (double)yx_dtype_size(t); }
// Bytes of the copies that a producer writes.
static double written(const yx_operand *o, int64_t values, const void *itself) {
    return (double)values * size(o->dtype) * ((o->row && o->row != itself) + (o->col != NULL));
}

static yx_status matmul(yx_device *d, yx_stream *stream, const yx_matmul_args *a) {
    static const profile_group groups[] = {PROFILE_MATMUL_Y, PROFILE_MATMUL_DX, PROFILE_MATMUL_DW};
    double M = (double)a->M, N = (double)a->N, K = (double)a->K;
    double mn = M * N, mk = M * K, nk = N * K, in = size(a->a.dtype), out = size(a->out_dtype);
    double bytes = a->form == YX_MATMUL_Y    ? in * (mk + nk) + out * mn
                   : a->form == YX_MATMUL_DX ? in * (mn + nk) + out * mk
                                             : in * (mn + mk) + out * nk * (a->accumulate ? 2 : 1);
    TIMED(groups[a->form], a->a.dtype, 2 * M * N * K, bytes, profile.real->matmul(d, stream, a));
}

static double attention_flops(int64_t rows, int64_t heads, int64_t head_dim) {
    return 4.0 * (double)(rows * heads * head_dim) * (double)profile.seq_len / 2; // half is masked
}
static yx_status attention(yx_device *d, yx_stream *stream, const yx_attention_args *a) {
    double width = (double)((2 * a->heads + 2 * a->kv_heads) * a->head_dim);
    double bytes = (double)a->rows * width * size(a->act) + written(&a->out, a->rows * a->heads * a->head_dim, a->o);
    TIMED(PROFILE_ATTENTION, a->act, attention_flops(a->rows, a->heads, a->head_dim), bytes,
          profile.real->attention(d, stream, a));
}
static yx_status attention_backward(yx_device *d, yx_stream *stream, const yx_attention_backward_args *a) {
    double width = (double)((4 * a->heads + 4 * a->kv_heads) * a->head_dim); // qkv, o, d_o, dqkv
    TIMED(PROFILE_ATTENTION_BACKWARD, a->act, 2.5 * attention_flops(a->rows, a->heads, a->head_dim),
          (double)a->rows * width * size(a->act), profile.real->attention_backward(d, stream, a));
}

static yx_status head(yx_device *d, yx_stream *stream, const yx_head_args *a) {
    double flops = (a->dz ? 4.0 : 2.0) * (double)a->rows * (double)a->vocab * (double)a->rank;
    double bytes = (double)(a->vocab + 2 * a->rows) * (double)a->rank * size(a->act);
    TIMED(PROFILE_HEAD, a->act, flops, bytes, profile.real->head(d, stream, a));
}
static yx_status head_backward(yx_device *d, yx_stream *stream, const yx_head_backward_args *a) {
    double flops = 4.0 * (double)a->rows * (double)a->vocab * (double)a->rank;
    double bytes =
        (double)(a->vocab + a->rows) * (double)a->rank * size(a->act) + 8 * (double)a->vocab * (double)a->rank;
    TIMED(PROFILE_HEAD_BACKWARD, a->act, flops, bytes, profile.real->head_backward(d, stream, a));
}

static yx_status norm(yx_device *d, yx_stream *stream, const yx_norm_args *a) {
    double values = (double)(a->rows * a->cols);
    double bytes = values * size(a->act) * (a->delta ? 3 : 1) + written(&a->y, a->rows * a->cols, NULL);
    TIMED(PROFILE_NORM, a->act, 0, bytes, profile.real->norm(d, stream, a));
}
static yx_status norm_backward(yx_device *d, yx_stream *stream, const yx_norm_backward_args *a) {
    double values = (double)(a->rows * a->cols);
    double bytes = values * size(a->act) * (a->dres ? 4 : 3) + written(&a->dx_operand, a->rows * a->cols, a->dx);
    TIMED(PROFILE_NORM_BACKWARD, a->act, 0, bytes, profile.real->norm_backward(d, stream, a));
}
static yx_status rope(yx_device *d, yx_stream *stream, const yx_rope_args *a) {
    int64_t rotated = a->rows * (a->heads + a->kv_heads) * a->head_dim, v = a->rows * a->kv_heads * a->head_dim;
    bool reads_v = a->out.quant.amax || a->out.row != a->qkv;
    double bytes =
        (2.0 * (double)rotated + (reads_v ? (double)v : 0)) * size(a->act) + written(&a->out, rotated + v, a->qkv);
    TIMED(PROFILE_ROPE, a->act, 0, bytes, profile.real->rope(d, stream, a));
}
static yx_status swiglu(yx_device *d, yx_stream *stream, const yx_swiglu_args *a) {
    double bytes = 2.0 * (double)(a->rows * a->cols) * size(a->act) + written(&a->h, a->rows * a->cols, NULL);
    TIMED(PROFILE_SWIGLU, a->act, 0, bytes, profile.real->swiglu(d, stream, a));
}
static yx_status swiglu_backward(yx_device *d, yx_stream *stream, const yx_swiglu_backward_args *a) {
    int64_t values = a->rows * a->cols;
    double bytes =
        3.0 * (double)values * size(a->act) + written(&a->dgate_up, 2 * values, NULL) + written(&a->h, values, NULL);
    TIMED(PROFILE_SWIGLU_BACKWARD, a->act, 0, bytes, profile.real->swiglu_backward(d, stream, a));
}
static yx_status embed(yx_device *d, yx_stream *stream, const yx_embed_args *a) {
    TIMED(PROFILE_EMBED, a->act, 0, 2.0 * (double)(a->rows * a->rank) * size(a->act),
          profile.real->embed(d, stream, a));
}
static yx_status embed_backward(yx_device *d, yx_stream *stream, const yx_embed_backward_args *a) {
    double values = (double)(a->rows * a->rank); // at most that many values of dE change
    TIMED(PROFILE_EMBED, a->act, 0, values * (size(a->act) + 8), profile.real->embed_backward(d, stream, a));
}

static yx_status sum_squares(yx_device *d, yx_stream *stream, const yx_real *x, int64_t n, double *accumulate) {
    TIMED(PROFILE_OPTIMIZER, YX_F32, 0, 4.0 * (double)n, profile.real->sum_squares(d, stream, x, n, accumulate));
}
static yx_status clip(yx_device *d, yx_stream *stream, yx_step_scalars *s) {
    TIMED(PROFILE_OPTIMIZER, YX_F32, 0, sizeof *s, profile.real->clip(d, stream, s));
}
static yx_status adamw(yx_device *d, yx_stream *stream, const yx_adamw_args *a) {
    double bytes = 0;
    for (int64_t i = 0; i < a->num_segments; i++) {
        const yx_adamw_segment *s = &a->segments[i];
        bytes += 28.0 * (double)(s->rows * s->cols) + written(&s->operand, s->rows * s->cols, s->param);
    }
    TIMED(PROFILE_OPTIMIZER, YX_F32, 0, bytes, profile.real->adamw(d, stream, a));
}
static yx_status scales(yx_device *d, yx_stream *stream, const yx_scales_args *a) {
    double bytes = (double)a->num_slots * (2.0 * YX_SCALE_HISTORY_LENGTH + 4) * 4;
    TIMED(PROFILE_OPTIMIZER, YX_F32, 0, bytes, profile.real->scales(d, stream, a));
}
static yx_status cast(yx_device *d, yx_stream *stream, const yx_cast_args *a) {
    double bytes = 4.0 * (double)(a->rows * a->cols) + written(&a->dst, a->rows * a->cols, a->src);
    TIMED(PROFILE_OTHER, YX_F32, 0, bytes, profile.real->cast(d, stream, a));
}
static yx_status zero(yx_device *d, yx_stream *stream, void *dst, size_t bytes) {
    TIMED(PROFILE_OTHER, YX_F32, 0, (double)bytes, profile.real->zero(d, stream, dst, bytes));
}

// --- The table
const yx_ops *profile_open(const yx_ops *ops, yx_device *device) {
    profile.real = ops;
    profile.device = device;
    profile.table = *ops;
    profile.table.has_graphs = false; // each operation by itself
    profile.table.matmul = matmul;
    profile.table.attention = attention;
    profile.table.attention_backward = attention_backward;
    profile.table.head = head;
    profile.table.head_backward = head_backward;
    profile.table.norm = norm;
    profile.table.norm_backward = norm_backward;
    profile.table.rope = rope;
    profile.table.swiglu = swiglu;
    profile.table.swiglu_backward = swiglu_backward;
    profile.table.embed = embed;
    profile.table.embed_backward = embed_backward;
    profile.table.sum_squares = sum_squares;
    profile.table.clip = clip;
    profile.table.adamw = adamw;
    profile.table.scales = scales;
    profile.table.cast = cast;
    profile.table.zero = zero;
    return &profile.table;
}

void profile_close(void) {
    for (int64_t i = 0; i < profile.capacity; i++) {
        if (profile.calls[i].begin) profile.real->event_destroy(profile.device, profile.calls[i].begin);
        if (profile.calls[i].end) profile.real->event_destroy(profile.device, profile.calls[i].end);
    }
    free(profile.calls);
    memset(&profile, 0, sizeof profile);
}

void profile_start(int64_t seq_len) {
    profile.count = 0;
    profile.seq_len = seq_len;
}

// --- The sums
static double least_seconds(double flops, yx_dtype dtype, double bytes, const profile_ceiling *c) {
    double computing = flops > 0 ? flops / c->flops[dtype] : 0, moving = bytes / c->bandwidth;
    return computing > moving ? computing : moving;
}

yx_status profile_read(const profile_ceiling *ceiling, profile_report *out) {
    *out = (profile_report){0};
    yx_status status = profile.real->stream_sync(profile.device, NULL);
    for (int64_t i = 0; status == YX_OK && i < profile.count; i++) {
        const timed *t = &profile.calls[i];
        profile_entry *e = &out->groups[t->group];
        double seconds;
        status = profile.real->event_seconds(profile.device, t->begin, t->end, &seconds);
        e->calls++;
        e->seconds += seconds;
        e->flops[t->dtype] += t->flops;
        e->bytes += t->bytes;
        e->least += least_seconds(t->flops, t->dtype, t->bytes, ceiling);
    }
    return status;
}

double profile_least_seconds(const profile_report *r, profile_group g, const profile_ceiling *ceiling) {
    const profile_entry *e = &r->groups[g];
    double computing = 0;
    for (int t = 0; t < 4; t++)
        if (e->flops[t] > 0) computing += e->flops[t] / ceiling->flops[t];
    double moving = e->bytes / ceiling->bandwidth;
    return computing > moving ? computing : moving;
}

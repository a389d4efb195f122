#include "worker/evaluate.h"
#include <math.h>
#include <stdlib.h>

int64_t evaluate_bucket_begin(int bucket) { return bucket == 0 ? 0 : (int64_t)4 << bucket; }

static int bucket_of(int64_t position) {
    int bucket = 0;
    while (bucket + 1 < EVALUATE_BUCKETS && position >= evaluate_bucket_begin(bucket + 1)) bucket++;
    return bucket;
}

// Stream tokens and UTF-8 bytes of the leading documents with at most max_tokens tokens (at least one document).
static yx_status measure_text(const dataset *data, int64_t max_tokens, int64_t *tokens, int64_t *bytes) {
    const dataset_info *info = dataset_get_info(data);
    *tokens = info->num_tokens;
    *bytes = info->num_bytes;
    if (max_tokens <= 0 || max_tokens >= info->num_tokens) return YX_OK;
    yx_status status = YX_OK;
    size_t n = (size_t)info->num_docs;
    uint64_t *offsets = malloc(n * sizeof *offsets);
    uint32_t *sizes = malloc(n * sizeof *sizes);
    if (!offsets || !sizes) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %zu documents", n);
    YX_CHECK(dataset_read_docs(data, 0, (int64_t)n, offsets, sizes));
    *bytes = sizes[0];
    size_t count = 1;
    while (count + 1 < n && (int64_t)offsets[count + 1] <= max_tokens) *bytes += sizes[count++];
    if (count < n) *tokens = (int64_t)offsets[count];
fail:
    free(offsets);
    free(sizes);
    return status;
}

typedef struct buffers {
    micro_batch host;
    int32_t *device; // [3, M]
    yx_real *loss;   // [M] host
} buffers;

static yx_status take_buffers(yx_model *m, int64_t M, buffers *b) {
    yx_status status = YX_OK;
    size_t bytes = (size_t)M * sizeof(int32_t);
    b->host.token = malloc(bytes);
    b->host.target = malloc(bytes);
    b->host.seq_start = malloc(bytes);
    b->loss = malloc((size_t)M * sizeof *b->loss);
    if (!b->host.token || !b->host.target || !b->host.seq_start || !b->loss)
        YX_FAIL(YX_ERR_NO_MEMORY, "no memory for validation");
    YX_CHECK(m->ops->alloc(m->device, 3 * bytes, (void **)&b->device));
fail:
    return status;
}

static void free_buffers(yx_model *m, buffers *b) {
    free(b->host.token);
    free(b->host.target);
    free(b->host.seq_start);
    free(b->loss);
    m->ops->free(m->device, b->device);
}

// Losses of the windows in b->host. Targets that are no text, or lie past `end`, are taken out.
static yx_status run_batch(yx_model *m, buffers *b, int64_t begin, int64_t end, int64_t eot) {
    yx_status status = YX_OK;
    int64_t M = b->host.num_tokens;
    for (int64_t i = 0; i < M; i++)
        if (b->host.target[i] == (int32_t)eot || begin + i + 1 >= end) b->host.target[i] = -1;
    const int32_t *rows[3] = {b->host.token, b->host.target, b->host.seq_start};
    for (int i = 0; i < 3; i++)
        YX_CHECK(m->ops->copy(m->device, NULL, b->device + i * M, rows[i], (size_t)M * sizeof(int32_t)));
    model_batch batch = {M, b->device, b->device + M, b->device + 2 * M};
    YX_CHECK(model_run(m, &batch, MODEL_EVALUATE, 0, NULL));
    YX_CHECK(m->ops->copy(m->device, NULL, b->loss, m->loss, (size_t)M * sizeof *b->loss));
    YX_CHECK(m->ops->stream_sync(m->device, NULL));
fail:
    return status;
}

static void add_losses(const buffers *b, int64_t seq_len, double *nats, double *counts) {
    for (int64_t i = 0; i < b->host.num_tokens; i++) {
        if (b->host.target[i] < 0) continue;
        int bucket = bucket_of(i % seq_len);
        nats[bucket] += b->loss[i];
        counts[bucket] += 1;
    }
}

static void summarise(const double *nats, const double *counts, int64_t seq_len, int64_t bytes, evaluate_result *out) {
    double total = 0, tokens = 0;
    *out = (evaluate_result){.bytes = bytes, .num_buckets = bucket_of(seq_len - 1) + 1};
    for (int i = 0; i < out->num_buckets; i++) {
        out->bucket_tokens[i] = (int64_t)counts[i];
        out->bucket_loss[i] = counts[i] > 0 ? nats[i] / counts[i] : 0;
        total += nats[i];
        tokens += counts[i];
    }
    out->tokens = (int64_t)tokens;
    out->loss = tokens > 0 ? total / tokens : 0;
    out->bits_per_byte = bytes > 0 ? total / (log(2.0) * (double)bytes) : 0;
}

yx_status evaluate_run(yx_model *m, yx_group *group, const dataset *data, bool document_mask, int64_t seq_len,
                       int64_t max_tokens, evaluate_result *out) {
    yx_status status = YX_OK;
    buffers b = {0};
    double sums[2 * EVALUATE_BUCKETS] = {0};
    int64_t end = 0, bytes = 0, M = m->max_rows;
    if (seq_len > M)
        YX_FAIL(YX_ERR_INTERNAL, "windows of %lld tokens in micro-batches of %lld", (long long)seq_len, (long long)M);
    YX_CHECK(measure_text(data, max_tokens, &end, &bytes));
    YX_CHECK(take_buffers(m, M, &b));
    int64_t each = M / seq_len * seq_len; // stream tokens of one micro-batch
    for (int64_t begin = each * group_rank(group); begin < end && status == YX_OK; begin += each * group_size(group)) {
        int64_t next;
        YX_CHECK(loader_fill_windows(data, document_mask, begin, seq_len, M, &b.host, &next));
        YX_CHECK(run_batch(m, &b, begin, end, dataset_get_info(data)->eot_id));
        add_losses(&b, seq_len, sums, sums + EVALUATE_BUCKETS);
    }
fail:
    status = group_agree(group, status);
    if (status == YX_OK) status = group_all_reduce(group, sums, 2 * EVALUATE_BUCKETS, GROUP_F64, GROUP_SUM);
    if (status == YX_OK) summarise(sums, sums + EVALUATE_BUCKETS, seq_len, bytes, out);
    free_buffers(m, &b);
    return status;
}

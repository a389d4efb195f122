#include "worker/choices.h"
#include <math.h>
#include <stdlib.h>

enum { TOKEN, TARGET, SEQ_START, ROWS_OF_A_BATCH };

typedef struct buffers {
    int32_t *host, *device; // [3, max_rows]
    yx_real *loss;          // [max_rows] host
} buffers;

static yx_status take_buffers(yx_model *m, buffers *b) {
    yx_status status = YX_OK;
    size_t bytes = (size_t)(ROWS_OF_A_BATCH * m->max_rows) * sizeof(int32_t);
    b->host = malloc(bytes);
    b->loss = malloc((size_t)m->max_rows * sizeof *b->loss);
    if (!b->host || !b->loss) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to score choices");
    YX_CHECK(m->ops->alloc(m->device, bytes, (void **)&b->device));
fail:
    return status;
}

static void free_buffers(yx_model *m, buffers *b) {
    free(b->host);
    free(b->loss);
    m->ops->free(m->device, b->device);
}

static void put_row(buffers *b, int64_t M, int64_t row, int32_t token, int32_t target, int32_t seq_start) {
    b->host[TOKEN * M + row] = token;
    b->host[TARGET * M + row] = target;
    b->host[SEQ_START * M + row] = seq_start;
}

// Nothing follows a sequence's last token: it is a target, and has no row.
static int64_t rows_of(const choice_sequence *s) { return s->count - 1; }

// Puts the leading sequences that fit in the host's rows and pads them to a multiple of 128; returns how many.
static int64_t fill(buffers *b, int64_t M, const choice_sequence *s, int64_t count, int64_t *rows) {
    int64_t taken = 0, at = 0;
    for (; taken < count && at + rows_of(&s[taken]) <= M; at += rows_of(&s[taken++]))
        for (int64_t i = 0; i < rows_of(&s[taken]); i++) {
            bool is_scored = i + 1 >= s[taken].first;
            put_row(b, M, at + i, (int32_t)s[taken].ids[i], is_scored ? (int32_t)s[taken].ids[i + 1] : -1, (int32_t)at);
        }
    for (; at % 128; at++) put_row(b, M, at, 0, -1, (int32_t)at);
    *rows = at;
    return taken;
}

static yx_status run(yx_model *m, buffers *b, int64_t rows) {
    yx_status status = YX_OK;
    int64_t M = m->max_rows;
    for (int64_t i = 0; i < ROWS_OF_A_BATCH; i++)
        YX_CHECK(m->ops->copy(m->device, NULL, b->device + i * M, b->host + i * M, (size_t)rows * sizeof(int32_t)));
    model_batch batch = {rows, b->device + TOKEN * M, b->device + TARGET * M, b->device + SEQ_START * M};
    YX_CHECK(model_run(m, &batch, MODEL_EVALUATE, 0, NULL));
    YX_CHECK(m->ops->copy(m->device, NULL, b->loss, m->loss, (size_t)rows * sizeof *b->loss));
    YX_CHECK(m->ops->stream_sync(m->device, NULL));
fail:
    return status;
}

static yx_status add_up(const yx_real *loss, choice_sequence *s, int64_t count) {
    for (int64_t k = 0; k < count; loss += rows_of(&s[k++])) {
        s[k].log_probability = 0;
        for (int64_t i = s[k].first - 1; i < rows_of(&s[k]); i++) s[k].log_probability -= (double)loss[i];
        if (!isfinite(s[k].log_probability)) return yx_fail(YX_ERR_NUMERIC, "the model's loss is not finite");
    }
    return YX_OK;
}

yx_status choices_score(yx_model *m, choice_sequence *sequences, int64_t count) {
    yx_status status = YX_OK;
    buffers b = {0};
    YX_CHECK(take_buffers(m, &b));
    for (int64_t done = 0, taken; done < count; done += taken) {
        int64_t rows;
        taken = fill(&b, m->max_rows, sequences + done, count - done, &rows);
        if (taken == 0)
            YX_FAIL(YX_ERR_INTERNAL, "a sequence of %lld tokens in micro-batches of %lld",
                    (long long)sequences[done].count, (long long)m->max_rows);
        YX_CHECK(run(m, &b, rows));
        YX_CHECK(add_up(b.loss, sequences + done, taken));
    }
fail:
    free_buffers(m, &b);
    return status;
}

// Both ends of the model: the embedding's rows, and the cross-entropy over the vocabulary.
#include "coordinator/bench_kernels_error.h"
#include "coordinator/bench_kernels_task.h"
#include "coordinator/bench_reference.h"
#include <math.h>
#include <stdio.h>

static int64_t padded_vocab(const config_model *c) {
    return (c->vocab_size + PARAM_VOCAB_ALIGN - 1) / PARAM_VOCAB_ALIGN * PARAM_VOCAB_ALIGN;
}

// E as large as makes the logits of z ~ 1 differ by a few units: the softmax then weighs as much in the gradients as
// the target does.
static yx_operand embeddings(const bench_model *m, tensors *t) {
    int64_t rank = m->config->embedding_rank;
    return tensors_factor(t, m->precision.act, padded_vocab(m->config), rank, 5 / sqrt((double)rank));
}

static void describe(bench_task *task, const config_model *c, int64_t rows) {
    snprintf(task->shape, sizeof task->shape, "%lld × %lld of %lld", (long long)rows, (long long)c->embedding_rank,
             (long long)c->vocab_size);
}

// --- Embedding
static void build_embed(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    (void)o;
    const config_model *c = m->config;
    yx_dtype act = m->precision.act;
    out->embed = (yx_embed_args){.rows = rows,
                                 .rank = c->embedding_rank,
                                 .act = act,
                                 .token = tensors_ids(t, rows, c->vocab_size, 0),
                                 .E = embeddings(m, t),
                                 .z = tensors_poisoned(t, (size_t)(rows * c->embedding_rank) * yx_dtype_size(act))};
    describe(out, c, rows);
}

static yx_status run_embed(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->embed(device, NULL, &task->embed);
}

static int64_t held_words(const tensors *t, const yx_operand *E, int64_t rank) {
    for (int i = 0; i < t->count; i++)
        if (t->items[i].device == E->row) return (int64_t)(t->items[i].bytes / yx_dtype_size(E->dtype)) / rank;
    return 0;
}

static double compare_embed(tensors *t, const bench_task *task) {
    const yx_embed_args *a = &task->embed;
    double *E = tensors_before(t, a->E.dtype, a->E.row, held_words(t, &a->E, a->rank) * a->rank);
    double *z = tensors_zeros(t, a->rows * a->rank);
    if (t->status != YX_OK) return NAN;
    reference_embed(a->rows, a->rank, tensors_held(t, a->token), E, z);
    return error_of(t, a->act, a->z, a->rows * a->rank, z);
}

static void build_embed_backward(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t,
                                 bench_task *out) {
    (void)o;
    const config_model *c = m->config;
    int64_t rank = c->embedding_rank;
    double per_word = (double)rows / (double)c->vocab_size; // what is there already is as large as what comes
    out->embed_backward = (yx_embed_backward_args){
        .rows = rows,
        .rank = rank,
        .vocab = c->vocab_size,
        .act = m->precision.act,
        .token = tensors_ids(t, rows, c->vocab_size, 0),
        .dz = tensors_random(t, m->precision.act, rows * rank, 0, 1),
        .dE = tensors_random(t, YX_F32, padded_vocab(c) * rank, 0, sqrt(per_word)),
    };
    describe(out, c, rows);
}

static yx_status run_embed_backward(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->embed_backward(device, NULL, &task->embed_backward);
}

static double compare_embed_backward(tensors *t, const bench_task *task) {
    const yx_embed_backward_args *a = &task->embed_backward;
    double *dz = tensors_before(t, a->act, a->dz, a->rows * a->rank);
    double *dE = tensors_before(t, YX_F32, a->dE, a->vocab * a->rank);
    if (t->status != YX_OK) return NAN;
    reference_embed_backward(a->rows, a->rank, tensors_held(t, a->token), dz, dE);
    return error_of(t, YX_F32, a->dE, a->vocab * a->rank, dE);
}

// --- Head
static void build_head(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t, bench_task *out) {
    (void)o;
    const config_model *c = m->config;
    yx_dtype act = m->precision.act;
    double none = 0;
    out->head = (yx_head_args){.rows = rows,
                               .rank = c->embedding_rank,
                               .vocab = c->vocab_size,
                               .act = act,
                               .z = tensors_random(t, act, rows * c->embedding_rank, 0, 1),
                               .E = embeddings(m, t),
                               .target = tensors_ids(t, rows, c->vocab_size, t->keep ? rows / 16 : 0),
                               .grad_scale = 1 / (double)rows,
                               .lse = tensors_poisoned(t, (size_t)rows * sizeof(yx_real)),
                               .loss = tensors_poisoned(t, (size_t)rows * sizeof(yx_real)),
                               .loss_sum = tensors_from(t, &none, sizeof none),
                               .dz = tensors_poisoned(t, (size_t)(rows * c->embedding_rank) * yx_dtype_size(act))};
    describe(out, c, rows);
}

static yx_status run_head(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->head(device, NULL, &task->head);
}

// Of the arguments of both directions: they name them alike.
#define WORDS_OF(t, a)                                                                                                 \
    (reference_words) {                                                                                                \
        .rows = (a)->rows, .rank = (a)->rank, .vocab = (a)->vocab, .grad_scale = (a)->grad_scale,                      \
        .target = tensors_held(t, (a)->target), .z = tensors_before(t, (a)->act, (a)->z, (a)->rows * (a)->rank),       \
        .E = tensors_before(t, (a)->E.dtype, (a)->E.row, (a)->vocab * (a)->rank)                                       \
    }

static double compare_head(tensors *t, const bench_task *task) {
    const yx_head_args *a = &task->head;
    reference_words w = WORDS_OF(t, a);
    double *lse = tensors_zeros(t, a->rows), *loss = tensors_zeros(t, a->rows), sum = NAN, total = 0;
    double *dz = tensors_zeros(t, a->rows * a->rank);
    if (t->status != YX_OK) return NAN;
    reference_head(&w, lse, loss, dz);
    for (int64_t i = 0; i < a->rows; i++) total += loss[i];
    tensors_read(t, a->loss_sum, sizeof sum, &sum);
    double error = error_worse(error_of(t, a->act, a->dz, a->rows * a->rank, dz), error_of_scalar(sum, total));
    error = error_worse(error, error_of(t, YX_F32, a->lse, a->rows, lse));
    return error_worse(error, error_of(t, YX_F32, a->loss, a->rows, loss));
}

// --- Its derivative by E
static void score_before(tensors *t, const yx_head_backward_args *a) {
    reference_words w = WORDS_OF(t, a);
    double *lse = tensors_zeros(t, a->rows), *loss = tensors_zeros(t, a->rows);
    if (t->status != YX_OK) return;
    reference_head(&w, lse, loss, NULL);
    tensors_replace(t, YX_F32, (void *)a->lse, lse, a->rows);
}

static void build_head_backward(const bench_model *m, const bench_operation *o, int64_t rows, tensors *t,
                                bench_task *out) {
    (void)o;
    const config_model *c = m->config;
    int64_t rank = c->embedding_rank, all = padded_vocab(c) * rank;
    out->head_backward = (yx_head_backward_args){
        .rows = rows,
        .rank = rank,
        .vocab = c->vocab_size,
        .act = m->precision.act,
        .z = tensors_random(t, m->precision.act, rows * rank, 0, 1),
        .E = embeddings(m, t),
        .target = tensors_ids(t, rows, c->vocab_size, t->keep ? rows / 16 : 0),
        .grad_scale = 1 / (double)rows,
        .lse = tensors_random(t, YX_F32, rows, 12 + log((double)c->vocab_size), 1),
        .dE = tensors_random(t, YX_F32, all, 0, 1 / sqrt((double)rows * (double)c->vocab_size)),
    };
    if (t->keep) score_before(t, &out->head_backward); // the time does not depend on it
    describe(out, c, rows);
}

static yx_status run_head_backward(const yx_ops *ops, yx_device *device, const bench_task *task) {
    return ops->head_backward(device, NULL, &task->head_backward);
}

static double compare_head_backward(tensors *t, const bench_task *task) {
    const yx_head_backward_args *a = &task->head_backward;
    reference_words w = WORDS_OF(t, a);
    double *lse = tensors_before(t, YX_F32, a->lse, a->rows);
    double *dE = tensors_before(t, YX_F32, a->dE, a->vocab * a->rank);
    if (t->status != YX_OK) return NAN;
    reference_head_backward(&w, lse, dE);
    return error_of(t, YX_F32, a->dE, a->vocab * a->rank, dE);
}

void bench_add_head(bench_operations *list) {
    const bench_operation all[] = {
        {"embed", true, .build = build_embed, .run = run_embed, .compare = compare_embed},
        {"embed_backward", true, .build = build_embed_backward, .run = run_embed_backward,
         .compare = compare_embed_backward},
        {"head", true, .build = build_head, .run = run_head, .compare = compare_head},
        {"head_backward", true, .build = build_head_backward, .run = run_head_backward,
         .compare = compare_head_backward},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_add(list, &all[i]);
}

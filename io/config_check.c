#include "io/config_check.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { BLOCK_TOKENS = 6144, FP8_MULTIPLE = 16 };

static yx_status fail_at(const config_node *root, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static yx_status fail_at(const config_node *root, const char *path, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return config_node_fail(config_node_find(root, path), "%s", text);
}

static yx_status fail_at_stage(const config_node *root, int64_t stage, const char *key, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "training.curriculum_stages.%" PRId64 ".%s", stage, key);
    return fail_at(root, path, "%s %s", path, text);
}

// The matrix products of 8-bit floats take sizes in sixteens only (cuBLASLt).
static yx_status check_fp8(const config_node *root, const yx_config *c) {
    const config_model *m = &c->model;
    const config_training *t = &c->training;
    const struct {
        const char *path;
        int64_t size;
    } widths[] = {{"model.hidden_size", m->hidden_size},
                  {"model.intermediate_size", m->intermediate_size},
                  {"model.embedding_rank", m->embedding_rank},
                  {"model.head_dim", m->head_dim * m->num_attention_heads},
                  {"model.head_dim", m->head_dim * m->num_key_value_heads}};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i].size % FP8_MULTIPLE)
            return fail_at(root, widths[i].path,
                           "%s makes a matrix of width %" PRId64 "; precision fp8 needs multiples of %d",
                           widths[i].path, widths[i].size, FP8_MULTIPLE);
    if (t->bf16_layers_at_start + t->bf16_layers_at_end >= m->num_layers)
        return fail_at(root, "training.bf16_layers_at_start",
                       "training.bf16_layers_at_start and bf16_layers_at_end leave none of the %" PRId64
                       " layers in 8 bits; lower them, or say precision: bf16",
                       m->num_layers);
    return YX_OK;
}

static yx_status check_model(const config_node *root, const yx_config *c) {
    const config_model *m = &c->model;
    if (m->num_attention_heads % m->num_key_value_heads)
        return fail_at(root, "model.num_key_value_heads",
                       "model.num_attention_heads (%" PRId64
                       ") is not a multiple of model.num_key_value_heads (%" PRId64
                       "); every key/value head serves the same number of query heads",
                       m->num_attention_heads, m->num_key_value_heads);
    return c->training.precision == PRECISION_FP8 ? check_fp8(root, c) : YX_OK;
}

static yx_status check_seq_len(const config_node *root, const yx_config *c, int64_t stage) {
    int64_t seq_len = c->training.stages[stage].seq_len, below = seq_len, above = seq_len;
    char text[256];
    while (BLOCK_TOKENS % below) below--;
    while (BLOCK_TOKENS % above) above++;
    if (below != seq_len) {
        snprintf(text, sizeof text, "is %" PRId64 ", which does not divide a block of %d; take %" PRId64 " or %" PRId64,
                 seq_len, BLOCK_TOKENS, below, above);
        return fail_at_stage(root, stage, "seq_len", text);
    }
    if (seq_len <= c->model.max_position_embeddings) return YX_OK;
    snprintf(text, sizeof text,
             "is %" PRId64 ", longer than model.max_position_embeddings (%" PRId64 "); lower it or "
             "raise the other",
             seq_len, c->model.max_position_embeddings);
    return fail_at_stage(root, stage, "seq_len", text);
}

static yx_status check_fractions(const config_node *root, const config_training *t) {
    double sum = 0;
    for (int64_t i = 0; i < t->num_stages; i++) sum += t->stages[i].share;
    if (fabs(sum - 1) <= 1e-6) return YX_OK;
    return fail_at(root, "training.curriculum_stages",
                   "the fractions of the %" PRId64 " stages add up to %.9g; they must add up to 1", t->num_stages, sum);
}

static yx_status check_stages(const config_node *root, const yx_config *c) {
    yx_status status = YX_OK;
    const config_training *t = &c->training;
    for (int64_t i = 0; i < t->num_stages; i++) {
        YX_CHECK(check_seq_len(root, c, i));
        if (t->batch_scaling == BATCH_SCALING_SQRT && !isnan(t->stages[i].lr_scale))
            return fail_at_stage(
                root, i, "lr_scale",
                "and training.batch_scaling: sqrt both scale the rate; remove lr_scale from all stages "
                "(--set 'training.curriculum_stages.*.lr_scale=null'), or set batch_scaling: none");
    }
    YX_CHECK(check_fractions(root, t));
fail:
    return status;
}

static yx_status check_training(const config_node *root, const config_training *t) {
    if (t->epochs == 0 && t->total_tokens == 0)
        return fail_at(root, "training", "one of training.epochs and training.total_tokens must be given");
    if (t->epochs != 0 && t->total_tokens != 0)
        return fail_at(
            root, "training.total_tokens",
            "training.epochs and training.total_tokens are both given; remove one (--set training.epochs=null)");
    if (t->lr_schedule == SCHEDULE_WSD && t->warmup_ratio + t->decay_ratio > 1)
        return fail_at(root, "training.decay_ratio",
                       "training.warmup_ratio + training.decay_ratio is %.9g; together they are at most 1",
                       t->warmup_ratio + t->decay_ratio);
    return YX_OK;
}

static yx_status check_lengths(const config_node *root, const yx_config *c) {
    int64_t longest = c->evaluation.seq_len, most = c->training.micro_batch_tokens;
    if (longest > c->model.max_position_embeddings)
        return fail_at(root, "evaluation.seq_len",
                       "evaluation.seq_len is %" PRId64 ", longer than model.max_position_embeddings (%" PRId64 ")",
                       longest, c->model.max_position_embeddings);
    for (int64_t i = 0; i < c->training.num_stages; i++)
        if (c->training.stages[i].seq_len > longest) longest = c->training.stages[i].seq_len;
    if (most && most < longest)
        return fail_at(root, "training.micro_batch_tokens",
                       "training.micro_batch_tokens is %" PRId64
                       "; a micro-batch must hold the longest sequence, %" PRId64 " tokens",
                       most, longest);
    return YX_OK;
}

yx_status config_check(const config_node *root, const yx_config *c) {
    yx_status status = YX_OK;
    YX_CHECK(check_model(root, c));
    YX_CHECK(check_training(root, &c->training));
    YX_CHECK(check_stages(root, c));
    YX_CHECK(check_lengths(root, c));
fail:
    return status;
}

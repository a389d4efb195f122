#include "coordinator/plan.h"
#include "common/hash.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { WINDOWS_PER_STAGE = 8 };                   // that an automatic window leaves the shortest stage
static const double MAX_TOTAL = 9007199254740992; // 2^53: token counts are exact as double, too

// --- Size of the run ------------------------------------------------------------------------------------------------
static int64_t epoch_tokens(const yx_plan *p) { return p->blocks_per_epoch * PLAN_BLOCK_TOKENS; }

static double wanted_total(const yx_plan *p) {
    return p->training.epochs > 0 ? p->training.epochs * (double)epoch_tokens(p) : p->training.total_tokens;
}

static double least_share(const config_training *t) {
    double least = 1;
    for (int64_t i = 0; i < t->num_stages; i++) least = fmin(least, t->stages[i].share);
    return least;
}

static int64_t choose_window(const yx_plan *p, int64_t configured) {
    if (configured > 0) return configured;
    double blocks = wanted_total(p) * least_share(&p->training) / PLAN_BLOCK_TOKENS / WINDOWS_PER_STAGE;
    return (int64_t)fmin(fmax(blocks, 1), PLAN_MAX_WINDOW_BLOCKS);
}

static yx_status size_run(const yx_config *config, int64_t corpus_tokens, yx_plan *p) {
    p->blocks_per_epoch = corpus_tokens > 0 ? (corpus_tokens - 1) / PLAN_BLOCK_TOKENS : 0;
    if (p->blocks_per_epoch == 0)
        return yx_fail(YX_ERR_CONFIG,
                       "the training shards hold %" PRId64
                       " tokens; the least is one block of %d and the token behind it: "
                       "prepare more text",
                       corpus_tokens, PLAN_BLOCK_TOKENS);
    if ((double)corpus_tokens > MAX_TOTAL || wanted_total(p) > MAX_TOTAL)
        return yx_fail(YX_ERR_CONFIG, "the run would be %.3g tokens; at most %.3g are planned: lower training.epochs",
                       wanted_total(p), MAX_TOTAL);
    p->window_blocks = choose_window(p, config->data.shuffle_window_blocks);
    if (p->window_blocks > p->blocks_per_epoch) p->window_blocks = p->blocks_per_epoch;
    return YX_OK;
}

// The window boundary nearest to `tokens`; the higher one when both are as near. They start again with each epoch,
// whose last window may be smaller.
static int64_t nearest_boundary(const yx_plan *p, int64_t tokens) {
    int64_t epoch = epoch_tokens(p), window = p->window_blocks * PLAN_BLOCK_TOKENS, in_epoch = tokens % epoch;
    int64_t low = in_epoch - in_epoch % window, high = low + window < epoch ? low + window : epoch;
    return tokens - in_epoch + (in_epoch - low < high - in_epoch ? low : high);
}

int64_t plan_num_windows(const yx_plan *p) {
    int64_t per_epoch = (p->blocks_per_epoch + p->window_blocks - 1) / p->window_blocks;
    int64_t blocks = p->total_tokens / PLAN_BLOCK_TOKENS, rest = blocks % p->blocks_per_epoch;
    return blocks / p->blocks_per_epoch * per_epoch + (rest + p->window_blocks - 1) / p->window_blocks;
}

// --- Stages ---------------------------------------------------------------------------------------------------------
static yx_status too_short(const yx_plan *p, int64_t index, double share, const char *what, int64_t least) {
    return yx_fail(YX_ERR_CONFIG,
                   "training.curriculum_stages.%" PRId64 ": %.4g of %" PRId64 " tokens is less than one %s (%" PRId64
                   " tokens); raise its fraction, train on more tokens, or lower %s",
                   index, share, p->total_tokens, what, least,
                   strcmp(what, "step") == 0 ? "its batch_size" : "data.shuffle_window_blocks");
}

static yx_status set_tokens(yx_plan *p, int64_t index, double share, double cumulative) {
    plan_stage *s = &p->stages[index];
    bool is_last = index == p->num_stages - 1;
    s->token_begin = index ? s[-1].token_end : 0;
    s->token_end = is_last ? p->total_tokens : nearest_boundary(p, llround(cumulative * (double)p->total_tokens));
    int64_t tokens = s->token_end - s->token_begin, full = plan_tokens_per_step(s);
    if (tokens <= 0) return too_short(p, index, share, "shuffle window", p->window_blocks * PLAN_BLOCK_TOKENS);
    if (tokens < full) return too_short(p, index, share, "step", full);
    s->step_begin = index ? s[-1].step_begin + s[-1].num_steps : 0;
    s->num_steps = (tokens + full - 1) / full;
    return YX_OK;
}

static double reference_tokens(const config_training *t) {
    double largest = t->batch_scaling_reference;
    if (largest > 0) return largest;
    for (int64_t i = 0; i < t->num_stages; i++)
        largest = fmax(largest, (double)t->stages[i].seq_len * (double)t->stages[i].batch_size);
    return largest;
}

static double stage_scale(const config_training *t, const config_stage *stage) {
    if (t->batch_scaling == BATCH_SCALING_SQRT)
        return sqrt((double)stage->seq_len * (double)stage->batch_size / reference_tokens(t));
    return isnan(stage->lr_scale) ? 1 : stage->lr_scale;
}

static void copy_stage(const config_training *t, const config_stage *from, plan_stage *to) {
    to->seq_len = from->seq_len;
    to->batch_size = from->batch_size;
    to->lr_scale = stage_scale(t, from);
    to->grad_clip = from->grad_clip;
    to->warmup_tokens = llround(from->warmup_tokens);
    memcpy(to->description, from->description, sizeof to->description);
}

static yx_status check_stage(const config_stage *stage, int64_t index) {
    if (stage->seq_len > 0 && stage->batch_size > 0 && PLAN_BLOCK_TOKENS % stage->seq_len == 0) return YX_OK;
    return yx_fail(YX_ERR_CONFIG,
                   "training.curriculum_stages.%" PRId64 ": %" PRId64 " sequences of %" PRId64
                   " tokens; a length must divide a block of %d",
                   index, stage->batch_size, stage->seq_len, PLAN_BLOCK_TOKENS);
}

static yx_status build_stages(yx_plan *p) {
    yx_status status = YX_OK;
    const config_training *t = &p->training;
    double cumulative = 0;
    p->num_stages = t->num_stages;
    for (int64_t i = 0; i < t->num_stages; i++) {
        YX_CHECK(check_stage(&t->stages[i], i));
        copy_stage(t, &t->stages[i], &p->stages[i]);
        cumulative += t->stages[i].share;
        YX_CHECK(set_tokens(p, i, t->stages[i].share, cumulative));
    }
    if (!(fabs(cumulative - 1) <= 1e-6))
        YX_FAIL(YX_ERR_CONFIG, "the stages' fractions add up to %.9g; they must add up to 1", cumulative);
    p->total_steps = p->stages[p->num_stages - 1].step_begin + p->stages[p->num_stages - 1].num_steps;
fail:
    return status;
}

// --- Hash -----------------------------------------------------------------------------------------------------------
static uint64_t hash_int(uint64_t hash, int64_t value) { return yx_hash64(&value, sizeof value, hash); }
static uint64_t hash_real(uint64_t hash, double value) { return yx_hash64(&value, sizeof value, hash); }

static uint64_t hash_stage(uint64_t hash, const plan_stage *s) {
    const int64_t whole[] = {s->seq_len,    s->batch_size, s->token_begin,  s->token_end,
                             s->step_begin, s->num_steps,  s->warmup_tokens};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) hash = hash_int(hash, whole[i]);
    return hash_real(hash_real(hash, s->lr_scale), s->grad_clip);
}

// The identity stands for the configuration; what was computed from it is hashed as well, so that ranks that run
// different binaries notice.
static yx_status hash_plan(const yx_config *config, yx_plan *p) {
    char identity[YX_SHA256_HEX];
    yx_status status = config_identity(config, identity);
    if (status != YX_OK) return status;
    uint64_t hash = yx_hash64(identity, sizeof identity, 0);
    const int64_t whole[] = {p->blocks_per_epoch, p->window_blocks, p->total_tokens, p->total_steps, p->num_stages};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) hash = hash_int(hash, whole[i]);
    for (int64_t i = 0; i < p->num_stages; i++) hash = hash_stage(hash, &p->stages[i]);
    p->hash = hash;
    return YX_OK;
}

yx_status plan_build(const yx_config *config, int64_t corpus_tokens, yx_plan *out) {
    yx_status status = YX_OK;
    memset(out, 0, sizeof *out);
    out->training = config->training;
    if (config->training.num_stages < 1 || config->training.num_stages > CONFIG_MAX_STAGES)
        YX_FAIL(YX_ERR_CONFIG, "training.curriculum_stages has %" PRId64 " stages", config->training.num_stages);
    YX_CHECK(size_run(config, corpus_tokens, out));
    out->total_tokens = nearest_boundary(out, llround(wanted_total(out)));
    if (out->total_tokens == 0)
        YX_FAIL(YX_ERR_CONFIG,
                "the run is %.6g tokens, less than half a shuffle window of %" PRId64
                " tokens: train on more, or lower data.shuffle_window_blocks",
                wanted_total(out), out->window_blocks * PLAN_BLOCK_TOKENS);
    YX_CHECK(build_stages(out));
    YX_CHECK(hash_plan(config, out));
fail:
    return status;
}

// --- Learning rate --------------------------------------------------------------------------------------------------
// (1 + cos(π p)) / 2 = 1 - sin²(π p / 2) for 0 <= p <= 1, by the series of the sine up to x^21, whose rest is below
// 2^-53.
static double half_cosine(double p) {
    double x = 1.57079632679489661923 * p, square = x * x, sine = 0;
    for (int n = 21; n >= 1; n -= 2) sine = 1 - square / (double)((n + 1) * (n + 2)) * sine;
    sine *= x;
    return 1 - sine * sine;
}

// f of a step that starts after t of `total` tokens and holds n.
static double schedule(const config_training *c, double t, double n, double total) {
    double warmup = c->warmup_ratio * total, floor_ratio = c->min_lr_ratio;
    if (t + n < warmup) return (t + n) / warmup;
    double progress = warmup < total ? fmax(t - warmup, 0) / (total - warmup) : 0, decay = c->decay_ratio * total;
    switch (c->lr_schedule) {
    case SCHEDULE_COSINE:
        return floor_ratio + (1 - floor_ratio) * half_cosine(progress);
    case SCHEDULE_LINEAR:
        return 1 - (1 - floor_ratio) * progress;
    case SCHEDULE_WSD:
        return 1 - (1 - floor_ratio) * fmax(t - (total - decay), 0) / decay;
    case SCHEDULE_CONSTANT:
        break;
    }
    return 1;
}

static int64_t step_tokens(const plan_stage *s, int64_t tokens_consumed) {
    int64_t rest = s->token_end - tokens_consumed, full = plan_tokens_per_step(s);
    return rest < full ? rest : full;
}

double plan_learning_rate(const yx_plan *p, int64_t stage, int64_t tokens_consumed) {
    const plan_stage *s = &p->stages[stage];
    const config_training *c = &p->training;
    double t = (double)tokens_consumed, n = (double)step_tokens(s, tokens_consumed), rewarm = 1;
    int64_t into = tokens_consumed - s->token_begin;
    if (into < s->warmup_tokens)
        rewarm = c->rewarmup_start + (1 - c->rewarmup_start) * (double)into / (double)s->warmup_tokens;
    return c->learning_rate * schedule(c, t, n, (double)p->total_tokens) * s->lr_scale * rewarm;
}

// --- Steps ----------------------------------------------------------------------------------------------------------
// 0 <= tokens < total.
static int64_t stage_at(const yx_plan *p, int64_t tokens) {
    int64_t low = 0, high = p->num_stages - 1;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (tokens < p->stages[middle].token_end) high = middle;
        else low = middle + 1;
    }
    return low;
}

yx_status plan_step_at(const yx_plan *p, int64_t tokens, plan_step *out) {
    if (tokens >= p->total_tokens)
        return yx_fail(YX_ERR_USAGE, "%" PRId64 " tokens are consumed; the plan ends at %" PRId64, tokens,
                       p->total_tokens);
    int64_t index = tokens < 0 ? 0 : stage_at(p, tokens), into = tokens - p->stages[index].token_begin;
    const plan_stage *s = &p->stages[index];
    if (tokens < 0 || into % plan_tokens_per_step(s))
        return yx_fail(YX_ERR_INTERNAL, "no step starts after %" PRId64 " tokens", tokens);
    int64_t n = step_tokens(s, tokens);
    *out = (plan_step){.step = s->step_begin + into / plan_tokens_per_step(s),
                       .stage = index,
                       .token_begin = tokens,
                       .seq_len = s->seq_len,
                       .num_sequences = n / s->seq_len,
                       .first_of_stage = into == 0,
                       .last_of_stage = tokens + n == s->token_end,
                       .last_of_run = tokens + n == p->total_tokens,
                       .lr = plan_learning_rate(p, index, tokens),
                       .grad_clip = s->grad_clip};
    out->hash = yx_hash64(out, offsetof(plan_step, hash), p->hash);
    return YX_OK;
}

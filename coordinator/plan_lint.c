#include "coordinator/plan_lint.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>

enum { FEW_STEPS = 10, SEQUENCES_PER_BLOCK = 64 };
static const double MANY_EPOCHS = 4, LONG_WARMUP = 0.1, LONG_REWARMUP = 0.5, ROUNDED_MUCH = 0.2;

typedef struct lints {
    const yx_config *config;
    const yx_plan *plan;
    plan_lint_report report;
    void *context;
} lints;

static void lint(const lints *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void lint(const lints *l, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    l->report(l->context, text);
}

static int64_t stage_tokens(const plan_stage *s) { return s->token_end - s->token_begin; }

// --- One stage. Stages are counted from 1 in what people read.
static void lint_steps(const lints *l, const plan_stage *s, int64_t number) {
    if (s->num_steps >= FEW_STEPS) return;
    lint(l, "stage %" PRId64 " has only %" PRId64 " optimizer steps: lower its batch_size or raise its fraction",
         number, s->num_steps);
}

static void lint_rounding(const lints *l, const plan_stage *s, int64_t number) {
    double share = l->config->training.stages[number - 1].share, got = (double)stage_tokens(s);
    double wanted = share * (double)l->plan->total_tokens;
    if (fabs(got - wanted) <= ROUNDED_MUCH * wanted) return;
    lint(l,
         "stage %" PRId64 " gets %.3g %% of the tokens, not %.3g %%, because it ends with a shuffle window of %" PRId64
         " blocks: lower data.shuffle_window_blocks",
         number, 100 * got / (double)l->plan->total_tokens, 100 * share, l->plan->window_blocks);
}

static void lint_rewarmup(const lints *l, const plan_stage *s, int64_t number) {
    if ((double)s->warmup_tokens <= LONG_REWARMUP * (double)stage_tokens(s)) return;
    lint(l, "stage %" PRId64 " spends %" PRId64 " of its %" PRId64 " tokens warming up again: lower its warmup_tokens",
         number, s->warmup_tokens < stage_tokens(s) ? s->warmup_tokens : stage_tokens(s), stage_tokens(s));
}

// A step's sequences come from its windows' blocks only; the shorter the sequences, the more of them are neighbours.
static void lint_variety(const lints *l, const plan_stage *s, int64_t number) {
    int64_t blocks = plan_tokens_per_step(s) / PLAN_BLOCK_TOKENS;
    if (blocks < l->plan->window_blocks) blocks = l->plan->window_blocks;
    if (s->batch_size <= SEQUENCES_PER_BLOCK * blocks) return;
    lint(l,
         "a step of stage %" PRId64 " draws its %" PRId64 " sequences from %" PRId64
         " block(s) of text, so they are much alike: raise data.shuffle_window_blocks or train on a larger corpus",
         number, s->batch_size, blocks);
}

// Against the stage before.
static void lint_change(const lints *l, const plan_stage *s, int64_t number) {
    if (s->lr_scale < s[-1].lr_scale)
        lint(l,
             "the rate's scale falls from %.4g in stage %" PRId64 " to %.4g in stage %" PRId64
             ": the schedule already lowers the rate",
             s[-1].lr_scale, number - 1, s->lr_scale, number);
    if (s->seq_len < s[-1].seq_len)
        lint(l, "sequences get shorter from stage %" PRId64 " (%" PRId64 ") to stage %" PRId64 " (%" PRId64 ")",
             number - 1, s[-1].seq_len, number, s->seq_len);
}

static void lint_stages(const lints *l) {
    for (int64_t i = 0; i < l->plan->num_stages; i++) {
        const plan_stage *s = &l->plan->stages[i];
        lint_steps(l, s, i + 1);
        lint_rounding(l, s, i + 1);
        lint_rewarmup(l, s, i + 1);
        lint_variety(l, s, i + 1);
        if (i > 0) lint_change(l, s, i + 1);
    }
}

// --- The run --------------------------------------------------------------------------------------------------------
static void lint_length(const lints *l) {
    int64_t longest = 0, positions = l->config->model.max_position_embeddings, window = l->config->evaluation.seq_len;
    for (int64_t i = 0; i < l->plan->num_stages; i++)
        if (l->plan->stages[i].seq_len > longest) longest = l->plan->stages[i].seq_len;
    if (longest < positions)
        lint(l,
             "no stage is longer than %" PRId64 " tokens: the model learns nothing about positions up to its "
             "max_position_embeddings, %" PRId64,
             longest, positions);
    if (window > longest)
        lint(l, "evaluation.seq_len is %" PRId64 ", but no stage is longer than %" PRId64, window, longest);
}

static void lint_schedule(const lints *l) {
    const config_training *t = &l->plan->training;
    const plan_stage *last = &l->plan->stages[l->plan->num_stages - 1];
    double total = (double)l->plan->total_tokens;
    double epochs = total / (double)(l->plan->blocks_per_epoch * PLAN_BLOCK_TOKENS);
    if (epochs > MANY_EPOCHS)
        lint(l,
             "the run passes %.3g times over the corpus; beyond about %.0f times repeated text adds little "
             "(Muennighoff et al. 2023)",
             epochs, MANY_EPOCHS);
    if (t->warmup_ratio > LONG_WARMUP)
        lint(l, "training.warmup_ratio is %.3g: warm-up takes more than a tenth of the run", t->warmup_ratio);
    if (t->lr_schedule == SCHEDULE_WSD && (1 - t->decay_ratio) * total < (double)last->token_begin)
        lint(l,
             "the final decay begins before the last stage: finish the growth in length first, or lower "
             "training.decay_ratio to %.3g",
             1 - (double)last->token_begin / total);
}

static void lint_initial(const lints *l) {
    const config_training *t = &l->config->training;
    if (*t->initial_checkpoint && t->precision == PRECISION_FP8 && t->bf16_warmup_steps > 0)
        lint(l,
             "training.bf16_warmup_steps is %" PRId64
             ": trained weights have left the plateau that these steps are for; "
             "0 begins in 8 bits",
             t->bf16_warmup_steps);
}

static void lint_checkpoints(const lints *l) {
    const config_checkpoint *c = &l->config->checkpoint;
    if (c->keep_last == 1) lint(l, "checkpoint.keep_last is 1: a damaged checkpoint would leave none to fall back to");
    if (c->keep_every && (!c->interval_steps || c->keep_every % c->interval_steps))
        lint(l,
             "checkpoint.keep_every (%" PRId64 ") is no multiple of checkpoint.interval_steps (%" PRId64
             "): few checkpoints fall on such a step",
             c->keep_every, c->interval_steps);
    if (!c->at_stage_end && (!c->interval_steps || c->interval_steps > l->plan->total_steps))
        lint(l, "no checkpoint is written before the end: set checkpoint.interval_steps below %" PRId64,
             l->plan->total_steps);
}

void plan_lint(const yx_config *config, const yx_plan *plan, plan_lint_report report, void *context) {
    const lints l = {.config = config, .plan = plan, .report = report, .context = context};
    lint_stages(&l);
    lint_length(&l);
    lint_schedule(&l);
    lint_initial(&l);
    lint_checkpoints(&l);
}

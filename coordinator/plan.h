// The plan: what every optimizer step does, as a pure function of (configuration, size of the corpus, tokens consumed).
#pragma once
#include "io/config.h"

enum { PLAN_BLOCK_TOKENS = 6144, PLAN_MAX_WINDOW_BLOCKS = 1024 };

typedef struct plan_stage {
    int64_t seq_len, batch_size;    // batch_size: sequences of a full step
    int64_t token_begin, token_end; // tokens consumed at which the stage starts and ends: shuffle-window boundaries
    int64_t step_begin, num_steps;  // optimizer steps; the last one may be short
    double lr_scale, grad_clip;     // lr_scale: lr_scale of the configuration, or sqrt(B / B_ref)
    int64_t warmup_tokens;
    char description[CONFIG_MAX_TEXT];
} plan_stage;

typedef struct yx_plan {
    int64_t blocks_per_epoch, window_blocks; // the corpus in blocks of PLAN_BLOCK_TOKENS; the rest is not used
    int64_t total_tokens, total_steps;
    int64_t num_stages;
    plan_stage stages[CONFIG_MAX_STAGES];
    config_training training; // what the learning rate depends on
    uint64_t hash;            // of everything above but descriptions, and of config_identity
} yx_plan;

// One optimizer step. A plain structure without padding bytes left unset: ranks compare it by its hash.
typedef struct plan_step {
    int64_t step;           // 0-based optimizer step
    int64_t stage;          // index
    int64_t token_begin;    // tokens consumed before the step
    int64_t seq_len;        // T
    int64_t num_sequences;  // S: this step scores S·T tokens
    int64_t first_of_stage; // 1 at a transition (and at step 0)
    int64_t last_of_stage, last_of_run;
    double lr, grad_clip;
    uint64_t hash; // of plan hash and the fields above
} plan_step;

// Tokens of a stage's full steps.
static inline int64_t plan_tokens_per_step(const plan_stage *stage) { return stage->seq_len * stage->batch_size; }

// Builds the plan for `corpus_tokens` training tokens. A block needs the token behind it (its last target), so an epoch
// has floor((corpus_tokens - 1) / 6144) of them, and ceil(blocks / window_blocks) shuffle windows. Where
// data.shuffle_window_blocks is 0, a window is an eighth of the shortest stage, 1 … 1024 blocks: rounding to windows
// then moves a stage's tokens by at most an eighth. Refuses (YX_ERR_CONFIG, with the numbers and what to change) a
// schedule that does not add up: fractions that do not sum to 1, a seq_len that does not divide the block, a stage
// shorter than one window or one step …
yx_status plan_build(const yx_config *config, int64_t corpus_tokens, yx_plan *out);
// The step that starts after `tokens_consumed` tokens; fails (YX_ERR_INTERNAL) when no step starts there, and
// YX_ERR_USAGE past the end.
yx_status plan_step_at(const yx_plan *plan, int64_t tokens_consumed, plan_step *out);
// lr = peak · f(tokens / total) · stage scale · re-warm-up, at the tokens consumed before the step; during the warm-up
// at those after it, so that the first step's is not 0 (docs/configuration.md has the formulas). No function of libm is
// in it: every processor that runs this binary gets the same bits.
double plan_learning_rate(const yx_plan *plan, int64_t stage, int64_t tokens_consumed);
// Shuffle windows the run goes through.
int64_t plan_num_windows(const yx_plan *plan);

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/rng.h"
#include "coordinator/plan.h"
#include "coordinator/plan_lint.h"
#include "coordinator/plan_model.h"

enum { BLOCK = PLAN_BLOCK_TOKENS };

static yx_config config;
static yx_plan plan, other;

// A hundred steps of one block each, in one stage, rate 1 and nothing else.
static void set_config(void) {
    memset(&config, 0, sizeof config);
    config.model = (config_model){.hidden_size = 64,
                                  .num_layers = 2,
                                  .num_attention_heads = 4,
                                  .num_key_value_heads = 2,
                                  .head_dim = 16,
                                  .intermediate_size = 128,
                                  .vocab_size = 1000,
                                  .embedding_rank = 32,
                                  .max_position_embeddings = 64};
    config.data.shuffle_window_blocks = 1;
    config_training *t = &config.training;
    t->total_tokens = 100 * BLOCK;
    t->learning_rate = 1;
    t->lr_schedule = SCHEDULE_CONSTANT;
    t->num_stages = 1;
    t->stages[0] = (config_stage){.seq_len = 64, .batch_size = 96, .share = 1, .lr_scale = NAN, .grad_clip = 1};
    config.checkpoint = (config_checkpoint){.interval_steps = 10, .keep_last = 3, .at_stage_end = true};
}

static void build(int64_t corpus_tokens) {
    if (plan_build(&config, corpus_tokens, &plan) != YX_OK) fail_msg("%s", yx_message());
}

static void assert_refused(int64_t corpus_tokens, const char *text) {
    assert_int_equal(plan_build(&config, corpus_tokens, &plan), YX_ERR_CONFIG);
    if (!strstr(yx_message(), text)) fail_msg("'%s' is not in: %s", text, yx_message());
}

static void assert_near(double value, double expected) {
    if (!(fabs(value - expected) <= 1e-14 * fmax(1, fabs(expected)))) fail_msg("%.17g is not %.17g", value, expected);
}

// --- Learning rate, by hand
static double rate(int64_t blocks) {
    plan_step step;
    assert_int_equal(plan_step_at(&plan, blocks * BLOCK, &step), YX_OK);
    assert_true(step.lr == plan_learning_rate(&plan, step.stage, blocks * BLOCK));
    return step.lr;
}

static void warms_up(void **state) {
    (void)state;
    set_config();
    config.training.warmup_ratio = 0.1; // 10 of the 100 steps
    config.training.learning_rate = 2;
    build(100 * BLOCK + 1);
    assert_near(rate(0), 0.2);
    assert_near(rate(4), 1.0);
    assert_near(rate(8), 1.8);
    assert_near(rate(9), 2);
    assert_near(rate(10), 2);
    assert_near(rate(99), 2);
    config.training.warmup_ratio = 0;
    build(100 * BLOCK + 1);
    assert_near(rate(0), 2);
    config.training.warmup_ratio = 1;
    build(100 * BLOCK + 1);
    assert_near(rate(0), 0.02);
    assert_near(rate(99), 2);
}

static void falls_by_schedule(void **state) {
    (void)state;
    set_config();
    config.training.warmup_ratio = 0.1;
    config.training.min_lr_ratio = 0.1;
    config.training.lr_schedule = SCHEDULE_COSINE;
    build(100 * BLOCK + 1);
    assert_near(rate(10), 1);
    assert_near(rate(40), 0.1 + 0.9 * 0.75); // a third: cos 60° = 1/2
    assert_near(rate(55), 0.55);
    assert_near(rate(70), 0.1 + 0.9 * 0.25);
    config.training.lr_schedule = SCHEDULE_LINEAR;
    build(100 * BLOCK + 1);
    assert_near(rate(9), 1);
    assert_near(rate(55), 0.55);
    assert_near(rate(91), 0.19);
    config.training.min_lr_ratio = 0;
    build(100 * BLOCK + 1);
    assert_near(rate(55), 0.5);
    assert_near(rate(99), 1.0 / 90);
    config.training.lr_schedule = SCHEDULE_WSD;
    config.training.decay_ratio = 0.2;
    build(100 * BLOCK + 1);
    assert_near(rate(50), 1);
    assert_near(rate(80), 1);
    assert_near(rate(90), 0.5);
    assert_near(rate(95), 0.25);
    config.training.min_lr_ratio = 0.2;
    build(100 * BLOCK + 1);
    assert_near(rate(90), 0.6);
}

static void cosine_is_libms(void **state) {
    (void)state;
    set_config();
    config.training.lr_schedule = SCHEDULE_COSINE;
    config.training.total_tokens = 5000.0 * BLOCK;
    build(100 * BLOCK + 1);
    double before = 2;
    for (int64_t i = 0; i < 5000; i++) {
        double value = rate(i);
        assert_true(fabs(value - (1 + cos(M_PI * (double)i / 5000)) / 2) < 1e-15);
        assert_true(value <= before && value > 0);
        before = value;
    }
}

static void set_two_stages(void) {
    set_config();
    config.training.num_stages = 2;
    config.training.stages[0] =
        (config_stage){.seq_len = 8, .batch_size = 192, .share = 0.4, .lr_scale = 0.5, .grad_clip = 0.5};
    config.training.stages[1] =
        (config_stage){.seq_len = 64, .batch_size = 96, .share = 0.6, .lr_scale = NAN, .grad_clip = 2};
}

static void stages_scale_the_rate(void **state) {
    (void)state;
    plan_step step;
    set_two_stages();
    build(100 * BLOCK + 1);
    assert_near(rate(0), 0.5);
    assert_near(rate(39), 0.5);
    assert_near(rate(40), 1);
    assert_int_equal(plan_step_at(&plan, 0, &step), YX_OK);
    assert_true(step.grad_clip == 0.5);
    assert_int_equal(plan_step_at(&plan, 40 * BLOCK, &step), YX_OK);
    assert_true(step.grad_clip == 2);
    config.training.stages[0].lr_scale = NAN;
    config.training.batch_scaling = BATCH_SCALING_SQRT;
    build(100 * BLOCK + 1);
    assert_near(rate(0), 0.5); // a quarter of the largest step
    assert_near(rate(40), 1);
    config.training.batch_scaling_reference = 9 * BLOCK;
    build(100 * BLOCK + 1);
    assert_near(rate(40), 1.0 / 3);
    assert_near(rate(39), 1.0 / 6);
    config.training.batch_scaling_reference = BLOCK / 4;
    build(100 * BLOCK + 1);
    assert_near(rate(40), 2);
}

static void stages_warm_up_again(void **state) {
    (void)state;
    set_two_stages();
    config.training.rewarmup_start = 0.2;
    config.training.stages[1].warmup_tokens = 20 * BLOCK;
    build(100 * BLOCK + 1);
    assert_near(rate(0), 0.5);
    assert_near(rate(40), 0.2);
    assert_near(rate(45), 0.4);
    assert_near(rate(50), 0.6);
    assert_near(rate(59), 0.96);
    assert_near(rate(60), 1);
    config.training.stages[0].warmup_tokens = 10 * BLOCK;
    build(100 * BLOCK + 1);
    assert_near(rate(0), 0.1);
    assert_near(rate(5), 0.3);
}

// --- Sizes ----------------------------------------------------------------------------------------------------------
static void blocks_need_the_token_behind(void **state) {
    (void)state;
    set_config();
    config.training.total_tokens = BLOCK;
    assert_refused(0, "hold 0 tokens");
    assert_refused(-5, "hold -5 tokens");
    assert_refused(BLOCK, "hold 6144 tokens");
    build(BLOCK + 1);
    assert_int_equal(plan.blocks_per_epoch, 1);
    build(2 * BLOCK);
    assert_int_equal(plan.blocks_per_epoch, 1);
    build(2 * BLOCK + 1);
    assert_int_equal(plan.blocks_per_epoch, 2);
}

// 10 blocks an epoch in windows of 4, 4 and 2.
static void rounds_to_windows(void **state) {
    (void)state;
    set_config();
    config.data.shuffle_window_blocks = 4;
    config.training.stages[0].batch_size = 1;
    static const struct {
        double wanted;
        int64_t rounded;
    } cases[] = {{2, 4}, {1.9999, 0}, {5.9, 4}, {6, 8}, {8.9, 8}, {9, 10}, {11.9, 10}, {12, 14}, {19, 20}, {100, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        config.training.total_tokens = cases[i].wanted * BLOCK;
        if (cases[i].rounded == 0) assert_refused(10 * BLOCK + 1, "less than half a shuffle window of 24576 tokens");
        else build(10 * BLOCK + 1);
        if (cases[i].rounded) assert_int_equal(plan.total_tokens, cases[i].rounded * BLOCK);
    }
    config.training.total_tokens = 0;
    config.training.epochs = 3;
    build(10 * BLOCK + 1);
    assert_int_equal(plan.total_tokens, 30 * BLOCK);
    assert_int_equal(plan_num_windows(&plan), 9);
    config.training.epochs = 1.5;
    build(10 * BLOCK + 1);
    assert_int_equal(plan.total_tokens, 14 * BLOCK);
    assert_int_equal(plan_num_windows(&plan), 4);
}

static void chooses_windows(void **state) {
    (void)state;
    set_two_stages();
    config.data.shuffle_window_blocks = 0;
    config.training.stages[0].share = 0.25;
    config.training.stages[1].share = 0.75;
    static const struct {
        int64_t blocks, window;
    } cases[] = {{4, 1}, {32, 1}, {64, 2}, {95, 2}, {96, 3}, {32 * 1024, 1024}, {1 << 20, 1024}};
    config.training.total_tokens = 0;
    config.training.epochs = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        build(cases[i].blocks * BLOCK + 1);
        assert_int_equal(plan.window_blocks, cases[i].window);
    }
    config.data.shuffle_window_blocks = 500;
    config.training.epochs = 8;
    build(7 * BLOCK + 1);
    assert_int_equal(plan.window_blocks, 7);
}

static void the_last_step_may_be_short(void **state) {
    (void)state;
    plan_step step;
    set_config();
    config.training.stages[0].batch_size = 7 * 96; // seven blocks; a hundred are fourteen times seven and two
    build(100 * BLOCK + 1);
    assert_int_equal(plan.total_steps, 15);
    assert_int_equal(plan_step_at(&plan, 98 * BLOCK, &step), YX_OK);
    assert_int_equal(step.num_sequences, 2 * 96);
    assert_int_equal(step.step, 14);
    assert_true(step.last_of_run && step.last_of_stage && !step.first_of_stage);
    assert_int_equal(plan_step_at(&plan, 91 * BLOCK, &step), YX_OK);
    assert_int_equal(step.num_sequences, 7 * 96);
    assert_true(!step.last_of_run && !step.last_of_stage);
}

static void refuses_what_does_not_add_up(void **state) {
    (void)state;
    set_two_stages();
    config.training.stages[0].share = 0.3;
    assert_refused(100 * BLOCK + 1, "add up to 0.9");
    set_two_stages();
    config.training.stages[1].seq_len = 100;
    assert_refused(100 * BLOCK + 1, "curriculum_stages.1: 96 sequences of 100 tokens");
    set_two_stages();
    config.data.shuffle_window_blocks = 90;
    assert_refused(100 * BLOCK + 1,
                   "curriculum_stages.0: 0.4 of 614400 tokens is less than one shuffle window (552960");
    set_two_stages();
    config.training.stages[1].batch_size = 96 * 61;
    assert_refused(100 * BLOCK + 1, "curriculum_stages.1: 0.6 of 614400 tokens is less than one step (374784");
    set_config();
    config.training.num_stages = 0;
    assert_refused(100 * BLOCK + 1, "0 stages");
    set_config();
    config.training.epochs = 10000;
    assert_refused(INT64_C(1) << 50, "lower training.epochs");
    config.training.epochs = 1;
    assert_refused(INT64_MAX, "lower training.epochs");
}

// --- Properties -----------------------------------------------------------------------------------------------------
static double draw(uint64_t trial, uint64_t index) { return yx_uniform(20240611, trial, index); }
static int64_t draw_int(uint64_t trial, uint64_t index, int64_t low, int64_t high) {
    return low + (int64_t)(draw(trial, index) * (double)(high - low + 1));
}

static void set_random(uint64_t trial) {
    static const int64_t lengths[] = {1,  2,   3,   4,   6,   8,   12,  16,   24,   32,   48,  64,
                                      96, 128, 192, 256, 384, 512, 768, 1536, 2048, 3072, 6144};
    set_config();
    config_training *t = &config.training;
    double weights[12], sum = 0;
    t->num_stages = draw_int(trial, 0, 1, 12);
    for (int64_t i = 0; i < t->num_stages; i++) sum += weights[i] = 0.05 + draw(trial, 100 + (uint64_t)i);
    for (int64_t i = 0; i < t->num_stages; i++) {
        int64_t seq_len = lengths[draw_int(trial, 200 + (uint64_t)i, 0, 22)], tokens = 1 << draw_int(trial, 13, 0, 16);
        int64_t batch = (int64_t)(draw(trial, 300 + (uint64_t)i) * (double)tokens) / seq_len + 1;
        t->stages[i] =
            (config_stage){.seq_len = seq_len, .batch_size = batch, .share = weights[i] / sum, .lr_scale = NAN};
        if (draw(trial, 400 + (uint64_t)i) < 0.3) t->stages[i].warmup_tokens = 1e6 * draw(trial, 500 + (uint64_t)i);
    }
    t->lr_schedule = (config_schedule)draw_int(trial, 1, 0, 3);
    t->warmup_ratio = 0.3 * draw(trial, 2);
    t->decay_ratio = 0.5;
    t->min_lr_ratio = draw(trial, 3);
    t->rewarmup_start = draw(trial, 4);
    t->total_tokens = 0;
    t->epochs = 0.05 + 4 * draw(trial, 5);
    config.data.shuffle_window_blocks = draw(trial, 6) < 0.5 ? 0 : draw_int(trial, 7, 1, 30);
}

// All window boundaries of the run's epochs, one after the other.
static int64_t next_boundary(int64_t at) {
    int64_t epoch = plan.blocks_per_epoch * BLOCK, next = at + plan.window_blocks * BLOCK;
    int64_t epoch_end = (at / epoch + 1) * epoch;
    return next < epoch_end ? next : epoch_end;
}

static void assert_nearest_boundary(int64_t boundary, double wanted) {
    int64_t at = 0, best = 0;
    for (;; at = next_boundary(at)) {
        if (fabs((double)at - wanted) < fabs((double)best - wanted) - 1) best = at;
        if ((double)at > wanted) break;
    }
    double distance = fabs((double)boundary - wanted), least = fabs((double)best - wanted);
    if (distance > least + 1) fail_msg("%lld is not nearest to %f", (long long)boundary, wanted);
    for (at = 0; at < boundary; at = next_boundary(at)) continue;
    assert_int_equal(at, boundary);
}

static void assert_stages_tile_the_run(void) {
    int64_t end = 0, step = 0;
    double cumulative = 0;
    for (int64_t i = 0; i < plan.num_stages; i++) {
        const plan_stage *s = &plan.stages[i];
        cumulative += config.training.stages[i].share;
        assert_int_equal(s->token_begin, end);
        assert_int_equal(s->step_begin, step);
        assert_true(s->token_end - s->token_begin >= plan_tokens_per_step(s));
        assert_nearest_boundary(s->token_end, cumulative * (double)plan.total_tokens);
        end = s->token_end;
        step += s->num_steps;
    }
    assert_int_equal(end, plan.total_tokens);
    assert_int_equal(step, plan.total_steps);
}

static void assert_no_step_at(int64_t tokens, yx_status expected) {
    plan_step step;
    assert_int_equal(plan_step_at(&plan, tokens, &step), expected);
}

static void assert_steps_tile_the_stages(void) {
    int64_t tokens = 0;
    for (int64_t i = 0; i < plan.total_steps; i++) {
        plan_step step;
        if (plan_step_at(&plan, tokens, &step) != YX_OK) fail_msg("%s", yx_message());
        const plan_stage *s = &plan.stages[step.stage];
        int64_t n = step.num_sequences * step.seq_len, rest = s->token_end - tokens;
        assert_true(step.step == i && step.token_begin == tokens && step.seq_len == s->seq_len);
        assert_true(n == (rest < plan_tokens_per_step(s) ? rest : plan_tokens_per_step(s)) && n > 0);
        assert_true(step.first_of_stage == (tokens == s->token_begin));
        assert_true(step.last_of_stage == (tokens + n == s->token_end));
        assert_true(step.last_of_run == (i == plan.total_steps - 1));
        assert_true(step.lr > 0 - 1e-300 && step.lr <= s->lr_scale * config.training.learning_rate);
        if (n > 1) assert_no_step_at(tokens + 1, YX_ERR_INTERNAL);
        tokens += n;
    }
    assert_int_equal(tokens, plan.total_tokens);
    assert_no_step_at(tokens, YX_ERR_USAGE);
    assert_no_step_at(-1, YX_ERR_INTERNAL);
}

static void random_plans_hold_together(void **state) {
    (void)state;
    int built = 0;
    for (uint64_t trial = 0; trial < 3000; trial++) {
        set_random(trial);
        int64_t corpus = (int64_t)exp(log(2e6) * draw(trial, 8)) + draw_int(trial, 9, 0, 20000);
        yx_status status = plan_build(&config, corpus, &plan);
        if (status != YX_OK) {
            assert_int_equal(status, YX_ERR_CONFIG);
            continue;
        }
        if (plan.total_steps > 20000) continue;
        built++;
        assert_true(plan.window_blocks >= 1 && plan.window_blocks <= plan.blocks_per_epoch);
        assert_nearest_boundary(plan.total_tokens,
                                config.training.epochs * (double)((corpus - 1) / BLOCK) * (double)BLOCK);
        assert_stages_tile_the_run();
        assert_steps_tile_the_stages();
    }
    assert_true(built > 500); // enough of them were plans
}

// --- Hash -----------------------------------------------------------------------------------------------------------
static uint64_t hash_after(int change) {
    set_two_stages();
    int64_t corpus = 100 * BLOCK + 1;
    switch (change) {
    case 1:
        config.training.learning_rate = 1.0000000000000002;
        break;
    case 2:
        config.training.stages[1].grad_clip = 3;
        break;
    case 3:
        config.training.total_tokens += 10 * BLOCK;
        break;
    case 4:
        corpus += BLOCK;
        break;
    case 5:
        config.training.seed = 7;
        break;
    case 6:
        config.data.shuffle_window_blocks = 2;
        break;
    case 7:
        config.training.stages[1].warmup_tokens = 9;
        break;
    case 8:
        config.model.rope_theta = 9;
        break;
    default:
        break;
    }
    build(corpus);
    return plan.hash;
}

static void hashes_tell_plans_apart(void **state) {
    (void)state;
    uint64_t hashes[9];
    for (int i = 0; i < 9; i++) {
        hashes[i] = hash_after(i);
        for (int j = 0; j < i; j++) assert_true(hashes[i] != hashes[j]);
    }
    assert_true(hash_after(0) == hashes[0]);
    strcpy(config.training.stages[0].description, "another");
    config.logging.interval_steps = 99;
    build(100 * BLOCK + 1);
    assert_true(plan.hash == hashes[0]);
}

static void plans_and_steps_are_the_same_bytes(void **state) {
    (void)state;
    plan_step first, second, next;
    memset(&first, 0xAA, sizeof first);
    memset(&second, 0x55, sizeof second);
    set_two_stages();
    memset(&plan, 0xAA, sizeof plan);
    build(100 * BLOCK + 1);
    assert_int_equal(plan_build(&config, 100 * BLOCK + 1, &other), YX_OK);
    assert_memory_equal(&plan, &other, sizeof plan);
    assert_int_equal(plan_step_at(&plan, 0, &first), YX_OK);
    assert_int_equal(plan_step_at(&other, 0, &second), YX_OK);
    assert_memory_equal(&first, &second, sizeof first);
    assert_int_equal(plan_step_at(&plan, first.num_sequences * first.seq_len, &next), YX_OK);
    assert_true(next.hash != first.hash);
    other.hash++;
    assert_int_equal(plan_step_at(&other, 0, &second), YX_OK);
    assert_true(second.hash != first.hash);
}

// --- The model's cost -----------------------------------------------------------------------------------------------
static void counts_parameters(void **state) {
    (void)state;
    assert_int_equal(config_load("configs/fineweb_training_ultra_curriculum.yaml", NULL, 0, &config), YX_OK);
    const config_model *m = &config.model;
    assert_int_equal(plan_model_parameters(m), 196398464);
    assert_int_equal(plan_norm_parameters(m), 43776);
    // 6·196,354,688 and, of attention, 6·28·12·64·2048 = 264,241,152
    assert_true(plan_flops_per_token(m, 2048) == 1178128128.0 + 264241152.0);
    assert_true(plan_flops_per_token(m, 8) == 1178128128.0 + 264241152.0 / 256);
}

static void plans_the_shipped_run(void **state) {
    (void)state;
    assert_int_equal(config_load("configs/fineweb_training_ultra_curriculum.yaml", NULL, 0, &config), YX_OK);
    build(2610000000);
    assert_int_equal(plan.window_blocks, 1024);
    assert_int_equal(plan.total_tokens, INT64_C(3) * 424804 * BLOCK);
    static const double shares[] = {0.025, 0.025, 0.025, 0.025, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2};
    for (int i = 0; i < 10; i++) {
        double tokens = (double)(plan.stages[i].token_end - plan.stages[i].token_begin);
        assert_true(fabs(tokens / (double)plan.total_tokens - shares[i]) < 0.001);
    }
}

// --- Warnings -------------------------------------------------------------------------------------------------------
static char warnings[8192];
static void collect(void *context, const char *text) {
    (*(int *)context)++;
    strncat(warnings, text, sizeof warnings - strlen(warnings) - 2);
    strcat(warnings, "\n");
}

static int lint(int64_t corpus_tokens) {
    int count = 0;
    build(corpus_tokens);
    warnings[0] = 0;
    plan_lint(&config, &plan, collect, &count);
    return count;
}

static void assert_one_warning(int64_t corpus_tokens, const char *text) {
    int count = lint(corpus_tokens);
    if (count != 1 || !strstr(warnings, text)) fail_msg("%d warnings, not one about '%s': %s", count, text, warnings);
}

// Two stages of 400 and 600 blocks, in windows of four.
static void set_calm(void) {
    set_two_stages();
    config.training.total_tokens = 1000 * BLOCK;
    config.data.shuffle_window_blocks = 4;
}

enum { LARGE = 1000 * BLOCK + 1 };

static void warns_about_stages(void **state) {
    (void)state;
    set_calm();
    if (lint(LARGE)) fail_msg("%s", warnings);
    config.training.stages[0].seq_len = config.training.stages[1].seq_len = config.model.max_position_embeddings = 96;
    config.training.stages[0].batch_size = 45 * 64; // 45 blocks: nine steps, the last one short
    assert_one_warning(LARGE, "stage 1 has only 9 optimizer steps");
    set_calm();
    config.training.stages[0].share = 0.12;
    config.training.stages[1].share = 0.88;
    config.data.shuffle_window_blocks = 200;
    assert_one_warning(LARGE, "stage 1 gets 20 % of the tokens, not 12 %");
    set_calm();
    config.training.stages[1].warmup_tokens = 301 * BLOCK;
    assert_one_warning(LARGE, "stage 2 spends 1849344 of its 3686400 tokens warming up again");
    config.training.stages[1].warmup_tokens = 300 * BLOCK;
    assert_int_equal(lint(LARGE), 0);
    set_calm();
    config.training.stages[0].batch_size = 4 * 64 + 1;
    assert_one_warning(LARGE, "a step of stage 1 draws its 257 sequences from 4 block(s)");
    config.training.stages[0].batch_size = 4 * 64;
    assert_int_equal(lint(LARGE), 0);
    set_calm();
    config.training.stages[1].lr_scale = 0.4;
    assert_one_warning(LARGE, "falls from 0.5 in stage 1 to 0.4 in stage 2");
    set_calm();
    config.training.stages[0].seq_len = 128;
    config.training.stages[0].batch_size = 10;
    config.model.max_position_embeddings = 128;
    assert_one_warning(LARGE, "sequences get shorter from stage 1 (128) to stage 2 (64)");
}

static void warns_about_the_run(void **state) {
    (void)state;
    set_calm();
    config.model.max_position_embeddings = 65;
    assert_one_warning(LARGE, "no stage is longer than 64 tokens: the model learns nothing about positions up to its "
                              "max_position_embeddings, 65");
    set_calm();
    config.evaluation.seq_len = 65;
    assert_one_warning(LARGE, "evaluation.seq_len is 65");
    set_calm();
    assert_int_equal(lint(250 * BLOCK + 1), 0);
    assert_one_warning(240 * BLOCK + 1, "passes 4.17 times over the corpus");
    set_calm();
    config.training.warmup_ratio = 0.11;
    assert_one_warning(LARGE, "warmup_ratio is 0.11");
    set_calm();
    config.training.lr_schedule = SCHEDULE_WSD;
    config.training.decay_ratio = 0.6;
    assert_int_equal(lint(LARGE), 0);
    config.training.decay_ratio = 0.7;
    assert_one_warning(LARGE, "begins before the last stage: finish the growth in length first, or lower "
                              "training.decay_ratio to 0.6");
    set_calm();
    config.training.precision = PRECISION_FP8;
    config.training.bf16_warmup_steps = 512;
    assert_int_equal(lint(LARGE), 0);
    strcpy(config.training.initial_checkpoint, "runs/other");
    assert_one_warning(LARGE, "bf16_warmup_steps is 512: trained weights have left the plateau");
    config.training.bf16_warmup_steps = 0;
    assert_int_equal(lint(LARGE), 0);
}

static void warns_about_checkpoints(void **state) {
    (void)state;
    set_calm();
    config.checkpoint.keep_last = 1;
    assert_one_warning(LARGE, "keep_last is 1");
    set_calm();
    config.checkpoint.keep_every = 20;
    assert_int_equal(lint(LARGE), 0);
    config.checkpoint.keep_every = 25;
    assert_one_warning(LARGE, "keep_every (25) is no multiple of checkpoint.interval_steps (10)");
    set_calm();
    config.checkpoint.at_stage_end = false;
    assert_int_equal(lint(LARGE), 0);
    config.checkpoint.interval_steps = 0;
    assert_one_warning(LARGE, "no checkpoint is written before the end");
    config.checkpoint.interval_steps = 100000;
    assert_one_warning(LARGE, "no checkpoint is written before the end");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warms_up),
        cmocka_unit_test(falls_by_schedule),
        cmocka_unit_test(cosine_is_libms),
        cmocka_unit_test(stages_scale_the_rate),
        cmocka_unit_test(stages_warm_up_again),
        cmocka_unit_test(blocks_need_the_token_behind),
        cmocka_unit_test(rounds_to_windows),
        cmocka_unit_test(chooses_windows),
        cmocka_unit_test(the_last_step_may_be_short),
        cmocka_unit_test(refuses_what_does_not_add_up),
        cmocka_unit_test(random_plans_hold_together),
        cmocka_unit_test(hashes_tell_plans_apart),
        cmocka_unit_test(plans_and_steps_are_the_same_bytes),
        cmocka_unit_test(counts_parameters),
        cmocka_unit_test(plans_the_shipped_run),
        cmocka_unit_test(warns_about_stages),
        cmocka_unit_test(warns_about_the_run),
        cmocka_unit_test(warns_about_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

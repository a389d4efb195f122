#include "coordinator/train.h"
#include "common/file.h"
#include "common/log.h"
#include "coordinator/fallback.h"
#include "coordinator/initial.h"
#include "coordinator/ledger.h"
#include "coordinator/metrics.h"
#include "coordinator/rank_link.h"
#include "coordinator/rank_watch.h"
#include "coordinator/setup.h"
#include "coordinator/spike.h"
#include "coordinator/state.h"
#include "coordinator/stop.h"
#include "coordinator/wire.h"
#include "io/checkpoint.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONSECUTIVE_SKIPS = 8, RANKS_INTERVAL = 50 }; // steps

typedef struct trainer {
    const train_options *options;
    yx_group *group;
    run_setup setup;
    rank_link link;
    yx_worker *worker;
    loader *loader;
    ledger ledger;
    fallback fallback;
    wire wire;
    spike_watch spikes;
    metrics metrics;          // rank 0
    int64_t tokens, steps;    // consumed and done so far
    int64_t requested_tokens; // up to where the loader has been asked
    int64_t calibrate_at;     // tokens before the step that calibrates though it is not a stage's first; -1: none
    int64_t saved_step, evaluated_step;
    bool same_command; // started again, goes on
    int64_t skips;     // steps in a row whose gradient was not finite
    rank_watch watch;
    int hold;                  // rank 0: of the run folder
    worker_step_result result; // of the last step, if has_result
    bool has_result;
} trainer;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool is_complete(const trainer *t) { return t->tokens >= t->setup.plan.total_tokens; }
static bool leads(const trainer *t) { return group_rank(t->group) == 0; }

// --- The plan

// Every rank computes the step for itself, and all compare.
static yx_status agree_on_step(trainer *t, plan_step *step, bool *stop) {
    yx_status status = YX_OK;
    yx_device_info info = {0};
    YX_CHECK(plan_step_at(&t->setup.plan, t->tokens, step));
    if (group_size(t->group) > 1) YX_CHECK(t->setup.ops->info(t->setup.device, &info));
    YX_CHECK(rank_watch_meet(&t->watch, step, stop_requested(), t->has_result ? &t->result : NULL,
                             info.memory_total - info.memory_free, stop));
    if (t->has_result)
        YX_CHECK(wire_before_step(&t->wire, step, t->watch.reports, group_size(t->group), &t->ledger, leads(t)));
fail:
    return status;
}

// The slice of a step that this rank loads, by sequence index.
static load_request slice(const trainer *t, const plan_step *step) {
    int64_t rank = group_rank(t->group), size = group_size(t->group), n = step->num_sequences;
    const plan_stage *stage = &t->setup.plan.stages[step->stage];
    int64_t first = n * rank / size, most = (stage->batch_size + size - 1) / size;
    return (load_request){.position = step->token_begin,
                          .seq_len = step->seq_len,
                          .first_sequence = first,
                          .num_sequences = n * (rank + 1) / size - first,
                          .micro_tokens = memory_stage_micro_tokens(t->setup.micro_tokens, step->seq_len, most)};
}

static bool calibrates(const trainer *t, const plan_step *step) {
    return (step->first_of_stage || step->token_begin == t->calibrate_at) && worker_calibrates(t->worker);
}

// Keeps the loader as many micro-batches ahead of the worker as it wants, and one step at least.
static yx_status request_ahead(trainer *t) {
    yx_status status = YX_OK;
    int64_t next = t->tokens;
    while (next < t->setup.plan.total_tokens && (next < t->requested_tokens || loader_wants(t->loader))) {
        plan_step step;
        YX_CHECK(plan_step_at(&t->setup.plan, next, &step));
        if (next >= t->requested_tokens) {
            load_request load = slice(t, &step);
            for (int times = calibrates(t, &step) ? 2 : 1; times > 0; times--)
                YX_CHECK(loader_request(t->loader, &load));
            t->requested_tokens = next + step.seq_len * step.num_sequences;
        }
        next += step.seq_len * step.num_sequences;
    }
fail:
    return status;
}

static yx_status log_decisions(trainer *t) { return leads(t) ? metrics_decisions(&t->metrics, &t->ledger) : YX_OK; }

// --- What follows a step
static yx_status evaluate(trainer *t, int64_t stage) {
    yx_status status = YX_OK;
    const config_evaluation *e = &t->options->config.evaluation;
    const yx_plan *plan = &t->setup.plan;
    evaluate_result result;
    int64_t seq_len = e->seq_len;
    double start = now();
    if (!t->setup.validation || t->evaluated_step == t->steps) return YX_OK;
    for (int64_t i = 0; e->seq_len == 0 && i < plan->num_stages; i++)
        if (plan->stages[i].seq_len > seq_len) seq_len = plan->stages[i].seq_len;
    YX_CHECK(evaluate_run(worker_model(t->worker), t->group, t->setup.validation, t->options->config.data.document_mask,
                          seq_len, e->max_tokens, &result));
    t->evaluated_step = t->steps;
    if (leads(t)) status = metrics_evaluation(&t->metrics, t->steps, t->tokens, stage, seq_len, &result, now() - start);
    YX_CHECK(group_agree(t->group, status));
fail:
    return status;
}

static yx_status save(trainer *t) {
    yx_status status = YX_OK;
    double start = now();
    if (t->saved_step == t->steps) return YX_OK;
    run_state state = {
        .steps = t->steps, .tokens = t->tokens, .worker = t->worker, .ledger = &t->ledger, .spikes = &t->spikes};
    YX_CHECK(worker_collect_state(t->worker, leads(t)));
    if (leads(t)) {
        status = metrics_flush(&t->metrics);
        if (status == YX_OK) status = state_save(&t->options->config, &t->setup, group_size(t->group), &state);
        if (status == YX_OK)
            status = metrics_checkpoint(&t->metrics, t->steps, t->options->config.run_dir, now() - start);
    }
    YX_CHECK(group_agree(t->group, status));
    t->saved_step = t->steps;
fail:
    return status;
}

static bool divides(int64_t interval, int64_t step) { return interval > 0 && step % interval == 0; }

static yx_status after_step(trainer *t, const plan_step *step) {
    yx_status status = YX_OK;
    const yx_config *c = &t->options->config;
    bool stage_end = step->last_of_stage, end = step->last_of_run;
    bool healthy = t->skips == 0; // else a checkpoint would say nothing new, and push out one from before the trouble
    if (divides(c->evaluation.interval_steps, t->steps) || (stage_end && c->evaluation.at_stage_end) || end)
        YX_CHECK(evaluate(t, step->stage));
    bool due = divides(c->checkpoint.interval_steps, t->steps) || (stage_end && c->checkpoint.at_stage_end);
    if ((due && healthy) || end) YX_CHECK(save(t));
fail:
    return status;
}

static yx_status record_skip(trainer *t, const plan_step *step, const worker_step_result *result) {
    bool finite = isfinite(result->grad_norm);
    t->skips = finite ? 0 : t->skips + 1;
    if (finite) return spike_after_step(&t->spikes, step->step + 1, result, &t->ledger, leads(t));
    if (leads(t)) yx_warn("step %lld: the gradient is not finite; nothing was updated", (long long)step->step + 1);
    yx_status status = ledger_append(&t->ledger, step->step + 1, "skip", "gradient not finite");
    if (status != YX_OK || t->skips < MAX_CONSECUTIVE_SKIPS) return status;
    return yx_fail(YX_ERR_NUMERIC,
                   "%lld steps in a row had a gradient that is not finite (last: step %lld). Lower "
                   "training.learning_rate or grad_clip, or use bf16 or fp32",
                   (long long)t->skips, (long long)step->step + 1);
}

// The first steps of an fp8 run are in bf16. Amax is recorded in them all the same, so that the scales are there.
static bool warms_up(const trainer *t) {
    const config_training *c = &t->options->config.training;
    return c->precision == PRECISION_FP8 && t->steps < c->bf16_warmup_steps;
}

static yx_status next_batch(void *context, const micro_batch **out) { return loader_next(context, out); }

static yx_status one_step(trainer *t, const plan_step *step) {
    yx_status status = YX_OK;
    double start = now();
    t->has_result = false;
    if (step->first_of_stage && leads(t)) YX_CHECK(metrics_stage(&t->metrics, step));
    YX_CHECK(request_ahead(t));
    worker_set_warmup(t->worker, warms_up(t));
    bool whole = step->num_sequences == t->setup.plan.stages[step->stage].batch_size;
    spike_before_step(&t->spikes, step->first_of_stage, whole);
    load_request load = slice(t, step);
    worker_source source = {next_batch, t->loader};
    worker_step_args args = {.num_micro_batches = loader_num_micro_batches(&load),
                             .tokens = step->seq_len * step->num_sequences,
                             .lr = step->lr,
                             .grad_clip = step->grad_clip,
                             .norm_limit = t->spikes.norm_limit,
                             .loss_limit = t->spikes.loss_limit,
                             .calibrate = calibrates(t, step)};
    YX_CHECK(worker_step(t->worker, &source, &args, &t->result));
    t->has_result = true;
    t->tokens += args.tokens;
    t->steps++;
    if (leads(t)) status = metrics_step(&t->metrics, step, &t->result, now() - start);
    if (status == YX_OK) status = record_skip(t, step, &t->result);
    if (status == YX_OK) status = fallback_after_step(&t->fallback, t->steps, t->result.fp8, &t->ledger, leads(t));
    if (status == YX_OK) status = log_decisions(t);
    YX_CHECK(group_agree(t->group, status));
    YX_CHECK(after_step(t, step));
fail:
    return status;
}

// How the ranks fared since the last report.
static yx_status report_ranks(trainer *t) {
    yx_status status = YX_OK;
    if (group_size(t->group) > 1 && leads(t)) status = metrics_ranks(&t->metrics, t->steps, &t->watch);
    rank_watch_reset(&t->watch);
    return group_size(t->group) > 1 ? group_agree(t->group, status) : status;
}

static yx_status loop(trainer *t) {
    yx_status status = YX_OK;
    int64_t limit = t->options->max_steps, begun = t->steps;
    while (!is_complete(t)) {
        plan_step step;
        bool stop;
        YX_CHECK(agree_on_step(t, &step, &stop));
        YX_CHECK(log_decisions(t));
        if (stop || (limit > 0 && t->steps - begun >= limit)) {
            YX_CHECK(save(t));
            return yx_fail(YX_ERR_INTERRUPTED, "stopped after step %lld of %lld; the same command%s continues",
                           (long long)t->steps, (long long)t->setup.plan.total_steps,
                           t->same_command ? "" : " without --resume");
        }
        if (divides(RANKS_INTERVAL, t->steps)) YX_CHECK(report_ranks(t));
        YX_CHECK(one_step(t, &step));
    }
fail:
    return status;
}

// --- Start
static yx_status create_worker(trainer *t) {
    const yx_config *c = &t->options->config;
    worker_options options = {.training = c->training, .model = c->model, .max_micro_tokens = t->setup.micro_tokens};
    options.training.gradient_bucket_mb = t->link.bucket_mb;
    data_order order = {.seed = (uint64_t)c->training.seed,
                        .blocks_per_epoch = t->setup.plan.blocks_per_epoch,
                        .window_blocks = t->setup.plan.window_blocks};
    yx_status status = worker_create(t->setup.ops, t->setup.device, t->group, t->link.devices, &options, &t->worker);
    if (status != YX_OK) return status;
    wire_create(&c->training, t->worker, &t->wire);
    status = fallback_create(&c->training, c->model.num_layers, t->worker, &t->fallback);
    if (status != YX_OK) return status;
    return loader_open(t->setup.train, &order, c->data.document_mask, (int)c->data.prefetch, group_size(t->group),
                       t->setup.micro_tokens, &t->loader);
}

// The newest checkpoint, or a fresh start.
static yx_status initialise(trainer *t, bool *resumed) {
    yx_status status = YX_OK;
    const yx_config *c = &t->options->config;
    run_state state = {.worker = t->worker, .ledger = &t->ledger, .spikes = &t->spikes};
    t->spikes.sigma = c->training.spike_sigma;
    YX_CHECK(state_load(c, &t->setup, t->options->resume, &state, resumed));
    t->same_command = strcmp(t->options->resume, "never") != 0 && !state.goes_back;
    if (!*resumed) {
        YX_CHECK(initial_set(c, &t->setup, t->worker, &t->ledger, leads(t)));
        t->saved_step = t->evaluated_step = -1;
    } else {
        fallback_restore(&t->fallback, &t->ledger, state.steps);
        t->skips = ledger_in_a_row(&t->ledger, "skip", state.steps);
        t->steps = t->evaluated_step = state.steps;
        t->saved_step = state.elsewhere ? -1 : state.steps;
        t->tokens = t->requested_tokens = state.tokens;
        if (state.without_scales) t->calibrate_at = state.tokens;
    }
    if (is_complete(t)) return YX_OK;
    plan_step next;
    YX_CHECK(plan_step_at(&t->setup.plan, t->tokens, &next));
    wire_restore(&t->wire, &t->ledger, &next);
fail:
    return status;
}

static yx_status open_run_folder(trainer *t, bool resumed) {
    yx_status status = YX_OK;
    const yx_config *c = &t->options->config;
    char *yaml = NULL, *path = NULL;
    int aside = 0;
    if (!leads(t)) return YX_OK;
    if (!resumed) YX_CHECK(checkpoint_set_aside(c->run_dir, &aside));
    if (aside)
        yx_info("the earlier run's checkpoints and log are kept in %s as checkpoints-before-%d, log-before-%d.jsonl …",
                c->run_dir, aside, aside);
    YX_CHECK(yx_format(&path, "%s/config.yaml", c->run_dir));
    YX_CHECK(config_to_yaml(c, &yaml));
    if (!is_complete(t) || !yx_path_exists(path)) YX_CHECK(yx_write_file_atomic(path, yaml, strlen(yaml)));
    YX_CHECK(metrics_open(c, &t->setup.plan, &t->ledger, resumed ? t->steps : -1, &t->metrics));
    yx_info("%lld parameters on %s, %d rank%s, micro-batches of up to %lld tokens; %lld tokens in %lld steps; run "
            "folder %s%s",
            (long long)worker_model(t->worker)->table.parameters, t->setup.device_name, group_size(t->group),
            group_size(t->group) == 1 ? "" : "s", (long long)t->setup.micro_tokens,
            (long long)t->setup.plan.total_tokens, (long long)t->setup.plan.total_steps, c->run_dir,
            resumed ? "" : " (fresh start)");
    if (resumed) yx_info("resumed after step %lld (%lld tokens)", (long long)t->steps, (long long)t->tokens);
    if (t->calibrate_at >= 0)
        yx_info("the checkpoint has no 8-bit scales for this run's operands: the next step measures them");
    if (warms_up(t))
        yx_info("products in bf16 up to step %lld, then in 8 bits", (long long)c->training.bf16_warmup_steps);
    YX_CHECK(metrics_start(&t->metrics, t->steps, t->tokens, group_size(t->group), t->setup.device_name,
                           t->setup.micro_tokens));
    if (group_size(t->group) > 1) YX_CHECK(metrics_link(&t->metrics, t->steps, &t->link));
    YX_CHECK(log_decisions(t));
fail:
    free(yaml);
    free(path);
    return status;
}

static yx_status hold_run_folder(trainer *t) {
    const char *folder = t->options->config.run_dir;
    bool taken = false;
    yx_status status = yx_make_dirs(folder);
    if (status == YX_OK) status = yx_hold_folder(folder, &t->hold, &taken);
    if (status != YX_OK || !taken) return status;
    return yx_fail(YX_ERR_USAGE, "another process trains in %s: let it end first, or name another run_dir", folder);
}

// Each part ends with an agreement of all ranks, so that none waits for one that failed.
static yx_status start(trainer *t) {
    yx_status status = YX_OK;
    bool resumed = false;
    YX_CHECK(rank_watch_create(t->group, &t->watch));
    status = ledger_create(&t->ledger);
    if (status == YX_OK && leads(t)) status = hold_run_folder(t);
    if (status == YX_OK)
        status = setup_open(&t->options->config, group_local_rank(t->group), group_size(t->group), &t->setup);
    YX_CHECK(group_agree(t->group, status));
    uint64_t micro = UINT64_MAX - (uint64_t)t->setup.micro_tokens; // all ranks take the smallest
    YX_CHECK(group_all_reduce(t->group, &micro, 1, GROUP_U64, GROUP_MAX));
    t->setup.micro_tokens = (int64_t)(UINT64_MAX - micro);
    YX_CHECK(rank_link_open(t->setup.ops, t->setup.device, t->group, &t->options->config.training, &t->link));
    status = create_worker(t);
    if (status == YX_OK) status = initialise(t, &resumed);
    if (status == YX_OK) status = open_run_folder(t, resumed);
    YX_CHECK(group_agree(t->group, status));
fail:
    return status;
}

yx_status train_run(const train_options *options, yx_group *group) {
    trainer t = {.options = options, .group = group, .calibrate_at = -1, .hold = -1};
    stop_install();
    yx_status status = start(&t);
    if (status == YX_OK && is_complete(&t)) {
        yx_info("this run is complete: %lld steps", (long long)t.steps);
        status = save(&t); // of another folder
    }
    if (status == YX_OK) status = loop(&t);
    status = metrics_end(&t.metrics, status, t.steps, t.tokens);
    if (t.hold >= 0) close(t.hold);
    metrics_close(&t.metrics);
    loader_close(t.loader);
    fallback_free(&t.fallback);
    worker_free(t.worker);
    rank_link_close(&t.link);
    ledger_free(&t.ledger);
    rank_watch_free(&t.watch);
    setup_close(&t.setup);
    return status;
}

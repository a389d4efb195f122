#include "cli/plan_ranks.h"
#include <inttypes.h>
#include <stdio.h>

// --- What there is to compute from
yx_status plan_ranks_open(const plan_ranks_options *o, const yx_config *config, const yx_plan *plan, plan_ranks *out) {
    yx_status status = YX_OK;
    *out = (plan_ranks){.plan = plan, .path = o->bench, .ranks = o->ranks};
    YX_CHECK(bench_read(o->bench, config, &out->file));
    out->link = (ranks_link){o->bus * 1e9, o->latency * 1e-6, out->file.overlap};
    if (o->bus == 0) out->link.bus = bench_file_bus(&out->file);
    out->measured_link = o->bus == 0 && out->link.bus > 0;
    if (out->link.bus == 0 && o->ranks > 1)
        YX_FAIL(YX_ERR_USAGE,
                "--bus is missing: %s measured one rank, which exchanges nothing. Give GB/s over each rank's "
                "connection, as `yxanul bench comm` prints them",
                o->bench);
    out->gradients =
        (ranks_gradients){.parameters = out->file.gradients.parameters, .sharded = config->training.shard_optimizer};
    YX_CHECK(ranks_buckets(config, &out->gradients.buckets));
fail:
    return status;
}

// --- Figures both forms show
// The stage of the plan as one rank would take it; false where the file has not measured it.
static bool alone(const plan_ranks *r, int64_t stage, ranks_step *out) {
    const plan_stage *s = &r->plan->stages[stage];
    int64_t found = bench_file_find(&r->file, s->seq_len, s->batch_size);
    if (found >= 0) *out = bench_file_alone(&r->file, found);
    return found >= 0;
}

// What the gradients of a stage travel in, where `wire` may be auto.
static config_wire wire_of(const plan_ranks *r, const ranks_step *one, int n, config_wire wire) {
    return wire == WIRE_AUTO ? ranks_auto_wire(one, &r->gradients, &r->link, n) : wire;
}

static ranks_time time_of(const plan_ranks *r, const ranks_step *one, int n, config_wire wire) {
    ranks_gradients g = r->gradients;
    g.wire = wire_of(r, one, n, wire);
    return ranks_compute(one, &g, &r->link, n);
}

// Seconds of all steps of a stage, each of `step` seconds; the last step may be a part of one.
static double stage_seconds(const plan_ranks *r, int64_t stage, double step) {
    const plan_stage *s = &r->plan->stages[stage];
    return (double)(s->token_end - s->token_begin) / (double)plan_tokens_per_step(s) * step;
}

// Of the stages that the file has measured.
static double run_seconds(const plan_ranks *r, int n, config_wire wire) {
    double sum = 0;
    ranks_step one;
    for (int64_t i = 0; i < r->plan->num_stages; i++)
        if (alone(r, i, &one)) sum += stage_seconds(r, i, time_of(r, &one, n, wire).seconds);
    return sum;
}

static double fastest_seconds(const plan_ranks *r) {
    double sum = 0;
    ranks_step one;
    for (int64_t i = 0; i < r->plan->num_stages; i++)
        if (alone(r, i, &one))
            sum += stage_seconds(r, i, ranks_fastest(&one, &r->gradients, &r->link, r->ranks).time.seconds);
    return sum;
}

static int64_t measured_stages(const plan_ranks *r) {
    int64_t count = 0;
    ranks_step one;
    for (int64_t i = 0; i < r->plan->num_stages; i++) count += alone(r, i, &one);
    return count;
}

// --- For people
static const char *duration(double seconds, char out[32]) {
    if (seconds < 120) snprintf(out, 32, "%.1f s", seconds);
    else if (seconds < 7200) snprintf(out, 32, "%.1f min", seconds / 60);
    else if (seconds < 172800) snprintf(out, 32, "%.1f h", seconds / 3600);
    else snprintf(out, 32, "%.1f days", seconds / 86400);
    return out;
}

static const char *choice_text(const ranks_choice *c, char out[32]) {
    if (c->ranks == 1) snprintf(out, 32, "1 rank");
    else snprintf(out, 32, "%d ranks, %s", c->ranks, config_wire_name(c->wire));
    return out;
}

static void print_link(const plan_ranks *r) {
    const ranks_gradients *g = &r->gradients;
    printf("%.4g MB of fp32 gradients in %" PRId64 " sums%s, %.3g GB/s over each rank's connection%s",
           ranks_gradient_bytes(g) / 1e6, g->buckets, g->sharded ? ", the optimizer sharded" : "", r->link.bus / 1e9,
           r->measured_link ? " as measured there" : "");
    if (r->link.latency > 0) printf(" and %.3g µs a sum", r->link.latency * 1e6);
    printf(", %s\n", r->link.overlap
                         ? "hidden behind the last micro-batch's backward pass as far as that is long enough"
                         : "nothing of it hidden");
}

static void print_head(const plan_ranks *r) {
    char share[32];
    snprintf(share, sizeof share, "of %d", r->ranks);
    printf("\non %d rank%s, computed from %s (%s, %d rank%s", r->ranks, r->ranks == 1 ? "" : "s", r->path,
           r->file.device, r->file.ranks, r->file.ranks == 1 ? "" : "s");
    if (r->file.ranks > 1) printf(" by %s", r->file.exchange);
    printf("), each rank as fast as one:\n");
    if (r->ranks > 1) print_link(r);
    printf("%5s %5s %11s %10s %5s %11s %13s %10s %8s %8s %10s  %s\n", "stage", "T", "tokens/rank", "compute ms", "wire",
           "exchange ms", "not hidden ms", "tokens/s", "speedup", share, "time", "fastest");
}

static void print_row(const plan_ranks *r, int64_t i, const ranks_step *one, config_wire wire) {
    char text[32], chosen[32] = "";
    const plan_stage *s = &r->plan->stages[i];
    ranks_time t = time_of(r, one, r->ranks, wire);
    double speedup = one->seconds / t.seconds;
    if (wire == WIRE_FP32) {
        ranks_choice fastest = ranks_fastest(one, &r->gradients, &r->link, r->ranks);
        choice_text(&fastest, chosen);
    }
    printf("%5" PRId64 " %5" PRId64 " %11" PRId64 " %10.2f %5s %11.2f %13.2f %10.0f %7.2fx %7.1f%% %10s%s%s\n", i + 1,
           s->seq_len, t.tokens, t.compute * 1e3, r->ranks > 1 ? config_wire_name(wire) : "-", t.exchange * 1e3,
           t.exposed * 1e3, (double)plan_tokens_per_step(s) / t.seconds, speedup, 100 * speedup / r->ranks,
           duration(stage_seconds(r, i, t.seconds), text), *chosen ? "  " : "", chosen);
}

static void print_totals(const plan_ranks *r) {
    char text[32];
    int64_t measured = measured_stages(r), all = r->plan->num_stages;
    double one = run_seconds(r, 1, WIRE_FP32);
    if (measured < all) printf("measured: %" PRId64 " of %" PRId64 " stages; together they take\n", measured, all);
    else printf("all stages together take\n");
    printf("  %-28s %10s\n", "1 rank", duration(one, text));
    for (config_wire wire = WIRE_FP32; wire <= WIRE_AUTO && r->ranks > 1; wire++) {
        char name[32];
        double seconds = run_seconds(r, r->ranks, wire);
        printf("  %-28s %10s %7.2fx\n", choice_text(&(ranks_choice){r->ranks, wire}, name), duration(seconds, text),
               one / seconds);
    }
    double least = fastest_seconds(r);
    if (r->ranks > 1) printf("  %-28s %10s %7.2fx\n", "each stage on its fastest", duration(least, text), one / least);
}

void plan_ranks_print(const plan_ranks *r) {
    ranks_step one;
    print_head(r);
    for (int64_t i = 0; i < r->plan->num_stages; i++) {
        if (!alone(r, i, &one)) continue;
        print_row(r, i, &one, WIRE_FP32);
        if (r->ranks > 1) print_row(r, i, &one, WIRE_BF16);
    }
    print_totals(r);
}

// --- For programs
static json_t *stage_json(const plan_ranks *r, int64_t i, const ranks_step *one, int n, config_wire wire) {
    ranks_time t = time_of(r, one, n, wire);
    double rate = (double)plan_tokens_per_step(&r->plan->stages[i]) / t.seconds, speedup = one->seconds / t.seconds;
    return json_pack("{sI ss sI sI sf sf sf sf sf sf sf sf}", "stage", (json_int_t)(i + 1), "gradient_wire",
                     config_wire_name(wire_of(r, one, n, wire)), "tokens_per_rank", (json_int_t)t.tokens,
                     "micro_batches", (json_int_t)t.micro_batches, "compute_seconds", t.compute, "exchange_seconds",
                     t.exchange, "exposed_seconds", t.exposed, "step_seconds", t.seconds, "tokens_per_second", rate,
                     "speedup", speedup, "efficiency", speedup / n, "seconds", stage_seconds(r, i, t.seconds));
}

static json_t *group_json(const plan_ranks *r, int n, config_wire wire) {
    json_t *stages = json_array();
    ranks_step one;
    for (int64_t i = 0; i < r->plan->num_stages; i++)
        if (alone(r, i, &one)) json_array_append_new(stages, stage_json(r, i, &one, n, wire));
    return json_pack("{si ss sf so}", "ranks", n, "gradient_wire", config_wire_name(wire), "seconds",
                     run_seconds(r, n, wire), "stages", stages);
}

static json_t *fastest_json(const plan_ranks *r) {
    json_t *list = json_array();
    ranks_step one;
    for (int64_t i = 0; i < r->plan->num_stages; i++) {
        if (!alone(r, i, &one)) continue;
        ranks_choice c = ranks_fastest(&one, &r->gradients, &r->link, r->ranks);
        json_array_append_new(list, json_pack("{sI si ss sf}", "stage", (json_int_t)(i + 1), "ranks", c.ranks,
                                              "gradient_wire", config_wire_name(c.wire), "seconds",
                                              stage_seconds(r, i, c.time.seconds)));
    }
    return list;
}

void plan_ranks_json(const plan_ranks *r, json_t *root) {
    json_t *groups = json_array();
    for (int n = 1; n; n = ranks_next(n, r->ranks))
        for (config_wire wire = WIRE_FP32; wire <= (n > 1 ? WIRE_AUTO : WIRE_FP32); wire++)
            json_array_append_new(groups, group_json(r, n, wire));
    json_object_set_new(root, "ranks", groups);
    json_object_set_new(root, "fastest", fastest_json(r));
    json_object_set_new(root, "link",
                        json_pack("{sf sf sb sb}", "bus_bytes_per_second", r->link.bus, "latency_seconds",
                                  r->link.latency, "overlap", r->link.overlap, "measured", r->measured_link));
}

#include "cli/bench_print.h"
#include <stdio.h>

void bench_print_ceiling(const char *device, const profile_ceiling *c) {
    printf("%s: large products", device);
    for (int t = 0; t < 4; t++)
        if (c->flops[t] > 0 && t != YX_E5M2) printf(" %s %.1f", yx_dtype_name((yx_dtype)t), c->flops[t] / 1e12);
    printf(" TFLOP/s, copy %.3f TB/s", c->bandwidth / 1e12);
}

static void print_stages(const bench_train *b) {
    printf("%6s %9s %11s %11s %10s %12s %9s %8s\n", "T", "sequences", "tokens/step", "micro-batch", "ms/step",
           "tokens/s", "TFLOP/s", "of peak");
    for (int64_t i = 0; i < b->num_stages; i++) {
        const bench_stage *s = &b->stages[i];
        printf("%6lld %9lld %11lld %11lld %10.2f %12.0f %9.3f %7.1f%%\n", (long long)s->seq_len,
               (long long)s->batch_size, (long long)s->tokens, (long long)s->micro_tokens, s->seconds * 1e3,
               (double)s->tokens / s->seconds, s->flops / s->seconds / 1e12, 100 * s->share);
    }
}

// What the ranks exchange in a step, as rank 0 sees it.
static void print_exchange(const bench_train *b) {
    printf("\n%6s %14s %14s %8s %20s\n", "T", "exchange ms", "not hidden ms", "hidden", "tokens/s of a rank");
    for (int64_t i = 0; i < b->num_stages; i++) {
        const bench_stage *s = &b->stages[i];
        double hidden = s->exchange > s->exposed ? 1 - s->exposed / s->exchange : 0;
        printf("%6lld %14.2f %14.2f %7.1f%% %20.0f\n", (long long)s->seq_len, s->exchange * 1e3, s->exposed * 1e3,
               100 * hidden, (double)s->tokens / s->seconds / b->ranks);
    }
}

static double profiled_seconds(const bench_stage *s) {
    double sum = 0;
    for (int g = 0; g < PROFILE_GROUPS; g++) sum += s->profile.groups[g].seconds;
    return sum;
}

// Rows: groups; columns: stages.
static void print_groups(const bench_train *b) {
    printf("\nms a step, and share of the ceiling, each operation timed by itself:\n%-16s", "T");
    for (int64_t i = 0; i < b->num_stages; i++) printf("%14lld", (long long)b->stages[i].seq_len);
    for (int g = 0; g < PROFILE_GROUPS; g++) {
        printf("\n%-16s", profile_group_name((profile_group)g));
        for (int64_t i = 0; i < b->num_stages; i++) {
            const profile_entry *e = &b->stages[i].profile.groups[g];
            printf(" %8.2f %3.0f%%", e->seconds * 1e3, e->seconds > 0 ? 100 * e->least / e->seconds : 0);
        }
    }
    printf("\n%-16s", "sum");
    for (int64_t i = 0; i < b->num_stages; i++) printf(" %8.2f     ", profiled_seconds(&b->stages[i]) * 1e3);
    printf("\n");
}

static void print_expectation(const bench_train *b) {
    printf("\nRTX 4090, computed (data sheet: bf16 %.1f, 8-bit %.1f TFLOP/s, %.3f TB/s; each group's least time there, "
           "divided by the share of\nits ceiling reached above), tokens/s:\n%-16s",
           bench_ceiling_4090.flops[YX_BF16] / 1e12, bench_ceiling_4090.flops[YX_E4M3] / 1e12,
           bench_ceiling_4090.bandwidth / 1e12, "");
    for (int64_t i = 0; i < b->num_stages; i++)
        printf(" %8.0f     ", (double)b->stages[i].tokens / b->stages[i].expected_4090.seconds);
    printf(
        "\nseveral, computed (the same tokens a step; %.0f MB of gradients in %lld sums at %.0f GB/s between the cards "
        "and %.0f µs a sum, hidden\nbehind the last micro-batch's backward pass as far as that is long enough), "
        "tokens/s:\n",
        ranks_gradient_bytes(&b->gradients) / 1e6, (long long)b->gradients.buckets, bench_link_4090.bus / 1e9,
        bench_link_4090.latency * 1e6);
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        printf("%d × RTX 4090     ", ranks);
        for (int64_t i = 0; i < b->num_stages; i++) {
            const bench_stage *s = &b->stages[i];
            ranks_time t = ranks_compute(&s->expected_4090, &b->gradients, &bench_link_4090, ranks);
            printf(" %8.0f     ", (double)s->tokens / t.seconds);
        }
        printf("\n");
    }
}

void bench_print_text(const bench_train *b) {
    bench_print_ceiling(b->device, &b->ceiling);
    if (b->ranks > 1) printf("; %d ranks by %s", b->ranks, b->exchange);
    printf("; micro-batches of up to %lld tokens, %.2f GB in use\n\n", (long long)b->micro_tokens,
           (double)b->memory_bytes / 1e9);
    print_stages(b);
    if (b->ranks > 1) print_exchange(b);
    print_groups(b);
    if (b->num_stages > 0 && b->stages[0].expected_4090.seconds > 0) print_expectation(b);
}

// --- JSON
static json_t *json_groups(const bench_stage *s) {
    json_t *groups = json_object();
    for (int g = 0; g < PROFILE_GROUPS; g++) {
        const profile_entry *e = &s->profile.groups[g];
        json_object_set_new(groups, profile_group_name((profile_group)g),
                            json_pack("{s:I, s:f, s:f, s:f}", "calls", (json_int_t)e->calls, "seconds", e->seconds,
                                      "least_seconds", e->least, "bytes", e->bytes));
    }
    return groups;
}

static json_t *json_stage(const bench_stage *s) {
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "seq_len", (json_int_t)s->seq_len,
                     "sequences", (json_int_t)s->batch_size, "tokens", (json_int_t)s->tokens, "micro_batch_tokens",
                     (json_int_t)s->micro_tokens, "seconds", s->seconds, "exchange_seconds", s->exchange,
                     "exposed_seconds", s->exposed, "tokens_per_second", (double)s->tokens / s->seconds,
                     "flops_per_second", s->flops / s->seconds, "share", s->share, "computed_4090_tokens_per_second",
                     s->expected_4090.seconds > 0 ? (double)s->tokens / s->expected_4090.seconds : 0.0, "groups",
                     json_groups(s));
}

json_t *bench_print_rates(const profile_ceiling *c) {
    json_t *rates = json_object();
    for (int t = 0; t < 4; t++)
        if (c->flops[t] > 0) json_object_set_new(rates, yx_dtype_name((yx_dtype)t), json_real(c->flops[t]));
    return rates;
}

yx_status bench_print_object(json_t *out) {
    if (!out || json_dumpf(out, stdout, JSON_COMPACT) != 0) {
        json_decref(out);
        return yx_fail(YX_ERR_IO, "cannot write the result");
    }
    putchar('\n');
    json_decref(out);
    return YX_OK;
}

yx_status bench_print_json(const bench_train *b) {
    json_t *stages = json_array();
    for (int64_t i = 0; i < b->num_stages; i++) json_array_append_new(stages, json_stage(&b->stages[i]));
    const ranks_gradients *g = &b->gradients;
    return bench_print_object(json_pack(
        "{s:s, s:i, s:s, s:I, s:s, s:f, s:s, s:b, s:b, s:o, s:f, s:I, s:I, s:o}", "device", b->device, "ranks",
        b->ranks, "exchange", b->exchange, "parameters", (json_int_t)g->parameters, "precision",
        config_precision_name(b->precision), "gradient_bytes", ranks_gradient_bytes(g), "gradient_wire",
        config_wire_name(g->wire), "shard_optimizer", g->sharded, "overlap", b->overlap, "product_flops_per_second",
        bench_print_rates(&b->ceiling), "copy_bytes_per_second", b->ceiling.bandwidth, "micro_batch_tokens",
        (json_int_t)b->micro_tokens, "memory_bytes", (json_int_t)b->memory_bytes, "stages", stages));
}

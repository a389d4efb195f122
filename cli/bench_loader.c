#include "cli/bench_loader.h"
#include "cli/bench_print.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "coordinator/bench_loader.h"
#include <stdio.h>

static const char help[] =
    "usage: yxanul bench loader --config FILE [--stages 1,5,10] [options]\n"
    "\n"
    "How many tokens a second one thread makes into complete micro-batches (token, target, seq_start), stage by stage, "
    "with\n"
    "the shards in the page cache; then the same when the loader's thread does it and hands each one over to another "
    "that\n"
    "waits for it. Beside it the rate of copying each token three times from a window to micro-batches, in order, by "
    "one\n"
    "thread in the same run.\n"
    "\n"
    "Then the waiting of a worker that takes --rate tokens a second when it starts with a cold cache: before each "
    "stage\n"
    "the shards' pages are dropped (posix_fadvise, POSIX_FADV_DONTNEED; what a file server or disk keeps stays "
    "there).\n"
    "Where it fits, the border of a shuffle window lies in the middle. Start: while the first tenth is taken.\n"
    "\n"
    "  --config FILE              the configuration (docs/configuration.md); its data must be prepared\n"
    "  --set KEY=VALUE …          change keys; may be repeated\n"
    "  --stages 1,5,10            only these stages (default: all)\n"
    "  --rate N                   tokens a second taken from the cold cache (default 1000000)\n"
    "  --json                     one JSON object on standard output\n"
    "\n"
    "exit codes: 0 done, 2 wrong usage, 3 configuration wrong, 4 the data is damaged, 5 it was made for another "
    "tokenizer,\n"
    "6 reading or writing failed, 8 not enough memory, 9 no such device\n";

typedef struct options {
    const char *config, *stage_list;
    cli_values sets;
    bench_loader_options loader;
    bool json, help;
} options;

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"config", CLI_TEXT, &o->config},
        {"set", CLI_TEXTS, &o->sets},
        {"stages", CLI_TEXT, &o->stage_list},
        {"rate", CLI_REAL, &o->loader.rate, .low = 1e3, .high = 1e10},
        {"json", CLI_FLAG, &o->json},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status != YX_OK || o->help) return status;
    o->loader.stages = UINT64_MAX;
    status = cli_parse_rest(argc, argv, &o->sets);
    if (status == YX_OK && o->stage_list) status = cli_parse_stages(o->stage_list, &o->loader.stages);
    if (status != YX_OK || o->config) return status;
    return yx_fail(YX_ERR_USAGE, "bench loader needs --config FILE");
}

static void print_text(const bench_loader *b) {
    printf("%lld tokens, windows of %lld blocks; copying each token three times: %.0f M tokens/s\n\n",
           (long long)b->dataset_tokens, (long long)b->window_blocks, b->copy_tokens / 1e6);
    printf("%6s %9s %11s %12s %8s %12s | cold cache, %.3g M tokens/s taken\n", "T", "sequences", "micro-batch",
           "M tokens/s", "of copy", "handed over", b->rate / 1e6);
    printf("%6s %9s %11s %12s %8s %12s | %10s %12s %9s %12s\n", "", "", "", "", "", "", "start wait", "later wait",
           "of time", "waits > 1 ms");
    for (int64_t i = 0; i < b->num_stages; i++) {
        const bench_loader_stage *s = &b->stages[i];
        double rate = (double)s->tokens / s->seconds, taking = (double)s->cold_tokens / b->rate;
        printf("%6lld %9lld %11lld %12.1f %7.1f%% %12.1f | %7.1f ms %9.1f ms %8.2f%% %5lld of %lld\n",
               (long long)s->seq_len, (long long)s->batch_size, (long long)s->micro_tokens, rate / 1e6,
               100 * rate / b->copy_tokens, (double)s->tokens / s->handed_seconds / 1e6, s->start_wait * 1e3,
               s->cold_wait * 1e3, 100 * s->cold_wait / (0.9 * taking + s->cold_wait), (long long)s->cold_waits,
               (long long)s->cold_batches);
    }
}

static json_t *json_stage(const bench_loader_stage *s) {
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:f, s:f, s:I, s:I}", "seq_len", (json_int_t)s->seq_len,
                     "sequences", (json_int_t)s->batch_size, "micro_batch_tokens", (json_int_t)s->micro_tokens,
                     "tokens", (json_int_t)s->tokens, "seconds", s->seconds, "tokens_per_second",
                     (double)s->tokens / s->seconds, "handed_over_tokens_per_second",
                     (double)s->tokens / s->handed_seconds, "cold_tokens", (json_int_t)s->cold_tokens,
                     "cold_start_wait", s->start_wait, "cold_later_wait", s->cold_wait, "cold_waits",
                     (json_int_t)s->cold_waits, "cold_micro_batches", (json_int_t)s->cold_batches);
}

static yx_status print_json(const bench_loader *b) {
    json_t *stages = json_array();
    for (int64_t i = 0; i < b->num_stages; i++) json_array_append_new(stages, json_stage(&b->stages[i]));
    return bench_print_object(json_pack("{s:I, s:I, s:f, s:f, s:o}", "dataset_tokens", (json_int_t)b->dataset_tokens,
                                        "window_blocks", (json_int_t)b->window_blocks, "copy_tokens_per_second",
                                        b->copy_tokens, "cold_rate", b->rate, "stages", stages));
}

int cli_bench_loader(int argc, char **argv) {
    static options o = {.loader = {.rate = 1e6}};
    static yx_config config;
    static bench_loader result;
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("bench", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    status = config_load(o.config, o.sets.items, o.sets.count, &config);
    if (status == YX_OK) status = cli_check_stages(o.loader.stages, &config);
    if (status == YX_OK) status = bench_loader_run(&config, &o.loader, &result);
    if (status != YX_OK) return cli_fail(status);
    if (o.json) return cli_fail(print_json(&result));
    print_text(&result);
    return 0;
}

// yxanul prepare: text to shards.
#include "io/prepare.h"
#include "cli/cli.h"
#include "common/log.h"
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: yxanul prepare --tokenizer T --input PATH… --output DIR [options]\n"
    "\n"
    "Encodes documents into token shards (docs/data-format.md). PATH: .jsonl, .ndjson, .txt, .md, plain or compressed\n"
    "(.gz, .zst), a folder of them, or - for JSON lines on standard input.\n"
    "\n"
    "  --tokenizer T            tokenizer.json, or a folder with it or with vocab.json and merges.txt\n"
    "  --input PATH…            what to read; may be repeated\n"
    "  --output DIR             the data set; appears when everything is written\n"
    "filters (a document without the field that a filter needs is left out)\n"
    "  --min-score X            at least this \"score\" (else \"int_score\", which is rounded: that is said)\n"
    "  --min-token-count N      at least this \"token_count\" (the field; FineWeb-Edu: GPT-2 tokens)\n"
    "  --min-tokens N           at least N tokens, counted with T\n"
    "  --count-with T2          --min-tokens counts with the tokenizer T2 instead\n"
    "  --min-chars N            at least N characters; also --max-chars\n"
    "  --language L             only \"language\" L\n"
    "  --near-duplicates        drop documents whose wording is nearly that of an earlier one, too (the same text\n"
    "                           is always dropped); takes about 250 bytes of memory for each document kept\n"
    "  --max-documents N        read no more than N documents\n"
    "split and shards\n"
    "  --validation-fraction X  share of the documents for validation, by hash of the id (0.005)\n"
    "  --split-seed N           another choice of them (0); also --seed\n"
    "  --shard-tokens N         tokens of a shard at most (256M)\n"
    "  --pack N                 order the training documents so that few are cut where windows of N tokens begin "
    "(best\n"
    "                           fit among 2048); N: the longest stage's seq_len. Without it they keep their order\n"
    "reading and running\n"
    "  --text-field F           name of the text's field (\"text\"); also --id-field, --score-field,\n"
    "                           --token-count-field, --language-field\n"
    "  --max-line-bytes N       longer lines are malformed (64 MiB)\n"
    "  --strict                 stop at the first malformed line instead of skipping it\n"
    "  --threads N              threads that encode (the processor's); the result does not depend on it\n"
    "  --source TEXT            where the text is from, for the record (else: the names of the inputs)\n"
    "  --force                  replace an existing data set\n"
    "  --restart                forget what an earlier run left in DIR.partial\n"
    "\n"
    "A run that was stopped or killed goes on behind its last complete shard: give the same command (and input) "
    "again.\n"
    "\n"
    "exit codes: 0 done, 2 wrong usage or DIR in use, 4 input or tokenizer wrong or nothing left, 6 reading or "
    "writing\n"
    "failed, 7 disk full, 8 out of memory, 75 interrupted. On failure there is no DIR; DIR.partial stays when it has\n"
    "complete shards.\n";

enum {
    OPT_POSITIONAL = 1, // getopt's code for what is no option
    OPT_TOKENIZER = 256,
    OPT_INPUT,
    OPT_OUTPUT,
    OPT_MIN_SCORE,
    OPT_MIN_TOKEN_COUNT,
    OPT_MIN_TOKENS,
    OPT_COUNT_WITH,
    OPT_MIN_CHARS,
    OPT_MAX_CHARS,
    OPT_NEAR_DUPLICATES,
    OPT_LANGUAGE,
    OPT_MAX_DOCUMENTS,
    OPT_FRACTION,
    OPT_SEED,
    OPT_SHARD_TOKENS,
    OPT_PACK,
    OPT_TEXT_FIELD,
    OPT_ID_FIELD,
    OPT_SCORE_FIELD,
    OPT_COUNT_FIELD,
    OPT_LANGUAGE_FIELD,
    OPT_MAX_LINE,
    OPT_STRICT,
    OPT_THREADS,
    OPT_SOURCE,
    OPT_FORCE,
    OPT_RESTART,
    OPT_HELP
};

static const struct option long_options[] = {
    {"tokenizer", required_argument, NULL, OPT_TOKENIZER},
    {"input", required_argument, NULL, OPT_INPUT},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"min-score", required_argument, NULL, OPT_MIN_SCORE},
    {"min-token-count", required_argument, NULL, OPT_MIN_TOKEN_COUNT},
    {"min-tokens", required_argument, NULL, OPT_MIN_TOKENS},
    {"count-with", required_argument, NULL, OPT_COUNT_WITH},
    {"min-chars", required_argument, NULL, OPT_MIN_CHARS},
    {"max-chars", required_argument, NULL, OPT_MAX_CHARS},
    {"near-duplicates", no_argument, NULL, OPT_NEAR_DUPLICATES},
    {"language", required_argument, NULL, OPT_LANGUAGE},
    {"max-documents", required_argument, NULL, OPT_MAX_DOCUMENTS},
    {"validation-fraction", required_argument, NULL, OPT_FRACTION},
    {"split-seed", required_argument, NULL, OPT_SEED},
    {"seed", required_argument, NULL, OPT_SEED},
    {"shard-tokens", required_argument, NULL, OPT_SHARD_TOKENS},
    {"pack", required_argument, NULL, OPT_PACK},
    {"text-field", required_argument, NULL, OPT_TEXT_FIELD},
    {"id-field", required_argument, NULL, OPT_ID_FIELD},
    {"score-field", required_argument, NULL, OPT_SCORE_FIELD},
    {"token-count-field", required_argument, NULL, OPT_COUNT_FIELD},
    {"language-field", required_argument, NULL, OPT_LANGUAGE_FIELD},
    {"max-line-bytes", required_argument, NULL, OPT_MAX_LINE},
    {"strict", no_argument, NULL, OPT_STRICT},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"source", required_argument, NULL, OPT_SOURCE},
    {"force", no_argument, NULL, OPT_FORCE},
    {"restart", no_argument, NULL, OPT_RESTART},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static volatile sig_atomic_t stop_requested;
static void request_stop(int signal_number) {
    (void)signal_number;
    stop_requested = 1;
}

static void set_signals(void) {
    // The second signal kills: the first may find the process waiting for a pipe.
    struct sigaction action = {.sa_handler = request_stop, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); // a file-size limit becomes an error of write()
}

static yx_status parse_number(int code, const char *text, prepare_options *o) {
    yx_status status = YX_OK;
    int64_t value;
    switch (code) {
    case OPT_MIN_SCORE:
        return cli_parse_real("min-score", text, -1e9, 1e9, &o->min_score);
    case OPT_MIN_TOKEN_COUNT:
        return cli_parse_int("min-token-count", text, 0, INT64_MAX, &o->min_token_count);
    case OPT_MIN_TOKENS:
        return cli_parse_int("min-tokens", text, 0, INT64_MAX, &o->min_tokens);
    case OPT_MIN_CHARS:
        return cli_parse_int("min-chars", text, 0, INT64_MAX, &o->min_chars);
    case OPT_MAX_CHARS:
        return cli_parse_int("max-chars", text, 1, INT64_MAX, &o->max_chars);
    case OPT_MAX_DOCUMENTS:
        return cli_parse_int("max-documents", text, 1, INT64_MAX, &o->max_documents);
    case OPT_FRACTION:
        return cli_parse_real("validation-fraction", text, 0, 0.999, &o->validation_fraction);
    case OPT_SHARD_TOKENS:
        return cli_parse_int("shard-tokens", text, 1, 1ll << 40, &o->shard_tokens);
    case OPT_PACK:
        return cli_parse_int("pack", text, 1, 1 << 20, &o->pack);
    case OPT_SEED:
        YX_CHECK(cli_parse_int("split-seed", text, 0, INT64_MAX, &value));
        o->split_seed = (uint64_t)value;
        return YX_OK;
    case OPT_MAX_LINE:
        YX_CHECK(cli_parse_int("max-line-bytes", text, 1, INT32_MAX, &value));
        o->corpus.max_line_bytes = (size_t)value;
        return YX_OK;
    case OPT_THREADS:
        YX_CHECK(cli_parse_int("threads", text, 1, 1024, &value));
        o->threads = (int)value;
        return YX_OK;
    }
fail:
    return status;
}

// `inputs` has room for every argument.
static yx_status parse_option(int code, const char *text, prepare_options *o, const char **inputs) {
    switch (code) {
    case OPT_POSITIONAL:
    case OPT_INPUT:
        inputs[o->n_inputs++] = text;
        return YX_OK;
    case OPT_TOKENIZER:
        o->tokenizer = text;
        return YX_OK;
    case OPT_OUTPUT:
        o->output = text;
        return YX_OK;
    case OPT_LANGUAGE:
        o->language = text;
        return YX_OK;
    case OPT_TEXT_FIELD:
        o->corpus.text_field = text;
        return YX_OK;
    case OPT_ID_FIELD:
        o->corpus.id_field = text;
        return YX_OK;
    case OPT_SCORE_FIELD:
        o->corpus.score_field = text;
        return YX_OK;
    case OPT_COUNT_FIELD:
        o->corpus.token_count_field = text;
        return YX_OK;
    case OPT_LANGUAGE_FIELD:
        o->corpus.language_field = text;
        return YX_OK;
    case OPT_STRICT:
        o->corpus.strict = true;
        return YX_OK;
    case OPT_COUNT_WITH:
        o->count_tokenizer = text;
        return YX_OK;
    case OPT_NEAR_DUPLICATES:
        o->near_duplicates = true;
        return YX_OK;
    case OPT_SOURCE:
        o->source = text;
        return YX_OK;
    case OPT_FORCE:
        o->force = true;
        return YX_OK;
    case OPT_RESTART:
        o->restart = true;
        return YX_OK;
    default:
        return parse_number(code, text, o);
    }
}

typedef struct live_line {
    bool terminal;
    double last; // seconds at which a line was printed
} live_line;

// The share that is read, and from the speed since the last shard of an earlier run, the time left.
static void describe_rest(const prepare_counts *c, char *out, size_t capacity) {
    double total = (double)c->corpus.input_total, done = (double)c->corpus.input_bytes;
    double fresh = done - (double)c->resumed_input_bytes, seconds = c->seconds - c->resumed_seconds;
    if (total > 0 && fresh > 0 && c->resumed_seconds >= 0)
        snprintf(out, capacity, ", %.0f %%, %.0f s left", 100 * done / total, seconds * (total - done) / fresh);
}

static void show_progress(void *context, const prepare_counts *c) {
    live_line *line = context;
    char rest[64] = "";
    if (!line->terminal && c->seconds - line->last < 10) return;
    line->last = c->seconds;
    describe_rest(c, rest, sizeof rest);
    if (c->resumed_documents > 0 && c->resumed_seconds < 0) snprintf(rest, sizeof rest, ", reading over what is done");
    double tokens = (double)(c->tokens[PREPARE_TRAIN] + c->tokens[PREPARE_VALIDATION]);
    fprintf(stderr, "%s%" PRId64 " documents read, %.1f M tokens, %.1f MB/s%s%s", line->terminal ? "\r\033[K" : "",
            c->corpus.documents, tokens / 1e6, (double)c->corpus.bytes / 1e6 / c->seconds, rest,
            line->terminal ? "" : "\n");
}

static void print_summary(const prepare_options *o, const prepare_counts *c) {
    int64_t tokens = c->tokens[PREPARE_TRAIN] + c->tokens[PREPARE_VALIDATION] - c->kept;
    printf("read        %" PRId64 " documents from %" PRId64 " files in %.1f s (%.1f MB/s)\n", c->corpus.documents,
           c->corpus.files, c->seconds, (double)c->corpus.bytes / 1e6 / c->seconds);
    printf("            %" PRId64 " bytes of text, %" PRId64 " bytes as stored\n", c->corpus.bytes,
           c->corpus.input_bytes);
    if (c->resumed_shards > 0)
        printf("continued   behind %" PRId64 " shards of an earlier run, made of the first %" PRId64 " documents\n",
               c->resumed_shards, c->resumed_documents);
    if (c->rounded_scores > 0)
        printf("judged      %" PRId64 " documents by int_score, which is rounded: they have no score\n",
               c->rounded_scores);
    for (int i = 0; i < CORPUS_MALFORMED_KINDS; i++)
        if (c->corpus.malformed[i] > 0)
            printf("malformed   %" PRId64 " lines: %s\n", c->corpus.malformed[i], corpus_malformed_name(i));
    for (int i = 0; i < PREPARE_DROPS; i++)
        if (c->dropped[i] > 0) printf("dropped     %" PRId64 " documents: %s\n", c->dropped[i], prepare_drop_name(i));
    printf("kept        %" PRId64 " documents, %" PRId64 " characters, %" PRId64 " bytes\n", c->kept, c->chars,
           c->bytes);
    if (tokens > 0)
        printf("tokens      %" PRId64 " (%.3f characters, %.3f bytes per token), and %" PRId64 " end-of-text tokens\n",
               tokens, (double)c->chars / (double)tokens, (double)c->bytes / (double)tokens, c->kept);
    static const char *const names[PREPARE_SPLITS] = {"train", "validation"};
    for (int i = 0; i < PREPARE_SPLITS; i++)
        printf("%-11s %" PRId64 " tokens, %" PRId64 " documents, %" PRId64 " shards\n", names[i], c->tokens[i],
               c->docs[i], c->shards[i]);
    printf("written to  %s\n", o->output);
}

static int check_options(const prepare_options *o) {
    if (!o->tokenizer) return cli_usage_error("prepare", "--tokenizer is missing");
    if (o->n_inputs == 0) return cli_usage_error("prepare", "--input is missing");
    if (!o->output) return cli_usage_error("prepare", "--output is missing");
    return 0;
}

static int run(prepare_options *o) {
    prepare_counts counts;
    live_line line = {.terminal = isatty(STDERR_FILENO)};
    int code = check_options(o);
    if (code != 0) return code;
    set_signals();
    o->progress = show_progress;
    o->context = &line;
    o->stop = &stop_requested;
    yx_status status = prepare_run(o, &counts);
    if (line.terminal && line.last > 0) fputs("\r\033[K", stderr);
    if (status == YX_OK) print_summary(o, &counts);
    return cli_fail(status);
}

int cli_prepare(int argc, char **argv) {
    const char **inputs = calloc((size_t)argc + 1, sizeof *inputs);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    prepare_options o = {.inputs = inputs,
                         .min_score = NAN,
                         .validation_fraction = 0.005,
                         .shard_tokens = 256000000,
                         .threads = processors > 0 && processors <= 1024 ? (int)processors : 1};
    int code, result = -1;
    if (!inputs) return cli_fail(yx_fail(YX_ERR_NO_MEMORY, "no memory"));
    opterr = 0;
    optind = 1;
    while (result < 0 && (code = getopt_long(argc, argv, "-:h", long_options, NULL)) != -1) {
        if (code == 'h' || code == OPT_HELP) result = fputs(help, stdout) < 0;
        else if (code == ':') result = cli_usage_error("prepare", "%s needs a value", argv[optind - 1]);
        else if (code == '?') result = cli_usage_error("prepare", "unknown option %s", argv[optind - 1]);
        else if (parse_option(code, optarg, &o, inputs) != YX_OK)
            result = cli_usage_error("prepare", "%s", yx_message());
    }
    for (; result < 0 && optind < argc; optind++) inputs[o.n_inputs++] = argv[optind]; // behind "--"
    if (result < 0 && o.max_chars > 0 && o.min_chars > o.max_chars)
        result = cli_usage_error("prepare", "--min-chars is above --max-chars: no document would be left");
    if (result < 0) result = run(&o);
    free(inputs);
    return result;
}

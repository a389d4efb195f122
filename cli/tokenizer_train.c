// yxanul tokenizer train.
#include "cli/cli.h"
#include "cli/tokenizer_commands.h"
#include "io/bpe_train.h"
#include "io/corpus.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char help[] =
    "usage: yxanul tokenizer train --input PATH … --output DIR --vocab-size V [options]\n"
    "\n"
    "Trains a byte-level BPE tokenizer and writes DIR/tokenizer.json. With a transition below the vocabulary size it "
    "is a\n"
    "SuperBPE tokenizer: subwords up to the transition, then superwords that reach across spaces (\" of the\").\n"
    "\n"
    "  --input PATH            text: .jsonl (also .gz, .zst), .txt, a folder of them, or \"-\"; may be repeated\n"
    "  --output DIR            where tokenizer.json is written\n"
    "  --vocab-size V          number of tokens, with special tokens and the 256 bytes\n"
    "  --transition T          number of tokens at which superwords begin (default: none)\n"
    "  --min-frequency N       a pair seen less often is not merged (default 2)\n"
    "  --max-superword-words N words that a superword may touch (default 4)\n"
    "  --special-token S       gets the first free id; may be repeated (default <|endoftext|>)\n"
    "  --words RULE            how the first stage finds words: superbpe (default) or gpt2\n"
    "  --max-bytes N           stop reading after this much text (default: all of it)\n"
    "  --help                  show this help\n"
    "\n"
    "Numbers may end in k, M or G. The second stage keeps the text in memory: plan 15 bytes of memory for each of its "
    "bytes.\n";

enum {
    OPT_INPUT = 1000,
    OPT_OUTPUT,
    OPT_VOCAB_SIZE,
    OPT_TRANSITION,
    OPT_MIN_FREQUENCY,
    OPT_MAX_WORDS,
    OPT_SPECIAL_TOKEN,
    OPT_WORDS,
    OPT_MAX_BYTES
};

static const struct option known[] = {{"input", required_argument, NULL, OPT_INPUT},
                                      {"output", required_argument, NULL, OPT_OUTPUT},
                                      {"vocab-size", required_argument, NULL, OPT_VOCAB_SIZE},
                                      {"transition", required_argument, NULL, OPT_TRANSITION},
                                      {"min-frequency", required_argument, NULL, OPT_MIN_FREQUENCY},
                                      {"max-superword-words", required_argument, NULL, OPT_MAX_WORDS},
                                      {"special-token", required_argument, NULL, OPT_SPECIAL_TOKEN},
                                      {"words", required_argument, NULL, OPT_WORDS},
                                      {"max-bytes", required_argument, NULL, OPT_MAX_BYTES},
                                      {"help", no_argument, NULL, 'h'},
                                      {0}};

typedef struct train_command {
    bpe_train_options options;
    const char **inputs, **special;
    int n_inputs, n_special;
    const char *output;
    int64_t max_bytes, bytes;
    corpus *corpus;
} train_command;

static yx_status set_option(train_command *c, int code) {
    int64_t value = 0;
    yx_status status = YX_OK;
    switch (code) {
    case 1: // not an option: one more input
    case OPT_INPUT:
        c->inputs[c->n_inputs++] = optarg;
        break;
    case OPT_OUTPUT:
        c->output = optarg;
        break;
    case OPT_VOCAB_SIZE:
        status = cli_parse_int("vocab-size", optarg, 1, INT32_MAX, &value);
        c->options.vocab_size = (uint32_t)value;
        break;
    case OPT_TRANSITION:
        status = cli_parse_int("transition", optarg, 1, INT32_MAX, &value);
        c->options.transition = (uint32_t)value;
        break;
    case OPT_MIN_FREQUENCY:
        status = cli_parse_int("min-frequency", optarg, 1, INT64_MAX, &c->options.min_frequency);
        break;
    case OPT_MAX_WORDS:
        status = cli_parse_int("max-superword-words", optarg, 1, 255, &value);
        c->options.max_superword_words = (int)value;
        break;
    case OPT_SPECIAL_TOKEN:
        c->special[c->n_special++] = optarg;
        break;
    case OPT_WORDS:
        if (strcmp(optarg, "gpt2") == 0) c->options.words = BPE_WORDS_GPT2;
        else if (strcmp(optarg, "superbpe") != 0)
            status = yx_fail(YX_ERR_USAGE, "--words: '%s' is neither superbpe nor gpt2", optarg);
        break;
    case OPT_MAX_BYTES:
        status = cli_parse_int("max-bytes", optarg, 1, INT64_MAX, &c->max_bytes);
        break;
    }
    return status;
}

static int parse_options(int argc, char **argv, train_command *c) {
    int code;
    opterr = 0;
    optind = 0;
    while ((code = getopt_long(argc, argv, "-:h", known, NULL)) != -1) {
        if (code == 'h') return fputs(help, stdout) < 0;
        if (code == ':') return cli_usage_error("tokenizer train", "%s needs a value", argv[optind - 1]);
        if (code == '?') return cli_usage_error("tokenizer train", "unknown option %s", argv[optind - 1]);
        if (set_option(c, code) != YX_OK) return cli_usage_error("tokenizer train", "%s", yx_message());
    }
    for (; optind < argc; optind++) c->inputs[c->n_inputs++] = argv[optind]; // behind "--"
    if (c->n_inputs == 0) return cli_usage_error("tokenizer train", "--input is missing");
    if (!c->output) return cli_usage_error("tokenizer train", "--output is missing");
    return c->options.vocab_size ? -1 : cli_usage_error("tokenizer train", "--vocab-size is missing");
}

static yx_status next_document(void *context, const char **text, size_t *size) {
    train_command *c = context;
    corpus_document d;
    *text = NULL;
    *size = 0;
    if (c->max_bytes > 0 && c->bytes >= c->max_bytes) return YX_OK;
    yx_status status = corpus_next(c->corpus, &d);
    if (status != YX_OK || !d.text) return status;
    c->bytes += (int64_t)d.size;
    *text = d.text;
    *size = d.size;
    return YX_OK;
}

static yx_status run(train_command *c) {
    yx_status status = YX_OK;
    bpe_train_report report;
    struct timespec start, end;
    if (c->n_special > 0) c->options.special_tokens = c->special;
    c->options.n_special_tokens = c->n_special;
    clock_gettime(CLOCK_MONOTONIC, &start);
    YX_CHECK(corpus_open(c->inputs, c->n_inputs, NULL, &c->corpus));
    YX_CHECK(bpe_train((bpe_documents){next_document, c}, &c->options, c->output, &report));
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("documents   %lld (%.1f MB)\n", (long long)report.documents, (double)report.bytes / 1e6);
    printf("words       %lld distinct\n", (long long)report.distinct_words);
    printf("vocabulary  %u tokens: %u subword merges, %u superword merges\n", report.vocab_size, report.subword_merges,
           report.superword_merges);
    printf("time        %.1f s\n", (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9);
    printf("written to  %s/tokenizer.json\n", c->output);
fail:
    corpus_close(c->corpus);
    return status;
}

int tokenizer_command_train(int argc, char **argv) {
    train_command c = {.inputs = calloc((size_t)argc + 1, sizeof *c.inputs),
                       .special = calloc((size_t)argc + 1, sizeof *c.special)};
    int code = c.inputs && c.special ? parse_options(argc, argv, &c) : YX_ERR_NO_MEMORY;
    if (code < 0) code = cli_fail(run(&c));
    free(c.inputs);
    free(c.special);
    return code;
}

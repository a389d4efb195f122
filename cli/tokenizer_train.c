// yxanul tokenizer train.
#include "cli/cli.h"
#include "common/file.h"
#include "cli/tokenizer_commands.h"
#include "cli/tokenizer_train_text.h"
#include "io/bpe_train.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: yxanul tokenizer train --input PATH … --output DIR --vocab-size V [options]\n"
    "       yxanul tokenizer train --from DIR|TOKENIZER --output DIR --vocab-size V [--transition T] [options]\n"
    "\n"
    "Trains a byte-level BPE tokenizer and writes DIR/tokenizer.json. With a transition below the vocabulary size it "
    "is "
    "a\n"
    "SuperBPE tokenizer: subwords up to the transition, then superwords that reach across spaces (\" of the\").\n"
    "\n"
    "  --input PATH            text: .jsonl (also .gz, .zst), .txt, a folder of them, or \"-\" (without superwords); "
    "may "
    "be\n"
    "                          repeated; with --from DIR, by default the files that DIR was trained on\n"
    "  --output DIR            where tokenizer.json is written, and training/ with what --from continues from\n"
    "  --vocab-size V          number of tokens, with special tokens and the 256 bytes\n"
    "  --transition T          number of tokens at which superwords begin (default: none)\n"
    "  --from DIR              a folder that this command wrote: its counts of words and its merges are used, for any "
    "T "
    "and\n"
    "                          V; the result is that of training with them from the text\n"
    "  --from TOKENIZER        any other tokenizer of subwords: its tokens stay as they are, superwords are added\n"
    "                          (--transition: by default its size)\n"
    "  --min-frequency N       a pair seen less often is not merged (default 2)\n"
    "  --max-superword-words N words that a superword may touch (default 4)\n"
    "  --special-token S       gets the first free id; may be repeated (default <|endoftext|>)\n"
    "  --words RULE            how the first stage finds words: superbpe (default) or gpt2\n"
    "  --max-bytes N           stop reading after this much text (default: all of it)\n"
    "  --threads N             threads that encode the text for superwords (default: all processors)\n"
    "  --help                  show this help\n"
    "\n"
    "Numbers may end in k, M or G. A run that was stopped, started again with the same output and text, begins behind "
    "its\n"
    "last finished stage. Superwords take one to two bytes of memory for each byte of text (docs/tokenizer.md).\n";

enum {
    OPT_INPUT = 1000,
    OPT_OUTPUT,
    OPT_VOCAB_SIZE,
    OPT_TRANSITION,
    OPT_MIN_FREQUENCY,
    OPT_MAX_WORDS,
    OPT_SPECIAL_TOKEN,
    OPT_WORDS,
    OPT_MAX_BYTES,
    OPT_FROM,
    OPT_THREADS
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
                                      {"from", required_argument, NULL, OPT_FROM},
                                      {"threads", required_argument, NULL, OPT_THREADS},
                                      {"help", no_argument, NULL, 'h'},
                                      {0}};

typedef struct train_command {
    bpe_train_options options;
    const char **inputs, **special;
    int n_inputs, n_special;
    const char *output, *from, *words;
    int64_t max_bytes;
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
        c->words = optarg;
        if (strcmp(optarg, "gpt2") == 0) c->options.words = BPE_WORDS_GPT2;
        else if (strcmp(optarg, "superbpe") != 0)
            status = yx_fail(YX_ERR_USAGE, "--words: '%s' is neither superbpe nor gpt2", optarg);
        break;
    case OPT_MAX_BYTES:
        status = cli_parse_int("max-bytes", optarg, 1, INT64_MAX, &c->max_bytes);
        break;
    case OPT_FROM:
        c->from = optarg;
        break;
    case OPT_THREADS:
        status = cli_parse_int("threads", optarg, 1, 256, &value);
        c->options.threads = (int)value;
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
    if (c->n_inputs == 0 && !c->from) return cli_usage_error("tokenizer train", "--input is missing");
    if (!c->output) return cli_usage_error("tokenizer train", "--output is missing");
    return c->options.vocab_size ? -1 : cli_usage_error("tokenizer train", "--vocab-size is missing");
}

// A folder with counts is continued; anything else is a tokenizer to extend.
static yx_status set_from(train_command *c) {
    if (!c->from) return YX_OK;
    if (!yx_path_exists(c->from)) return yx_fail(YX_ERR_IO, "--from %s does not exist", c->from);
    if (!bpe_train_can_continue(c->from)) {
        c->options.base = c->from;
        return c->n_inputs > 0
                   ? YX_OK
                   : yx_fail(YX_ERR_USAGE, "%s keeps no counts of words: --input has to name the text", c->from);
    }
    c->options.from = c->from;
    if (c->words)
        return yx_fail(YX_ERR_USAGE, "--words: %s counted its words by one rule already, it cannot be changed",
                       c->from);
    if (c->n_inputs == 0 && c->max_bytes > 0)
        return yx_fail(YX_ERR_USAGE, "--max-bytes: %s is continued with the text it counted", c->from);
    return c->options.transition > 0 ? YX_OK
                                     : yx_fail(YX_ERR_USAGE,
                                               "--transition is missing: which of the merges that %s "
                                               "keeps, or can make, are to come before superwords "
                                               "(--vocab-size for no superwords)",
                                               c->from);
}

static yx_status open_text(const train_command *c, train_files *files) {
    if (c->n_inputs > 0) return train_files_open(c->inputs, c->n_inputs, c->max_bytes, files);
    if (c->options.transition == c->options.vocab_size) return YX_OK; // the counts are enough
    char *source = NULL;
    yx_status status = bpe_train_source(c->from, &source);
    if (status == YX_OK)
        status = source
                     ? train_files_reopen(source, files)
                     : yx_fail(YX_ERR_USAGE, "%s was trained on standard input: --input has to name the text", c->from);
    free(source);
    return yx_context(status, "the text that %s was trained on (--input can name it)", c->from);
}

static void print_report(const bpe_train_report *r, const char *output) {
    printf("documents   %lld (%.1f MB)\n", (long long)r->documents, (double)r->bytes / 1e6);
    printf("words       %lld distinct, %s%.1f s\n", (long long)r->distinct_words,
           r->kept_words ? "kept from an earlier run, " : "", r->word_seconds);
    printf("subwords    %u merges, %s%.1f s\n", r->subword_merges, r->kept_subwords ? "kept from an earlier run, " : "",
           r->subword_seconds);
    if (r->tokens > 0)
        printf(
            "superwords  %u merges, %.1f s of encoding to %lld tokens, %.1f s of merging %lld places, pairs from %lld "
            "on\n",
            r->superword_merges, r->text_seconds, (long long)r->tokens, r->superword_seconds, (long long)r->places,
            (long long)r->least_pair);
    printf("vocabulary  %u tokens\n", r->vocab_size);
    printf("time        %.1f s\n", r->word_seconds + r->subword_seconds + r->text_seconds + r->superword_seconds);
    printf("written to  %s/tokenizer.json\n", output);
}

static yx_status run(train_command *c) {
    yx_status status = YX_OK;
    bpe_train_report report;
    train_files files = {0};
    char *source = NULL;
    if (c->n_special > 0) c->options.special_tokens = c->special;
    c->options.n_special_tokens = c->n_special;
    YX_CHECK(set_from(c));
    YX_CHECK(open_text(c, &files));
    if (files.n_paths > 0) YX_CHECK(train_files_source(&files, &source));
    c->options.source = source;
    YX_CHECK(bpe_train(train_files_documents(&files), &c->options, c->output, &report));
    print_report(&report, c->output);
fail:
    train_files_close(&files);
    free(source);
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

// yxanul tokenizer info.
#include "cli/cli.h"
#include "cli/tokenizer_commands.h"
#include "io/corpus.h"
#include "io/tokenizer.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char help[] = "usage: yxanul tokenizer info --tokenizer T [--tokenizer T2 …] [--text FILE]\n"
                           "\n"
                           "Says what a tokenizer is. Several are compared in a table.\n"
                           "\n"
                           "  --tokenizer T  tokenizer.json, or the folder of a tokenizer; may be repeated\n"
                           "  --text FILE    also encode this text (.jsonl, .gz, .zst, .txt, a folder): characters and "
                           "bytes per token, speed\n"
                           "  --help         show this help\n";

enum { OPT_TOKENIZER = 1000, OPT_TEXT };
static const struct option known[] = {{"tokenizer", required_argument, NULL, OPT_TOKENIZER},
                                      {"text", required_argument, NULL, OPT_TEXT},
                                      {"help", no_argument, NULL, 'h'},
                                      {0}};

typedef struct measure {
    int64_t documents, characters, bytes, tokens;
    double seconds; // of encoding alone
} measure;

static double seconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) * 1e-9;
}

static yx_status measure_document(const yx_tokenizer *t, tokenizer_scratch *s, const corpus_document *d, measure *m) {
    const uint32_t *ids;
    size_t count;
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    yx_status status = tokenizer_encode(t, s, d->text, d->size, TOKENIZER_NO_SPECIAL, &ids, &count);
    if (status != YX_OK) return status;
    m->seconds += seconds_since(&start);
    m->documents++;
    m->tokens += (int64_t)count;
    m->bytes += (int64_t)d->size;
    for (size_t i = 0; i < d->size; i++) m->characters += (d->text[i] & 0xc0) != 0x80;
    return YX_OK;
}

static yx_status measure_text(const yx_tokenizer *t, const char *path, measure *m) {
    yx_status status = YX_OK;
    corpus *c = NULL;
    tokenizer_scratch *s = NULL;
    corpus_document d;
    YX_CHECK(tokenizer_scratch_new(t, &s));
    YX_CHECK(corpus_open(&path, 1, NULL, &c));
    for (;;) {
        YX_CHECK(corpus_next(c, &d));
        if (!d.text) break;
        YX_CHECK(measure_document(t, s, &d, m));
    }
    if (m->tokens == 0) YX_FAIL(YX_ERR_DATA, "%s has no text", path);
fail:
    corpus_close(c);
    tokenizer_scratch_free(s);
    return status;
}

static void print_added(const yx_tokenizer *t) {
    const char *content;
    uint32_t id = 0;
    bool special = false;
    for (size_t i = 0; (content = tokenizer_added(t, i, &id, &special)); i++)
        printf("%-16s%u %s%s\n", i ? "" : "added tokens", id, content, special ? " (special)" : "");
}

static yx_status print_one(const yx_tokenizer *t, const measure *m) {
    char *steps;
    yx_status status = tokenizer_explain(t, &steps);
    if (status != YX_OK) return status;
    printf("name            %s\n", tokenizer_name(t));
    printf("path            %s\n", tokenizer_path(t));
    printf("sha256          %s\n", tokenizer_sha256(t));
    printf("vocabulary      %u tokens\n", tokenizer_vocab_size(t));
    printf("merges          %zu, of which the first %zu stay within words\n", tokenizer_merge_count(t),
           tokenizer_word_merges(t));
    printf("pre-tokenizer   %s\n", steps);
    printf("superwords      %.1f %% of the tokens have an inner space\n", 100 * tokenizer_superword_share(t));
    if (tokenizer_eot(t) >= 0) printf("end of text     %lld\n", (long long)tokenizer_eot(t));
    else printf("end of text     none\n");
    print_added(t);
    if (m->tokens > 0) {
        printf("text            %lld documents, %lld characters, %lld bytes, %lld tokens\n", (long long)m->documents,
               (long long)m->characters, (long long)m->bytes, (long long)m->tokens);
        printf("per token       %.3f characters, %.3f bytes\n", (double)m->characters / (double)m->tokens,
               (double)m->bytes / (double)m->tokens);
        printf("speed           %.1f MB/s, one thread\n", (double)m->bytes / m->seconds / 1e6);
    }
    free(steps);
    return YX_OK;
}

static void print_row(const yx_tokenizer *t, const measure *m, bool first) {
    if (first)
        printf("%-20s %10s %10s %11s %12s %12s %9s  %s\n", "name", "vocabulary", "merges", "superwords", "chars/token",
               "bytes/token", "MB/s", "sha256");
    printf("%-20s %10u %10zu %9.1f %%", tokenizer_name(t), tokenizer_vocab_size(t), tokenizer_merge_count(t),
           100 * tokenizer_superword_share(t));
    if (m->tokens > 0)
        printf(" %12.3f %12.3f %9.1f", (double)m->characters / (double)m->tokens, (double)m->bytes / (double)m->tokens,
               (double)m->bytes / m->seconds / 1e6);
    else printf(" %12s %12s %9s", "-", "-", "-");
    printf("  %.16s\n", tokenizer_sha256(t));
}

static yx_status run(const char **tokenizers, int n, const char *text) {
    yx_status status = YX_OK;
    yx_tokenizer *t = NULL;
    for (int i = 0; i < n; i++) {
        measure m = {0};
        YX_CHECK(tokenizer_load(tokenizers[i], &t));
        if (text) YX_CHECK(measure_text(t, text, &m));
        if (n == 1) YX_CHECK(print_one(t, &m));
        else print_row(t, &m, i == 0);
        tokenizer_free(t);
        t = NULL;
    }
fail:
    tokenizer_free(t);
    return status;
}

int tokenizer_command_info(int argc, char **argv) {
    const char **tokenizers = calloc((size_t)argc + 1, sizeof *tokenizers), *text = NULL;
    int n = 0, code, result = -1;
    if (!tokenizers) return cli_fail(yx_fail(YX_ERR_NO_MEMORY, "no memory"));
    opterr = 0;
    optind = 0;
    while (result < 0 && (code = getopt_long(argc, argv, "-:h", known, NULL)) != -1) {
        if (code == 'h') result = fputs(help, stdout) < 0;
        else if (code == ':') result = cli_usage_error("tokenizer info", "%s needs a value", argv[optind - 1]);
        else if (code == '?') result = cli_usage_error("tokenizer info", "unknown option %s", argv[optind - 1]);
        else if (code == OPT_TEXT) text = optarg;
        else tokenizers[n++] = optarg;
    }
    for (; result < 0 && optind < argc; optind++) tokenizers[n++] = argv[optind]; // behind "--"
    if (result < 0 && n == 0) result = cli_usage_error("tokenizer info", "--tokenizer is missing");
    if (result < 0) result = cli_fail(run(tokenizers, n, text));
    free(tokenizers);
    return result;
}

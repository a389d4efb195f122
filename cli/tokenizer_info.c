// yxanul tokenizer info.
#include "cli/cli.h"
#include "cli/tokenizer_commands.h"
#include "cli/tokenizer_measure.h"
#include "io/tokenizer.h"
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: yxanul tokenizer info --tokenizer T [--tokenizer T2 …] [--text FILE] [--top N] [--json]\n"
    "\n"
    "Says what a tokenizer is. Several are compared in a table.\n"
    "\n"
    "  --tokenizer T  tokenizer.json, or the folder of a tokenizer; may be repeated\n"
    "  --text FILE    also encode this text (.jsonl, .gz, .zst, .txt, a folder): characters and "
    "bytes per\n"
    "                 token, how many tokens are superwords (white space inside), which most "
    "often, speed\n"
    "  --top N        how many superwords are shown (default 10)\n"
    "  --json         for programs: a list with an object for each tokenizer\n"
    "  --help         show this help\n";

enum { OPT_TOKENIZER = 1000, OPT_TEXT, OPT_TOP, OPT_JSON, DEFAULT_TOP = 10, MAX_TOP = 10000 };
static const struct option known[] = {{"tokenizer", required_argument, NULL, OPT_TOKENIZER},
                                      {"text", required_argument, NULL, OPT_TEXT},
                                      {"top", required_argument, NULL, OPT_TOP},
                                      {"json", no_argument, NULL, OPT_JSON},
                                      {"help", no_argument, NULL, 'h'},
                                      {0}};

typedef struct info_command {
    const char **tokenizers, *text;
    int n;
    int64_t n_top;
    json_t *list; // --json
    uint32_t *top;
} info_command;

static double per_token(int64_t count, const token_measure *m) { return (double)count / (double)m->tokens; }

// A token as a JSON string writes it, so that line ends do not break lines.
static yx_status quote(const yx_tokenizer *t, uint32_t id, json_t **out) {
    char *text = NULL;
    size_t size;
    yx_status status = tokenizer_decode(t, &id, 1, false, &text, &size);
    if (status != YX_OK) return status;
    *out = json_stringn(text, size);
    if (!*out) *out = json_string("\uFFFD"); // part of a character
    free(text);
    return *out ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for a token");
}

static yx_status print_top(const info_command *c, const yx_tokenizer *t, const token_measure *m) {
    size_t n = token_measure_top(t, m, (size_t)c->n_top, c->top);
    for (size_t i = 0; i < n; i++) {
        json_t *text = NULL;
        yx_status status = quote(t, c->top[i], &text);
        char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
        if (quoted) printf("%-16s%9lld  %s\n", i ? "" : "most frequent", (long long)m->counts[c->top[i]], quoted);
        free(quoted);
        json_decref(text);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

static void print_added(const yx_tokenizer *t) {
    const char *content;
    uint32_t id = 0;
    bool special = false;
    for (size_t i = 0; (content = tokenizer_added(t, i, &id, &special)); i++)
        printf("%-16s%u %s%s\n", i ? "" : "added tokens", id, content, special ? " (special)" : "");
}

static yx_status print_one(const info_command *c, const yx_tokenizer *t, const token_measure *m) {
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
        printf("per token       %.3f characters, %.3f bytes\n", per_token(m->characters, m), per_token(m->bytes, m));
        printf("kinds           %lld subwords (%.1f %%), %lld superwords (%.1f %%)\n",
               (long long)(m->tokens - m->superwords), 100 * per_token(m->tokens - m->superwords, m),
               (long long)m->superwords, 100 * per_token(m->superwords, m));
        status = print_top(c, t, m);
        printf("speed           %.1f MB/s, one thread\n", (double)m->bytes / m->seconds / 1e6);
    }
    free(steps);
    return status;
}

static void print_row(const yx_tokenizer *t, const token_measure *m, bool first) {
    if (first)
        printf("%-20s %10s %10s %11s %12s %12s %13s %9s  %s\n", "name", "vocabulary", "merges", "superwords",
               "chars/token", "bytes/token", "of the text's", "MB/s", "sha256");
    printf("%-20s %10u %10zu %9.1f %%", tokenizer_name(t), tokenizer_vocab_size(t), tokenizer_merge_count(t),
           100 * tokenizer_superword_share(t));
    if (m->tokens > 0)
        printf(" %12.3f %12.3f %11.1f %% %9.1f", per_token(m->characters, m), per_token(m->bytes, m),
               100 * per_token(m->superwords, m), (double)m->bytes / m->seconds / 1e6);
    else printf(" %12s %12s %13s %9s", "-", "-", "-", "-");
    printf("  %.16s\n", tokenizer_sha256(t));
}

static yx_status add_top(const info_command *c, const yx_tokenizer *t, const token_measure *m, json_t *object) {
    json_t *list = json_array();
    size_t n = token_measure_top(t, m, (size_t)c->n_top, c->top);
    json_object_set_new(object, "most_frequent_superwords", list);
    for (size_t i = 0; i < n; i++) {
        json_t *text = NULL;
        yx_status status = quote(t, c->top[i], &text);
        if (status != YX_OK) return status;
        json_array_append_new(list, json_pack("{s:I, s:o, s:I}", "id", (json_int_t)c->top[i], "token", text, "count",
                                              (json_int_t)m->counts[c->top[i]]));
    }
    return YX_OK;
}

static yx_status add_object(const info_command *c, const yx_tokenizer *t, const token_measure *m) {
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:f}", "name", tokenizer_name(t), "path", tokenizer_path(t), "sha256",
                  tokenizer_sha256(t), "vocabulary", (json_int_t)tokenizer_vocab_size(t), "merges",
                  (json_int_t)tokenizer_merge_count(t), "superword_share", tokenizer_superword_share(t));
    if (!object || json_array_append_new(c->list, object) != 0) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    if (m->tokens == 0) return YX_OK;
    json_t *text =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "documents", (json_int_t)m->documents, "characters",
                  (json_int_t)m->characters, "bytes", (json_int_t)m->bytes, "tokens", (json_int_t)m->tokens,
                  "superwords", (json_int_t)m->superwords, "characters_per_token", per_token(m->characters, m),
                  "bytes_per_token", per_token(m->bytes, m), "seconds", m->seconds);
    if (!text || json_object_update(object, text) != 0) return yx_fail(YX_ERR_NO_MEMORY, "no memory");
    json_decref(text);
    return add_top(c, t, m, object);
}

static yx_status show(const info_command *c, int i) {
    yx_status status = YX_OK;
    yx_tokenizer *t = NULL;
    token_measure m = {0};
    YX_CHECK(tokenizer_load(c->tokenizers[i], &t));
    if (c->text) YX_CHECK(token_measure_text(t, c->text, &m));
    if (c->list) YX_CHECK(add_object(c, t, &m));
    else if (c->n == 1) YX_CHECK(print_one(c, t, &m));
    else print_row(t, &m, i == 0);
fail:
    token_measure_free(&m);
    tokenizer_free(t);
    return status;
}

static yx_status run(info_command *c) {
    yx_status status = YX_OK;
    c->top = calloc((size_t)c->n_top + 1, sizeof *c->top);
    if (!c->top) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    for (int i = 0; i < c->n; i++) YX_CHECK(show(c, i));
    if (c->list && (json_dumpf(c->list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0 || puts("") < 0))
        status = yx_fail_errno("cannot write to standard output");
fail:
    free(c->top);
    json_decref(c->list);
    return status;
}

// -1: go on.
static int set_option(info_command *c, int code, char **argv) {
    switch (code) {
    case 'h':
        return fputs(help, stdout) < 0;
    case ':':
        return cli_usage_error("tokenizer info", "%s needs a value", argv[optind - 1]);
    case '?':
        return cli_usage_error("tokenizer info", "unknown option %s", argv[optind - 1]);
    case OPT_TEXT:
        c->text = optarg;
        return -1;
    case OPT_TOP:
        if (cli_parse_int("top", optarg, 0, MAX_TOP, &c->n_top) == YX_OK) return -1;
        return cli_usage_error("tokenizer info", "%s", yx_message());
    case OPT_JSON:
        if (!c->list) c->list = json_array();
        return -1;
    default:
        c->tokenizers[c->n++] = optarg;
        return -1;
    }
}

int tokenizer_command_info(int argc, char **argv) {
    info_command c = {.tokenizers = calloc((size_t)argc + 1, sizeof *c.tokenizers), .n_top = DEFAULT_TOP};
    int code, result = -1;
    if (!c.tokenizers) return cli_fail(yx_fail(YX_ERR_NO_MEMORY, "no memory"));
    opterr = 0;
    optind = 0;
    while (result < 0 && (code = getopt_long(argc, argv, "-:h", known, NULL)) != -1)
        result = set_option(&c, code, argv);
    for (; result < 0 && optind < argc; optind++) c.tokenizers[c.n++] = argv[optind]; // behind "--"
    if (result < 0 && c.n == 0) result = cli_usage_error("tokenizer info", "--tokenizer is missing");
    if (result < 0) result = cli_fail(run(&c));
    else json_decref(c.list);
    free(c.tokenizers);
    return result;
}

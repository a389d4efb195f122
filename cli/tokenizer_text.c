// yxanul tokenizer encode, and decode.
#include "cli/cli.h"
#include "cli/tokenizer_commands.h"
#include "io/corpus.h"
#include "io/tokenizer.h"
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char encode_help[] =
    "usage: yxanul tokenizer encode --tokenizer T [options] [TEXT …]\n"
    "\n"
    "Prints the token ids of each text on a line of its own. Without TEXT the text is standard input.\n"
    "\n"
    "  --tokenizer T   tokenizer.json, or the folder of a tokenizer\n"
    "  --file FILE     the text is the content of FILE\n"
    "  --jsonl FILE    the texts are the \"text\" of FILE's JSON lines (also .gz, .zst; \"-\": standard input)\n"
    "  --null          texts from --file or standard input end with a zero byte\n"
    "  --no-special    the text of special tokens (\"<|endoftext|>\") is ordinary text\n"
    "  --json          print {\"tokens\": N, \"ids\": […]} for each text\n"
    "  --help          show this help\n";

static const char decode_help[] =
    "usage: yxanul tokenizer decode --tokenizer T [options] [ID …]\n"
    "\n"
    "Prints the text of token ids, exactly. Without ID they are read from standard input.\n"
    "\n"
    "  --tokenizer T   tokenizer.json, or the folder of a tokenizer\n"
    "  --lines         every line of standard input is a text of its own, and so is every line printed\n"
    "  --null          the same, but a zero byte ends every text printed\n"
    "  --skip-special  special tokens give nothing\n"
    "  --help          show this help\n";

typedef struct text_options {
    const char *tokenizer, *file, *jsonl;
    bool null, json, lines, skip_special, no_special;
} text_options;

enum { OPT_TOKENIZER = 1000, OPT_FILE, OPT_JSONL, OPT_NULL, OPT_NO_SPECIAL, OPT_JSON, OPT_LINES, OPT_SKIP_SPECIAL };

static const struct option encode_options[] = {{"tokenizer", required_argument, NULL, OPT_TOKENIZER},
                                               {"file", required_argument, NULL, OPT_FILE},
                                               {"jsonl", required_argument, NULL, OPT_JSONL},
                                               {"null", no_argument, NULL, OPT_NULL},
                                               {"no-special", no_argument, NULL, OPT_NO_SPECIAL},
                                               {"json", no_argument, NULL, OPT_JSON},
                                               {"help", no_argument, NULL, 'h'},
                                               {0}};
static const struct option decode_options[] = {{"tokenizer", required_argument, NULL, OPT_TOKENIZER},
                                               {"lines", no_argument, NULL, OPT_LINES},
                                               {"null", no_argument, NULL, OPT_NULL},
                                               {"skip-special", no_argument, NULL, OPT_SKIP_SPECIAL},
                                               {"help", no_argument, NULL, 'h'},
                                               {0}};

static void set_option(text_options *o, int code) {
    switch (code) {
    case OPT_TOKENIZER:
        o->tokenizer = optarg;
        break;
    case OPT_FILE:
        o->file = optarg;
        break;
    case OPT_JSONL:
        o->jsonl = optarg;
        break;
    case OPT_NULL:
        o->null = true;
        break;
    case OPT_NO_SPECIAL:
        o->no_special = true;
        break;
    case OPT_JSON:
        o->json = true;
        break;
    case OPT_LINES:
        o->lines = true;
        break;
    case OPT_SKIP_SPECIAL:
        o->skip_special = true;
        break;
    }
}

// -1: go on; otherwise the exit code.
static int parse_options(int argc, char **argv, const struct option *known, const char *help, text_options *o) {
    char command[32];
    int code;
    snprintf(command, sizeof command, "tokenizer %s", argv[0]);
    opterr = 0;
    optind = 0;
    while ((code = getopt_long(argc, argv, ":h", known, NULL)) != -1) {
        if (code == 'h') return fputs(help, stdout) < 0;
        if (code == ':') return cli_usage_error(command, "%s needs a value", argv[optind - 1]);
        if (code == '?') return cli_usage_error(command, "unknown option %s", argv[optind - 1]);
        set_option(o, code);
    }
    return o->tokenizer ? -1 : cli_usage_error(command, "--tokenizer is missing");
}

// A failed write shows at the end: standard output is buffered.
static yx_status flush_output(void) {
    return fflush(stdout) == 0 && !ferror(stdout) ? YX_OK : yx_fail_errno("cannot write to standard output");
}

// --- encode ----------------------------------------------------------------------------------------------------------

typedef struct encoder {
    const text_options *options;
    yx_tokenizer *tokenizer;
    tokenizer_scratch *scratch;
} encoder;

static yx_status print_ids(const encoder *e, const char *text, size_t size) {
    const uint32_t *ids;
    size_t count;
    tokenizer_flags flags = e->options->no_special ? TOKENIZER_NO_SPECIAL : TOKENIZER_DEFAULT;
    yx_status status = tokenizer_encode(e->tokenizer, e->scratch, text, size, flags, &ids, &count);
    if (status != YX_OK) return status;
    const char *separator = e->options->json ? ", " : " ";
    if (e->options->json) printf("{\"tokens\": %zu, \"ids\": [", count);
    for (size_t i = 0; i < count; i++) printf("%s%" PRIu32, i ? separator : "", ids[i]);
    puts(e->options->json ? "]}" : "");
    return YX_OK;
}

static yx_status encode_jsonl(const encoder *e) {
    yx_status status = YX_OK;
    corpus *c = NULL;
    corpus_document d;
    YX_CHECK(corpus_open(&e->options->jsonl, 1, NULL, &c));
    for (;;) {
        YX_CHECK(corpus_next(c, &d));
        if (!d.text) break;
        YX_CHECK(print_ids(e, d.text, d.size));
    }
fail:
    corpus_close(c);
    return status;
}

static yx_status encode_input(const encoder *e) {
    yx_status status = YX_OK;
    char *data = NULL;
    size_t size;
    YX_CHECK(read_input(e->options->file, &data, &size));
    if (!e->options->null) YX_CHECK(print_ids(e, data, size));
    for (size_t i = 0; e->options->null && i < size;) {
        size_t length = strlen(data + i);
        YX_CHECK(print_ids(e, data + i, length));
        i += length + 1;
    }
fail:
    free(data);
    return status;
}

int tokenizer_command_encode(int argc, char **argv) {
    text_options o = {0};
    encoder e = {.options = &o};
    yx_status status = YX_OK;
    int code = parse_options(argc, argv, encode_options, encode_help, &o);
    if (code >= 0) return code;
    if ((o.file != NULL) + (o.jsonl != NULL) + (optind < argc) > 1)
        return cli_usage_error("tokenizer encode", "give one of TEXT, --file and --jsonl");
    YX_CHECK(tokenizer_load(o.tokenizer, &e.tokenizer));
    YX_CHECK(tokenizer_scratch_new(e.tokenizer, &e.scratch));
    if (o.jsonl) YX_CHECK(encode_jsonl(&e));
    else if (optind == argc) YX_CHECK(encode_input(&e));
    for (; optind < argc; optind++) YX_CHECK(print_ids(&e, argv[optind], strlen(argv[optind])));
    YX_CHECK(flush_output());
fail:
    tokenizer_scratch_free(e.scratch);
    tokenizer_free(e.tokenizer);
    return cli_fail(status);
}

// --- decode ----------------------------------------------------------------------------------------------------------

typedef struct id_list {
    uint32_t *ids;
    size_t count, capacity;
} id_list;

static yx_status add_id(id_list *list, const char *text, char **end) {
    errno = 0;
    unsigned long long id = strtoull(text, end, 10);
    if (*end == text || *text == '-' || errno || id > UINT32_MAX)
        return yx_fail(YX_ERR_DATA, "'%.20s' is not a token id", text);
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        uint32_t *grown = realloc(list->ids, capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu tokens", capacity);
        list->ids = grown;
        list->capacity = capacity;
    }
    list->ids[list->count++] = (uint32_t)id;
    return YX_OK;
}

// Numbers with white space between.
static yx_status add_ids(id_list *list, const char *text) {
    for (;;) {
        text += strspn(text, " \t\n\r");
        if (!*text) return YX_OK;
        char *end;
        yx_status status = add_id(list, text, &end);
        if (status == YX_OK && *end && !strchr(" \t\n\r", *end))
            status = yx_fail(YX_ERR_DATA, "'%.20s' is not a token id", text);
        if (status != YX_OK) return status;
        text = end;
    }
}

static yx_status print_text(const text_options *o, const yx_tokenizer *t, const id_list *list) {
    char *text;
    size_t size;
    yx_status status = tokenizer_decode(t, list->ids, list->count, o->skip_special, &text, &size);
    if (status != YX_OK) return status;
    fwrite(text, 1, size, stdout);
    free(text);
    if (o->null) putchar(0);
    else if (o->lines || isatty(STDOUT_FILENO)) putchar('\n');
    return YX_OK;
}

// Every line of standard input by itself, or all of it.
static yx_status decode_input(const text_options *o, const yx_tokenizer *t, id_list *list) {
    yx_status status = YX_OK;
    char *data = NULL;
    size_t size;
    YX_CHECK(read_input(NULL, &data, &size));
    char *end = data + size;
    bool by_line = o->lines || o->null;
    for (char *line = data, *next; line < end; line = next) {
        char *newline = by_line ? memchr(line, '\n', (size_t)(end - line)) : NULL;
        if (newline) *newline = 0;
        next = newline ? newline + 1 : end;
        list->count = 0;
        YX_CHECK(add_ids(list, line));
        YX_CHECK(print_text(o, t, list));
    }
fail:
    free(data);
    return status;
}

int tokenizer_command_decode(int argc, char **argv) {
    text_options o = {0};
    yx_tokenizer *t = NULL;
    id_list list = {0};
    yx_status status = YX_OK;
    int code = parse_options(argc, argv, decode_options, decode_help, &o);
    if (code >= 0) return code;
    YX_CHECK(tokenizer_load(o.tokenizer, &t));
    if (optind == argc) {
        YX_CHECK(decode_input(&o, t, &list));
    } else {
        for (; optind < argc; optind++) YX_CHECK(add_ids(&list, argv[optind]));
        YX_CHECK(print_text(&o, t, &list));
    }
    YX_CHECK(flush_output());
fail:
    free(list.ids);
    tokenizer_free(t);
    return cli_fail(status);
}

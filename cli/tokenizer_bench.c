// yxanul tokenizer bench: how fast texts are encoded, on one thread and on several. Beside the gain of several threads
// stands what arithmetic alone gains from them in the same rounds: shared processors give less than they promise.
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/tokenizer_commands.h"
#include "io/corpus.h"
#include "io/tokenizer.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_THREADS = 256, MAX_ROUNDS = 1000, ARITHMETIC_STEPS = 20000000 };

static const char help[] =
    "usage: yxanul tokenizer bench --tokenizer T --input FILE [options]\n"
    "\n"
    "Speed of encoding, without reading the input: the median of several rounds.\n"
    "\n"
    "  --tokenizer T  tokenizer.json, or the folder of a tokenizer\n"
    "  --input FILE   the texts (.jsonl, .gz, .zst, .txt, a folder)\n"
    "  --threads N    also on N threads, beside what arithmetic alone gains from them (default 1)\n"
    "  --rounds N     rounds, of which each encodes everything once on one thread and once on N (default 5)\n"
    "  --max-bytes N  only as many documents as make N bytes (default 64M)\n"
    "  --json         one JSON object on standard output\n"
    "  --help         show this help\n";

typedef struct options {
    const char *tokenizer, *input;
    int64_t threads, rounds, max_bytes;
    bool json, help;
} options;

typedef struct documents {
    char *text;
    size_t *offset; // [count + 1] into text
    size_t count, text_capacity, offset_capacity;
} documents;

// What the threads of one measurement share.
typedef struct team {
    const yx_tokenizer *tokenizer; // NULL: arithmetic
    const documents *documents;
    atomic_size_t next, tokens;
    atomic_int failed;
} team;

// Medians over the rounds.
typedef struct result {
    double seconds, seconds_many; // to encode everything: on one thread, on all
    double gain, arithmetic_gain; // speed on all threads over one
    size_t tokens;
} result;

// --- Documents -------------------------------------------------------------------------------------------------------

static yx_status add_document(documents *d, const corpus_document *document) {
    size_t begin = d->count ? d->offset[d->count] : 0, end = begin + document->size;
    if (d->count + 2 > d->offset_capacity) {
        d->offset_capacity = d->offset_capacity ? d->offset_capacity * 2 : 1024;
        size_t *grown = realloc(d->offset, d->offset_capacity * sizeof *grown);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu documents", d->offset_capacity);
        d->offset = grown;
        d->offset[0] = 0;
    }
    if (end > d->text_capacity) {
        d->text_capacity = end * 2;
        char *grown = realloc(d->text, d->text_capacity);
        if (!grown) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of text", d->text_capacity);
        d->text = grown;
    }
    memcpy(d->text + begin, document->text, document->size);
    d->offset[++d->count] = end;
    return YX_OK;
}

static yx_status read_documents(const char *path, size_t max_bytes, documents *d) {
    yx_status status = YX_OK;
    corpus *c = NULL;
    corpus_document document;
    YX_CHECK(corpus_open(&path, 1, NULL, &c));
    while (d->count == 0 || d->offset[d->count] < max_bytes) {
        YX_CHECK(corpus_next(c, &document));
        if (!document.text) break;
        YX_CHECK(add_document(d, &document));
    }
    if (d->count == 0 || d->offset[d->count] == 0) YX_FAIL(YX_ERR_DATA, "%s has no text", path);
fail:
    corpus_close(c);
    return status;
}

// --- Threads ---------------------------------------------------------------------------------------------------------

static yx_status encode_documents(team *t) {
    yx_status status = YX_OK;
    const documents *d = t->documents;
    tokenizer_scratch *scratch = NULL;
    const uint32_t *ids;
    size_t count, total = 0;
    YX_CHECK(tokenizer_scratch_new(t->tokenizer, &scratch));
    for (size_t i; (i = atomic_fetch_add(&t->next, 1)) < d->count; total += count)
        YX_CHECK(tokenizer_encode(t->tokenizer, scratch, d->text + d->offset[i], d->offset[i + 1] - d->offset[i],
                                  TOKENIZER_DEFAULT, &ids, &count));
    atomic_fetch_add(&t->tokens, total);
fail:
    tokenizer_scratch_free(scratch);
    return status;
}

// Dependent multiplications and shifts, nothing in memory.
static void do_arithmetic(void) {
    uint64_t x = (uint64_t)time(NULL);
    for (int i = 0; i < ARITHMETIC_STEPS; i++) x = x * 0x9e3779b97f4a7c15u ^ x >> 31;
    static _Atomic uint64_t sink;
    atomic_store(&sink, x); // so that it is not optimised away
}

static void *work(void *arg) {
    team *t = arg;
    if (!t->tokenizer) do_arithmetic();
    else if (encode_documents(t) != YX_OK) atomic_store(&t->failed, 1);
    return NULL;
}

// The caller is one of the threads.
static yx_status run_threads(team *t, int threads, double *seconds) {
    struct timespec start, end;
    pthread_t others[MAX_THREADS];
    int started = 1, error = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (; started < threads && error == 0; started += error == 0)
        error = pthread_create(&others[started], NULL, work, t);
    work(t);
    for (int i = 1; i < started; i++) pthread_join(others[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    *seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
    errno = error;
    if (error != 0) return yx_fail_errno("cannot start %d threads", threads);
    return atomic_load(&t->failed) ? yx_fail(YX_ERR_NO_MEMORY, "a text could not be encoded") : YX_OK;
}

static yx_status time_encoding(const yx_tokenizer *tokenizer, const documents *d, int threads, double *seconds,
                               size_t *tokens) {
    team t = {.tokenizer = tokenizer, .documents = d};
    yx_status status = run_threads(&t, threads, seconds);
    *tokens = atomic_load(&t.tokens);
    return status;
}

// --- Rounds ----------------------------------------------------------------------------------------------------------

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count / 2];
}

static yx_status measure(const yx_tokenizer *tokenizer, const documents *d, int threads, int rounds, result *r) {
    static double one[MAX_ROUNDS], many[MAX_ROUNDS], gain[MAX_ROUNDS], arithmetic_gain[MAX_ROUNDS];
    yx_status status = YX_OK;
    for (int i = 0; i < rounds; i++) {
        double alone, together;
        team arithmetic = {0};
        YX_CHECK(time_encoding(tokenizer, d, 1, &one[i], &r->tokens));
        if (threads == 1) continue;
        YX_CHECK(time_encoding(tokenizer, d, threads, &many[i], &r->tokens));
        YX_CHECK(run_threads(&arithmetic, 1, &alone));
        YX_CHECK(run_threads(&arithmetic, threads, &together));
        gain[i] = one[i] / many[i];
        arithmetic_gain[i] = threads * alone / together;
    }
    r->seconds = median(one, rounds);
    if (threads == 1) return YX_OK;
    r->seconds_many = median(many, rounds);
    r->gain = median(gain, rounds);
    r->arithmetic_gain = median(arithmetic_gain, rounds);
fail:
    return status;
}

// --- Command ---------------------------------------------------------------------------------------------------------

static void print_text(const yx_tokenizer *t, const documents *d, const options *o, const result *r) {
    double bytes = (double)d->offset[d->count], tokens = (double)r->tokens;
    printf("tokenizer   %s\n", tokenizer_name(t));
    printf("text        %zu documents, %.0f bytes, %.0f tokens\n", d->count, bytes, tokens);
    printf("1 thread    %.1f MB/s, %.2f M tokens/s\n", bytes / r->seconds / 1e6, tokens / r->seconds / 1e6);
    if (o->threads == 1) return;
    printf("%" PRId64 " threads   %.1f MB/s, %.2f M tokens/s: %.2f times one thread (arithmetic alone: %.2f times)\n",
           o->threads, bytes / r->seconds_many / 1e6, tokens / r->seconds_many / 1e6, r->gain, r->arithmetic_gain);
}

static void print_json(const documents *d, const options *o, const result *r) {
    size_t bytes = d->offset[d->count];
    printf("{\"documents\": %zu, \"bytes\": %zu, \"tokens\": %zu, \"seconds\": %.6f", d->count, bytes, r->tokens,
           r->seconds);
    if (o->threads > 1)
        printf(", \"threads\": %" PRId64 ", \"threads_seconds\": %.6f, \"gain\": %.4f, \"arithmetic_gain\": %.4f",
               o->threads, r->seconds_many, r->gain, r->arithmetic_gain);
    printf("}\n");
}

static yx_status run(const options *o) {
    yx_status status = YX_OK;
    yx_tokenizer *t = NULL;
    documents d = {0};
    result r = {0};
    YX_CHECK(tokenizer_load(o->tokenizer, &t));
    YX_CHECK(read_documents(o->input, (size_t)o->max_bytes, &d));
    YX_CHECK(measure(t, &d, (int)o->threads, (int)o->rounds, &r));
    if (o->json) print_json(&d, o, &r);
    else print_text(t, &d, o, &r);
fail:
    free(d.text);
    free(d.offset);
    tokenizer_free(t);
    return status;
}

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {{"tokenizer", CLI_TEXT, &o->tokenizer},
                                {"input", CLI_TEXT, &o->input},
                                {"threads", CLI_INT, &o->threads, 1, MAX_THREADS},
                                {"rounds", CLI_INT, &o->rounds, 1, MAX_ROUNDS},
                                {"max-bytes", CLI_INT, &o->max_bytes, 1, INT64_MAX},
                                {"json", CLI_FLAG, &o->json},
                                {"help", CLI_FLAG, &o->help},
                                {0}};
    yx_status status = cli_parse_options(argc, argv, table);
    if (status != YX_OK || o->help) return status;
    status = cli_parse_rest(argc, argv, NULL);
    if (status != YX_OK || (o->tokenizer && o->input)) return status;
    return yx_fail(YX_ERR_USAGE, "--%s is missing", o->tokenizer ? "input" : "tokenizer");
}

int tokenizer_command_bench(int argc, char **argv) {
    options o = {.threads = 1, .rounds = 5, .max_bytes = 64000000};
    if (parse(argc, argv, &o) != YX_OK) return cli_usage_error("tokenizer bench", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    return cli_fail(run(&o));
}

// From text to a data set, with a tokenizer whose ids are the bytes of the text: filters, split, determinism, failures.
#include "common/file.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/rng.h"
#include "io/prepare.h"
#include "io/shard.h"
#include "io/shard_file.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

enum { EOT = 256 };

static char folder[64];

static const char *in_folder(const char *name) {
    static char path[8][256];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void put(const char *name, const char *text) {
    assert_int_equal(yx_write_file_atomic(in_folder(name), text, strlen(text)), YX_OK);
}

// The character that stands for a byte in byte-level vocabularies (GPT-2's bytes_to_unicode).
static int byte_character(int byte) {
    int others = 0;
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (printable) return byte;
    for (int b = 0; b < byte; b++) others += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    return 256 + others;
}

// 256 bytes, with `pairs` one merge ("a" and "a"), and an added token: the end of text.
static void put_tokenizer(const char *name, bool pairs) {
    json_t *vocab = json_object();
    for (int b = 0; b < 256; b++) {
        int c = byte_character(b);
        char key[3] = {(char)c, 0, 0};
        if (c >= 128) {
            key[0] = (char)(0xc0 | c >> 6);
            key[1] = (char)(0x80 | (c & 63));
        }
        json_object_set_new(vocab, key, json_integer(b));
    }
    json_t *merges = json_array();
    if (pairs) {
        json_object_set_new(vocab, "aa", json_integer(256));
        json_array_append_new(merges, json_string("a a"));
    }
    json_t *root = json_pack(
        "{s:s, s:n, s:n, s:[{s:i,s:s,s:b,s:b,s:b,s:b,s:b}], s:n, s:{s:s,s:b,s:b,s:b}, s:n, s:{s:s,s:b,s:b,s:b},"
        " s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:o,s:o}}",
        "version", "1.0", "truncation", "padding", "added_tokens", "id", EOT + pairs, "content", "<|endoftext|>",
        "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1, "normalizer", "pre_tokenizer",
        "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0, "post_processor", "decoder",
        "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE",
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
        "ignore_merges", 0, "vocab", vocab, "merges", merges);
    assert_non_null(root);
    assert_int_equal(yx_make_dirs(in_folder(name)), YX_OK);
    char path[300];
    snprintf(path, sizeof path, "%s/tokenizer.json", in_folder(name));
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

static int setup(void **state) {
    (void)state;
    strcpy(folder, "/tmp/yx-prepare-XXXXXX");
    yx_log_setup(YX_LOG_ERROR, -1);
    if (!mkdtemp(folder)) return 1;
    put_tokenizer("bytes", false);
    put_tokenizer("pairs", true);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    return yx_remove_tree(folder) == YX_OK ? 0 : 1;
}

static yx_status run(const char *input, const char *output, prepare_options options, prepare_counts *counts) {
    const char *path = in_folder(input);
    char *out = strdup(in_folder(output)), *tokenizer = strdup(in_folder("bytes"));
    options.inputs = &path;
    options.n_inputs = 1;
    options.output = out;
    options.tokenizer = tokenizer;
    if (options.threads == 0) options.threads = 2;
    if (options.shard_tokens == 0) options.shard_tokens = 1 << 20;
    yx_status status = prepare_run(&options, counts);
    free(out);
    free(tokenizer);
    return status;
}

static prepare_options no_filter(void) { return (prepare_options){.min_score = NAN}; }

// The text of all documents of a split, each between bars; to free().
static char *read_split(const char *output, const char *split) {
    dataset *d;
    if (dataset_open(in_folder(output), split, true, &d) != YX_OK) fail_msg("%s", yx_message());
    int64_t n = dataset_get_info(d)->num_tokens;
    uint32_t *tokens = malloc((size_t)n * sizeof *tokens);
    char *text = malloc((size_t)n + 1);
    assert_int_equal(dataset_read(d, 0, n, tokens), YX_OK);
    for (int64_t i = 0; i < n; i++) text[i] = tokens[i] == EOT ? '|' : (char)tokens[i];
    text[n] = 0;
    free(tokens);
    dataset_close(d);
    return text;
}

static void expect_split(const char *output, const char *split, const char *expected) {
    char *text = read_split(output, split);
    assert_string_equal(text, expected);
    free(text);
}

static void encodes_documents_in_order(void **state) {
    (void)state;
    prepare_counts c;
    put("order.jsonl",
        "{\"text\":\"one\"}\n{\"text\":\"Zwei, größer\"}\n{\"text\":\"a <|endoftext|> in it\"}\n{\"text\":7}\n");
    assert_int_equal(run("order.jsonl", "order", no_filter(), &c), YX_OK);
    expect_split("order", "train", "|one|Zwei, größer|a <|endoftext|> in it");
    assert_int_equal(c.kept, 3);
    assert_int_equal(c.chars, 3 + 12 + 21);
    assert_int_equal(c.bytes, 3 + 14 + 21);
    assert_int_equal(c.tokens[PREPARE_TRAIN], 3 + 3 + 14 + 21);
    assert_int_equal(c.corpus.malformed[CORPUS_NO_TEXT], 1);
    assert_true(yx_path_exists(in_folder("order/tokenizer/tokenizer.json")));
    assert_false(yx_path_exists(in_folder("order/validation-00000.h5")));
}

static const char mixed[] =
    "{\"id\":\"1\",\"text\":\"good one\",\"score\":4,\"token_count\":2000,\"language\":\"en\"}\n"
    "{\"id\":\"2\",\"text\":\"   \\n\",\"score\":4,\"token_count\":2000,\"language\":\"en\"}\n"
    "{\"id\":\"3\",\"text\":\"no score\",\"token_count\":2000,\"language\":\"en\"}\n"
    "{\"id\":\"4\",\"text\":\"low score\",\"score\":3.49,\"token_count\":2000,\"language\":\"en\"}\n"
    "{\"id\":\"5\",\"text\":\"no language\",\"score\":4,\"token_count\":2000}\n"
    "{\"id\":\"6\",\"text\":\"german\",\"score\":4,\"token_count\":2000,\"language\":\"de\"}\n"
    "{\"id\":\"7\",\"text\":\"no count\",\"score\":4,\"language\":\"en\"}\n"
    "{\"id\":\"8\",\"text\":\"low count\",\"score\":4,\"token_count\":999,\"language\":\"en\"}\n"
    "{\"id\":\"9\",\"text\":\"ab\",\"score\":4,\"token_count\":2000,\"language\":\"en\"}\n"
    "{\"id\":\"10\",\"text\":\"good one\",\"score\":5,\"token_count\":3000,\"language\":\"en\"}\n"
    "{\"id\":\"11\",\"text\":\"abcd\",\"score\":4,\"token_count\":2000,\"language\":\"en\"}\n"
    "{\"id\":\"12\",\"text\":\"exactly\",\"score\":3.5,\"token_count\":1000,\"language\":\"en\"}\n";

static void applies_every_filter(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = {.min_score = 3.5, .min_token_count = 1000, .min_chars = 3, .min_tokens = 5, .language = "en"};
    put("mixed.jsonl", mixed);
    assert_int_equal(run("mixed.jsonl", "mixed", o, &c), YX_OK);
    expect_split("mixed", "train", "|good one|exactly");
    for (int i = 0; i < PREPARE_DROPS; i++) {
        bool absent = i == DROP_END_OF_TEXT || i == DROP_NEAR_DUPLICATE || i == DROP_MAX_CHARS;
        assert_int_equal(c.dropped[i], absent ? 0 : 1);
    }
    shard_file f;
    assert_int_equal(shard_file_open(in_folder("mixed/train-00000.h5"), &f), YX_OK);
    assert_string_equal(f.filter,
                        "score>=3.5 && language==\"en\" && token_count>=1000 && chars>=3 && tokens>=5 (bytes)");
    shard_file_close(&f);
}

static void each_filter_works_alone(void **state) {
    (void)state;
    static const struct {
        prepare_options options;
        int64_t kept;
    } cases[] = {
        {{.min_score = NAN}, 10}, // without the empty one and the duplicate
        {{.min_score = 3.5}, 8},
        {{.min_score = NAN, .language = "de"}, 1},
        {{.min_score = NAN, .min_token_count = 1000}, 8},
        {{.min_score = NAN, .min_chars = 3}, 9},
        {{.min_score = NAN, .max_chars = 8}, 7},
        {{.min_score = NAN, .min_tokens = 5}, 8},
        {{.min_score = NAN, .max_documents = 4}, 3},
    };
    put("mixed.jsonl", mixed);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prepare_counts c;
        prepare_options o = cases[i].options;
        o.force = true;
        assert_int_equal(run("mixed.jsonl", "alone", o, &c), YX_OK);
        assert_int_equal(c.kept, cases[i].kept);
    }
}

static void tokens_may_be_counted_with_another_tokenizer(void **state) {
    (void)state;
    prepare_counts c;
    char *pairs = strdup(in_folder("pairs"));
    prepare_options o = {.min_score = NAN, .min_tokens = 4};
    put("pairs.jsonl", "{\"text\":\"aaaa\"}\n{\"text\":\"aaaaaaaa\"}\n{\"text\":\"bcde\"}\n");
    assert_int_equal(run("pairs.jsonl", "counted-bytes", o, &c), YX_OK);
    expect_split("counted-bytes", "train", "|aaaa|aaaaaaaa|bcde");
    o.count_tokenizer = pairs;
    assert_int_equal(run("pairs.jsonl", "counted-pairs", o, &c), YX_OK);
    expect_split("counted-pairs", "train", "|aaaaaaaa|bcde");
    assert_int_equal(c.dropped[DROP_TOKENS], 1);
    shard_file f;
    assert_int_equal(shard_file_open(in_folder("counted-pairs/train-00000.h5"), &f), YX_OK);
    assert_string_equal(f.filter, "tokens>=4 (pairs)");
    assert_string_equal(f.tokenizer_name, "bytes");
    shard_file_close(&f);
    free(pairs);
}

static void a_rounded_score_is_used_and_counted(void **state) {
    (void)state;
    prepare_counts c;
    put("rounded.jsonl", "{\"text\":\"exact low\",\"score\":3.4,\"int_score\":4}\n"
                         "{\"text\":\"rounded low\",\"int_score\":3}\n{\"text\":\"rounded high\",\"int_score\":4}\n"
                         "{\"text\":\"exact high\",\"score\":3.5,\"int_score\":3}\n");
    assert_int_equal(run("rounded.jsonl", "rounded", (prepare_options){.min_score = 3.5}, &c), YX_OK);
    expect_split("rounded", "train", "|rounded high|exact high");
    assert_int_equal(c.rounded_scores, 2);
    assert_int_equal(run("rounded.jsonl", "unjudged", no_filter(), &c), YX_OK);
    assert_int_equal(c.rounded_scores, 0);
}

// `n` words, a running number from `first` on.
static void put_words(FILE *file, int first, int n, const char *between) {
    fputs("{\"text\":\"", file);
    for (int i = 0; i < n; i++) fprintf(file, "w%d%s", first + i, between);
    fputs("\"}\n", file);
}

static void drops_near_duplicates_when_asked(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    FILE *file = fopen(in_folder("near.jsonl"), "w");
    put_words(file, 0, 500, " ");
    put_words(file, 0, 499, ", ");                           // other punctuation, a word less
    put_words(file, 250, 500, " ");                          // half of the first: a third of both together
    put_words(file, 1000, 500, " ");                         // nothing of it
    put_words(file, 5, 500, " ");                            // 490 of 510 words of the first
    fputs("{\"text\":\"...\"}\n{\"text\":\"!!!\"}\n", file); // no words: never alike
    fclose(file);
    assert_int_equal(run("near.jsonl", "near-kept", o, &c), YX_OK);
    assert_int_equal(c.kept, 7);
    o.near_duplicates = true;
    assert_int_equal(run("near.jsonl", "near-dropped", o, &c), YX_OK);
    assert_int_equal(c.kept, 5);
    assert_int_equal(c.dropped[DROP_NEAR_DUPLICATE], 2);
    char *text = read_split("near-dropped", "train");
    assert_ptr_equal(strstr(text, "|w0 w1 "), text); // the first stays
    assert_null(strstr(text, "w0, "));
    free(text);
    assert_false(yx_path_exists(in_folder("near-dropped/near-duplicates.bin")));
    assert_false(yx_path_exists(in_folder("near-dropped/prepare.json")));
}

static void nothing_left_says_why(void **state) {
    (void)state;
    prepare_counts c;
    put("mixed.jsonl", mixed);
    assert_int_equal(run("mixed.jsonl", "nothing", (prepare_options){.min_score = 100}, &c), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "12 read, 1 empty, 1 no score, 10 score too low"));
    assert_false(yx_path_exists(in_folder("nothing")));
    assert_int_equal(c.dropped[DROP_SCORE], 10);
}

// `n` documents "document K, …" of different lengths with ids; in reverse order with `reverse`.
static void put_numbered(const char *name, int n, bool reverse) {
    FILE *file = fopen(in_folder(name), "w");
    for (int i = 0; i < n; i++) {
        int k = reverse ? n - 1 - i : i;
        fprintf(file, "{\"id\":\"doc-%d\",\"text\":\"document %d, %*d\"}\n", k, k, 1 + k * 37 % 200, k);
    }
    fclose(file);
}

static bool same_file(const char *a, const char *b) {
    char *x, *y;
    size_t n, m;
    if (!yx_path_exists(a) || !yx_path_exists(b)) return false;
    assert_int_equal(yx_read_file(a, 1 << 28, &x, &n), YX_OK);
    assert_int_equal(yx_read_file(b, 1 << 28, &y, &m), YX_OK);
    bool same = n == m && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

static void threads_do_not_change_a_byte(void **state) {
    (void)state;
    put_numbered("many.jsonl", 3000, false);
    char manifest[2][300];
    for (int threads = 1; threads <= 9; threads += 4) {
        prepare_counts c;
        prepare_options o = no_filter();
        o.validation_fraction = 0.1;
        o.shard_tokens = 50000;
        o.threads = threads;
        o.force = true;
        assert_int_equal(run("many.jsonl", threads == 1 ? "many-1" : "many-n", o, &c), YX_OK);
        assert_true(c.shards[PREPARE_TRAIN] > 3);
        assert_int_equal(c.docs[PREPARE_TRAIN] + c.docs[PREPARE_VALIDATION], 3000);
        if (threads == 1) continue;
        for (int64_t i = 0; i < c.shards[PREPARE_TRAIN]; i++) {
            snprintf(manifest[0], 300, "%s/train-%05d.h5", in_folder("many-1"), (int)i);
            snprintf(manifest[1], 300, "%s/train-%05d.h5", in_folder("many-n"), (int)i);
            assert_true(same_file(manifest[0], manifest[1]));
        }
        assert_true(same_file(in_folder("many-1/manifest.json"), in_folder("many-n/manifest.json")));
    }
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// The documents of a split in sorted order, as one text; to free().
static char *sorted_split(const char *output, const char *split, int *count) {
    char *text = read_split(output, split), *documents[4000], *joined = calloc(strlen(text) + 1, 1);
    *count = 0;
    for (char *part = strtok(text, "|"); part; part = strtok(NULL, "|")) documents[(*count)++] = part;
    qsort(documents, (size_t)*count, sizeof *documents, by_bytes);
    for (int i = 0; i < *count; i++) strcat(joined, documents[i]);
    free(text);
    return joined;
}

static void the_split_does_not_depend_on_the_order(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    int forward_count, backward_count, other_count;
    o.validation_fraction = 0.05;
    put_numbered("forward.jsonl", 2000, false);
    put_numbered("backward.jsonl", 2000, true);
    assert_int_equal(run("forward.jsonl", "forward", o, &c), YX_OK);
    assert_int_equal(run("backward.jsonl", "backward", o, &c), YX_OK);
    o.split_seed = 1;
    assert_int_equal(run("forward.jsonl", "other", o, &c), YX_OK);
    char *forward = sorted_split("forward", "validation", &forward_count);
    char *backward = sorted_split("backward", "validation", &backward_count);
    char *other = sorted_split("other", "validation", &other_count);
    assert_string_equal(forward, backward);
    assert_string_not_equal(forward, other);
    assert_true(forward_count > 60 && forward_count < 140); // 100 ± 4 standard deviations
    assert_true(other_count > 60 && other_count < 140);
    free(forward);
    free(backward);
    free(other);
}

static void validation_gets_at_least_one_document(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    int forward_count, backward_count;
    o.validation_fraction = 1e-9;
    o.force = true;
    put_numbered("forward.jsonl", 50, false);
    put_numbered("backward.jsonl", 50, true);
    assert_int_equal(run("forward.jsonl", "forward", o, &c), YX_OK);
    assert_int_equal(c.docs[PREPARE_VALIDATION], 1);
    assert_int_equal(c.docs[PREPARE_TRAIN], 49);
    assert_int_equal(run("backward.jsonl", "backward", o, &c), YX_OK);
    char *forward = sorted_split("forward", "validation", &forward_count);
    char *backward = sorted_split("backward", "validation", &backward_count);
    assert_string_equal(forward, backward); // the smallest hash, in whatever order they come
    free(forward);
    free(backward);
    put("single.jsonl", "{\"text\":\"alone\"}\n");
    assert_int_equal(run("single.jsonl", "single", o, &c), YX_OK);
    expect_split("single", "train", "|alone");
    o.validation_fraction = 0.999;
    assert_int_equal(run("single.jsonl", "single2", o, &c), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "fell into the validation split"));
}

// Documents with the same id stay on the same side, also when they are moved there at the end.
static void an_id_stays_on_one_side(void **state) {
    (void)state;
    FILE *file = fopen(in_folder("twins.jsonl"), "w");
    for (int i = 0; i < 60; i++) fprintf(file, "{\"id\":\"%d\",\"text\":\"text %d\"}\n", i % 20, i);
    fclose(file);
    static const double fractions[] = {1e-9, 0.3, 0.7};
    for (int i = 0; i < 3; i++) {
        prepare_counts c;
        prepare_options o = no_filter();
        o.validation_fraction = fractions[i];
        o.force = true;
        assert_int_equal(run("twins.jsonl", "twins", o, &c), YX_OK);
        assert_int_equal(c.docs[PREPARE_VALIDATION] % 3, 0);
        assert_true(c.docs[PREPARE_VALIDATION] >= 3);
        char *text = read_split("twins", "validation"); // opening also checks for leaks
        free(text);
    }
}

static void refuses_a_folder_in_use(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    put("small.jsonl", "{\"text\":\"first\"}\n");
    put("new.jsonl", "{\"text\":\"second\"}\n");
    assert_int_equal(run("small.jsonl", "used", o, &c), YX_OK);
    assert_int_equal(run("new.jsonl", "used", o, &c), YX_ERR_USAGE);
    assert_non_null(strstr(yx_message(), "--force"));
    expect_split("used", "train", "|first");
    o.force = true;
    assert_int_equal(run("new.jsonl", "used", o, &c), YX_OK);
    expect_split("used", "train", "|second");
    assert_int_equal(run("new.jsonl", "bytes", o, &c), YX_ERR_USAGE); // not a data set: never replaced
    assert_true(yx_path_exists(in_folder("bytes/tokenizer.json")));
    assert_int_equal(run("new.jsonl", "new.jsonl", o, &c), YX_ERR_USAGE);
    assert_int_equal(yx_make_dirs(in_folder("empty")), YX_OK);
    assert_int_equal(run("new.jsonl", "empty", no_filter(), &c), YX_OK);
}

// The hashes of the training documents in sorted order, as text; to free().
static int by_hash(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static char *sum_of_documents(const char *output, int *count) {
    static uint64_t hashes[20000];
    char *text = read_split(output, "train"), *joined = malloc(17 * 20000), *end = joined;
    *count = 0;
    for (char *part = strtok(text, "|"); part; part = strtok(NULL, "|"))
        hashes[(*count)++] = yx_hash64(part, strlen(part), 0);
    qsort(hashes, (size_t)*count, sizeof *hashes, by_hash);
    for (int i = 0; i < *count; i++) end += sprintf(end, "%016llx", (unsigned long long)hashes[i]);
    *end = 0;
    free(text);
    return joined;
}

static void put_without_end(const char *name, off_t bytes) {
    struct stat info;
    assert_int_equal(stat(in_folder(name), &info), 0);
    assert_int_equal(truncate(in_folder(name), info.st_size - bytes), 0);
}

static int count_temporaries(void) {
    char command[192];
    int n = -1;
    snprintf(command, sizeof command, "find %s -name '*.tmp-*' -o -name '*.old-*' -o -name '*.partial' | wc -l",
             folder);
    FILE *pipe = popen(command, "r");
    assert_int_equal(fscanf(pipe, "%d", &n), 1);
    pclose(pipe);
    return n;
}

static void failures_leave_nothing(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    struct rlimit old, small;
    put_numbered("many.jsonl", 3000, false);
    put("damaged.jsonl", "{\"text\":\"good\"}\n{\"text\":\n");
    o.corpus.strict = true;
    assert_int_equal(run("damaged.jsonl", "failed", o, &c), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "damaged.jsonl:2:"));
    static const volatile sig_atomic_t stop = 1;
    o = no_filter();
    o.stop = &stop;
    assert_int_equal(run("many.jsonl", "failed", o, &c), YX_ERR_INTERRUPTED);
    o.stop = NULL;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){100000, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    yx_status status = run("many.jsonl", "failed", o, &c);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, YX_ERR_IO);
    assert_non_null(strstr(yx_message(), "File too large"));
    assert_int_equal(run("absent.jsonl", "failed", o, &c), YX_ERR_IO);
    assert_false(yx_path_exists(in_folder("failed")));
    assert_int_equal(count_temporaries(), 0);
    assert_int_equal(run("many.jsonl", "many.jsonl/impossible", o, &c), YX_ERR_IO);
}

// Documents of up to `window` tokens that a multiple of `window` divides, of how many in the training split.
static int count_cut(const char *output, int64_t window, int *all) {
    dataset *d;
    if (dataset_open(in_folder(output), "train", false, &d) != YX_OK) fail_msg("%s", yx_message());
    const dataset_info *info = dataset_get_info(d);
    uint64_t *offsets = malloc((size_t)(info->num_docs + 1) * sizeof *offsets);
    uint32_t *bytes = malloc((size_t)info->num_docs * sizeof *bytes);
    int cut = 0;
    *all = 0;
    assert_int_equal(dataset_read_docs(d, 0, info->num_docs, offsets, bytes), YX_OK);
    offsets[info->num_docs] = (uint64_t)info->num_tokens;
    for (int64_t i = 0; i < info->num_docs; i++) {
        bool is_short = offsets[i + 1] - offsets[i] <= (uint64_t)window;
        *all += is_short;
        cut += is_short && offsets[i] / (uint64_t)window != (offsets[i + 1] - 1) / (uint64_t)window;
    }
    free(bytes);
    free(offsets);
    dataset_close(d);
    return cut;
}

// Best fit: the same documents, hardly one of them cut; in shards of the same documents, also behind a failure.
static void packing_cuts_few_documents(void **state) {
    (void)state;
    enum { WINDOW = 256 };
    prepare_counts c;
    prepare_options o = no_filter();
    int all, n, m;
    FILE *file = fopen(in_folder("pack.jsonl"), "w");
    for (int i = 0; i < 12000; i++) // one in ten is longer than a window
        fprintf(file, "{\"text\":\"%d %*d\"}\n", i, (int)(yx_mix64(1, (uint64_t)i) % (i % 10 ? 200 : 900)) + 1, i);
    fclose(file);
    o.validation_fraction = 0.02;
    o.shard_tokens = 500000;
    assert_int_equal(run("pack.jsonl", "loose", o, &c), YX_OK);
    int before = count_cut("loose", WINDOW, &all);
    assert_true(before > all / 4);
    o.pack = WINDOW;
    assert_int_equal(run("pack.jsonl", "packed", o, &c), YX_OK);
    assert_true(c.shards[PREPARE_TRAIN] > 2 && c.kept == 12000);
    int packed = count_cut("packed", WINDOW, &all);
    if (packed > all / 20) fail_msg("%d of %d cut, %d without packing", packed, all, before);
    dataset *d;
    assert_int_equal(dataset_open(in_folder("packed"), "train", true, &d), YX_OK);
    dataset_close(d);
    for (int split = 0; split < 2; split++) {
        char *loose = read_split("loose", split ? "validation" : "train");
        char *tight = read_split("packed", split ? "validation" : "train");
        assert_int_equal(strcmp(loose, tight) == 0, split); // only training is ordered
        assert_int_equal(strlen(loose), strlen(tight));
        free(loose);
        free(tight);
    }
    char *loose = sum_of_documents("loose", &n), *tight = sum_of_documents("packed", &m);
    assert_string_equal(loose, tight);
    assert_int_equal(n, m);
    free(loose);
    free(tight);
    file = fopen(in_folder("pack.jsonl"), "a");
    fputs("{", file);
    fclose(file);
    o.corpus.strict = true;
    assert_int_equal(run("pack.jsonl", "again", o, &c), YX_ERR_DATA);
    put_without_end("pack.jsonl", 1);
    assert_int_equal(run("pack.jsonl", "again", o, &c), YX_OK);
    assert_true(c.resumed_shards > 0);
    for (int i = 0; i < 3; i++) {
        char name[2][300];
        snprintf(name[0], 300, "%s/train-%05d.h5", in_folder("packed"), i);
        snprintf(name[1], 300, "%s/train-%05d.h5", in_folder("again"), i);
        assert_true(same_file(name[0], name[1]));
    }
}

// Nobody may change a shard by mistake.
static void shards_are_read_only(void **state) {
    (void)state;
    prepare_counts c;
    struct stat info;
    put("small.jsonl", "{\"text\":\"first\"}\n");
    assert_int_equal(run("small.jsonl", "sealed", no_filter(), &c), YX_OK);
    assert_int_equal(stat(in_folder("sealed/train-00000.h5"), &info), 0);
    assert_int_equal(info.st_mode & 0222, 0);
}

// A failure behind complete shards leaves them; the next run goes on and makes what an undisturbed one makes.
static void goes_on_behind_complete_shards(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    o.shard_tokens = 20000;
    for (int round = 0; round < 3; round++) {
        o.validation_fraction = round == 0 ? 0.2 : round == 1 ? 1e-12 : 0; // several, one that is held back, none
        o.near_duplicates = round == 2;
        put_numbered("broken.jsonl", 2000, false);
        assert_int_equal(run("broken.jsonl", "undisturbed", o, &c), YX_OK);
        int64_t shards = c.shards[PREPARE_TRAIN];
        assert_true(shards > 4);
        FILE *file = fopen(in_folder("broken.jsonl"), "a");
        fputs("{", file);
        fclose(file);
        o.corpus.strict = true;
        assert_int_equal(run("broken.jsonl", "continued", o, &c), YX_ERR_DATA);
        assert_true(yx_path_exists(in_folder("continued.partial/train-00003.h5")));
        assert_false(yx_path_exists(in_folder("continued")));
        put_numbered("broken.jsonl", 2000, false);
        assert_int_equal(run("broken.jsonl", "continued", o, &c), YX_OK);
        assert_true(c.resumed_shards >= 4 && c.resumed_documents > 500);
        assert_int_equal(c.docs[PREPARE_TRAIN] + c.docs[PREPARE_VALIDATION] + c.dropped[DROP_NEAR_DUPLICATE], 2000);
        for (int64_t i = 0; i < shards; i++) {
            char name[2][300];
            snprintf(name[0], 300, "%s/train-%05d.h5", in_folder("undisturbed"), (int)i);
            snprintf(name[1], 300, "%s/train-%05d.h5", in_folder("continued"), (int)i);
            assert_true(same_file(name[0], name[1]));
        }
        o.corpus.strict = false;
        assert_int_equal(count_temporaries(), 0);
        assert_int_equal(yx_remove_tree(in_folder("undisturbed")), YX_OK);
        assert_int_equal(yx_remove_tree(in_folder("continued")), YX_OK);
    }
}

// Whatever the state file holds: it is used, or refused with advice, and never overwritten.
static void refuses_a_damaged_state(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    char *text;
    size_t size;
    o.shard_tokens = 20000;
    o.corpus.strict = true;
    put_numbered("broken.jsonl", 2000, false);
    FILE *file = fopen(in_folder("broken.jsonl"), "a");
    fputs("{", file);
    fclose(file);
    assert_int_equal(run("broken.jsonl", "state", o, &c), YX_ERR_DATA);
    assert_int_equal(yx_read_file(in_folder("state.partial/prepare.json"), 1 << 20, &text, &size), YX_OK);
    for (size_t cut = 0; cut < size; cut += size / 40 + 1) {
        assert_int_equal(yx_write_file_atomic(in_folder("state.partial/prepare.json"), text, cut), YX_OK);
        assert_int_equal(run("broken.jsonl", "state", o, &c), YX_ERR_DATA);
        assert_non_null(strstr(yx_message(), "--restart"));
        assert_true(yx_path_exists(in_folder("state.partial/train-00000.h5")));
    }
    assert_int_equal(yx_write_file_atomic(in_folder("state.partial/prepare.json"), text, size), YX_OK);
    assert_int_equal(truncate(in_folder("state.partial/train-00001.h5"), 5000), 0);
    assert_int_equal(run("broken.jsonl", "state", o, &c), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "train-00001.h5"));
    assert_non_null(strstr(yx_message(), "--restart"));
    put_numbered("broken.jsonl", 2000, false);
    o.restart = true;
    assert_int_equal(run("broken.jsonl", "state", o, &c), YX_OK);
    assert_int_equal(c.resumed_shards, 0);
    free(text);
}

static int progress_calls;
static void count_call(void *context, const prepare_counts *counts) {
    assert_ptr_equal(context, &progress_calls);
    assert_true(counts->corpus.documents >= counts->kept);
    progress_calls++;
}

static void reports_progress(void **state) {
    (void)state;
    prepare_counts c;
    prepare_options o = no_filter();
    o.progress = count_call;
    o.context = &progress_calls;
    o.threads = 1;
    put_numbered("long.jsonl", 200000, false);
    assert_int_equal(run("long.jsonl", "long", o, &c), YX_OK);
    assert_true(progress_calls > 0 || c.seconds < 0.5);
    assert_int_equal(c.kept, 200000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_documents_in_order),
        cmocka_unit_test(applies_every_filter),
        cmocka_unit_test(each_filter_works_alone),
        cmocka_unit_test(tokens_may_be_counted_with_another_tokenizer),
        cmocka_unit_test(a_rounded_score_is_used_and_counted),
        cmocka_unit_test(drops_near_duplicates_when_asked),
        cmocka_unit_test(nothing_left_says_why),
        cmocka_unit_test(threads_do_not_change_a_byte),
        cmocka_unit_test(the_split_does_not_depend_on_the_order),
        cmocka_unit_test(validation_gets_at_least_one_document),
        cmocka_unit_test(an_id_stays_on_one_side),
        cmocka_unit_test(refuses_a_folder_in_use),
        cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(packing_cuts_few_documents),
        cmocka_unit_test(shards_are_read_only),
        cmocka_unit_test(goes_on_behind_complete_shards),
        cmocka_unit_test(refuses_a_damaged_state),
        cmocka_unit_test(reports_progress),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

// Training against the definition: count all pairs anew for every merge.
#include "common/file.h"
#include "common/log.h"
#include "common/rng.h"
#include "io/bpe_train.h"
#include "io/tokenizer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { MAX_TOKENS = 600, MAX_TOKEN_SIZE = 64, FIRST_BYTE = 1, BYTES = 256 };

// --- Documents -------------------------------------------------------------------------------------------------------

typedef struct list {
    const char *const *texts;
    size_t count, at;
    bool fails;
} list;

static yx_status begin_again(void *context) {
    ((list *)context)->at = 0;
    return YX_OK;
}

static yx_status next(void *context, const char **text, size_t *size) {
    list *l = context;
    if (l->fails) return yx_fail(YX_ERR_IO, "the disk is gone");
    *text = l->at < l->count ? l->texts[l->at++] : NULL;
    *size = *text ? strlen(*text) : 0;
    return YX_OK;
}

static char *make_folder(void) {
    char *folder = strdup("/tmp/yx-test-bpe-train-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

static yx_status train(list documents, const bpe_train_options *options, yx_tokenizer **t, bpe_train_report *report) {
    char *folder = make_folder();
    yx_status status = bpe_train((bpe_documents){next, begin_again, &documents}, options, folder, report);
    if (status == YX_OK) {
        if (tokenizer_load(folder, t) != YX_OK) fail_msg("%s", yx_message());
    } else {
        char *path;
        assert_int_equal(yx_format(&path, "%s/tokenizer.json", folder), YX_OK);
        assert_false(yx_path_exists(path));
        free(path);
    }
    yx_remove_tree(folder);
    free(folder);
    return status;
}

// --- The definition --------------------------------------------------------------------------------------------------

typedef struct plain_trainer {
    char token[MAX_TOKENS][MAX_TOKEN_SIZE];
    size_t size[MAX_TOKENS];
    uint32_t n_tokens;
    uint32_t *text; // sequences, each followed by UINT32_MAX
    size_t length;
    int max_words;
} plain_trainer;

// Ids of bytes: in the order of the characters that stand for them, behind <|endoftext|>.
static uint32_t byte_id(uint8_t c) {
    static const uint8_t ranges[][2] = {{'!', '~'}, {0xa1, 0xac}, {0xae, 0xff}, {0, 32}, {127, 160}, {173, 173}};
    uint32_t id = FIRST_BYTE;
    for (int i = 0; i < 6; i++) {
        if (c >= ranges[i][0] && c <= ranges[i][1]) return id + c - ranges[i][0];
        id += (uint32_t)ranges[i][1] - ranges[i][0] + 1;
    }
    return 0;
}

static int words_of(const char *text, size_t size) {
    int words = 0;
    for (size_t i = 0; i < size; i++) words += text[i] != ' ' && (i == 0 || text[i - 1] == ' ');
    return words;
}

static bool pair_allowed(const plain_trainer *p, uint32_t a, uint32_t b) {
    char joined[2 * MAX_TOKEN_SIZE];
    memcpy(joined, p->token[a], p->size[a]);
    memcpy(joined + p->size[a], p->token[b], p->size[b]);
    return p->max_words == 0 || words_of(joined, p->size[a] + p->size[b]) <= p->max_words;
}

// The pair with the highest count, of equals the one with the smallest ids; false when none occurs twice.
static bool best_pair(const plain_trainer *p, uint32_t pair[2]) {
    static uint32_t count[MAX_TOKENS][MAX_TOKENS];
    uint32_t best = 1;
    memset(count, 0, sizeof count);
    for (size_t i = 0; i + 1 < p->length; i++)
        if (p->text[i] != UINT32_MAX && p->text[i + 1] != UINT32_MAX) count[p->text[i]][p->text[i + 1]]++;
    for (uint32_t a = 0; a < p->n_tokens; a++)
        for (uint32_t b = 0; b < p->n_tokens; b++)
            if (count[a][b] > best && pair_allowed(p, a, b)) best = count[a][b], pair[0] = a, pair[1] = b;
    return best > 1;
}

static void apply(plain_trainer *p, uint32_t a, uint32_t b, uint32_t result) {
    size_t n = 0;
    for (size_t i = 0; i < p->length; i++) {
        bool merge = p->text[i] == a && i + 1 < p->length && p->text[i + 1] == b;
        p->text[n++] = merge ? result : p->text[i];
        i += merge;
    }
    p->length = n;
}

static void train_plainly(plain_trainer *p, uint32_t vocab_size) {
    uint32_t pair[2];
    while (p->n_tokens < vocab_size && best_pair(p, pair)) {
        uint32_t new = p->n_tokens++;
        p->size[new] = p->size[pair[0]] + p->size[pair[1]];
        memcpy(p->token[new], p->token[pair[0]], p->size[pair[0]]);
        memcpy(p->token[new] + p->size[pair[0]], p->token[pair[1]], p->size[pair[1]]);
        apply(p, pair[0], pair[1], new);
    }
}

static void start_plainly(plain_trainer *p, size_t capacity) {
    *p = (plain_trainer){.n_tokens = FIRST_BYTE + BYTES, .text = malloc(capacity * sizeof *p->text)};
    for (int c = 0; c < BYTES; c++) {
        p->token[byte_id((uint8_t)c)][0] = (char)c;
        p->size[byte_id((uint8_t)c)] = 1;
    }
}

static void add_sequence(plain_trainer *p, const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) p->text[p->length++] = byte_id((uint8_t)text[i]);
    p->text[p->length++] = UINT32_MAX;
}

static void assert_tokens(const yx_tokenizer *t, const plain_trainer *p) {
    assert_int_equal(tokenizer_vocab_size(t), p->n_tokens);
    for (uint32_t id = FIRST_BYTE; id < p->n_tokens; id++) {
        size_t size;
        const char *bytes = tokenizer_token_bytes(t, id, &size);
        assert_int_equal(size, p->size[id]);
        assert_memory_equal(bytes, p->token[id], size);
    }
}

// --- Texts -----------------------------------------------------------------------------------------------------------

static const char *const words[] = {"the",   "of",    "and",  "a",   "in",      "banana", "aaaa",
                                    "theme", "often", "sand", "inn", "aaaaaaa", "bandana"};

// Words with single spaces between, so that the pre-tokens are " word".
static char *make_text(uint64_t seed, size_t n_words) {
    char *text = malloc(n_words * 9 + 1);
    size_t n = 0;
    for (size_t i = 0; i < n_words; i++) {
        uint64_t a = yx_mix64(seed, 2 * i) % 13, b = yx_mix64(seed, 2 * i + 1) % 13;
        n += (size_t)sprintf(text + n, i ? " %s" : "%s", words[a < b ? a : b]);
    }
    return text;
}

static void subwords_equal_the_definition(void **state) {
    (void)state;
    char *texts[] = {make_text(1, 400), make_text(2, 300)};
    plain_trainer p;
    yx_tokenizer *t;
    bpe_train_report report;
    start_plainly(&p, 20000);
    for (int d = 0; d < 2; d++)
        for (const char *word = texts[d]; *word;) {
            const char *end = strchr(word + 1, ' ');
            size_t size = end ? (size_t)(end - word) : strlen(word);
            add_sequence(&p, word, size);
            word += size;
        }
    train_plainly(&p, 280);
    list documents = {(const char *const *)texts, 2};
    for (int rule = 0; rule < 2; rule++) {
        bpe_train_options options = {.vocab_size = 280, .words = (bpe_words)rule};
        assert_int_equal(train(documents, &options, &t, &report), YX_OK);
        assert_tokens(t, &p);
        assert_int_equal(report.documents, 2);
        assert_int_equal(report.subword_merges, 280 - 257);
        assert_int_equal(report.superword_merges, 0);
        assert_int_equal(tokenizer_eot(t), 0);
        tokenizer_free(t);
    }
    free(p.text);
    free(texts[0]);
    free(texts[1]);
}

// Trains on the texts and by the definition, and compares.
static void assert_superwords(char *const *texts, int n, bpe_train_options options, bpe_train_report *report) {
    plain_trainer first, second;
    yx_tokenizer *t;
    size_t capacity = 1;
    for (int d = 0; d < n; d++) capacity += 2 * strlen(texts[d]) + 2;
    start_plainly(&first, capacity);
    start_plainly(&second, capacity);
    for (int d = 0; d < n; d++) {
        add_sequence(&second, texts[d], strlen(texts[d]));
        for (const char *word = texts[d]; *word;) {
            size_t size = 1 + strcspn(word + 1, " ");
            add_sequence(&first, word, size);
            word += size;
        }
    }
    // The first stage's merges never cross a space, so the documents can be merged along with the words.
    while (first.n_tokens < options.transition) {
        uint32_t pair[2], new = first.n_tokens;
        assert_true(best_pair(&first, pair));
        train_plainly(&first, new + 1);
        apply(&second, pair[0], pair[1], new);
    }
    memcpy(second.token, first.token, sizeof first.token);
    memcpy(second.size, first.size, sizeof first.size);
    second.n_tokens = first.n_tokens;
    second.max_words = options.max_superword_words;
    train_plainly(&second, options.vocab_size);
    assert_int_equal(train((list){(const char *const *)texts, (size_t)n}, &options, &t, report), YX_OK);
    assert_tokens(t, &second);
    tokenizer_free(t);
    free(first.text);
    free(second.text);
}

static void superwords_equal_the_definition(void **state) {
    (void)state;
    char *texts[] = {make_text(3, 500), make_text(4, 200), make_text(5, 1)};
    bpe_train_report report;
    for (int max_words = 2; max_words <= 5; max_words++) {
        bpe_train_options options = {.vocab_size = 325, .transition = 275, .max_superword_words = max_words};
        assert_superwords(texts, 3, options, &report);
        assert_int_equal(report.superword_merges, 50);
    }
    for (int d = 0; d < 3; d++) free(texts[d]);
}

// Many words of letters by chance, the first ones frequent.
static char *make_rich_text(uint64_t seed, size_t n_words) {
    char *text = malloc(n_words * 8 + 1);
    size_t n = 0;
    for (size_t i = 0; i < n_words; i++) {
        uint64_t a = yx_mix64(seed, 2 * i) % 150, b = yx_mix64(seed, 2 * i + 1) % 150, word = a * b / 150;
        uint64_t letters = yx_mix64(99, word), length = 2 + word % 4;
        if (i > 0) text[n++] = ' ';
        for (uint64_t k = 0; k < length; k++, letters /= 26) text[n++] = (char)('a' + letters % 26);
    }
    text[n] = 0;
    return text;
}

// The text is cut at rare pairs, which must not be seen in the result; where the rest is too little, less is cut.
static void rare_pairs_change_nothing(void **state) {
    (void)state;
    char *texts[] = {make_rich_text(1, 7000), make_rich_text(2, 3000)};
    bpe_train_report report;
    bpe_train_options options = {.vocab_size = 460, .transition = 400, .max_superword_words = 3};
    assert_superwords(texts, 2, options, &report);
    assert_true(report.least_pair > 10);
    assert_int_equal(report.attempts, 1);
    assert_true(report.places < report.tokens / 2);
    int64_t cut_at = report.least_pair;
    options.vocab_size = 598;
    options.max_superword_words = 1; // most frequent pairs reach across a space: they are of no use
    assert_superwords(texts, 2, options, &report);
    assert_int_equal(report.attempts, 2);
    assert_true(report.least_pair < cut_at);
    for (int d = 0; d < 2; d++) free(texts[d]);
}

static void nothing_crosses_documents_or_digits(void **state) {
    (void)state;
    const char *texts[] = {"xy", "xy", "xy", "xy", "q1z q1z q1z q1z", "7 7 7 7"};
    bpe_train_options options = {.vocab_size = 300, .transition = 260};
    yx_tokenizer *t;
    bpe_train_report report;
    assert_int_equal(train((list){texts, 6}, &options, &t, &report), YX_OK);
    for (uint32_t id = 1; id < tokenizer_vocab_size(t); id++) {
        size_t size;
        const char *bytes = tokenizer_token_bytes(t, id, &size);
        assert_false(size > 1 && (memchr(bytes, '1', size) || memchr(bytes, '7', size)));
        assert_false(size > 2 && memcmp(bytes, "xyx", 3) == 0);
    }
    tokenizer_free(t);
}

static void stops_early_with_too_little_text(void **state) {
    (void)state;
    const char *texts[] = {"hello hello hello"};
    bpe_train_options options = {.vocab_size = 5000, .transition = 1000};
    yx_tokenizer *t;
    bpe_train_report report;
    assert_int_equal(train((list){texts, 1}, &options, &t, &report), YX_OK);
    assert_true(report.vocab_size > 257 && report.vocab_size < 300);
    assert_int_equal(tokenizer_vocab_size(t), report.vocab_size);
    tokenizer_free(t);
}

static void special_tokens_come_first(void **state) {
    (void)state;
    const char *texts[] = {"ab ab ab \xff ab", "ab"}, *special[] = {"<pad>", "<|endoftext|>", "\u4e2d\u6587"};
    bpe_train_options options = {.vocab_size = 262, .special_tokens = special, .n_special_tokens = 3};
    yx_tokenizer *t;
    bpe_train_report report;
    size_t size;
    assert_int_equal(train((list){texts, 2}, &options, &t, &report), YX_OK);
    for (uint32_t i = 0; i < 3; i++) {
        const char *bytes = tokenizer_token_bytes(t, i, &size);
        assert_non_null(bytes);
    }
    assert_int_equal(tokenizer_eot(t), 1);
    tokenizer_scratch *s;
    const uint32_t *ids;
    size_t count;
    assert_int_equal(tokenizer_scratch_new(t, &s), YX_OK);
    assert_int_equal(tokenizer_encode(t, s, "<pad>ab\u4e2d\u6587", 13, 0, &ids, &count), YX_OK);
    assert_int_equal(count, 3);
    assert_true(ids[0] == 0 && ids[2] == 2);
    tokenizer_scratch_free(s);
    tokenizer_free(t);
}

static void assert_refused(bpe_train_options options, yx_status code, const char *message) {
    const char *texts[] = {"some text, some text"};
    yx_tokenizer *t;
    bpe_train_report report;
    assert_int_equal(train((list){texts, 1}, &options, &t, &report), code);
    if (!strstr(yx_message(), message)) fail_msg("'%s' does not say '%s'", yx_message(), message);
}

static void refuses_bad_options(void **state) {
    (void)state;
    const char *twice[] = {"<a>", "<a>"}, *empty[] = {""}, *single[] = {"x"}, *bad[] = {"<\xff>"};
    assert_refused((bpe_train_options){.vocab_size = 256}, YX_ERR_USAGE, "too small");
    assert_refused((bpe_train_options){.vocab_size = 1u << 30}, YX_ERR_USAGE, "too large");
    assert_refused((bpe_train_options){.vocab_size = 300, .transition = 301}, YX_ERR_USAGE,
                   "above the vocabulary size");
    assert_refused((bpe_train_options){.vocab_size = 300, .transition = 200}, YX_ERR_USAGE, "below the 257 tokens");
    assert_refused((bpe_train_options){.vocab_size = 300, .transition = 280, .words = BPE_WORDS_GPT2}, YX_ERR_USAGE,
                   "GPT-2");
    assert_refused((bpe_train_options){.vocab_size = 300, .min_frequency = -1}, YX_ERR_USAGE, "below 0");
    assert_refused((bpe_train_options){.vocab_size = 300, .special_tokens = twice, .n_special_tokens = 2}, YX_ERR_USAGE,
                   "twice");
    assert_refused((bpe_train_options){.vocab_size = 300, .special_tokens = empty, .n_special_tokens = 1}, YX_ERR_USAGE,
                   "empty");
    assert_refused((bpe_train_options){.vocab_size = 300, .special_tokens = single, .n_special_tokens = 1},
                   YX_ERR_USAGE, "single");
    assert_refused((bpe_train_options){.vocab_size = 300, .special_tokens = bad, .n_special_tokens = 1}, YX_ERR_USAGE,
                   "UTF-8");
}

static void passes_failures_on(void **state) {
    (void)state;
    yx_tokenizer *t;
    bpe_train_report report;
    bpe_train_options options = {.vocab_size = 300};
    assert_int_equal(train((list){.fails = true}, &options, &t, &report), YX_ERR_IO);
    assert_string_equal(yx_message(), "the disk is gone");
    assert_int_equal(train((list){0}, &options, &t, &report), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "no text"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(subwords_equal_the_definition),
                                       cmocka_unit_test(superwords_equal_the_definition),
                                       cmocka_unit_test(rare_pairs_change_nothing),
                                       cmocka_unit_test(nothing_crosses_documents_or_digits),
                                       cmocka_unit_test(stops_early_with_too_little_text),
                                       cmocka_unit_test(special_tokens_come_first),
                                       cmocka_unit_test(refuses_bad_options),
                                       cmocka_unit_test(passes_failures_on)};
    yx_log_setup(YX_LOG_ERROR, -1); // some texts are too small on purpose
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Tokenizers made by hand: what is read, what is refused, and the encoding's parts against plain versions of
// themselves.
#include "common/file.h"
#include "common/rng.h"
#include "io/tokenizer.h"
#include "io/tokenizer_parts.h"
#include "io/tokenizer_regex.h"
#include "io/tokenizer_trie.h"
#include "io/tokenizer_unicode.h"
#include "io/tokenizer_words.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

// --- Tokenizers ------------------------------------------------------------------------------------------------------

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define DECODER "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}"

typedef struct recipe {
    const char *added, *pre_tokenizer, *model, *vocab, *merges, *root;
} recipe;

// {"version":"1.0",ROOT"added_tokens":[ADDED],…}: `model` and `root` are extra members with their comma.
static char *make_json(recipe r) {
    char *json;
    assert_int_equal(yx_format(&json,
                               "{\"version\":\"1.0\",%s\"added_tokens\":[%s],\"pre_tokenizer\":%s,\"decoder\":" DECODER
                               ",\"model\":{\"type\":\"BPE\",%s\"vocab\":{%s},\"merges\":[%s]}}",
                               r.root ? r.root : "", r.added ? r.added : "",
                               r.pre_tokenizer ? r.pre_tokenizer : BYTE_LEVEL, r.model ? r.model : "",
                               r.vocab ? r.vocab : "\"a\":0,\"b\":1,\"Ġ\":2,\"ab\":3,\"Ġab\":4,\"aab\":5",
                               r.merges ? r.merges : "\"a b\",\"Ġ ab\",\"a ab\""),
                     YX_OK);
    return json;
}

static char *all_bytes_vocab(void) {
    char *vocab = strdup(""), *longer, code[5];
    for (int i = 0; i < 256; i++) {
        code[unicode_encode(byte_to_char((uint8_t)i), code)] = 0;
        assert_int_equal(
            yx_format(&longer, "%s%s\"%s%s\":%d", vocab, i ? "," : "", i == '"' || i == '\\' ? "\\" : "", code, i),
            YX_OK);
        free(vocab);
        vocab = longer;
    }
    return vocab;
}

static yx_status load(recipe r, yx_tokenizer **out) {
    char *json = make_json(r);
    yx_status status = tokenizer_load_memory(json, strlen(json), "test", out);
    free(json);
    return status;
}

static yx_tokenizer *must_load(recipe r) {
    yx_tokenizer *t = NULL;
    if (load(r, &t) != YX_OK) fail_msg("%s", yx_message());
    return t;
}

static void assert_refused(recipe r, const char *message) {
    yx_tokenizer *t = NULL;
    yx_status status = load(r, &t);
    if (status == YX_OK) fail_msg("accepted, although: %s", message);
    assert_int_equal(status, YX_ERR_DATA);
    if (!strstr(yx_message(), message)) fail_msg("'%s' does not say '%s'", yx_message(), message);
}

// The ids as "1 2 3"; static.
static const char *encode_bytes(const yx_tokenizer *t, const char *text, size_t size, tokenizer_flags flags) {
    static char out[4096];
    const uint32_t *ids;
    size_t count, n = 0;
    tokenizer_scratch *s;
    assert_int_equal(tokenizer_scratch_new(t, &s), YX_OK);
    if (tokenizer_encode(t, s, text, size, flags, &ids, &count) != YX_OK) fail_msg("%s", yx_message());
    out[0] = 0;
    for (size_t i = 0; i < count; i++) n += (size_t)snprintf(out + n, sizeof out - n, i ? " %u" : "%u", ids[i]);
    tokenizer_scratch_free(s);
    return out;
}

static const char *encode(const yx_tokenizer *t, const char *text) {
    return encode_bytes(t, text, strlen(text), TOKENIZER_DEFAULT);
}

static void encodes_by_rank(void **state) {
    (void)state;
    yx_tokenizer *t = must_load((recipe){0});
    assert_string_equal(encode(t, ""), "");
    assert_string_equal(encode(t, "ab"), "3");
    assert_string_equal(encode(t, "aab"), "5");
    assert_string_equal(encode(t, " ab"), "4");
    assert_string_equal(encode(t, " aab"), "2 5");
    assert_string_equal(encode(t, "ba ab"), "1 0 4");
    assert_string_equal(encode(t, "acb"), "3"); // as the library: a byte without a token leaves no gap
    assert_int_equal(tokenizer_vocab_size(t), 6);
    assert_int_equal(tokenizer_eot(t), -1);
    assert_int_equal(tokenizer_merge_count(t), 3);
    assert_string_equal(tokenizer_name(t), "test");
    tokenizer_free(t);
}

static void leftmost_of_equals(void **state) {
    (void)state;
    yx_tokenizer *t = must_load((recipe){.vocab = "\"a\":0,\"aa\":1,\"aaa\":2", .merges = "\"a a\",\"aa a\""});
    assert_string_equal(encode(t, "aaa"), "2");
    assert_string_equal(encode(t, "aaaa"), "1 1");
    assert_string_equal(encode(t, "aaaaa"), "1 2");
    tokenizer_free(t);
}

// Words that merges join one with the next, few of them and more than are looked through one by one.
static void merges_long_rows_of_words(void **state) {
    (void)state;
    char *bytes = all_bytes_vocab(), *vocab, text[401] = "";
    assert_int_equal(yx_format(&vocab, "%s,\"Ġa\":256,\"ĠaĠa\":257,\"ĠaĠaĠaĠa\":258", bytes), YX_OK);
    yx_tokenizer *t = must_load((recipe){.vocab = vocab, .merges = "\"Ġ a\",\"Ġa Ġa\",\"ĠaĠa ĠaĠa\""});
    assert_int_equal(tokenizer_word_merges(t), 1);
    assert_string_equal(encode(t, " a a a a a a a"), "258 257 256");
    assert_string_equal(encode(t, " a a.b a a a"), "257 46 98 257 256");
    for (int words = 1; words <= 200; words++) {
        char expected[1024] = "";
        strcat(text, " a");
        for (int i = 0; i < words / 4; i++) strcat(expected, "258 ");
        if (words % 4 >= 2) strcat(expected, "257 ");
        if (words % 2) strcat(expected, "256 ");
        expected[strlen(expected) - 1] = 0;
        assert_string_equal(encode(t, text), expected);
    }
    tokenizer_free(t);
    free(vocab);
    free(bytes);
}

static void merges_in_both_forms(void **state) {
    (void)state;
    yx_tokenizer *a = must_load((recipe){0});
    yx_tokenizer *b =
        must_load((recipe){.merges = "[\"a\",\"b\"],[\"Ġ\",\"ab\"],[\"a\",\"ab\"]",
                           .vocab = "\"aab\":5,\"Ġab\":4,\"ab\":3,\"Ġ\":2,\"b\":1,\"a\":0",
                           .model = "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":\"\","
                                    "\"fuse_unk\":false,"});
    yx_tokenizer *c = must_load((recipe){.merges = "\"a b\",\"a ab\",\"Ġ ab\""});
    assert_string_equal(tokenizer_sha256(a), tokenizer_sha256(b));
    assert_string_not_equal(tokenizer_sha256(a), tokenizer_sha256(c));
    assert_string_equal(encode(b, " aab"), "2 5");
    tokenizer_free(a);
    tokenizer_free(b);
    tokenizer_free(c);
}

static void ignores_merges_when_told(void **state) {
    (void)state;
    recipe r = {.vocab = "\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"abc\":5", .merges = "\"b c\",\"a b\""};
    yx_tokenizer *t = must_load(r);
    assert_string_equal(encode(t, "abc"), "0 4");
    tokenizer_free(t);
    r.model = "\"ignore_merges\":true,";
    t = must_load(r);
    assert_string_equal(encode(t, "abc"), "5");
    assert_string_equal(encode(t, "abca"), "0 4 0");
    tokenizer_free(t);
}

static void refuses_what_it_does_not_support(void **state) {
    (void)state;
    assert_refused((recipe){.model = "\"dropout\":0.1,"}, "\"dropout\" is not supported");
    assert_refused((recipe){.model = "\"unk_token\":\"a\","}, "\"unk_token\"");
    assert_refused((recipe){.model = "\"byte_fallback\":true,"}, "\"byte_fallback\"");
    assert_refused((recipe){.model = "\"fuse_unk\":true,"}, "\"fuse_unk\"");
    assert_refused((recipe){.model = "\"continuing_subword_prefix\":\"##\","}, "\"continuing_subword_prefix\"");
    assert_refused((recipe){.model = "\"end_of_word_suffix\":\"</w>\","}, "\"end_of_word_suffix\"");
    assert_refused((recipe){.model = "\"ignore_merges\":1,"}, "\"ignore_merges\" is not true or false");
    assert_refused((recipe){.root = "\"normalizer\":{\"type\":\"NFC\"},"}, "the normalizer NFC");
    assert_refused((recipe){.root = "\"truncation\":{\"max_length\":5},"}, "\"truncation\"");
    assert_refused((recipe){.root = "\"post_processor\":{\"type\":\"TemplateProcessing\"},"}, "TemplateProcessing");
    assert_refused((recipe){.pre_tokenizer = "null"}, "no pre_tokenizer");
    assert_refused((recipe){.pre_tokenizer = "{\"type\":\"Digits\"}"}, "no ByteLevel");
    assert_refused((recipe){.pre_tokenizer = "{\"type\":\"Metaspace\"}"}, "the pre-tokenizer Metaspace");
    assert_refused(
        (recipe){.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL ",{\"type\":\"Digits\"}]}"},
        "Digits behind ByteLevel");
    assert_refused((recipe){.pre_tokenizer = "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{}}"},
                   "a pattern");
    assert_refused(
        (recipe){.pre_tokenizer = "{\"type\":\"Split\",\"behavior\":\"Else\",\"pattern\":{\"String\":\"a\"}}"},
        "behavior 'Else'");
    yx_tokenizer *t = must_load((recipe){.root = "\"normalizer\":null,\"post_processor\":{\"type\":\"ByteLevel\"},"});
    tokenizer_free(t);
}

static void refuses_damaged_files(void **state) {
    (void)state;
    yx_tokenizer *t;
    assert_refused((recipe){.merges = "\"a b\",\"b a\""}, "merge 2: 'ba' is not in the vocabulary");
    assert_refused((recipe){.merges = "\"a x\""}, "merge 1: 'x' is not in the vocabulary");
    assert_refused((recipe){.merges = "\"ab\""}, "merge 1 is not two tokens");
    assert_refused((recipe){.merges = "[\"a\"]"}, "merge 1 is not two tokens");
    assert_refused((recipe){.merges = "[\"\",\"ab\"]", .vocab = "\"\":0,\"ab\":1"}, "a part is empty");
    assert_refused((recipe){.vocab = "\"a\":0,\"b\":0"}, "have the same id");
    assert_refused((recipe){.vocab = "\"a\":0,\"a\":1"}, "duplicate");
    assert_refused((recipe){.vocab = "\"a\":-1"}, "the id is not a number");
    assert_refused((recipe){.vocab = "\"a\":4000000000"}, "the id is not a number");
    assert_refused((recipe){.vocab = "\"a\":\"b\""}, "the id is not a number");
    assert_refused((recipe){.vocab = " "}, "the vocabulary is empty");
    assert_refused((recipe){.added = "{\"id\":9,\"content\":\"<x>\"}"}, "should have id 6");
    assert_refused((recipe){.added = "{\"id\":6}"}, "without content");
    assert_int_equal(tokenizer_load_memory("{", 1, "x", &t), YX_ERR_DATA);
    assert_int_equal(tokenizer_load_memory("[]", 2, "x", &t), YX_ERR_DATA);
    assert_int_equal(tokenizer_load_memory("{}", 2, "x", &t), YX_ERR_DATA);
    assert_int_equal(tokenizer_load("/nonexistent/tokenizer", &t), YX_ERR_IO);
}

// --- Added tokens ----------------------------------------------------------------------------------------------------

#define ADDED(id, content, flags) "{\"id\":" #id ",\"content\":\"" content "\"" flags "}"

static void cuts_added_tokens(void **state) {
    (void)state;
    yx_tokenizer *t =
        must_load((recipe){.added = ADDED(6, "<|endoftext|>", ",\"special\":true,\"normalized\":false") "," ADDED(
                               7, "<|", ",\"normalized\":true") "," ADDED(8, "<|end", ",\"normalized\":false")});
    assert_int_equal(tokenizer_eot(t), 6);
    assert_int_equal(tokenizer_vocab_size(t), 9);
    assert_string_equal(encode(t, "ab<|endoftext|>ab"), "3 6 3");
    assert_string_equal(encode(t, "<|endoftext|><|endoftext|>"), "6 6");
    assert_string_equal(encode(t, "<|enda<|a"), "8 0 7 0"); // the longest one
    assert_string_equal(encode_bytes(t, "a<|endoftext|>a", 15, TOKENIZER_NO_SPECIAL),
                        "0 7 0"); // "endoftext|>" has no tokens
    uint32_t id;
    bool special;
    assert_string_equal(tokenizer_added(t, 0, &id, &special), "<|endoftext|>");
    assert_true(special && id == 6);
    assert_null(tokenizer_added(t, 3, &id, &special));
    tokenizer_free(t);
}

static void strips_and_judges_words(void **state) {
    (void)state;
    yx_tokenizer *t = must_load((recipe){.added = ADDED(6, "x", ",\"single_word\":true") "," ADDED(
                                             7, "y", ",\"lstrip\":true") "," ADDED(8, "z", ",\"rstrip\":true")});
    assert_string_equal(encode(t, "ax x xa"), "0 2 6 2 0"); // "x" beside "a" is not a token of this vocabulary
    assert_string_equal(encode(t, "a  \u00a0yb"), "0 7 1");
    assert_string_equal(encode(t, "az \n\u3000 b"), "0 8 1");
    assert_string_equal(encode(t, "z   y"), "8 7"); // the first one takes the spaces
    assert_string_equal(encode(t, " x"), "2 6");
    tokenizer_free(t);
}

// --- Text ------------------------------------------------------------------------------------------------------------

static void replaces_what_is_not_utf8(void **state) {
    (void)state;
    static const struct {
        const char *text, *repaired;
    } cases[] = {{"a\xff"
                  "b",
                  "a\xef\xbf\xbd"
                  "b"},
                 {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xe2\x82", "\xef\xbf\xbd"},
                 {"\xf0\x9f\x98x", "\xef\xbf\xbdx"},
                 {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"}};
    char *vocab = all_bytes_vocab();
    yx_tokenizer *t = must_load((recipe){.vocab = vocab, .merges = " "});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *expected = strdup(encode(t, cases[i].repaired));
        assert_string_equal(encode(t, cases[i].text), expected);
        free(expected);
    }
    assert_string_equal(encode_bytes(t, "a\0b", 3, TOKENIZER_DEFAULT), "97 0 98");
    tokenizer_free(t);
    free(vocab);
}

static void decodes(void **state) {
    (void)state;
    char *vocab = all_bytes_vocab(), *text;
    size_t size;
    yx_tokenizer *t = must_load((recipe){
        .vocab = vocab, .merges = " ", .added = ADDED(256, "<s>", ",\"special\":true") "," ADDED(257, "é ", "")});
    assert_int_equal(tokenizer_decode(t, (uint32_t[]){0xe4, 0xb8, 0xad, 256, 257, 0}, 6, false, &text, &size), YX_OK);
    assert_int_equal(size, 10);
    assert_memory_equal(text, "中<s>é \0", 11);
    free(text);
    assert_int_equal(tokenizer_decode(t, (uint32_t[]){97, 256, 98}, 3, true, &text, &size), YX_OK);
    assert_string_equal(text, "ab");
    free(text);
    assert_int_equal(tokenizer_decode(t, NULL, 0, true, &text, &size), YX_OK);
    assert_string_equal(text, "");
    free(text);
    assert_int_equal(tokenizer_decode(t, (uint32_t[]){258}, 1, false, &text, &size), YX_ERR_DATA);
    assert_null(tokenizer_token_bytes(t, 258, &size));
    assert_memory_equal(tokenizer_token_bytes(t, 257, &size), "é ", 3);
    tokenizer_free(t);
    free(vocab);
}

// --- Files -----------------------------------------------------------------------------------------------------------

static void write_file(const char *folder, const char *name, const char *text) {
    char *path;
    assert_int_equal(yx_format(&path, "%s/%s", folder, name), YX_OK);
    assert_int_equal(yx_write_file_atomic(path, text, strlen(text)), YX_OK);
    free(path);
}

static void loads_folders(void **state) {
    (void)state;
    char folder[] = "/tmp/yx-test-tokenizer-XXXXXX", *path;
    yx_tokenizer *a, *b;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(tokenizer_load(folder, &a), YX_ERR_IO);
    write_file(folder, "vocab.json", "{\"a\":0,\"b\":1,\"ab\":2,\"Ġ\":3,\"<|endoftext|>\":4}");
    write_file(folder, "merges.txt", "#version: 0.2\na b\r\n");
    assert_int_equal(tokenizer_load(folder, &a), YX_OK);
    assert_string_equal(encode(a, "ab ab<|endoftext|>"), "2 3 2 4");
    assert_int_equal(tokenizer_eot(a), 4);
    char *json = make_json((recipe){.vocab = "\"a\":0,\"b\":1,\"ab\":2,\"Ġ\":3,\"<|endoftext|>\":4",
                                    .merges = "[\"a\",\"b\"]",
                                    .added = ADDED(4, "<|endoftext|>", ",\"special\":true,\"normalized\":true"),
                                    .pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"});
    write_file(folder, "tokenizer.json", json);
    assert_int_equal(yx_format(&path, "%s/tokenizer.json", folder), YX_OK);
    assert_int_equal(tokenizer_load(path, &b), YX_OK);
    assert_string_equal(tokenizer_sha256(a), tokenizer_sha256(b));
    assert_string_equal(tokenizer_name(a), tokenizer_name(b));
    assert_string_equal(tokenizer_name(a), strrchr(folder, '/') + 1);
    assert_string_equal(tokenizer_path(b), path);
    tokenizer_free(a);
    tokenizer_free(b);
    free(json);
    free(path);
    yx_remove_tree(folder);
}

static void takes_eot_from_the_configuration(void **state) {
    (void)state;
    char folder[] = "/tmp/yx-test-tokenizer-XXXXXX";
    yx_tokenizer *t;
    assert_non_null(mkdtemp(folder));
    char *json = make_json((recipe){.added = ADDED(6, "</s>", ",\"special\":true")});
    write_file(folder, "tokenizer.json", json);
    write_file(folder, "tokenizer_config.json", "{\"eos_token\":{\"content\":\"</s>\"}}");
    assert_int_equal(tokenizer_load(folder, &t), YX_OK);
    assert_int_equal(tokenizer_eot(t), 6);
    tokenizer_free(t);
    free(json);
    yx_remove_tree(folder);
}

// --- Parts against plain versions ------------------------------------------------------------------------------------

static uint32_t random_below(uint64_t *counter, uint32_t n) { return (uint32_t)(yx_mix64(41, (*counter)++) % n); }

static size_t random_text(uint64_t *counter, char *out, size_t max_parts) {
    static const char *const parts[] = {" ",          "  ",         "\n",
                                        "\t",         "\u00a0",     "\u180e",
                                        "\u2028",     "\r\n",       "a",
                                        "Zz",         "the",        "é",
                                        "中",         "e\u0301",    "0",
                                        "12",         "123",        "4567",
                                        "٣",          "²",          "Ⅷ",
                                        "𝟘",          "\U00011de3", ".",
                                        ",",          "!?",         "'s",
                                        "'ll",        "'",          "'re",
                                        "'v",         "😀",          "\u200d",
                                        "_",          "-",          "\"",
                                        "\u0301",     "\ua7cb",     "in plain text",
                                        "nearly 999", "x:;/<=>?@"};
    size_t n = 0, count = random_below(counter, (uint32_t)max_parts);
    for (size_t i = 0; i < count; i++) {
        const char *part = parts[random_below(counter, sizeof parts / sizeof *parts)];
        memcpy(out + n, part, strlen(part));
        n += strlen(part);
    }
    return n;
}

static void assert_same_pieces(const split_plan *a, const split_plan *b, split_scratch *sa, split_scratch *sb,
                               const char *text, size_t size) {
    const uint8_t *ta, *tb;
    const split_piece *pa, *pb;
    size_t na, nb;
    assert_int_equal(split_run(a, sa, (const uint8_t *)text, size, &ta, &pa, &na), YX_OK);
    assert_int_equal(split_run(b, sb, (const uint8_t *)text, size, &tb, &pb, &nb), YX_OK);
    if (na != nb || memcmp(pa, pb, na * sizeof *pa) != 0) fail_msg("differ on '%.*s'", (int)size, text);
}

static void scanners_equal_pcre2(void **state) {
    (void)state;
    static const char *const patterns[] = {SPLIT_PATTERN_THREES, SPLIT_PATTERN_WORDS, SPLIT_PATTERN_GPT2};
    char text[1024];
    uint64_t counter = 0;
    split_scratch *sa, *sb;
    assert_int_equal(split_scratch_new(&sa), YX_OK);
    assert_int_equal(split_scratch_new(&sb), YX_OK);
    for (int p = 0; p < 3; p++)
        for (int digits = 0; digits < 3; digits++) {
            split_plan *plans[2];
            for (int k = 0; k < 2; k++) {
                assert_int_equal(split_plan_new(&plans[k]), YX_OK);
                if (digits > 0) assert_int_equal(split_add_digits(plans[k], digits > 1), YX_OK);
                assert_int_equal(split_add_pattern(plans[k], patterns[p], false, SPLIT_ISOLATED, false, k == 1), YX_OK);
            }
            for (int i = 0; i < 3000; i++) {
                size_t size = random_text(&counter, text, 24);
                assert_same_pieces(plans[0], plans[1], sa, sb, text, size);
            }
            split_plan_free(plans[0]);
            split_plan_free(plans[1]);
        }
    split_scratch_free(sa);
    split_scratch_free(sb);
}

// Merges the pair of lowest rank, the leftmost one, until none is left: the definition.
static size_t encode_plainly(const bpe_merge *merges, size_t n_merges, uint32_t *ids, size_t n) {
    for (;;) {
        size_t best = n_merges, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t rank = 0; rank < best; rank++)
                if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) best = rank, at = i;
        if (best == n_merges) return n;
        ids[at] = merges[best].result;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

typedef struct random_bpe {
    token_table tokens;
    bpe_merge merges[96];
    size_t n_merges;
} random_bpe;

static bool has_token(const token_table *t, const uint8_t *bytes, uint32_t size) {
    for (uint32_t id = 0; id < t->size; id++)
        if (token_size(t, id) == size && memcmp(token_bytes(t, id), bytes, size) == 0) return true;
    return false;
}

// 256 bytes (id = byte) and random merges of tokens from a small alphabet; `ordered` ones make new tokens out of
// earlier ones, others come in any order.
static void make_random_bpe(random_bpe *r, uint64_t *counter, bool ordered) {
    static const uint8_t letters[] = "ab c.";
    enum { MAX_IDS = 256 + 96, MAX_BLOB = 1 << 14 };
    r->tokens = (token_table){256, malloc(MAX_BLOB), malloc((MAX_IDS + 1) * 4), malloc(MAX_IDS)};
    memset(r->tokens.is_text, 1, MAX_IDS);
    for (uint32_t i = 0; i <= 256; i++) {
        r->tokens.offset[i] = i;
        if (i < 256) r->tokens.blob[i] = (uint8_t)i;
    }
    r->n_merges = 0;
    while (r->n_merges < 96) {
        uint32_t parts[2], size = 0, end = r->tokens.offset[r->tokens.size];
        for (int k = 0; k < 2; k++) {
            uint32_t pick = random_below(counter, 5 + (uint32_t)r->n_merges);
            parts[k] = pick < 5 ? letters[pick] : 256 + pick - 5;
            memcpy(r->tokens.blob + end + size, token_bytes(&r->tokens, parts[k]), token_size(&r->tokens, parts[k]));
            size += token_size(&r->tokens, parts[k]);
        }
        if (size > 12 || has_token(&r->tokens, r->tokens.blob + end, size)) continue;
        r->merges[r->n_merges++] = (bpe_merge){parts[0], parts[1], r->tokens.size};
        r->tokens.offset[++r->tokens.size] = end + size;
    }
    for (size_t i = 0; !ordered && i < 96; i++) {
        size_t k = random_below(counter, 96);
        bpe_merge swap = r->merges[i];
        r->merges[i] = r->merges[k];
        r->merges[k] = swap;
    }
}

enum { LONG_TEXT = 300, GARBAGE = 32 };

// Random letters, or one to four of them again and again.
static size_t random_letters(uint64_t *counter, char *text) {
    static const char letters[] = "aabbb  c.";
    bool again = random_below(counter, 8) == 0;
    size_t size = random_below(counter, again ? LONG_TEXT : 64), period = again ? 1 + random_below(counter, 4) : size;
    for (size_t i = 0; i < size; i++)
        text[i] = i < period ? letters[random_below(counter, sizeof letters - 1)] : text[i - period];
    for (size_t i = 0; i < GARBAGE; i++) text[size + i] = letters[random_below(counter, sizeof letters - 1)];
    return size;
}

static void assert_encodes_by_definition(const random_bpe *r, const bpe *b, bpe_scratch *s, const char *text,
                                         size_t size) {
    uint32_t plain[LONG_TEXT], ids[LONG_TEXT];
    for (size_t k = 0; k < size; k++) plain[k] = (uint8_t)text[k];
    size_t n = encode_plainly(r->merges, r->n_merges, plain, size);
    assert_int_equal(bpe_reserve(s, size), YX_OK);
    assert_int_equal(bpe_encode_queue(b, s, (const uint8_t *)text, size, ids), n);
    assert_memory_equal(ids, plain, n * sizeof *ids);
    assert_int_equal(bpe_encode(b, s, (const uint8_t *)text, size, ids), n);
    assert_memory_equal(ids, plain, n * sizeof *ids);
    assert_int_equal(bpe_encode_part(b, s, (const uint8_t *)text, size, size + GARBAGE, ids), n);
    assert_memory_equal(ids, plain, n * sizeof *ids);
}

static void bpe_equals_its_definition(void **state) {
    (void)state;
    uint64_t counter = 0;
    uint32_t word_merges = 0;
    bpe_scratch *s; // one for all, so that it has the words of another one
    assert_int_equal(bpe_scratch_new(&s), YX_OK);
    for (int round = 0; round < 60; round++) {
        random_bpe r;
        bpe *b;
        make_random_bpe(&r, &counter, round % 3 != 0);
        assert_int_equal(bpe_new(&r.tokens, r.merges, r.n_merges, false, &b), YX_OK);
        word_merges += bpe_word_merges(b);
        for (int i = 0; i < 100; i++) {
            char text[LONG_TEXT + GARBAGE];
            size_t size = random_letters(&counter, text);
            assert_encodes_by_definition(&r, b, s, text, size);
        }
        bpe_free(b);
        token_table_free(&r.tokens);
    }
    bpe_scratch_free(s);
    assert_true(word_merges > 100); // the linear encoder was tested, too
}

static void finds_where_words_start(void **state) {
    (void)state;
    static word_joints joints;
    const uint8_t text[] = "the end.\n\n\xc3\xa9 ab";
    uint32_t starts[sizeof text];
    word_joints_add(&joints, (const uint8_t *)" the", 4);
    word_joints_add(&joints, (const uint8_t *)" end", 4);
    word_joints_add(&joints, (const uint8_t *)"\n\n", 2);
    word_joints_add(&joints, (const uint8_t *)"\xc3\xa9", 2);
    assert_int_equal(word_find_starts(&joints, text, sizeof text - 1, starts), 8);
    assert_memory_equal(starts, ((uint32_t[]){0, 3, 7, 8, 10, 12, 13, 14, 15}), 9 * sizeof *starts);
}

static void trie_finds_the_longest(void **state) {
    (void)state;
    uint64_t counter = 0;
    for (int round = 0; round < 50; round++) {
        uint8_t bytes[200][8];
        trie_key keys[200];
        size_t n = 0;
        for (int i = 0; i < 200; i++) {
            uint32_t size = 1 + random_below(&counter, 7);
            for (uint32_t k = 0; k < size; k++)
                bytes[n][k] = (uint8_t)(random_below(&counter, 3) + (round % 2 ? 254 : 97));
            bool known = false;
            for (size_t k = 0; k < n; k++) known |= keys[k].size == size && memcmp(keys[k].bytes, bytes[n], size) == 0;
            if (known) continue;
            keys[n] = (trie_key){bytes[n], size, (int32_t)n};
            n++;
        }
        trie t;
        assert_int_equal(trie_build(keys, n, &t), YX_OK);
        for (int i = 0; i < 500; i++) {
            uint8_t text[10];
            size_t size = random_below(&counter, 11), best = 0;
            int32_t expected = TRIE_NONE;
            for (size_t k = 0; k < size; k++) text[k] = (uint8_t)(random_below(&counter, 3) + (round % 2 ? 254 : 97));
            for (size_t k = 0; k < n; k++)
                if (keys[k].size <= size && keys[k].size > best && memcmp(keys[k].bytes, text, keys[k].size) == 0)
                    best = keys[k].size, expected = keys[k].value;
            assert_int_equal(trie_longest(&t, text, size), expected);
        }
        trie_free(&t);
    }
}

// A megabyte that nothing cuts must not take quadratic time.
static void long_texts_are_fast(void **state) {
    (void)state;
    enum { SIZE = 1 << 20 };
    static const char *const units[] = {"a", "ab", "a b", "1", "ba ", "\u00a0", "aaab"};
    yx_tokenizer *t = must_load((recipe){
        .vocab = "\"a\":0,\"b\":1,\"Ġ\":2,\"aa\":3,\"aaaa\":4,\"ab\":5,\"Ġa\":6,\"bĠ\":7,\"1\":8",
        .merges = "\"a a\",\"aa aa\",\"a b\",\"Ġ a\",\"b Ġ\"",
        .pre_tokenizer =
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":false},{\"type\":"
            "\"Split\",\"pattern\":{\"Regex\":\"(?=(\\\\d{3})+(?!\\\\d))\"},\"behavior\":\"Isolated\",\"invert\":"
            "false}," BYTE_LEVEL "]}"});
    char *text = malloc(SIZE);
    tokenizer_scratch *s;
    assert_int_equal(tokenizer_scratch_new(t, &s), YX_OK);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        const uint32_t *ids;
        size_t count;
        for (size_t i = 0; i < SIZE; i++) text[i] = units[u][i % strlen(units[u])];
        clock_t start = clock();
        assert_int_equal(tokenizer_encode(t, s, text, SIZE, TOKENIZER_DEFAULT, &ids, &count), YX_OK);
        assert_true(clock() - start < 5 * CLOCKS_PER_SEC);
    }
    tokenizer_scratch_free(s);
    tokenizer_free(t);
    free(text);
}

// --- Threads ---------------------------------------------------------------------------------------------------------

enum { THREADS = 4, TEXTS = 400 };

typedef struct text_set {
    const yx_tokenizer *tokenizer;
    char text[TEXTS][1024];
    size_t size[TEXTS];
    uint32_t ids[THREADS][TEXTS][1024];
    size_t count[THREADS][TEXTS];
} text_set;

typedef struct encoding_thread {
    text_set *set;
    int index;
} encoding_thread;

static void *encode_all(void *arg) {
    const encoding_thread *thread = arg;
    text_set *set = thread->set;
    tokenizer_scratch *s;
    if (tokenizer_scratch_new(set->tokenizer, &s) != YX_OK) return NULL;
    for (int k = 0; k < TEXTS; k++) {
        int i = (k + thread->index * 37) % TEXTS; // not all at the same text
        const uint32_t *ids;
        if (tokenizer_encode(set->tokenizer, s, set->text[i], set->size[i], 0, &ids, &set->count[thread->index][i]) !=
            YX_OK)
            break;
        memcpy(set->ids[thread->index][i], ids, set->count[thread->index][i] * sizeof *ids);
    }
    tokenizer_scratch_free(s);
    return NULL;
}

// Threads with a scratch each share a tokenizer.
static void threads_encode_the_same(void **state) {
    (void)state;
    char *vocab = all_bytes_vocab(), *more;
    uint64_t counter = 0;
    pthread_t threads[THREADS];
    encoding_thread arguments[THREADS];
    text_set *set = calloc(1, sizeof *set);
    assert_int_equal(yx_format(&more, "%s,\"th\":256,\"the\":257,\"in\":258,\"theĠ\":259,\"theĠin\":260", vocab),
                     YX_OK);
    yx_tokenizer *t = must_load((recipe){.vocab = more, .merges = "\"t h\",\"th e\",\"i n\",\"the Ġ\",\"theĠ in\""});
    set->tokenizer = t;
    for (int i = 0; i < TEXTS; i++) set->size[i] = random_text(&counter, set->text[i], 40);
    for (int k = 0; k < THREADS; k++) {
        arguments[k] = (encoding_thread){set, k};
        assert_int_equal(pthread_create(&threads[k], NULL, encode_all, &arguments[k]), 0);
    }
    for (int k = 0; k < THREADS; k++) pthread_join(threads[k], NULL);
    for (int k = 0; k < THREADS; k++)
        for (int i = 0; i < TEXTS; i++) {
            assert_int_equal(set->count[k][i], set->count[0][i]);
            assert_true(set->count[k][i] > 0 || set->size[i] == 0);
            assert_memory_equal(set->ids[k][i], set->ids[0][i], set->count[k][i] * sizeof(uint32_t));
        }
    tokenizer_free(t);
    free(set);
    free(more);
    free(vocab);
}

static void alphabet_is_a_bijection(void **state) {
    (void)state;
    int found = 0;
    for (int i = 0; i < 256; i++) assert_int_equal(char_to_byte(byte_to_char((uint8_t)i)), i);
    for (uint32_t c = 0; c < UNICODE_END; c++) found += char_to_byte(c) >= 0;
    assert_int_equal(found, 256);
    assert_int_equal(byte_to_char(' '), 0x120);
    assert_int_equal(byte_to_char('\n'), 0x10a);
}

static void translates_regular_expressions(void **state) {
    (void)state;
    static const char *const refused[] = {
        "[a[b]]", "[a&&b]",      "\\X",      "\\K",           "\\Gx\\y", "(?<n>a)\\k<n>",
        "(?~a)",  "[[:alpha:]]", "a(?i)b|c", "\\p{Nonsense}", "\\",      "(",
        "a)",     "[a",          "*a",       "\\xff",         "\\p"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        regex *r = NULL;
        if (regex_compile(refused[i], &r) == YX_OK) fail_msg("%s was accepted", refused[i]);
    }
    static const struct {
        const char *pattern, *translation;
    } cases[] = {{"a{,3}", "a{0,3}"},
                 {"a{2}?", "(?:a{2})?"},
                 {"a{1,2}+", "(?:a{1,2})+"},
                 {"a{1,2}?", "a{1,2}?"},
                 {"a++", "a++"},
                 {"a**", "(?:a*)*"},
                 {"{a}", "\\{a\\}"},
                 {"(?m:.)", "(?s:.)"},
                 {"\\h", "[0-9A-Fa-f]"},
                 {"\\v", "\\x{b}"},
                 {"(?=(a)(?!b))", "(?=(a)(?!b))"},
                 {"[]-a]", "[\\]\\x{2d}\\x{61}]"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out;
        if (regex_translate(cases[i].pattern, &out) != YX_OK) fail_msg("%s: %s", cases[i].pattern, yx_message());
        assert_string_equal(out, cases[i].translation);
        free(out);
    }
}

// A pattern that backtracks without end fails; it does not hang.
static void gives_up_on_endless_matches(void **state) {
    (void)state;
    yx_tokenizer *t = must_load((recipe){
        .pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"
                         "\"Regex\":\"(a+)+c|(a*)*d\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL "]}"});
    tokenizer_scratch *s;
    const uint32_t *ids;
    size_t count;
    assert_int_equal(tokenizer_scratch_new(t, &s), YX_OK);
    assert_int_equal(tokenizer_encode(t, s, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", 42, 0, &ids, &count),
                     YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "gives up"));
    tokenizer_scratch_free(s);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(encodes_by_rank),
                                       cmocka_unit_test(leftmost_of_equals),
                                       cmocka_unit_test(merges_long_rows_of_words),
                                       cmocka_unit_test(merges_in_both_forms),
                                       cmocka_unit_test(ignores_merges_when_told),
                                       cmocka_unit_test(refuses_what_it_does_not_support),
                                       cmocka_unit_test(refuses_damaged_files),
                                       cmocka_unit_test(cuts_added_tokens),
                                       cmocka_unit_test(strips_and_judges_words),
                                       cmocka_unit_test(replaces_what_is_not_utf8),
                                       cmocka_unit_test(decodes),
                                       cmocka_unit_test(loads_folders),
                                       cmocka_unit_test(takes_eot_from_the_configuration),
                                       cmocka_unit_test(scanners_equal_pcre2),
                                       cmocka_unit_test(bpe_equals_its_definition),
                                       cmocka_unit_test(finds_where_words_start),
                                       cmocka_unit_test(threads_encode_the_same),
                                       cmocka_unit_test(trie_finds_the_longest),
                                       cmocka_unit_test(long_texts_are_fast),
                                       cmocka_unit_test(alphabet_is_a_bijection),
                                       cmocka_unit_test(translates_regular_expressions),
                                       cmocka_unit_test(gives_up_on_endless_matches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

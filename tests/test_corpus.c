// Documents from files: formats, folders, malformed lines, damaged archives.
#include "common/file.h"
#include "common/log.h"
#include "common/rng.h"
#include "io/corpus.h"
#include "io/corpus_files.h"
#include "io/corpus_json.h"
#include "io/tokenizer_unicode.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <cmocka.h>

static char folder[64];

static const char *in_folder(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static const char *put(const char *name, const void *data, size_t size) {
    const char *path = in_folder(name);
    assert_int_equal(yx_write_file_atomic(path, data, size), YX_OK);
    return path;
}

static const char *put_text(const char *name, const char *text) { return put(name, text, strlen(text)); }

static int setup(void **state) {
    (void)state;
    strcpy(folder, "/tmp/yx-corpus-XXXXXX");
    yx_log_setup(YX_LOG_ERROR, -1);
    return mkdtemp(folder) ? 0 : 1;
}

static int teardown(void **state) {
    (void)state;
    return yx_remove_tree(folder) == YX_OK ? 0 : 1;
}

static corpus *open_one(const char *path, const corpus_options *options) {
    corpus *c = NULL;
    assert_int_equal(corpus_open(&path, 1, options, &c), YX_OK);
    return c;
}

static corpus_document next(corpus *c) {
    corpus_document doc;
    assert_int_equal(corpus_next(c, &doc), YX_OK);
    return doc;
}

static void expect_text(corpus *c, const char *text) {
    corpus_document doc = next(c);
    assert_non_null(doc.text);
    assert_string_equal(doc.text, text);
    assert_int_equal(doc.size, strlen(text));
}

static void expect_end(corpus *c) {
    assert_null(next(c).text);
    assert_null(next(c).text); // stays at the end
}

static void reads_the_fields_of_fineweb_edu(void **state) {
    (void)state;
    corpus *c = open_one(
        put_text("a.jsonl",
                 "{\"text\":\"Grüße \\ud83d\\ude00\\n\",\"id\":\"<urn:1>\",\"score\":3.75,\"int_score\":4,"
                 "\"token_count\":1234,\"language\":\"en\",\"big\":123456789012345678901234567890}\r\n"
                 "\n"
                 "{\"id\": 17, \"text\":\"b\", \"int_score\": 3, \"score\": null}\n"
                 "{\"text\":\"c\",\"id\":\"x\",\"metadata\":{\"score\":2.5,\"token_count\":9,\"language\":\"de\"}}\n"
                 "{\"text\":\"\",\"id\":\"\"}"),
        NULL);
    corpus_document doc = next(c);
    assert_string_equal(doc.text, "Grüße 😀\n");
    assert_int_equal(doc.size, strlen("Grüße 😀\n"));
    assert_string_equal(doc.id, "<urn:1>");
    assert_true(doc.score == 3.75);
    assert_int_equal(doc.token_count, 1234);
    assert_string_equal(doc.language, "en");
    assert_string_equal(doc.source, in_folder("a.jsonl"));
    assert_int_equal(doc.line, 1);
    doc = next(c);
    assert_string_equal(doc.id, "17");
    assert_true(doc.score == 3.0);
    assert_int_equal(doc.token_count, -1);
    assert_null(doc.language);
    assert_int_equal(doc.line, 3);
    doc = next(c);
    assert_true(doc.score == 2.5);
    assert_int_equal(doc.token_count, 9);
    assert_string_equal(doc.language, "de");
    doc = next(c);
    assert_non_null(doc.text);
    assert_int_equal(doc.size, 0);
    assert_null(doc.id);
    assert_true(isnan(doc.score));
    expect_end(c);
    corpus_counts counts = corpus_get_counts(c);
    assert_int_equal(counts.documents, 4);
    assert_int_equal(counts.bytes, strlen("Grüße 😀\n") + 2);
    assert_int_equal(counts.files, 1);
    assert_int_equal(counts.input_bytes, counts.input_total);
    corpus_close(c);
}

static void reads_other_field_names(void **state) {
    (void)state;
    corpus_options options = {.text_field = "content", .id_field = "url", .score_field = "quality"};
    corpus *c = open_one(put_text("fields.jsonl", "{\"content\":\"x\",\"text\":\"y\",\"url\":\"u\",\"quality\":-1}\n"),
                         &options);
    corpus_document doc = next(c);
    assert_string_equal(doc.text, "x");
    assert_string_equal(doc.id, "u");
    assert_true(doc.score == -1.0);
    expect_end(c);
    corpus_close(c);
}

// One line of each kind between good ones; the last is malformed too, so that nothing of it may be returned at the end.
static const char bad_lines[] =
    "{\"text\":\"1\"}\n"
    "{\"text\":\"open\n"
    "[\"text\"]\n"
    "7\n"
    "{\"id\":\"no text\"}\n"
    "{\"text\":[\"a\"]}\n"
    "{\"text\":\"bad \xff byte\"}\n"
    "{\"text\":\"surrogate \\ud800 alone\"}\n"
    "{\"text\":\"nul \\u0000\"}\n"
    "{\"text\":\"2\"}\n"
    "{\"text\":\"a line longer than the limit of eighty bytes ..............................\"}\n"
    "{\"text\":\"3\",\"score\":0}\n"
    "{\"text\":\"last\",\"score\":\"high\"}\n"
    "{\"text\":\"last\",\"token_count\":-4}\n"
    "{\"text\":\"last\",\"language\":false}";

static void skips_and_counts_malformed_lines(void **state) {
    (void)state;
    corpus_options options = {.max_line_bytes = 80};
    corpus *c = open_one(put_text("bad.jsonl", bad_lines), &options);
    for (const char *text = "123"; *text; text++) expect_text(c, (char[]){*text, 0});
    expect_end(c);
    static const int64_t expected[CORPUS_MALFORMED_KINDS] = {
        [CORPUS_BAD_JSON] = 2, [CORPUS_NOT_OBJECT] = 2, [CORPUS_NO_TEXT] = 2,  [CORPUS_BAD_FIELD] = 3,
        [CORPUS_BAD_UTF8] = 1, [CORPUS_NUL] = 1,        [CORPUS_TOO_LONG] = 1,
    };
    assert_memory_equal(corpus_get_counts(c).malformed, expected, sizeof expected);
    corpus_close(c);
}

static void strict_stops_with_file_and_line(void **state) {
    (void)state;
    corpus_options options = {.strict = true};
    corpus *c = open_one(put_text("strict.jsonl", "{\"text\":\"1\"}\n{\"text\":2}\n"), &options);
    corpus_document doc;
    expect_text(c, "1");
    assert_int_equal(corpus_next(c, &doc), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "strict.jsonl:2: no text field"));
    corpus_close(c);
}

static void a_raw_zero_byte_is_malformed(void **state) {
    (void)state;
    static const char line[] = "{\"text\":\"a\0b\"}\n{\"text\":\"good\"}\n";
    corpus *c = open_one(put("nul.jsonl", line, sizeof line - 1), NULL);
    expect_text(c, "good");
    assert_int_equal(corpus_get_counts(c).malformed[CORPUS_NUL], 1);
    corpus_close(c);
}

static void splits_text_files_at_end_of_text_lines(void **state) {
    (void)state;
    corpus *c = open_one(put_text("book.txt", "\xef\xbb\xbfone\ntwo\n<|endoftext|>\r\n \n<|endoftext|>\n"
                                              "an <|endoftext|> inside\n<|endoftext|>\nlast"),
                         NULL);
    corpus_document doc = next(c);
    assert_string_equal(doc.text, "one\ntwo\n");
    assert_int_equal(doc.line, 1);
    assert_null(doc.id);
    doc = next(c);
    assert_string_equal(doc.text, "an <|endoftext|> inside\n");
    assert_int_equal(doc.line, 6);
    expect_text(c, "last");
    expect_end(c);
    corpus_close(c);
}

static void refuses_bad_text_documents_one_by_one(void **state) {
    (void)state;
    static const char text[] = "bad \xc3\n<|endoftext|>\nnul \0\n<|endoftext|>\na long line, too long\nmore\n"
                               "<|endoftext|>\ngood\n";
    corpus_options options = {.max_line_bytes = 16};
    corpus *c = open_one(put("bad.md", text, sizeof text - 1), &options);
    expect_text(c, "good\n");
    expect_end(c);
    corpus_counts counts = corpus_get_counts(c);
    assert_int_equal(counts.malformed[CORPUS_BAD_UTF8], 1);
    assert_int_equal(counts.malformed[CORPUS_NUL], 1);
    assert_int_equal(counts.malformed[CORPUS_TOO_LONG], 1);
    corpus_close(c);
}

// `n` lines with a running number and a varying length; to free().
static char *numbered_lines(int n, size_t *size) {
    char *text = malloc((size_t)n * 400);
    assert_non_null(text);
    size_t used = 0;
    for (int i = 0; i < n; i++)
        used += (size_t)sprintf(
            text + used, "{\"text\":\"%d %.*s\"}\n", i, i % 300,
            "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
            "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
            "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789");
    *size = used;
    return text;
}

static void *gzip(const char *text, size_t size, size_t *packed) {
    z_stream z = {0};
    size_t bound = size + 1024;
    unsigned char *out = malloc(bound);
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)text;
    z.avail_in = (unsigned)size;
    z.next_out = out;
    z.avail_out = (unsigned)bound;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    *packed = z.total_out;
    deflateEnd(&z);
    return out;
}

static void *zstd(const char *text, size_t size, size_t *packed) {
    size_t bound = ZSTD_compressBound(size);
    void *out = malloc(bound);
    *packed = ZSTD_compress(out, bound, text, size, 3);
    assert_false(ZSTD_isError(*packed));
    return out;
}

static void expect_numbers(const char *path, int n) {
    corpus *c = open_one(path, NULL);
    for (int i = 0; i < n; i++) {
        corpus_document doc = next(c);
        assert_non_null(doc.text);
        assert_int_equal(atoi(doc.text), i % 5000);
    }
    expect_end(c);
    corpus_close(c);
}

typedef void *(*packer)(const char *, size_t, size_t *);

// Twice the same archive behind one another, under a name that says nothing.
static void check_archive(packer pack, const char *name) {
    size_t size, packed;
    char *text = numbered_lines(5000, &size);
    char *archive = pack(text, size, &packed);
    char *twice = malloc(packed * 2);
    memcpy(twice, archive, packed);
    memcpy(twice + packed, archive, packed);
    expect_numbers(put(name, archive, packed), 5000);
    expect_numbers(put(name, twice, packed * 2), 10000);
    free(twice);
    free(archive);
    free(text);
}

static void recognises_archives_by_their_first_bytes(void **state) {
    (void)state;
    check_archive(gzip, "one");
    check_archive(zstd, "two.jsonl.gz");
}

// A cut or flipped archive never passes for a shorter corpus: either every line is there, or reading fails.
static void check_damage(packer pack, bool has_checksum) {
    size_t size, packed;
    char *text = numbered_lines(1000, &size);
    char *archive = pack(text, size, &packed);
    for (size_t cut = 6; cut < packed; cut += packed / 19) {
        corpus *c = open_one(put("cut", archive, cut), NULL);
        corpus_document doc;
        yx_status status;
        while ((status = corpus_next(c, &doc)) == YX_OK && doc.text) {
        }
        assert_int_equal(status, YX_ERR_DATA);
        assert_non_null(strstr(yx_message(), "/cut"));
        corpus_close(c);
    }
    archive[packed / 2] ^= 0x20;
    corpus *c = open_one(put("flip", archive, packed), NULL);
    corpus_document doc;
    yx_status status;
    while ((status = corpus_next(c, &doc)) == YX_OK && doc.text) {
    }
    if (has_checksum) assert_int_equal(status, YX_ERR_DATA);
    corpus_close(c);
    free(archive);
    free(text);
}

static void damaged_archives_fail(void **state) {
    (void)state;
    check_damage(gzip, true);
    check_damage(zstd, false);
}

static void reads_folders_in_order(void **state) {
    (void)state;
    assert_int_equal(yx_make_dirs(in_folder("tree/b/deep")), YX_OK);
    put_text("tree/c.jsonl", "{\"text\":\"3\"}\n");
    put_text("tree/b/z.txt", "2");
    put_text("tree/b/deep/x.ndjson", "{\"text\":\"1\"}\n");
    put_text("tree/a.MD", "0");
    put_text("tree/ignored.csv", "no");
    put_text("tree/settings.json", "no");
    put_text("tree/.hidden.txt", "no");
    corpus *c = open_one(in_folder("tree"), NULL);
    for (const char *text = "0123"; *text; text++) expect_text(c, (char[]){*text, 0});
    expect_end(c);
    assert_int_equal(corpus_get_counts(c).files, 4);
    corpus_close(c);
}

static void refuses_what_is_not_there(void **state) {
    (void)state;
    corpus *c = NULL;
    const char *missing = "/nonexistent/corpus.jsonl", *empty = in_folder("empty");
    assert_int_equal(corpus_open(&missing, 1, NULL, &c), YX_ERR_IO);
    assert_non_null(strstr(yx_message(), missing));
    assert_int_equal(yx_make_dirs(empty), YX_OK);
    assert_int_equal(corpus_open(&empty, 1, NULL, &c), YX_ERR_DATA);
    assert_int_equal(corpus_open(NULL, 0, NULL, &c), YX_ERR_USAGE);
    corpus_document doc;
    c = open_one(put("real.parquet", "PAR1....PAR1", 12), NULL);
    assert_int_equal(corpus_next(c, &doc), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "Parquet"));
    corpus_close(c);
}

static void a_loop_of_links_ends(void **state) {
    (void)state;
    corpus *c = NULL;
    const char *loop = in_folder("loop");
    assert_int_equal(yx_make_dirs(loop), YX_OK);
    assert_int_equal(symlink(".", in_folder("loop/again")), 0);
    assert_int_not_equal(corpus_open(&loop, 1, NULL, &c), YX_OK);
}

static void reads_standard_input(void **state) {
    (void)state;
    size_t size, packed;
    char *text = numbered_lines(5000, &size);
    char *archive = zstd(text, size, &packed);
    int saved = dup(STDIN_FILENO);
    assert_non_null(freopen(put("piped", archive, packed), "rb", stdin));
    const char *path = "-";
    corpus *c = open_one(path, NULL);
    for (int i = 0; i < 5000; i++) assert_string_equal(next(c).source, "standard input");
    expect_end(c);
    assert_int_equal(corpus_get_counts(c).input_total, -1);
    corpus_close(c);
    dup2(saved, STDIN_FILENO);
    close(saved);
    free(archive);
    free(text);
}

// --- The JSON reader against jansson --------------------------------------------------------------------------------
static uint64_t draw(uint64_t n) {
    static uint64_t counter;
    return yx_mix64(7, counter++) % n;
}

// Text with all that a string may need: escapes, controls, every length of UTF-8.
static json_t *random_string(void) {
    static const char *const parts[] = {"a plain run of words, longer than eight bytes ",
                                        "\"",
                                        "\\",
                                        "\n",
                                        "\t",
                                        "\x01",
                                        "é",
                                        "漢",
                                        "😀",
                                        "/",
                                        "\x7f",
                                        "u0041",
                                        " "};
    char text[2000] = "";
    for (uint64_t n = draw(25); n > 0; n--) strcat(text, parts[draw(sizeof parts / sizeof *parts)]);
    return json_string(text);
}

static json_t *random_value(int depth) {
    json_t *list;
    switch (draw(depth > 0 ? 7 : 5)) {
    case 0:
        return random_string();
    case 1:
        return json_integer((json_int_t)draw(1 << 20) - (1 << 19));
    case 2:
        return json_real((double)draw(1 << 20) / 4096);
    case 3:
        return json_boolean(draw(2));
    case 4:
        return json_null();
    case 5:
        list = json_array();
        for (uint64_t n = draw(4); n > 0; n--) json_array_append_new(list, random_value(depth - 1));
        return list;
    default:
        list = json_object();
        for (uint64_t n = draw(4); n > 0; n--)
            json_object_set_new(list, draw(2) ? "score" : "other", random_value(depth - 1));
        return list;
    }
}

static char *random_line(void) {
    static const size_t styles[] = {0, JSON_COMPACT, JSON_ENSURE_ASCII, JSON_ESCAPE_SLASH | JSON_INDENT(1)};
    static const char *const names[] = {"id",          "url",      "score",    "int_score",
                                        "token_count", "language", "metadata", "más"};
    json_t *root = json_object();
    if (draw(8)) json_object_set_new(root, "text", random_string());
    for (uint64_t n = draw(5); n > 0; n--) json_object_set_new(root, names[draw(8)], random_value(2));
    char *line = json_dumps(root, styles[draw(4)]);
    json_decref(root);
    return line;
}

// Both readers on the same bytes: they agree on what is JSON, and on the text.
static void compare_readers(const char *line, size_t size) {
    static const corpus_options names = {.text_field = "text",
                                         .id_field = "id",
                                         .score_field = "score",
                                         .token_count_field = "token_count",
                                         .language_field = "language"};
    corpus_json j;
    corpus_document doc;
    corpus_malformed kind = CORPUS_MALFORMED_KINDS;
    json_error_t error;
    char *copy = malloc(size + 1);
    memcpy(copy, line, size);
    copy[size] = 0;
    json_t *root = memchr(line, 0, size) ? NULL : json_loadb(line, size, JSON_DECODE_INT_AS_REAL, &error);
    bool good = corpus_json_parse(&j, copy, size, &names, &doc, &kind);
    bool is_json = good || kind == CORPUS_NO_TEXT || kind == CORPUS_BAD_FIELD;
    bool too_large = !root && json_error_code(&error) == json_error_numeric_overflow; // that only a field's use refuses
    if (is_json != (root != NULL) && !too_large)
        fail_msg("%d, jansson %d (%s): %s", is_json, root != NULL, j.reason, line);
    const json_t *text = json_object_get(root, "text");
    if (root) assert_int_equal(kind == CORPUS_NO_TEXT, !json_is_string(text));
    if (good && root) {
        assert_int_equal(doc.size, json_string_length(text));
        assert_memory_equal(doc.text, json_string_value(text), doc.size + 1);
    }
    json_decref(root);
    free(copy);
}

static void reads_json_as_jansson_does(void **state) {
    (void)state;
    static const char noise[] = "\"\\{}[]:,u0dDeE+-.1 \n\x01\xff\xc3\xa9tn";
    for (int i = 0; i < 20000; i++) {
        char *line = random_line();
        size_t size = strlen(line);
        compare_readers(line, size);
        for (uint64_t n = 1 + draw(3); n > 0; n--) line[draw(size)] = noise[draw(sizeof noise)]; // also a zero byte
        compare_readers(line, size);
        compare_readers(line, draw(size));
        free(line);
    }
    static const char *const hard[] = {"{\"text\":\"\\ud83d\\ude00\"}",
                                       "{\"text\":\"\\ud83d\"}",
                                       "{\"text\":\"\\ude00\\ud83d\"}",
                                       "{\"text\":\"\\ud83d\\u0041\"}",
                                       "{\"text\":\"\\u12G4\"}",
                                       "{\"text\":\"\\u123",
                                       "{\"text\":\"a\",}",
                                       "{\"text\":\"a\"}}",
                                       "{\"text\":\"a\" \"b\":1}",
                                       "{\"x\":01}",
                                       "{\"x\":-}",
                                       "{\"x\":1.}",
                                       "{\"x\":.5}",
                                       "{\"x\":1e}",
                                       "{\"x\":1e+}",
                                       "{\"x\":-0.0E-2}",
                                       "{\"x\":nul}",
                                       "{\"x\":nulll}",
                                       "{\"x\":[1,]}",
                                       "{\"x\":[,1]}",
                                       "{\"x\":{\"y\"}}",
                                       "{x:1}",
                                       "{",
                                       "{}",
                                       "{\"x\":[[[[[[]]]]]]}",
                                       "{\"text\":\"a\"} ",
                                       "{\"text\":\"\t\"}",
                                       "{\"text\":\"\\x\"}"};
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) compare_readers(hard[i], strlen(hard[i]));
}

// 100 MB in one line are skipped piece by piece.
static void a_huge_line_is_skipped(void **state) {
    (void)state;
    FILE *file = fopen(in_folder("huge.jsonl"), "w");
    static char piece[1 << 20];
    memset(piece, 'a', sizeof piece);
    fputs("{\"text\":\"before\"}\n{\"text\":\"", file);
    for (int i = 0; i < 100; i++) fwrite(piece, sizeof piece, 1, file);
    fputs("\"}\n{\"text\":\"behind\"}\n", file);
    fclose(file);
    corpus *c = open_one(in_folder("huge.jsonl"), NULL);
    expect_text(c, "before");
    corpus_document doc = next(c);
    assert_string_equal(doc.text, "behind");
    assert_int_equal(doc.line, 3);
    expect_end(c);
    assert_int_equal(corpus_get_counts(c).malformed[CORPUS_TOO_LONG], 1);
    corpus_close(c);
    assert_int_equal(unlink(in_folder("huge.jsonl")), 0);
}

// Lines end at, before and behind the borders of what is read at once, and keep their text.
static void lines_across_pieces_are_whole(void **state) {
    (void)state;
    enum { PIECE = 1 << 17 };
    for (int shift = -3; shift <= 3; shift++) {
        FILE *file = fopen(in_folder("pieces.jsonl"), "w");
        int length = PIECE / 2 + shift - (int)strlen("{\"text\":\"\"}\n");
        for (int i = 0; i < 9; i++) fprintf(file, "{\"text\":\"%d%*d\"}\n", i, length - 1, i);
        fclose(file);
        corpus *c = open_one(in_folder("pieces.jsonl"), NULL);
        for (int i = 0; i < 9; i++) {
            corpus_document doc = next(c);
            assert_int_equal(doc.size, length);
            assert_int_equal(doc.text[0], '0' + i);
            assert_int_equal(doc.text[length - 1], '0' + i);
            assert_int_equal(strlen(doc.text), length);
        }
        expect_end(c);
        corpus_close(c);
    }
}

static void a_rounded_score_is_told_apart(void **state) {
    (void)state;
    corpus *c = open_one(put_text("rounded.jsonl", "{\"text\":\"a\",\"score\":3.7,\"int_score\":4}\n"
                                                   "{\"text\":\"b\",\"int_score\":4}\n{\"text\":\"c\"}\n"
                                                   "{\"text\":\"d\",\"score\":1e999}\n"),
                         NULL);
    assert_false(next(c).rounded_score);
    corpus_document doc = next(c);
    assert_true(doc.rounded_score && doc.score == 4);
    assert_false(next(c).rounded_score);
    expect_end(c);
    assert_int_equal(corpus_get_counts(c).malformed[CORPUS_BAD_FIELD], 1);
    corpus_close(c);
}

// A pipe that stays silent does not hold up the end.
static void waiting_for_a_pipe_can_be_stopped(void **state) {
    (void)state;
    static atomic_bool stop;
    int ends[2], saved = dup(STDIN_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "{\"text\":\"one\"}\n", 16), 16);
    dup2(ends[0], STDIN_FILENO);
    corpus_options options = {.stop = &stop};
    corpus *c = open_one("-", &options);
    corpus_document doc;
    expect_text(c, "one");
    stop = 1;
    assert_int_equal(corpus_next(c, &doc), YX_ERR_INTERRUPTED);
    corpus_close(c);
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(ends[0]);
    close(ends[1]);
}

static void checks_utf8(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t good;
    } cases[] = {{"plain", 5},           {"é€😀\x7f", 10},         {"\xc0\x80", 0},         {"\xe0\x9f\xbf", 0},
                 {"ab\xed\xa0\x80", 2},  {"\xf0\x8f\xbf\xbf", 0}, {"\xf4\x90\x80\x80", 0}, {"\xf4\x8f\xbf\xbf", 4},
                 {"12345678\x80", 8},    {"\xe2\x82", 0},         {"\xf5\x80\x80\x80", 0}, {"a\xc3(", 1},
                 {"\xed\x9f\xbf\xff", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(unicode_valid_prefix((const uint8_t *)cases[i].text, strlen(cases[i].text)), cases[i].good);
}

static void knows_endings(void **state) {
    (void)state;
    assert_int_equal(corpus_file_kind_of("a.jsonl.zst"), CORPUS_FILE_JSONL);
    assert_int_equal(corpus_file_kind_of("c4.json.gz"), CORPUS_FILE_JSONL);
    assert_int_equal(corpus_file_kind_of("c4.json"), CORPUS_FILE_UNKNOWN);
    assert_int_equal(corpus_file_kind_of("book.txt.gz"), CORPUS_FILE_TEXT);
    assert_int_equal(corpus_file_kind_of("README.md"), CORPUS_FILE_TEXT);
    assert_int_equal(corpus_file_kind_of(".txt"), CORPUS_FILE_UNKNOWN);
    assert_int_equal(corpus_file_kind_of("x.zst"), CORPUS_FILE_UNKNOWN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_fields_of_fineweb_edu),
        cmocka_unit_test(reads_other_field_names),
        cmocka_unit_test(skips_and_counts_malformed_lines),
        cmocka_unit_test(strict_stops_with_file_and_line),
        cmocka_unit_test(a_raw_zero_byte_is_malformed),
        cmocka_unit_test(splits_text_files_at_end_of_text_lines),
        cmocka_unit_test(refuses_bad_text_documents_one_by_one),
        cmocka_unit_test(recognises_archives_by_their_first_bytes),
        cmocka_unit_test(damaged_archives_fail),
        cmocka_unit_test(reads_folders_in_order),
        cmocka_unit_test(refuses_what_is_not_there),
        cmocka_unit_test(a_loop_of_links_ends),
        cmocka_unit_test(reads_standard_input),
        cmocka_unit_test(reads_json_as_jansson_does),
        cmocka_unit_test(a_huge_line_is_skipped),
        cmocka_unit_test(lines_across_pieces_are_whole),
        cmocka_unit_test(a_rounded_score_is_told_apart),
        cmocka_unit_test(waiting_for_a_pipe_can_be_stopped),
        cmocka_unit_test(checks_utf8),
        cmocka_unit_test(knows_endings),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

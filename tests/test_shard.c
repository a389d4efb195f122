// Shards and data sets: what is written comes back, and nothing damaged or foreign passes for a shard.
#include "tests/dataset_fixture.h"
#include "common/hash.h"
#include "io/shard_file.h"
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>

// HDF5 1.10 itself loses 424 bytes for each damaged object header it refuses.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static char folder[64];

static int setup(void **state) {
    (void)state;
    fixture_temporary(folder, "shard");
    fixture_make(folder, 3, 400, 50);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    return yx_remove_tree(folder) == YX_OK ? 0 : 1;
}

static const char *in_folder(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static dataset *open_split(const char *split) {
    dataset *d = NULL;
    yx_status status = dataset_open(folder, split, true, &d);
    if (status != YX_OK) fail_msg("%s", yx_message());
    return d;
}

static void returns_what_was_written(void **state) {
    (void)state;
    dataset *d = open_split("train");
    const dataset_info *info = dataset_get_info(d);
    assert_int_equal(info->num_docs, 1200);
    assert_int_equal(info->n_shards, 3);
    assert_string_equal(info->tokenizer_sha256, FIXTURE_SHA);
    int64_t token = 0, bytes = 0;
    uint64_t *offsets = malloc(1200 * sizeof *offsets);
    uint32_t *doc_bytes = malloc(1200 * sizeof *doc_bytes);
    uint32_t *all = malloc((size_t)info->num_tokens * sizeof *all);
    assert_int_equal(dataset_read_docs(d, 0, 1200, offsets, doc_bytes), YX_OK);
    assert_int_equal(dataset_read(d, 0, info->num_tokens, all), YX_OK);
    for (int64_t doc = 0; doc < 1200; doc++) {
        assert_int_equal(offsets[doc], token);
        assert_int_equal(doc_bytes[doc], fixture_bytes(doc));
        bytes += doc_bytes[doc];
        assert_int_equal(all[token++], FIXTURE_EOT);
        for (size_t i = 0; i < fixture_length(doc); i++) assert_int_equal(all[token++], fixture_id(doc, i));
    }
    assert_int_equal(token, info->num_tokens);
    assert_int_equal(bytes, info->num_bytes);
    free(offsets);
    free(doc_bytes);
    free(all);
    dataset_close(d);
}

static void reads_any_range_across_shards(void **state) {
    (void)state;
    dataset *d = open_split("train");
    int64_t n = dataset_get_info(d)->num_tokens;
    uint32_t *all = malloc((size_t)n * sizeof *all), *part = malloc((size_t)n * sizeof *part);
    assert_int_equal(dataset_read(d, 0, n, all), YX_OK);
    for (int64_t begin = 0; begin < n; begin += 9973)
        for (int64_t count = 1; begin + count <= n; count = count * 3 + 1) {
            assert_int_equal(dataset_read(d, begin, count, part), YX_OK);
            assert_memory_equal(part, all + begin, (size_t)count * 4);
        }
    assert_int_equal(dataset_read(d, n, 0, part), YX_OK);
    assert_int_equal(dataset_read(d, n, 1, part), YX_ERR_INTERNAL);
    assert_int_equal(dataset_read(d, -1, 2, part), YX_ERR_INTERNAL);
    uint64_t offsets[3];
    uint32_t bytes[3];
    assert_int_equal(dataset_read_docs(d, 399, 3, offsets, bytes), YX_OK); // over the shards' border
    for (int i = 0; i < 3; i++) {
        assert_int_equal(all[offsets[i]], FIXTURE_EOT);
        assert_int_equal(bytes[i], fixture_bytes(399 + i));
    }
    assert_int_equal(dataset_read_docs(d, 1198, 3, offsets, bytes), YX_ERR_INTERNAL);
    free(all);
    free(part);
    dataset_close(d);
}

static void records_provenance_scores_and_hashes(void **state) {
    (void)state;
    shard_file f;
    float scores[400];
    uint64_t hashes[400];
    assert_int_equal(shard_file_open(in_folder("train-00001.h5"), &f), YX_OK);
    assert_string_equal(f.split, "train");
    assert_string_equal(f.source, "fixture");
    assert_string_equal(f.filter, "none");
    assert_string_equal(f.writer, "yxanul " YX_VERSION);
    assert_int_equal(f.shard_index, 1);
    assert_int_equal(f.vocab_size, FIXTURE_VOCAB);
    assert_int_equal(shard_file_read_docs(&f, 0, 400, NULL, NULL, scores, hashes), YX_OK);
    for (int i = 0; i < 400; i++) {
        float expected = fixture_score(400 + i);
        assert_true(isnan(expected) ? isnan(scores[i]) : scores[i] == expected);
        assert_int_equal(hashes[i], fixture_hash(400 + i));
    }
    shard_file_close(&f);
    assert_true(shard_file_is_shard(in_folder("train-00001.h5")));
    assert_false(shard_file_is_shard(in_folder("manifest.json")));
}

static void the_writer_refuses_bad_ids(void **state) {
    (void)state;
    shard_provenance provenance = fixture_provenance("train");
    shard_writer *w;
    assert_int_equal(shard_writer_open(in_folder("refused.h5"), 0, &provenance, &w), YX_OK);
    assert_int_equal(shard_writer_add(w, (uint32_t[]){1, FIXTURE_VOCAB}, 2, 1, 0, 0), YX_ERR_DATA);
    assert_int_equal(shard_writer_add(w, (uint32_t[]){1, FIXTURE_EOT}, 2, 1, 0, 0), YX_ERR_DATA);
    assert_int_equal(shard_writer_tokens(w), 0);
    assert_int_equal(shard_writer_close(w, NULL), YX_ERR_INTERNAL); // no documents
    assert_false(yx_path_exists(in_folder("refused.h5")));
}

static void the_same_input_gives_the_same_bytes(void **state) {
    (void)state;
    char other[64], a[YX_SHA256_HEX], b[YX_SHA256_HEX];
    fixture_temporary(other, "shard");
    sleep(1); // a time stamp in the file would differ
    fixture_make(other, 3, 400, 50);
    char path[256];
    snprintf(path, sizeof path, "%s/train-00002.h5", other);
    assert_int_equal(yx_sha256_file(path, a), YX_OK);
    assert_int_equal(yx_sha256_file(in_folder("train-00002.h5"), b), YX_OK);
    assert_string_equal(a, b);
    assert_int_equal(yx_remove_tree(other), YX_OK);
}

static int count_entries(const char *dir) {
    char command[300];
    int n = -1;
    snprintf(command, sizeof command, "ls -A %s | wc -l", dir);
    FILE *pipe = popen(command, "r");
    assert_int_equal(fscanf(pipe, "%d", &n), 1);
    pclose(pipe);
    return n;
}

static void an_aborted_shard_leaves_nothing(void **state) {
    (void)state;
    shard_provenance provenance = fixture_provenance("train");
    shard_writer *w;
    int before = count_entries(folder);
    assert_int_equal(shard_writer_open(in_folder("aborted.h5"), 0, &provenance, &w), YX_OK);
    fixture_add(w, 5);
    assert_int_equal(count_entries(folder), before);
    shard_writer_abort(w);
    assert_int_equal(count_entries(folder), before);
}

// A file-size limit stands for a full disk: writing fails at every stage, with one message and no file.
static void a_full_disk_leaves_nothing(void **state) {
    (void)state;
    shard_provenance provenance = fixture_provenance("train");
    struct rlimit old, small;
    int before = count_entries(folder);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (rlim_t limit = 100; limit < 2000000; limit = limit * 3 / 2) {
        shard_writer *w;
        assert_int_equal(shard_writer_open(in_folder("full.h5"), 0, &provenance, &w), YX_OK);
        for (int64_t doc = 0; doc < 1500; doc++) fixture_add(w, doc);
        small = (struct rlimit){limit, old.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        yx_status status = shard_writer_close(w, NULL);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(status, YX_ERR_IO);
        assert_non_null(strstr(yx_message(), "full.h5"));
        assert_non_null(strstr(yx_message(), "File too large"));
        assert_int_equal(count_entries(folder), before);
    }
}

// Beyond the writer's buffer the tokens go to their place before the rest of the file is known.
static void large_shards_are_written_in_place(void **state) {
    (void)state;
    enum { DOCUMENTS = 700, LENGTH = 1000 };
    shard_provenance provenance = fixture_provenance("train");
    uint32_t ids[LENGTH], *read = malloc((LENGTH + 1) * sizeof *read);
    char given[YX_SHA256_HEX], found[YX_SHA256_HEX];
    int before = count_entries(folder);
    for (int aborts = 1; aborts >= 0; aborts--) {
        shard_writer *w;
        assert_int_equal(shard_writer_open(in_folder("large.h5"), 0, &provenance, &w), YX_OK);
        for (uint32_t doc = 0; doc < DOCUMENTS; doc++) {
            for (uint32_t i = 0; i < LENGTH; i++) ids[i] = (doc * 7919 + i * 31) % FIXTURE_EOT;
            assert_int_equal(shard_writer_add(w, ids, LENGTH, 5, 0, doc), YX_OK);
        }
        if (aborts) shard_writer_abort(w);
        else assert_int_equal(shard_writer_close(w, given), YX_OK);
        assert_int_equal(count_entries(folder), before + !aborts);
    }
    shard_file f;
    assert_int_equal(yx_sha256_file(in_folder("large.h5"), found), YX_OK);
    assert_string_equal(given, found);
    assert_int_equal(shard_file_open(in_folder("large.h5"), &f), YX_OK);
    assert_int_equal(f.num_tokens, DOCUMENTS * (LENGTH + 1));
    for (uint32_t doc = 0; doc < DOCUMENTS; doc++) {
        assert_int_equal(shard_file_read_tokens(&f, doc * (LENGTH + 1), LENGTH + 1, read), YX_OK);
        assert_int_equal(read[0], FIXTURE_EOT);
        for (uint32_t i = 0; i < LENGTH; i++) assert_int_equal(read[i + 1], (doc * 7919 + i * 31) % FIXTURE_EOT);
    }
    shard_file_close(&f);
    free(read);
    assert_int_equal(unlink(in_folder("large.h5")), 0);
}

static void a_disk_that_fills_while_adding_leaves_nothing(void **state) {
    (void)state;
    shard_provenance provenance = fixture_provenance("train");
    struct rlimit old, small;
    shard_writer *w;
    yx_status status = YX_OK;
    int before = count_entries(folder);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(shard_writer_open(in_folder("full.h5"), 0, &provenance, &w), YX_OK);
    small = (struct rlimit){1500000, old.rlim_max}; // more than the buffer, less than two
    setrlimit(RLIMIT_FSIZE, &small);
    uint32_t ids[1000] = {0};
    for (int doc = 0; doc < 1000 && status == YX_OK; doc++) status = shard_writer_add(w, ids, 1000, 1, 0, 0);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, YX_ERR_IO);
    assert_non_null(strstr(yx_message(), "File too large"));
    shard_writer_abort(w);
    assert_int_equal(count_entries(folder), before);
}

// --- Damage ---------------------------------------------------------------------------------------------------------
static char *shard_bytes(const char *name, size_t *size) {
    char *data;
    assert_int_equal(yx_read_file(in_folder(name), 1 << 30, &data, size), YX_OK);
    return data;
}

static yx_status open_bytes(const void *data, size_t size, bool verify) {
    shard_file f;
    char digest[YX_SHA256_HEX];
    const char *path = in_folder("damaged.h5");
    assert_int_equal(yx_write_file_atomic(path, data, size), YX_OK);
    yx_status status = shard_file_open(path, &f);
    if (status == YX_OK && verify) status = shard_file_verify(&f, digest);
    shard_file_close(&f);
    if (status != YX_OK) assert_non_null(strstr(yx_message(), "damaged.h5"));
    return status;
}

static void refuses_cut_off_files(void **state) {
    (void)state;
    size_t size;
    char *data = shard_bytes("validation-00000.h5", &size);
    assert_int_equal(open_bytes(data, 0, false), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "is empty"));
    for (size_t cut = 1; cut < size; cut += size / 60) assert_int_equal(open_bytes(data, cut, false), YX_ERR_DATA);
    assert_int_equal(open_bytes(data, size - 1, false), YX_ERR_DATA);
    free(data);
}

// Where the content of the data sets lies: flips there are found by the checks of this format, not by HDF5.
static bool is_content(const shard_file *f, size_t at) {
    int64_t p = (int64_t)at, d = f->num_docs;
    int64_t blocks = (f->num_tokens + SHARD_BLOCK - 1) / SHARD_BLOCK;
    return (p >= f->tokens_at && p < f->tokens_at + f->num_tokens * 4) ||
           (p >= f->offsets_at && p < f->offsets_at + (d + 1) * 8) || (p >= f->bytes_at && p < f->bytes_at + d * 4) ||
           (p >= f->crc_at && p < f->crc_at + blocks * 4);
}

static bool is_unchecked_content(const shard_file *f, size_t at) {
    int64_t p = (int64_t)at, d = f->num_docs;
    return (p >= f->scores_at && p < f->scores_at + d * 4) || (p >= f->hashes_at && p < f->hashes_at + d * 8);
}

// Every flipped bit of the content is found; of HDF5's metadata, every one that matters (some bytes are unused space).
// The scores and hashes are under the file's SHA-256 in the manifest only.
static void finds_flipped_bits(void **state) {
    (void)state;
    size_t size, metadata = 0, found = 0;
    char *data = shard_bytes("validation-00000.h5", &size);
    shard_file good;
    assert_int_equal(shard_file_open(in_folder("validation-00000.h5"), &good), YX_OK);
    for (size_t at = 0; at < size; at += is_content(&good, at) || is_unchecked_content(&good, at) ? 97 : 1) {
        if (is_unchecked_content(&good, at)) continue;
        char old = data[at];
        data[at] ^= (char)(1 << at % 8);
        yx_status status = open_bytes(data, size, true);
        data[at] = old;
        assert_true(status == YX_OK || status == YX_ERR_DATA || status == YX_ERR_NO_MEMORY);
        if (is_content(&good, at)) {
            assert_int_equal(status, YX_ERR_DATA);
        } else {
            metadata++;
            found += status != YX_OK;
        }
    }
    assert_true(found * 2 > metadata);
    shard_file_close(&good);
    free(data);
}

static void refuses_other_files(void **state) {
    (void)state;
    char *old_format = NULL;
    size_t size;
    assert_int_equal(open_bytes("{\"not\": \"a shard\"}", 18, false), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "not an HDF5 file"));
    hid_t file = H5Fcreate(in_folder("other.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT); // superblock version 0
    H5Fclose(file);
    old_format = shard_bytes("other.h5", &size);
    assert_int_equal(open_bytes(old_format, size, false), YX_ERR_DATA);
    assert_non_null(strstr(yx_message(), "superblock"));
    free(old_format);
    assert_int_equal(unlink(in_folder("other.h5")), 0);
}

// --- Data sets

// Makes a data set in its own folder, lets `spoil` loose on it and expects `status` with `text` in the message.
static void expect_refusal(void (*spoil)(const char *dir), yx_status expected, const char *text) {
    char dir[64];
    dataset *d = NULL;
    fixture_temporary(dir, "spoiled");
    fixture_make(dir, 2, 30, 5);
    spoil(dir);
    assert_int_equal(dataset_open(dir, "train", true, &d), expected);
    if (!strstr(yx_message(), text)) fail_msg("'%s' is not in: %s", text, yx_message());
    assert_int_equal(yx_remove_tree(dir), YX_OK);
}

static const char *path_in(const char *dir, const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void remove_manifest(const char *dir) { unlink(path_in(dir, "manifest.json")); }
static void remove_shard(const char *dir) { unlink(path_in(dir, "train-00001.h5")); }
static void break_manifest(const char *dir) { yx_write_file_atomic(path_in(dir, "manifest.json"), "{", 1); }
static void foreign_manifest(const char *dir) {
    static const char text[] = "{\"format\": \"something\"}";
    yx_write_file_atomic(path_in(dir, "manifest.json"), text, sizeof text - 1);
}

static void swap_shards(const char *dir) {
    char a[256], b[256];
    snprintf(a, sizeof a, "%s/train-00000.h5", dir);
    snprintf(b, sizeof b, "%s/train-00001.h5", dir);
    assert_int_equal(rename(a, b), 0);
    fixture_make(dir, 1, 30, 5);
    shard_manifest m = fixture_manifest();
    unlink(a);
    fixture_add_shard(dir, &m, MANIFEST_TRAIN, 0, 30);
    manifest_shard second = m.splits[0].shards[0];
    strcpy(second.file, "train-00001.h5");
    assert_int_equal(manifest_add_shard(&m.splits[0], &second), YX_OK);
    fixture_write_manifest(dir, &m);
    manifest_free(&m);
}

// Replaces `from` by `to` (of the same length) in the manifest.
static void edit(const char *dir, const char *from, const char *to) {
    char *text;
    size_t size;
    assert_int_equal(strlen(from), strlen(to));
    assert_int_equal(yx_read_file(path_in(dir, "manifest.json"), 1 << 20, &text, &size), YX_OK);
    char *at = strstr(text, from);
    assert_non_null(at);
    memcpy(at, to, strlen(to));
    assert_int_equal(yx_write_file_atomic(path_in(dir, "manifest.json"), text, size), YX_OK);
    free(text);
}

static void other_tokenizer(const char *dir) { edit(dir, "\"sha256\": \"0123", "\"sha256\": \"ffff"); }
static void other_vocabulary(const char *dir) { edit(dir, "200005", "210005"); }
static void escaping_name(const char *dir) { edit(dir, "train-00000.h5", "../in-0000.h5x"); }
static void wrong_sum(const char *dir) { edit(dir, "\"n_tokens\": ", "\"n_tokens\":9"); }
static void newer_version(const char *dir) { edit(dir, "\"version\": 1", "\"version\": 2"); }

static void flip_score(const char *dir) {
    shard_file f;
    char path[256], byte;
    snprintf(path, sizeof path, "%s/train-00001.h5", dir);
    assert_int_equal(shard_file_open(path, &f), YX_OK);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, f.scores_at + 5), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, f.scores_at + 5), 1);
    close(fd);
    shard_file_close(&f);
}

static void grow_file(const char *dir) {
    int fd = open(path_in(dir, "train-00000.h5"), O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
}

static void leak_a_document(const char *dir) {
    shard_manifest m = fixture_manifest();
    fixture_add_shard(dir, &m, MANIFEST_TRAIN, 0, 30);
    fixture_add_shard(dir, &m, MANIFEST_TRAIN, 30, 30);
    fixture_add_shard(dir, &m, MANIFEST_VALIDATION, 47, 1);
    fixture_write_manifest(dir, &m);
    manifest_free(&m);
}

static void no_training_shards(const char *dir) {
    shard_manifest m = fixture_manifest();
    fixture_add_shard(dir, &m, MANIFEST_VALIDATION, 47, 1);
    fixture_write_manifest(dir, &m);
    manifest_free(&m);
}

static void refuses_data_sets_that_do_not_fit(void **state) {
    (void)state;
    expect_refusal(remove_manifest, YX_ERR_DATA, "not a data set");
    expect_refusal(break_manifest, YX_ERR_DATA, "not valid JSON");
    expect_refusal(foreign_manifest, YX_ERR_DATA, "\"something\"");
    expect_refusal(newer_version, YX_ERR_DATA, "version 2");
    expect_refusal(remove_shard, YX_ERR_IO, "train-00001.h5");
    expect_refusal(swap_shards, YX_ERR_MISMATCH, "train-00001.h5 is shard 0");
    expect_refusal(other_tokenizer, YX_ERR_MISMATCH, "another tokenizer");
    expect_refusal(other_vocabulary, YX_ERR_MISMATCH, "vocabulary 200005");
    expect_refusal(escaping_name, YX_ERR_DATA, "not the name of a shard");
    expect_refusal(wrong_sum, YX_ERR_DATA, "\"n_tokens\" says");
    expect_refusal(flip_score, YX_ERR_DATA, "SHA-256");
    expect_refusal(grow_file, YX_ERR_DATA, "its manifest says");
    expect_refusal(leak_a_document, YX_ERR_DATA, "also in the validation split");
    expect_refusal(no_training_shards, YX_ERR_DATA, "has no train documents");
    dataset *d = NULL;
    assert_int_equal(dataset_open("/nonexistent/data", "train", false, &d), YX_ERR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(returns_what_was_written),
        cmocka_unit_test(reads_any_range_across_shards),
        cmocka_unit_test(records_provenance_scores_and_hashes),
        cmocka_unit_test(the_writer_refuses_bad_ids),
        cmocka_unit_test(the_same_input_gives_the_same_bytes),
        cmocka_unit_test(an_aborted_shard_leaves_nothing),
        cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(large_shards_are_written_in_place),
        cmocka_unit_test(a_disk_that_fills_while_adding_leaves_nothing),
        cmocka_unit_test(refuses_cut_off_files),
        cmocka_unit_test(finds_flipped_bits),
        cmocka_unit_test(refuses_other_files),
        cmocka_unit_test(refuses_data_sets_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

// Micro-batches against the order and the stream read directly; splitting, cancelling, failing.
#include "tests/dataset_fixture.h"
#include "common/hash.h"
#include "io/loader.h"

enum { M = 6144, LENGTHS = 10 };
static const int64_t lengths[LENGTHS] = {8, 16, 32, 64, 128, 256, 512, 768, 1536, 2048};

static char folder[64], exact_folder[64];
static dataset *data;
static uint32_t *stream; // [num_tokens + 1], the first token again at the end

static void read_stream(void) {
    int64_t n = dataset_get_info(data)->num_tokens;
    stream = malloc((size_t)(n + 1) * sizeof *stream);
    assert_int_equal(dataset_read(data, 0, n, stream), YX_OK);
    stream[n] = FIXTURE_EOT;
}

static int setup(void **state) {
    (void)state;
    fixture_temporary(folder, "loader");
    fixture_make(folder, 2, 150, 20);
    assert_int_equal(dataset_open(folder, "train", false, &data), YX_OK);
    read_stream();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    dataset_close(data);
    free(stream);
    return yx_remove_tree(folder) == YX_OK ? 0 : 1;
}

static data_order fixture_order(void) {
    return (data_order){
        .seed = 5, .blocks_per_epoch = dataset_get_info(data)->num_tokens / ORDER_BLOCK_TOKENS, .window_blocks = 4};
}

static loader *open_loader(bool document_mask, int depth) {
    data_order o = fixture_order();
    loader *l = NULL;
    assert_int_equal(loader_open(data, &o, document_mask, depth, 1, M, &l), YX_OK);
    return l;
}

static const micro_batch *next(loader *l) {
    const micro_batch *b = NULL;
    if (loader_next(l, &b) != YX_OK) fail_msg("%s", yx_message());
    return b;
}

// A sequence of a batch against the stream: inputs, targets, and who sees whom.
static void check_sequence(const micro_batch *b, int64_t at, const uint32_t *expected, int64_t n, bool document_mask) {
    int64_t start = at;
    for (int64_t i = 0; i < n; i++) {
        if (document_mask && expected[i] == FIXTURE_EOT) start = at + i;
        assert_int_equal(b->token[at + i], expected[i]);
        assert_int_equal(b->target[at + i], expected[i + 1]);
        assert_int_equal(b->seq_start[at + i], start);
    }
}

static void check_padding(const micro_batch *b) {
    for (int64_t i = b->num_scored; i < b->num_tokens; i++) {
        assert_int_equal(b->token[i], 0);
        assert_int_equal(b->target[i], -1);
        assert_int_equal(b->seq_start[i], i);
    }
}

// Takes a step's micro-batches and checks every position; returns the sum of the hashes.
static uint64_t check_step(loader *l, const load_request *r, bool document_mask) {
    data_order o = fixture_order();
    int64_t per = r->micro_tokens / r->seq_len, done = 0;
    uint64_t hash = 0;
    for (int64_t k = 0; k < loader_num_micro_batches(r); k++) {
        const micro_batch *b = next(l);
        int64_t n = r->num_sequences - done < per ? r->num_sequences - done : per;
        assert_int_equal(b->num_tokens, r->micro_tokens);
        assert_int_equal(b->num_scored, n * r->seq_len);
        for (int64_t i = 0; i < n; i++, done++) {
            int64_t token;
            order_sequence(&o, r->position + (r->first_sequence + done) * r->seq_len, r->seq_len, &token);
            check_sequence(b, i * r->seq_len, stream + token, r->seq_len, document_mask);
        }
        check_padding(b);
        hash += b->token_hash;
    }
    assert_int_equal(done, r->num_sequences);
    return hash;
}

static uint64_t run_step(loader *l, const load_request *r, bool document_mask) {
    assert_int_equal(loader_request(l, r), YX_OK);
    return check_step(l, r, document_mask);
}

static void gives_every_length_in_the_documented_order(void **state) {
    (void)state;
    for (int mask = 0; mask < 2; mask++) {
        loader *l = open_loader(mask, 2);
        int64_t position = 0;
        for (int i = 0; i < LENGTHS; i++) {
            // Five blocks a step: over window borders, and over the end of the epoch.
            load_request r = {position, lengths[i], 0, 5 * ORDER_BLOCK_TOKENS / lengths[i], M};
            run_step(l, &r, mask);
            position += 5 * ORDER_BLOCK_TOKENS;
        }
        assert_true(position > dataset_get_info(data)->num_tokens);
        loader_close(l);
    }
}

static void the_hash_does_not_depend_on_the_split(void **state) {
    (void)state;
    loader *l = open_loader(true, 3);
    load_request whole = {12288, 64, 0, 300, M};
    uint64_t expected = run_step(l, &whole, true);
    static const int64_t micros[] = {128, 1024, 3200, M};
    for (int ranks = 1; ranks <= 7; ranks += 3)
        for (size_t m = 0; m < 4; m++) {
            uint64_t sum = 0;
            for (int r = 0; r < ranks; r++) {
                int64_t first = 300 * r / ranks, end = 300 * (r + 1) / ranks;
                load_request part = {12288, 64, first, end - first, micros[m]};
                sum += run_step(l, &part, true);
            }
            assert_int_equal(sum, expected);
        }
    load_request elsewhere = {12288 + 64, 64, 0, 300, M};
    assert_int_not_equal(run_step(l, &elsewhere, true), expected);
    loader_close(l);
}

static void a_rank_without_sequences_gets_padding(void **state) {
    (void)state;
    loader *l = open_loader(true, 2);
    load_request r = {0, 2048, 7, 0, 2048};
    assert_int_equal(loader_num_micro_batches(&r), 1);
    assert_int_equal(run_step(l, &r, true), 0);
    loader_close(l);
}

static void prepares_steps_ahead_and_keeps_two(void **state) {
    (void)state;
    loader *l = open_loader(true, 2);
    load_request r[LOADER_MAX_STEPS];
    for (int i = 0; i < LOADER_MAX_STEPS; i++) {
        r[i] = (load_request){i * 2048, 128, 0, 16, 1024};
        assert_int_equal(loader_request(l, &r[i]), YX_OK);
    }
    assert_int_equal(loader_request(l, &r[0]), YX_ERR_INTERNAL);
    const micro_batch *first = next(l);
    int32_t copy[1024];
    memcpy(copy, first->token, sizeof copy);
    const micro_batch *second = next(l);
    usleep(20000); // the thread fills everything it may
    assert_memory_equal(first->token, copy, sizeof copy);
    assert_ptr_not_equal(first, second);
    assert_int_equal(loader_request(l, &r[0]), YX_OK); // the first step is taken
    for (int i = 1; i < LOADER_MAX_STEPS; i++) check_step(l, &r[i], true);
    check_step(l, &r[0], true);
    const micro_batch *none;
    assert_int_equal(loader_next(l, &none), YX_ERR_INTERNAL);
    loader_close(l);
}

static void cancelling_drops_what_was_requested(void **state) {
    (void)state;
    loader *l = open_loader(true, 4);
    load_request old = {0, 8, 0, 3000, 1024}, new = {61440, 256, 0, 20, M};
    for (int i = 0; i < 200; i++) {
        for (int k = 0; k < 1 + i % LOADER_MAX_STEPS; k++) assert_int_equal(loader_request(l, &old), YX_OK);
        for (int k = 0; k < i % 5; k++) next(l);
        loader_cancel(l);
        run_step(l, &new, true);
    }
    assert_int_equal(loader_request(l, &old), YX_OK);
    loader_close(l); // in the middle of a step
}

static void refuses_impossible_requests(void **state) {
    (void)state;
    loader *l = open_loader(true, 2);
    static const load_request bad[] = {{0, 5, 0, 1, M},  {0, 2048, 0, 1, 1024}, {0, 8, 0, 1, 2 * M},
                                       {4, 8, 0, 1, M},  {0, 8, -1, 1, M},      {0, 8, 0, -1, M},
                                       {-8, 8, 0, 1, M}, {0, 8, 0, 1, 1000},    {0, 0, 0, 1, M}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(loader_request(l, &bad[i]), YX_ERR_INTERNAL);
    loader_close(l);
    data_order o = fixture_order();
    o.blocks_per_epoch++;
    assert_int_equal(loader_open(data, &o, true, 2, 1, M, &l), YX_ERR_INTERNAL);
    o = fixture_order();
    assert_int_equal(loader_open(data, &o, true, 1, 1, M, &l), YX_ERR_INTERNAL);
    assert_int_equal(loader_open(data, &o, true, 2, 1, M + 1, &l), YX_ERR_INTERNAL);
}

// A shard that is cut while it is open: the thread's failure arrives at the caller, and a cancel clears it.
static void hands_over_failures_of_the_thread(void **state) {
    (void)state;
    char dir[64], path[128];
    dataset *broken;
    fixture_temporary(dir, "loader");
    fixture_make(dir, 2, 150, 0);
    assert_int_equal(dataset_open(dir, "train", false, &broken), YX_OK);
    data_order o = fixture_order();
    loader *l;
    const micro_batch *b;
    assert_int_equal(loader_open(broken, &o, true, 2, 1, M, &l), YX_OK);
    snprintf(path, sizeof path, "%s/train-00000.h5", dir);
    assert_int_equal(truncate(path, 4096), 0);
    load_request r = {0, 2048, 0, 3 * 4, M};
    for (int again = 0; again < 2; again++) {
        yx_status status = YX_OK;
        assert_int_equal(loader_request(l, &r), YX_OK);
        for (int i = 0; i < 4 && status == YX_OK; i++) status = loader_next(l, &b);
        assert_int_equal(status, YX_ERR_DATA);
        assert_non_null(strstr(yx_message(), "train-00000.h5 was cut off"));
        assert_int_equal(loader_next(l, &b), YX_ERR_DATA);
        loader_cancel(l);
    }
    loader_close(l);
    dataset_close(broken);
    assert_int_equal(yx_remove_tree(dir), YX_OK);
}

// A stream that ends with a block: the target of its last token is the first document's end-of-text token.
static void wraps_to_the_first_document(void **state) {
    (void)state;
    dataset *exact;
    shard_manifest m = fixture_manifest();
    manifest_shard entry = {.file = "train-00000.h5", .num_docs = 2, .num_tokens = 2 * ORDER_BLOCK_TOKENS};
    shard_provenance provenance = fixture_provenance("train");
    shard_writer *w;
    char path[128];
    struct stat info;
    static uint32_t ids[2 * ORDER_BLOCK_TOKENS];
    fixture_temporary(exact_folder, "loader");
    snprintf(path, sizeof path, "%s/train-00000.h5", exact_folder);
    for (uint32_t i = 0; i < 2 * ORDER_BLOCK_TOKENS; i++) ids[i] = i % 1000 + 1;
    assert_int_equal(shard_writer_open(path, 0, &provenance, &w), YX_OK);
    assert_int_equal(shard_writer_add(w, ids, 1000, 1, 0, 1), YX_OK);
    assert_int_equal(shard_writer_add(w, ids, 2 * ORDER_BLOCK_TOKENS - 1002, 1, 0, 2), YX_OK);
    assert_int_equal(shard_writer_close(w, NULL), YX_OK);
    assert_int_equal(stat(path, &info), 0);
    entry.file_bytes = info.st_size;
    entry.num_bytes = 2;
    assert_int_equal(yx_sha256_file(path, entry.sha256), YX_OK);
    assert_int_equal(manifest_add_shard(&m.splits[0], &entry), YX_OK);
    fixture_write_manifest(exact_folder, &m);
    manifest_free(&m);
    assert_int_equal(dataset_open(exact_folder, "train", true, &exact), YX_OK);
    data_order o = {1, 2, 1};
    loader *l;
    assert_int_equal(loader_open(exact, &o, false, 2, 1, M, &l), YX_OK);
    load_request r = {0, ORDER_BLOCK_TOKENS, 0, 2, M};
    assert_int_equal(loader_request(l, &r), YX_OK);
    int ends = 0;
    for (int i = 0; i < 2; i++) {
        const micro_batch *b = next(l);
        if (b->token[0] != FIXTURE_EOT) { // the second block
            assert_int_equal(b->target[M - 1], FIXTURE_EOT);
            ends++;
        }
    }
    assert_int_equal(ends, 1);
    loader_close(l);
    dataset_close(exact);
    assert_int_equal(yx_remove_tree(exact_folder), YX_OK);
}

static void check_windows(int64_t seq_len, int64_t micro_tokens, bool document_mask) {
    int64_t n = dataset_get_info(data)->num_tokens, at = 0, calls = 0;
    micro_batch b = {
        malloc((size_t)micro_tokens * 4), malloc((size_t)micro_tokens * 4), malloc((size_t)micro_tokens * 4), 0, 0, 0};
    while (at < n) {
        int64_t to;
        assert_int_equal(loader_fill_windows(data, document_mask, at, seq_len, micro_tokens, &b, &to), YX_OK);
        assert_int_equal(b.num_scored, to - at);
        for (int64_t i = 0; i < b.num_scored; i += seq_len) {
            int64_t left = b.num_scored - i;
            check_sequence(&b, i, stream + at + i, left < seq_len ? left : seq_len, document_mask);
        }
        check_padding(&b);
        at = to;
        calls++;
    }
    assert_int_equal(at, n);
    int64_t per = micro_tokens / seq_len * seq_len;
    assert_int_equal(calls, (n + per - 1) / per);
    free(b.token);
    free(b.target);
    free(b.seq_start);
}

static void windows_score_every_token_once(void **state) {
    (void)state;
    for (int mask = 0; mask < 2; mask++) {
        check_windows(2048, 6144, mask);
        check_windows(2048, 3200, mask); // with padding
        check_windows(8, 128, mask);
        check_windows(700, 2048, mask); // no divisor of anything
    }
    int64_t to;
    micro_batch b = {0};
    assert_int_equal(loader_fill_windows(data, true, -1, 8, 128, &b, &to), YX_ERR_INTERNAL);
    assert_int_equal(loader_fill_windows(data, true, 0, 256, 128, &b, &to), YX_ERR_INTERNAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_every_length_in_the_documented_order),
        cmocka_unit_test(the_hash_does_not_depend_on_the_split),
        cmocka_unit_test(a_rank_without_sequences_gets_padding),
        cmocka_unit_test(prepares_steps_ahead_and_keeps_two),
        cmocka_unit_test(cancelling_drops_what_was_requested),
        cmocka_unit_test(refuses_impossible_requests),
        cmocka_unit_test(hands_over_failures_of_the_thread),
        cmocka_unit_test(wraps_to_the_first_document),
        cmocka_unit_test(windows_score_every_token_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

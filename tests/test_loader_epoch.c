// Whole epochs through the loader: all ten sequence lengths in one epoch, several ranks, every token once; what a rank
// reads; how far the loader prepares ahead. In the stream of this test a token's id is its place.
#include "tests/dataset_fixture.h"
#include "common/hash.h"
#include "io/loader.h"

enum { BLOCKS = 32, WINDOW = 2, TOKENS = BLOCKS * ORDER_BLOCK_TOKENS, M = 6144, STAGES = 10, EPOCHS = 2 };
static const int64_t seq_len[STAGES] = {8, 16, 32, 64, 128, 256, 512, 768, 1536, 2048};
static const int64_t batch_size[STAGES] = {2048, 2048, 2048, 1024, 512, 256, 128, 128, 64, 64};
static const int64_t windows[STAGES] = {1, 1, 1, 1, 2, 2, 2, 2, 2, 2}; // of an epoch

static char folder[64];
static dataset *data;

static int setup(void **state) {
    (void)state;
    shard_manifest m = fixture_manifest();
    manifest_shard entry = {.file = "train-00000.h5", .num_docs = 1, .num_tokens = TOKENS + 1, .num_bytes = 5};
    shard_provenance provenance = fixture_provenance("train");
    shard_writer *w;
    char path[128];
    struct stat info;
    uint32_t *ids = malloc(TOKENS * sizeof *ids);
    for (uint32_t i = 0; i < TOKENS; i++) ids[i] = i + 1; // behind the end-of-text token
    fixture_temporary(folder, "epoch");
    snprintf(path, sizeof path, "%s/train-00000.h5", folder);
    assert_int_equal(shard_writer_open(path, 0, &provenance, &w), YX_OK);
    assert_int_equal(shard_writer_add(w, ids, TOKENS, 5, 0, 1), YX_OK);
    assert_int_equal(shard_writer_close(w, entry.sha256), YX_OK);
    assert_int_equal(stat(path, &info), 0);
    entry.file_bytes = info.st_size;
    assert_int_equal(manifest_add_shard(&m.splits[0], &entry), YX_OK);
    fixture_write_manifest(folder, &m);
    manifest_free(&m);
    free(ids);
    assert_int_equal(dataset_open(folder, "train", true, &data), YX_OK);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    dataset_close(data);
    return yx_remove_tree(folder) == YX_OK ? 0 : 1;
}

static loader *open_loader(int depth, int num_ranks) {
    const data_order order = {.seed = 11, .blocks_per_epoch = BLOCKS, .window_blocks = WINDOW};
    loader *l = NULL;
    assert_int_equal(loader_open(data, &order, true, depth, num_ranks, M, &l), YX_OK);
    return l;
}

typedef struct tally { // how often each place was an input, and a target
    uint8_t input[TOKENS + 1], target[TOKENS + 1];
} tally;

static void count_batch(const micro_batch *b, tally *t) {
    for (int64_t i = 0; i < b->num_tokens; i++) {
        if (b->target[i] < 0) continue; // padding
        int32_t place = b->token[i] == FIXTURE_EOT ? 0 : b->token[i];
        assert_in_range(b->target[i], 1, TOKENS);
        assert_int_equal(b->target[i], place + 1);
        t->input[place]++;
        t->target[b->target[i]]++;
    }
}

// The steps of [begin, end) as a run makes them, on every rank; `l`: one loader a rank.
static void run_stage(loader **l, int ranks, int64_t begin, int64_t end, int stage, tally *t) {
    int64_t length = seq_len[stage];
    for (int64_t at = begin, n; at < end; at += n * length) {
        n = (end - at) / length < batch_size[stage] ? (end - at) / length : batch_size[stage];
        for (int rank = 0; rank < ranks; rank++) {
            int64_t first = n * rank / ranks;
            load_request r = {at, length, first, n * (rank + 1) / ranks - first, M};
            assert_int_equal(loader_request(l[rank], &r), YX_OK);
            for (int64_t k = 0; k < loader_num_micro_batches(&r); k++) {
                const micro_batch *b;
                assert_int_equal(loader_next(l[rank], &b), YX_OK);
                count_batch(b, t);
            }
        }
    }
}

static void every_token_comes_once_an_epoch(void **state) {
    (void)state;
    tally *t = malloc(sizeof *t);
    for (int ranks = 1; ranks <= 5; ranks += 2) {
        loader *l[5];
        for (int rank = 0; rank < ranks; rank++) l[rank] = open_loader(2 + rank, ranks);
        int64_t at = 0;
        for (int epoch = 0; epoch < EPOCHS; epoch++) {
            memset(t, 0, sizeof *t);
            for (int i = 0; i < STAGES; i++) {
                int stage = epoch == 0 ? i : STAGES - 1 - i;
                int64_t end = at + windows[stage] * WINDOW * ORDER_BLOCK_TOKENS;
                run_stage(l, ranks, at, end, stage, t);
                at = end;
            }
            assert_int_equal(at, (int64_t)(epoch + 1) * TOKENS);
            for (int64_t place = 0; place < TOKENS; place++) {
                assert_int_equal(t->input[place], 1);
                assert_int_equal(t->target[place + 1], 1);
            }
        }
        for (int rank = 0; rank < ranks; rank++) loader_close(l[rank]);
    }
    free(t);
}

static int64_t bytes_read(void) {
    long long bytes = 0;
    FILE *file = fopen("/proc/self/io", "r");
    if (!file) skip();
    assert_int_equal(fscanf(file, "rchar: %lld", &bytes), 1);
    fclose(file);
    return bytes;
}

// What one of `ranks` reads of steps of ten blocks, beside its slice of their tokens.
static double reading_ratio(int ranks, int64_t length) {
    loader *l = open_loader(2, ranks);
    const micro_batch *b;
    int64_t n = 10 * ORDER_BLOCK_TOKENS / length, part = n / ranks, before = bytes_read(), own = bytes_read() - before;
    before = bytes_read();
    load_request r = {0, length, part, part, M};
    assert_int_equal(loader_request(l, &r), YX_OK);
    for (int64_t k = 0; k < loader_num_micro_batches(&r); k++) assert_int_equal(loader_next(l, &b), YX_OK);
    double ratio = (double)(bytes_read() - before - own) / (double)(part * (length + 1) * 4);
    loader_close(l);
    return ratio;
}

static void a_rank_reads_its_own_slice(void **state) {
    (void)state;
    for (int stage = 0; stage < STAGES; stage++)
        if (seq_len[stage] >= 512) assert_in_range((int64_t)(reading_ratio(5, seq_len[stage]) * 1000), 990, 1010);
    // Alone, blocks are read once however short the sequences are: the ten that were asked for.
    for (int stage = 0; stage < STAGES; stage++) {
        double ratio = reading_ratio(1, seq_len[stage]) * (double)(seq_len[stage] + 1) / (double)seq_len[stage];
        assert_in_range((int64_t)(ratio * 1000), 990, 1010);
    }
}

// The depth after 60 steps, before each of which the caller does something else for so long.
static int64_t depth_after(int microseconds) {
    const micro_batch *b;
    load_request r = {0, 8, 0, 768, M};
    loader *l = open_loader(3, 1);
    assert_int_equal(loader_depth(l), 3);
    for (int step = 0; step < 60; step++) {
        for (; loader_wants(l); r.position += M) assert_int_equal(loader_request(l, &r), YX_OK);
        if (microseconds > 0) usleep((useconds_t)microseconds);
        assert_int_equal(loader_next(l, &b), YX_OK);
        assert_int_equal(b->num_scored, M);
    }
    int64_t depth = loader_depth(l);
    loader_close(l);
    return depth;
}

static void prepares_more_while_it_is_waited_for(void **state) {
    (void)state;
    assert_int_equal(loader_most_ahead(3), 12);
    assert_int_equal(loader_most_ahead(40), LOADER_MAX_DEPTH);
    assert_int_equal(depth_after(0), 12); // filling takes longer than taking
    int64_t patient = 12;
    for (int i = 0; i < 5 && patient > 3; i++) patient = depth_after(5000); // again where the machine was busy
    assert_int_equal(patient, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_comes_once_an_epoch),
        cmocka_unit_test(a_rank_reads_its_own_slice),
        cmocka_unit_test(prepares_more_while_it_is_waited_for),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

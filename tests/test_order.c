// The order of the training data: bijections, independence of what one step size saw before, and chance.
#include "io/order.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void permutes_every_size(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1,  2,  3,  4,  5,   6,   7,   8,    9,    10,    15,    16,
                                     17, 63, 64, 65, 100, 768, 999, 1024, 1025, 65537, 300017};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint64_t key = 0; key < 3; key++) {
            uint64_t n = sizes[s];
            unsigned char *seen = calloc(n, 1);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t at = order_permute(i, n, key * 0x123456789abcdefull);
                assert_true(at < n);
                assert_false(seen[at]);
                seen[at] = 1;
            }
            free(seen);
        }
}

static void permutes_huge_domains(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1ull << 32, (1ull << 32) + 1, 4503599627370495ull, (1ull << 53) + 1, 1ull << 62};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint64_t i = 0; i < 1000; i++) {
            assert_true(order_permute(i, sizes[s], 7) < sizes[s]);
            assert_true(order_permute(sizes[s] - 1 - i, sizes[s], 7) < sizes[s]);
            assert_int_not_equal(order_permute(i, sizes[s], 7), order_permute(i + 1, sizes[s], 7));
        }
}

// Over many keys every index goes everywhere equally often: chi-squared of n cells, mean n − 1, deviation sqrt(2(n −
// 1)).
static void goes_everywhere_equally_often(void **state) {
    (void)state;
    enum { KEYS = 20000 };
    static const uint64_t sizes[] = {2, 3, 5, 12, 64, 97};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint64_t index = 0; index < sizes[s]; index += 1 + sizes[s] / 3) {
            double n = (double)sizes[s], expected = KEYS / n, chi = 0;
            int count[97] = {0};
            for (uint64_t key = 0; key < KEYS; key++)
                count[order_permute(index, sizes[s], key * 0x9E3779B97F4A7C15ull + 5)]++;
            for (uint64_t i = 0; i < sizes[s]; i++) chi += (count[i] - expected) * (count[i] - expected) / expected;
            assert_true(chi < n - 1 + 6 * sqrt(2 * (n - 1)));
        }
}

// Neighbours do not stay neighbours: the distances of the images of i and i + 1 are spread over all values.
static void separates_neighbours(void **state) {
    (void)state;
    enum { N = 10007, BINS = 50 };
    int count[BINS] = {0};
    double chi = 0, expected = (double)(N - 1) / BINS;
    for (uint64_t i = 0; i + 1 < N; i++) {
        uint64_t distance = (order_permute(i + 1, N, 99) + N - order_permute(i, N, 99)) % N;
        count[distance * BINS / N]++;
    }
    for (int i = 0; i < BINS; i++) chi += (count[i] - expected) * (count[i] - expected) / expected;
    assert_true(chi < BINS - 1 + 6 * sqrt(2.0 * (BINS - 1)));
}

// Marks the sequences of one stage; a token that comes twice fails.
static int64_t run_stage(const data_order *o, int64_t position, int64_t end, int64_t seq_len, unsigned char *seen) {
    for (; position < end; position += seq_len) {
        int64_t token;
        order_sequence(o, position, seq_len, &token);
        assert_true(token >= 0 && token + seq_len <= o->blocks_per_epoch * ORDER_BLOCK_TOKENS);
        assert_int_equal(token % seq_len, 0);
        for (int64_t i = 0; i < seq_len; i++) assert_int_equal(seen[token + i]++, 0);
    }
    return position;
}

static void uses_every_token_once_an_epoch(void **state) {
    (void)state;
    static const int64_t lengths[] = {8, 16, 32, 64, 128, 256, 512, 768, 1536, 2048};
    // 10 windows of 4 blocks, the last has 3: a stage a window.
    data_order o = {.seed = 42, .blocks_per_epoch = 39, .window_blocks = 4};
    int64_t window = 4 * ORDER_BLOCK_TOKENS, epoch = 39 * ORDER_BLOCK_TOKENS;
    unsigned char *seen = malloc((size_t)epoch);
    for (int64_t e = 0; e < 3; e++) {
        memset(seen, 0, (size_t)epoch);
        for (int64_t w = 0; w < 10; w++) {
            int64_t end = (w + 1) * window < epoch ? (w + 1) * window : epoch;
            run_stage(&o, e * epoch + w * window, e * epoch + end, lengths[(w + e) % 10], seen);
        }
        for (int64_t i = 0; i < epoch; i++) assert_int_equal(seen[i], 1);
    }
    free(seen);
}

// A window's blocks are the same for every length, so that stages of different lengths share an epoch without repeats.
static void windows_hold_the_same_blocks_for_every_length(void **state) {
    (void)state;
    data_order o = {.seed = 3, .blocks_per_epoch = 100, .window_blocks = 10};
    bool of_window[100] = {false};
    for (int64_t b = 0; b < 10; b++) of_window[order_block(&o, 0, 4, b)] = true;
    for (int64_t position = 40 * ORDER_BLOCK_TOKENS; position < 50 * ORDER_BLOCK_TOKENS; position += 8) {
        int64_t token;
        order_sequence(&o, position, 8, &token);
        assert_true(of_window[token / ORDER_BLOCK_TOKENS]);
    }
}

static bool differ(const data_order *a, const data_order *b, int64_t shift) {
    int different = 0;
    for (int64_t i = 0; i < 100; i++) {
        int64_t x, y;
        order_sequence(a, i * 64, 64, &x);
        order_sequence(b, i * 64 + shift, 64, &y);
        different += x != y;
    }
    return different > 90;
}

static void depends_on_seed_and_epoch(void **state) {
    (void)state;
    data_order a = {1, 1000, 100}, b = {2, 1000, 100};
    assert_false(differ(&a, &a, 0));
    assert_true(differ(&a, &b, 0));
    assert_true(differ(&a, &a, 1000 * (int64_t)ORDER_BLOCK_TOKENS));
}

// The first values, fixed: a change of the order would silently change every run.
static void is_the_documented_one(void **state) {
    (void)state;
    data_order o = {42, 3000, 1024};
    static const int64_t expected[4] = {4466720, 6101112, 4347904, 5542656};
    static const struct {
        int64_t position, seq_len;
    } at[4] = {{0, 8}, {8, 8}, {2100ll * ORDER_BLOCK_TOKENS, 2048}, {9000ll * ORDER_BLOCK_TOKENS + 768, 768}};
    for (int i = 0; i < 4; i++) {
        int64_t token;
        order_sequence(&o, at[i].position, at[i].seq_len, &token);
        assert_int_equal(token, expected[i]);
    }
}

// Pairs of a batch of 2048 sequences of length 8 that share a block: mean p·C(2048, 2), p = 767/(768·1024 − 1).
static void a_batch_comes_from_everywhere(void **state) {
    (void)state;
    enum { BATCH = 2048, WINDOW = 1024 };
    data_order o = {.seed = 11, .blocks_per_epoch = 2 * WINDOW, .window_blocks = WINDOW};
    double pairs = 0, p = 767.0 / (768.0 * WINDOW - 1), total = 0;
    for (int64_t step = 0; step < 50; step++) {
        int count[2 * WINDOW] = {0};
        for (int64_t i = 0; i < BATCH; i++) {
            int64_t token;
            order_sequence(&o, (step * BATCH + i) * 8, 8, &token);
            pairs += count[token / ORDER_BLOCK_TOKENS]++;
        }
        total += BATCH * (BATCH - 1) / 2.0;
    }
    double mean = p * total, deviation = sqrt(total * p * (1 - p));
    assert_true(fabs(pairs - mean) < 5 * deviation);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permutes_every_size),
        cmocka_unit_test(permutes_huge_domains),
        cmocka_unit_test(goes_everywhere_equally_often),
        cmocka_unit_test(separates_neighbours),
        cmocka_unit_test(uses_every_token_once_an_epoch),
        cmocka_unit_test(windows_hold_the_same_blocks_for_every_length),
        cmocka_unit_test(depends_on_seed_and_epoch),
        cmocka_unit_test(is_the_documented_one),
        cmocka_unit_test(a_batch_comes_from_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

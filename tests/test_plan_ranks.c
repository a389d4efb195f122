#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "coordinator/plan_ranks.h"

// 16,384 tokens in 100 ms, of which the optimizer takes 10; 800 MB of fp32 gradients in 12 sums.
static const ranks_step one = {
    .seq_len = 8, .batch_size = 2048, .most_tokens = 16384, .seconds = 0.1, .optimizer = 0.01};
static const ranks_gradients gradients = {.parameters = 200000000, .buckets = 12, .wire = WIRE_FP32};
static const ranks_link slow = {.bus = 10e9, .latency = 100e-6, .overlap = true};

static void assert_near(double value, double expected) {
    if (!(fabs(value - expected) <= 1e-12)) fail_msg("%.15g is not %.15g", value, expected);
}

static void assert_time(ranks_time t, int64_t tokens, double compute, double exchange, double exposed) {
    assert_int_equal(t.tokens, tokens);
    assert_near(t.compute, compute);
    assert_near(t.exchange, exchange);
    assert_near(t.exposed, exposed);
    assert_near(t.seconds, compute + exposed);
}

static void one_rank_is_what_was_measured(void **state) {
    (void)state;
    ranks_gradients sharded = gradients;
    sharded.sharded = true;
    assert_time(ranks_compute(&one, &gradients, &slow, 1), 16384, 0.1, 0, 0);
    assert_time(ranks_compute(&one, &sharded, &slow, 1), 16384, 0.1, 0, 0);
}

// Four ranks: 10 + 90/4 ms to compute, of which 15 hide; 12 · 0.1 ms and 2 · 3/4 of 800 MB at 10 GB/s: 121.2 ms.
static void sums_hide_behind_the_backward_pass(void **state) {
    (void)state;
    ranks_gradients bf16 = gradients;
    ranks_link blocking = slow, fast = slow;
    assert_time(ranks_compute(&one, &gradients, &slow, 4), 4096, 0.0325, 0.1212, 0.1062);
    bf16.wire = WIRE_BF16; // 1.2 + 60 ms
    assert_time(ranks_compute(&one, &bf16, &slow, 4), 4096, 0.0325, 0.0612, 0.0462);
    blocking.overlap = false;
    assert_time(ranks_compute(&one, &gradients, &blocking, 4), 4096, 0.0325, 0.1212, 0.1212);
    fast.bus = 400e9; // 1.2 + 3 ms: all of it hides
    assert_time(ranks_compute(&one, &gradients, &fast, 4), 4096, 0.0325, 0.0042, 0);
}

// Micro-batches of 1,024 tokens: 4 of them on each of 4 ranks, and only the last one's 2/3 · 22.5/4 ms hide.
static void only_the_last_micro_batch_hides(void **state) {
    (void)state;
    ranks_step small = one;
    small.most_tokens = 1024;
    ranks_time t = ranks_compute(&small, &gradients, &slow, 4);
    assert_int_equal(t.micro_batches, 4);
    assert_time(t, 4096, 0.0325, 0.1212, 0.1212 - 0.00375);
}

// ZeRO: each rank updates a quarter; 3/4 of 800 MB and six of the latencies go before the update, as much behind it.
static void a_sharded_optimizer_divides_the_update(void **state) {
    (void)state;
    ranks_gradients sharded = gradients;
    sharded.sharded = true;
    assert_time(ranks_compute(&one, &sharded, &slow, 4), 4096, 0.025, 0.1212, 0.0606 - 0.015 + 0.0606);
    sharded.wire = WIRE_BF16; // the parameters stay fp32
    assert_time(ranks_compute(&one, &sharded, &slow, 4), 4096, 0.025, 0.0912, 0.0306 - 0.015 + 0.0606);
}

// Three sequences on two ranks: one has two of them, and on eight ranks five have none.
static void the_rank_with_most_sequences_counts(void **state) {
    (void)state;
    ranks_step few = one;
    few.seq_len = 2048, few.batch_size = 3;
    assert_near(ranks_compute(&few, &gradients, &slow, 2).compute, 0.01 + 0.09 * 2 / 3);
    assert_int_equal(ranks_compute(&few, &gradients, &slow, 2).tokens, 4096);
    assert_near(ranks_compute(&few, &gradients, &slow, 8).compute, 0.01 + 0.09 / 3);
    assert_int_equal(ranks_compute(&few, &gradients, &slow, 8).tokens, 2048);
}

// What ranks_compute says of n ranks leads back to one rank and to the link, latencies aside.
static void a_measurement_leads_back(void **state) {
    (void)state;
    const int counts[] = {2, 3, 8};
    for (int i = 0; i < 12; i++) {
        int n = counts[i % 3];
        ranks_gradients g = gradients;
        ranks_link link = {.bus = 10e9, .overlap = true};
        g.sharded = i / 3 & 1;
        g.wire = i / 6 ? WIRE_BF16 : WIRE_FP32;
        ranks_time t = ranks_compute(&one, &g, &link, n);
        double after = g.sharded ? (n - 1.0) / n * 800e6 / 10e9 : 0;
        double bus = ranks_measured_bus(&g, n, t.exchange - after);
        assert_true(fabs(bus / 10e9 - 1) < 1e-12);
        ranks_step measured = one;
        measured.seconds = t.seconds;
        measured.optimizer = one.optimizer / (g.sharded ? n : 1);
        ranks_step alone = ranks_alone(&measured, t.exposed - after, &g, bus, n);
        assert_near(alone.seconds, one.seconds);
        assert_near(alone.optimizer, one.optimizer);
    }
    ranks_step alone = ranks_alone(&one, 0, &gradients, 0, 1);
    assert_near(alone.seconds, one.seconds);
    assert_near(ranks_measured_bus(&gradients, 1, 0), 0);
}

static void counts_double_up_to_the_most(void **state) {
    (void)state;
    const int expected[] = {1, 2, 4, 6, 0};
    for (int i = 0, n = 1; i < 4; i++) assert_int_equal(n, expected[i]), n = ranks_next(n, 6);
    assert_int_equal(ranks_next(6, 6), 0);
    assert_int_equal(ranks_next(1, 1), 0);
    assert_int_equal(ranks_next(4, 8), 8);
    assert_int_equal(ranks_next(4, 9), 8);
}

static void assert_choice(const ranks_link *link, const ranks_step *step, int ranks, config_wire wire) {
    ranks_choice c = ranks_fastest(step, &gradients, link, 8);
    assert_int_equal(c.ranks, ranks);
    assert_int_equal(c.wire, wire);
    ranks_gradients g = gradients;
    g.wire = wire;
    assert_near(c.time.seconds, ranks_compute(step, &g, link, ranks).seconds);
}

static void the_fastest_needs_no_more_than_it_does(void **state) {
    (void)state;
    ranks_link link = slow;
    // bf16 at 10 GB/s: 2 ranks 55 + 41.2 - 30 = 66.2 ms, 4 ranks 78.7, 8 ranks 21.25 + 71.2 - 7.5 = 84.95; fp32 more.
    assert_choice(&link, &one, 2, WIRE_BF16);
    link.bus = 1e9; // nothing pays
    assert_choice(&link, &one, 1, WIRE_FP32);
    link.bus = 10e12; // all hidden: 8 ranks, and half the bytes bring nothing
    assert_choice(&link, &one, 8, WIRE_FP32);
    ranks_step single = one; // one sequence a step: more ranks bring nothing
    single.seq_len = 8192, single.batch_size = 1;
    assert_choice(&link, &single, 1, WIRE_FP32);
}

static void auto_takes_bf16_where_it_pays(void **state) {
    (void)state;
    ranks_link link = {.overlap = true};
    ranks_gradients g = gradients;
    g.wire = WIRE_BF16; // of no consequence
    // 32.5 ms to compute, 15 ms hidden: 3.6 ms exposed are a tenth. 1200 MB in 18.5 and 18.7 ms.
    link.bus = 1.2e9 / 0.0185;
    assert_int_equal(ranks_auto_wire(&one, &g, &link, 4), WIRE_FP32);
    link.bus = 1.2e9 / 0.0187;
    assert_int_equal(ranks_auto_wire(&one, &g, &link, 4), WIRE_BF16);
    assert_int_equal(ranks_auto_wire(&one, &g, &link, 1), WIRE_FP32);
}

// Three sums (embedding, layers, projection) where a bucket holds all layers; else one a layer of 1.2 MB.
static void buckets_are_those_of_the_parameters(void **state) {
    (void)state;
    static yx_config config;
    int64_t buckets;
    config.model = (config_model){.hidden_size = 256,
                                  .num_layers = 5,
                                  .num_attention_heads = 4,
                                  .num_key_value_heads = 2,
                                  .head_dim = 16,
                                  .intermediate_size = 330,
                                  .vocab_size = 1000,
                                  .embedding_rank = 32};
    config.training.gradient_bucket_mb = 32;
    assert_int_equal(ranks_buckets(&config, &buckets), YX_OK);
    assert_int_equal(buckets, 3);
    config.training.gradient_bucket_mb = 1;
    assert_int_equal(ranks_buckets(&config, &buckets), YX_OK);
    assert_int_equal(buckets, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_is_what_was_measured),       cmocka_unit_test(sums_hide_behind_the_backward_pass),
        cmocka_unit_test(only_the_last_micro_batch_hides),     cmocka_unit_test(a_sharded_optimizer_divides_the_update),
        cmocka_unit_test(the_rank_with_most_sequences_counts), cmocka_unit_test(a_measurement_leads_back),
        cmocka_unit_test(counts_double_up_to_the_most),        cmocka_unit_test(the_fastest_needs_no_more_than_it_does),
        cmocka_unit_test(auto_takes_bf16_where_it_pays),       cmocka_unit_test(buckets_are_those_of_the_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

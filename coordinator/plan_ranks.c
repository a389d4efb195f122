#include "coordinator/plan_ranks.h"
#include "io/loader.h"
#include "worker/memory.h"
#include "worker/params.h"
#include <math.h>

static const double BACKWARD_SHARE = 2.0 / 3; // of a micro-batch's operations
static const double AS_FAST = 1.01;

// --- What is exchanged
double ranks_gradient_bytes(const ranks_gradients *g) { return (double)g->parameters * (g->wire == WIRE_BF16 ? 2 : 4); }

yx_status ranks_buckets(const yx_config *config, int64_t *out) {
    param_table table;
    yx_status status = param_table_create(&config->model, 1, config->training.gradient_bucket_mb << 20, &table);
    *out = table.num_buckets;
    param_table_free(&table);
    return status;
}

// (n - 1)/n of the bytes: what the first and the second half of a sum move over each rank's connection.
static double half_sum(double bytes, int n) { return (double)(n - 1) / n * bytes; }

// Bytes over each connection before the update, and after it.
static double bytes_before(const ranks_gradients *g, int n) {
    return (g->sharded ? 1 : 2) * half_sum(ranks_gradient_bytes(g), n);
}
static double bytes_after(const ranks_gradients *g, int n) {
    return g->sharded ? half_sum((double)g->parameters * 4, n) : 0;
}

// --- One step
static int64_t most_sequences(const ranks_step *s, int n) { return (s->batch_size + n - 1) / n; }

// Of the computing that is divided over n ranks, the part of the one that has most.
static double largest_share(const ranks_step *s, int n) { return (double)most_sequences(s, n) / (double)s->batch_size; }

static int64_t micro_batches(const ranks_step *s, int n) {
    int64_t own = most_sequences(s, n);
    load_request load = {.seq_len = s->seq_len,
                         .num_sequences = own,
                         .micro_tokens = memory_stage_micro_tokens(s->most_tokens, s->seq_len, own)};
    return loader_num_micro_batches(&load);
}

ranks_time ranks_compute(const ranks_step *one, const ranks_gradients *g, const ranks_link *link, int n) {
    double divided = (one->seconds - one->optimizer) * largest_share(one, n);
    ranks_time t = {.tokens = most_sequences(one, n) * one->seq_len,
                    .micro_batches = micro_batches(one, n),
                    .compute = one->optimizer / (g->sharded ? n : 1) + divided};
    if (n > 1) {
        double latencies = (double)g->buckets * link->latency; // half of one each half of a sum
        double before = latencies / (g->sharded ? 2 : 1) + bytes_before(g, n) / link->bus;
        double after = g->sharded ? latencies / 2 + bytes_after(g, n) / link->bus : 0;
        double hidden = link->overlap ? BACKWARD_SHARE * divided / (double)t.micro_batches : 0;
        t.exchange = before + after;
        t.exposed = fmax(0, before - hidden) + after;
    }
    t.seconds = t.compute + t.exposed;
    return t;
}

config_wire ranks_auto_wire(const ranks_step *one, const ranks_gradients *g, const ranks_link *link, int n) {
    ranks_gradients first = *g; // a stage begins with fp32
    first.wire = WIRE_FP32;
    ranks_time t = ranks_compute(one, &first, link, n);
    return t.exposed > RANKS_WORTH_BF16 * t.seconds ? WIRE_BF16 : WIRE_FP32;
}

// --- From a measurement
double ranks_measured_bus(const ranks_gradients *g, int n, double exchange) {
    return n > 1 && exchange > 0 ? bytes_before(g, n) / exchange : 0;
}

ranks_step ranks_alone(const ranks_step *measured, double exposed, const ranks_gradients *g, double bus, int n) {
    ranks_step one = *measured;
    double after = n > 1 && bus > 0 ? bytes_after(g, n) / bus : 0;
    double divided = fmax(0, measured->seconds - exposed - after - measured->optimizer);
    one.optimizer = measured->optimizer * (g->sharded ? n : 1);
    one.seconds = one.optimizer + divided / largest_share(measured, n);
    return one;
}

// --- A choice
int ranks_next(int n, int most) { return n >= most ? 0 : n > most / 2 ? most : 2 * n; }

ranks_choice ranks_fastest(const ranks_step *one, const ranks_gradients *g, const ranks_link *link, int most) {
    double shortest = INFINITY;
    ranks_choice choice = {0};
    for (int pass = 0; pass < 2; pass++) // the shortest first, then who comes near it
        for (int n = 1; n; n = ranks_next(n, most))
            for (config_wire wire = WIRE_FP32; wire <= WIRE_BF16; wire++) {
                ranks_gradients sent = *g;
                sent.wire = wire;
                ranks_time t = ranks_compute(one, &sent, link, n);
                if (pass == 0) shortest = fmin(shortest, t.seconds);
                else if (t.seconds <= AS_FAST * shortest) return (ranks_choice){n, wire, t};
            }
    return choice;
}

// What a step takes on several ranks, computed from what it takes on one. Pure functions; seconds and bytes throughout.
#pragma once
#include "io/config.h"

// A step on one rank.
typedef struct ranks_step {
    int64_t seq_len, batch_size; // sequences of a step, of all ranks together
    int64_t most_tokens;         // of a micro-batch; at least seq_len, a multiple of 128
    double seconds;              // of the whole step
    double optimizer;            // of them, the update of all parameters
} ranks_step;

// What the ranks have to exchange in a step.
typedef struct ranks_gradients {
    int64_t parameters;
    int64_t buckets;  // sums that the gradients travel in: ranks_buckets
    config_wire wire; // fp32 or bf16
    bool sharded;     // training.shard_optimizer
} ranks_gradients;

// By what they exchange it.
typedef struct ranks_link {
    double bus;     // bytes a second over each rank's connection, as `yxanul bench comm` counts them
    double latency; // seconds of a small sum
    bool overlap;   // sums go on behind the backward pass: GPUs by NCCL
} ranks_link;

typedef struct ranks_time {
    int64_t tokens;        // of a step, of the rank that has most
    int64_t micro_batches; // of that rank
    double compute, exchange;
    double exposed; // of the exchange: not hidden behind the backward pass
    double seconds; // of the whole step: compute + exposed
} ranks_time;

typedef struct ranks_choice {
    int ranks;
    config_wire wire;
    ranks_time time;
} ranks_choice;

// Bytes of all gradients as they travel.
double ranks_gradient_bytes(const ranks_gradients *g);
// Sums of a step for this model and training.gradient_bucket_mb.
yx_status ranks_buckets(const yx_config *config, int64_t *out);

// A step of n ranks. The rank that has most sequences has ceil(B/n) of B and computes
//   compute = optimizer + (seconds - optimizer) · ceil(B/n)/B,
// the update divided by n where the optimizer is sharded. A sum of all gradients moves 2·(n - 1)/n of their bytes over
// each rank's connection and takes a latency for each bucket:
//   exchange = buckets · latency + 2·(n - 1)/n · bytes / bus.
// With a sharded optimizer only half of a sum goes before the update, and as much of the parameters, in fp32, after it.
// What goes before the update hides behind the backward pass of the last micro-batch, two thirds of its computing, as
// far as that is long enough; the rest is exposed.
ranks_time ranks_compute(const ranks_step *one, const ranks_gradients *g, const ranks_link *link, int n);

// The share of a step that is exposed from which on training.gradient_wire: auto takes bf16.
#define RANKS_WORTH_BF16 0.1
// What auto comes to on n ranks: fp32 or bf16.
config_wire ranks_auto_wire(const ranks_step *one, const ranks_gradients *g, const ranks_link *link, int n);

// The same the other way, for what was measured on n ranks. `exchange`: seconds of a step up to the update, latencies
// included; 0 on one rank.
double ranks_measured_bus(const ranks_gradients *g, int n, double exchange);
// The step that one rank would take, from the seconds and the optimizer's seconds that n ranks took.
ranks_step ranks_alone(const ranks_step *measured, double exposed, const ranks_gradients *g, double bus, int n);

// Counts of ranks to consider: 1, 2, 4 … and `most`; 0 behind the last.
int ranks_next(int n, int most);
// The fewest ranks, and fp32 before bf16, that come within 1 % of the shortest step of 1, 2, 4 … `most` ranks.
ranks_choice ranks_fastest(const ranks_step *one, const ranks_gradients *g, const ranks_link *link, int most);

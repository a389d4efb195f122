// Private to worker/worker*.c: one rank's state.
#pragma once
#include "worker/worker.h"

enum {
    WORKER_SLOTS = 3,        // host copies of micro-batches: the device reads one while the host fills the next
    WORKER_MAX_GRAPHS = 8,   // recorded passes kept at a time
    WORKER_STAGING = 8 << 20 // floats moved at once where a group cannot read device memory
};

// A pass that was recorded: launching it is one call instead of a thousand.
typedef struct worker_graph {
    int64_t rows;
    model_pass pass;
    double grad_scale;
    bool hooks;
    int runs; // how often this pass ran; it is recorded when it comes again
    yx_graph *graph;
} worker_graph;

// What the host reads after a step, in memory that copies run fastest to.
typedef struct worker_readback {
    yx_step_scalars scalars;
    uint32_t *saturated; // [num_slots]
    float *history;      // [num_slots, YX_SCALE_HISTORY_LENGTH]
} worker_readback;

struct yx_worker {
    worker_options options;
    const yx_ops *ops;
    yx_device *device;
    yx_group *group;
    device_group *devices;     // NULL: the group sums
    yx_stream *exchange;       // what the devices exchange while the backward pass goes on
    yx_event *ready, *arrived; // of the exchange's input and of its last result
    yx_model *model;
    bool shard;                 // each rank keeps the moments of its pieces of the buckets only
    yx_real *moment1, *moment2; // [table.elements] device, or [table.elements / ranks]
    yx_adamw_segment *segments; // [num_segments]
    int64_t num_segments;
    model_hooks hooks;
    double communicating; // seconds that the hooks of a step took
    void *wire;           // [largest bucket] device, bf16: gradients on their way; NULL: they always go as they are
    bool sends_bf16;
    int32_t *all_tokens; // [ranks, max_micro_tokens] device: of the last micro-batch
    void *all_rows;      // [ranks, max_micro_tokens, rank] device, act: gradients of the embedding's rows
    int32_t *batch;      // [3, max_micro_tokens] device: token, target, seq_start
    int64_t adam_steps;

    int32_t *slots[WORKER_SLOTS]; // [3, max_micro_tokens] host
    yx_event *slot_read[WORKER_SLOTS];
    int64_t slots_used;
    worker_graph graphs[WORKER_MAX_GRAPHS], norm_graph, update_graph;
    int next_graph;
    yx_step_scalars *scalars_in; // host
    worker_readback *readback;   // host
    double *clipped;             // [num_slots], then [num_layers]: see worker_fp8
    worker_fp8 fp8;
    float *staging; // [WORKER_STAGING] host; NULL where the group reads device memory

    worker_tensor *state; // [num_state], views into state_memory
    float *state_memory;
    int64_t num_state;
};

// Host memory and events of the step; the end of them and of the recorded passes.
yx_status worker_step_open(yx_worker *w);
void worker_step_close(yx_worker *w);
// Stretches of a step on the device's clock, where devices exchange by themselves: up to the end of the own backward
// pass; waiting for the sums; from there on; the exchanges that run beside it.
typedef enum worker_clock { CLOCK_OWN, CLOCK_WAIT, CLOCK_REST, CLOCK_EXCHANGE } worker_clock;
// `sign`: -1 at the beginning of the stretch, 1 at its end.
yx_status worker_clock_mark(yx_worker *w, worker_clock clock, yx_stream *stream, int sign);

// A stretch of a parameter in this rank's pieces.
typedef struct worker_part {
    int64_t index;         // of the parameter
    int64_t offset, count; // elements of the arena
    int64_t moment;        // where its moments begin
} worker_part;
void worker_each_part(const yx_worker *w, void (*take)(void *context, const worker_part *part), void *context);
// Moments and the optimizer's table (worker_shard.c).
yx_status worker_shard_open(yx_worker *w);

// Sums over the ranks (worker_reduce.c).
yx_status worker_reduce_open(yx_worker *w);
void worker_reduce_close(yx_worker *w);
// For the last micro-batch of a step: sums the gradients meanwhile. NULL: worker_reduce_rest does.
const model_hooks *worker_reduce_hooks(const yx_worker *w);
// What is left to sum after the passes.
yx_status worker_reduce_rest(yx_worker *w, uint64_t *token_hash);
yx_status worker_reduce_amax(yx_worker *w);
// Waits for what is queued; notices when another rank is lost meanwhile.
yx_status worker_wait(yx_worker *w);
// scalars->grad_sum_squares of the summed gradients.
yx_status worker_sum_squares(yx_worker *w);
// Every rank's updated pieces of the parameters to all.
yx_status worker_gather_params(yx_worker *w);
// Recorded passes run what the model was: forgets them.
void worker_forget_graphs(yx_worker *w);
// Fills w->fp8 from what was read back of a step of `tokens` tokens (worker_fp8.c).
yx_status worker_read_fp8(yx_worker *w, int64_t tokens);

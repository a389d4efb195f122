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
    yx_model *model;
    yx_real *moment1, *moment2; // [table.elements] device
    yx_adamw_segment *segments; // [table.count]
    int32_t *batch;             // [3, max_micro_tokens] device: token, target, seq_start
    int64_t adam_steps;

    int32_t *slots[WORKER_SLOTS]; // [3, max_micro_tokens] host
    yx_event *slot_read[WORKER_SLOTS];
    int64_t slots_used;
    worker_graph graphs[WORKER_MAX_GRAPHS], update_graph;
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
// Recorded passes run what the model was: forgets them.
void worker_forget_graphs(yx_worker *w);
// Fills w->fp8 from what was read back of a step of `tokens` tokens (worker_fp8.c).
yx_status worker_read_fp8(yx_worker *w, int64_t tokens);

// What a run's log.jsonl says, summed up as its lines come: in memory that does not grow with the run.
#pragma once
#include "common/status.h"
#include "coordinator/curve.h"
#include "io/config.h"
#include <jansson.h>

enum { RUN_LOG_END = 20, RUN_LOG_FIRST_EVENTS = 50, RUN_LOG_LAST_EVENTS = 150, RUN_LOG_MAX_LINE = 1 << 20 };
enum { RUN_LOG_LOSS, RUN_LOG_LR, RUN_LOG_GRAD_NORM, RUN_LOG_SPEED }; // series of `steps`
enum { RUN_LOG_BITS_PER_BYTE, RUN_LOG_VALIDATION_LOSS };             // series of `evaluations`

// Whole numbers that the log does not have are -1, real ones NaN, texts NULL.
typedef struct run_log_stage {
    bool seen;
    int64_t seq_len, batch_size, tokens, steps, skipped;
    int64_t token_begin, token_end;
    double seconds, grad_clip;
    double bits_per_byte;       // of the newest validation in or after it
    double losses[RUN_LOG_END]; // of its last steps, the i-th at i % RUN_LOG_END
    int64_t num_losses;
    char *description;
} run_log_stage;

typedef struct run_log_event {
    double time;
    int64_t step, last_step; // of skipped steps in a row: both ends
    bool skip, finite; // skipped: nothing was updated; for a gradient that was finite, as one far above the usual is
    char *text;        // NULL for skipped steps
} run_log_event;

// How the last process that wrote to the log ended.
typedef enum run_log_state { RUN_LOG_OPEN, RUN_LOG_STOPPED, RUN_LOG_COMPLETE, RUN_LOG_FAILED } run_log_state;

typedef struct run_log {
    int64_t lines, damaged;
    double first_time, last_time;
    run_log_state state;
    char *failure; // its message
    char *device;
    int64_t ranks, hosts, total_steps, total_tokens, starts;
    int64_t step, tokens; // of the last step
    int64_t checkpoints, checkpoint_step;
    int64_t validation_step, validation_seq_len;
    double bits_per_byte, validation_loss; // newest
    run_log_stage stages[CONFIG_MAX_STAGES];
    curve steps, evaluations; // over tokens
    // The first and the last events; what lies between is only counted.
    run_log_event events[RUN_LOG_FIRST_EVENTS + RUN_LOG_LAST_EVENTS];
    int64_t num_events;
    int64_t slow; // rank that holds up the others; -1: none
} run_log;

yx_status run_log_create(run_log **out);
void run_log_free(run_log *l); // NULL is allowed
// Takes a line; one that is of no known kind is passed over, and one that cannot be a log's is counted as damaged.
yx_status run_log_add(run_log *l, const json_t *line);
// Takes all lines of a file; a last one without an end is one that is being written, or was cut, and is left out.
yx_status run_log_read(run_log *l, const char *path);
// The i-th of the events that are kept, and how many these are.
const run_log_event *run_log_event_at(const run_log *l, int64_t i);
int64_t run_log_num_kept(const run_log *l);
// Mean loss of a stage's last steps, RUN_LOG_END at most; NaN: it has none.
double run_log_end_loss(const run_log_stage *s);

// A run's state in checkpoints: what is saved, and what must agree before it is loaded.
#pragma once
#include "coordinator/ledger.h"
#include "coordinator/setup.h"
#include "coordinator/spike.h"
#include "io/checkpoint.h"
#include "io/config.h"
#include "worker/worker.h"

typedef struct run_state {
    int64_t steps, tokens;
    yx_worker *worker;
    ledger *ledger;
    spike_watch *spikes;
    bool elsewhere;      // loaded: from another run's folder
    bool goes_back;      // loaded: `resume` names a checkpoint of this run, and would do so again
    bool without_scales; // loaded: the checkpoint's 8-bit scales, if any, are not this run's: the next step calibrates
} run_state;

// Reads these tensors of a worker's state, by name.
yx_status state_read(checkpoint *c, const worker_tensor *tensors, int64_t count);

yx_status state_save(const yx_config *config, const run_setup *setup, int ranks, const run_state *state);
// `resume`: "auto", "never" or a folder (train_options): another run's is for the beginning, the run's own checkpoints
// go before it. `*resumed` is false when there is nothing to resume from. A checkpoint of another model, data set or
// schedule is YX_ERR_MISMATCH.
yx_status state_load(const yx_config *config, const run_setup *setup, const char *resume, run_state *state,
                     bool *resumed);

// Fills one micro-batch at a time: finds its sequences, reads their blocks or themselves, writes tokens, targets and
// who sees whom.
#pragma once
#include "io/loader.h"

// The blocks of one shuffle window, read when they are first needed. A block's sequences are scattered over the whole
// window, so each block is read once in one piece instead of once a sequence.
typedef struct window_cache {
    int64_t epoch, window; // -1: none yet
    uint32_t *rows;        // [window_blocks, ROW]: each block and the token behind it
    bool *loaded;          // [window_blocks]
    int64_t announced;     // blocks of the next window
} window_cache;

typedef struct loader_filler { // {0} is a closed one
    const dataset *data;
    data_order order;
    bool document_mask;
    int num_ranks;
    window_cache cache;
    uint32_t *pieces; // sequences that are read by themselves
} loader_filler;

// As loader_open; window_blocks is at most the epoch's blocks. To be closed also on failure.
yx_status loader_filler_open(const dataset *data, const data_order *order, bool document_mask, int num_ranks,
                             loader_filler *out);
void loader_filler_close(loader_filler *f);
// Micro-batch `micro` of a request that was checked; `out` has room for it.
yx_status loader_filler_fill(loader_filler *f, const load_request *request, int64_t micro, micro_batch *out);

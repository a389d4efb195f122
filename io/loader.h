// Micro-batches for one rank: flat rows of M tokens, prepared ahead by a thread.
#pragma once
#include "io/order.h"
#include "io/shard.h"

// token[M], target[M] (-1: padding, not scored), seq_start[M]: key j is visible to query i iff seq_start[i] <= j <= i.
// Padding: token 0, target -1, seq_start[i] = i.
typedef struct micro_batch {
    int32_t *token, *target, *seq_start; // [M]
    int64_t num_tokens;                  // M
    int64_t num_scored;                  // positions with a target
    uint64_t token_hash; // sum over its sequences of hash(index in the step, T + 1 tokens): adds up over micro-batches
                         // and ranks to the same value however a step is split
} micro_batch;

// The micro-batches of one optimizer step on one rank.
typedef struct load_request {
    int64_t position;       // tokens consumed before the step (over all epochs)
    int64_t seq_len;        // T
    int64_t first_sequence; // this rank's slice of the step's sequences
    int64_t num_sequences;  // 0 gives one micro-batch of padding
    int64_t micro_tokens;   // M, a multiple of 128, at least T
} load_request;

// ceil(num_sequences / floor(M / T)), at least 1.
int64_t loader_num_micro_batches(const load_request *request);

enum { LOADER_MAX_STEPS = 64, LOADER_MAX_DEPTH = 64, LOADER_GROWTH = 4 };

typedef struct loader loader;
// `document_mask`: attention and positions start at each document's end-of-text token; otherwise at the sequence's
// start. `depth`: micro-batches prepared ahead at first (at least 2); while loader_next has to wait it doubles, up to
// loader_most_ahead. `num_ranks`: that share a step: what one of several reads is its own slice, not whole blocks,
// where sequences are long. The data set must outlive the loader. The loader keeps the blocks of the shuffle window it
// is in: up to 24 KiB · window_blocks of memory.
yx_status loader_open(const dataset *data, const data_order *order, bool document_mask, int depth, int num_ranks,
                      int64_t max_micro_tokens, loader **out);
void loader_close(loader *l);
// The micro-batches that may ever be ahead, for a `depth` to begin with: LOADER_GROWTH times it, at most
// LOADER_MAX_DEPTH.
int64_t loader_most_ahead(int64_t depth);
// How many are prepared ahead now.
int64_t loader_depth(loader *l);
// Queues a step's micro-batches; the thread starts at once. At most LOADER_MAX_STEPS may be requested and not taken to
// their last micro-batch; one more fails (YX_ERR_INTERNAL).
yx_status loader_request(loader *l, const load_request *request);
// Requested is less than the loader prepares ahead, or less than two steps; there is room for two more.
bool loader_wants(loader *l);
// The next micro-batch in the order requested; valid until the next call but one. Waits for the thread; a reading
// failure of the thread is returned here, again at every call until loader_cancel.
yx_status loader_next(loader *l, const micro_batch **out);
// Fills a micro-batch of a request in the calling thread, while nothing is requested: for measurements. The caller has
// arrays of request->micro_tokens in `out`.
yx_status loader_fill(loader *l, const load_request *request, int64_t micro, micro_batch *out);
// Drops what was requested and not yet taken.
void loader_cancel(loader *l);

// Validation: fills `out` (arrays of M = micro_tokens) with the windows of T tokens, stride T, that start at stream
// token `begin`, as many as fit and are left; `*next` gets where to go on (equal to the stream's end when done). The
// last window may be shorter; out->token_hash counts windows from `begin`. Every text token is scored once as a target:
// what follows the stream's last token is its first EOT.
yx_status loader_fill_windows(const dataset *data, bool document_mask, int64_t begin, int64_t seq_len,
                              int64_t micro_tokens, micro_batch *out, int64_t *next);

// The order of the training data: a pure function of (seed, epoch, position, T). Two levels (docs/data-format.md):
// blocks of 6,144 tokens are permuted over the epoch; within a window of blocks, the window's sequences of length T
// are.
#pragma once
#include "common/status.h"
#include <stdint.h>

enum { ORDER_BLOCK_TOKENS = 6144 };

// A bijection of [0, n) chosen by `key`: six rounds of a generalised Feistel network on the digits of the index in a
// mixed radix, with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). 1 ≤ n ≤ 2^62,
// index < n.
uint64_t order_permute(uint64_t index, uint64_t n, uint64_t key);

typedef struct data_order {
    uint64_t seed;
    int64_t blocks_per_epoch, window_blocks;
} data_order;

// Where a sequence lies: in which window of which epoch, and in which of the window's blocks.
typedef struct order_place {
    int64_t epoch, window;
    int64_t block_in_window; // < the window's number of blocks (window_blocks, fewer in the epoch's last window)
    int64_t token_in_block;  // a multiple of T
} order_place;

// Sequence of length T that starts `position` tokens into the run (position counts tokens consumed over all epochs; it
// is a multiple of T since the last window boundary). T divides the block.
void order_locate(const data_order *order, int64_t position, int64_t seq_len, order_place *place);
// What order_locate finds once for all sequences of a window.
typedef struct order_window {
    int64_t epoch, window, blocks; // blocks: of this window
    int64_t seq_len, per_block;
    int64_t position; // where it begins
    uint64_t key, a, b;
} order_window;

// The window that `position` is in.
void order_window_at(const data_order *order, int64_t position, int64_t seq_len, order_window *out);
// The sequence at `position`, which is in the window.
void order_window_locate(const order_window *w, int64_t position, order_place *place);
// The block of the stream (0 … blocks_per_epoch − 1) that block `block_in_window` of a window stands for.
int64_t order_block(const data_order *order, int64_t epoch, int64_t window, int64_t block_in_window);
// Both in one: `*token` gets the stream offset of the sequence's first token.
void order_sequence(const data_order *order, int64_t position, int64_t seq_len, int64_t *token);

#include "io/order.h"
#include "common/rng.h"
#include <math.h>

enum { ROUNDS = 6 };
// What keeps the keys of the two levels apart.
enum { BLOCK_LEVEL = 1, SEQUENCE_LEVEL = 2 };

// ceil(sqrt(n)), exact: sqrt() is correctly rounded but n may not fit a double's mantissa.
static uint64_t root_above(uint64_t n) {
    uint64_t a = (uint64_t)sqrt((double)n);
    while (a * a < n) a++;
    while (a > 1 && (a - 1) * (a - 1) >= n) a--;
    return a;
}

// The round function: pseudo-random in [0, m), m ≤ 2^31.
static inline uint64_t round_value(uint64_t key, uint64_t round, uint64_t digit, uint64_t m) {
    return ((yx_mix64(key + round * 0xD1B54A32D192ED03ull, digit) >> 32) * m) >> 32;
}

// One pass over the domain a·b ≥ n, index = x·b + y.
static inline uint64_t feistel(uint64_t index, uint64_t a, uint64_t b, uint64_t key) {
    uint64_t x = index / b, y = index % b;
    for (uint64_t round = 0; round < ROUNDS; round += 2) {
        x += round_value(key, round, y, a);
        if (x >= a) x -= a;
        y += round_value(key, round + 1, x, b);
        if (y >= b) y -= b;
    }
    return x * b + y;
}

// a·b < n + a: nearly no index has to walk.
static inline uint64_t permute(uint64_t index, uint64_t n, uint64_t a, uint64_t b, uint64_t key) {
    do index = feistel(index, a, b, key);
    while (index >= n);
    return index;
}

uint64_t order_permute(uint64_t index, uint64_t n, uint64_t key) {
    uint64_t a = root_above(n), b = (n + a - 1) / a;
    return permute(index, n, a, b, key);
}

void order_window_at(const data_order *order, int64_t position, int64_t seq_len, order_window *w) {
    int64_t epoch_tokens = order->blocks_per_epoch * ORDER_BLOCK_TOKENS, in_epoch = position % epoch_tokens;
    int64_t window_tokens = order->window_blocks * ORDER_BLOCK_TOKENS;
    w->epoch = position / epoch_tokens;
    w->window = in_epoch / window_tokens;
    w->position = position - in_epoch % window_tokens;
    w->blocks = order->blocks_per_epoch - w->window * order->window_blocks;
    if (w->blocks > order->window_blocks) w->blocks = order->window_blocks;
    w->seq_len = seq_len;
    w->per_block = ORDER_BLOCK_TOKENS / seq_len;
    uint64_t key = yx_mix64(yx_mix64(order->seed, SEQUENCE_LEVEL), (uint64_t)w->epoch);
    w->key = yx_mix64(yx_mix64(key, (uint64_t)w->window), (uint64_t)seq_len);
    w->a = root_above((uint64_t)(w->blocks * w->per_block));
    w->b = ((uint64_t)(w->blocks * w->per_block) + w->a - 1) / w->a;
}

void order_window_locate(const order_window *w, int64_t position, order_place *place) {
    uint64_t index = (uint64_t)((position - w->position) / w->seq_len);
    index = permute(index, (uint64_t)(w->blocks * w->per_block), w->a, w->b, w->key);
    place->epoch = w->epoch;
    place->window = w->window;
    place->block_in_window = (int64_t)index / w->per_block;
    place->token_in_block = (int64_t)index % w->per_block * w->seq_len;
}

void order_locate(const data_order *order, int64_t position, int64_t seq_len, order_place *place) {
    order_window window;
    order_window_at(order, position, seq_len, &window);
    order_window_locate(&window, position, place);
}

int64_t order_block(const data_order *order, int64_t epoch, int64_t window, int64_t block_in_window) {
    uint64_t key = yx_mix64(yx_mix64(order->seed, BLOCK_LEVEL), (uint64_t)epoch);
    uint64_t index = (uint64_t)(window * order->window_blocks + block_in_window);
    return (int64_t)order_permute(index, (uint64_t)order->blocks_per_epoch, key);
}

void order_sequence(const data_order *order, int64_t position, int64_t seq_len, int64_t *token) {
    order_place place;
    order_locate(order, position, seq_len, &place);
    *token = order_block(order, place.epoch, place.window, place.block_in_window) * ORDER_BLOCK_TOKENS +
             place.token_in_block;
}

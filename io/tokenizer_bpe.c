// Three parts. A priority queue of merges encodes anything, in O(n log n). But with merges as training leaves them,
// each making a new token out of earlier ones, those below some rank T can be done first, without a queue:
//   T is the first merge whose token has a space behind a visible ASCII character. Merges below T cannot cross such a
//   place, so they work on the words between. In a word, a sequence of tokens is the encoding of its bytes exactly when
//   each two neighbours are the encoding of theirs; a search over the longest tokens, with that test for neighbours,
//   finds it in linear time (van Antwerpen & Neubeck 2024, "So many tokens, so little time"). Nearly always the word is
//   one token.
// The queue then merges words, of which there are few: T is the end of the list where pre-tokenization keeps words
// apart (GPT-2), and SuperBPE's transition where it does not.
#include "io/tokenizer_bpe.h"
#include "common/hash.h"
#include "io/tokenizer_memory.h"
#include "io/tokenizer_trie.h"
#include <stdlib.h>
#include <string.h>

// Symbols number what can stand in a sequence: 0 … 255 are the bytes, then the results of merges in rank order.
enum { BYTES = 256, SYMBOL_BITS = 21, MAX_SYMBOLS = 1 << SYMBOL_BITS, MIN_FILTER_BITS = 16, MAX_FILTER_BITS = 21 };
static const uint64_t EMPTY = UINT64_MAX;
static const uint64_t HASH_FACTOR = 0x9e3779b97f4a7c15u; // 2^64 / golden ratio

// How a symbol came about; a byte is made of itself.
typedef struct symbol_link {
    uint32_t left, right;
    uint32_t shorter; // the longest symbol that is a proper prefix of this one, or BPE_NONE
    uint32_t size;    // bytes
} symbol_link;

struct bpe {
    const token_table *tokens;
    uint64_t *pairs;  // left << 42 | right << 21 | rank, open addressing; EMPTY
    int pair_bits;    // log2 of the number of slots
    uint64_t *filter; // one bit per hash: a zero says that the pair is in no merge, without a look at the larger table
    int filter_bits;
    uint32_t *result; // [rank] symbol
    uint32_t *id;     // [symbol] BPE_NONE for a byte without a token
    uint32_t n_symbols, n_ranks;
    uint32_t n_words;   // symbols below this one come from merges below T; 0 when the list is not as training leaves it
    symbol_link *links; // [n_words]
    trie words;         // the symbols below n_words
    uint32_t *by_bytes; // ids by the hash of their bytes, open addressing; BPE_NONE
    int by_bytes_bits;
};

struct bpe_scratch {
    uint64_t *heap; // rank << 32 | position
    size_t heap_size;
    uint32_t *symbol, *previous, *next; // a linked list over positions
    uint64_t *dead;                     // one bit per position in a word: no encoding has a boundary here
    size_t capacity;                    // bytes of text
};

void token_table_free(token_table *t) {
    free(t->blob);
    free(t->offset);
    free(t->is_text);
    *t = (token_table){0};
}

// --- Pairs -----------------------------------------------------------------------------------------------------------

static inline uint64_t pair_key(uint32_t left, uint32_t right) { return (uint64_t)left << SYMBOL_BITS | right; }

static inline uint64_t pair_hash(uint64_t key) {
    key *= HASH_FACTOR;
    return key ^ key >> 32;
}

static inline uint64_t *pair_slot(const bpe *b, uint64_t key, uint64_t hash) {
    uint64_t mask = ((uint64_t)1 << b->pair_bits) - 1, i = hash & mask;
    while (b->pairs[i] != EMPTY && b->pairs[i] >> SYMBOL_BITS != key) i = (i + 1) & mask;
    return &b->pairs[i];
}

static inline uint32_t find_rank(const bpe *b, uint32_t left, uint32_t right) {
    uint64_t key = pair_key(left, right), hash = pair_hash(key);
    uint64_t bit = hash >> (64 - b->filter_bits);
    if (!(b->filter[bit >> 6] >> (bit & 63) & 1)) return BPE_NONE;
    uint64_t entry = *pair_slot(b, key, hash);
    return entry == EMPTY ? BPE_NONE : (uint32_t)(entry & (MAX_SYMBOLS - 1));
}

static void add_pair(bpe *b, uint32_t left, uint32_t right, uint32_t rank) {
    uint64_t key = pair_key(left, right), hash = pair_hash(key), bit = hash >> (64 - b->filter_bits);
    *pair_slot(b, key, hash) = key << SYMBOL_BITS | rank;
    b->filter[bit >> 6] |= (uint64_t)1 << (bit & 63);
}

static int bits_for(size_t count) {
    int bits = 4;
    while ((size_t)1 << bits < count) bits++;
    return bits;
}

static yx_status allocate_pairs(bpe *b, size_t n_merges) {
    b->pair_bits = bits_for(n_merges * 2 + 1);
    b->filter_bits = bits_for(n_merges * 8);
    if (b->filter_bits < MIN_FILTER_BITS) b->filter_bits = MIN_FILTER_BITS;
    if (b->filter_bits > MAX_FILTER_BITS) b->filter_bits = MAX_FILTER_BITS;
    size_t slots = (size_t)1 << b->pair_bits;
    b->pairs = table_alloc(slots * sizeof *b->pairs);
    b->filter = calloc(((size_t)1 << b->filter_bits) / 64, sizeof *b->filter);
    b->result = malloc((n_merges + 1) * sizeof *b->result);
    b->id = malloc((n_merges + BYTES) * sizeof *b->id);
    if (!b->pairs || !b->filter || !b->result || !b->id)
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu merges", n_merges);
    memset(b->pairs, 0xff, slots * sizeof *b->pairs);
    return YX_OK;
}

// --- Loading ---------------------------------------------------------------------------------------------------------

// symbol_of[id]: bytes first, then each token at its first merge.
static yx_status number_symbols(bpe *b, const bpe_merge *merges, size_t n_merges, uint32_t *symbol_of) {
    for (uint32_t i = 0; i < BYTES; i++) b->id[i] = BPE_NONE;
    for (uint32_t i = 0; i < b->tokens->size; i++) {
        symbol_of[i] = BPE_NONE;
        if (!b->tokens->is_text[i] || token_size(b->tokens, i) != 1) continue;
        symbol_of[i] = token_bytes(b->tokens, i)[0];
        b->id[symbol_of[i]] = i;
    }
    b->n_symbols = BYTES;
    for (size_t i = 0; i < n_merges; i++) {
        uint32_t result = merges[i].result;
        if (symbol_of[result] != BPE_NONE) continue;
        if (b->n_symbols == MAX_SYMBOLS) return yx_fail(YX_ERR_DATA, "a vocabulary of that size is not supported");
        symbol_of[result] = b->n_symbols;
        b->id[b->n_symbols++] = result;
    }
    return YX_OK;
}

// Enters the merges. One with a part that nothing produces can never apply and gets no rank.
static void add_merges(bpe *b, const bpe_merge *merges, size_t n_merges, const uint32_t *symbol_of) {
    for (size_t i = 0; i < n_merges; i++) {
        uint32_t left = symbol_of[merges[i].left], right = symbol_of[merges[i].right];
        if (left == BPE_NONE || right == BPE_NONE) continue;
        b->result[b->n_ranks] = symbol_of[merges[i].result];
        add_pair(b, left, right, b->n_ranks++);
    }
}

// Each merge makes a new symbol out of older ones, and all bytes of UTF-8 have a token.
static bool is_in_order(const bpe *b, const bpe_merge *merges, size_t n_merges, const uint32_t *symbol_of) {
    for (uint32_t i = 0; i < BYTES; i++)
        if (b->id[i] == BPE_NONE && i != 0xc0 && i != 0xc1 && i < 0xf5) return false;
    if (b->n_ranks != n_merges || b->n_ranks + BYTES != b->n_symbols) return false;
    for (uint32_t i = 0; i < b->n_ranks; i++) {
        if (b->result[i] != i + BYTES) return false;
        if (symbol_of[merges[i].left] >= b->result[i] || symbol_of[merges[i].right] >= b->result[i]) return false;
    }
    return true;
}

// Whether merges of a rank below `limit` leave the boundary between two encodings alone: undoes the later of the two
// merges next to the boundary, and looks each time whether an earlier merge would have crossed it instead. Of equal
// merges the left one comes first.
static inline bool boundary_holds(const bpe *b, uint32_t left, uint32_t right, uint32_t limit) {
    for (;;) {
        uint32_t rank = find_rank(b, left, right);
        if (rank != BPE_NONE && rank + BYTES < limit) return false;
        if (left < BYTES && right < BYTES) return true;
        if (left > right) {
            limit = left;
            left = b->links[left].right;
        } else {
            limit = right + 1;
            right = b->links[right].left;
        }
    }
}

// Where a word starts: at a space behind a visible ASCII character. (Runs of white space, and Unicode's spaces, make
// tokens with spaces inside early on.)
static inline bool starts_word(const uint8_t *text, size_t i) {
    return text[i] == ' ' && text[i - 1] > ' ' && text[i - 1] < 0x7f;
}

static bool is_one_word(const uint8_t *bytes, size_t size) {
    for (size_t i = 1; i < size; i++)
        if (starts_word(bytes, i)) return false;
    return true;
}

// Links symbols up to T. T is also where a token does not come out of its own bytes: at the time of its merge another
// one would have crossed the middle.
static yx_status make_links(bpe *b, const bpe_merge *merges, const uint32_t *symbol_of) {
    b->links = table_alloc(b->n_symbols * sizeof *b->links);
    if (!b->links) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", b->n_symbols);
    for (uint32_t i = 0; i < b->n_symbols; i++) {
        b->links[i] = (symbol_link){i, i, BPE_NONE, 1};
        if (i >= BYTES) {
            const bpe_merge *m = &merges[i - BYTES];
            uint32_t left = symbol_of[m->left], right = symbol_of[m->right], size = token_size(b->tokens, b->id[i]);
            if (!is_one_word(token_bytes(b->tokens, b->id[i]), size) || !boundary_holds(b, left, right, i)) break;
            b->links[i] = (symbol_link){left, right, BPE_NONE, size};
        }
        b->n_words = i + 1;
    }
    return YX_OK;
}

static yx_status make_trie(bpe *b) {
    yx_status status = YX_OK;
    trie_key *keys = malloc((b->n_words + 1) * sizeof *keys);
    size_t n = 0;
    if (!keys) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %u tokens", b->n_words);
    for (uint32_t i = 0; i < b->n_words; i++)
        if (b->id[i] != BPE_NONE)
            keys[n++] = (trie_key){token_bytes(b->tokens, b->id[i]), b->links[i].size, (int32_t)i};
    YX_CHECK(trie_build(keys, n, &b->words));
    for (uint32_t i = BYTES; i < b->n_words; i++)
        b->links[i].shorter = (uint32_t)trie_longest(&b->words, token_bytes(b->tokens, b->id[i]), b->links[i].size - 1);
fail:
    free(keys);
    return status;
}

static uint32_t *by_bytes_slot(const bpe *b, const uint8_t *bytes, size_t size) {
    uint64_t mask = ((uint64_t)1 << b->by_bytes_bits) - 1, i = yx_hash64(bytes, size, 0) & mask;
    for (; b->by_bytes[i] != BPE_NONE; i = (i + 1) & mask) {
        uint32_t id = b->by_bytes[i];
        if (token_size(b->tokens, id) == size && memcmp(token_bytes(b->tokens, id), bytes, size) == 0) break;
    }
    return &b->by_bytes[i];
}

static yx_status make_by_bytes(bpe *b) {
    b->by_bytes_bits = bits_for((size_t)b->tokens->size * 2);
    size_t slots = (size_t)1 << b->by_bytes_bits;
    b->by_bytes = malloc(slots * sizeof *b->by_bytes);
    if (!b->by_bytes) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %u tokens", b->tokens->size);
    for (size_t i = 0; i < slots; i++) b->by_bytes[i] = BPE_NONE;
    for (uint32_t id = 0; id < b->tokens->size; id++)
        if (b->tokens->is_text[id]) *by_bytes_slot(b, token_bytes(b->tokens, id), token_size(b->tokens, id)) = id;
    return YX_OK;
}

uint32_t bpe_find(const bpe *b, const uint8_t *bytes, size_t size) { return *by_bytes_slot(b, bytes, size); }

yx_status bpe_new(const token_table *tokens, const bpe_merge *merges, size_t n_merges, bool with_find, bpe **out) {
    yx_status status = YX_OK;
    uint32_t *symbol_of = malloc(((size_t)tokens->size + 1) * sizeof *symbol_of);
    bpe *b = calloc(1, sizeof *b);
    if (!b || !symbol_of) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for a tokenizer");
    b->tokens = tokens;
    YX_CHECK(allocate_pairs(b, n_merges));
    YX_CHECK(number_symbols(b, merges, n_merges, symbol_of));
    add_merges(b, merges, n_merges, symbol_of);
    if (is_in_order(b, merges, n_merges, symbol_of)) {
        YX_CHECK(make_links(b, merges, symbol_of));
        YX_CHECK(make_trie(b));
    }
    if (with_find) YX_CHECK(make_by_bytes(b));
    *out = b;
    b = NULL;
fail:
    bpe_free(b);
    free(symbol_of);
    return status;
}

void bpe_free(bpe *b) {
    if (!b) return;
    free(b->pairs);
    free(b->filter);
    free(b->result);
    free(b->id);
    free(b->links);
    free(b->by_bytes);
    trie_free(&b->words);
    free(b);
}

uint32_t bpe_word_merges(const bpe *b) { return b->n_words > BYTES ? b->n_words - BYTES : 0; }

// --- Scratch ---------------------------------------------------------------------------------------------------------

yx_status bpe_scratch_new(bpe_scratch **out) {
    *out = calloc(1, sizeof **out);
    return *out ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for an encoder");
}

void bpe_scratch_free(bpe_scratch *s) {
    if (!s) return;
    free(s->heap);
    free(s->symbol);
    free(s->previous);
    free(s->next);
    free(s->dead);
    free(s);
}

yx_status bpe_reserve(bpe_scratch *s, size_t size) {
    if (size < s->capacity) return YX_OK;
    if (size > INT32_MAX) return yx_fail(YX_ERR_DATA, "a text of %zu bytes is too long to encode", size);
    size_t capacity = size + size / 2 + 64;
    free(s->heap);
    free(s->symbol);
    free(s->previous);
    free(s->next);
    free(s->dead);
    s->heap = malloc(capacity * 2 * sizeof *s->heap); // one entry per pair, and each merge takes one and adds two
    s->symbol = malloc(capacity * sizeof *s->symbol);
    s->previous = malloc(capacity * sizeof *s->previous);
    s->next = malloc(capacity * sizeof *s->next);
    s->dead = malloc((capacity / 64 + 1) * sizeof *s->dead);
    s->capacity = s->heap && s->symbol && s->previous && s->next && s->dead ? capacity : 0;
    return s->capacity ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory to encode %zu bytes", size);
}

// --- By a priority queue ---------------------------------------------------------------------------------------------

enum { ARITY = 4 };
static const uint32_t END = UINT32_MAX;

static void heap_down(uint64_t *heap, size_t size, size_t i) {
    uint64_t entry = heap[i];
    for (size_t child; (child = i * ARITY + 1) < size; i = child) {
        size_t last = child + ARITY < size ? child + ARITY : size;
        for (size_t c = child + 1; c < last; c++)
            if (heap[c] < heap[child]) child = c;
        if (heap[child] >= entry) break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

static void heap_push(bpe_scratch *s, uint64_t entry) {
    size_t i = s->heap_size++;
    for (; i > 0 && s->heap[(i - 1) / ARITY] > entry; i = (i - 1) / ARITY) s->heap[i] = s->heap[(i - 1) / ARITY];
    s->heap[i] = entry;
}

static uint64_t heap_pop(bpe_scratch *s) {
    uint64_t top = s->heap[0];
    s->heap[0] = s->heap[--s->heap_size];
    heap_down(s->heap, s->heap_size, 0);
    return top;
}

static void push_pair(const bpe *b, bpe_scratch *s, uint32_t position) {
    uint32_t rank = find_rank(b, s->symbol[position], s->symbol[s->next[position]]);
    if (rank != BPE_NONE) heap_push(s, (uint64_t)rank << 32 | position);
}

// Puts the bytes that have a token into s->symbol; returns their number.
static uint32_t take_bytes(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size) {
    uint32_t n = 0;
    for (size_t i = 0; i < size; i++)
        if (b->id[text[i]] != BPE_NONE) s->symbol[n++] = text[i];
    return n;
}

static void fill_heap(const bpe *b, bpe_scratch *s, uint32_t n) {
    s->heap_size = 0;
    for (uint32_t i = 0; i + 1 < n; i++) {
        uint32_t rank = find_rank(b, s->symbol[i], s->symbol[i + 1]);
        if (rank != BPE_NONE) s->heap[s->heap_size++] = (uint64_t)rank << 32 | i;
    }
    for (size_t i = s->heap_size / ARITY + 1; i-- > 0;)
        if (i < s->heap_size) heap_down(s->heap, s->heap_size, i);
}

static void link_symbols(bpe_scratch *s, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        s->previous[i] = i ? i - 1 : END;
        s->next[i] = i + 1 < n ? i + 1 : END;
    }
}

// Joins the symbol at `i` with the next one. The place of the right one is left with a symbol that no pair has.
static void merge_at(const bpe *b, bpe_scratch *s, uint32_t i, uint32_t result) {
    uint32_t right = s->next[i], after = s->next[right];
    s->symbol[i] = result;
    s->symbol[right] = BPE_NONE;
    s->next[i] = after;
    if (after != END) {
        s->previous[after] = i;
        push_pair(b, s, i);
    }
    if (s->previous[i] != END) push_pair(b, s, s->previous[i]);
}

// Merges s->symbol[0 .. n) to the end and writes the ids; returns their number.
static size_t merge_symbols(const bpe *b, bpe_scratch *s, uint32_t n, uint32_t *ids) {
    size_t count = 0;
    fill_heap(b, s, n);
    link_symbols(s, n);
    while (s->heap_size > 0) {
        uint64_t top = heap_pop(s);
        uint32_t i = (uint32_t)top, rank = (uint32_t)(top >> 32);
        // The pair may be gone since: another one may stand there, whose own entry has its rank.
        if (s->symbol[i] == BPE_NONE || s->next[i] == END) continue;
        if (find_rank(b, s->symbol[i], s->symbol[s->next[i]]) == rank) merge_at(b, s, i, b->result[rank]);
    }
    for (uint32_t i = n > 0 ? 0 : END; i != END; i = s->next[i]) ids[count++] = b->id[s->symbol[i]];
    return count;
}

size_t bpe_encode_queue(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *ids) {
    return merge_symbols(b, s, take_bytes(b, s, text, size), ids);
}

// --- Words, by backtracking ------------------------------------------------------------------------------------------

static inline bool is_dead(const bpe_scratch *s, size_t i) { return s->dead[i >> 6] >> (i & 63) & 1; }

// `symbol` or the longest of its prefixes that may follow symbols[count - 1] and does not end at a dead position.
static inline uint32_t fitting(const bpe *b, const bpe_scratch *s, const uint32_t *symbols, size_t count,
                               size_t position, uint32_t symbol) {
    for (; symbol != BPE_NONE; symbol = b->links[symbol].shorter) {
        if (is_dead(s, position + b->links[symbol].size)) continue;
        if (count == 0 || boundary_holds(b, symbols[count - 1], symbol, b->n_words)) break;
    }
    return symbol;
}

// Encodes a word that is more than one token; returns the number of symbols.
static size_t search_word(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *symbols) {
    size_t count = 0, position = 0;
    memset(s->dead, 0, (size / 64 + 1) * sizeof *s->dead);
    while (position < size) {
        uint32_t symbol = (uint32_t)trie_longest(&b->words, text + position, size - position);
        while ((symbol = fitting(b, s, symbols, count, position, symbol)) == BPE_NONE) {
            // Nothing follows, so no encoding has a boundary here: go back, and try less than the last symbol.
            s->dead[position >> 6] |= (uint64_t)1 << (position & 63);
            symbol = symbols[--count];
            position -= b->links[symbol].size;
        }
        symbols[count++] = symbol;
        position += b->links[symbol].size;
    }
    return count;
}

// Encodes all words; returns the number of symbols.
static size_t encode_words(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *symbols) {
    size_t count = 0;
    for (size_t start = 0, end; start < size; start = end) {
        for (end = start + 1; end < size && !starts_word(text, end);) end++;
        uint32_t symbol = (uint32_t)trie_longest(&b->words, text + start, end - start);
        if (b->links[symbol].size == end - start) symbols[count++] = symbol;
        else count += search_word(b, s, text + start, end - start, symbols + count);
    }
    return count;
}

size_t bpe_encode(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *ids) {
    if (b->n_words == 0) return bpe_encode_queue(b, s, text, size, ids);
    if (b->n_words < b->n_symbols) return merge_symbols(b, s, (uint32_t)encode_words(b, s, text, size, s->symbol), ids);
    size_t count = encode_words(b, s, text, size, ids);
    for (size_t i = 0; i < count; i++) ids[i] = b->id[ids[i]];
    return count;
}

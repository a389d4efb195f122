// A priority queue of merges encodes anything, in O(n log n). But with merges as training leaves them, each making a
// new token out of earlier ones, those below some rank T can be done first, without a queue:
//   T is the first merge whose token has a space behind a visible ASCII character. Between two bytes that no token
//   below T has side by side, the merges below T leave a boundary, so they work on the parts between: words. The words
//   met last are remembered. For the others, a sequence of tokens is the encoding of its bytes exactly when each two
//   neighbours are the encoding of theirs; a search over the longest tokens, with that test for neighbours, finds it in
//   linear time (van Antwerpen & Neubeck 2024, "So many tokens, so little time").
// Merges from T on then join words: there are none of these merges where pre-tokenization keeps words apart (GPT-2),
// and T is SuperBPE's transition where it does not. They work on short stretches of words: see tokenizer_merge.h.
#include "io/tokenizer_bpe.h"
#include "common/hash.h"
#include "io/tokenizer_memory.h"
#include "io/tokenizer_merge.h"
#include "io/tokenizer_trie.h"
#include "io/tokenizer_words.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// Symbols number what can stand in a sequence: 0 … 255 are the bytes, then the results of merges in rank order.
enum { BYTES = 256 };

// How a symbol came about; a byte is made of itself.
typedef struct symbol_link {
    uint32_t left, right;
    uint32_t shorter; // the longest symbol that is a proper prefix of this one, or BPE_NONE
    uint32_t size;    // bytes
} symbol_link;

struct bpe {
    const token_table *tokens;
    uint64_t serial;   // of this one among all that the process has made
    merge_rules rules; // all merges
    uint32_t *result;  // [rank] symbol
    uint32_t *id;      // [symbol] BPE_NONE for a byte without a token
    uint32_t n_symbols, n_ranks;
    uint32_t n_words;   // symbols below this one come from merges below T; 0 when the list is not as training leaves it
    symbol_link *links; // [n_words]
    trie words;         // the symbols below n_words
    word_joints inside; // them
    merge_rules super;  // the merges from T on
    merge_joints joints;
    uint32_t *by_bytes; // ids by the hash of their bytes, open addressing; BPE_NONE
    int by_bytes_bits;
};

struct bpe_scratch {
    merge_scratch merge;
    word_cache cache;
    uint32_t *symbols;
    uint32_t *places; // where words start; later, ranks of merges
    uint64_t *dead;   // one bit per position in a word: no encoding has a boundary here
    size_t capacity;  // bytes of text
};

void token_table_free(token_table *t) {
    free(t->blob);
    free(t->offset);
    free(t->is_text);
    *t = (token_table){0};
}

static int bits_for(size_t count) {
    int bits = 4;
    while ((size_t)1 << bits < count) bits++;
    return bits;
}

static yx_status allocate(bpe *b, size_t n_merges) {
    static atomic_uint_fast64_t serials;
    b->serial = atomic_fetch_add(&serials, 1) + 1;
    b->result = malloc((n_merges + 1) * sizeof *b->result);
    b->id = malloc((n_merges + BYTES) * sizeof *b->id);
    if (!b->result || !b->id) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu merges", n_merges);
    b->rules.result = b->super.result = b->result;
    return pairs_init(&b->rules.pairs, n_merges);
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
        if (b->n_symbols == PAIR_MAX_SYMBOLS) return yx_fail(YX_ERR_DATA, "a vocabulary of that size is not supported");
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
        pairs_add(&b->rules.pairs, left, right, b->n_ranks++);
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
        uint32_t rank = pairs_find(&b->rules.pairs, left, right);
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

// A word starts at a space behind a visible ASCII character. (Runs of white space, and Unicode's spaces, make tokens
// with spaces inside early on.)
static inline bool word_starts(const uint8_t *text, size_t i) {
    return text[i] == ' ' && text[i - 1] > ' ' && text[i - 1] < 0x7f;
}

static bool is_one_word(const uint8_t *bytes, size_t size) {
    for (size_t i = 1; i < size; i++)
        if (word_starts(bytes, i)) return false;
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
    for (uint32_t i = 0; i < b->n_words; i++) {
        if (b->id[i] == BPE_NONE) continue;
        keys[n++] = (trie_key){token_bytes(b->tokens, b->id[i]), b->links[i].size, (int32_t)i};
        word_joints_add(&b->inside, token_bytes(b->tokens, b->id[i]), b->links[i].size);
    }
    YX_CHECK(trie_build(keys, n, &b->words));
    for (uint32_t i = BYTES; i < b->n_words; i++)
        b->links[i].shorter = (uint32_t)trie_longest(&b->words, token_bytes(b->tokens, b->id[i]), b->links[i].size - 1);
fail:
    free(keys);
    return status;
}

// Which of the symbols below T stand at the ends of a symbol: what the merges from T on join.
static yx_status find_joints(bpe *b, const bpe_merge *merges, const uint32_t *symbol_of, uint32_t *first,
                             uint32_t *last) {
    uint32_t n_words = b->n_words, n_super = b->n_symbols - n_words;
    yx_status status = merge_joints_init(&b->joints, n_super);
    for (uint32_t i = 0; i < n_words; i++) first[i] = last[i] = i;
    for (uint32_t i = n_words; i < b->n_symbols && status == YX_OK; i++) {
        const bpe_merge *m = &merges[i - BYTES];
        uint32_t left = symbol_of[m->left], right = symbol_of[m->right];
        first[i] = first[left];
        last[i] = last[right];
        merge_joints_add(&b->joints, last[left], first[right]);
        pairs_add(&b->super.pairs, left, right, i - BYTES);
    }
    return status;
}

// What merges words, in tables of its own: they are smaller.
static yx_status make_super(bpe *b, const bpe_merge *merges, const uint32_t *symbol_of) {
    yx_status status = YX_OK;
    uint32_t *ends = malloc((size_t)b->n_symbols * 2 * sizeof *ends);
    if (!ends) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %u tokens", b->n_symbols);
    YX_CHECK(pairs_init(&b->super.pairs, b->n_symbols - b->n_words));
    YX_CHECK(find_joints(b, merges, symbol_of, ends, ends + b->n_symbols));
fail:
    free(ends);
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
    YX_CHECK(allocate(b, n_merges));
    YX_CHECK(number_symbols(b, merges, n_merges, symbol_of));
    add_merges(b, merges, n_merges, symbol_of);
    if (is_in_order(b, merges, n_merges, symbol_of)) {
        YX_CHECK(make_links(b, merges, symbol_of));
        YX_CHECK(make_trie(b));
        if (b->n_words < b->n_symbols) YX_CHECK(make_super(b, merges, symbol_of));
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
    pairs_free(&b->rules.pairs);
    pairs_free(&b->super.pairs);
    merge_joints_free(&b->joints);
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
    merge_scratch_free(&s->merge);
    word_cache_free(&s->cache);
    free(s->symbols);
    free(s->places);
    free(s->dead);
    free(s);
}

static yx_status grow(bpe_scratch *s, size_t capacity) {
    free(s->symbols);
    free(s->places);
    free(s->dead);
    s->symbols = malloc((capacity + WORD_MAX_SYMBOLS) * sizeof *s->symbols);
    s->places = malloc((capacity + 1) * sizeof *s->places);
    s->dead = malloc((capacity / 64 + 1) * sizeof *s->dead);
    s->capacity = s->symbols && s->places && s->dead ? capacity : 0;
    return s->capacity ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory to encode %zu bytes", capacity);
}

yx_status bpe_reserve(bpe_scratch *s, size_t size) {
    yx_status status = YX_OK;
    if (size > INT32_MAX) YX_FAIL(YX_ERR_DATA, "a text of %zu bytes is too long to encode", size);
    if (size >= s->capacity) YX_CHECK(grow(s, size + size / 2 + 64));
    YX_CHECK(merge_reserve(&s->merge, s->capacity));
    YX_CHECK(word_cache_allocate(&s->cache));
fail:
    return status;
}

// --- By a priority queue ---------------------------------------------------------------------------------------------

static size_t write_ids(const bpe *b, const uint32_t *symbols, size_t n, uint32_t *ids) {
    for (size_t i = 0; i < n; i++) ids[i] = b->id[symbols[i]];
    return n;
}

size_t bpe_encode_queue(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *ids) {
    size_t n = 0;
    for (size_t i = 0; i < size; i++)
        if (b->id[text[i]] != BPE_NONE) s->symbols[n++] = text[i];
    return write_ids(b, s->symbols, merge_by_queue(&b->rules, &s->merge, s->symbols, n), ids);
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

// Encodes a word that the cache does not have.
static size_t encode_word(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *symbols) {
    uint32_t symbol = (uint32_t)trie_longest(&b->words, text, size);
    if (b->links[symbol].size != size) return search_word(b, s, text, size, symbols);
    symbols[0] = symbol;
    return 1;
}

// By way of the cache. `symbols` has room for WORD_MAX_SYMBOLS.
static inline size_t encode_short_word(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, size_t readable,
                                       uint32_t *symbols) {
    word_key key = word_make_key(text, size, readable);
    word_entry *entry = word_cache_entry(&s->cache, key);
    if (entry->key.low == key.low && entry->key.high == key.high) {
        memcpy(symbols, entry->symbols, sizeof entry->symbols);
        return entry->count;
    }
    size_t count = encode_word(b, s, text, size, symbols);
    if (count <= WORD_MAX_SYMBOLS) {
        entry->key = key;
        entry->count = (uint32_t)count;
        memcpy(entry->symbols, symbols, count * sizeof *symbols);
    }
    return count;
}

// Encodes all words into s->symbols; returns the number of symbols.
static size_t encode_words(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, size_t readable) {
    size_t count = 0, n_words = word_find_starts(&b->inside, text, size, s->places);
    for (size_t i = 0; i < n_words; i++) {
        size_t start = s->places[i], length = s->places[i + 1] - start;
        count += length <= WORD_MAX_BYTES
                     ? encode_short_word(b, s, text + start, length, readable - start, s->symbols + count)
                     : encode_word(b, s, text + start, length, s->symbols + count);
    }
    return count;
}

size_t bpe_encode(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, uint32_t *ids) {
    return bpe_encode_part(b, s, text, size, size, ids);
}

size_t bpe_encode_part(const bpe *b, bpe_scratch *s, const uint8_t *text, size_t size, size_t readable, uint32_t *ids) {
    if (size == 0) return 0;
    if (b->n_words == 0) return bpe_encode_queue(b, s, text, size, ids);
    word_cache_own(&s->cache, b->serial);
    size_t n = encode_words(b, s, text, size, readable);
    if (b->n_words < b->n_symbols) n = merge_by_stretches(&b->super, &b->joints, &s->merge, s->symbols, s->places, n);
    return write_ids(b, s->symbols, n, ids);
}

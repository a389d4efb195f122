// libFuzzer target. What the first byte says:
//   '{', '[', ' '  any bytes as a tokenizer.json, up to the first zero byte; the text is behind it
//   0 to 31        a good tokenizer.json with that many bytes changed, each by three bytes of the input; then the text
//   others         merges made of the input, whose encoding is compared with the definition of BPE
// A text is encoded twice with the same result, and decoded again.
#include "common/log.h"
#include "io/tokenizer.h"
#include "io/tokenizer_bpe.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char fixed[] = "The 1234567 quick\u00a0brown foxes' <|endoftext|> don't jump \xf0\x9f\x98\x80 over\n\n "
                            "\xff 12\xc2\xb2 the the\tdogs. aaaaaaaa";
static const char good[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":9,\"content\":\"<|endoftext|>\",\"special\":true,\"normalized\":"
    "false},{\"id\":10,\"content\":\"xx\",\"lstrip\":true,\"rstrip\":true,\"single_word\":false}],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":false},{"
    "\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?=(\\\\d{3})+(?!\\\\d))\"},\"behavior\":\"Isolated\",\"invert\":"
    "false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"ignore_merges\":false,"
    "\"vocab\":{\"a\":0,\"b\":1,\"Ġ\":2,\"1\":3,\"x\":4,\"ab\":5,\"Ġab\":6,\"abĠab\":7,\"11\":8},\"merges\":[\"a "
    "b\",\"Ġ ab\",\"ab Ġab\",\"1 1\"]}}";

static void *must_have(void *memory) {
    if (!memory) abort();
    return memory;
}

// --- Files -----------------------------------------------------------------------------------------------------------

// With the scratch that has met the text before.
static void encode_again(const yx_tokenizer *t, tokenizer_scratch *s, const char *text, size_t size,
                         tokenizer_flags flags, const uint32_t *ids, size_t count) {
    const uint32_t *again;
    size_t count_again;
    uint32_t *before = must_have(malloc(count * sizeof *before + 1));
    if (count > 0) memcpy(before, ids, count * sizeof *ids);
    if (tokenizer_encode(t, s, text, size, flags, &again, &count_again) != YX_OK || count_again != count) abort();
    if (count > 0 && memcmp(before, again, count * sizeof *again) != 0) abort();
    free(before);
}

static void encode(const yx_tokenizer *t, const char *text, size_t size, tokenizer_flags flags) {
    tokenizer_scratch *s;
    const uint32_t *ids;
    size_t count, decoded_size;
    char *decoded;
    if (tokenizer_scratch_new(t, &s) != YX_OK) abort();
    if (tokenizer_encode(t, s, text, size, flags, &ids, &count) == YX_OK) {
        for (size_t i = 0; i < count; i++)
            if (ids[i] >= tokenizer_vocab_size(t)) abort();
        if (tokenizer_decode(t, ids, count, false, &decoded, &decoded_size) != YX_OK) abort();
        free(decoded);
        encode_again(t, s, text, size, flags, ids, count);
    }
    tokenizer_scratch_free(s);
}

static bool try_file(const char *json, size_t json_size, const char *text, size_t size) {
    yx_tokenizer *t;
    if (tokenizer_load_memory(json, json_size, "fuzz", &t) != YX_OK) return false;
    encode(t, text, size, TOKENIZER_DEFAULT);
    encode(t, fixed, sizeof fixed - 1, TOKENIZER_DEFAULT);
    encode(t, fixed, sizeof fixed - 1, TOKENIZER_NO_SPECIAL);
    tokenizer_free(t);
    return true;
}

static void try_changed_file(const uint8_t *data, size_t size) {
    char json[sizeof good];
    size_t changes = data[0], used = 1;
    memcpy(json, good, sizeof good);
    for (; changes > 0 && used + 3 <= size; changes--, used += 3)
        json[(data[used] | (size_t)data[used + 1] << 8) % (sizeof good - 1)] = (char)data[used + 2];
    bool loaded = try_file(json, sizeof good - 1, (const char *)data + used, size - used);
    if (!loaded && data[0] == 0) abort();
}

// --- Merges ----------------------------------------------------------------------------------------------------------

enum { MAX_MERGES = 64, MAX_IDS = 256 + MAX_MERGES, MAX_TOKEN = 12, MAX_TEXT = 512 };

typedef struct made {
    token_table tokens;
    uint8_t blob[256 + MAX_MERGES * MAX_TOKEN], is_text[MAX_IDS];
    uint32_t offset[MAX_IDS + 1];
    bpe_merge merges[MAX_MERGES];
    size_t n_merges;
} made;

static bool is_known(const token_table *t, const uint8_t *bytes, uint32_t size) {
    for (uint32_t id = 0; id < t->size; id++)
        if (token_size(t, id) == size && memcmp(token_bytes(t, id), bytes, size) == 0) return true;
    return false;
}

// One of a few letters, or of the tokens made so far.
static uint32_t part(const made *m, uint8_t choice) {
    static const uint8_t letters[] = "ab .c\n";
    return choice < 6 ? letters[choice] : 256 + (choice - 6u) % (uint32_t)(m->n_merges + 1);
}

// 256 bytes and a new token for each merge.
static void make_merges(made *m, const uint8_t *data, size_t count) {
    m->tokens = (token_table){256, m->blob, m->offset, m->is_text};
    memset(m->is_text, 1, MAX_IDS);
    for (uint32_t i = 0; i <= 256; i++) m->offset[i] = i;
    for (uint32_t i = 0; i < 256; i++) m->blob[i] = (uint8_t)i;
    for (m->n_merges = 0; count >= 2 && m->n_merges < MAX_MERGES; count -= 2, data += 2) {
        uint32_t left = part(m, data[0]), right = part(m, data[1]), end = m->offset[m->tokens.size];
        if (left >= m->tokens.size || right >= m->tokens.size) continue;
        uint32_t a = token_size(&m->tokens, left), b = token_size(&m->tokens, right);
        if (a + b > MAX_TOKEN) continue;
        memcpy(m->blob + end, token_bytes(&m->tokens, left), a);
        memcpy(m->blob + end + a, token_bytes(&m->tokens, right), b);
        if (is_known(&m->tokens, m->blob + end, a + b)) continue;
        m->merges[m->n_merges++] = (bpe_merge){left, right, m->tokens.size};
        m->offset[++m->tokens.size] = end + a + b;
    }
}

// The pair of lowest rank, the leftmost one, until none is left.
static size_t encode_plainly(const made *m, uint32_t *ids, size_t n) {
    for (;;) {
        size_t best = m->n_merges, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t rank = 0; rank < best; rank++)
                if (m->merges[rank].left == ids[i] && m->merges[rank].right == ids[i + 1]) best = rank, at = i;
        if (best == m->n_merges) return n;
        ids[at] = m->merges[best].result;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void try_merges(const uint8_t *data, size_t size) {
    static made m;
    uint32_t plain[MAX_TEXT], ids[MAX_TEXT];
    uint8_t text[MAX_TEXT];
    bpe *b;
    bpe_scratch *s;
    size_t used = data[0] < size ? data[0] : size, n = size - used < MAX_TEXT ? size - used : MAX_TEXT;
    make_merges(&m, data + 1, used - 1);
    for (size_t i = 0; i < n; i++) text[i] = (uint8_t)part(&m, data[used + i] % 6), plain[i] = text[i];
    size_t expected = encode_plainly(&m, plain, n);
    if (bpe_new(&m.tokens, m.merges, m.n_merges, false, &b) != YX_OK) abort();
    if (bpe_scratch_new(&s) != YX_OK || bpe_reserve(s, n) != YX_OK) abort();
    for (size_t readable = n; readable <= MAX_TEXT; readable += MAX_TEXT - n + 1) {
        if (bpe_encode_part(b, s, text, n, readable, ids) != expected) abort();
        if (n > 0 && memcmp(ids, plain, expected * sizeof *ids) != 0) abort();
    }
    bpe_scratch_free(s);
    bpe_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    yx_log_setup(YX_LOG_ERROR, -1);
    if (size == 0) return 0;
    const uint8_t *zero = memchr(data, 0, size);
    size_t json = zero ? (size_t)(zero - data) : size, text = json + (zero != NULL);
    if (strchr("{[ ", data[0]) && data[0]) try_file((const char *)data, json, (const char *)data + text, size - text);
    else if (data[0] < 32) try_changed_file(data, size);
    else try_merges(data, size);
    return 0;
}

// The second stage. The text in tokens would take gigabytes of places to look at, but most neighbours are too rare ever
// to be merged: of a pair that stands at most n times in the text, no later token that reaches across it stands more
// often. So the text is cut between such pairs, what is left is kept once with its count, and merging looks at no pair
// below that number. When it would have to, everything is done again with a smaller one.
#include "io/bpe_train_encode.h"
#include "io/bpe_train_segments.h"
#include "io/bpe_train_state.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

// How many of the text's pairs are looked at for each superword wanted; and by how much the bound falls.
enum { PAIRS_PER_MERGE = 3, LOWER = 8, TEXT_PER_COUNT = 16 };
static const size_t MIN_COUNTS = 1 << 16, MAX_COUNTS = 1 << 28;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static yx_status check_text(const trainer *t, const text_identity *seen) {
    const text_identity *counted = &t->words.text;
    if (strcmp(seen->sha256, counted->sha256) == 0) return YX_OK;
    return yx_fail(YX_ERR_MISMATCH,
                   "the text is not the one whose words were counted: %lld documents of %lld bytes (%.12s…), counted "
                   "were %lld of %lld (%.12s…)",
                   (long long)seen->documents, (long long)seen->bytes, seen->sha256, (long long)counted->documents,
                   (long long)counted->bytes, counted->sha256);
}

static yx_status encode_documents(trainer *t, text_encoder *e) {
    yx_status status = YX_OK;
    token_table tokens = {0};
    bpe *b = NULL;
    train_reader reader = {0};
    YX_CHECK(train_view_tokens(t, &tokens));
    YX_CHECK(bpe_new(&tokens, t->merges.merges, t->merges.count, false, &b));
    YX_CHECK(t->documents.rewind(t->documents.context));
    YX_CHECK(train_reader_open(&reader, t->documents));
    e->bpe = b;
    YX_CHECK(encode_text(e, &reader));
    YX_CHECK(check_text(t, &reader.seen));
    t->report->tokens = e->tokens;
fail:
    train_reader_close(&reader);
    bpe_free(b);
    free(tokens.is_text);
    return status;
}

// --- Segments --------------------------------------------------------------------------------------------------------

// Adds the parts of a sequence of `n` tokens that no pair below `least` lies in.
static yx_status add_segments(segment_set *segments, const pair_sketch *sketch, const uint32_t *ids, size_t n,
                              uint32_t least) {
    for (size_t begin = 0, end; begin < n; begin = end) {
        for (end = begin + 1; end < n; end++)
            if (pair_sketch_most(sketch, ids[end - 1], ids[end]) < least) break;
        if (end - begin < 2) continue;
        yx_status status = segments_add(segments, ids + begin, end - begin);
        if (status != YX_OK) return status;
    }
    return YX_OK;
}

// Frees the blocks on the way.
static yx_status count_segments(text_encoder *e, uint32_t least, segment_set *segments) {
    yx_status status = YX_OK;
    for (token_block *block; status == YX_OK && (block = e->blocks); free(block)) {
        e->blocks = block->next;
        for (size_t i = 0, n; i < block->size && status == YX_OK; i += n + 1) {
            for (n = 0; block->ids[i + n] != BPE_NONE;) n++;
            status = add_segments(segments, e->sketch, block->ids + i, n, least);
        }
    }
    segments_finish(segments);
    return status;
}

// --- The whole -------------------------------------------------------------------------------------------------------

static size_t sketch_size(int64_t bytes) {
    size_t n = MIN_COUNTS;
    while (n < MAX_COUNTS && (int64_t)n < bytes / TEXT_PER_COUNT) n *= 2;
    return n;
}

// One attempt. `*least` is set when it is 0.
static yx_status attempt(trainer *t, int64_t *least) {
    yx_status status = YX_OK;
    pair_sketch sketch = {0};
    segment_set segments = {0};
    text_encoder e = {.threads = t->options.threads, .sketch = &sketch};
    int64_t min_frequency = t->options.min_frequency;
    double start = now();
    YX_CHECK(pair_sketch_new(&sketch, sketch_size(t->words.text.bytes)));
    YX_CHECK(encode_documents(t, &e));
    size_t wanted = (size_t)(t->options.vocab_size - t->options.transition) * PAIRS_PER_MERGE;
    if (*least == 0) *least = pair_sketch_nth(&sketch, wanted);
    if (*least < min_frequency) *least = min_frequency;
    YX_CHECK(count_segments(&e, *least > min_frequency ? (uint32_t)*least : 0, &segments));
    pair_sketch_free(&sketch);
    t->report->text_seconds += now() - start;
    start = now();
    merge_limits limits = {t->options.vocab_size, *least, t->options.max_superword_words, true};
    t->report->places = (int64_t)segments.text.size;
    YX_CHECK(train_merge(&segments.text, &limits, &t->vocab, &t->merges));
    t->report->superword_seconds += now() - start;
    t->report->least_pair = *least;
    t->report->attempts++;
fail:
    segments_free(&segments);
    token_blocks_free(e.blocks);
    pair_sketch_free(&sketch);
    return status;
}

yx_status train_superwords(trainer *t) {
    uint32_t size = t->vocab.size;
    size_t merges = t->merges.count;
    for (int64_t least = 0;;) {
        yx_status status = attempt(t, &least);
        if (status != YX_OK || t->vocab.size == t->options.vocab_size || least == t->options.min_frequency)
            return status;
        least = least / LOWER > t->options.min_frequency ? least / LOWER : t->options.min_frequency;
        train_vocab_truncate(&t->vocab, size);
        t->merges.count = merges;
    }
}

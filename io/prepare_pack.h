// The order of a split's documents that cuts few of them: windows of the stream begin at multiples of a length, and the
// next document is the longest of a few thousand that still fits into the window (best fit); where none does, the
// longest of all, which is likely to be cut anywhere.
#pragma once
#include "io/prepare_encode.h"

enum { PACK_DOCUMENTS = 2048, PACK_TOKENS = 16 << 20 }; // that wait at most

typedef struct prepare_pack {
    encode_job *waiting; // each owns its ids; no text
    int64_t *lengths;    // in tokens, with the end-of-text token
    int count;
    int64_t tokens, bytes; // of all that wait
} prepare_pack;            // {0}: nothing waits

yx_status prepare_pack_push(prepare_pack *p, const encode_job *doc); // copies the ids
bool prepare_pack_is_full(const prepare_pack *p);
// Takes out the next document, the caller's with its ids to free(). `offset`: of the stream's end; `window`: the length
// of its windows. Something waits.
encode_job prepare_pack_pop(prepare_pack *p, int64_t offset, int64_t window);
void prepare_pack_free(prepare_pack *p);

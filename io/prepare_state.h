// What a partial folder holds: everything a later run needs to go on behind the last complete shards. Kept as JSON in
// PREPARE_STATE_NAME.
#pragma once
#include "io/prepare.h"
#include "io/prepare_encode.h"
#include "io/prepare_reader.h"
#include "io/shard_manifest.h"
#include <jansson.h>

// A document that waits for its split.
typedef struct held_document {
    encode_job job; // owns its ids; no text
} held_document;

typedef struct prepare_state {
    prepare_position position; // documents up to here are in `splits`, in `held`, or dropped
    manifest_split splits[MANIFEST_SPLITS];
    int64_t chars;                  // of the documents so far
    int64_t dropped[PREPARE_DROPS]; // for what only encoding tells
    int64_t near_documents;         // entries of the index of near-duplicates
    held_document *held;            // several when documents share an id
    int n_held;
    uint64_t held_rank;
} prepare_state;

yx_status prepare_state_hold(prepare_state *s, const encode_job *doc); // copies the ids
void prepare_state_release(prepare_state *s, int index);               // takes one out, the order stays
void prepare_state_free(prepare_state *s);
// Everything but `splits` as JSON; NULL without memory.
json_t *prepare_state_to_json(const prepare_state *s, const json_t *identity);
json_t *prepare_state_shard_to_json(const manifest_shard *entry);
// Writes the state of `folder`, atomically. `splits`: lists of shards by the splits' names.
yx_status prepare_state_write(const char *folder, const json_t *state);
// YX_ERR_USAGE, naming an option that differs, when the state is of another identity; YX_ERR_DATA when it is damaged or
// a shard in it is not there. `s` to free, also on failure.
yx_status prepare_state_read(const char *folder, const json_t *identity, prepare_state *s);

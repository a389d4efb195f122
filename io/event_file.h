// TensorBoard's event files: records framed as TFRecord writes them (length and data, each followed by its masked
// CRC-32C), each an Event of TensorBoard's event.proto, encoded by hand. Scalars are "simple_value", which every reader
// of event files knows.
#pragma once
#include "common/status.h"
#include <stdint.h>

enum { EVENT_FILE_MAX_TAG = 64, EVENT_FILE_MAX_SCALARS = 16 };

typedef struct event_scalar {
    const char *tag; // "train/loss", at most EVENT_FILE_MAX_TAG bytes
    double value;    // kept as float32; not finite is kept, too
} event_scalar;

typedef struct event_file event_file;

// Begins a file in `folder`, which is made. Its name, events.out.tfevents.SECONDS.HOST.PID, sorts behind those that are
// there already, which is the order they are read in. It begins with the start of a session at `step`: a reader drops
// what earlier files have of this step and later ones. *out is NULL on failure.
yx_status event_file_open(const char *folder, int64_t step, event_file **out);
// One event with up to EVENT_FILE_MAX_SCALARS values; it reaches the file with the first call 2 seconds after the last
// flush, with event_file_flush, or when 64 KiB are full.
yx_status event_file_add(event_file *e, int64_t step, const event_scalar *scalars, int count);
yx_status event_file_flush(event_file *e);
// NULL is allowed. What was not flushed yet is, as far as that succeeds.
void event_file_close(event_file *e);
// Whether there are event files in `folder`; none if there is no such folder.
yx_status event_file_any(const char *folder, bool *any);
// Deletes the event files in `folder`, and nothing else.
yx_status event_file_remove_all(const char *folder);

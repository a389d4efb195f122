// Result codes. Every fallible function returns a yx_status; the message that explains a failure travels beside it in
// thread-local storage, with the place it was raised. Nothing below cli/ exits: cli/ maps the code to an exit code.
#pragma once
#include <stdbool.h>
#include <stddef.h>

// The values are the process's exit codes (docs/operations.md lists them).
typedef enum yx_status {
    YX_OK = 0,
    YX_ERR_INTERNAL = 1,    // a bug: an invariant did not hold
    YX_ERR_USAGE = 2,       // command line
    YX_ERR_CONFIG = 3,      // configuration file or --set
    YX_ERR_DATA = 4,        // corpus, tokenizer or shard content is wrong
    YX_ERR_MISMATCH = 5,    // two good inputs that do not belong together (tokenizer and shards, checkpoint and config)
    YX_ERR_IO = 6,          // open, read, write, rename failed
    YX_ERR_NO_SPACE = 7,    // disk or quota full
    YX_ERR_NO_MEMORY = 8,   // host or device memory
    YX_ERR_UNAVAILABLE = 9, // a device, backend or library that was asked for is not here
    YX_ERR_COMM = 10,       // another rank failed, disagreed, or did not answer in time
    YX_ERR_NUMERIC = 17,    // NaN or infinity that the run could not survive
    YX_ERR_INTERRUPTED = 75 // stopped on request after a checkpoint: start again to continue (EX_TEMPFAIL)
} yx_status;

// Records the message (printf style) with file and line, and returns `code`. Use through yx_fail.
yx_status yx_fail_at(const char *file, int line, yx_status code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define yx_fail(code, ...) yx_fail_at(__FILE__, __LINE__, (code), __VA_ARGS__)

// Like yx_fail for a failed system call: appends strerror(errno), and turns ENOSPC/EDQUOT/ENOMEM into their own codes.
yx_status yx_fail_errno_at(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
#define yx_fail_errno(...) yx_fail_errno_at(__FILE__, __LINE__, __VA_ARGS__)

// Puts `context` (printf style) and ": " in front of the current message; returns `code` unchanged.
yx_status yx_context(yx_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The last failure of this thread: the message, and where it was raised ("io/shard.c:120"). Never NULL.
const char *yx_message(void);
const char *yx_message_origin(void);
// Sets this thread's message from a copy taken in another thread.
void yx_set_message(const char *message, const char *origin);

// Short name of a code ("data error"), for messages.
const char *yx_status_name(yx_status code);

// In a function with `yx_status status = YX_OK;` and one `fail:` exit: evaluate, and leave on failure.
#define YX_CHECK(call)                                                                                                 \
    do {                                                                                                               \
        status = (call);                                                                                               \
        if (status != YX_OK) goto fail;                                                                                \
    } while (0)
// Leave through `fail:` with a new failure.
#define YX_FAIL(code, ...)                                                                                             \
    do {                                                                                                               \
        status = yx_fail((code), __VA_ARGS__);                                                                         \
        goto fail;                                                                                                     \
    } while (0)

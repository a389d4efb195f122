// Where a step's time goes: an operation table that times every operation of another one, with the floating-point
// operations and bytes each of them cannot do without.
#pragma once
#include "kernels/kernels.h"

typedef enum profile_group {
    PROFILE_MATMUL_Y, // the block's products: forward, their two derivatives
    PROFILE_MATMUL_DX,
    PROFILE_MATMUL_DW,
    PROFILE_ATTENTION,
    PROFILE_ATTENTION_BACKWARD,
    PROFILE_HEAD,
    PROFILE_HEAD_BACKWARD,
    PROFILE_NORM,
    PROFILE_NORM_BACKWARD,
    PROFILE_ROPE,
    PROFILE_SWIGLU,
    PROFILE_SWIGLU_BACKWARD,
    PROFILE_EMBED, // both ways
    PROFILE_OPTIMIZER,
    PROFILE_OTHER, // zeros, copies, casts
    PROFILE_GROUPS
} profile_group;
const char *profile_group_name(profile_group g);

// What a device can do.
typedef struct profile_ceiling {
    double flops[4];  // FLOP/s of a matrix product, by yx_dtype of its factors
    double bandwidth; // bytes/s, read and written
} profile_ceiling;

typedef struct profile_entry {
    int64_t calls;
    double seconds;
    double flops[4], bytes; // of all calls
    double least;           // seconds of all calls at the ceiling
} profile_entry;
typedef struct profile_report {
    profile_entry groups[PROFILE_GROUPS];
} profile_report;

// The table that times `ops`; one at a time in a process. Attention's work is counted for causal sequences of
// `seq_len`.
const yx_ops *profile_open(const yx_ops *ops, yx_device *device);
void profile_close(void);
// Forgets what was timed so far.
void profile_start(int64_t seq_len);
// Waits for the device and adds up.
yx_status profile_read(const profile_ceiling *ceiling, profile_report *out);
// Seconds that the work of an entry takes at another device's ceiling.
double profile_least_seconds(const profile_report *r, profile_group g, const profile_ceiling *ceiling);

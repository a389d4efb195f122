// The devices of a group's ranks, which exchange by themselves (NCCL, a module loaded at run time): operations are
// queued on a stream of the device and may be recorded in its graphs. Sums have the same bits on every rank, and in
// every run with the same ranks on the same machines.
#pragma once
#include "comm/comm.h"
#include <stdbool.h>

typedef struct device_group device_group;

// On all ranks. `device`: the GPU's index on its host; `name`: its kind; `blocks`: thread blocks of each GPU that
// exchange, at most, 0: as many as NCCL wants. `*out` is NULL, with YX_OK, for a group of one
// and where NCCL cannot be loaded on some rank (said once: sums then pass through the host). Two ranks on one GPU, or
// GPUs of different kinds, are YX_ERR_UNAVAILABLE, which names them.
yx_status device_group_open(yx_group *g, int device, const char *name, int blocks, device_group **out);
void device_group_close(device_group *d);
const char *device_group_library(const device_group *d);
// Whether the GPUs of every host read each other's memory directly (P2P); the same on all ranks.
bool device_group_direct(const device_group *d);

// `stream`: the backend's own handle (yx_ops.native_stream). data: device memory.
yx_status device_group_all_reduce(device_group *d, void *data, size_t count, group_type type, group_op op,
                                  void *stream);
yx_status device_group_reduce_scatter(device_group *d, void *data, size_t count_each, group_type type, void *stream);
yx_status device_group_all_gather(device_group *d, void *data, size_t bytes_each, void *stream);
// Whether an exchange failed in the background, or another rank has ended: call it while waiting for the device. A
// failure is passed to device_group_fail.
yx_status device_group_check(device_group *d);
// This rank gives up, with `status` and its message: nothing that is queued waits for the others any more. What
// recorded exchanges is to be destroyed before device_group_close. A process that has not ended half a minute later (a
// GPU that does not come to rest) is ended with the message and the code.
void device_group_fail(device_group *d, yx_status status);

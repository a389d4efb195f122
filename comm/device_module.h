// What the NCCL module exports: sums and copies between devices, queued on a stream of theirs. Private to comm/.
#pragma once
#include "comm/comm.h"
#include <stdbool.h>

enum { DEVICE_MODULE_VERSION = 2, DEVICE_ID_BYTES = 128 };

typedef struct device_module {
    int version;
    const char *(*library)(void);   // "NCCL 2.28.3"
    yx_status (*make_id)(char *id); // [DEVICE_ID_BYTES]; one rank makes it, all join with it
    // blocks: thread blocks of the device that exchange, at most; 0: as many as NCCL wants.
    yx_status (*join)(const char *id, int rank, int size, int device, int blocks, void **comm);
    bool (*reaches)(int device, int other); // two of this host: each other's memory, without the host's
    void (*leave)(void *comm);
    // Without the others: what is queued ends; returns when no graph that recorded exchanges is left.
    void (*abort)(void *comm);
    yx_status (*check)(void *comm); // what failed in the background
    yx_status (*all_reduce)(void *comm, void *data, size_t count, group_type type, group_op op, void *stream);
    // data: [size, count_each]; part `rank` of it becomes the sum of all ranks'.
    yx_status (*reduce_scatter)(void *comm, int rank, void *data, size_t count_each, group_type type, void *stream);
    yx_status (*all_gather)(void *comm, int rank, void *data, size_t bytes_each, void *stream);
} device_module;

typedef yx_status (*device_fail)(const char *file, int line, yx_status code, const char *format, ...);
typedef const device_module *(*device_module_entry)(device_fail fail);
#define DEVICE_MODULE_SYMBOL "yxanul_device_module"

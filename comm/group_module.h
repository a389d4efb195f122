// How a group exchanges: a table of functions, of the program itself (TCP) or of a module that it loads (MPI). Private
// to comm/.
#pragma once
#include "comm/comm.h"
#include "comm/launch.h"

enum { GROUP_MODULE_VERSION = 4 };

typedef struct group_module {
    int version; // GROUP_MODULE_VERSION of the module
    const char *name;
    yx_status (*open)(const launch_info *launch, int *rank, int *size, int *local_rank, int *local_size);
    void (*close)(void);
    void (*abort)(int exit_code);
    yx_status (*broadcast)(void *data, size_t bytes, int root);
    // Every rank gets parts[r] = the `bytes` that rank r gave for it: out[r·bytes] is what rank r sent to this rank.
    yx_status (*all_to_all)(const void *in, void *out, size_t bytes);
    yx_status (*all_gather)(void *data, size_t bytes_each); // in place
    yx_status (*barrier)(void);
    yx_status (*check)(void); // NULL: the launcher ends all when one ends
} group_module;

// The symbol that comm/mpi_module.c exports; failures come back through `fail`, which is the program's yx_fail_at: a
// module does not share the program's thread-local message.
typedef yx_status (*group_fail)(const char *file, int line, yx_status code, const char *format, ...);
typedef const group_module *(*group_module_entry)(group_fail fail);
#define GROUP_MODULE_SYMBOL "yxanul_group_module"

// What the launcher of this process left in the environment. Private to comm/.
#pragma once
#include "common/status.h"

typedef enum launch_kind {
    LAUNCH_NONE,   // one process
    LAUNCH_MPIRUN, // Open MPI's mpirun
    LAUNCH_PMI,    // srun or another launcher with PMI or PMIx: MPI can find the others
    LAUNCH_SRUN,   // srun without either
    LAUNCH_HAND    // YX_RANK and YX_RANKS: whoever started the processes says who they are
} launch_kind;

typedef struct launch_info {
    launch_kind kind;
    const char *name;     // "mpirun", "srun", …
    int rank, size;       // rank -1: only the library knows
    char rendezvous[512]; // "HOST:PORT" or "file:PATH"; empty: this launcher gives none
    char token[96];       // the same on all ranks of this start, unlikely to be another's
    char node[256];       // ranks with the same text share a machine
    double patience;      // seconds that a rank is waited for in an exchange (YX_COMM_TIMEOUT)
} launch_info;

// Environment that contradicts itself is YX_ERR_USAGE.
yx_status launch_read(launch_info *out);

// A number of seconds from the environment, or `otherwise`; YX_ERR_USAGE when it is none.
yx_status launch_seconds(const char *name, double otherwise, double *out);

// The first name of a Slurm node list: "gpu[07-09,12],login1" -> "gpu07".
void launch_first_host(const char *list, char *out, size_t bytes);

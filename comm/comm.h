// A group of processes that train together. A group of one needs no library; MPI is a module loaded at run time.
#pragma once
#include "common/status.h"
#include <stdint.h>

typedef struct yx_group yx_group;

// GROUP_BF16: sums are rounded after every rank's addition.
typedef enum group_type { GROUP_F32, GROUP_F64, GROUP_U64, GROUP_BF16 } group_type;
static inline size_t group_type_size(group_type t) { return t == GROUP_BF16 ? 2 : t == GROUP_F32 ? 4 : 8; }
typedef enum group_op { GROUP_SUM, GROUP_MAX } group_op;

// Joins the group that the launcher made (docs/operations.md): under mpirun, or srun with PMI or PMIx, by MPI, a module
// loaded at run time; under srun without them, where MPI cannot be loaded, or started by hand, over TCP; a launch of
// one process is a group of one. YX_ERR_UNAVAILABLE where a launcher started several processes that cannot find each
// other: training several times alone would be silent nonsense.
yx_status group_open(yx_group **out);
// A group of one, whatever the launcher made (commands that are no training).
yx_status group_open_solo(yx_group **out);
// All ranks together (it waits for the others). On an error path call group_abort instead.
void group_close(yx_group *g);
// Ends every rank of the group with this exit code, without waiting; does not return when the group has several ranks.
void group_abort(yx_group *g, int exit_code);

int group_rank(const yx_group *g);
int group_size(const yx_group *g);
int group_local_rank(const yx_group *g); // among the ranks of this host
int group_local_size(const yx_group *g);
const char *group_node(const yx_group *g);    // ranks with the same text share a machine
double group_patience(const yx_group *g);     // seconds that an exchange waits for a rank (YX_COMM_TIMEOUT)
const char *group_backend(const yx_group *g); // "solo", "mpi", "tcp"

// Whether a rank is known to have ended or to be out of reach, without waiting for any: YX_ERR_COMM names it.
yx_status group_check(yx_group *g);
yx_status group_broadcast(yx_group *g, void *data, size_t bytes, int root);
// In place, element-wise, the result is the same bits on every rank and for every run with this number of ranks.
yx_status group_all_reduce(yx_group *g, void *data, size_t count, group_type type, group_op op);
// data: [size, count_each]; part r becomes the sum of all ranks' part r on rank r, the same bits as group_all_reduce
// makes; the other parts are left as they were.
yx_status group_reduce_scatter(yx_group *g, void *data, size_t count_each, group_type type, group_op op);
// data: [size, bytes], rank r's part at r·bytes is filled in.
yx_status group_all_gather(yx_group *g, void *data, size_t bytes_each);
yx_status group_barrier(yx_group *g);

// Whether all ranks succeeded: otherwise every rank gets the status of the lowest one that failed, so that none goes on
// alone. A rank that failed keeps its own message; on the others the message names the lowest one.
yx_status group_agree(yx_group *g, yx_status status);
// The lowest rank that failed in the last group_agree that did not succeed; -1 before any: a rank that fails then does
// so without the others knowing.
int group_failed_rank(const yx_group *g);

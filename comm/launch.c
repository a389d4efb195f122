#include "comm/launch.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_SECONDS 1e6
enum { FIRST_PORT = 20000, PORTS = 20000 }; // where ranks meet when nothing else is said

static const char *text_of(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

// A whole number from the environment; -1 without one.
static yx_status number_of(const char *name, int *out) {
    const char *text = text_of(name);
    char *end;
    *out = -1;
    if (!text) return YX_OK;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || value < 0 || value > INT_MAX)
        return yx_fail(YX_ERR_USAGE, "the environment's %s=%s is not a whole number", name, text);
    *out = (int)value;
    return YX_OK;
}

yx_status launch_seconds(const char *name, double otherwise, double *out) {
    const char *text = text_of(name);
    char *end = NULL;
    *out = text ? strtod(text, &end) : otherwise;
    if (*out > 0 && *out <= MOST_SECONDS && (!end || !*end)) return YX_OK;
    return yx_fail(YX_ERR_USAGE, "the environment's %s=%s is not a number of seconds above 0 and up to %g", name, text,
                   MOST_SECONDS);
}

void launch_first_host(const char *list, char *out, size_t bytes) {
    size_t n = strcspn(list, "[,");
    snprintf(out, bytes, "%.*s", (int)n, list);
    if (list[n] != '[') return;
    const char *first = list + n + 1, *after = strchr(first, ']');
    size_t digits = strcspn(first, "-,]");
    size_t used = strlen(out);
    snprintf(out + used, bytes - used, "%.*s%.*s", (int)digits, first, after ? (int)strcspn(after + 1, ",") : 0,
             after ? after + 1 : "");
}

static yx_status read_hand(launch_info *out) {
    yx_status status = YX_OK;
    YX_CHECK(number_of("YX_RANK", &out->rank));
    YX_CHECK(number_of("YX_RANKS", &out->size));
    if (out->rank < 0 || out->size < 1 || out->rank >= out->size)
        YX_FAIL(YX_ERR_USAGE, "YX_RANK=%s and YX_RANKS=%s: a rank is from 0 to the number of ranks - 1",
                text_of("YX_RANK") ? text_of("YX_RANK") : "", text_of("YX_RANKS") ? text_of("YX_RANKS") : "");
    out->kind = LAUNCH_HAND;
    out->name = "YX_RANKS";
    if (out->size > 1 && !text_of("YX_RENDEZVOUS"))
        YX_FAIL(YX_ERR_USAGE, "YX_RANKS=%d needs YX_RENDEZVOUS: HOST:PORT of rank 0, or file:PATH that all ranks see",
                out->size);
fail:
    return status;
}

// Under srun: rank 0 is on the first node of the step; the port follows from the numbers of job and step.
static yx_status read_slurm(launch_info *out) {
    yx_status status = YX_OK;
    char host[256];
    int job, step;
    const char *nodes = text_of("SLURM_STEP_NODELIST"), *node = text_of("SLURM_NODEID");
    bool pmi = text_of("PMIX_RANK") || text_of("PMI_RANK") || text_of("PMI_FD");
    YX_CHECK(number_of("SLURM_STEP_NUM_TASKS", &out->size));
    YX_CHECK(number_of("SLURM_PROCID", &out->rank));
    YX_CHECK(number_of("SLURM_JOB_ID", &job));
    YX_CHECK(number_of("SLURM_STEP_ID", &step));
    if (out->rank < 0 || out->rank >= out->size)
        YX_FAIL(YX_ERR_USAGE, "Slurm started %d tasks, but SLURM_PROCID is %d", out->size, out->rank);
    out->kind = pmi ? LAUNCH_PMI : LAUNCH_SRUN;
    out->name = "srun";
    snprintf(out->token, sizeof out->token, "slurm-%d.%d", job, step);
    if (node) snprintf(out->node, sizeof out->node, "node %s", node);
    if (nodes && job >= 0) {
        launch_first_host(nodes, host, sizeof host);
        snprintf(out->rendezvous, sizeof out->rendezvous, "%s:%d", host,
                 FIRST_PORT + (int)((37LL * job + (step < 0 ? 0 : step)) % PORTS));
    }
fail:
    return status;
}

// One machine can do without the library: a file below /tmp that only this start names.
static yx_status read_mpirun(launch_info *out) {
    yx_status status = YX_OK;
    int local;
    const char *job = text_of("PMIX_NAMESPACE") ? text_of("PMIX_NAMESPACE") : text_of("OMPI_MCA_ess_base_jobid");
    YX_CHECK(number_of("OMPI_COMM_WORLD_SIZE", &out->size));
    YX_CHECK(number_of("OMPI_COMM_WORLD_RANK", &out->rank));
    YX_CHECK(number_of("OMPI_COMM_WORLD_LOCAL_SIZE", &local));
    out->kind = LAUNCH_MPIRUN;
    out->name = "mpirun";
    if (job && local == out->size && out->rank >= 0) {
        snprintf(out->token, sizeof out->token, "mpirun-%.64s", job);
        snprintf(out->rendezvous, sizeof out->rendezvous, "file:/tmp/yxanul-%ld-%s", (long)getuid(), job);
        for (char *c = out->rendezvous + strlen("file:/tmp/"); *c; c++)
            if (*c == '/') *c = '-';
    }
fail:
    return status;
}

static yx_status read_launcher(launch_info *out) {
    if (text_of("YX_RANK") || text_of("YX_RANKS")) return read_hand(out);
    if (text_of("OMPI_COMM_WORLD_SIZE")) return read_mpirun(out);
    if (text_of("SLURM_STEP_NUM_TASKS") && text_of("SLURM_PROCID")) return read_slurm(out);
    yx_status status = number_of("PMI_SIZE", &out->size);
    if (status == YX_OK && out->size > 0) out->kind = LAUNCH_PMI, out->name = "a PMI launcher";
    return status;
}

yx_status launch_read(launch_info *out) {
    *out = (launch_info){.kind = LAUNCH_NONE, .name = "", .rank = -1, .size = -1};
    if (gethostname(out->node, sizeof out->node - 1) != 0) snprintf(out->node, sizeof out->node, "this host");
    yx_status status = read_launcher(out);
    if (status != YX_OK) return status;
    if (out->size < 1) *out = (launch_info){.kind = LAUNCH_NONE, .name = "", .rank = 0, .size = 1};
    if (text_of("YX_RENDEZVOUS")) {
        if (strlen(text_of("YX_RENDEZVOUS")) >= sizeof out->rendezvous)
            return yx_fail(YX_ERR_USAGE, "YX_RENDEZVOUS is longer than %zu characters", sizeof out->rendezvous - 1);
        strcpy(out->rendezvous, text_of("YX_RENDEZVOUS"));
    }
    if (!out->token[0])
        snprintf(out->token, sizeof out->token, "%.90s", text_of("YX_TOKEN") ? text_of("YX_TOKEN") : "");
    return out->size > 1 ? launch_seconds("YX_COMM_TIMEOUT", 1800, &out->patience) : YX_OK;
}

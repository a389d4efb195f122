#include "coordinator/rank_watch.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double SLOW = 1.25;       // times the median
static const double NOTICEABLE = 2e-3; // seconds a step; less is noise

yx_status rank_watch_create(yx_group *group, rank_watch *out) {
    size_t size = (size_t)group_size(group);
    *out = (rank_watch){.group = group, .slow = -1};
    out->reports = calloc(size, sizeof *out->reports);
    out->sums = calloc(size, sizeof *out->sums);
    return out->reports && out->sums ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu ranks", size);
}

void rank_watch_free(rank_watch *w) {
    free(w->reports);
    free(w->sums);
    *w = (rank_watch){0};
}

static yx_status compare_plans(const rank_watch *w, const plan_step *step) {
    for (int r = 1; r < group_size(w->group); r++)
        if (w->reports[r].hash != w->reports[0].hash)
            return yx_fail(YX_ERR_MISMATCH,
                           "the plan of step %lld is %016llx on rank %d (%s) and %016llx on rank 0: the ranks' "
                           "configurations, data or programs differ",
                           (long long)step->step, (unsigned long long)w->reports[r].hash, r, w->reports[r].node,
                           (unsigned long long)w->reports[0].hash);
    return YX_OK;
}

static void add(rank_sums *sum, const rank_report *r) {
    sum->compute += r->compute;
    sum->data_wait += r->data_wait;
    sum->communicate += r->communicate;
    sum->exchange += r->exchange;
    sum->memory = r->memory;
}

yx_status rank_watch_meet(rank_watch *w, const plan_step *step, bool stop, const worker_step_result *result,
                          int64_t memory, bool *anyone_stops) {
    int size = group_size(w->group);
    rank_report *own = &w->reports[group_rank(w->group)];
    *own = (rank_report){.hash = step->hash, .stop = stop, .memory = memory};
    snprintf(own->node, sizeof own->node, "%.47s", group_node(w->group));
    if (result)
        own->compute = result->compute, own->data_wait = result->data_wait, own->communicate = result->communicate,
        own->exchange = result->exchange;
    yx_status status = group_all_gather(w->group, w->reports, sizeof *w->reports);
    if (status != YX_OK) return status;
    status = compare_plans(w, step);
    if (status != YX_OK) return group_agree(w->group, status); // all ranks see it, one says it
    *anyone_stops = false;
    for (int r = 0; r < size; r++) {
        *anyone_stops = *anyone_stops || w->reports[r].stop;
        if (result) add(&w->sums[r], &w->reports[r]);
    }
    w->steps += result != NULL;
    return YX_OK;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The rank with the largest value (a double at `offset` of the sums, and one at `more` unless it is the same), if that
// is worth a word; else -1.
static int largest_of(const rank_sums *sums, int size, size_t offset, size_t more, double steps, double *ratio) {
    int which = 0;
    double *all = calloc((size_t)size * 2, sizeof *all), *sorted = all + size;
    if (!all) return -1;
    for (int r = 0; r < size; r++) {
        all[r] = *(const double *)((const char *)&sums[r] + offset);
        if (more != offset) all[r] += *(const double *)((const char *)&sums[r] + more);
        if (all[r] > all[which]) which = r;
    }
    memcpy(sorted, all, (size_t)size * sizeof *all);
    qsort(sorted, (size_t)size, sizeof *sorted, by_value);
    double median = sorted[(size - 1) / 2], largest = all[which];
    free(all);
    *ratio = median > 0 ? largest / median : 0;
    return largest >= SLOW * median && largest - median >= NOTICEABLE * steps ? which : -1;
}

int rank_watch_slowest(const rank_sums *sums, int size, int64_t steps, bool *by_data, double *ratio) {
    size_t compute = offsetof(rank_sums, compute), wait = offsetof(rank_sums, data_wait);
    *by_data = false;
    if (size < 2 || steps < 1) return -1;
    int slow = largest_of(sums, size, compute, compute, (double)steps, ratio);
    if (slow >= 0) return slow;
    *by_data = true;
    return largest_of(sums, size, compute, wait, (double)steps, ratio);
}

void rank_watch_reset(rank_watch *w) {
    memset(w->sums, 0, (size_t)group_size(w->group) * sizeof *w->sums);
    w->steps = 0;
}

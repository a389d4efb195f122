#include "coordinator/spike.h"
#include "common/log.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

// mean + sigma · standard deviation; 0 while there are too few.
static double limit_of(const spike_watch *w, const spike_series *s) {
    double mean = 0, squares = 0;
    if (w->count < SPIKE_LEAST) return 0;
    for (int i = 0; i < w->count; i++) mean += s->values[i] / w->count;
    for (int i = 0; i < w->count; i++) squares += (s->values[i] - mean) * (s->values[i] - mean);
    return mean + w->sigma * sqrt(squares / (w->count - 1));
}

void spike_before_step(spike_watch *w, bool first_of_stage, bool whole) {
    if (first_of_stage) w->count = 0;
    w->counts = w->sigma > 0 && whole;
    w->loss_limit = w->counts ? limit_of(w, &w->loss) : 0;
    w->norm_limit = w->counts ? limit_of(w, &w->grad_norm) : 0;
}

static void push(spike_watch *w, double loss, double grad_norm) {
    if (w->count == SPIKE_WINDOW) {
        w->count--;
        memmove(w->loss.values, w->loss.values + 1, sizeof w->loss.values - sizeof *w->loss.values);
        memmove(w->grad_norm.values, w->grad_norm.values + 1, sizeof w->grad_norm.values - sizeof *w->loss.values);
    }
    w->loss.values[w->count] = loss;
    w->grad_norm.values[w->count++] = grad_norm;
}

yx_status spike_after_step(spike_watch *w, int64_t step, const worker_step_result *r, ledger *l, bool says) {
    char detail[160];
    if (!w->counts || !isfinite(r->loss) || !isfinite(r->grad_norm)) return YX_OK;
    push(w, r->loss, r->grad_norm);
    if (!r->skipped) return YX_OK;
    snprintf(detail, sizeof detail, "loss %.4f (limit %.4f), gradient norm %.3g (limit %.3g)", r->loss, w->loss_limit,
             r->grad_norm, w->norm_limit);
    if (says) yx_warn("step %lld is a spike and changes nothing: %s", (long long)step, detail);
    return ledger_append(l, step, "spike", detail);
}

static json_t *series_to_json(const spike_watch *w, const spike_series *s) {
    json_t *list = json_array();
    for (int i = 0; list && i < w->count; i++) json_array_append_new(list, json_real(s->values[i]));
    return list;
}

json_t *spike_to_json(const spike_watch *w) {
    return json_pack("{s:o, s:o}", "loss", series_to_json(w, &w->loss), "grad_norm", series_to_json(w, &w->grad_norm));
}

void spike_from_json(spike_watch *w, const json_t *window) {
    const json_t *loss = json_object_get(window, "loss"), *norm = json_object_get(window, "grad_norm");
    size_t n = json_array_size(loss);
    w->count = 0;
    if (n > SPIKE_WINDOW || json_array_size(norm) != n) return;
    for (size_t i = 0; i < n; i++) {
        const json_t *a = json_array_get(loss, i), *b = json_array_get(norm, i);
        if (!json_is_number(a) || !json_is_number(b)) {
            w->count = 0;
            return;
        }
        push(w, json_number_value(a), json_number_value(b));
    }
}

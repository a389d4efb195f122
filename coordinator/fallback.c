#include "coordinator/fallback.h"
#include "common/log.h"
#include <stdio.h>
#include <stdlib.h>

#define EVENT "bf16-layer"
enum { MOST_DOUBLINGS = 20 };

yx_status fallback_create(const config_training *options, int64_t num_layers, yx_worker *worker, fallback *out) {
    *out = (fallback){.options = options, .worker = worker, .num_layers = num_layers};
    out->layers = calloc((size_t)num_layers, sizeof *out->layers);
    return out->layers ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for the precision of the layers");
}

void fallback_free(fallback *f) {
    free(f->layers);
    f->layers = NULL;
}

static void begin(fallback *f, int64_t layer, int64_t until) {
    f->layers[layer].until = until;
    f->layers[layer].spells++;
    worker_set_fallback(f->worker, layer, true);
}

static void end_spells(fallback *f, int64_t step) {
    for (int64_t i = 0; i < f->num_layers; i++) {
        if (f->layers[i].until == 0 || f->layers[i].until > step) continue;
        f->layers[i].until = 0;
        worker_set_fallback(f->worker, i, false);
    }
}

static void take_entry(void *context, const char *detail) {
    fallback *f = context;
    long long layer, until = INT64_MAX;
    int found = sscanf(detail, "layer %lld: in bf16 until step %lld", &layer, &until);
    if (found >= 1 && layer >= 0 && layer < f->num_layers) begin(f, layer, until);
}

void fallback_restore(fallback *f, const ledger *l, int64_t step) {
    if (f->options->fp8_fallback <= 0) return;
    ledger_each(l, EVENT, take_entry, f);
    end_spells(f, step);
}

// The last step of a spell that begins after `step`: INT64_MAX for one without end.
static int64_t end_of_spell(const fallback *f, int64_t layer, int64_t step) {
    int64_t length = f->options->fp8_fallback_steps;
    int doublings = f->layers[layer].spells < MOST_DOUBLINGS ? f->layers[layer].spells : MOST_DOUBLINGS;
    return length ? step + (length << doublings) : INT64_MAX;
}

static yx_status note(const fallback *f, int64_t step, int64_t layer, double clipped, ledger *l, bool says) {
    char detail[160], until[40] = "for good";
    if (f->layers[layer].until != INT64_MAX)
        snprintf(until, sizeof until, "until step %lld", (long long)f->layers[layer].until);
    snprintf(detail, sizeof detail, "layer %lld: in bf16 %s: %.3g of a tensor's 8-bit values were clipped",
             (long long)layer, until, clipped);
    if (says) yx_warn("step %lld: %s", (long long)step, detail);
    return ledger_append(l, step, EVENT, detail);
}

yx_status fallback_after_step(fallback *f, int64_t step, const worker_fp8 *measured, ledger *l, bool says) {
    yx_status status = YX_OK;
    if (!measured || f->options->fp8_fallback <= 0) return YX_OK;
    end_spells(f, step);
    for (int64_t i = 0; i < f->num_layers && status == YX_OK; i++) {
        if (measured->clipped[i] <= f->options->fp8_fallback || worker_has_fallback(f->worker, i)) continue;
        begin(f, i, end_of_spell(f, i, step));
        status = note(f, step, i, measured->clipped[i], l, says);
    }
    return status;
}

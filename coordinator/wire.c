#include "coordinator/wire.h"
#include "common/log.h"
#include "coordinator/plan_ranks.h"
#include <stdio.h>
#include <stdlib.h>

void wire_create(const config_training *options, yx_worker *worker, wire *out) {
    *out = (wire){.automatic = options->gradient_wire == WIRE_AUTO, .worker = worker, .stage = -1};
}

static void take_stage(void *context, const char *detail) {
    wire *w = context;
    if (w->stage == strtoll(detail + sizeof "stage " - 1, NULL, 10) - 1) worker_set_wire(w->worker, true);
}

void wire_restore(wire *w, const ledger *l, const plan_step *step) {
    w->stage = step->stage;
    w->steps = 0;
    if (w->automatic) ledger_each(l, "bf16-wire", take_stage, w);
}

static void begin_stage(wire *w, int64_t stage) {
    worker_set_wire(w->worker, false);
    w->stage = stage;
    w->steps = 0;
    w->exposed = w->seconds = 0;
}

// The rank that waits least has no one to wait for: what it waits is the exchange.
static void add_step(wire *w, const rank_report *reports, int ranks) {
    double least = reports[0].communicate, longest = 0;
    for (int r = 0; r < ranks; r++) {
        double seconds = reports[r].compute + reports[r].data_wait + reports[r].communicate;
        if (reports[r].communicate < least) least = reports[r].communicate;
        if (seconds > longest) longest = seconds;
    }
    w->exposed += least;
    w->seconds += longest;
}

static yx_status switch_over(wire *w, const plan_step *step, ledger *l, bool says) {
    char text[128];
    snprintf(text, sizeof text, "stage %lld: %.0f %% of %d steps was exchange that nothing hid",
             (long long)step->stage + 1, 100 * w->exposed / w->seconds, WIRE_STEPS - WIRE_SETTLING);
    worker_set_wire(w->worker, true);
    if (says) yx_info("   %s: gradients go over the wire in bf16 from here on", text);
    return ledger_append(l, step->step, "bf16-wire", text);
}

yx_status wire_before_step(wire *w, const plan_step *step, const rank_report *reports, int ranks, ledger *l,
                           bool says) {
    if (!w->automatic || ranks == 1) return YX_OK;
    if (step->stage != w->stage) {
        begin_stage(w, step->stage);
        return YX_OK;
    }
    if (worker_sends_bf16(w->worker) || ++w->steps > WIRE_STEPS) return YX_OK;
    if (w->steps > WIRE_SETTLING) add_step(w, reports, ranks);
    return w->steps == WIRE_STEPS && w->exposed > RANKS_WORTH_BF16 * w->seconds ? switch_over(w, step, l, says) : YX_OK;
}

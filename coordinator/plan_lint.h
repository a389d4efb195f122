// Advice on a plan that would run, but perhaps not as meant.
#pragma once
#include "coordinator/plan.h"

typedef void (*plan_lint_report)(void *context, const char *text);
// Calls `report` with each warning: one sentence that says what, and what to change.
void plan_lint(const yx_config *config, const yx_plan *plan, plan_lint_report report, void *context);

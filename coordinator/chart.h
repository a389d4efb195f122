// A curve as inline SVG, in the colours of the page's style sheet: line, band from least to largest, axes, and the
// stretches of the run (stages) beneath.
#pragma once
#include "coordinator/curve.h"
#include <stdio.h>

typedef struct chart_stretch {
    double begin, end; // on the x axis
    char label[24];    // "T=8"
    char title[96];    // shown where the pointer is
    double level;      // a horizontal line of this height; NaN or ≤ 0: none
} chart_stretch;

typedef struct chart {
    const char *id, *title, *what; // what: beneath the title
    const curve *curve;
    int series;
    bool logarithmic; // values that are not positive are left out
    bool from_zero;   // the y axis begins there
    bool dots;        // a dot for each point, if there are not too many
    double x_end;     // of the x axis, which begins at 0
    const chart_stretch *stretches;
    int64_t num_stretches;
    const char *level_name; // of the levels, NULL: none are drawn
} chart;

// A <figure>. The <svg> says in data-x0, data-x1, data-y0, data-y1 which values its plot's edges have (the plot: x from
// CHART_LEFT to CHART_RIGHT, y from CHART_BOTTOM up to CHART_TOP), and in data-scale "linear" or "log".
void chart_write(FILE *out, const chart *c);

enum { CHART_WIDTH = 900, CHART_HEIGHT = 260, CHART_LEFT = 70, CHART_RIGHT = 885, CHART_TOP = 28, CHART_BOTTOM = 225 };
// The rules of the style sheet that charts need.
extern const char chart_style[];

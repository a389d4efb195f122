#include "coordinator/chart.h"
#include "coordinator/html.h"
#include <math.h>
#include <string.h>

enum { MAX_DOTS = 100, MAX_TICKS = 64, LABEL_WIDTH = 7 }; // LABEL_WIDTH: of a letter

const char chart_style[] = "svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}\n"
                           "svg text{fill:var(--soft)}\n"
                           "svg .grid{stroke:var(--grid);stroke-width:1}\n"
                           "svg .frame{fill:none;stroke:var(--soft);stroke-width:1}\n"
                           "svg .stage{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}\n"
                           "svg .hover{fill:transparent}\n"
                           "svg .hover:hover{fill:var(--hover)}\n"
                           "svg .band{fill:var(--line);fill-opacity:.25;stroke:none}\n"
                           "svg .line{fill:none;stroke:var(--line);stroke-width:1.5;stroke-linejoin:round}\n"
                           "svg .dot{fill:var(--line)}\n"
                           "svg .level{fill:none;stroke:var(--second);stroke-width:1.2}\n"
                           "svg .mark{stroke:var(--bad);stroke-width:1.5}\n";

typedef struct plot {
    const chart *c;
    FILE *out;
    double x1, y0, y1; // the edges' values; x begins at 0
} plot;

// --- Scales
static double height(const plot *p, double y) { return p->c->logarithmic ? log10(y) : y; }

static double px(const plot *p, double x) { return CHART_LEFT + (CHART_RIGHT - CHART_LEFT) * x / p->x1; }

static double py(const plot *p, double y) {
    double share = (height(p, y) - height(p, p->y0)) / (height(p, p->y1) - height(p, p->y0));
    return CHART_BOTTOM - (CHART_BOTTOM - CHART_TOP) * share;
}

static bool drawn(const chart *c, double y) { return isfinite(y) && fabs(y) < 1e30 && (!c->logarithmic || y > 1e-30); }

static bool has_point(const plot *p, int64_t i) {
    return drawn(p->c, curve_mean(&p->c->curve->buckets[i], p->c->series));
}

static void include(plot *p, double y) {
    if (!drawn(p->c, y)) return;
    p->y0 = fmin(p->y0, y);
    p->y1 = fmax(p->y1, y);
}

// The edges: all means and levels, and the least and largest values unless these are far off.
static void find_range(plot *p) {
    const chart *c = p->c;
    double least = INFINITY, largest = -INFINITY;
    p->y0 = INFINITY, p->y1 = -INFINITY, p->x1 = c->x_end;
    for (int64_t i = 0; i < c->curve->used; i++) {
        const curve_bucket *b = &c->curve->buckets[i];
        const curve_value *v = &b->values[c->series];
        p->x1 = fmax(p->x1, curve_x(b));
        include(p, curve_mean(b, c->series));
        if (v->count > 0 && drawn(c, v->min)) least = fmin(least, v->min);
        if (v->count > 0 && drawn(c, v->max)) largest = fmax(largest, v->max);
    }
    for (int64_t i = 0; i < c->num_stretches && c->level_name; i++)
        if (c->stretches[i].level > 0) include(p, c->stretches[i].level);
    double room = p->y1 - p->y0;
    if (c->logarithmic || least > p->y0 - room) p->y0 = fmin(p->y0, least);
    if (c->logarithmic || largest < p->y1 + room) p->y1 = fmax(p->y1, largest);
}

// Room around what is there.
static void widen_range(plot *p) {
    bool logarithmic = p->c->logarithmic;
    if (!(p->x1 > 0)) p->x1 = 1;
    if (!(p->y0 <= p->y1)) p->y0 = logarithmic ? 0.1 : 0, p->y1 = 1;
    if (logarithmic) {
        p->y0 /= 1.2, p->y1 *= 1.2;
        return;
    }
    double room = p->y1 > p->y0 ? 0.05 * (p->y1 - p->y0) : 0.05 * fabs(p->y1) + 1e-12;
    p->y1 += room;
    p->y0 = p->c->from_zero && p->y0 >= 0 ? 0 : p->y0 - room;
}

// --- Axes
static double nice_step(double range, int count) {
    double rough = range / count, unit = pow(10, floor(log10(rough)));
    return unit * (rough <= unit ? 1 : rough <= 2 * unit ? 2 : rough <= 5 * unit ? 5 : 10);
}

static void write_y_tick(const plot *p, double y) {
    char text[HTML_FIGURE];
    if (fabs(y) < 1e-12 * (p->y1 - p->y0)) y = 0;
    double at = py(p, y);
    fprintf(p->out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", CHART_LEFT, CHART_RIGHT, at,
            at);
    fprintf(p->out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", CHART_LEFT - 6, at + 4,
            fabs(y) >= 1000 ? html_short(y, text) : html_real("%.4g", y, text));
}

static void write_log_ticks(const plot *p) {
    static const double within[] = {1, 2, 5};
    double decades = log10(p->y1 / p->y0);
    int used = decades < 4 ? 3 : 1, skip = (int)ceil(decades / 8), count = 0;
    for (int e = (int)floor(log10(p->y0)); e <= (int)ceil(log10(p->y1)); e++)
        for (int i = 0; i < used && e % (skip > 0 ? skip : 1) == 0; i++) {
            double y = within[i] * pow(10, e);
            if (y >= p->y0 && y <= p->y1 && count++ < MAX_TICKS) write_y_tick(p, y);
        }
}

static void write_axes(const plot *p) {
    char text[HTML_FIGURE];
    double step = nice_step(p->y1 - p->y0, 5);
    if (p->c->logarithmic) write_log_ticks(p);
    else
        for (int i = 0; i < MAX_TICKS && step * (ceil(p->y0 / step) + i) <= p->y1; i++)
            write_y_tick(p, step * (ceil(p->y0 / step) + i));
    step = nice_step(p->x1, 8);
    for (int i = 0; i < MAX_TICKS && step * i <= p->x1; i++)
        fprintf(p->out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", px(p, step * i),
                CHART_BOTTOM + 16, html_short(step * i, text));
    fprintf(p->out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">tokens</text>\n", CHART_RIGHT, CHART_BOTTOM + 30);
}

// --- What the run went through
static void write_stretches(const plot *p) {
    double free_from = CHART_LEFT; // up to where labels are written
    for (int64_t i = 0; i < p->c->num_stretches; i++) {
        const chart_stretch *s = &p->c->stretches[i];
        double begin = px(p, fmin(s->begin, p->x1)), end = px(p, fmin(s->end, p->x1));
        double width = (double)(LABEL_WIDTH * strlen(s->label));
        if (i > 0)
            fprintf(p->out, "<line class=\"stage\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", begin, begin,
                    CHART_TOP, CHART_BOTTOM);
        fprintf(p->out, "<rect class=\"hover\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"><title>", begin,
                CHART_TOP, end - begin, CHART_BOTTOM - CHART_TOP);
        html_text(p->out, s->title);
        fputs("</title></rect>", p->out);
        double at = fmax(begin, free_from);
        if (at + width <= fmax(end, begin + width) + 1 && at + width <= CHART_RIGHT && at < end) {
            fprintf(p->out, "<text class=\"label\" x=\"%.1f\" y=\"%d\">", at + 2, CHART_TOP - 6);
            html_text(p->out, s->label);
            fputs("</text>", p->out);
            free_from = at + width;
        }
        fputc('\n', p->out);
    }
}

static void write_levels(const plot *p) {
    for (int64_t i = 0; i < p->c->num_stretches && p->c->level_name; i++) {
        const chart_stretch *s = &p->c->stretches[i];
        if (!(s->level > 0) || !drawn(p->c, s->level)) continue;
        fprintf(p->out, "<polyline class=\"level\" points=\"%.2f,%.2f %.2f,%.2f\"/>\n", px(p, fmin(s->begin, p->x1)),
                py(p, s->level), px(p, fmin(s->end, p->x1)), py(p, s->level));
    }
}

// --- The curve: where it has no value, the line has a gap.
static void write_lines(const plot *p) {
    const curve *v = p->c->curve;
    for (int64_t i = 0, end; i < v->used; i = end + 1) {
        for (end = i; end < v->used && has_point(p, end);) end++;
        if (end == i) continue;
        fputs("<polyline class=\"line\" points=\"", p->out);
        for (int64_t k = i; k < end; k++)
            fprintf(p->out, "%s%.2f,%.2f", k > i ? " " : "", px(p, curve_x(&v->buckets[k])),
                    py(p, curve_mean(&v->buckets[k], p->c->series)));
        fputs("\"/>\n", p->out);
    }
}

static double within(const plot *p, double y) { return fmin(fmax(py(p, y), CHART_TOP), CHART_BOTTOM); }

// From least to largest, as far as the plot reaches.
static void write_bands(const plot *p) {
    const curve *v = p->c->curve;
    for (int64_t i = 0, end; v->per_bucket > 1 && i < v->used; i = end + 1) {
        for (end = i; end < v->used && has_point(p, end);) end++;
        if (end == i) continue;
        fputs("<polygon class=\"band\" points=\"", p->out);
        for (int64_t k = i; k < end; k++)
            fprintf(p->out, "%.1f,%.1f ", px(p, curve_x(&v->buckets[k])),
                    within(p, v->buckets[k].values[p->c->series].max));
        for (int64_t k = end - 1; k >= i; k--) {
            double least = v->buckets[k].values[p->c->series].min;
            fprintf(p->out, "%.1f,%.1f ", px(p, curve_x(&v->buckets[k])),
                    drawn(p->c, least) ? within(p, least) : CHART_BOTTOM);
        }
        fputs("\"/>\n", p->out);
    }
}

static void write_dots(const plot *p) {
    char text[HTML_FIGURE], tokens[HTML_FIGURE];
    const curve *v = p->c->curve;
    for (int64_t i = 0; i < v->used; i++) {
        bool alone = (i == 0 || !has_point(p, i - 1)) && (i + 1 == v->used || !has_point(p, i + 1)); // no line shows it
        if (!has_point(p, i) || !(alone || (p->c->dots && v->used <= MAX_DOTS))) continue;
        double x = curve_x(&v->buckets[i]), y = curve_mean(&v->buckets[i], p->c->series);
        fprintf(p->out,
                "<circle class=\"dot\" cx=\"%.2f\" cy=\"%.2f\" r=\"3\"><title>%s after %s tokens</title></circle>\n",
                px(p, x), py(p, y), html_real("%.4f", y, text), html_short(x, tokens));
    }
}

static void write_marks(const plot *p) {
    for (int64_t i = 0; i < p->c->curve->used; i++)
        if (p->c->curve->buckets[i].marked)
            fprintf(p->out, "<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n",
                    px(p, curve_x(&p->c->curve->buckets[i])), px(p, curve_x(&p->c->curve->buckets[i])),
                    CHART_BOTTOM - 7, CHART_BOTTOM);
}

static void write_caption(const plot *p) {
    char points[HTML_FIGURE], entries[HTML_FIGURE];
    const chart *c = p->c;
    fprintf(p->out, "<figcaption><b>%s</b> — %s", c->title, c->what);
    if (c->curve->per_bucket > 1)
        fprintf(p->out, "; each of %s points is the mean of %s, the band spans their least and largest",
                html_count(c->curve->used, points), html_count(c->curve->per_bucket, entries));
    if (c->level_name) fprintf(p->out, "; <span class=\"level\">%s</span>", c->level_name);
    fputs("</figcaption>\n", p->out);
}

void chart_write(FILE *out, const chart *c) {
    plot p = {.c = c, .out = out};
    find_range(&p);
    widen_range(&p);
    fprintf(out, "<figure id=\"%s\">\n", c->id);
    write_caption(&p);
    fprintf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" data-x0=\"0\" data-x1=\"%.17g\" "
        "data-y0=\"%.17g\" data-y1=\"%.17g\" data-scale=\"%s\">\n<title>%s</title>\n",
        CHART_WIDTH, CHART_HEIGHT, p.x1, p.y0, p.y1, c->logarithmic ? "log" : "linear", c->title);
    write_axes(&p);
    write_stretches(&p);
    write_bands(&p);
    write_levels(&p);
    write_lines(&p);
    write_dots(&p);
    write_marks(&p);
    fprintf(out, "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n</svg>\n</figure>\n",
            CHART_LEFT, CHART_TOP, CHART_RIGHT - CHART_LEFT, CHART_BOTTOM - CHART_TOP);
}

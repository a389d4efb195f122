#include "coordinator/report.h"
#include "common/file.h"
#include "common/log.h"
#include "coordinator/chart.h"
#include "coordinator/html.h"
#include "coordinator/plan_model.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const size_t MAX_CONFIG = 1 << 20;
static const double MAX_SPREAD = 100;

static const char page_style[] =
    ":root{color-scheme:light dark;--back:#fff;--text:#1c1e21;--soft:#667;--grid:#e4e6ea;--hover:rgba(90,110,150,.08);"
    "--line:#1f6fb4;--second:#c8541c;--bad:#c22}\n"
    "@media (prefers-color-scheme:dark){:root{--back:#14171b;--text:#e3e5e8;--soft:#9aa3ad;--grid:#2a2f36;"
    "--hover:rgba(160,180,220,.08);--line:#5aa9e6;--second:#f0935a;--bad:#ff6b6b}}\n"
    "body{background:var(--back);color:var(--text);font:14px/1.45 system-ui,sans-serif;max-width:940px;margin:24px "
    "auto;"
    "padding:0 16px}\n"
    "h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}\n"
    "h2{font-size:16px;margin:28px 0 8px}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{text-align:left;vertical-align:top;padding:3px 14px 3px 0;border-bottom:1px solid var(--grid);"
    "overflow-wrap:anywhere}\n"
    "th{color:var(--soft);font-weight:normal}\n"
    "td.n,th.n{text-align:right;white-space:nowrap}\n"
    ".wide{overflow-x:auto}\n"
    "figure{margin:18px 0}\n"
    "figcaption{margin-bottom:2px;color:var(--soft)}\n"
    "figcaption b{color:var(--text)}\n"
    ".level{color:var(--second)}\n"
    ".state{font-weight:bold}\n"
    ".failed{color:var(--bad)}\n"
    "footer,.note{color:var(--soft);margin-top:24px}\n";

typedef struct page {
    FILE *out;
    const run_log *log;
    const char *run_dir;
    const yx_config *config; // or NULL
    report_presence presence;
} page;

// --- The head
static const char *state_name(const page *p) {
    const run_log *l = p->log;
    if (l->state == RUN_LOG_STOPPED) return "stopped";
    if (l->state == RUN_LOG_FAILED) return "failed";
    bool all = l->total_tokens > 0 && l->tokens >= l->total_tokens;
    if (l->state == RUN_LOG_COMPLETE || (all && p->presence == REPORT_NOT_RUNNING)) return "complete";
    return p->presence == REPORT_RUNNING ? "running" : "not running";
}

static void write_state(const page *p) {
    const char *name = state_name(p);
    fprintf(p->out, "<p id=\"state\"><span class=\"state%s\">%s</span>", strcmp(name, "failed") == 0 ? " failed" : "",
            name);
    if (strcmp(name, "stopped") == 0) fputs(" with a checkpoint: the same command continues", p->out);
    if (strcmp(name, "not running") == 0)
        fputs(": its last process did not say how it ended (killed, or on a host that this one does not see)", p->out);
    if (strcmp(name, "failed") == 0) {
        fputs(": ", p->out);
        html_text(p->out, p->log->failure);
    }
    fputs("</p>\n", p->out);
}

static void begin_row(const page *p, const char *name) { fprintf(p->out, "<tr><th>%s</th><td>", name); }
static void end_row(const page *p) { fputs("</td></tr>\n", p->out); }

static void write_text_row(const page *p, const char *name, const char *text) {
    begin_row(p, name);
    html_text(p->out, text);
    end_row(p);
}

static void write_model_rows(const page *p) {
    char text[HTML_FIGURE];
    const yx_config *c = p->config;
    if (!c) {
        write_text_row(p, "model", "– (config.yaml cannot be read)");
        return;
    }
    const config_model *m = &c->model;
    begin_row(p, "model");
    fprintf(p->out, "%s parameters: %lld layers, width %lld, %lld heads (%lld of keys), SwiGLU %lld, vocabulary %lld",
            html_count(plan_model_parameters(m), text), (long long)m->num_layers, (long long)m->hidden_size,
            (long long)m->num_attention_heads, (long long)m->num_key_value_heads, (long long)m->intermediate_size,
            (long long)m->vocab_size);
    fprintf(p->out, " in %lld dimensions", (long long)m->embedding_rank);
    end_row(p);
    write_text_row(p, "data", c->data.path);
    write_text_row(p, "tokenizer", c->data.tokenizer);
    write_text_row(p, "precision", config_precision_name(c->training.precision));
}

static void write_device_row(const page *p) {
    const run_log *l = p->log;
    char text[HTML_FIGURE];
    write_text_row(p, "device", l->device);
    begin_row(p, "ranks");
    fputs(html_count(l->ranks, text), p->out);
    if (l->hosts > 1) fprintf(p->out, " on %lld hosts", (long long)l->hosts);
    end_row(p);
}

static double trained_seconds(const run_log *l) {
    double sum = 0;
    for (int i = 0; i < CONFIG_MAX_STAGES; i++)
        if (l->stages[i].seen) sum += l->stages[i].seconds;
    return sum;
}

static void write_progress_row(const page *p, const char *name, int64_t done, int64_t all) {
    char a[HTML_FIGURE], b[HTML_FIGURE];
    begin_row(p, name);
    fprintf(p->out, "%s of %s", html_count(done, a), html_count(all, b));
    if (done >= 0 && all > 0) fprintf(p->out, " (%.1f %%)", 100 * (double)done / (double)all);
    end_row(p);
}

static void write_head(const page *p) {
    const run_log *l = p->log;
    char a[HTML_FIGURE], b[HTML_FIGURE], c[HTML_FIGURE];
    fputs("<table id=\"head\">\n", p->out);
    write_model_rows(p);
    write_device_row(p);
    write_text_row(p, "started", html_time(l->first_time, a));
    write_text_row(p, strcmp(state_name(p), "running") == 0 ? "last line" : "ended", html_time(l->last_time, a));
    write_progress_row(p, "step", l->step, l->total_steps);
    write_progress_row(p, "tokens", l->tokens, l->total_tokens);
    begin_row(p, "validation");
    if (l->validation_step >= 0)
        fprintf(p->out, "%s bits per byte, %s nats per token, at T = %s after step ",
                html_real("%.4f", l->bits_per_byte, a), html_real("%.4f", l->validation_loss, b),
                html_count(l->validation_seq_len, c));
    fputs(html_count(l->validation_step, a), p->out);
    end_row(p);
    begin_row(p, "checkpoints");
    fputs(html_count(l->checkpoints, a), p->out);
    if (l->checkpoint_step >= 0) fprintf(p->out, ", the newest after step %s", html_count(l->checkpoint_step, a));
    end_row(p);
    write_text_row(p, "time in steps", html_duration(l->step >= 0 ? trained_seconds(l) : (double)NAN, a));
    if (l->damaged > 0) {
        begin_row(p, "log");
        fprintf(p->out, "%s of %s lines are damaged and were left out", html_count(l->damaged, a),
                html_count(l->lines, b));
        end_row(p);
    }
    fputs("</table>\n", p->out);
}

// --- Charts
static int64_t list_stretches(const run_log *l, chart_stretch out[CONFIG_MAX_STAGES]) {
    int64_t n = 0;
    char clip[HTML_FIGURE];
    for (int i = 0; i < CONFIG_MAX_STAGES; i++) {
        const run_log_stage *s = &l->stages[i];
        if (!s->seen || s->token_begin < 0 || s->token_end < s->token_begin) continue;
        chart_stretch *to = &out[n++];
        *to = (chart_stretch){.begin = (double)s->token_begin, .end = (double)s->token_end, .level = s->grad_clip};
        if (s->seq_len >= 0) snprintf(to->label, sizeof to->label, "T=%lld", (long long)s->seq_len);
        else snprintf(to->label, sizeof to->label, "stage %d", i + 1);
        snprintf(to->title, sizeof to->title, "stage %d: %s, clip %s", i + 1, to->label,
                 html_real("%.3g", s->grad_clip, clip));
    }
    return n;
}

// Whether a curve has values so far apart, as the loss of a run that diverges, that only their logarithms can be seen.
static bool spreads(const curve *c, int series) {
    double least = INFINITY, largest = 0;
    for (int64_t i = 0; i < c->used; i++) {
        double y = curve_mean(&c->buckets[i], series);
        if (y > 0) least = fmin(least, y), largest = fmax(largest, y);
    }
    return largest > MAX_SPREAD * least;
}

static void write_charts(const page *p) {
    chart_stretch stretches[CONFIG_MAX_STAGES];
    int64_t n = list_stretches(p->log, stretches);
    const curve *steps = &p->log->steps, *evaluations = &p->log->evaluations;
    double x = (double)p->log->tokens;
    const chart charts[] = {
        {"loss", "Training loss", "nats per token, each step", steps, RUN_LOG_LOSS, spreads(steps, RUN_LOG_LOSS), false,
         false, x, stretches, n, NULL},
        {"validation", "Validation", "bits per byte at full length", evaluations, RUN_LOG_BITS_PER_BYTE, false, false,
         true, x, stretches, n, NULL},
        {"lr", "Learning rate", "each step", steps, RUN_LOG_LR, false, true, false, x, stretches, n, NULL},
        {"grad_norm", "Gradient norm", "before clipping", steps, RUN_LOG_GRAD_NORM, true, false, false, x, stretches, n,
         "the limit it is clipped to"},
        {"speed", "Speed", "tokens per second, each step", steps, RUN_LOG_SPEED, false, true, false, x, stretches, n,
         NULL}};
    fputs("<h2>Curves</h2>\n", p->out);
    if (p->log->step < 0) fputs("<p class=\"note\">no step yet</p>\n", p->out);
    for (size_t i = 0; i < sizeof charts / sizeof *charts && p->log->step >= 0; i++)
        if (charts[i].curve->used > 0) chart_write(p->out, &charts[i]);
}

// --- Stages
static void cell(const page *p, const char *text) { fprintf(p->out, "<td class=\"n\">%s</td>", text); }

static void write_stage(const page *p, int i) {
    const run_log_stage *s = &p->log->stages[i];
    char a[HTML_FIGURE];
    fprintf(p->out, "<tr><td class=\"n\">%d</td>", i + 1);
    cell(p, html_count(s->seq_len, a));
    cell(p, html_count(s->batch_size, a));
    cell(p, html_count(s->tokens, a));
    cell(p, html_count(s->steps, a));
    cell(p, html_duration(s->seconds, a));
    cell(p, html_short(s->tokens >= 0 && s->seconds > 0 ? (double)s->tokens / s->seconds : (double)NAN, a));
    cell(p, html_real("%.4f", run_log_end_loss(s), a));
    cell(p, html_real("%.4f", s->bits_per_byte, a));
    cell(p, html_count(s->skipped, a));
    fputs("<td>", p->out);
    html_text(p->out, s->description ? s->description : "");
    fputs("</td></tr>\n", p->out);
}

static void write_stages(const page *p) {
    fprintf(
        p->out,
        "<h2>Stages</h2>\n<div class=\"wide\"><table id=\"stages\">\n<tr><th class=\"n\">stage</th><th "
        "class=\"n\">T</th>"
        "<th class=\"n\">sequences</th><th class=\"n\">tokens</th><th class=\"n\">steps</th><th class=\"n\">time</th>"
        "<th class=\"n\">tokens/s</th><th class=\"n\">loss at its end</th><th class=\"n\">bits/byte after it</th>"
        "<th class=\"n\">skipped</th><th>description</th></tr>\n");
    for (int i = 0; i < CONFIG_MAX_STAGES; i++)
        if (p->log->stages[i].seen) write_stage(p, i);
    fprintf(
        p->out,
        "</table></div>\n<p class=\"note\">Sequences: of a step, of all ranks. Time: in steps, without validation and "
        "checkpoints. Loss: mean of the last %d steps. Bits per byte: the newest validation of the stage. Skipped: "
        "steps that changed nothing, for a gradient that was not finite or a spike.</p>\n",
        RUN_LOG_END);
}

// --- Events
static void write_event(const page *p, const run_log_event *e) {
    char a[HTML_FIGURE], b[HTML_FIGURE];
    fprintf(p->out, "<tr><td class=\"n\">%s</td><td class=\"n\">%s</td><td>", html_time(e->time, a),
            html_count(e->step, b));
    if (e->skip && e->last_step > e->step)
        fprintf(p->out, "steps %s to %s: ", html_count(e->step, a), html_count(e->last_step, b));
    if (e->skip && e->finite) fputs("loss or gradient far above the usual, nothing was updated", p->out);
    else if (e->skip) fputs("the gradient was not finite, nothing was updated", p->out);
    else html_text(p->out, e->text);
    fputs("</td></tr>\n", p->out);
}

static void write_events(const page *p) {
    char a[HTML_FIGURE];
    int64_t kept = run_log_num_kept(p->log), left_out = p->log->num_events - kept;
    fputs("<h2>Events</h2>\n<div class=\"wide\"><table id=\"events\">\n<tr><th class=\"n\">time</th><th "
          "class=\"n\">step</th>"
          "<th>what</th></tr>\n",
          p->out);
    for (int64_t i = 0; i < kept; i++) {
        if (i == RUN_LOG_FIRST_EVENTS && left_out > 0)
            fprintf(p->out, "<tr><td class=\"n\"></td><td class=\"n\"></td><td>… %s more …</td></tr>\n",
                    html_count(left_out, a));
        write_event(p, run_log_event_at(p->log, i));
    }
    fputs("</table></div>\n", p->out);
}

// --- The page
static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void write_page(const page *p) {
    char a[HTML_FIGURE];
    fputs("<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta "
          "charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width\"/>\n<title>",
          p->out);
    html_text(p->out, base_name(p->run_dir));
    fprintf(p->out, "</title>\n<style>\n%s%s</style>\n</head>\n<body>\n<h1>", page_style, chart_style);
    html_text(p->out, p->run_dir);
    fputs("</h1>\n", p->out);
    write_state(p);
    write_head(p);
    write_charts(p);
    write_stages(p);
    write_events(p);
    fprintf(p->out, "<footer>Written by yxanul %s at %s from log.jsonl and config.yaml.</footer>\n</body>\n</html>\n",
            YX_VERSION, html_time((double)time(NULL), a));
}

yx_status report_render(const run_log *log, const char *run_dir, const yx_config *config, report_presence presence,
                        char **html, size_t *size) {
    *html = NULL;
    page p = {open_memstream(html, size), log, run_dir, config, presence};
    if (!p.out) return yx_fail_errno("cannot make a report");
    write_page(&p);
    bool failed = ferror(p.out) != 0;
    failed |= fclose(p.out) != 0;
    if (!failed) return YX_OK;
    free(*html);
    *html = NULL;
    return yx_fail(YX_ERR_NO_MEMORY, "no memory for a report");
}

yx_status report_write(const run_log *log, const char *run_dir, const yx_config *config, report_presence presence,
                       const char *path) {
    char *html;
    size_t size;
    yx_status status = report_render(log, run_dir, config, presence, &html, &size);
    if (status == YX_OK) status = yx_write_file_atomic(path, html, size);
    free(html);
    return status;
}

// Without it the report has less to say: *out is NULL then.
static yx_status read_config(const char *run_dir, yx_config **out) {
    yx_status status = YX_OK;
    char *path = NULL, *text = NULL;
    size_t size;
    yx_config *config = malloc(sizeof *config);
    *out = NULL;
    if (!config) YX_FAIL(YX_ERR_NO_MEMORY, "no memory");
    YX_CHECK(yx_format(&path, "%s/config.yaml", run_dir));
    if (yx_read_file(path, MAX_CONFIG, &text, &size) == YX_OK &&
        config_load_text(text, size, path, run_dir, NULL, 0, config) == YX_OK)
        *out = config, config = NULL;
    else yx_warn("the report does without the configuration: %s", yx_message());
fail:
    free(config);
    free(path);
    free(text);
    return status;
}

static yx_status look_for_process(const char *run_dir, report_presence *out) {
    bool taken = false;
    int fd = -1;
    yx_status status = yx_hold_folder(run_dir, &fd, &taken);
    if (fd >= 0) close(fd);
    *out = taken ? REPORT_RUNNING : REPORT_NOT_RUNNING;
    return status;
}

yx_status report_run(const char *run_dir, const char *path, report_summary *out) {
    yx_status status = YX_OK;
    char *log_path = NULL;
    run_log *log = NULL;
    yx_config *config = NULL;
    report_presence presence = REPORT_NOT_RUNNING;
    YX_CHECK(run_log_create(&log));
    YX_CHECK(yx_format(&log_path, "%s/log.jsonl", run_dir));
    YX_CHECK(run_log_read(log, log_path));
    YX_CHECK(read_config(run_dir, &config));
    if (log->state == RUN_LOG_OPEN) YX_CHECK(look_for_process(run_dir, &presence));
    YX_CHECK(report_write(log, run_dir, config, presence, path));
    *out = (report_summary){log->step, log->tokens, log->lines, log->damaged};
fail:
    run_log_free(log);
    free(log_path);
    free(config);
    return status;
}

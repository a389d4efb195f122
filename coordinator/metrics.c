#include "coordinator/metrics.h"
#include "common/file.h"
#include "common/log.h"
#include "coordinator/report.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// A decision stays if the run has it still; `*decisions` are those that stayed. All else stays up to `resume_step`.
static bool stays(const json_t *line, int64_t resume_step, const ledger *l, size_t *decisions) {
    const json_t *step = json_object_get(line, "step");
    const char *type = json_string_value(json_object_get(line, "type"));
    if (!type || strcmp(type, "decision") != 0) return json_is_integer(step) && json_integer_value(step) <= resume_step;
    const json_t *entry = json_array_get(l->entries, *decisions);
    bool same = entry && json_equal(json_object_get(entry, "hash"), json_object_get(line, "hash"));
    *decisions += same;
    return same;
}

// A last line cut by a crash is dropped, too.
static size_t keep_lines(char *text, size_t size, int64_t resume_step, const ledger *l, size_t *decisions) {
    size_t kept = 0;
    for (size_t begin = 0; begin < size;) {
        char *end = memchr(text + begin, '\n', size - begin);
        if (!end) break;
        size_t length = (size_t)(end - text) + 1 - begin;
        json_t *line = json_loadb(text + begin, length, 0, NULL);
        if (stays(line, resume_step, l, decisions)) {
            memmove(text + kept, text + begin, length);
            kept += length;
        }
        json_decref(line);
        begin += length;
    }
    return kept;
}

static yx_status rewind_log(const char *path, int64_t resume_step, const ledger *l, size_t *decisions) {
    char *text;
    size_t size;
    if (!yx_path_exists(path)) return YX_OK;
    yx_status status = yx_read_file(path, (size_t)1 << 34, &text, &size);
    if (status != YX_OK) return status;
    size_t kept = resume_step < 0 ? 0 : keep_lines(text, size, resume_step, l, decisions);
    status = yx_write_file_atomic(path, text, kept);
    free(text);
    return status;
}

// Events of steps that will be done again are superseded by the new file's beginning, also where it stays empty.
static yx_status open_events(const yx_config *config, const yx_plan *plan, int64_t resume_step, event_file **out) {
    yx_status status = YX_OK;
    char *folder = NULL;
    bool wanted = config->logging.tensorboard, earlier;
    if (resume_step >= plan->total_steps) return YX_OK; // nothing will follow
    YX_CHECK(yx_format(&folder, "%s/tensorboard", config->run_dir));
    if (resume_step < 0) YX_CHECK(event_file_remove_all(folder));
    YX_CHECK(event_file_any(folder, &earlier));
    if (wanted || earlier) YX_CHECK(event_file_open(folder, resume_step < 0 ? 1 : resume_step + 1, out));
    if (!wanted) event_file_close(*out), *out = NULL;
fail:
    free(folder);
    return status;
}

// What the log has of earlier steps; a report of another run does not stay.
static yx_status open_report(const yx_config *config, const char *log_path, int64_t resume_step, run_log **out) {
    yx_status status = YX_OK;
    char *path = NULL;
    if (config->logging.report) {
        YX_CHECK(run_log_create(out));
        if (yx_path_exists(log_path)) YX_CHECK(run_log_read(*out, log_path));
    } else if (resume_step < 0) {
        YX_CHECK(yx_format(&path, "%s/report.html", config->run_dir));
        if (unlink(path) != 0 && errno != ENOENT) status = yx_fail_errno("cannot delete %s", path);
    }
fail:
    free(path);
    return status;
}

static yx_status write_report(metrics *m, report_presence presence) {
    char *path;
    if (!m->summary) return YX_OK;
    yx_status status = yx_format(&path, "%s/report.html", m->config->run_dir);
    if (status != YX_OK) return status;
    status = report_write(m->summary, m->config->run_dir, m->config, presence, path);
    free(path);
    return status;
}

yx_status metrics_open(const yx_config *config, const yx_plan *plan, const ledger *l, int64_t resume_step,
                       metrics *out) {
    yx_status status = YX_OK;
    char *path = NULL;
    *out = (metrics){.config = config,
                     .plan = plan,
                     .interval_steps = config->logging.interval_steps,
                     .terminal = isatty(STDERR_FILENO),
                     .started = now()};
    YX_CHECK(yx_format(&path, "%s/log.jsonl", config->run_dir));
    YX_CHECK(rewind_log(path, resume_step, l, &out->decisions));
    YX_CHECK(open_report(config, path, resume_step, &out->summary));
    YX_CHECK(open_events(config, plan, resume_step, &out->events));
    out->log = fopen(path, "a");
    if (!out->log) status = yx_fail_errno("cannot open %s", path);
fail:
    free(path);
    return status;
}

void metrics_close(metrics *m) {
    if (m->line_open) fputc('\n', stderr);
    if (m->log) fclose(m->log);
    event_file_close(m->events);
    run_log_free(m->summary);
    m->log = NULL;
    m->events = NULL;
    m->summary = NULL;
    m->line_open = false;
}

yx_status metrics_flush(metrics *m) { return m->events ? event_file_flush(m->events) : YX_OK; }

// Writes and releases `line`; NULL means that it could not be made.
static yx_status write_line(metrics *m, json_t *line) {
    if (!line) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a log line");
    json_object_set_new(line, "time", json_real(round(now() * 1000) / 1000));
    errno = 0;
    m->log_failed = json_dumpf(line, m->log, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0 ||
                    fputc('\n', m->log) == EOF || fflush(m->log) != 0;
    yx_status status = m->log_failed ? yx_fail_errno("cannot write log.jsonl") : YX_OK;
    if (status == YX_OK && m->summary) status = run_log_add(m->summary, line);
    json_decref(line);
    return status;
}

// Ends the live line, so that what follows starts on its own.
static void end_line(metrics *m) {
    if (m->line_open) fputc('\n', stderr);
    m->line_open = false;
}

// JSON has no NaN: such a figure is null.
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

yx_status metrics_start(metrics *m, int64_t step, int64_t tokens, int ranks, const char *device, int64_t micro_tokens) {
    m->tokens_at_start = tokens;
    m->ranks = ranks;
    yx_status status =
        write_line(m, json_pack("{s:s, s:I, s:I, s:i, s:s, s:I, s:I, s:I}", "type", "start", "step", (json_int_t)step,
                                "tokens", (json_int_t)tokens, "ranks", ranks, "device", device, "micro_batch_tokens",
                                (json_int_t)micro_tokens, "total_steps", (json_int_t)m->plan->total_steps,
                                "total_tokens", (json_int_t)m->plan->total_tokens));
    return status == YX_OK ? write_report(m, REPORT_RUNNING) : status;
}

yx_status metrics_link(metrics *m, int64_t step, const rank_link *l) {
    char blocks[64] = "";
    if (l->blocks) snprintf(blocks, sizeof blocks, ", by %d thread blocks of each at most", l->blocks);
    yx_info(
        "the ranks, on %d host%s, exchange by %s: %.2f GB/s over each one's connection, %.0f µs at least%s%s; sums of "
        "%lld MB",
        l->hosts, l->hosts == 1 ? "" : "s", l->exchange, l->bandwidth / 1e9, l->latency * 1e6,
        !l->devices ? ""
        : l->direct ? ", the GPUs of a host directly"
                    : ", the GPUs of a host through its memory",
        blocks, (long long)l->bucket_mb);
    return write_line(m, json_pack("{s:s, s:I, s:i, s:i, s:s, s:f, s:f, s:b, s:i, s:I}", "type", "link", "step",
                                   (json_int_t)step, "ranks", l->ranks, "hosts", l->hosts, "exchange", l->exchange,
                                   "bytes_per_second", l->bandwidth, "latency", l->latency, "direct", l->direct,
                                   "blocks", l->blocks, "bucket_mb", (json_int_t)l->bucket_mb));
}

yx_status metrics_decisions(metrics *m, const ledger *l) {
    yx_status status = YX_OK;
    for (; status == YX_OK && m->decisions < json_array_size(l->entries); m->decisions++) {
        json_t *line = json_copy(json_array_get(l->entries, m->decisions)); // step, event, detail, hash
        if (line) json_object_set_new(line, "type", json_string("decision"));
        status = write_line(m, line);
    }
    return status;
}

yx_status metrics_stage(metrics *m, const plan_step *step) {
    const plan_stage *s = &m->plan->stages[step->stage];
    end_line(m);
    m->exchange = m->exposed = m->seconds = 0;
    yx_info("── stage %lld/%lld: T = %lld, %lld sequences = %lld tokens a step, %lld steps, lr × %.3g, clip %.3g%s%s",
            (long long)step->stage + 1, (long long)m->plan->num_stages, (long long)s->seq_len, (long long)s->batch_size,
            (long long)(s->seq_len * s->batch_size), (long long)s->num_steps, s->lr_scale, s->grad_clip,
            s->description[0] ? " · " : "", s->description);
    return write_line(m, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s}", "type", "stage", "step",
                                   (json_int_t)step->step + 1, "stage", (json_int_t)step->stage + 1, "tokens",
                                   (json_int_t)step->token_begin, "seq_len", (json_int_t)s->seq_len, "batch_size",
                                   (json_int_t)s->batch_size, "lr_scale", s->lr_scale, "grad_clip", s->grad_clip,
                                   "description", s->description));
}

static void print_duration(double seconds, char out[32]) {
    long s = seconds > 0 && seconds < 1e9 ? (long)seconds : 0;
    if (s >= 3600) snprintf(out, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else snprintf(out, 32, "%ldm%02lds", s / 60, s % 60);
}

static void print_step(metrics *m, const plan_step *step, const worker_step_result *r, int64_t tokens) {
    double t = now();
    bool due = m->terminal ? t - m->last_line > 0.2 : (step->step + 1) % m->interval_steps == 0;
    if ((!due && !step->last_of_run) || !yx_log_shows(YX_LOG_INFO)) return;
    m->last_line = t;
    char left[32];
    print_duration((double)(m->plan->total_tokens - tokens) / fmax(m->tokens_per_second, 1), left);
    const char *format =
        "%sstage %lld/%lld T=%lld  step %lld/%lld  loss %.4f  |g| %.2f  lr %.2e  %.1fk tokens/s  %s left%s";
    fprintf(stderr, format, m->terminal ? "\r\033[K" : "", (long long)step->stage + 1, (long long)m->plan->num_stages,
            (long long)step->seq_len, (long long)step->step + 1, (long long)m->plan->total_steps, r->loss, r->grad_norm,
            step->lr, m->tokens_per_second / 1000, left, m->terminal ? "" : "\n");
    m->line_open = m->terminal;
}

// "saturated": share of 8-bit values that were clipped; "amax": the largest magnitudes of the operands that have a
// history.
static void add_fp8(json_t *line, const worker_fp8 *fp8) {
    static const char *const names[OPERANDS_PER_LAYER] = {[OPERAND_X1] = "x1",
                                                          [OPERAND_ATTN] = "attention",
                                                          [OPERAND_X2] = "x2",
                                                          [OPERAND_H] = "swiglu",
                                                          [OPERAND_D_QKV] = "d_qkv",
                                                          [OPERAND_D_O] = "d_o",
                                                          [OPERAND_D_GATE_UP] = "d_gate_up",
                                                          [OPERAND_D_DOWN] = "d_down"};
    json_t *amax = json_object();
    for (int i = 0; i < OPERANDS_PER_LAYER; i++)
        if (names[i] && fp8->amax[i] > 0) json_object_set_new(amax, names[i], number(fp8->amax[i]));
    json_object_set_new(line, "saturated", json_real(fp8->saturated));
    json_object_set_new(line, "amax", amax);
}

// At a stage's end: what its steps exchanged, and how much of that was hidden behind computing.
static void print_exchange(metrics *m, const plan_step *step, const worker_step_result *r, double seconds) {
    m->exchange += r->exchange, m->exposed += r->communicate, m->seconds += seconds;
    if (!step->last_of_stage || m->exchange <= 0 || m->ranks == 1) return;
    end_line(m);
    yx_info("   of stage %lld's time %.1f %% was exchange, %.0f %% of it hidden", (long long)step->stage + 1,
            100 * m->exchange / m->seconds, 100 * fmax(0, 1 - m->exposed / m->exchange));
}

static yx_status add_step_event(metrics *m, const plan_step *step, const worker_step_result *r, double rate) {
    int64_t tokens = step->token_begin + step->seq_len * step->num_sequences;
    const event_scalar scalars[] = {{"train/loss", r->loss},
                                    {"train/grad_norm", r->grad_norm},
                                    {"train/lr", step->lr},
                                    {"train/seq_len", (double)step->seq_len},
                                    {"train/tokens", (double)tokens},
                                    {"train/tokens_per_second", rate},
                                    {"fp8/saturated", r->fp8 ? r->fp8->saturated : 0}};
    int count = sizeof scalars / sizeof *scalars - (r->fp8 ? 0 : 1);
    return m->events ? event_file_add(m->events, step->step + 1, scalars, count) : YX_OK;
}

yx_status metrics_step(metrics *m, const plan_step *step, const worker_step_result *r, double seconds) {
    int64_t scored = step->seq_len * step->num_sequences, tokens = step->token_begin + scored;
    double rate = (double)scored / fmax(seconds, 1e-9);
    m->tokens_per_second = m->tokens_per_second > 0 ? 0.9 * m->tokens_per_second + 0.1 * rate : rate;
    char hash[17];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)r->token_hash);
    print_step(m, step, r, tokens);
    print_exchange(m, step, r, seconds);
    json_t *line =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:o, s:s, s:f, s:f, s:f, s:f, s:b}", "type", "step",
                  "step", (json_int_t)step->step + 1, "stage", (json_int_t)step->stage + 1, "seq_len",
                  (json_int_t)step->seq_len, "sequences", (json_int_t)step->num_sequences, "tokens", (json_int_t)tokens,
                  "loss", number(r->loss), "lr", step->lr, "grad_clip", step->grad_clip, "grad_norm",
                  number(r->grad_norm), "token_hash", hash, "seconds", seconds, "tokens_per_second", rate, "data_wait",
                  r->data_wait, "communicate", r->communicate, "skipped", r->skipped);
    if (line) json_object_set_new(line, "compute", json_real(r->compute));
    if (line) json_object_set_new(line, "exchange", json_real(r->exchange));
    if (line && r->fp8) add_fp8(line, r->fp8);
    yx_status status = write_line(m, line);
    return status == YX_OK ? add_step_event(m, step, r, rate) : status;
}

static json_t *per_step(const rank_watch *w, size_t offset) {
    json_t *list = json_array();
    for (int r = 0; list && r < group_size(w->group); r++) {
        double sum = *(const double *)((const char *)&w->sums[r] + offset);
        json_array_append_new(list, json_real(sum / (double)w->steps));
    }
    return list;
}

yx_status metrics_ranks(metrics *m, int64_t step, rank_watch *w) {
    bool by_data;
    double ratio;
    if (w->steps == 0) return YX_OK;
    int slow = rank_watch_slowest(w->sums, group_size(w->group), w->steps, &by_data, &ratio);
    if (slow >= 0 && slow != w->slow) {
        end_line(m);
        yx_warn("rank %d (%s) holds up the others: it %s %.2f times as long as the median rank", slow,
                w->reports[slow].node, by_data ? "waits for its data and computes" : "computes", ratio);
    }
    w->slow = slow;
    json_t *memory = json_array();
    for (int r = 0; memory && r < group_size(w->group); r++)
        json_array_append_new(memory, json_integer((json_int_t)w->sums[r].memory));
    return write_line(m, json_pack("{s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "type", "ranks", "step",
                                   (json_int_t)step, "steps", (json_int_t)w->steps, "compute",
                                   per_step(w, offsetof(rank_sums, compute)), "data_wait",
                                   per_step(w, offsetof(rank_sums, data_wait)), "communicate",
                                   per_step(w, offsetof(rank_sums, communicate)), "exchange",
                                   per_step(w, offsetof(rank_sums, exchange)), "memory_bytes", memory, "slow",
                                   slow >= 0 ? json_integer(slow) : json_null()));
}

yx_status metrics_evaluation(metrics *m, int64_t step, int64_t tokens, int64_t stage, int64_t seq_len,
                             const evaluate_result *r, double seconds) {
    end_line(m);
    yx_info(
        "   validation at T = %lld after stage %lld, step %lld: %.4f bits/byte, %.4f nats/token (%lld tokens, %.1f s)",
        (long long)seq_len, (long long)stage + 1, (long long)step, r->bits_per_byte, r->loss, (long long)r->tokens,
        seconds);
    json_t *positions = json_array();
    for (int i = 0; positions && i < r->num_buckets; i++)
        json_array_append_new(positions,
                              json_pack("{s:I, s:o, s:I}", "begin", (json_int_t)evaluate_bucket_begin(i), "loss",
                                        number(r->bucket_loss[i]), "tokens", (json_int_t)r->bucket_tokens[i]));
    yx_status status =
        write_line(m, json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:I, s:I, s:f, s:o}", "type", "evaluation", "step",
                                (json_int_t)step, "tokens", (json_int_t)tokens, "stage", (json_int_t)stage + 1,
                                "seq_len", (json_int_t)seq_len, "bits_per_byte", number(r->bits_per_byte), "loss",
                                number(r->loss), "scored_tokens", (json_int_t)r->tokens, "bytes", (json_int_t)r->bytes,
                                "seconds", seconds, "positions", positions));
    const event_scalar scalars[] = {{"validation/bits_per_byte", r->bits_per_byte}, {"validation/loss", r->loss}};
    if (status == YX_OK && m->events) status = event_file_add(m->events, step, scalars, 2);
    return status == YX_OK ? metrics_flush(m) : status;
}

yx_status metrics_checkpoint(metrics *m, int64_t step, const char *run_dir, double seconds) {
    end_line(m);
    yx_info("   checkpoint %s/checkpoints/step_%09lld (%.1f s)", run_dir, (long long)step, seconds);
    yx_status status =
        write_line(m, json_pack("{s:s, s:I, s:f}", "type", "checkpoint", "step", (json_int_t)step, "seconds", seconds));
    return status == YX_OK ? write_report(m, REPORT_RUNNING) : status;
}

static yx_status write_end(metrics *m, yx_status result, const char *message, int64_t step, int64_t tokens) {
    const char *state = result == YX_OK ? "complete" : result == YX_ERR_INTERRUPTED ? "stopped" : "failed";
    json_t *line = json_pack("{s:s, s:I, s:I, s:s}", "type", "end", "step", (json_int_t)step, "tokens",
                             (json_int_t)tokens, "state", state);
    if (line && message) json_object_set_new(line, "message", json_string(message)); // left out if it is no UTF-8
    yx_status status = write_line(m, line);
    return status == YX_OK ? write_report(m, REPORT_NOT_RUNNING) : status;
}

yx_status metrics_end(metrics *m, yx_status result, int64_t step, int64_t tokens) {
    if (!m->log || m->log_failed) return result;
    char *message = result == YX_OK ? NULL : strdup(yx_message()), *origin = strdup(yx_message_origin());
    yx_status status = write_end(m, result, message, step, tokens);
    if (result != YX_OK && message && origin) yx_set_message(message, origin);
    free(message);
    free(origin);
    return result == YX_OK ? status : result;
}

#include "coordinator/run_log.h"
#include "common/file.h"
#include "coordinator/step_line.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ_AT_ONCE = 4 << 20 };
static const int64_t MAX_WHOLE = (int64_t)1 << 53;

// --- A line's fields
static const char *text(const json_t *line, const char *key) { return json_string_value(json_object_get(line, key)); }

// A field that this line has replaces what was known.
static void update_whole(int64_t *x, int64_t value) {
    if (value >= 0) *x = value;
}

static void update_real(double *x, double value) {
    if (isfinite(value)) *x = value;
}

static yx_status update_text(char **x, const char *value) {
    if (!value || (*x && strcmp(*x, value) == 0)) return YX_OK;
    char *copy = strdup(value);
    if (!copy) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a log line");
    free(*x);
    *x = copy;
    return YX_OK;
}

// --- Events
int64_t run_log_num_kept(const run_log *l) {
    int64_t most = RUN_LOG_FIRST_EVENTS + RUN_LOG_LAST_EVENTS;
    return l->num_events < most ? l->num_events : most;
}

// Where the i-th event of all lies: the first ones stay, the others take turns.
static int64_t place(int64_t i) {
    return i < RUN_LOG_FIRST_EVENTS ? i : RUN_LOG_FIRST_EVENTS + (i - RUN_LOG_FIRST_EVENTS) % RUN_LOG_LAST_EVENTS;
}

const run_log_event *run_log_event_at(const run_log *l, int64_t i) {
    int64_t left_out = l->num_events - run_log_num_kept(l);
    return &l->events[place(i < RUN_LOG_FIRST_EVENTS ? i : i + left_out)];
}

// Takes `description`.
static run_log_event *append_event(run_log *l, double time, int64_t step, char *description) {
    run_log_event *e = &l->events[place(l->num_events++)];
    free(e->text);
    *e = (run_log_event){.time = time, .step = step, .last_step = step, .text = description};
    return e;
}

static void add_event(run_log *l, const json_t *line, char *description) {
    append_event(l, line_real(line, "time"), line_whole(line, "step"), description);
}

// Steps in a row that were skipped for the same reason are one event.
static void add_skip(run_log *l, const step_line *line) {
    run_log_event *newest = l->num_events > 0 ? &l->events[place(l->num_events - 1)] : NULL;
    bool finite = isfinite(line->grad_norm);
    if (newest && newest->skip && newest->finite == finite && newest->last_step + 1 == line->step) {
        newest->last_step = line->step;
        return;
    }
    newest = append_event(l, line->time, line->step, NULL);
    newest->skip = true;
    newest->finite = finite;
}

// --- Kinds of lines
static yx_status add_start(run_log *l, const json_t *line) {
    yx_status status = YX_OK;
    char *description;
    const char *device = text(line, "device");
    int64_t step = line_whole(line, "step");
    l->state = RUN_LOG_OPEN;
    l->starts++;
    update_whole(&l->ranks, line_whole(line, "ranks"));
    update_whole(&l->total_steps, line_whole(line, "total_steps"));
    update_whole(&l->total_tokens, line_whole(line, "total_tokens"));
    YX_CHECK(update_text(&l->device, device));
    YX_CHECK(yx_format(&description, "%s on %s, %lld rank%s", step > 0 ? "resumed" : "started", device ? device : "?",
                       (long long)l->ranks, l->ranks == 1 ? "" : "s"));
    add_event(l, line, description);
fail:
    return status;
}

static yx_status add_link(run_log *l, const json_t *line) {
    char *description;
    const char *exchange = text(line, "exchange");
    update_whole(&l->hosts, line_whole(line, "hosts"));
    yx_status status = yx_format(&description, "%lld ranks on %lld host%s exchange by %s: %.3g GB/s, %.3g µs",
                                 (long long)line_whole(line, "ranks"), (long long)l->hosts, l->hosts == 1 ? "" : "s",
                                 exchange ? exchange : "?", line_real(line, "bytes_per_second") / 1e9,
                                 line_real(line, "latency") * 1e6);
    if (status == YX_OK) add_event(l, line, description);
    return status;
}

static yx_status add_end(run_log *l, const json_t *line) {
    yx_status status = YX_OK;
    char *description;
    const char *state = text(line, "state"), *message = text(line, "message");
    bool complete = state && strcmp(state, "complete") == 0, stopped = state && strcmp(state, "stopped") == 0;
    l->state = complete ? RUN_LOG_COMPLETE : stopped ? RUN_LOG_STOPPED : RUN_LOG_FAILED;
    YX_CHECK(update_text(&l->failure, message));
    if (complete) YX_CHECK(yx_format(&description, "complete"));
    else if (stopped) YX_CHECK(yx_format(&description, "stopped on request"));
    else YX_CHECK(yx_format(&description, "failed: %s", message ? message : "?"));
    add_event(l, line, description);
fail:
    return status;
}

static yx_status add_ranks(run_log *l, const json_t *line) {
    char *description;
    int64_t slow = line_whole(line, "slow");
    if (slow == l->slow) return YX_OK;
    l->slow = slow;
    yx_status status = slow < 0 ? yx_format(&description, "no rank holds up the others any more")
                                : yx_format(&description, "rank %lld holds up the others", (long long)slow);
    if (status == YX_OK) add_event(l, line, description);
    return status;
}

// The stage a line is of; NULL: it does not say.
static run_log_stage *stage_of(run_log *l, int64_t number) {
    if (number < 1 || number > CONFIG_MAX_STAGES) return NULL;
    run_log_stage *s = &l->stages[number - 1];
    if (!s->seen) {
        *s = (run_log_stage){.seen = true, .seq_len = -1, .batch_size = -1, .token_begin = -1, .token_end = -1};
        s->grad_clip = s->bits_per_byte = (double)NAN;
    }
    return s;
}

static yx_status add_stage(run_log *l, const json_t *line) {
    run_log_stage *s = stage_of(l, line_whole(line, "stage"));
    if (!s) return l->damaged++, YX_OK;
    update_whole(&s->seq_len, line_whole(line, "seq_len"));
    update_whole(&s->batch_size, line_whole(line, "batch_size"));
    update_whole(&s->token_begin, line_whole(line, "tokens"));
    update_real(&s->grad_clip, line_real(line, "grad_clip"));
    return update_text(&s->description, text(line, "description"));
}

static void add_to_stage(run_log_stage *s, const step_line *line) {
    bool sized = line->seq_len >= 0 && line->sequences >= 0 && line->seq_len <= 1 << 20 && line->sequences <= 1 << 30;
    int64_t scored = sized ? line->seq_len * line->sequences : -1;
    s->steps++;
    s->skipped += line->skipped;
    s->seconds += line->seconds; // one that has none makes the sum unknown
    s->tokens = s->tokens < 0 || scored < 0 || s->tokens + scored > MAX_WHOLE ? -1 : s->tokens + scored;
    update_whole(&s->seq_len, line->seq_len);
    update_real(&s->grad_clip, line->grad_clip);
    if (s->token_begin < 0 && line->tokens >= 0 && scored >= 0) s->token_begin = line->tokens - scored;
    update_whole(&s->token_end, line->tokens);
    if (isfinite(line->loss)) s->losses[s->num_losses++ % RUN_LOG_END] = line->loss;
}

static void add_step_line(run_log *l, const step_line *line) {
    run_log_stage *s = stage_of(l, line->stage);
    const double values[CURVE_SERIES] = {[RUN_LOG_LOSS] = line->loss,
                                         [RUN_LOG_LR] = line->lr,
                                         [RUN_LOG_GRAD_NORM] = line->grad_norm,
                                         [RUN_LOG_SPEED] = line->tokens_per_second};
    update_whole(&l->step, line->step);
    update_whole(&l->tokens, line->tokens);
    if (s) add_to_stage(s, line);
    if (line->tokens >= 0) curve_add(&l->steps, (double)line->tokens, values, line->skipped);
    if (line->skipped) add_skip(l, line);
}

static yx_status add_step(run_log *l, const json_t *line) {
    step_line step;
    step_line_from_json(line, &step);
    add_step_line(l, &step);
    return YX_OK;
}

static yx_status add_evaluation(run_log *l, const json_t *line) {
    run_log_stage *s = stage_of(l, line_whole(line, "stage"));
    int64_t tokens = line_whole(line, "tokens");
    const double values[CURVE_SERIES] = {[RUN_LOG_BITS_PER_BYTE] = line_real(line, "bits_per_byte"),
                                         [RUN_LOG_VALIDATION_LOSS] = line_real(line, "loss"),
                                         (double)NAN,
                                         (double)NAN};
    l->bits_per_byte = values[RUN_LOG_BITS_PER_BYTE];
    l->validation_loss = values[RUN_LOG_VALIDATION_LOSS];
    l->validation_step = line_whole(line, "step");
    l->validation_seq_len = line_whole(line, "seq_len");
    if (s) s->bits_per_byte = l->bits_per_byte;
    if (tokens >= 0) curve_add(&l->evaluations, (double)tokens, values, false);
    return YX_OK;
}

// Steps that were left out are in their own lines.
static yx_status add_decision(run_log *l, const json_t *line) {
    char *description;
    const char *event = text(line, "event"), *detail = text(line, "detail");
    if (event && (strcmp(event, "skip") == 0 || strcmp(event, "spike") == 0)) return YX_OK;
    yx_status status = yx_format(&description, "%s: %s", event ? event : "?", detail ? detail : "?");
    if (status == YX_OK) add_event(l, line, description);
    return status;
}

static yx_status add_checkpoint(run_log *l, const json_t *line) {
    l->checkpoints++;
    update_whole(&l->checkpoint_step, line_whole(line, "step"));
    return YX_OK;
}

static const struct {
    const char *type;
    yx_status (*add)(run_log *l, const json_t *line);
} kinds[] = {
    {"step", add_step},        {"stage", add_stage}, {"evaluation", add_evaluation}, {"checkpoint", add_checkpoint},
    {"start", add_start},      {"link", add_link},   {"ranks", add_ranks},           {"end", add_end},
    {"decision", add_decision}};

static void count_line(run_log *l, double time) {
    l->lines++;
    if (!isfinite(l->first_time)) update_real(&l->first_time, time);
    update_real(&l->last_time, time);
}

yx_status run_log_add(run_log *l, const json_t *line) {
    const char *type = text(line, "type");
    count_line(l, line_real(line, "time"));
    if (!type) return l->damaged++, YX_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].type, type) == 0) return kinds[i].add(l, line);
    return YX_OK;
}

// --- The file
static yx_status add_text(run_log *l, const char *line, size_t size) {
    step_line step;
    if (size == 0) return YX_OK;
    if (step_line_parse(line, size, &step)) {
        count_line(l, step.time);
        add_step_line(l, &step);
        return YX_OK;
    }
    json_t *json = json_loadb(line, size, 0, NULL);
    yx_status status = run_log_add(l, json); // NULL has no type
    json_decref(json);
    return status;
}

// Lines come in pieces of what is read at once; one that is longer than a line can be is damaged.
static yx_status read_lines(run_log *l, FILE *file, char *buffer) {
    yx_status status = YX_OK;
    bool too_long = false;
    size_t have = 0, got;
    while (status == YX_OK && (got = fread(buffer + have, 1, READ_AT_ONCE - have, file)) > 0) {
        size_t begin = 0;
        have += got;
        for (char *end; status == YX_OK && (end = memchr(buffer + begin, '\n', have - begin));) {
            if (!too_long) status = add_text(l, buffer + begin, (size_t)(end - buffer) - begin);
            too_long = false;
            begin = (size_t)(end - buffer) + 1;
        }
        memmove(buffer, buffer + begin, have -= begin);
        if (have <= RUN_LOG_MAX_LINE) continue;
        if (!too_long) l->lines++, l->damaged++;
        too_long = true;
        have = 0;
    }
    return status;
}

yx_status run_log_read(run_log *l, const char *path) {
    yx_status status = YX_OK;
    char *buffer = malloc(READ_AT_ONCE);
    FILE *file = fopen(path, "rb");
    if (!file) {
        status = yx_fail_errno("cannot open %s", path);
        goto fail;
    }
    if (!buffer) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to read %s", path);
    YX_CHECK(read_lines(l, file, buffer));
    if (ferror(file)) status = yx_fail_errno("cannot read %s", path);
fail:
    if (file) fclose(file);
    free(buffer);
    return status;
}

yx_status run_log_create(run_log **out) {
    run_log *l = *out = calloc(1, sizeof *l);
    if (!l) return yx_fail(YX_ERR_NO_MEMORY, "no memory to sum up a log");
    l->first_time = l->last_time = l->bits_per_byte = l->validation_loss = (double)NAN;
    l->ranks = l->hosts = l->total_steps = l->total_tokens = l->step = l->tokens = l->slow = -1;
    l->checkpoint_step = l->validation_step = l->validation_seq_len = -1;
    return YX_OK;
}

void run_log_free(run_log *l) {
    if (!l) return;
    for (int i = 0; i < CONFIG_MAX_STAGES; i++) free(l->stages[i].description);
    for (int i = 0; i < RUN_LOG_FIRST_EVENTS + RUN_LOG_LAST_EVENTS; i++) free(l->events[i].text);
    free(l->failure);
    free(l->device);
    free(l);
}

double run_log_end_loss(const run_log_stage *s) {
    int64_t n = s->num_losses < RUN_LOG_END ? s->num_losses : RUN_LOG_END;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += s->losses[i];
    return n > 0 ? sum / (double)n : (double)NAN;
}

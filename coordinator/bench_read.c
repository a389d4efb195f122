#include "coordinator/bench_read.h"
#include "common/file.h"
#include "coordinator/bench_profile.h"
#include "coordinator/plan_model.h"
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 16 << 20, MOST_RANKS = 65536, MOST_TOKENS = 1 << 30 };

// --- Fields
static yx_status refuse(const char *what) {
    return yx_fail(YX_ERR_DATA, "no valid \"%s\": it is not what `yxanul bench train --json` of this version prints",
                   what);
}

static yx_status get_int(const json_t *from, const char *name, int64_t min, int64_t max, int64_t *out) {
    const json_t *value = json_object_get(from, name);
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= min && *out <= max ? YX_OK : refuse(name);
}

// Seconds, not negative and finite.
static yx_status get_seconds(const json_t *from, const char *name, double *out) {
    const json_t *value = json_object_get(from, name);
    *out = json_number_value(value);
    return json_is_number(value) && isfinite(*out) && *out >= 0 ? YX_OK : refuse(name);
}

static yx_status get_bool(const json_t *from, const char *name, bool *out) {
    const json_t *value = json_object_get(from, name);
    *out = json_is_true(value);
    return json_is_boolean(value) ? YX_OK : refuse(name);
}

static yx_status get_text(const json_t *from, const char *name, const char **out) {
    *out = json_string_value(json_object_get(from, name));
    return *out ? YX_OK : refuse(name);
}

// --- The file's head
static yx_status read_wire(const json_t *root, config_wire *out) {
    const char *name;
    yx_status status = get_text(root, "gradient_wire", &name);
    if (status != YX_OK) return status;
    *out = strcmp(name, config_wire_name(WIRE_BF16)) == 0 ? WIRE_BF16 : WIRE_FP32;
    return strcmp(name, config_wire_name(*out)) == 0 ? YX_OK : refuse("gradient_wire");
}

static yx_status check_model(const json_t *root, const yx_config *config, int64_t parameters) {
    const char *precision, *wanted = config_precision_name(config->training.precision);
    int64_t own = plan_model_parameters(&config->model);
    yx_status status = get_text(root, "precision", &precision);
    if (status != YX_OK) return status;
    if (parameters != own)
        return yx_fail(YX_ERR_MISMATCH,
                       "it measured a model of %" PRId64 " parameters, the configuration's has %" PRId64
                       ": run bench train with this configuration",
                       parameters, own);
    if (strcmp(precision, wanted) != 0)
        return yx_fail(YX_ERR_MISMATCH,
                       "it measured in %s, the configuration trains in %s: run bench train with this configuration",
                       precision, wanted);
    return YX_OK;
}

static yx_status read_head(const json_t *root, const yx_config *config, bench_file *out) {
    yx_status status = YX_OK;
    const char *device, *exchange;
    int64_t ranks;
    YX_CHECK(get_text(root, "device", &device));
    YX_CHECK(get_text(root, "exchange", &exchange));
    YX_CHECK(get_int(root, "ranks", 1, MOST_RANKS, &ranks));
    YX_CHECK(get_int(root, "parameters", 1, INT64_MAX, &out->gradients.parameters));
    YX_CHECK(read_wire(root, &out->gradients.wire));
    YX_CHECK(get_bool(root, "shard_optimizer", &out->gradients.sharded));
    YX_CHECK(get_bool(root, "overlap", &out->overlap));
    snprintf(out->device, sizeof out->device, "%s", device);
    snprintf(out->exchange, sizeof out->exchange, "%s", exchange);
    out->ranks = (int)ranks;
    YX_CHECK(check_model(root, config, out->gradients.parameters));
fail:
    return status;
}

// --- Its stages
static bool has_stage(const yx_config *config, const ranks_step *s) {
    for (int64_t i = 0; i < config->training.num_stages; i++) {
        const config_stage *stage = &config->training.stages[i];
        if (stage->seq_len == s->seq_len && stage->batch_size == s->batch_size) return true;
    }
    return false;
}

static yx_status read_stage(const json_t *from, const yx_config *config, int64_t most_tokens, bench_file *out) {
    yx_status status = YX_OK;
    bench_file_stage *s = &out->stages[out->num_stages++];
    const json_t *groups = json_object_get(from, "groups");
    const json_t *optimizer = json_object_get(groups, profile_group_name(PROFILE_OPTIMIZER));
    s->step.most_tokens = most_tokens;
    YX_CHECK(get_int(from, "seq_len", 1, most_tokens, &s->step.seq_len));
    YX_CHECK(get_int(from, "sequences", 1, MOST_TOKENS, &s->step.batch_size));
    YX_CHECK(get_seconds(from, "seconds", &s->step.seconds));
    YX_CHECK(get_seconds(from, "exchange_seconds", &s->exchange_seconds));
    YX_CHECK(get_seconds(from, "exposed_seconds", &s->exposed_seconds));
    YX_CHECK(get_seconds(optimizer, "seconds", &s->step.optimizer));
    if (s->step.seconds <= 0) YX_CHECK(refuse("seconds"));
    if (s->exposed_seconds > s->step.seconds) YX_CHECK(refuse("exposed_seconds"));
    s->step.optimizer = fmin(s->step.optimizer, s->step.seconds); // measured in a step of its own
    if (out->ranks > 1 && s->exchange_seconds <= 0) YX_CHECK(refuse("exchange_seconds"));
    if (!has_stage(config, &s->step))
        YX_FAIL(YX_ERR_MISMATCH,
                "it measured steps of %" PRId64 " sequences of %" PRId64
                " tokens, which no stage of the configuration has: run bench train with this configuration",
                s->step.batch_size, s->step.seq_len);
fail:
    return status;
}

static yx_status read_stages(const json_t *root, const yx_config *config, bench_file *out) {
    int64_t most_tokens;
    const json_t *stages = json_object_get(root, "stages");
    yx_status status = get_int(root, "micro_batch_tokens", 128, MOST_TOKENS, &most_tokens);
    if (status != YX_OK) return status;
    if (most_tokens % 128) return refuse("micro_batch_tokens");
    if (json_array_size(stages) < 1 || json_array_size(stages) > CONFIG_MAX_STAGES) return refuse("stages");
    for (size_t i = 0; status == YX_OK && i < json_array_size(stages); i++)
        status = read_stage(json_array_get(stages, i), config, most_tokens, out);
    return status;
}

static yx_status parse(const char *text, size_t size, const yx_config *config, bench_file *out) {
    yx_status status = YX_OK;
    json_error_t error;
    json_t *root = json_loadb(text, size, 0, &error);
    if (!root) YX_FAIL(YX_ERR_DATA, "line %d: not JSON: %s", error.line, error.text);
    YX_CHECK(read_head(root, config, out));
    YX_CHECK(read_stages(root, config, out));
fail:
    json_decref(root);
    return status;
}

yx_status bench_read(const char *path, const yx_config *config, bench_file *out) {
    char *text = NULL;
    size_t size;
    *out = (bench_file){0};
    yx_status status = yx_read_file(path, MOST_BYTES, &text, &size);
    if (status == YX_OK) status = yx_context(parse(text, size, config, out), "%s", path);
    free(text);
    return status;
}

// --- What follows from it
double bench_file_bus(const bench_file *f) {
    double fastest = 0;
    for (int64_t i = 0; i < f->num_stages; i++)
        fastest = fmax(fastest, ranks_measured_bus(&f->gradients, f->ranks, f->stages[i].exchange_seconds));
    return fastest;
}

ranks_step bench_file_alone(const bench_file *f, int64_t stage) {
    const bench_file_stage *s = &f->stages[stage];
    double exposed = f->ranks > 1 ? s->exposed_seconds : 0;
    return ranks_alone(&s->step, exposed, &f->gradients, bench_file_bus(f), f->ranks);
}

int64_t bench_file_find(const bench_file *f, int64_t seq_len, int64_t batch_size) {
    for (int64_t i = 0; i < f->num_stages; i++)
        if (f->stages[i].step.seq_len == seq_len && f->stages[i].step.batch_size == batch_size) return i;
    return -1;
}

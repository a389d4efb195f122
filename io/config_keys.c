#include "io/config_keys.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROOT(f) .section = SECTION_ROOT, .name = #f, .offset = offsetof(yx_config, f)
#define MODEL(f) .section = SECTION_MODEL, .name = #f, .offset = offsetof(yx_config, model.f), .identity = true
#define DATA(f) .section = SECTION_DATA, .name = #f, .offset = offsetof(yx_config, data.f)
#define TRAINING(f) .section = SECTION_TRAINING, .name = #f, .offset = offsetof(yx_config, training.f)
#define STAGE(key, f) .section = SECTION_STAGE, .name = key, .offset = offsetof(config_stage, f)
#define EVALUATION(f) .section = SECTION_EVALUATION, .name = #f, .offset = offsetof(yx_config, evaluation.f)
#define CHECKPOINT(f) .section = SECTION_CHECKPOINT, .name = #f, .offset = offsetof(yx_config, checkpoint.f)
#define LOGGING(f) .section = SECTION_LOGGING, .name = #f, .offset = offsetof(yx_config, logging.f)
#define INT(lo, hi) .type = TYPE_INT, .min = (lo), .max = (hi)
#define REAL(lo, hi) .type = TYPE_REAL, .min = (lo), .max = (hi)
#define REAL_ABOVE(lo, hi) REAL(lo, hi), .above_min = true
#define NAME(list) .type = TYPE_NAME, .names = (list)

enum { MAX_STEPS = 1000000000, MAX_COUNT = 1 << 24 };
static const double MAX_TOKENS = 1e15, MAX_SEED = 9007199254740991; // 2^53 - 1

// In the order of the enumerations in config.h.
static const char *const schedules[] = {"cosine", "linear", "wsd", "constant", NULL};
static const char *const precisions[] = {"fp32", "bf16", "fp8", NULL};
static const char *const recipes[] = {"bounded-delayed", "current", "forward-only", NULL};
static const char *const gradients[] = {"e4m3", "e5m2", NULL};
static const char *const wires[] = {"fp32", "bf16", "auto", NULL};
static const char *const scalings[] = {"none", "sqrt", NULL};
static const char *const devices[] = {"auto", "cpu", "cuda", NULL};

const char *config_precision_name(config_precision precision) { return precisions[precision]; }
const char *config_wire_name(config_wire wire) { return wires[wire]; }
const char *config_recipe_name(config_fp8_recipe recipe) { return recipes[recipe]; }

static bool has_floor(const yx_config *c) { return c->training.lr_schedule != SCHEDULE_CONSTANT; }
static bool is_wsd(const yx_config *c) { return c->training.lr_schedule == SCHEDULE_WSD; }
static bool is_sqrt(const yx_config *c) { return c->training.batch_scaling == BATCH_SCALING_SQRT; }
static bool is_fp8(const yx_config *c) { return c->training.precision == PRECISION_FP8; }
static bool has_initial(const yx_config *c) { return *c->training.initial_checkpoint != 0; }
static bool prunes(const yx_config *c) { return c->checkpoint.keep_last > 0; }
static bool rewarms(const yx_config *c) {
    for (int64_t i = 0; i < c->training.num_stages; i++)
        if (c->training.stages[i].warmup_tokens > 0) return true;
    return false;
}

const config_section_info config_sections[SECTION_COUNT] = {
    [SECTION_ROOT] = {"", "", "The file itself."},
    [SECTION_MODEL] = {"model", "model",
                       "The shape of the model: these keys, or the name of a file that holds them (beside the file "
                       "that names it)."},
    [SECTION_DATA] = {"data", "data", "What is trained on."},
    [SECTION_TRAINING] = {"training", "training", "How long and how. One of `epochs` and `total_tokens` is given."},
    [SECTION_STAGE] = {"curriculum_stages", "training.curriculum_stages",
                       "A list, one entry per stage, in the order they run."},
    [SECTION_EVALUATION] = {"evaluation", "evaluation", "Validation during training; the end of a run always has one."},
    [SECTION_CHECKPOINT] = {"checkpoint", "checkpoint",
                            "A checkpoint is also written at the end and when the run is "
                            "stopped."},
    [SECTION_LOGGING] = {"logging", "logging", "What is printed and written beside log.jsonl, which has every step."},
};

const config_key config_keys[] = {
    {ROOT(run_dir), .type = TYPE_TEXT, .meaning = "folder of the run: logs, checkpoints, the resolved configuration"},

    {MODEL(hidden_size), INT(8, 65536), .multiple = 8, .meaning = "width of the residual stream"},
    {MODEL(num_layers), INT(1, 1024), .meaning = "transformer layers"},
    {MODEL(num_attention_heads), INT(1, 1024), .meaning = "query heads; a multiple of num_key_value_heads"},
    {MODEL(num_key_value_heads), INT(1, 1024), .meaning = "key/value heads, each shared by a group of query heads"},
    {MODEL(head_dim), INT(2, 512), .multiple = 2, .meaning = "width of a head"},
    {MODEL(intermediate_size), INT(8, 1 << 20), .multiple = 8, .meaning = "width of the SwiGLU"},
    {MODEL(vocab_size), INT(2, MAX_COUNT), .meaning = "token ids the model knows; the tokenizer has as many"},
    {MODEL(embedding_rank), INT(8, 65536), .multiple = 8,
     .meaning = "r of the factorized, tied embedding E[vocab_size, r] · P[r, hidden_size]"},
    {MODEL(max_position_embeddings), INT(1, 65536), .fallback = "2048", .meaning = "longest sequence"},
    {MODEL(rope_theta), REAL_ABOVE(0, 1e12), .fallback = "10000",
     .meaning = "base of the rotary positions' wavelengths"},
    {MODEL(rms_norm_eps), REAL_ABOVE(0, 1), .fallback = "1e-5", .meaning = "added to the mean square in RMSNorm"},
    {MODEL(initializer_range), REAL_ABOVE(0, 10), .fallback = "0.02",
     .meaning = "standard deviation of the initial weights (output projections: divided by sqrt(2 · num_layers); the "
                "embedding's projection: 1 / sqrt(embedding_rank))"},

    {DATA(tokenizer), .type = TYPE_TEXT, .meaning = "tokenizer.json, or the folder that holds it"},
    {DATA(path), .type = TYPE_TEXT,
     .meaning = "folder of the prepared shards; `{tokenizer}` stands for the last folder name in data.tokenizer"},
    {DATA(document_mask), .type = TYPE_BOOL, .fallback = "true", .identity = true,
     .meaning = "attention and positions start again at each document"},
    {DATA(shuffle_window_blocks), INT(0, 1024), .fallback = "0", .identity = true,
     .meaning = "blocks of 6,144 tokens that a shuffle window holds; 0: an eighth of the shortest stage, at most 1024"},
    {DATA(prefetch), INT(2, 64), .fallback = "4",
     .meaning =
         "micro-batches the loader prepares ahead; up to four times as many, 64 at most, once the worker has waited"},
    {DATA(verify), .type = TYPE_BOOL, .fallback = "false",
     .meaning = "check every shard's digest, checksums and ids before the first step"},

    {TRAINING(epochs), REAL_ABOVE(0, 10000), .optional = true, .identity = true,
     .meaning = "passes over the training shards"},
    {TRAINING(total_tokens), REAL(1, MAX_TOKENS), .optional = true, .identity = true,
     .meaning = "training tokens, rounded to a shuffle window"},
    {TRAINING(learning_rate), REAL_ABOVE(0, 10), .identity = true, .meaning = "peak of the schedule"},
    {TRAINING(lr_schedule), NAME(schedules), .fallback = "cosine", .identity = true,
     .meaning = "how the rate falls after the warm-up: over all of the run (cosine, linear), over its last decay_ratio "
                "(wsd), or not at all"},
    {TRAINING(min_lr_ratio), REAL(0, 1), .fallback = "0.1", .identity = true, .applies = has_floor,
     .only_with = "lr_schedule: cosine, linear or wsd", .meaning = "where the schedule ends, as a share of the peak"},
    {TRAINING(warmup_ratio), REAL(0, 1), .fallback = "0.01", .identity = true,
     .meaning = "share of all tokens over which the rate rises from 0"},
    {TRAINING(decay_ratio), REAL_ABOVE(0, 1), .fallback = "0.2", .identity = true, .applies = is_wsd,
     .only_with = "lr_schedule: wsd", .meaning = "share of all tokens in the final, linear decay"},
    {TRAINING(rewarmup_start), REAL(0, 1), .fallback = "0.3", .identity = true, .applies = rewarms,
     .only_with = "warmup_tokens in a stage",
     .meaning = "share of its rate at which a stage with warmup_tokens starts"},
    {TRAINING(batch_scaling), NAME(scalings), .fallback = "none", .identity = true,
     .meaning = "sqrt: in place of lr_scale, the rate is multiplied by sqrt(tokens per step / "
                "batch_scaling_reference)"},
    {TRAINING(batch_scaling_reference), REAL(0, MAX_TOKENS), .fallback = "0", .identity = true, .applies = is_sqrt,
     .only_with = "batch_scaling: sqrt",
     .meaning = "tokens per step at which sqrt scaling gives 1; 0: the largest of the stages"},
    {TRAINING(adam_beta1), REAL(0, 0.9999999), .fallback = "0.9", .identity = true,
     .meaning = "AdamW: decay of the first moment"},
    {TRAINING(adam_beta2), REAL(0, 0.9999999), .fallback = "0.95", .identity = true,
     .meaning = "AdamW: decay of the second moment"},
    {TRAINING(adam_eps), REAL_ABOVE(0, 1), .fallback = "1e-8", .identity = true,
     .meaning = "AdamW: added to the root of the second moment"},
    {TRAINING(weight_decay), REAL(0, 10), .fallback = "0.1", .identity = true,
     .meaning = "AdamW: decoupled decay of the weight matrices"},
    {TRAINING(precision), NAME(precisions), .fallback = "bf16",
     .meaning = "format of the operands of matrix products; master weights and moments are always fp32"},
    {TRAINING(fp8_recipe), NAME(recipes), .fallback = "bounded-delayed", .applies = is_fp8,
     .only_with = "precision: fp8",
     .meaning =
         "scales of 8-bit operands. bounded-delayed: from bounds that hold (normalised activations, weights) or the "
         "largest values of the last 16 steps; current: from the tensor itself, in a "
         "second pass; forward-only: as bounded-delayed, with bf16 in the backward pass"},
    {TRAINING(fp8_gradient), NAME(gradients), .fallback = "e4m3", .applies = is_fp8, .only_with = "precision: fp8",
     .meaning =
         "format of 8-bit gradients: e4m3 reaches over 18 powers of two, e5m2 over 32 and rounds twice as coarsely"},
    {TRAINING(bf16_warmup_steps), INT(0, 1000000), .fallback = "512", .applies = is_fp8, .only_with = "precision: fp8",
     .meaning =
         "the run's first steps, which multiply in bf16: in 8 bits gradients spike there, and what a run loses to "
         "that it does not make up for"},
    {TRAINING(bf16_layers_at_start), INT(0, 4096), .fallback = "1", .applies = is_fp8, .only_with = "precision: fp8",
     .meaning = "first layers that always multiply in bf16: what they round away, all others miss"},
    {TRAINING(bf16_layers_at_end), INT(0, 4096), .fallback = "0", .applies = is_fp8, .only_with = "precision: fp8",
     .meaning = "last layers that always multiply in bf16"},
    {TRAINING(fp8_fallback), REAL(0, 1), .fallback = "0.001", .applies = is_fp8, .only_with = "precision: fp8",
     .meaning = "share of a tensor's 8-bit values clipped in one step from which on its layer multiplies in bf16; 0: "
                "never"},
    {TRAINING(fp8_fallback_steps), INT(0, 1000000), .fallback = "256", .applies = is_fp8, .only_with = "precision: fp8",
     .meaning = "steps that such a layer spends in bf16 the first time; each further time twice as many; 0: all that "
                "follow"},
    {TRAINING(spike_sigma), REAL(0, 1000), .fallback = "0",
     .meaning =
         "a step whose loss or gradient norm is this many standard deviations above the mean of its stage's last "
         "128 whole steps (32 at least) changes nothing; 0: none is left out"},
    {TRAINING(recompute), .type = TYPE_BOOL, .fallback = "false",
     .meaning = "keep only each layer's input and compute the rest again in the backward pass: less memory, about a "
                "third more time"},
    {TRAINING(device), NAME(devices), .fallback = "auto", .meaning = "where to compute; auto: cuda if there is one"},
    {TRAINING(micro_batch_tokens), INT(0, MAX_COUNT), .multiple = 128, .fallback = "0",
     .meaning = "most tokens of a micro-batch on a rank; 0: what the memory allows"},
    {TRAINING(deterministic), .type = TYPE_BOOL, .fallback = "true",
     .meaning = "the same bits from the same configuration, number of ranks and device; false buys speed where a "
                "backend has a faster, unordered way (the CPU has none)"},
    {TRAINING(shard_optimizer), .type = TYPE_BOOL, .fallback = "false",
     .meaning = "several ranks: each keeps the moments of its part of the parameters and updates those (ZeRO stage 1): "
                "less memory, the same bits"},
    {TRAINING(gradient_wire), NAME(wires), .fallback = "fp32",
     .meaning =
         "several ranks: format in which gradients are sent and summed; bf16: half of the traffic, rounded sums; "
         "auto: bf16 from the ninth step of a stage in which a tenth of the time is exchange that nothing hides"},
    {TRAINING(gradient_bucket_mb), INT(0, 4096), .fallback = "0",
     .meaning = "several ranks: MB of gradients that are summed at a time, while the backward pass goes on; 0: 32, or "
                "with deterministic: false what suits the link"},
    {TRAINING(seed), INT(0, MAX_SEED), .fallback = "1", .identity = true,
     .meaning = "of the initial weights and the order of the data"},
    {TRAINING(initial_checkpoint), .type = TYPE_TEXT, .optional = true, .identity = true,
     .meaning =
         "another run's folder (its newest checkpoint) or one of its checkpoints: the run begins with its weights "
         "in place of random ones; the same shape and tokenizer, but data, schedule and precision of its own"},
    {TRAINING(initial_moments), .type = TYPE_BOOL, .fallback = "false", .identity = true, .applies = has_initial,
     .only_with = "initial_checkpoint",
     .meaning = "begin with that checkpoint's AdamW moments and its number of updates, too"},

    {STAGE("seq_len", seq_len), INT(1, 6144), .identity = true,
     .meaning = "length of the sequences; divides 6144, at most max_position_embeddings"},
    {STAGE("batch_size", batch_size), INT(1, MAX_COUNT), .identity = true,
     .meaning = "sequences per optimizer step, of all ranks together"},
    {STAGE("fraction", share), REAL_ABOVE(0, 1), .identity = true,
     .meaning = "share of all training tokens; the stages' fractions add up to 1"},
    {STAGE("lr_scale", lr_scale), REAL_ABOVE(0, 100), .optional = true, .absent = NAN, .identity = true,
     .meaning = "factor on the learning rate (1 when absent); not together with batch_scaling: sqrt"},
    {STAGE("grad_clip", grad_clip), REAL(0, 1e6), .fallback = "1", .identity = true,
     .meaning = "limit of the gradient's global norm; 0: none"},
    {STAGE("warmup_tokens", warmup_tokens), REAL(0, MAX_TOKENS), .fallback = "0", .identity = true,
     .meaning = "tokens over which the stage's rate rises from rewarmup_start of it to all of it; 0: at once"},
    {STAGE("description", description), .type = TYPE_TEXT, .fallback = "", .meaning = "for the plan and the banner"},

    {EVALUATION(interval_steps), INT(0, MAX_STEPS), .fallback = "500",
     .meaning = "validate every N optimizer steps; 0: not between stages"},
    {EVALUATION(at_stage_end), .type = TYPE_BOOL, .fallback = "true", .meaning = "validate when a stage ends"},
    {EVALUATION(seq_len), INT(0, 65536), .fallback = "0", .meaning = "window length; 0: the longest stage's seq_len"},
    {EVALUATION(max_tokens), INT(0, MAX_TOKENS), .fallback = "0",
     .meaning = "validation tokens of one evaluation; 0: all there are"},

    {CHECKPOINT(interval_steps), INT(0, MAX_STEPS), .fallback = "1000",
     .meaning = "write one every N optimizer steps; 0: not in between"},
    {CHECKPOINT(at_stage_end), .type = TYPE_BOOL, .fallback = "true", .meaning = "write one when a stage ends"},
    {CHECKPOINT(keep_last), INT(0, 1000000), .fallback = "3", .meaning = "delete all but the last N; 0: keep all"},
    {CHECKPOINT(keep_every), INT(0, MAX_STEPS), .fallback = "0", .applies = prunes, .only_with = "keep_last above 0",
     .meaning = "never delete those at steps divisible by N; 0: none"},

    {LOGGING(interval_steps), INT(1, MAX_STEPS), .fallback = "10",
     .meaning = "a progress line every N steps when standard error is not a terminal"},
    {LOGGING(tensorboard), .type = TYPE_BOOL, .fallback = "true",
     .meaning = "write TensorBoard's event files in the run folder's tensorboard/"},
    {LOGGING(report), .type = TYPE_BOOL, .fallback = "true",
     .meaning = "write the run folder's report.html at the start, at each checkpoint and at the end"},
};
const int config_num_keys = sizeof config_keys / sizeof *config_keys;

// --- Looking up -----------------------------------------------------------------------------------------------------
const config_key *config_key_find(config_section section, const char *name) {
    for (int i = 0; i < config_num_keys; i++)
        if (config_keys[i].section == section && strcmp(config_keys[i].name, name) == 0) return &config_keys[i];
    return NULL;
}

static config_section parent_of(config_section section) {
    return section == SECTION_STAGE ? SECTION_TRAINING : SECTION_ROOT;
}

config_section config_section_find(config_section parent, const char *name) {
    for (int s = SECTION_ROOT + 1; s < SECTION_COUNT; s++)
        if (parent_of((config_section)s) == parent && strcmp(config_sections[s].name, name) == 0)
            return (config_section)s;
    return SECTION_COUNT;
}

static int least(int a, int b, int c) {
    int d = a < b ? a : b;
    return d < c ? d : c;
}

// Levenshtein's distance; texts beyond the row's length are as far as can be.
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 63 };
    int row[LONGEST + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST) return LONGEST;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int above = row[j];
            row[j] = least(row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[m];
}

// Names in other groups must match better: what stands in the right group is likelier meant. The first word of a name
// is as good as a name with one mistake.
static int how_far(config_section wanted, config_section found, const char *name, const char *candidate) {
    size_t n = strlen(name);
    bool first_word = n >= 3 && strncmp(name, candidate, n) == 0 && candidate[n] == '_';
    return (first_word ? 2 : 2 * edit_distance(name, candidate)) + (wanted != found);
}

static void join(char *out, size_t size, const char *path, const char *name) {
    snprintf(out, size, "%s%s%s", path, *path ? "." : "", name);
}

const char *config_key_nearest(config_section section, const char *name, char *out, size_t size) {
    int best = (int)strlen(name) + 1; // about half of the letters right
    out[0] = 0;
    for (int i = 0; i < config_num_keys; i++) {
        const config_key *key = &config_keys[i];
        int distance = how_far(section, key->section, name, key->name);
        if (distance >= best) continue;
        best = distance;
        if (key->section == SECTION_STAGE) config_key_path(key, -1, out, size);
        else join(out, size, config_sections[key->section].path, key->name);
    }
    for (int s = SECTION_ROOT + 1; s < SECTION_COUNT; s++) {
        int distance = how_far(section, parent_of((config_section)s), name, config_sections[s].name);
        if (distance >= best) continue;
        best = distance;
        snprintf(out, size, "%s", config_sections[s].path);
    }
    return out[0] ? out : NULL;
}

void config_known_names(config_section section, char *out, size_t size) {
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < config_num_keys && n < size; i++)
        if (config_keys[i].section == section) n += (size_t)snprintf(out + n, size - n, " %s", config_keys[i].name);
    for (int s = SECTION_ROOT + 1; s < SECTION_COUNT && n < size; s++)
        if (parent_of((config_section)s) == section)
            n += (size_t)snprintf(out + n, size - n, " %s", config_sections[s].name);
}

void config_key_path(const config_key *key, int64_t index, char *out, size_t size) {
    const char *path = config_sections[key->section].path;
    if (key->section != SECTION_STAGE) join(out, size, path, key->name);
    else if (index < 0) snprintf(out, size, "%s[].%s", path, key->name);
    else snprintf(out, size, "%s.%" PRId64 ".%s", path, index, key->name);
}

// --- Values ---------------------------------------------------------------------------------------------------------
void *config_key_at(const config_key *key, void *base) { return (char *)base + key->offset; }

void config_format_real(double value, char *out, size_t size) {
    if (value == floor(value) && value <= MAX_TOKENS) {
        snprintf(out, size, "%.0f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, value);
        if (strtod(out, NULL) == value) return;
    }
}

// In double quotes. Control characters do not get into a configuration.
static void format_text(const char *text, char *out, size_t size) {
    size_t n = 0;
    out[n++] = '"';
    for (; *text && n + 3 < size; text++) {
        if (*text == '"' || *text == '\\') out[n++] = '\\';
        out[n++] = *text;
    }
    out[n++] = '"';
    out[n] = 0;
}

bool config_key_format(const config_key *key, const void *base, char *out, size_t size) {
    const void *at = (const char *)base + key->offset;
    double real;
    switch (key->type) {
    case TYPE_INT:
        snprintf(out, size, "%" PRId64, *(const int64_t *)at);
        break;
    case TYPE_BOOL:
        snprintf(out, size, "%s", *(const bool *)at ? "true" : "false");
        break;
    case TYPE_NAME:
        snprintf(out, size, "%s", key->names[*(const unsigned *)at]);
        break;
    case TYPE_TEXT:
        if (key->optional && !*(const char *)at) return false;
        format_text(at, out, size);
        break;
    case TYPE_REAL:
        real = *(const double *)at;
        if (key->optional && (isnan(real) || real == key->absent)) return false;
        config_format_real(real, out, size);
    }
    return true;
}

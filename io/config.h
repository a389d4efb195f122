// The configuration of a run: YAML files (libyaml) and --set overrides, checked where they enter. docs/configuration.md
// is generated from the same table that reads the keys.
#pragma once
#include "common/status.h"
#include <stdint.h>
#include <stdio.h>

enum { CONFIG_MAX_STAGES = 64, CONFIG_MAX_TEXT = 512 };

typedef enum config_schedule { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_WSD, SCHEDULE_CONSTANT } config_schedule;
typedef enum config_precision { PRECISION_FP32, PRECISION_BF16, PRECISION_FP8 } config_precision;
typedef enum config_wire { WIRE_FP32, WIRE_BF16, WIRE_AUTO } config_wire;
// Where the scales of 8-bit operands come from; FORWARD_ONLY: 8 bits in the forward products alone.
typedef enum config_fp8_recipe { FP8_BOUNDED_DELAYED, FP8_CURRENT, FP8_FORWARD_ONLY } config_fp8_recipe;
typedef enum config_fp8_gradient { FP8_GRADIENT_E4M3, FP8_GRADIENT_E5M2 } config_fp8_gradient;
typedef enum config_batch_scaling { BATCH_SCALING_NONE, BATCH_SCALING_SQRT } config_batch_scaling;
typedef enum config_device { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } config_device;

// `model:` inline, or the name of a file that holds these keys (relative to the file that names it).
typedef struct config_model {
    int64_t hidden_size, num_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size;
    int64_t vocab_size;     // ids the model knows; must equal the tokenizer's
    int64_t embedding_rank; // r of the factorized embedding E[vocab_size, r] · P[r, hidden_size]
    int64_t max_position_embeddings;
    double rope_theta, rms_norm_eps, initializer_range;
} config_model;

// `data:`
typedef struct config_data {
    char tokenizer[CONFIG_MAX_TEXT]; // folder or tokenizer.json
    char path[CONFIG_MAX_TEXT];      // prepared shards; "{tokenizer}" (the tokenizer's folder name) is already replaced
    bool document_mask;              // attention and positions start again at each document
    int64_t shuffle_window_blocks;   // blocks of 6,144 tokens a shuffle window holds; 0 = by the corpus's size
    int64_t prefetch;                // micro-batches the loader prepares ahead at first
    bool verify;                     // check every shard's block checksums at start
} config_data;

typedef struct config_stage {
    int64_t seq_len, batch_size; // batch_size: global sequences per optimizer step
    double share;                // `fraction` of all training tokens (the stages' fractions add up to 1)
    double lr_scale;             // NaN when the key is absent
    double grad_clip;            // global-norm limit; 0 = no clipping
    double warmup_tokens;        // re-warm-up after the transition into this stage: tokens over which lr grows from
                                 // rewarmup_start of its value to all of it
    char description[CONFIG_MAX_TEXT];
} config_stage;

// `training:`
typedef struct config_training {
    double epochs;        // passes over the training shards; or
    double total_tokens;  // that many tokens (one of the two is given, the other is 0)
    double learning_rate; // peak
    config_schedule lr_schedule;
    double min_lr_ratio; // floor of cosine and of the decay, as a fraction of the peak
    double warmup_ratio; // share of all tokens with linear warm-up from 0
    double decay_ratio;  // share of all tokens in WSD's final linear decay
    double rewarmup_start;
    config_batch_scaling batch_scaling;
    double batch_scaling_reference; // tokens per step at which sqrt scaling gives 1; 0: the largest of the stages
    double adam_beta1, adam_beta2, adam_eps, weight_decay;
    config_precision precision;
    config_fp8_recipe fp8_recipe;
    config_fp8_gradient fp8_gradient;
    int64_t bf16_warmup_steps;                        // of an fp8 run: its first steps, which multiply in bf16
    int64_t bf16_layers_at_start, bf16_layers_at_end; // of an fp8 model: layers that multiply in bf16
    bool shard_optimizer;       // each rank keeps and updates a part of the moments (ZeRO stage 1)
    config_wire gradient_wire;  // what the ranks send of gradients
    int64_t gradient_bucket_mb; // MB of gradients that are summed over the ranks at a time; 0: by the link
    double fp8_fallback; // clipped share of a tensor's values in a step from which its layer goes to bf16; 0: never
    int64_t fp8_fallback_steps; // how long a layer's first spell in bf16 is; 0: for good
    double spike_sigma;         // a step this many standard deviations above the usual changes nothing; 0: off
    config_device device;
    int64_t micro_batch_tokens; // most tokens of a micro-batch on a rank; 0 = by the memory there is
    bool recompute;             // activations of a layer are computed again in the backward pass
    bool deterministic;
    int64_t seed;
    char initial_checkpoint[CONFIG_MAX_TEXT]; // whose weights the run begins with; empty: random ones
    bool initial_moments;                     // and with its moments
    config_stage stages[CONFIG_MAX_STAGES];   // `curriculum_stages:`
    int64_t num_stages;
} config_training;

// `evaluation:`
typedef struct config_evaluation {
    int64_t interval_steps; // validate every N optimizer steps; 0 = not between stages
    bool at_stage_end;
    int64_t seq_len;    // window length; 0 = the longest stage's
    int64_t max_tokens; // validation tokens of one evaluation; 0 = all
} config_evaluation;

// `checkpoint:`
typedef struct config_checkpoint {
    int64_t interval_steps; // 0 = only at the end and when stopped
    int64_t keep_last;      // older ones are deleted; 0 = keep all
    int64_t keep_every;     // steps divisible by this are never deleted; 0 = none
    bool at_stage_end;
} config_checkpoint;

// `logging:`
typedef struct config_logging {
    int64_t interval_steps; // a progress line every N steps when standard error is not a terminal (log.jsonl has every
                            // step)
    bool tensorboard;       // event files in RUN/tensorboard/
    bool report;            // RUN/report.html
} config_logging;

typedef struct yx_config {
    config_model model;
    config_data data;
    config_training training;
    config_evaluation evaluation;
    config_checkpoint checkpoint;
    config_logging logging;
    char run_dir[CONFIG_MAX_TEXT]; // `run_dir:` where logs and checkpoints go
} yx_config;

// Reads `path`, then applies `overrides` ("training.learning_rate=3e-4", list elements as
// "training.curriculum_stages.0.seq_len=8" or, all of them, "training.curriculum_stages.*.seq_len=8"; the value null
// makes a key absent), then checks every value and the relations between them. Failures are YX_ERR_CONFIG with file,
// line and column (or the override), and for an unknown key the nearest known one. Keys that have no effect beside the
// others get a warning and their default. All bytes of `out` are set: equal configurations compare equal with memcmp.
yx_status config_load(const char *path, const char *const *overrides, int n_overrides, yx_config *out);
// The same from text in memory; `name` is used in messages, `folder` resolves the file names in it.
yx_status config_load_text(const char *text, size_t size, const char *name, const char *folder,
                           const char *const *overrides, int n_overrides, yx_config *out);
// Writes all keys with their values as YAML that config_load reads back to the same configuration (the resolved
// configuration of a run directory). `*out` to free().
yx_status config_to_yaml(const yx_config *config, char **out);
// As the keys' values are written: "fp8", "bf16".
const char *config_precision_name(config_precision precision);
const char *config_wire_name(config_wire wire);
const char *config_recipe_name(config_fp8_recipe recipe);
// SHA-256 over the keys that a resumed run may not change (model, data order, schedule); hex digits, 65 bytes.
yx_status config_identity(const yx_config *config, char hex[65]);
// The first of those keys that two configurations have differently: "training.learning_rate is 1e-3, not 6e-4" (`a` has
// the first value). Empty when none does.
void config_difference(const yx_config *a, const yx_config *b, char *out, size_t size);
// Writes docs/configuration.md's table of keys: name, type, default, range, meaning.
yx_status config_write_reference(FILE *out);

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/file.h"
#include "common/log.h"
#include "io/config.h"
#include "io/config_keys.h"
#include "io/config_node.h"

static const char base[] = "run_dir: runs/x\n"                                                   // line 1
                           "model:\n"                                                            // 2
                           "  hidden_size: 64\n"                                                 // 3
                           "  num_layers: 2\n"                                                   // 4
                           "  num_attention_heads: 4\n"                                          // 5
                           "  num_key_value_heads: 2\n"                                          // 6
                           "  head_dim: 16\n"                                                    // 7
                           "  intermediate_size: 128\n"                                          // 8
                           "  vocab_size: 1000\n"                                                // 9
                           "  embedding_rank: 32\n"                                              // 10
                           "  max_position_embeddings: 64\n"                                     // 11
                           "data:\n"                                                             // 12
                           "  tokenizer: tokenizers/t80k\n"                                      // 13
                           "  path: data/{tokenizer}/shards\n"                                   // 14
                           "training:\n"                                                         // 15
                           "  total_tokens: 1e6\n"                                               // 16
                           "  learning_rate: 6e-4\n"                                             // 17
                           "  curriculum_stages:\n"                                              // 18
                           "    - seq_len: 8\n"                                                  // 19
                           "      batch_size: 16\n"                                              // 20
                           "      fraction: 0.25\n"                                              // 21
                           "      description: 'a \"b\" \\ c'\n"                                 // 22
                           "    - {seq_len: 64, batch_size: 4, fraction: 0.75, grad_clip: 0}\n"; // 23

static yx_config config, other; // too large for comfort on the stack

static yx_status load(const char *text, const char *const *sets, int n) {
    return config_load_text(text, strlen(text), "run.yaml", "/nonexistent", sets, n, &config);
}

static void assert_in_message(const char *text) {
    if (!strstr(yx_message(), text)) fail_msg("'%s' is not in the message: %s", text, yx_message());
}

// `base` with the first `from` replaced; to free().
static char *edited(const char *from, const char *to) {
    char *at = strstr(base, from), *out;
    assert_non_null(at);
    assert_int_equal(yx_format(&out, "%.*s%s%s", (int)(at - base), base, to, at + strlen(from)), YX_OK);
    return out;
}

static void reads_values(void **state) {
    (void)state;
    assert_int_equal(load(base, NULL, 0), YX_OK);
    assert_int_equal(config.model.hidden_size, 64);
    assert_true(config.model.rope_theta == 10000 && config.model.rms_norm_eps == 1e-5);
    assert_true(config.training.learning_rate == 6e-4 && config.training.total_tokens == 1e6);
    assert_true(config.training.epochs == 0);
    assert_string_equal(config.data.path, "data/t80k/shards");
    assert_string_equal(config.run_dir, "runs/x");
    assert_int_equal(config.training.num_stages, 2);
    assert_string_equal(config.training.stages[0].description, "a \"b\" \\ c");
    assert_true(isnan(config.training.stages[0].lr_scale) && config.training.stages[0].grad_clip == 1);
    assert_true(config.training.stages[1].share == 0.75 && config.training.stages[1].grad_clip == 0);
    assert_int_equal(config.training.precision, PRECISION_BF16);
    assert_true(config.training.deterministic && config.data.document_mask && !config.data.verify);
}

// --- Mistakes -------------------------------------------------------------------------------------------------------
typedef struct mistake {
    const char *from, *to, *messages[3];
} mistake;

static const mistake mistakes[] = {
    // names
    {"learning_rate", "learning_rat", {"run.yaml:17:3", "unknown key 'learning_rat'", "training.learning_rate"}},
    {"training:", "trainin:", {"run.yaml:15:1", "unknown key 'trainin'", "did you mean 'training'"}},
    {"batch_size", "bach_size", {"run.yaml:20:7", "did you mean 'training.curriculum_stages[].batch_size'"}},
    {"learning_rate: 6e-4", "seq_len: 8", {"run.yaml:17:3", "'training.curriculum_stages[].seq_len'", "indentation"}},
    {"learning_rate: 6e-4", "xyzzy_plugh_q: 8", {"run.yaml:17:3", "known are:", "learning_rate"}},
    {"run_dir", "\"r\\e[2J\"", {"run.yaml:1:1", "unknown key 'r?[2J'"}},
    {"  learning_rate: 6e-4\n", "", {"run.yaml:15:1", "training.learning_rate is missing", "a number"}},
    {"run_dir: runs/x", "run_dir: null", {"run_dir is missing"}},
    {"fraction: 0.25", "grad_clip: 1", {"run.yaml:19:7", "curriculum_stages.0.fraction is missing"}},
    {"  hidden_size: 64\n", "  num_layers: 3\n", {"run.yaml:4:3", "'num_layers' is given twice", "line 3"}},
    {"data:\n", "model:\n", {"run.yaml:12:1", "'model' is given twice"}},
    {"data:\n", "  data:\n", {"run.yaml:12:3", "unknown key 'data' in model; there is 'data': check the indentation"}},
    // types
    {"hidden_size: 64", "hidden_size: wide", {"run.yaml:3:3", "model.hidden_size is 'wide'", "a whole number"}},
    {"hidden_size: 64", "hidden_size: 64.5", {"run.yaml:3:3", "whole number"}},
    {"hidden_size: 64", "hidden_size: '64'", {"run.yaml:3:3", "remove the quotes"}},
    {"hidden_size: 64", "hidden_size: 0100", {"run.yaml:3:3", "'0100'"}},
    {"hidden_size: 64", "hidden_size: 0x40", {"run.yaml:3:3", "'0x40'"}},
    {"hidden_size: 64", "hidden_size: [64]", {"run.yaml:3:3", "is a list"}},
    {"hidden_size: 64", "hidden_size: {a: 64}", {"run.yaml:3:3", "is a group of keys"}},
    {"hidden_size: 64", "hidden_size:", {"run.yaml:3:3", "has no value"}},
    {"6e-4", "6e", {"run.yaml:17:3", "training.learning_rate is '6e'", "a number"}},
    {"6e-4", ".nan", {"run.yaml:17:3", "'.nan'"}},
    {"6e-4", "1_000", {"run.yaml:17:3", "'1_000'"}},
    {"6e-4", "1\n  deterministic: yes", {"run.yaml:18:3", "true or false"}},
    {"6e-4", "1\n  deterministic: 'true'", {"run.yaml:18:3", "remove the quotes"}},
    {"6e-4", "1\n  precision: fp16", {"run.yaml:18:3", "'fp16'", "fp32, bf16, fp8"}},
    {"    - seq_len: 8", "    - 8\n    - seq_len: 8", {"run.yaml:19:7", "curriculum_stages.0 must be a group"}},
    {"data:\n", "data: 3\nlogging:\n", {"run.yaml:12:1", "data must be a group", "'3'"}},
    {"data:\n", "logging: [3]\ndata:\n", {"run.yaml:12:1", "logging must be a group"}},
    // ranges
    {"6e-4", "0", {"run.yaml:17:3", "is 0; it must be above 0"}},
    {"6e-4", "-1", {"run.yaml:17:3", "is -1; it must be above 0"}},
    {"6e-4", "1e999", {"run.yaml:17:3", "at most 10"}},
    {"hidden_size: 64", "hidden_size: 4", {"run.yaml:3:3", "at least 8"}},
    {"hidden_size: 64", "hidden_size: 60", {"run.yaml:3:3", "multiple of 8", "64"}},
    {"hidden_size: 64", "hidden_size: 99999999999999999999", {"run.yaml:3:3", "at most 65536"}},
    {"head_dim: 16", "head_dim: 15", {"run.yaml:7:3", "multiple of 2"}},
    {"runs/x", "''", {"run.yaml:1:1", "run_dir is empty"}},
    {"runs/x", "\"a\\tb\"", {"run.yaml:1:1", "control character"}},
    {"runs/x", "\"a\\u2028b\"", {"run.yaml:1:1", "control character"}},
    {"runs/x", "\"a\\x85b\"", {"run.yaml:1:1", "control character"}},
    {"runs/x", "\"a\\0b\"", {"run.yaml:1:", "NUL"}},
    // relations
    {"num_key_value_heads: 2", "num_key_value_heads: 3", {"run.yaml:6:3", "num_attention_heads (4)", "multiple"}},
    {"- seq_len: 8", "- seq_len: 50", {"run.yaml:19:7", "does not divide a block of 6144", "take 48 or 64"}},
    {"seq_len: 64",
     "seq_len: 96",
     {"run.yaml:23:8", "curriculum_stages.1.seq_len is 96", "max_position_embeddings (64)"}},
    {"0.25", "0.3", {"run.yaml:18:3", "add up to 1.05"}},
    {"0.25", "0.2501", {"run.yaml:18:3", "add up to 1.0001"}},
    {"total_tokens: 1e6", "seed: 3", {"run.yaml:15:1", "one of training.epochs and training.total_tokens"}},
    {"total_tokens: 1e6", "total_tokens: 1e6\n  epochs: 3", {"run.yaml:16:3", "both given", "training.epochs=null"}},
    {"6e-4", "1\n  batch_scaling: sqrt\n  seed: 1", {NULL}}, // fine: no lr_scale
    {"fraction: 0.25", "fraction: 0.25\n      lr_scale: 1", {NULL}},
    {"6e-4", "1\n  lr_schedule: wsd\n  decay_ratio: 0.8\n  warmup_ratio: 0.3", {"run.yaml:19:3", "is 1.1"}},
    {"6e-4", "1\n  micro_batch_tokens: 128", {NULL}},
    {"data:\n", "evaluation: {seq_len: 65}\ndata:\n", {"run.yaml:12:14", "evaluation.seq_len is 65", "(64)"}},
    {"6e-4", "1\n  precision: fp8", {NULL}},
    {"{tokenizer}", "{tok}", {"run.yaml:14:3", "brace"}},
    {"{tokenizer}/", "{tokenizer}/{tokenizer}", {"run.yaml:14:3", "once"}},
    {"tokenizers/t80k", "./", {"run.yaml:13:3", "names no folder"}},
    {"tokenizers/t80k", "'a{b}'", {"run.yaml:13:3", "brace"}},
    // YAML
    {"6e-4", "&a 6e-4", {"run.yaml:17:18", "anchors"}},
    {"6e-4", "*a", {"run.yaml:17:18", "anchors"}},
    {"data:\n", "data: !!map\n", {"run.yaml:12:7", "tags"}},
    {"6e-4", "!!float 6e-4", {"run.yaml:17:18", "tags"}},
    {"model:\n", "model: &m\n", {"run.yaml:2:8", "anchors"}},
    {"6e-4", "\"6e", {"not valid YAML", "run.yaml:"}},
    {"data:\n", "data: [\n", {"not valid YAML", "run.yaml:14:7"}},
    {"data:\n", " data:\n", {"not valid YAML", "run.yaml:12"}},
    {"data:\n", "? [a]\n: 1\ndata:\n", {"run.yaml:12:3", "a key must be a word"}},
    {"data:\n", "[[[[[[[[[[[1]]]]]]]]]]]: 1\ndata:\n", {"run.yaml:12:1", "a key must be a word"}},
    {"data:\n", "logging: [[[[[[[[[[[1]]]]]]]]]]]\ndata:\n", {"run.yaml:12:18", "nested more than"}},
    {"run_dir", "--- {}\n---\nrun_dir", {"run.yaml:2:1", "second document"}},
    {"runs/x", "\xff", {"run.yaml:", "not text in UTF-8"}},
    {"  curriculum_stages:\n", "  curriculum_stages: 8\nlogging:\n", {"run.yaml:18:3", "must be a list of 1 to 64"}},
    {"model:\n", "model: small.yaml\nx:\n", {"run.yaml:2:1", "the model's file", "/nonexistent/small.yaml"}},
};

static void reports_mistakes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        const mistake *m = &mistakes[i];
        char *text = edited(m->from, m->to);
        yx_status status = load(text, NULL, 0);
        free(text);
        if (status != (m->messages[0] ? YX_ERR_CONFIG : YX_OK))
            fail_msg("'%s' for '%s': %s", m->to, m->from, status ? yx_message() : "accepted");
        for (int j = 0; j < 3 && m->messages[j]; j++) assert_in_message(m->messages[j]);
    }
}

static void reports_mistakes_that_need_two_changes(void **state) {
    (void)state;
    const char *both[] = {"training.batch_scaling=sqrt", "training.curriculum_stages.1.lr_scale=1"};
    assert_int_equal(load(base, both, 2), YX_ERR_CONFIG);
    assert_in_message("--set training.curriculum_stages.1.lr_scale=1");
    assert_in_message("training.batch_scaling: sqrt both scale");
    const char *micro[] = {"training.micro_batch_tokens=128", "model.max_position_embeddings=256",
                           "training.curriculum_stages.1.seq_len=256"};
    assert_int_equal(load(base, micro, 3), YX_ERR_CONFIG);
    assert_in_message("a micro-batch must hold the longest sequence, 256");
    const char *fp8[] = {"training.precision=fp8", "model.embedding_rank=40"};
    assert_int_equal(load(base, fp8, 2), YX_ERR_CONFIG);
    assert_in_message("width 40; precision fp8 needs multiples of 16");
    const char *none[] = {"training.precision=fp8", "training.bf16_layers_at_start=1",
                          "training.bf16_layers_at_end=4000"};
    assert_int_equal(load(base, none, 3), YX_ERR_CONFIG);
    assert_in_message("in 8 bits; lower them, or say precision: bf16");
}

static void refuses_what_is_no_configuration(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {{"", "empty"}, {"# nothing\n", "empty"}, {"8", "key: value"}, {"- 8", "key: value"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(load(cases[i].text, NULL, 0), YX_ERR_CONFIG);
        assert_in_message(cases[i].message);
    }
    size_t size = CONFIG_MAX_FILE + 1;
    char *large = malloc(size);
    assert_non_null(large);
    memset(large, '#', size);
    assert_int_equal(config_load_text(large, size, "run.yaml", ".", NULL, 0, &config), YX_ERR_CONFIG);
    assert_in_message("at most");
    for (size_t i = 0; i + 2 < size; i += 2) memcpy(large + i, i ? "1," : "[1", 2);
    assert_int_equal(config_load_text(large, size - 1, "run.yaml", ".", NULL, 0, &config), YX_ERR_CONFIG);
    assert_in_message("more than 20000 values");
    free(large);
}

static void stages_are_limited(void **state) {
    (void)state;
    char text[8192];
    size_t n = (size_t)(strstr(base, "    - seq_len") - base);
    for (int count = 0; count <= CONFIG_MAX_STAGES + 1; count++) {
        int at = snprintf(text, sizeof text, "%.*s", (int)n, base);
        if (count == 0) at += snprintf(text + at, sizeof text - (size_t)at, "    []\n");
        for (int i = 0; i < count; i++)
            at += snprintf(text + at, sizeof text - (size_t)at, "    - {seq_len: 8, batch_size: 1, fraction: %.17g}\n",
                           1.0 / count);
        yx_status expected = count >= 1 && count <= CONFIG_MAX_STAGES ? YX_OK : YX_ERR_CONFIG;
        assert_int_equal(load(text, NULL, 0), expected);
        if (expected) assert_in_message("a list of 1 to 64 stages");
    }
}

// --- --set ----------------------------------------------------------------------------------------------------------
static void sets_values(void **state) {
    (void)state;
    const char *sets[] = {"training.learning_rate=3e-4",
                          "training.curriculum_stages.1.batch_size=7",
                          "training.curriculum_stages.*.lr_scale=0.5",
                          "training.curriculum_stages.0.lr_scale=null",
                          "evaluation.at_stage_end=false",
                          "model.num_layers=9",
                          "run_dir=a=b # c",
                          "training.total_tokens=null",
                          "training.epochs=2.5",
                          "training.learning_rate=4e-4"};
    assert_int_equal(load(base, sets, 10), YX_OK);
    assert_true(config.training.learning_rate == 4e-4);
    assert_int_equal(config.training.stages[1].batch_size, 7);
    assert_true(isnan(config.training.stages[0].lr_scale) && config.training.stages[1].lr_scale == 0.5);
    assert_false(config.evaluation.at_stage_end);
    assert_int_equal(config.model.num_layers, 9);
    assert_string_equal(config.run_dir, "a=b # c");
    assert_true(config.training.epochs == 2.5 && config.training.total_tokens == 0);
}

static void set_mistakes_name_the_option(void **state) {
    (void)state;
    static const struct {
        const char *set, *message;
    } cases[] = {
        {"training.learning_rate", "expected KEY=VALUE"},
        {"=3", "expected KEY=VALUE"},
        {"training..seed=3", "a name is missing"},
        {"a.b.c.d.e.f.g=3", "more than 6 parts"},
        {"training.epoch=3", "did you mean 'training.epochs'"},
        {"trainin.epochs=3", "did you mean 'training'"},
        {"training.seed=-1", "training.seed is -1"},
        {"training.seed=x", "training.seed is 'x'"},
        {"training.seed=", "has no value"},
        {"training.seed.x=3", "'seed' is a single value"},
        {"training=3", "training must be a group"},
        {"training.curriculum_stages.2.seq_len=8", "2 elements, named 0 … 1"},
        {"training.curriculum_stages.-1.seq_len=8", "'-1' is none of them"},
        {"training.curriculum_stages.first.seq_len=8", "'first' is none of them"},
        {"training.curriculum_stages.0=8", "must be a group of keys"},
        {"training.curriculum_stages=8", "must be a list"},
        {"training.curriculum_stages.1.seq_len=100", "take 96 or 128"},
        {"run_dir=\xff", "not UTF-8"},
        {"model=missing.yaml", "cannot open missing.yaml"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *set[] = {"training.seed=1", cases[i].set};
        assert_int_equal(load(base, set, 2), YX_ERR_CONFIG);
        assert_in_message(cases[i].message);
        assert_in_message("--set ");
        if (!strchr(cases[i].set, '\xff')) assert_in_message(cases[i].set);
    }
}

static void set_makes_groups(void **state) {
    (void)state;
    const char *sets[] = {"logging.interval_steps=7", "model=null", "model.hidden_size=64"};
    assert_int_equal(load(base, sets, 1), YX_OK);
    assert_int_equal(config.logging.interval_steps, 7);
    assert_int_equal(load(base, sets, 3), YX_ERR_CONFIG);
    assert_in_message("model.num_layers is missing");
}

// --- Files ----------------------------------------------------------------------------------------------------------
typedef struct files {
    char folder[64], *run, *model;
} files;

static void put(const char *path, const char *text) {
    assert_int_equal(yx_write_file_atomic(path, text, strlen(text)), YX_OK);
}

static int make_files(void **state) {
    static files f;
    strcpy(f.folder, "/tmp/yx-config-XXXXXX");
    if (!mkdtemp(f.folder)) return -1;
    if (yx_format(&f.run, "%s/run.yaml", f.folder) || yx_format(&f.model, "%s/small.yaml", f.folder)) return -1;
    char *rest = strstr(base, "data:\n"), *text;
    if (yx_format(&text, "run_dir: r\nmodel: small.yaml\n%s", rest)) return -1;
    put(f.run, text);
    free(text);
    put(f.model, "hidden_size: 64\nnum_layers: 2\nnum_attention_heads: 4\nnum_key_value_heads: 2\nhead_dim: 16\n"
                 "intermediate_size: 128\nvocab_size: 1000\nembedding_rank: 32\nmax_position_embeddings: 64\n");
    *state = &f;
    return 0;
}

static int remove_files(void **state) {
    files *f = *state;
    yx_remove_tree(f->folder);
    free(f->run);
    free(f->model);
    return 0;
}

static void reads_the_models_file(void **state) {
    const files *f = *state;
    const char *layers[] = {"model.num_layers=5"};
    assert_int_equal(config_load(f->run, NULL, 0, &config), YX_OK);
    assert_int_equal(config.model.num_layers, 2);
    assert_int_equal(config_load(f->run, layers, 1, &config), YX_OK);
    assert_int_equal(config.model.num_layers, 5);
    assert_int_equal(config.model.vocab_size, 1000);
}

// A name from the command line is relative to the current directory, the tests' own.
static void set_names_another_model(void **state) {
    const files *f = *state;
    const char *sets[] = {"model=configs/model_config.yaml", "model.num_layers=3"};
    assert_int_equal(config_load(f->run, sets, 2, &config), YX_OK);
    assert_int_equal(config.model.hidden_size, 768);
    assert_int_equal(config.model.num_layers, 3);
    const char *missing[] = {"model=small.yaml"};
    assert_int_equal(config_load(f->run, missing, 1, &config), YX_ERR_CONFIG);
}

static void mistakes_in_the_models_file_name_it(void **state) {
    const files *f = *state;
    char *broken;
    assert_int_equal(yx_format(&broken, "%s/broken.yaml", f->folder), YX_OK);
    put(broken, "hidden_size: 64\nnum_layer: 2\n");
    const char *sets[] = {"model=/nonexistent", NULL};
    char *set;
    assert_int_equal(yx_format(&set, "model=%s", broken), YX_OK);
    sets[0] = set;
    assert_int_equal(config_load(f->run, sets, 1, &config), YX_ERR_CONFIG);
    assert_in_message("broken.yaml:2:1: unknown key 'num_layer'");
    assert_in_message("model.num_layers");
    free(set);
    free(broken);
    assert_int_equal(config_load("/nonexistent/run.yaml", NULL, 0, &config), YX_ERR_CONFIG);
    assert_in_message("/nonexistent/run.yaml: No such file");
}

// --- Writing --------------------------------------------------------------------------------------------------------
// A value other than `base`'s for every key, and what else must be set with it.
static const struct {
    const char *key, *value, *context[2];
} changes[] = {
    {"run_dir", "elsewhere", {NULL}},
    {"model.hidden_size", "72", {NULL}},
    {"model.num_layers", "3", {NULL}},
    {"model.num_attention_heads", "6", {NULL}},
    {"model.num_key_value_heads", "1", {NULL}},
    {"model.head_dim", "18", {NULL}},
    {"model.intermediate_size", "136", {NULL}},
    {"model.vocab_size", "1001", {NULL}},
    {"model.embedding_rank", "40", {NULL}},
    {"model.max_position_embeddings", "128", {NULL}},
    {"model.rope_theta", "500000.1", {NULL}},
    {"model.rms_norm_eps", "1.2345678901234567e-06", {NULL}},
    {"model.initializer_range", "0.3", {NULL}},
    {"data.tokenizer", "tokenizers/ö t180k", {NULL}},
    {"data.path", "data/other: # 'x'", {NULL}},
    {"data.document_mask", "false", {NULL}},
    {"data.shuffle_window_blocks", "17", {NULL}},
    {"data.prefetch", "9", {NULL}},
    {"data.verify", "true", {NULL}},
    {"training.epochs", "1.5", {"training.total_tokens=null", "training.epochs=1"}},
    {"training.total_tokens", "2000000.5", {NULL}},
    {"training.learning_rate", "0.1", {NULL}},
    {"training.lr_schedule", "linear", {NULL}},
    {"training.min_lr_ratio", "0", {NULL}},
    {"training.warmup_ratio", "0.2", {NULL}},
    {"training.decay_ratio", "0.3", {"training.lr_schedule=wsd"}},
    {"training.rewarmup_start", "0.4", {"training.curriculum_stages.1.warmup_tokens=5"}},
    {"training.batch_scaling", "sqrt", {NULL}},
    {"training.batch_scaling_reference", "1e5", {"training.batch_scaling=sqrt"}},
    {"training.adam_beta1", "0.8", {NULL}},
    {"training.adam_beta2", "0.999", {NULL}},
    {"training.adam_eps", "1e-9", {NULL}},
    {"training.weight_decay", "0", {NULL}},
    {"training.precision", "fp32", {NULL}},
    {"training.fp8_recipe", "current", {"training.precision=fp8"}},
    {"training.fp8_gradient", "e5m2", {"training.precision=fp8"}},
    {"training.bf16_warmup_steps", "3", {"training.precision=fp8"}},
    {"training.bf16_layers_at_start", "0", {"training.precision=fp8"}},
    {"training.bf16_layers_at_end", "1", {"training.precision=fp8", "training.bf16_layers_at_start=0"}},
    {"training.spike_sigma", "6", {NULL}},
    {"training.initial_checkpoint", "runs/other", {NULL}},
    {"training.initial_moments", "true", {"training.initial_checkpoint=runs/other"}},
    {"training.fp8_fallback", "0.5", {"training.precision=fp8"}},
    {"training.fp8_fallback_steps", "7", {"training.precision=fp8"}},
    {"training.shard_optimizer", "true", {NULL}},
    {"training.gradient_bucket_mb", "7", {NULL}},
    {"training.gradient_wire", "bf16", {NULL}},
    {"training.recompute", "true", {NULL}},
    {"training.device", "cpu", {NULL}},
    {"training.micro_batch_tokens", "256", {NULL}},
    {"training.deterministic", "false", {NULL}},
    {"training.seed", "9007199254740991", {NULL}},
    {"training.curriculum_stages.0.seq_len", "12", {NULL}},
    {"training.curriculum_stages.0.batch_size", "17", {NULL}},
    {"training.curriculum_stages.0.fraction", "0.2500001", {NULL}},
    {"training.curriculum_stages.0.lr_scale", "0.7", {NULL}},
    {"training.curriculum_stages.0.grad_clip", "0.7", {NULL}},
    {"training.curriculum_stages.0.warmup_tokens", "3.5e6", {NULL}},
    {"training.curriculum_stages.0.description", "", {NULL}},
    {"evaluation.interval_steps", "11", {NULL}},
    {"evaluation.at_stage_end", "false", {NULL}},
    {"evaluation.seq_len", "24", {NULL}},
    {"evaluation.max_tokens", "12345678901", {NULL}},
    {"checkpoint.interval_steps", "0", {NULL}},
    {"checkpoint.at_stage_end", "false", {NULL}},
    {"checkpoint.keep_last", "0", {NULL}},
    {"checkpoint.keep_every", "20", {NULL}},
    {"logging.interval_steps", "1", {NULL}},
    {"logging.tensorboard", "false", {NULL}},
    {"logging.report", "false", {NULL}},
};

static const config_key *key_of(const char *path) {
    char name[128];
    for (int i = 0; i < config_num_keys; i++) {
        config_key_path(&config_keys[i], 0, name, sizeof name);
        if (strcmp(name, path) == 0) return &config_keys[i];
    }
    fail_msg("no key %s", path);
    return NULL;
}

// Written and read again.
static void assert_round_trip(const yx_config *c) {
    char *yaml;
    assert_int_equal(config_to_yaml(c, &yaml), YX_OK);
    if (config_load_text(yaml, strlen(yaml), "resolved", ".", NULL, 0, &other) != YX_OK)
        fail_msg("%s in\n%s", yx_message(), yaml);
    assert_memory_equal(c, &other, sizeof other);
    free(yaml);
}

static void identity_with(const char *const *sets, int n, char hex[65]) {
    if (load(base, sets, n) != YX_OK) fail_msg("%s", yx_message());
    assert_int_equal(config_identity(&config, hex), YX_OK);
}

static void every_key_is_read_written_and_identified(void **state) {
    (void)state;
    assert_int_equal(sizeof changes / sizeof *changes, config_num_keys);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char *set, before[65], after[65], written[2][2 * CONFIG_MAX_TEXT];
        const config_key *key = key_of(changes[i].key);
        const char *sets[3] = {changes[i].context[0], changes[i].context[1], NULL};
        bool of_stage = key->section == SECTION_STAGE;
        void *at = of_stage ? (void *)config.training.stages : &config;
        int n = (sets[0] != NULL) + (sets[1] != NULL);
        identity_with(sets, n, before);
        bool had = config_key_format(key, at, written[0], sizeof written[0]);
        assert_int_equal(yx_format(&set, "%s=%s", changes[i].key, changes[i].value), YX_OK);
        sets[n] = set;
        identity_with(sets, n + 1, after);
        if (config_key_format(key, at, written[1], sizeof written[1]) == had && !strcmp(written[0], written[1]))
            fail_msg("%s did not change", set);
        if ((strcmp(before, after) != 0) != key->identity) fail_msg("%s: identity", set);
        assert_round_trip(&config);
        free(set);
    }
}

// What is written to standard error between the two calls.
typedef struct capture {
    FILE *file;
    int saved;
    char text[1024];
} capture;

static void capture_begin(capture *c) {
    c->file = tmpfile();
    assert_non_null(c->file);
    c->saved = dup(STDERR_FILENO);
    dup2(fileno(c->file), STDERR_FILENO);
}

static void capture_end(capture *c) {
    dup2(c->saved, STDERR_FILENO);
    close(c->saved);
    rewind(c->file);
    c->text[fread(c->text, 1, sizeof c->text - 1, c->file)] = 0;
    fclose(c->file);
}

static void idle_keys_get_a_warning_and_their_default(void **state) {
    (void)state;
    static const char *const sets[] = {"training.decay_ratio=0.3", "training.batch_scaling_reference=5",
                                       "training.rewarmup_start=0.5"};
    char before[65], after[65];
    capture c;
    identity_with(NULL, 0, before);
    capture_begin(&c);
    yx_status status = load(base, sets, 3);
    capture_end(&c);
    assert_int_equal(status, YX_OK);
    for (int i = 0; i < 3; i++) assert_non_null(strstr(c.text, sets[i]));
    assert_non_null(strstr(c.text, "no effect without lr_schedule: wsd"));
    assert_true(config.training.decay_ratio == 0.2);
    assert_int_equal(config_identity(&config, after), YX_OK);
    assert_string_equal(before, after);
}

static void what_is_written_gives_no_warning(void **state) {
    (void)state;
    const char *sets[] = {"training.lr_schedule=constant", "checkpoint.keep_last=0"};
    capture c;
    assert_int_equal(load(base, sets, 2), YX_OK);
    capture_begin(&c);
    assert_round_trip(&config);
    capture_end(&c);
    assert_string_equal(c.text, "");
}

static void all_values_round_trip(void **state) {
    (void)state;
    static const double values[] = {6e-4, 1.0 / 3, 1e-300, 0.1, 1e-7, 9.999999999999999};
    assert_int_equal(load(base, NULL, 0), YX_OK);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        config.training.learning_rate = values[i];
        config.training.adam_eps = values[i] < 1 ? values[i] : 1;
        assert_round_trip(&config);
    }
    memset(config.run_dir, '"', sizeof config.run_dir - 1);
    memset(config.training.stages[1].description, '\\', sizeof config.run_dir - 1);
    assert_round_trip(&config);
}

// --- What is shipped ------------------------------------------------------------------------------------------------
static void shipped_configurations_load(void **state) {
    (void)state;
    static const int64_t lengths[] = {8, 16, 32, 64, 128, 256, 512, 768, 1536, 2048};
    static const int64_t batches[] = {2048, 2048, 2048, 1024, 512, 256, 128, 128, 64, 64};
    const char *set[] = {"data.tokenizer=tokenizers/superbpe-t180k"};
    const char *path = "configs/fineweb_training_ultra_curriculum.yaml";
    assert_int_equal(config_load("configs/quickstart.yaml", NULL, 0, &config), YX_OK);
    assert_round_trip(&config);
    assert_int_equal(config.training.num_stages, 10);
    assert_int_equal(config_load(path, NULL, 0, &config), YX_OK);
    assert_round_trip(&config);
    assert_string_equal(config.data.path, "data/fineweb-edu-superbpe-t80k");
    assert_int_equal(config.training.num_stages, 10);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(config.training.stages[i].seq_len, lengths[i]);
        assert_int_equal(config.training.stages[i].batch_size, batches[i]);
    }
    assert_int_equal(config_load(path, set, 1, &config), YX_OK);
    assert_string_equal(config.data.path, "data/fineweb-edu-superbpe-t180k");
}

static void the_reference_is_up_to_date(void **state) {
    (void)state;
    char *text, *file;
    size_t size, file_size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    assert_int_equal(config_write_reference(out), YX_OK);
    fclose(out);
    assert_int_equal(yx_read_file("docs/configuration.md", 1 << 20, &file, &file_size), YX_OK);
    if (strcmp(text, file))
        fail_msg("docs/configuration.md is old: yxanul plan --print-reference >docs/configuration.md");
    free(text);
    free(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_values),
        cmocka_unit_test(reports_mistakes),
        cmocka_unit_test(reports_mistakes_that_need_two_changes),
        cmocka_unit_test(refuses_what_is_no_configuration),
        cmocka_unit_test(stages_are_limited),
        cmocka_unit_test(sets_values),
        cmocka_unit_test(set_mistakes_name_the_option),
        cmocka_unit_test(set_makes_groups),
        cmocka_unit_test_setup_teardown(reads_the_models_file, make_files, remove_files),
        cmocka_unit_test_setup_teardown(set_names_another_model, make_files, remove_files),
        cmocka_unit_test_setup_teardown(mistakes_in_the_models_file_name_it, make_files, remove_files),
        cmocka_unit_test(every_key_is_read_written_and_identified),
        cmocka_unit_test(idle_keys_get_a_warning_and_their_default),
        cmocka_unit_test(what_is_written_gives_no_warning),
        cmocka_unit_test(all_values_round_trip),
        cmocka_unit_test(shipped_configurations_load),
        cmocka_unit_test(the_reference_is_up_to_date),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

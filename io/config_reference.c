// docs/configuration.md, generated from the table of keys.
#include "io/config_keys.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char preface[] =
    "<!-- Written by `yxanul plan --print-reference`; do not edit. -->\n"
    "# Configuration\n"
    "\n"
    "A run is described by one YAML file, `yxanul train --config FILE`. `--set KEY=VALUE` changes a key of it, as "
    "often as\n"
    "needed: `--set training.learning_rate=3e-4`. A stage is named by its index, all of them by `*`:\n"
    "`--set training.curriculum_stages.0.batch_size=512`, `--set 'training.curriculum_stages.*.grad_clip=1'`. The "
    "value\n"
    "`null` makes a key absent. A key of the model can be set when its file is named, too: `--set "
    "model.num_layers=2`.\n"
    "\n"
    "Every key is checked: an unknown one, a wrong type or a value out of its range stops the command with the place "
    "and what\n"
    "to do. A key that has no effect beside the others gets a warning. Numbers are decimal (`6e-4`, `100000`); "
    "booleans are\n"
    "`true` and `false`; anchors, aliases, tags and a second document are refused. Folders and files are relative to "
    "the\n"
    "current directory, only the `model:` file to the file that names it.\n";

static const char epilogue[] =
    "\n"
    "## How the keys work together\n"
    "\n"
    "- **Tokens, not steps.** Stages are shares of all training tokens. The corpus is cut into blocks of 6,144 tokens "
    "(a block\n"
    "  needs the token behind it, too), blocks into shuffle windows; an epoch's last window may be smaller. The total "
    "and\n"
    "  the stages' ends are rounded to the nearest window. A stage's last step may be short.\n"
    "- **Learning rate** of a step that starts after `t` of `total` tokens and holds `n`: `learning_rate · f · scale · "
    "rewarm`.\n"
    "  - warm-up, over the first `w = warmup_ratio · total` tokens: `f = (t + n) / w` while that is below 1. The "
    "step's own\n"
    "    tokens count, so the first step's rate is not 0.\n"
    "  - then, with `p = (t - w) / (total - w)` and `m = min_lr_ratio`: cosine `f = m + (1 - m) · (1 + cos(π p)) / "
    "2`;\n"
    "    linear `f = 1 - (1 - m) · p`; constant `f = 1`; wsd `f = 1` until the last `d = decay_ratio · total` tokens, "
    "then\n"
    "    `f = 1 - (1 - m) · (t - total + d) / d`. `min_lr_ratio: 0` falls to zero.\n"
    "  - scale: the stage's `lr_scale`, or with `batch_scaling: sqrt` the root of the stage's tokens per step over\n"
    "    `batch_scaling_reference`.\n"
    "  - rewarm, `u` tokens after the first of a stage with `warmup_tokens`: from `rewarmup_start` at `u = 0` linearly "
    "to 1 at\n"
    "    `u = warmup_tokens`.\n"
    "- **Sizes.** `num_attention_heads` is a multiple of `num_key_value_heads`. `precision: fp8` needs widths (of the "
    "residual\n"
    "  stream, the SwiGLU, the embedding's rank, all query heads, all key/value heads) that are multiples of 16. A "
    "micro-batch\n"
    "  holds the longest sequence.\n"
    "- **Resume.** What a checkpoint was made with may not change where the last column says so. Data and tokenizer "
    "are known by\n"
    "  their digests, wherever they lie.\n";

static void write_limit(FILE *out, double value) {
    char text[40];
    config_format_real(value, text, sizeof text);
    if (strlen(text) > 9 && fmod(value, 1e9) == 0) snprintf(text, sizeof text, "%g", value);
    fputs(text, out);
}

static void write_range(FILE *out, const config_key *key) {
    if (key->type == TYPE_NAME) {
        for (int i = 0; key->names[i]; i++) fprintf(out, "%s%s", i ? ", " : "", key->names[i]);
        return;
    }
    if (key->type != TYPE_INT && key->type != TYPE_REAL) return;
    if (key->above_min) fputs("above ", out);
    write_limit(out, key->min);
    fputs(key->above_min ? ", at most " : " … ", out);
    write_limit(out, key->max);
    if (key->multiple) fprintf(out, ", multiple of %" PRId64, key->multiple);
}

static void write_row(FILE *out, const config_key *key) {
    static const char *const types[] = {"whole number", "number", "true/false", "name", "text"};
    const char *fallback = key->fallback ? key->fallback : key->optional ? "absent" : "required";
    fprintf(out, "| `%s` | %s | %s | ", key->name, types[key->type], *fallback ? fallback : "empty");
    write_range(out, key);
    fprintf(out, " | %s%s%s | %s |\n", key->meaning, key->only_with ? "; only with " : "",
            key->only_with ? key->only_with : "", key->identity ? "no" : "yes");
}

static void write_section(FILE *out, config_section section) {
    const config_section_info *info = &config_sections[section];
    fprintf(out, "\n## %s%s%s\n\n%s\n\n", *info->path ? "`" : "", *info->path ? info->path : "Top level",
            *info->path ? "`" : "", info->meaning);
    fprintf(out, "| key | type | default | range | meaning | may change on resume |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < config_num_keys; i++)
        if (config_keys[i].section == section) write_row(out, &config_keys[i]);
}

yx_status config_write_reference(FILE *out) {
    fputs(preface, out);
    for (int s = 0; s < SECTION_COUNT; s++) write_section(out, (config_section)s);
    fputs(epilogue, out);
    return fflush(out) == 0 && !ferror(out) ? YX_OK : yx_fail_errno("cannot write the reference");
}

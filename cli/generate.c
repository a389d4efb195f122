// yxanul generate.
#include "cli/cli.h"
#include "cli/options.h"
#include "coordinator/load_model.h"
#include "coordinator/setup.h"
#include "io/tokenizer.h"
#include "worker/generate.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: yxanul generate --checkpoint DIR --prompt TEXT [options]\n"
    "\n"
    "Continues a text. Stops at the end-of-text token.\n"
    "\n"
    "  --checkpoint DIR         a checkpoint, or a run folder (its newest)\n"
    "  --prompt TEXT            may be repeated: one continuation each; '-' reads standard input\n"
    "  --max-tokens N           at most N new tokens (default 128)\n"
    "  --temperature X          0 takes the most likely token (default 0.8)\n"
    "  --top-p X                draw among the most likely tokens that together have this probability (default 0.95)\n"
    "  --seed N                 the same seed gives the same text (default 0)\n"
    "  --tokenizer PATH         default: the checkpoint's copy\n"
    "  --precision fp32|bf16    default: the run's (bf16 for an fp8 run)\n"
    "  --device auto|cpu|cuda   default: auto\n";

enum { STDIN_MAX = 1 << 20 };
typedef struct options {
    const char *checkpoint, *tokenizer;
    cli_values prompts;
    int precision;
    config_device device;
    int64_t seed;
    generate_options generate;
    bool help;
} options;

static yx_status parse(int argc, char **argv, options *o) {
    const cli_option table[] = {
        {"checkpoint", CLI_TEXT, &o->checkpoint},
        {"prompt", CLI_TEXTS, &o->prompts},
        {"max-tokens", CLI_INT, &o->generate.max_tokens, 1, 1 << 20},
        {"temperature", CLI_REAL, &o->generate.temperature, .low = 0, .high = 100},
        {"top-p", CLI_REAL, &o->generate.top_p, .low = 1e-6, .high = 1},
        {"seed", CLI_INT, &o->seed, 0, INT64_MAX},
        {"tokenizer", CLI_TEXT, &o->tokenizer},
        {"precision", CLI_PRECISION, &o->precision},
        {"device", CLI_DEVICE, &o->device},
        {"help", CLI_FLAG, &o->help},
        {0},
    };
    yx_status status = cli_parse_options(argc, argv, table);
    if (status == YX_OK && !o->help) status = cli_parse_rest(argc, argv, NULL);
    if (status != YX_OK || o->help) return status;
    if (!o->checkpoint) return yx_fail(YX_ERR_USAGE, "generate needs --checkpoint DIR");
    o->generate.seed = (uint64_t)o->seed;
    return o->prompts.count > 0 ? YX_OK : yx_fail(YX_ERR_USAGE, "generate needs --prompt TEXT");
}

// Prints each token as it comes.
static yx_status print_token(void *context, uint32_t token) {
    size_t size;
    const char *bytes = tokenizer_token_bytes(context, token, &size);
    if (bytes && fwrite(bytes, 1, size, stdout) != size) return yx_fail_errno("cannot write the text");
    fflush(stdout);
    return YX_OK;
}

static yx_status continue_text(const loaded_model *m, yx_tokenizer *t, const char *prompt, size_t size,
                               const generate_options *o) {
    yx_status status = YX_OK;
    tokenizer_scratch *scratch = NULL;
    uint32_t *ids = NULL;
    const uint32_t *encoded;
    size_t count;
    YX_CHECK(tokenizer_scratch_new(t, &scratch));
    YX_CHECK(tokenizer_encode(t, scratch, prompt, size, TOKENIZER_DEFAULT, &encoded, &count));
    ids = malloc((count + 1) * sizeof *ids);
    if (!ids) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the prompt");
    ids[0] = (uint32_t)tokenizer_eot(t);
    memcpy(ids + 1, encoded, count * sizeof *ids);
    fwrite(prompt, 1, size, stdout);
    YX_CHECK(generate_run(m->model, ids, count + 1, o, print_token, t));
    putchar('\n');
fail:
    free(ids);
    tokenizer_scratch_free(scratch);
    return status;
}

static yx_status continue_prompt(const loaded_model *m, yx_tokenizer *t, const char *prompt,
                                 const generate_options *o) {
    if (strcmp(prompt, "-") != 0) return continue_text(m, t, prompt, strlen(prompt), o);
    char *text = malloc(STDIN_MAX);
    if (!text) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the prompt");
    size_t size = fread(text, 1, STDIN_MAX, stdin);
    yx_status status = size == STDIN_MAX ? yx_fail(YX_ERR_USAGE, "a prompt has at most %d bytes", STDIN_MAX - 1)
                                         : continue_text(m, t, text, size, o);
    free(text);
    return status;
}

static yx_status generate(options *o) {
    yx_status status = YX_OK;
    const yx_ops *ops;
    yx_device *device = NULL;
    loaded_model m = {0};
    yx_tokenizer *t = NULL;
    YX_CHECK(setup_device(o->device, NULL, 0, &ops, &device));
    YX_CHECK(load_model(o->checkpoint, ops, device, o->precision, 0, &m));
    YX_CHECK(loaded_model_tokenizer(&m, o->tokenizer, &t));
    o->generate.stop_token = tokenizer_eot(t);
    for (int i = 0; i < o->prompts.count; i++) {
        if (i > 0) printf("\n");
        YX_CHECK(continue_prompt(&m, t, o->prompts.items[i], &o->generate));
    }
fail:
    tokenizer_free(t);
    loaded_model_free(&m);
    if (device) ops->close(device);
    return status;
}

int cli_generate(int argc, char **argv) {
    options o = {.precision = -1, .generate = {.max_tokens = 128, .temperature = 0.8, .top_p = 0.95}};
    yx_status status = parse(argc, argv, &o);
    if (status != YX_OK) return cli_usage_error("generate", "%s", yx_message());
    if (o.help) return fputs(help, stdout) < 0;
    return cli_fail(generate(&o));
}

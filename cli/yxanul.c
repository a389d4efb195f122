// yxanul: one binary, one command a task.
#include "cli/cli.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"train", cli_train, "train a model, or continue a run"},
    {"plan", cli_plan, "what a run would do: stages, tokens, memory; trains nothing"},
    {"prepare", cli_prepare, "text into token shards"},
    {"tokenizer", cli_tokenizer, "train | encode | decode | info"},
    {"eval", cli_eval, "bits per byte of a checkpoint on prepared data"},
    {"generate", cli_generate, "continue a text"},
    {"export", cli_export, "a trained model for other programs: Llama's layout in safetensors"},
    {"bench", cli_bench, "speed, with its ceiling measured in the same run"},
    {"inspect", cli_inspect, "what a shard, data set, checkpoint or tokenizer holds"},
    {"report", cli_report, "a run's curves, stages and events on one page"},
};
enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out) {
    fprintf(out, "yxanul %s: trains small language models\n\nusage: yxanul COMMAND [options]\n\n", YX_VERSION);
    for (int i = 0; i < NUM_COMMANDS; i++) fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\n`yxanul COMMAND --help` lists a command's options.\n");
}

// What a command printed has to have arrived, or it did not succeed.
static int with_output(int code) {
    errno = 0;
    bool failed = fflush(stdout) != 0;
    failed |= ferror(stdout) != 0;
    if (code != 0 || !failed) return code;
    if (errno == 0) return cli_fail(yx_fail(YX_ERR_IO, "cannot write to standard output"));
    return cli_fail(yx_fail_errno("cannot write to standard output"));
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_help(stdout);
        return 0;
    }
    if (!strcmp(name, "--version")) {
        printf("yxanul %s\n", YX_VERSION);
        return 0;
    }
    for (int i = 0; i < NUM_COMMANDS; i++)
        if (!strcmp(name, commands[i].name)) return with_output(commands[i].run(argc - 1, argv + 1));
    if (argc > 1) fprintf(stderr, "error: '%s' is not a command\n\n", name);
    print_help(stderr);
    return YX_ERR_USAGE;
}

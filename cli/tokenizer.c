// yxanul tokenizer: train, encode, decode, info, bench.
#include "cli/cli.h"
#include "cli/tokenizer_commands.h"
#include "common/file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INPUT = 1 << 30 };

static const char help[] =
    "usage: yxanul tokenizer COMMAND …\n"
    "\n"
    "  train   make a tokenizer from text (BPE, or SuperBPE in two stages)\n"
    "  encode  text to token ids\n"
    "  decode  token ids to text\n"
    "  info    what a tokenizer is; several are compared\n"
    "  bench   how fast it encodes\n"
    "\n"
    "Tokenizers are read from a tokenizer.json, a folder with one, or a folder with vocab.json and merges.txt.\n"
    "`yxanul tokenizer COMMAND --help` tells more.\n";

static yx_status read_stream(FILE *file, char **data, size_t *size) {
    yx_status status = YX_OK;
    char *buffer = NULL;
    size_t used = 0, capacity = 0;
    do {
        capacity = capacity ? capacity * 2 : 1 << 16;
        char *grown = realloc(buffer, capacity + 1);
        if (!grown) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the input");
        buffer = grown;
        used += fread(buffer + used, 1, capacity - used, file);
    } while (used == capacity && capacity < MAX_INPUT);
    if (ferror(file)) {
        status = yx_fail_errno("cannot read standard input");
        goto fail;
    }
    if (used == capacity) YX_FAIL(YX_ERR_DATA, "standard input has more than %d bytes", MAX_INPUT);
    buffer[used] = 0;
    *data = buffer;
    *size = used;
    return YX_OK;
fail:
    free(buffer);
    return status;
}

yx_status read_input(const char *path, char **data, size_t *size) {
    if (path && strcmp(path, "-") != 0) return yx_read_file(path, MAX_INPUT, data, size);
    return read_stream(stdin, data, size);
}

int cli_tokenizer(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(int, char **);
    } commands[] = {{"train", tokenizer_command_train},
                    {"encode", tokenizer_command_encode},
                    {"decode", tokenizer_command_decode},
                    {"info", tokenizer_command_info},
                    {"bench", tokenizer_command_bench}};
    if (argc < 2) return cli_usage_error("tokenizer", "a command is missing: train, encode, decode, info or bench");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return fputs(help, stdout) < 0;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    return cli_usage_error("tokenizer", "unknown command '%s'", argv[1]);
}

// The subcommands of `yxanul tokenizer`; argv[0] is the subcommand's name.
#pragma once
#include "common/status.h"
#include <stddef.h>

int tokenizer_command_train(int argc, char **argv);
int tokenizer_command_encode(int argc, char **argv);
int tokenizer_command_decode(int argc, char **argv);
int tokenizer_command_info(int argc, char **argv);
int tokenizer_command_bench(int argc, char **argv);

// Reads a file, or with NULL standard input, whole. `*data` gets size + 1 bytes (a zero behind the content) to free().
yx_status read_input(const char *path, char **data, size_t *size);

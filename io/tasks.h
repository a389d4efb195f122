// Multiple-choice questions from JSON lines (plain, gzip or zstd). docs/evaluation.md gives the three formats that are
// read and the text each becomes.
#pragma once
#include "common/status.h"
#include <stdint.h>

enum { TASK_MAX_CHOICES = 64, TASK_MAX_LINE = 1 << 24, TASK_MAX_NAME = 256 };

typedef struct task_question {
    char *context;  // UTF-8, zero-terminated, may be empty
    char **choices; // [num_choices], none empty; what is scored is the context with a choice right behind it
    int num_choices, answer;
    int64_t line; // of the file, the first is 1
} task_question;

typedef struct task_file {
    char name[TASK_MAX_NAME]; // of the file, without folder and .jsonl
    task_question *questions;
    int64_t count; // at least 1
} task_file;

// Reads at most max_questions (0: all) of the file; lines behind them are not looked at. Empty lines are skipped. A
// line that is no question, and a file without one, is YX_ERR_DATA with file, line and what is wrong.
yx_status tasks_read(const char *path, int64_t max_questions, task_file *out);
void tasks_free(task_file *f);

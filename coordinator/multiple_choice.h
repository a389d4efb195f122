// Multiple-choice tasks: questions from files, encoded, scored by a model, counted. docs/evaluation.md has the rule.
#pragma once
#include "coordinator/load_model.h"
#include "io/tasks.h"

typedef struct multiple_choice_options {
    const char *const *paths; // [num_paths], one task each
    int num_paths;
    int64_t max_questions;    // of each file, 0: all
    const char *per_question; // JSON lines are written here, one a question; NULL: none
} multiple_choice_options;

typedef struct choice_accuracy {
    double value; // share of the questions whose best choice is the answer
    double error; // standard error sqrt(value (1 − value) / (questions − 1)); NaN for one question
} choice_accuracy;

typedef struct multiple_choice_result {
    char name[TASK_MAX_NAME];
    int64_t questions, choices;
    choice_accuracy sum;      // best: the largest log-probability
    choice_accuracy per_byte; // the largest log-probability per UTF-8 byte
    double chance;            // what guessing gets on average
    int64_t cut;              // questions whose context lost its beginning: they were longer than the model reads
} multiple_choice_result;

// Reads and encodes all files, then scores them. results: [num_paths]. A choice that does not fit the model's positions
// without any context is YX_ERR_DATA.
yx_status multiple_choice_run(const loaded_model *m, const multiple_choice_options *options,
                              multiple_choice_result *results);

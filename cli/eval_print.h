// What yxanul eval prints.
#pragma once
#include "coordinator/load_model.h"
#include "coordinator/multiple_choice.h"
#include "worker/bigram.h"
#include "worker/evaluate.h"

typedef struct eval_result {
    const loaded_model *model;
    bool has_bits; // of the validation documents
    int64_t seq_len;
    evaluate_result bits;
    bool has_bigram;
    bigram_result bigram;
    const multiple_choice_result *tasks; // [num_tasks]
    int num_tasks;
} eval_result;

void eval_print_text(const eval_result *r);
yx_status eval_print_json(const eval_result *r);

#include "cli/eval_print.h"
#include <math.h>
#include <stdio.h>

static void print_bits(const eval_result *r) {
    const evaluate_result *e = &r->bits;
    printf("validation     %lld text tokens, %lld bytes, windows of %lld\n", (long long)e->tokens, (long long)e->bytes,
           (long long)r->seq_len);
    printf("model          %.4f bits/byte   %.4f nats/token\n", e->bits_per_byte, e->loss);
    if (r->has_bigram) {
        const bigram_result *b = &r->bigram;
        printf("bigram         %.4f bits/byte   (%lld pairs; weights tuned on %lld held-out training tokens)\n",
               b->bits_per_byte, (long long)b->pairs, (long long)b->held_out);
        printf("unigram        %.4f bits/byte\n", b->unigram_bits_per_byte);
        printf("model/bigram   %.4f\n", e->bits_per_byte / b->bits_per_byte);
    }
    printf("by position    ");
    for (int i = 0; i < e->num_buckets; i++)
        printf("%s%lld+: %.3f", i ? "  " : "", (long long)evaluate_bucket_begin(i), e->bucket_loss[i]);
    printf("  (nats/token)\n");
}

static void print_accuracy(const char *name, const choice_accuracy *a) {
    printf("   %s %.4f", name, a->value);
    if (!isnan(a->error)) printf(" ± %.4f", a->error);
}

static void print_task(const multiple_choice_result *t) {
    printf("%-14s %lld questions", t->name, (long long)t->questions);
    print_accuracy("accuracy", &t->sum);
    print_accuracy("per byte", &t->per_byte);
    printf("   chance %.4f\n", t->chance);
    if (t->cut > 0) printf("%-14s %lld too long: without the beginning of the context\n", "", (long long)t->cut);
}

void eval_print_text(const eval_result *r) {
    printf("checkpoint     %s (step %lld, %lld tokens)\n", checkpoint_path(r->model->checkpoint),
           (long long)r->model->steps, (long long)r->model->tokens);
    if (r->has_bits) print_bits(r);
    for (int i = 0; i < r->num_tasks; i++) print_task(&r->tasks[i]);
}

static void add_bits(json_t *out, const eval_result *r) {
    const evaluate_result *e = &r->bits;
    json_t *positions = json_array();
    for (int i = 0; i < e->num_buckets; i++)
        json_array_append_new(positions,
                              json_pack("{s:I, s:f, s:I}", "begin", (json_int_t)evaluate_bucket_begin(i), "loss",
                                        e->bucket_loss[i], "tokens", (json_int_t)e->bucket_tokens[i]));
    json_object_set_new(out, "seq_len", json_integer((json_int_t)r->seq_len));
    json_object_set_new(out, "tokens", json_integer((json_int_t)e->tokens));
    json_object_set_new(out, "bytes", json_integer((json_int_t)e->bytes));
    json_object_set_new(out, "bits_per_byte", json_real(e->bits_per_byte));
    json_object_set_new(out, "loss", json_real(e->loss));
    json_object_set_new(out, "positions", positions);
    if (!r->has_bigram) return;
    json_object_set_new(out, "bigram_bits_per_byte", json_real(r->bigram.bits_per_byte));
    json_object_set_new(out, "unigram_bits_per_byte", json_real(r->bigram.unigram_bits_per_byte));
}

static json_t *real_or_null(double value) { return isnan(value) ? json_null() : json_real(value); }

static json_t *make_task(const multiple_choice_result *t) {
    return json_pack("{s:s, s:I, s:I, s:f, s:o, s:f, s:o, s:f, s:I}", "name", t->name, "questions",
                     (json_int_t)t->questions, "choices", (json_int_t)t->choices, "accuracy", t->sum.value, "stderr",
                     real_or_null(t->sum.error), "accuracy_per_byte", t->per_byte.value, "stderr_per_byte",
                     real_or_null(t->per_byte.error), "chance", t->chance, "cut", (json_int_t)t->cut);
}

yx_status eval_print_json(const eval_result *r) {
    json_t *out = json_pack("{s:s, s:I}", "checkpoint", checkpoint_path(r->model->checkpoint), "step",
                            (json_int_t)r->model->steps);
    bool is_whole = out != NULL;
    if (is_whole && r->has_bits) add_bits(out, r);
    if (is_whole && r->num_tasks > 0) {
        json_t *tasks = json_array();
        for (int i = 0; i < r->num_tasks; i++)
            is_whole = is_whole && json_array_append_new(tasks, make_task(&r->tasks[i])) == 0;
        json_object_set_new(out, "tasks", tasks);
    }
    bool is_written = is_whole && json_dumpf(out, stdout, JSON_COMPACT) == 0;
    json_decref(out);
    if (!is_written) return yx_fail(YX_ERR_IO, "cannot write the result");
    putchar('\n');
    return YX_OK;
}

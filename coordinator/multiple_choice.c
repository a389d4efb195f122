#include "coordinator/multiple_choice.h"
#include "common/file.h"
#include "worker/choices.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct encoder {
    const yx_tokenizer *tokenizer;
    tokenizer_scratch *scratch;
    int64_t longest; // tokens that the model reads at a time
} encoder;

typedef struct task {
    task_file file;
    choice_sequence *sequences; // of all questions' choices, in order; their ids are the task's
    int64_t count;
    multiple_choice_result *result;
} task;

// --- Text to tokens -------------------------------------------------------------------------------------------------
// End-of-text token, context and choice, as a training document begins; special tokens' names are plain text there too.
static yx_status encode_choice(encoder *e, const task_question *q, int choice, choice_sequence *out) {
    yx_status status = YX_OK;
    char *text = NULL;
    const uint32_t *encoded;
    size_t count;
    YX_CHECK(yx_format(&text, "%s%s", q->context, q->choices[choice]));
    YX_CHECK(tokenizer_encode(e->tokenizer, e->scratch, text, strlen(text), TOKENIZER_NO_SPECIAL, &encoded, &count));
    if (count == 0) YX_FAIL(YX_ERR_DATA, "the tokenizer has no token for choice %d", choice);
    uint32_t *ids = malloc((count + 1) * sizeof *ids);
    if (!ids) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %zu tokens", count);
    ids[0] = (uint32_t)tokenizer_eot(e->tokenizer);
    memcpy(ids + 1, encoded, count * sizeof *ids);
    *out = (choice_sequence){.ids = ids, .count = (int64_t)count + 1};
fail:
    free(text);
    return status;
}

// How many tokens all sequences begin with, as far as these lie within the context: a token that reaches into the
// choice is scored, with all behind it, so that every choice is scored for the same text before it and its own. At
// least the end-of-text token, and never all of a sequence.
static int64_t shared_tokens(const yx_tokenizer *t, const choice_sequence *s, int n, size_t context_size) {
    size_t bytes = 0, size;
    for (int64_t first = 1;; first++) {
        for (int i = 0; i < n; i++)
            if (first + 1 >= s[i].count || s[i].ids[first] != s[0].ids[first]) return first;
        if (tokenizer_token_bytes(t, s[0].ids[first], &size)) bytes += size;
        if (bytes > context_size) return first;
    }
}

// Takes as many tokens from the beginning of all sequences as the longest one has too many: all choices keep the same
// context. The end-of-text token goes too, as in a training window whose document began before it.
static yx_status cut_left(const encoder *e, choice_sequence *s, int n, bool *cut) {
    int64_t excess = 0;
    for (int i = 0; i < n; i++)
        if (s[i].count - 1 - e->longest > excess) excess = s[i].count - 1 - e->longest;
    *cut = excess > 0;
    if (excess >= s[0].first)
        return yx_fail(YX_ERR_DATA, "a choice is longer than the model's context of %lld tokens",
                       (long long)e->longest);
    for (int i = 0; i < n && *cut; i++) {
        memmove((uint32_t *)s[i].ids, s[i].ids + excess, (size_t)(s[i].count - excess) * sizeof *s[i].ids);
        s[i].count -= excess;
        s[i].first -= excess;
    }
    return YX_OK;
}

static yx_status encode_question(encoder *e, task *t, const task_question *q) {
    yx_status status = YX_OK;
    choice_sequence *s = t->sequences + t->count;
    bool cut;
    for (int i = 0; i < q->num_choices; i++, t->count++) YX_CHECK(encode_choice(e, q, i, &s[i]));
    int64_t first = shared_tokens(e->tokenizer, s, q->num_choices, strlen(q->context));
    for (int i = 0; i < q->num_choices; i++) s[i].first = first;
    YX_CHECK(cut_left(e, s, q->num_choices, &cut));
    t->result->cut += cut;
    t->result->choices += q->num_choices;
    t->result->chance += 1.0 / q->num_choices;
fail:
    return status;
}

static yx_status open_task(encoder *e, const char *path, int64_t max_questions, task *t) {
    yx_status status = YX_OK;
    int64_t choices = 0;
    *t->result = (multiple_choice_result){0};
    YX_CHECK(tasks_read(path, max_questions, &t->file));
    memcpy(t->result->name, t->file.name, sizeof t->result->name);
    t->result->questions = t->file.count;
    for (int64_t i = 0; i < t->file.count; i++) choices += t->file.questions[i].num_choices;
    t->sequences = calloc((size_t)choices, sizeof *t->sequences);
    if (!t->sequences) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %lld choices", (long long)choices);
    for (int64_t i = 0; i < t->file.count; i++) {
        status = encode_question(e, t, &t->file.questions[i]);
        if (status == YX_ERR_DATA) yx_context(status, "%s, line %lld", path, (long long)t->file.questions[i].line);
        YX_CHECK(status);
    }
    t->result->chance /= (double)t->file.count;
fail:
    return status;
}

static void close_task(task *t) {
    for (int64_t i = 0; i < t->count; i++) free((uint32_t *)t->sequences[i].ids);
    free(t->sequences);
    tasks_free(&t->file);
}

// --- Scores to figures ----------------------------------------------------------------------------------------------
// Bytes of a choice. The space that parts it from the context is not its own.
static double choice_bytes(const char *choice) {
    size_t size = strlen(choice);
    return (double)(choice[0] == ' ' && size > 1 ? size - 1 : size);
}

static double score_of(const task_question *q, const choice_sequence *s, int choice, bool per_byte) {
    return s[choice].log_probability / (per_byte ? choice_bytes(q->choices[choice]) : 1);
}

// The first of the best.
static int best_choice(const task_question *q, const choice_sequence *s, bool per_byte) {
    int best = 0;
    for (int i = 1; i < q->num_choices; i++)
        if (score_of(q, s, i, per_byte) > score_of(q, s, best, per_byte)) best = i;
    return best;
}

static choice_accuracy measure(const task *t, bool per_byte) {
    const choice_sequence *s = t->sequences;
    double right = 0, n = (double)t->file.count;
    for (int64_t i = 0; i < t->file.count; s += t->file.questions[i++].num_choices)
        right += best_choice(&t->file.questions[i], s, per_byte) == t->file.questions[i].answer;
    double p = right / n;
    return (choice_accuracy){p, n > 1 ? sqrt(p * (1 - p) / (n - 1)) : NAN};
}

// --- A line for each question ---------------------------------------------------------------------------------------
static json_t *describe(const task *t, const task_question *q, const choice_sequence *s) {
    json_t *sums = json_array(), *bytes = json_array(), *tokens = json_array();
    for (int i = 0; i < q->num_choices; i++) {
        json_array_append_new(sums, json_real(s[i].log_probability));
        json_array_append_new(bytes, json_integer((json_int_t)choice_bytes(q->choices[i])));
        json_array_append_new(tokens, json_integer((json_int_t)(s[i].count - s[i].first)));
    }
    return json_pack("{s:s, s:I, s:i, s:i, s:i, s:o, s:o, s:o, s:I}", "task", t->file.name, "line", (json_int_t)q->line,
                     "answer", q->answer, "best", best_choice(q, s, false), "best_per_byte", best_choice(q, s, true),
                     "log_probabilities", sums, "bytes", bytes, "tokens", tokens, "context_tokens",
                     (json_int_t)s[0].first);
}

static yx_status print_questions(const task *t, FILE *out) {
    const choice_sequence *s = t->sequences;
    for (int64_t i = 0; i < t->file.count; s += t->file.questions[i++].num_choices) {
        json_t *line = describe(t, &t->file.questions[i], s);
        bool written = line && json_dumpf(line, out, JSON_COMPACT) == 0 && fputc('\n', out) != EOF;
        json_decref(line);
        if (!written) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the questions of %s", t->file.name);
    }
    return YX_OK;
}

static yx_status write_questions(const char *path, const task *tasks, int count) {
    yx_status status = YX_OK;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %s", path);
    for (int i = 0; i < count && status == YX_OK; i++) status = print_questions(&tasks[i], out);
    if (fclose(out) != 0 && status == YX_OK) status = yx_fail(YX_ERR_NO_MEMORY, "no memory for %s", path);
    if (status == YX_OK) status = yx_write_file_atomic(path, text, size);
    free(text);
    return status;
}

// --- The whole of it ------------------------------------------------------------------------------------------------
static yx_status open_encoder(const loaded_model *m, yx_tokenizer **tokenizer, encoder *e) {
    yx_status status = YX_OK;
    int64_t vocab = m->config.model.vocab_size, positions = m->config.model.max_position_embeddings;
    YX_CHECK(loaded_model_tokenizer(m, NULL, tokenizer));
    if (tokenizer_vocab_size(*tokenizer) > vocab)
        YX_FAIL(YX_ERR_MISMATCH, "%s has more tokens than the model, which has %lld", tokenizer_path(*tokenizer),
                (long long)vocab);
    YX_CHECK(tokenizer_scratch_new(*tokenizer, &e->scratch));
    e->tokenizer = *tokenizer;
    e->longest = positions < m->model->max_rows ? positions : m->model->max_rows;
fail:
    return status;
}

yx_status multiple_choice_run(const loaded_model *m, const multiple_choice_options *o,
                              multiple_choice_result *results) {
    yx_status status = YX_OK;
    yx_tokenizer *tokenizer = NULL;
    encoder e = {0};
    task *tasks = calloc((size_t)o->num_paths, sizeof *tasks);
    if (!tasks) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d tasks", o->num_paths);
    YX_CHECK(open_encoder(m, &tokenizer, &e));
    for (int i = 0; i < o->num_paths; i++) { // whatever is wrong with a file is said before the long part
        tasks[i].result = &results[i];
        YX_CHECK(open_task(&e, o->paths[i], o->max_questions, &tasks[i]));
    }
    for (int i = 0; i < o->num_paths; i++) {
        YX_CHECK(choices_score(m->model, tasks[i].sequences, tasks[i].count));
        results[i].sum = measure(&tasks[i], false);
        results[i].per_byte = measure(&tasks[i], true);
    }
    if (o->per_question) YX_CHECK(write_questions(o->per_question, tasks, o->num_paths));
fail:
    for (int i = 0; tasks && i < o->num_paths; i++) close_task(&tasks[i]);
    free(tasks);
    tokenizer_scratch_free(e.scratch);
    tokenizer_free(tokenizer);
    return status;
}

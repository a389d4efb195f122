// Scales one tensor of a checkpoint, to see what a run makes of an outlier: checkpoint_scale RUN TENSOR FACTOR OUTPUT
// writes the newest checkpoint of RUN, so changed, as the only one of the run folder OUTPUT.
#include "io/checkpoint.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS_MAX = 4096 };

static int64_t size_of(const checkpoint_tensor *t) { return t->rows * (t->cols ? t->cols : 1); }

static yx_status describe(const checkpoint *c, checkpoint_tensor *tensors, int64_t *count) {
    *count = checkpoint_count(c);
    if (*count > TENSORS_MAX) return yx_fail(YX_ERR_DATA, "%lld tensors are too many", (long long)*count);
    for (int64_t i = 0; i < *count; i++) {
        checkpoint_tensor *t = &tensors[i];
        yx_status status = checkpoint_describe(c, i, &t->name, &t->rows, &t->cols);
        if (status != YX_OK) return status;
        t->data = malloc((size_t)size_of(t) * sizeof(float));
        if (!t->data) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %s", t->name);
    }
    return YX_OK;
}

static yx_status scale(const checkpoint_tensor *tensors, int64_t count, const char *name, float factor) {
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(tensors[i].name, name) != 0) continue;
        for (int64_t k = 0; k < size_of(&tensors[i]); k++) tensors[i].data[k] *= factor;
        return YX_OK;
    }
    return yx_fail(YX_ERR_DATA, "the checkpoint has no tensor '%s'", name);
}

static yx_status copy_scaled(const char *run, const char *name, float factor, const char *output) {
    yx_status status = YX_OK;
    static checkpoint_tensor tensors[TENSORS_MAX];
    const checkpoint_options options = {.keep_last = 1};
    checkpoint *c = NULL;
    char *tokenizer = NULL;
    int64_t count = 0;
    YX_CHECK(checkpoint_open(run, &c));
    if (!c) YX_FAIL(YX_ERR_DATA, "%s has no checkpoint", run);
    YX_CHECK(describe(c, tensors, &count));
    YX_CHECK(checkpoint_read(c, tensors, count));
    YX_CHECK(scale(tensors, count, name, factor));
    YX_CHECK(checkpoint_tokenizer(c, &tokenizer));
    int64_t step = json_integer_value(json_object_get(checkpoint_meta(c), "step"));
    YX_CHECK(checkpoint_write(output, step, tensors, count, checkpoint_meta(c), tokenizer, &options));
fail:
    for (int64_t i = 0; i < count; i++) free(tensors[i].data);
    checkpoint_close(c);
    free(tokenizer);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: checkpoint_scale RUN TENSOR FACTOR OUTPUT\n");
        return 2;
    }
    if (copy_scaled(argv[1], argv[2], strtof(argv[3], NULL), argv[4]) == YX_OK) return 0;
    fprintf(stderr, "error: %s\n", yx_message());
    return 1;
}

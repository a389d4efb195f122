// libFuzzer target: any bytes as a file of questions. The first byte says how many questions are read.
#include "io/tasks.h"
#include "io/tokenizer_unicode.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text) {
    size_t size = strlen(text);
    if (unicode_valid_prefix((const uint8_t *)text, size) != size) abort();
}

static void check_question(const task_question *q, int64_t after) {
    if (q->line <= after || q->num_choices < 2 || q->num_choices > TASK_MAX_CHOICES) abort();
    if (q->answer < 0 || q->answer >= q->num_choices) abort();
    check_text(q->context);
    for (int i = 0; i < q->num_choices; i++) {
        check_text(q->choices[i]);
        if (!q->choices[i][0]) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    task_file f;
    char path[64];
    if (size < 1) return 0;
    int fd = memfd_create("tasks", 0);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    yx_status status = tasks_read(path, data[0] % 4, &f);
    if (status != YX_OK && status != YX_ERR_DATA) abort();
    if (status == YX_OK && (f.count < 1 || (data[0] % 4 > 0 && f.count > data[0] % 4))) abort();
    if (status != YX_OK && (f.count > 0 || f.questions)) abort();
    for (int64_t i = 0; i < f.count; i++) check_question(&f.questions[i], i > 0 ? f.questions[i - 1].line : 0);
    tasks_free(&f);
    close(fd);
    return 0;
}

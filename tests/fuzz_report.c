// Any bytes as a run's log: summed up and made into a page, or counted as damaged, never a crash; the page has no
// character that XML has not.
#include "common/file.h"
#include "common/log.h"
#include "coordinator/report.h"
#include "coordinator/step_line.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// What is read by hand is what jansson reads.
static void compare_readers(const char *line, size_t size) {
    step_line by_hand, by_jansson;
    if (!step_line_parse(line, size, &by_hand)) return;
    json_t *json = json_loadb(line, size, 0, NULL);
    if (!json) abort();
    step_line_from_json(json, &by_jansson);
    json_decref(json);
    if (by_hand.step != by_jansson.step || by_hand.tokens != by_jansson.tokens) abort();
    if (by_hand.loss != by_jansson.loss && !(isnan(by_hand.loss) && isnan(by_jansson.loss))) abort();
    if (by_hand.skipped != by_jansson.skipped) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char folder[] = "/tmp/yxanul-fuzz-report-XXXXXX", path[64];
    char *html;
    size_t length;
    run_log *log;
    if (!*path) {
        if (!mkdtemp(folder)) abort();
        snprintf(path, sizeof path, "%s/log.jsonl", folder);
        yx_log_setup(YX_LOG_ERROR, -1);
    }
    for (size_t begin = 0, end; begin < size; begin = end + 1) {
        for (end = begin; end < size && data[end] != '\n';) end++;
        compare_readers((const char *)data + begin, end - begin);
    }
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
    if (run_log_create(&log) != YX_OK || run_log_read(log, path) != YX_OK) abort();
    if (report_render(log, folder, NULL, REPORT_NOT_RUNNING, &html, &length) != YX_OK) abort();
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)html[i] < ' ' && html[i] != '\n' && html[i] != '\t') abort();
    if (length < 16 || strcmp(html + length - 8, "</html>\n") != 0) abort();
    free(html);
    run_log_free(log);
    return 0;
}

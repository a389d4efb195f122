// report.html of a run: one page without scripts or anything from elsewhere, made from log.jsonl and config.yaml.
#pragma once
#include "coordinator/run_log.h"

// What is known besides the log of a run that has not said how it ended.
typedef enum report_presence {
    REPORT_RUNNING,    // a process trains in the folder
    REPORT_NOT_RUNNING // none does that this host knows of: the last one was killed, or is elsewhere
} report_presence;

// The page as text, to free(). `config`: NULL when it is not known.
yx_status report_render(const run_log *log, const char *run_dir, const yx_config *config, report_presence presence,
                        char **html, size_t *size);
// Writes the page to `path`, whole or not at all.
yx_status report_write(const run_log *log, const char *run_dir, const yx_config *config, report_presence presence,
                       const char *path);

typedef struct report_summary {
    int64_t step, tokens, lines, damaged; // step, tokens: -1: there are none yet
} report_summary;
// Reads the folder of a run, which may be under way, and writes its page to `path`.
yx_status report_run(const char *run_dir, const char *path, report_summary *out);

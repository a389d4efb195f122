#include "common/log.h"
#include <stdarg.h>
#include <stdio.h>

static yx_log_level max_level = YX_LOG_INFO;
static int log_rank = -1;

void yx_log_setup(yx_log_level level, int rank) {
    max_level = level;
    log_rank = rank;
}

bool yx_log_shows(yx_log_level level) { return level <= max_level; }

void yx_log(yx_log_level level, const char *format, ...) {
    static const char *const prefix[] = {"error: ", "warning: ", "", "debug: "};
    if (level > max_level || (level == YX_LOG_INFO && log_rank > 0)) return;
    char line[4096];
    int used = log_rank > 0 ? snprintf(line, sizeof line, "[rank %d] %s", log_rank, prefix[level])
                            : snprintf(line, sizeof line, "%s", prefix[level]);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);
    fprintf(stderr, "%s\n", line); // one call a line, so that the lines of several ranks do not mix
}

// Messages for people, on standard error. Data for programs goes to log.jsonl (coordinator/metrics.h) or standard
// output.
#pragma once
#include <stdbool.h>

typedef enum yx_log_level { YX_LOG_ERROR, YX_LOG_WARN, YX_LOG_INFO, YX_LOG_DEBUG } yx_log_level;

// Messages above `level` are dropped (default YX_LOG_INFO). `rank` < 0 means no rank prefix; ranks other than 0 drop
// YX_LOG_INFO, so that a message common to all ranks is printed once.
void yx_log_setup(yx_log_level level, int rank);
bool yx_log_shows(yx_log_level level);
void yx_log(yx_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define yx_error(...) yx_log(YX_LOG_ERROR, __VA_ARGS__)
#define yx_warn(...) yx_log(YX_LOG_WARN, __VA_ARGS__)
#define yx_info(...) yx_log(YX_LOG_INFO, __VA_ARGS__)
#define yx_debug(...) yx_log(YX_LOG_DEBUG, __VA_ARGS__)

#include "common/status.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_MAX = 2048, ORIGIN_MAX = 256 };
static _Thread_local char message[MESSAGE_MAX];
static _Thread_local char origin[ORIGIN_MAX];

static void set_origin(const char *file, int line) {
    const char *root = strstr(file, "yxanul/");
    snprintf(origin, sizeof origin, "%s:%d", root ? root + 7 : file, line);
}

yx_status yx_fail_at(const char *file, int line, yx_status code, const char *format, ...) {
    char text[MESSAGE_MAX]; // the arguments may point into the old message
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(message, text, sizeof message);
    set_origin(file, line);
    return code;
}

yx_status yx_fail_errno_at(const char *file, int line, const char *format, ...) {
    int error = errno;
    char text[MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(message, sizeof message, "%.1500s: %s", text, strerror(error));
    set_origin(file, line);
    if (error == ENOSPC || error == EDQUOT) return YX_ERR_NO_SPACE;
    return error == ENOMEM ? YX_ERR_NO_MEMORY : YX_ERR_IO;
}

yx_status yx_context(yx_status code, const char *format, ...) {
    if (code == YX_OK) return code;
    char text[MESSAGE_MAX / 2], old[MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(old, message, sizeof old);
    snprintf(message, sizeof message, "%s: %.1000s", text, old);
    return code;
}

const char *yx_message(void) { return message; }
const char *yx_message_origin(void) { return origin; }

void yx_set_message(const char *new_message, const char *new_origin) {
    snprintf(message, sizeof message, "%s", new_message);
    snprintf(origin, sizeof origin, "%s", new_origin);
}

const char *yx_status_name(yx_status code) {
    switch (code) {
    case YX_OK:
        return "ok";
    case YX_ERR_INTERNAL:
        return "internal error";
    case YX_ERR_USAGE:
        return "usage error";
    case YX_ERR_CONFIG:
        return "configuration error";
    case YX_ERR_DATA:
        return "data error";
    case YX_ERR_MISMATCH:
        return "mismatch";
    case YX_ERR_IO:
        return "input/output error";
    case YX_ERR_NO_SPACE:
        return "no space left";
    case YX_ERR_NO_MEMORY:
        return "out of memory";
    case YX_ERR_UNAVAILABLE:
        return "not available";
    case YX_ERR_COMM:
        return "communication error";
    case YX_ERR_NUMERIC:
        return "numeric error";
    case YX_ERR_INTERRUPTED:
        return "interrupted";
    }
    return "unknown error";
}

#include "io/event_file.h"
#include "common/file.h"
#include "common/hash.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char PREFIX[] = "events.out.tfevents.";
static const double FLUSH_SECONDS = 2;
// Field numbers of event.proto and summary.proto, and protobuf's wire types.
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5, EVENT_SESSION_LOG = 7 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE_VALUE = 2, SESSION_LOG_STATUS = 1, SESSION_START = 1 };
enum { WIRE_VARINT = 0, WIRE_64_BITS = 1, WIRE_BYTES = 2, WIRE_32_BITS = 5 };
// A value takes its tag, a float and four bytes of keys and lengths, and is itself preceded by two or three.
enum { MAX_VALUE = EVENT_FILE_MAX_TAG + 16, MAX_EVENT = EVENT_FILE_MAX_SCALARS * MAX_VALUE + 64, BUFFER = 1 << 16 };

struct event_file {
    FILE *file;
    char *path;
    double flushed; // when
    char buffer[BUFFER];
};

typedef struct bytes {
    uint8_t data[MAX_EVENT];
    size_t size;
} bytes;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// --- Protobuf and framing: all numbers are little-endian
static void put_fixed(bytes *b, uint64_t x, int size) {
    for (int i = 0; i < size; i++) b->data[b->size++] = (uint8_t)(x >> (8 * i));
}

static void put_varint(bytes *b, uint64_t x) {
    for (; x >= 128; x >>= 7) b->data[b->size++] = (uint8_t)(x | 128);
    b->data[b->size++] = (uint8_t)x;
}

static void put_key(bytes *b, int field, int wire) { put_varint(b, (uint64_t)(field << 3 | wire)); }

static void put_bytes(bytes *b, int field, const void *data, size_t size) {
    put_key(b, field, WIRE_BYTES);
    put_varint(b, size);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void begin_event(bytes *b, int64_t step) {
    double time = now();
    uint64_t bits;
    memcpy(&bits, &time, sizeof bits);
    b->size = 0;
    put_key(b, EVENT_WALL_TIME, WIRE_64_BITS);
    put_fixed(b, bits, 8);
    put_key(b, EVENT_STEP, WIRE_VARINT);
    put_varint(b, (uint64_t)step);
}

static void put_scalar(bytes *summary, const event_scalar *scalar) {
    bytes value = {.size = 0};
    float x = (float)scalar->value;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_bytes(&value, VALUE_TAG, scalar->tag, strlen(scalar->tag));
    put_key(&value, VALUE_SIMPLE_VALUE, WIRE_32_BITS);
    put_fixed(&value, bits, 4);
    put_bytes(summary, SUMMARY_VALUE, value.data, value.size);
}

// So that the CRC of data that itself contains CRCs is as good as any.
static uint32_t masked_crc(const void *data, size_t size) {
    uint32_t crc = yx_crc32c(0, data, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

// Length, its CRC, data, its CRC.
static yx_status write_event(event_file *e, const bytes *event) {
    bytes header = {.size = 0}, footer = {.size = 0};
    put_fixed(&header, event->size, 8);
    put_fixed(&header, masked_crc(header.data, 8), 4);
    put_fixed(&footer, masked_crc(event->data, event->size), 4);
    errno = 0;
    if (fwrite(header.data, 1, header.size, e->file) == header.size &&
        fwrite(event->data, 1, event->size, e->file) == event->size &&
        fwrite(footer.data, 1, footer.size, e->file) == footer.size)
        return YX_OK;
    return yx_fail_errno("cannot write %s", e->path);
}

// --- The files of a folder
static bool is_event_file(const struct dirent *entry) { return strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0; }

// Calls `take` with every event file's name.
static yx_status each_file(const char *folder, yx_status (*take)(void *context, const char *name), void *context) {
    yx_status status = YX_OK;
    DIR *dir = opendir(folder);
    if (!dir && errno == ENOENT) return YX_OK;
    if (!dir) return yx_fail_errno("cannot open %s", folder);
    for (const struct dirent *entry; status == YX_OK && (entry = readdir(dir));)
        if (is_event_file(entry)) status = take(context, entry->d_name);
    closedir(dir);
    return status;
}

static yx_status note_seconds(void *context, const char *name) {
    long long *latest = context, seconds = strtoll(name + strlen(PREFIX), NULL, 10);
    if (seconds > *latest) *latest = seconds;
    return YX_OK;
}

static yx_status note_any(void *context, const char *name) {
    (void)name;
    *(bool *)context = true;
    return YX_OK;
}

static yx_status remove_file(void *context, const char *name) {
    char *path;
    yx_status status = yx_format(&path, "%s/%s", (const char *)context, name);
    if (status != YX_OK) return status;
    if (unlink(path) != 0) status = yx_fail_errno("cannot delete %s", path);
    free(path);
    return status;
}

yx_status event_file_any(const char *folder, bool *any) {
    *any = false;
    return each_file(folder, note_any, any);
}

yx_status event_file_remove_all(const char *folder) { return each_file(folder, remove_file, (void *)folder); }

// --- Writing
static yx_status write_beginning(event_file *e, int64_t step) {
    bytes event, session = {.size = 0};
    begin_event(&event, 0);
    put_bytes(&event, EVENT_FILE_VERSION, "brain.Event:2", 13);
    yx_status status = write_event(e, &event);
    if (status != YX_OK) return status;
    begin_event(&event, step);
    put_key(&session, SESSION_LOG_STATUS, WIRE_VARINT);
    put_varint(&session, SESSION_START);
    put_bytes(&event, EVENT_SESSION_LOG, session.data, session.size);
    status = write_event(e, &event);
    return status == YX_OK ? event_file_flush(e) : status;
}

yx_status event_file_open(const char *folder, int64_t step, event_file **out) {
    yx_status status = YX_OK;
    char host[256] = "";
    long long latest = 0, seconds = (long long)now();
    *out = NULL;
    event_file *e = calloc(1, sizeof *e);
    if (!e) return yx_fail(YX_ERR_NO_MEMORY, "no memory for an event file");
    YX_CHECK(yx_make_dirs(folder));
    YX_CHECK(each_file(folder, note_seconds, &latest));
    if (seconds <= latest) seconds = latest + 1; // a second start within a second, or a clock that was set back
    if (gethostname(host, sizeof host - 1) != 0 || !*host) strcpy(host, "localhost");
    YX_CHECK(yx_format(&e->path, "%s/%s%010lld.%s.%ld", folder, PREFIX, seconds, host, (long)getpid()));
    e->file = fopen(e->path, "wbxe");
    if (!e->file) {
        status = yx_fail_errno("cannot create %s", e->path);
        goto fail;
    }
    setvbuf(e->file, e->buffer, _IOFBF, BUFFER);
    YX_CHECK(write_beginning(e, step));
    *out = e;
    return YX_OK;
fail:
    event_file_close(e);
    return status;
}

yx_status event_file_add(event_file *e, int64_t step, const event_scalar *scalars, int count) {
    bytes event, summary = {.size = 0};
    if (count > EVENT_FILE_MAX_SCALARS) return yx_fail(YX_ERR_INTERNAL, "%d values in one event", count);
    for (int i = 0; i < count; i++) {
        if (strlen(scalars[i].tag) > EVENT_FILE_MAX_TAG)
            return yx_fail(YX_ERR_INTERNAL, "the tag %s is too long", scalars[i].tag);
        put_scalar(&summary, &scalars[i]);
    }
    begin_event(&event, step);
    put_bytes(&event, EVENT_SUMMARY, summary.data, summary.size);
    yx_status status = write_event(e, &event);
    if (status != YX_OK || now() - e->flushed < FLUSH_SECONDS) return status;
    return event_file_flush(e);
}

yx_status event_file_flush(event_file *e) {
    e->flushed = now();
    errno = 0;
    return fflush(e->file) == 0 ? YX_OK : yx_fail_errno("cannot write %s", e->path);
}

void event_file_close(event_file *e) {
    if (!e) return;
    if (e->file) fclose(e->file);
    free(e->path);
    free(e);
}

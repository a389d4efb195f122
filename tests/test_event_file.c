// Event files: the bytes of a record by hand; names that sort; a disk that is full; what is deleted.
// tests/test_tensorboard.py reads whole runs with TensorBoard's reader.
#include "io/event_file.h"
#include "common/file.h"
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/yxanul-events-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return yx_remove_tree(folder) == YX_OK ? 0 : -1;
}

static int not_hidden(const struct dirent *entry) { return entry->d_name[0] != '.'; }

// The i-th name of the folder, in order, and how many there are.
static int name_of(int i, char out[512]) {
    struct dirent **list;
    int n = scandir(folder, &list, not_hidden, alphasort);
    assert_true(n >= 0);
    if (i < n) snprintf(out, 512, "%s/%s", folder, list[i]->d_name);
    for (int k = 0; k < n; k++) free(list[k]);
    free(list);
    return n;
}

// CRC-32C bit by bit.
static uint32_t slow_crc(const uint8_t *data, size_t size) {
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint64_t number(const uint8_t *p, int size) {
    uint64_t x = 0;
    for (int i = size - 1; i >= 0; i--) x = x << 8 | p[i];
    return x;
}

static void check_crc(const uint8_t *stored, const uint8_t *data, size_t size) {
    uint32_t crc = slow_crc(data, size);
    assert_int_equal(number(stored, 4), (uint32_t)((crc >> 15 | crc << 17) + 0xa282ead8u));
}

// A record's data, and where the next one is.
static const uint8_t *record(const uint8_t **p, const uint8_t *end, size_t *size) {
    assert_true(end - *p >= 16);
    const uint8_t *data = *p + 12;
    *size = (size_t)number(*p, 8);
    assert_true(*size <= (size_t)(end - data) - 4);
    check_crc(*p + 8, *p, 8);
    check_crc(data + *size, data, *size);
    *p = data + *size + 4;
    return data;
}

// Wall time and step come first in every event.
static const uint8_t *after_head(const uint8_t *data, const char *step, size_t step_bytes) {
    double seconds;
    assert_int_equal(data[0], 0x09);
    memcpy(&seconds, data + 1, 8);
    assert_true(fabs(seconds - (double)time(NULL)) < 60);
    assert_int_equal(data[9], 0x10);
    assert_memory_equal(data + 10, step, step_bytes);
    return data + 10 + step_bytes;
}

static void test_bytes(void **state) {
    (void)state;
    event_file *e;
    char path[512], *text;
    size_t size, length;
    const event_scalar scalars[] = {{"a", 1.5}, {"train/loss", NAN}};
    assert_int_equal(event_file_open(folder, 300, &e), YX_OK);
    assert_int_equal(event_file_add(e, 301, scalars, 2), YX_OK);
    event_file_close(e);
    assert_int_equal(name_of(0, path), 1);
    assert_int_equal(yx_read_file(path, 1 << 20, &text, &size), YX_OK);
    const uint8_t *p = (const uint8_t *)text, *end = p + size;

    const uint8_t *data = record(&p, end, &length);
    assert_memory_equal(after_head(data, "\0", 1),
                        "\x1a\x0d"
                        "brain.Event:2",
                        15);
    assert_int_equal(length, 11 + 15);
    data = record(&p, end, &length);
    assert_memory_equal(after_head(data, "\xac\x02", 2), "\x3a\x02\x08\x01", 4);
    assert_int_equal(length, 12 + 4);
    data = record(&p, end, &length);
    const uint8_t *summary = after_head(data, "\xad\x02", 2);
    assert_memory_equal(summary,
                        "\x2a\x1d\x0a\x08\x0a\x01"
                        "a\x15\x00\x00\xc0\x3f\x0a\x11\x0a\x0atrain/loss\x15",
                        28);
    float nan;
    memcpy(&nan, summary + 27, 4);
    assert_true(isnan(nan));
    assert_int_equal(length, 12 + 2 + 29);
    assert_ptr_equal(p, end);
    free(text);
}

static void test_order(void **state) {
    (void)state;
    char first[512], name[512];
    for (int i = 0; i < 5; i++) {
        event_file *e;
        assert_int_equal(event_file_open(folder, i, &e), YX_OK);
        event_file_close(e);
        assert_int_equal(name_of(i, name), i + 1);
        if (i > 0) assert_true(strcmp(name, first) > 0);
        strcpy(first, name);
    }
    snprintf(name, sizeof name, "%s/events.out.tfevents.9000000000.other.1", folder);
    assert_int_equal(yx_write_file_atomic(name, "", 0), YX_OK); // of a clock that was wrong
    event_file *e;
    assert_int_equal(event_file_open(folder, 1, &e), YX_OK);
    event_file_close(e);
    assert_int_equal(name_of(6, name), 7);
    assert_non_null(strstr(name, "/events.out.tfevents.9000000001."));
}

static void test_remove(void **state) {
    (void)state;
    char path[512];
    bool any;
    event_file *e;
    assert_int_equal(event_file_any("/tmp/yxanul-no-such-folder", &any), YX_OK);
    assert_false(any);
    assert_int_equal(event_file_remove_all("/tmp/yxanul-no-such-folder"), YX_OK);
    snprintf(path, sizeof path, "%s/notes", folder);
    assert_int_equal(yx_write_file_atomic(path, "x", 1), YX_OK);
    assert_int_equal(event_file_any(folder, &any), YX_OK);
    assert_false(any);
    assert_int_equal(event_file_open(folder, 1, &e), YX_OK);
    event_file_close(e);
    assert_int_equal(event_file_any(folder, &any), YX_OK);
    assert_true(any);
    assert_int_equal(event_file_remove_all(folder), YX_OK);
    assert_int_equal(name_of(0, path), 1);
    assert_non_null(strstr(path, "/notes"));
}

static void test_limits(void **state) {
    (void)state;
    event_file *e;
    char tag[EVENT_FILE_MAX_TAG + 2];
    event_scalar scalars[EVENT_FILE_MAX_SCALARS + 1];
    memset(tag, 'x', sizeof tag);
    tag[EVENT_FILE_MAX_TAG] = 0;
    for (int i = 0; i <= EVENT_FILE_MAX_SCALARS; i++) scalars[i] = (event_scalar){tag, i};
    assert_int_equal(event_file_open(folder, INT64_MAX, &e), YX_OK);
    assert_int_equal(event_file_add(e, INT64_MAX, scalars, EVENT_FILE_MAX_SCALARS), YX_OK);
    assert_int_equal(event_file_add(e, 1, scalars, EVENT_FILE_MAX_SCALARS + 1), YX_ERR_INTERNAL);
    tag[EVENT_FILE_MAX_TAG] = 'x', tag[EVENT_FILE_MAX_TAG + 1] = 0;
    assert_int_equal(event_file_add(e, 1, scalars, 1), YX_ERR_INTERNAL);
    event_file_close(e);
    event_file_close(NULL);
}

// In a child, which may write no file of more than a few hundred bytes.
static yx_status write_until_full(void) {
    const event_scalar scalar = {"train/loss", 1};
    event_file *e;
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {400, 400};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return YX_ERR_INTERNAL;
    yx_status status = event_file_open(folder, 1, &e);
    if (status != YX_OK) return YX_ERR_INTERNAL;
    for (int i = 1; i < 20 && status == YX_OK; i++) status = event_file_add(e, i, &scalar, 1);
    if (status != YX_OK) return YX_ERR_INTERNAL; // they are all kept back
    status = event_file_flush(e);
    if (!strstr(yx_message(), "cannot write ") || !strstr(yx_message(), "events.out.tfevents."))
        status = YX_ERR_INTERNAL;
    event_file_close(e);
    return status;
}

static void test_full(void **state) {
    (void)state;
    int code;
    pid_t child = fork();
    if (child == 0) _exit(write_until_full());
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), YX_ERR_IO);
    event_file *e;
    assert_int_equal(event_file_open("/dev/null/folder", 1, &e), YX_ERR_IO);
    assert_null(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_order, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_remove, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_limits, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_full, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

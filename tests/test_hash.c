// Checksums against published values, and the processor's instruction against the tables.
#include "common/hash.h"
#include "common/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

// RFC 3720, B.4.
static void knows_the_published_crc32c(void **state) {
    (void)state;
    unsigned char bytes[32] = {0};
    assert_int_equal(yx_crc32c(0, bytes, 32), 0x8a9136aa);
    for (int i = 0; i < 32; i++) bytes[i] = 0xff;
    assert_int_equal(yx_crc32c(0, bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    assert_int_equal(yx_crc32c(0, bytes, 32), 0x46dd794e);
    assert_int_equal(yx_crc32c(0, "123456789", 9), 0xe3069283);
}

static void every_processor_finds_the_same_crc32c(void **state) {
    (void)state;
    unsigned char bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)yx_mix64(7, i);
    for (size_t begin = 0; begin < 9; begin++)
        for (size_t size = 0; begin + size <= sizeof bytes; size++) {
            uint32_t whole = yx_crc32c(0, bytes + begin, size);
            assert_int_equal(yx_crc32c_portable(0, bytes + begin, size), whole);
            assert_int_equal(
                yx_crc32c(yx_crc32c(0, bytes + begin, size / 3), bytes + begin + size / 3, size - size / 3), whole);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(knows_the_published_crc32c),
                                       cmocka_unit_test(every_processor_finds_the_same_crc32c)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

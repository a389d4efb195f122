#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include "common/dtype.h"
#include "common/rng.h"

typedef struct codec {
    yx_dtype type;
    float (*decode)(yx_fp8);
    yx_fp8 (*encode)(float);
    int bias, mantissa, finite; // finite: codes of one sign that are finite
} codec;
static const codec codecs[] = {{YX_E4M3, yx_e4m3_to_float, yx_e4m3_from_float, 7, 3, 0x7f},
                               {YX_E5M2, yx_e5m2_to_float, yx_e5m2_from_float, 15, 2, 0x7c}};

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

// The value by its definition.
static float defined(const codec *c, int code) {
    int e = code >> c->mantissa, m = code & ((1 << c->mantissa) - 1);
    return e ? ldexpf((float)(m + (1 << c->mantissa)), e - c->bias - c->mantissa)
             : ldexpf((float)m, 1 - c->bias - c->mantissa);
}

static void decodes_every_code(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const codec *c = &codecs[i];
        for (int code = 0; code < 128; code++) {
            float plus = c->decode((yx_fp8)code), minus = c->decode((yx_fp8)(code | 0x80));
            if (code < c->finite) assert_true(plus == defined(c, code) && minus == -plus && signbit(minus));
            else if (c->type == YX_E5M2 && code == 0x7c)
                assert_true(isinf(plus) && isinf(minus) && plus > 0 && minus < 0);
            else assert_true(isnan(plus) && isnan(minus));
        }
    }
    assert_true(yx_e4m3_to_float(0x7e) == YX_E4M3_MAX && yx_dtype_max(YX_E4M3) == YX_E4M3_MAX);
    assert_true(yx_e5m2_to_float(0x7b) == YX_E5M2_MAX && yx_dtype_max(YX_E5M2) == YX_E5M2_MAX);
}

// The nearest finite code by search; ties go to the even one.
static int nearest(const codec *c, float a) {
    int best = 0;
    for (int code = 1; code < c->finite; code++) {
        double d = fabs((double)a - (double)defined(c, code)), before = fabs((double)a - (double)defined(c, best));
        if (d < before || (d == before && code % 2 == 0)) best = code;
    }
    return best;
}

static void encodes_to_the_nearest(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const codec *c = &codecs[i];
        for (int code = 0; code + 1 < c->finite; code++) {
            float low = defined(c, code), high = defined(c, code + 1), middle = low + (high - low) / 2;
            const float around[] = {low,    nextafterf(low, high),    nextafterf(middle, low),
                                    middle, nextafterf(middle, high), nextafterf(high, low),
                                    high};
            for (size_t j = 0; j < sizeof around / sizeof *around; j++) {
                assert_int_equal(c->encode(around[j]), nearest(c, around[j]));
                assert_int_equal(c->encode(-around[j]), nearest(c, around[j]) | 0x80);
            }
        }
        for (uint64_t n = 0; n < 20000; n++) {
            float x = (float)(yx_normal(1, 0, n) * pow(2, 40 * yx_uniform(1, 1, n) - 25));
            int sign = signbit(x) ? 0x80 : 0;
            assert_int_equal(c->encode(x), nearest(c, fabsf(x)) | sign);
        }
    }
}

static void saturates(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const codec *c = &codecs[i];
        int largest = c->finite - 1;
        const float above[] = {nextafterf(defined(c, largest), INFINITY), 2 * defined(c, largest), 1e30f, INFINITY};
        for (size_t j = 0; j < sizeof above / sizeof *above; j++) {
            assert_int_equal(c->encode(above[j]), largest);
            assert_int_equal(c->encode(-above[j]), largest | 0x80);
        }
        assert_true(isnan(c->decode(c->encode(NAN))) && isnan(c->decode(c->encode(-NAN))));
        assert_int_equal(c->encode(0.0f), 0);
        assert_int_equal(c->encode(-0.0f), 0x80);
        assert_int_equal(c->encode(1e-44f), 0);
    }
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        float x = yx_bf16_to_float((yx_bf16)code);
        assert_int_equal(bits_of(x), code << 16);
        if (isnan(x)) assert_true(isnan(yx_bf16_to_float(yx_bf16_from_float(x))));
        else assert_int_equal(yx_bf16_from_float(x), code);
        if (!isfinite(x)) continue;
        uint32_t half = (code << 16) | 0x8000;
        float middle, below, above;
        memcpy(&middle, &half, 4);
        uint32_t less = half - 1, more = half + 1;
        memcpy(&below, &less, 4);
        memcpy(&above, &more, 4);
        assert_int_equal(yx_bf16_from_float(below), code);
        assert_int_equal(yx_bf16_from_float(above), code + 1);
        assert_int_equal(yx_bf16_from_float(middle), code + (code & 1));
    }
    uint32_t signalling = 0x7f800001;
    float nan;
    memcpy(&nan, &signalling, 4);
    assert_true(isnan(yx_bf16_to_float(yx_bf16_from_float(nan))));
}

static void many_equal_one_by_one(void **state) {
    (void)state;
    enum { N = 1000 };
    const yx_dtype types[] = {YX_F32, YX_BF16, YX_E4M3, YX_E5M2};
    yx_real x[N], back[N], out[N];
    for (int i = 0; i < N; i++) x[i] = (yx_real)(yx_normal(2, 0, (uint64_t)i) * pow(2, i % 40 - 20));
    x[5] = NAN, x[6] = INFINITY, x[7] = -INFINITY, x[8] = 0;
    for (size_t t = 0; t < 4; t++)
        for (int n = N - 40; n <= N; n++)
            for (int scaled = 0; scaled < 2; scaled++) {
                float scale = scaled ? 0.25f : 1.0f;
                uint32_t clipped = yx_encode(types[t], x, scale, n, out), expected = 0;
                yx_decode(types[t], out, n, back);
                for (int i = 0; i < n; i++) {
                    float y = (float)x[i] * scale;
                    if (types[t] == YX_F32) assert_true(out[i] == y || isnan(y));
                    if (types[t] == YX_BF16) assert_int_equal(((yx_bf16 *)out)[i], yx_bf16_from_float(y));
                    if (t < 2) continue;
                    const codec *c = &codecs[t - 2];
                    yx_fp8 code = ((yx_fp8 *)out)[i];
                    assert_int_equal(code, c->encode(y));
                    float value = c->decode(code);
                    assert_true((float)back[i] == value || (isnan(value) && isnan(back[i])));
                    expected += fabsf(y) > yx_dtype_max(types[t]);
                }
                assert_int_equal(clipped, expected);
            }
}

static void names_and_sizes(void **state) {
    (void)state;
    assert_string_equal(yx_dtype_name(YX_F32), "fp32");
    assert_string_equal(yx_dtype_name(YX_E5M2), "e5m2");
    assert_int_equal(yx_dtype_size(YX_F32), sizeof(yx_real));
    assert_int_equal(yx_dtype_size(YX_BF16), 2);
    assert_int_equal(yx_dtype_size(YX_E4M3), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_every_code),
        cmocka_unit_test(encodes_to_the_nearest),
        cmocka_unit_test(saturates),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(many_equal_one_by_one),
        cmocka_unit_test(names_and_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

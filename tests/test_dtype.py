"""Number formats against ml_dtypes: every 8-bit code, every bf16 code, and encoding of values around every code.

ml_dtypes follows IEEE on overflow (e4m3fn: NaN, e5m2: infinity); ours saturates to the largest finite value, whatever
the magnitude, infinity included. So values that round within range are compared with ml_dtypes, those above with the rule.
"""
import ctypes
import os
import subprocess
import sys
import tempfile

try:
    import ml_dtypes
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def library(folder):
    path = os.path.join(folder, "dtype.so")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", "-I.", "common/dtype.c", "-o", path], check=True)
    lib = ctypes.CDLL(path)
    lib.yx_encode.restype = ctypes.c_uint32
    lib.yx_encode.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_float, ctypes.c_int64, ctypes.c_void_p]
    lib.yx_decode.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    for name in ("e4m3", "e5m2"):
        getattr(lib, f"yx_{name}_from_float").restype = ctypes.c_uint8
        getattr(lib, f"yx_{name}_from_float").argtypes = [ctypes.c_float]
        getattr(lib, f"yx_{name}_to_float").restype = ctypes.c_float
        getattr(lib, f"yx_{name}_to_float").argtypes = [ctypes.c_uint8]
    return lib


def encode(lib, dtype, values, storage):
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty(values.size, storage)
    clipped = lib.yx_encode(dtype, values.ctypes.data, 1.0, values.size, out.ctypes.data)
    return out, clipped


def decode(lib, dtype, codes):
    out = np.empty(codes.size, np.float32)
    lib.yx_decode(dtype, codes.ctypes.data, codes.size, out.ctypes.data)
    return out


def same_floats(a, b):
    return np.array_equal(a.view(np.uint32)[~np.isnan(a)], b.view(np.uint32)[~np.isnan(b)]) and np.array_equal(
        np.isnan(a), np.isnan(b))


def candidates(values):
    """Every finite value of a format, the middles between neighbours, and the floats next to both."""
    values = np.unique(values[np.isfinite(values)].astype(np.float64)).astype(np.float32)
    points = np.concatenate([values, values[:-1] + (values[1:] - values[:-1]) / 2])
    around = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))]
    random = np.random.default_rng(1).standard_normal(1 << 18) * 2.0 ** np.random.default_rng(2).uniform(-30, 20, 1 << 18)
    return np.concatenate([*around, random, -random]).astype(np.float32)


def check_fp8(lib, name, dtype, reference):
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(reference).astype(np.float32)
    assert same_floats(decode(lib, dtype, codes), expected), f"{name}: decoding"
    one_by_one = np.array([getattr(lib, f"yx_{name}_to_float")(int(c)) for c in codes], np.float32)
    assert same_floats(one_by_one, expected), f"{name}: decoding one by one"

    largest = float(ml_dtypes.finfo(reference).max)
    x = candidates(expected)
    inside = x[np.abs(x) <= largest]
    got, clipped = encode(lib, dtype, inside, np.uint8)
    assert clipped == 0
    assert np.array_equal(got, inside.astype(reference).view(np.uint8)), f"{name}: encoding"
    some = inside[:: max(1, inside.size // 5000)]
    one_by_one = np.array([getattr(lib, f"yx_{name}_from_float")(float(v)) for v in some], np.uint8)
    assert np.array_equal(one_by_one, some.astype(reference).view(np.uint8)), f"{name}: encoding one by one"

    above = np.array([np.nextafter(np.float32(largest), np.float32(np.inf)), largest * 1.01, largest * 2, 1e38, np.inf],
                     np.float32)
    top = np.array([largest], np.float32).astype(reference).view(np.uint8)[0]
    for sign, bit in ((1, 0), (-1, 0x80)):
        got, clipped = encode(lib, dtype, sign * above, np.uint8)
        assert clipped == above.size and np.all(got == (top | bit)), f"{name}: saturation"
    got, clipped = encode(lib, dtype, np.array([np.nan], np.float32), np.uint8)
    assert clipped == 0 and np.isnan(got.view(reference).astype(np.float32))[0], f"{name}: NaN"
    return inside.size


def check_bf16(lib):
    codes = np.arange(65536, dtype=np.uint16)
    expected = codes.view(ml_dtypes.bfloat16).astype(np.float32)
    assert same_floats(decode(lib, 1, codes), expected), "bf16: decoding"
    finite = codes[np.isfinite(expected)]
    around = (finite.astype(np.uint32) << 16)[:, None] + np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = np.concatenate([around.ravel().view(np.float32), np.array([np.inf, -np.inf], np.float32)])
    got, _ = encode(lib, 1, x, np.uint16)
    assert np.array_equal(got, x.astype(ml_dtypes.bfloat16).view(np.uint16)), "bf16: encoding"
    got, _ = encode(lib, 1, expected[np.isnan(expected)], np.uint16)
    assert np.all(np.isnan(got.view(ml_dtypes.bfloat16).astype(np.float32))), "bf16: NaN"
    return x.size


def main():
    with tempfile.TemporaryDirectory() as folder:
        lib = library(folder)
        count = check_bf16(lib)
        print(f"bf16: 65536 codes decode and {count} values encode as ml_dtypes {ml_dtypes.__version__} does")
        for name, dtype, reference in (("e4m3", 2, ml_dtypes.float8_e4m3fn), ("e5m2", 3, ml_dtypes.float8_e5m2)):
            count = check_fp8(lib, name, dtype, reference)
            print(f"{name}: 256 codes decode and {count} values within range encode as ml_dtypes does; above it saturates")


main()

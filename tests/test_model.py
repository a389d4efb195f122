"""Loss and gradients of the C model against NumPy: packed documents, T from 1 to 300, GQA 6:1, 3:1, 1:1, padding."""
import os, subprocess, sys, tempfile
import numpy as np
from numpy_model import Model

BUILD = os.environ.get("YX_BUILD", "build")
VOCAB, RANK, HIDDEN, LAYERS, HEAD_DIM, INTERMEDIATE = 211, 24, 48, 3, 16, 80


def parameters(draw, heads, kv_heads):
    shapes = {"embed.weight": (VOCAB, RANK), "proj.weight": (RANK, HIDDEN)}
    for l in range(LAYERS):
        shapes |= {f"layers.{l}.norm1.weight": (HIDDEN,),
                   f"layers.{l}.qkv.weight": ((heads + 2 * kv_heads) * HEAD_DIM, HIDDEN),
                   f"layers.{l}.o.weight": (HIDDEN, heads * HEAD_DIM), f"layers.{l}.norm2.weight": (HIDDEN,),
                   f"layers.{l}.gate_up.weight": (2 * INTERMEDIATE, HIDDEN),
                   f"layers.{l}.down.weight": (HIDDEN, INTERMEDIATE)}
    shapes["norm.weight"] = (HIDDEN,)
    return {n: (draw.normal(1, 0.2, s) if len(s) == 1 else draw.normal(0, 0.15, s)).astype(np.float32)
            for n, s in shapes.items()}


def batch(draw, lengths):
    """Documents of these lengths one after another, filled up with padding to a multiple of 128."""
    total = sum(lengths)
    rows = -(-(total + 3) // 128) * 128
    token, target, start = np.zeros(rows, np.int32), np.full(rows, -1, np.int32), np.arange(rows, dtype=np.int32)
    token[:total], target[:total] = draw.integers(0, VOCAB, (2, total))
    target[:total][draw.random(total) < 0.1] = -1
    target[0] = 5
    start[:total] = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    return token, target, start


def ours(params, arrays, heads, kv_heads, precision, *more):
    """Loss and gradients of model_dump; more: device, recipe, "recompute"."""
    sizes = (VOCAB, RANK, HIDDEN, LAYERS, heads, kv_heads, HEAD_DIM, INTERMEDIATE)
    return dump(f"{BUILD}/model_dump", params, arrays, sizes, precision, *more)


def dump(program, params, arrays, sizes, precision, *more):
    with tempfile.TemporaryDirectory() as folder:
        np.concatenate([p.ravel() for p in params.values()]).tofile(f"{folder}/params.bin")
        np.stack(arrays).tofile(f"{folder}/batch.bin")
        arguments = (program, folder, *sizes, len(arrays[0]), precision, *more)
        done = subprocess.run([*map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        flat = np.fromfile(f"{folder}/grads.bin", np.float32)
    grads, at = {}, 0
    for name, p in params.items():
        grads[name] = flat[at:at + p.size].reshape(p.shape)
        at += p.size
    return float(done.stdout), grads


def check(draw, heads, kv_heads, lengths, precision, bound):
    params = parameters(draw, heads, kv_heads)
    arrays = batch(draw, lengths)
    loss, grads = ours(params, arrays, heads, kv_heads, precision)
    expected, exact = Model({n: p.astype(np.float64) for n, p in params.items()}, heads, kv_heads, HEAD_DIM).run(*arrays)
    worst = max(np.linalg.norm(grads[n] - exact[n]) / np.linalg.norm(exact[n]) for n in exact)
    assert abs(loss - expected) / expected <= bound, (loss, expected)
    assert worst <= bound, (worst, heads, kv_heads, lengths)
    return worst


def check_numpy(draw):
    """The oracle itself against central differences."""
    params = {n: p.astype(np.float64) for n, p in parameters(draw, 6, 2).items()}
    arrays = batch(draw, [5, 17, 1, 30])
    model = Model(params, 6, 2, HEAD_DIM)
    grads, worst = model.run(*arrays)[1], 0
    for name, p in params.items():
        direction = draw.normal(size=p.shape)
        values = []
        for h in (1e-5, -1e-5):
            model.p = {**params, name: p + h * direction}
            values.append(model.run(*arrays)[0])
        exact = (grads[name] * direction).sum()
        worst = max(worst, abs((values[0] - values[1]) / 2e-5 - exact) / np.linalg.norm(grads[name]))
    assert worst < 1e-6, worst
    print(f"NumPy's own gradients against central differences: {worst:.1e}")


def main():
    draw = np.random.default_rng(1)
    check_numpy(draw)
    patterns = {f"T = {t}": [t] * max(1, 250 // t) for t in (1, 2, 7, 8, 64, 77, 128, 300)}
    patterns["packed"] = [3, 100, 1, 64, 8, 8, 45, 140]
    for heads, kv_heads in ((6, 1), (6, 2), (4, 4)):
        worst = {name: check(draw, heads, kv_heads, lengths, "fp32", 1e-5) for name, lengths in patterns.items()}
        print(f"{heads}:{kv_heads} heads, fp32: worst relative error {max(worst.values()):.1e} "
              f"({', '.join(f'{n} {e:.0e}' for n, e in worst.items())})")
    print(f"6:1 heads, bf16: {check(draw, 6, 1, patterns['packed'], 'bf16', 5e-2):.1e}")


if __name__ == "__main__":
    main()

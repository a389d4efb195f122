"""The whole model's gradients on the GPU: each tensor's distance to PyTorch's in fp32, beside the distance of PyTorch's own bf16 on
the same weights and tokens. Needs a GPU and PyTorch; test_gpu_model.py [layers] (default 28, the 197M model)."""
import os, subprocess, sys, tempfile
import numpy as np

try:
    import torch
    from torch_model import Model, names_and_shapes
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
if not torch.cuda.is_available():
    print("skipped: no GPU")
    sys.exit(77)

DUMP = os.environ.get("YX_DUMP", os.path.join(os.environ.get("YX_BUILD", "build"), "model_dump"))
SIZES = dict(vocab=200005, rank=128, hidden=768, layers=28, heads=12, kv_heads=2, head_dim=64, intermediate=2048)
WORST_RATIO = 1.25


def parameters(draw, sizes):
    """As a run begins, but with gains that are not all 1."""
    scale = 1 / np.sqrt(2 * sizes["layers"])
    out = {}
    for name, shape in names_and_shapes(sizes).items():
        std = 0.02 * (scale if name.endswith(("o.weight", "down.weight")) and "proj" not in name else 1)
        value = draw.normal(1, 0.1, shape) if len(shape) == 1 else draw.normal(0, std, shape)
        out[name] = value.astype(np.float32)
    return out


def batch(draw, sizes, lengths):
    total = sum(lengths)
    rows = -(-(total + 3) // 128) * 128
    token, target, start = np.zeros(rows, np.int32), np.full(rows, -1, np.int32), np.arange(rows, dtype=np.int32)
    token[:total], target[:total] = draw.integers(0, sizes["vocab"], (2, total))
    start[:total] = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    return token, target, start


def ours(folder, sizes, params, arrays, *how):
    np.stack(arrays).tofile(f"{folder}/batch.bin")
    order = ("vocab", "rank", "hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate")
    done = subprocess.run([DUMP, folder, *(str(sizes[k]) for k in order), str(len(arrays[0])), *how], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"model_dump {how}: {done.stderr}")
    flat = torch.from_numpy(np.fromfile(f"{folder}/grads.bin", np.float32)).cuda()
    grads, at = {}, 0
    for name, p in params.items():
        grads[name] = flat[at:at + p.size].view(p.shape)
        at += p.size
    return float(done.stdout), grads


def errors(grads, exact):
    return {n: ((grads[n] - exact[n]).double().norm() / exact[n].double().norm()).item() for n in exact}


def main():
    sizes = dict(SIZES, layers=int(sys.argv[1]) if len(sys.argv) > 1 else SIZES["layers"])
    torch.backends.cuda.matmul.allow_tf32 = False
    draw = np.random.default_rng(3)
    params = parameters(draw, sizes)
    patterns = {f"T = {t}": [t] * max(1, 1000 // t) for t in (1, 8, 77, 768, 2048)}
    patterns["packed"] = [3, 700, 1, 64, 8, 8, 450, 140, 130, 33]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        np.concatenate([p.ravel() for p in params.values()]).tofile(f"{folder}/params.bin")
        on_gpu = {n: torch.from_numpy(p).cuda().requires_grad_() for n, p in params.items()}
        for name, lengths in patterns.items():
            arrays = batch(draw, sizes, lengths)
            tensors = [torch.from_numpy(a).cuda() for a in arrays]
            exact_loss, exact = Model(sizes, on_gpu, torch.float32).run(*tensors)
            torch_loss, rounded = Model(sizes, on_gpu, torch.bfloat16).run(*tensors)
            theirs = errors(rounded, exact)
            loss, grads = ours(folder, sizes, params, arrays, "bf16", "cuda")
            mine = errors(grads, exact)
            worst = max(exact, key=lambda n: mine[n] / theirs[n])
            print(f"{name:8} loss {exact_loss:.5f}, bf16 off by {loss - exact_loss:+.1e} (PyTorch {torch_loss - exact_loss:+.1e}); gradients: "
                  f"mean error {np.mean(list(mine.values())):.2e} (PyTorch {np.mean(list(theirs.values())):.2e}), worst ratio "
                  f"{mine[worst] / theirs[worst]:.3f} ({worst}: {mine[worst]:.2e})", flush=True)
            if not mine[worst] <= WORST_RATIO * theirs[worst] or abs(loss - exact_loss) > 0.01:
                failed.append(name)
            if name in ("T = 77", "packed"):
                for recipe in ("bounded-delayed", "current", "forward-only"):
                    loss, grads = ours(folder, sizes, params, arrays, "fp8", "cuda", recipe)
                    print(f"         fp8 {recipe}: loss off by {loss - exact_loss:+.1e}, mean error "
                          f"{np.mean(list(errors(grads, exact).values())):.2e}", flush=True)
                first = ours(folder, sizes, params, arrays, "fp8", "cuda", "bounded-delayed")
                again = ours(folder, sizes, params, arrays, "fp8", "cuda", "bounded-delayed", "recompute")
                if first[0] != again[0] or any(not torch.equal(first[1][n], again[1][n]) for n in exact):
                    failed.append(f"{name}: recompute differs")
            del exact, rounded, grads
            torch.cuda.empty_cache()
    if failed:
        sys.exit(f"failed: {failed}")
    print("ok")


main()

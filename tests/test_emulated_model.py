"""The whole model through the CUDA kernels, run on the CPU by the emulator: gradients beside those of the CPU backend, in bf16 and
with every 8-bit recipe, against float64."""
import os, sys
import numpy as np
import test_model
from numpy_model import Model

BUILD = os.environ.get("YX_BUILD", "build")
PROGRAMS = {"cpu": f"{BUILD}/model_dump", "cuda": f"{BUILD}/emulated/model_dump"}
RUNS = (("bf16",), ("fp8", "bounded-delayed"), ("fp8", "current"), ("fp8", "forward-only"))


def check(draw, heads, kv_heads, lengths):
    params, arrays = test_model.parameters(draw, heads, kv_heads), test_model.batch(draw, lengths)
    sizes = (test_model.VOCAB, test_model.RANK, test_model.HIDDEN, test_model.LAYERS, heads, kv_heads, test_model.HEAD_DIM,
             test_model.INTERMEDIATE)
    exact_loss, exact = Model({n: p.astype(np.float64) for n, p in params.items()}, heads, kv_heads, test_model.HEAD_DIM).run(*arrays)

    def run(device, precision, *more):
        loss, grads = test_model.dump(PROGRAMS[device], params, arrays, sizes, precision, device, *more)
        return loss, grads, {n: np.linalg.norm(grads[n] - exact[n]) / np.linalg.norm(exact[n]) for n in exact}

    for how in RUNS:
        cpu_loss, _, cpu = run("cpu", *how)
        loss, grads, cuda = run("cuda", *how)
        ratios = {n: cuda[n] / cpu[n] for n in exact}
        worst = max(ratios, key=ratios.get)
        print(f"{' '.join(how):20} {heads}:{kv_heads} loss {exact_loss:.5f}, cpu {cpu_loss - exact_loss:+.1e}, cuda {loss - exact_loss:+.1e}; "
              f"mean error cpu {np.mean(list(cpu.values())):.2e}, cuda {np.mean(list(cuda.values())):.2e}; worst ratio "
              f"{ratios[worst]:.2f} ({worst})", flush=True)
        assert abs(loss - exact_loss) <= 2 * abs(cpu_loss - exact_loss) + 1e-3 * exact_loss
        assert ratios[worst] <= 1.25, (worst, cuda[worst], cpu[worst])
        recipe = how if len(how) > 1 else (*how, "bounded-delayed")
        again_loss, again = test_model.dump(PROGRAMS["cuda"], params, arrays, sizes, recipe[0], "cuda", recipe[1], "recompute")
        assert again_loss == loss and all(np.array_equal(again[n], grads[n]) for n in grads), f"{how}: recompute differs"


def main():
    if not os.path.exists(PROGRAMS["cuda"]):
        print("skipped: built without the CUDA toolkit")
        sys.exit(77)
    draw = np.random.default_rng(5)
    test_model.VOCAB, test_model.RANK, test_model.HIDDEN = 517, 64, 128
    test_model.LAYERS, test_model.HEAD_DIM, test_model.INTERMEDIATE = 2, 64, 192
    check(draw, 6, 1, [3, 100, 1, 64, 8, 8, 45, 140])
    check(draw, 2, 2, [1] * 17 + [60])
    print("ok")


main()

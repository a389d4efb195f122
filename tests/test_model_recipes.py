"""The ways to multiply in 8 bits, and recomputation, on the CPU: how far each recipe's gradients are from exact ones, and that
computing activations again changes no bit."""
import numpy as np
from numpy_model import Model
from test_model import HEAD_DIM, batch, ours, parameters

HEADS, KV_HEADS = 6, 2


def main():
    draw = np.random.default_rng(2)
    params, arrays = parameters(draw, HEADS, KV_HEADS), batch(draw, [3, 100, 1, 64, 8, 8, 45, 140])
    model = Model({n: p.astype(np.float64) for n, p in params.items()}, HEADS, KV_HEADS, HEAD_DIM)
    exact_loss, exact = model.run(*arrays)

    def error(grads):
        return np.sqrt(sum(((grads[n] - exact[n]) ** 2).sum() for n in exact) / sum((exact[n] ** 2).sum() for n in exact))

    runs = {"bf16": ("bf16",), **{r: ("fp8", "cpu", r) for r in ("bounded-delayed", "current", "forward-only")}}
    errors = {}
    for name, arguments in runs.items():
        loss, grads = ours(params, arrays, HEADS, KV_HEADS, *arguments)
        errors[name] = error(grads)
        assert abs(loss - exact_loss) / exact_loss < 2e-2, (name, loss, exact_loss)
        recipe = arguments if len(arguments) > 1 else (*arguments, "cpu", "bounded-delayed")
        again_loss, again = ours(params, arrays, HEADS, KV_HEADS, *recipe, "recompute")
        assert loss == again_loss and all(np.array_equal(grads[n], again[n]) for n in grads), f"{name}: recompute differs"
    assert errors["bf16"] < errors["forward-only"] < errors["bounded-delayed"] < 0.4, errors
    assert errors["forward-only"] < errors["current"] < 0.4, errors
    print("relative error of all gradients: " + ", ".join(f"{n} {e:.1e}" for n, e in errors.items()))
    print("computing activations again: the same bits with every recipe")


main()

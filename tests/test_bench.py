"""yxanul bench kernels on a small model: every operation of the model is there, with figures that follow from its shape and results
that are right, in every precision."""
import json
import math
import os
import subprocess
import sys
import tempfile

YXANUL = os.path.join(os.environ.get("YX_BUILD", "build"), "yxanul")
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB, RANK = 64, 6, 2, 16, 96, 300, 32
CONFIG = f"""
run_dir: none
model: {{hidden_size: {HIDDEN}, num_layers: 2, num_attention_heads: {HEADS}, num_key_value_heads: {KV_HEADS}, head_dim: {HEAD_DIM},
  intermediate_size: {INTERMEDIATE}, vocab_size: {VOCAB}, embedding_rank: {RANK}, max_position_embeddings: 256}}
data: {{tokenizer: none, path: none}}
training:
  epochs: 1
  learning_rate: 1e-3
  curriculum_stages: [{{seq_len: 64, batch_size: 4, fraction: 1, grad_clip: 1}}]
"""
TOKENS, LENGTHS = 256, [8, 100, 256]
WEIGHTS = {"qkv": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN), "o": (HIDDEN, HEADS * HEAD_DIM), "gate_up": (2 * INTERMEDIATE, HIDDEN),
           "down": (HIDDEN, INTERMEDIATE), "proj": (RANK, HIDDEN)}
SINGLE = ["norm", "norm_backward", "swiglu", "swiglu_backward", "rope", "rope_inverse", "embed", "embed_backward", "head",
          "head_backward", "adamw", "sum_squares", "cast"]
BOUND = {"fp32": 1e-5, "bf16": 5e-3, "fp8": 5e-3}
SIZE = {"fp32": 4, "bf16": 2, "fp8": 2}  # bytes of an activation
failures = 0


def check(what, good, detail=""):
    global failures
    print(f"{'ok    ' if good else 'FAILED'} {what} {'' if good else detail}", flush=True)
    failures += not good


def bench(*args):
    result = subprocess.run([YXANUL, "bench", *map(str, args)], capture_output=True, text=True, timeout=300)
    return result.returncode, result.stdout, result.stderr


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-9)


def check_work(precision, kernels):
    """Operations and bytes that follow from the shapes."""
    size = SIZE[precision]
    for form in ("y", "dx", "dw"):
        for weight, (n, k) in WEIGHTS.items():
            row = kernels[f"matmul {form} {weight}", 0]
            narrow = 1 if precision == "fp8" and weight != "proj" else size
            a, b, out = {"y": (TOKENS * k, n * k, size * TOKENS * n), "dx": (TOKENS * n, n * k, size * TOKENS * k),
                         "dw": (TOKENS * n, TOKENS * k, 8 * n * k)}[form]
            check(f"{precision} {row['name']}: work", close(row["flops"], 2 * TOKENS * n * k) and
                  close(row["bytes"], narrow * (a + b) + out), row)
    for length in LENGTHS:
        forward = 2 * TOKENS * HEADS * HEAD_DIM * length
        check(f"{precision} attention {length}: work", close(kernels["attention", length]["flops"], forward) and
              close(kernels["attention_backward", length]["flops"], 2.5 * forward), kernels["attention", length])
    for name in ("head", "head_backward"):
        check(f"{precision} {name}: work", close(kernels[name, 0]["flops"], 4 * TOKENS * VOCAB * RANK), kernels[name, 0])
    layer = sum(n * k for name, (n, k) in WEIGHTS.items() if name != "proj")
    params = layer + 2 * HIDDEN
    copies = layer * {"fp32": 0, "bf16": 2, "fp8": 1}[precision]
    check(f"{precision} adamw: work", close(kernels["adamw", 0]["bytes"], 28 * params + copies), kernels["adamw", 0])
    check(f"{precision} sum_squares: work", close(kernels["sum_squares", 0]["bytes"], 4 * params), kernels["sum_squares", 0])


def check_figures(precision, result, row):
    """Rates, ceiling and share are what time and work make them."""
    rates, copy = result["product_flops_per_second"], result["copy_bytes_per_second"]
    least = row["bytes"] / copy
    if row["ceiling"] != "copy":
        least = row["flops"] / rates[row["ceiling"]]
    good = (row["seconds"] > 0 and row["rounds"] >= 5 and close(row["share"], least / row["seconds"]) and
            close(row["ceiling_per_second"], rates.get(row["ceiling"], copy)) and
            close(row["bytes_per_second"], row["bytes"] / row["seconds"]) and row["computed_4090_seconds"] == 0)
    check(f"{precision} {row['name']} {row['seq_len'] or ''}: figures", good, row)
    check(f"{precision} {row['name']} {row['seq_len'] or ''}: error {row['error']}",
          row["error"] is not None and row["error"] <= BOUND[precision], row)


def check_precision(config, precision):
    code, out, err = bench("kernels", "--config", config, "--device", "cpu", "--precision", precision, "--json", "--tokens", TOKENS,
                           "--length", *LENGTHS)
    check(f"{precision} runs", code == 0, err)
    if code != 0:
        return
    result = json.loads(out)
    kernels = {(row["name"], 0 if row["name"].startswith("rope") else row["seq_len"]): row for row in result["kernels"]}
    expected = {(f"matmul {form} {weight}", 0) for form in ("y", "dx", "dw") for weight in WEIGHTS} | {(name, 0) for name in SINGLE}
    expected |= {(name, length) for name in ("attention", "attention_backward") for length in LENGTHS}
    check(f"{precision} has every operation once", set(kernels) == expected and len(result["kernels"]) == len(expected),
          set(kernels) ^ expected)
    types = {"fp32": ("fp32", "fp32", "fp32"), "bf16": ("bf16", "bf16", "bf16"), "fp8": ("bf16", "e4m3", "e4m3")}[precision]
    check(f"{precision} types", (result["act"], result["forward"], result["gradient"]) == types, result["act"])
    check_work(precision, kernels)
    for row in result["kernels"]:
        check_figures(precision, result, row)
    # That these are not the errors of nothing: bf16 rounds, fp32 less.
    if precision != "fp32":
        check(f"{precision} rounds", kernels["matmul y qkv", 0]["error"] > 1e-4, kernels["matmul y qkv", 0])


def check_table(config):
    code, out, err = bench("kernels", "--config", config, "--device", "cpu", "--tokens", 128, "--portable", "--set",
                           "training.precision=fp8", "training.fp8_recipe=forward-only")
    lines = out.splitlines()
    check("the table prints", code == 0 and "WRONG" not in out and "of gradients bf16" in out, out + err)
    header = next((i for i, line in enumerate(lines) if line.startswith("operation")), len(lines))
    check("a row for every operation", len(lines) - header - 1 == 15 + len(SINGLE) + 2 * 3, out)
    lengths = [line.split() for line in lines if line.startswith("attention ")]
    check("the usual lengths that fit", len(lengths) == 3, lengths)


def check_usage(config):
    small = ["kernels", "--config", config, "--device", "cpu"]
    for args, code, message in [
        ([], 2, "It knows: train, kernels"),
        (["kernel"], 2, "It knows: train, kernels"),
        (["kernels"], 2, "bench kernels needs --config"),
        (["train"], 2, "bench train needs --config"),
        (small + ["--tokens", "100"], 2, "--tokens"),
        (small + ["--tokens", "200"], 2, "not a multiple of 128"),
        (small + ["--length", "0"], 2, "'0' is not a list of lengths"),
        (small + ["--length", "8,x"], 2, "'8,x' is not a list of lengths"),
        (small + ["--length", ",".join(["8"] * 17)], 2, "at most 16"),
        (small + ["--length", "200", "--tokens", "128"], 2, "do not fit 128 tokens"),
        (small + ["--length", "257", "--tokens", "512"], 2, "longer than model.max_position_embeddings = 256"),
        (small + ["--steps", "3"], 2, "options of bench train"),
        (small + ["--stages", "1"], 2, "options of bench train"),
        (["train", "--config", config, "--tokens", "128"], 2, "options of bench kernels"),
        (["train", "--config", config, "--length", "8"], 2, "options of bench kernels"),
        (small + ["more"], 2, "does not know what to do with 'more'"),
        (small + ["--nonsense"], 2, "--nonsense"),
        (small + ["--precision", "int4"], 3, "training.precision"),
        (["kernels", "--config", "none.yaml"], 3, "none.yaml"),
        (["--help"], 0, None),
    ]:
        got, out, err = bench(*args)
        check(f"bench {' '.join(args)}", got == code and (message in err if message else "usage:" in out), f"{got}: {err}")


def main():
    if not os.access(YXANUL, os.X_OK):
        print("skipped: yxanul is not built (YX_BUILD)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        config = f"{folder}/config.yaml"
        with open(config, "w") as file:
            file.write(CONFIG)
        check_usage(config)
        check_table(config)
        for precision in BOUND:
            check_precision(config, precision)
    sys.exit(1 if failures else 0)


main()

"""Training runs on the GPU: two runs give the same bits, and so does one that was stopped in the middle and goes on; a layer with an
outlier leaves 8 bits by itself; micro-batches fit the memory they are said to need. The published 197M model on the shards in YX_DATA
(a folder `yxanul prepare` wrote); without it, or with --size tiny, a small model on made-up text. --device cpu runs the same there."""
import argparse, json, math, os, subprocess, sys, tempfile
from run_fixture import BINARY, ROOT, log
from long_gpu_fp8 import SIZES, TINY, common_options, find_data, need_gpu, parse, write_config

STOPPED = 75
MIX = [(8, 0.3), (512, 0.4), (2048, 0.3)]
TINY_MIX = [(8, 0.3), (64, 0.4), (512, 0.3)]
STEPS, MIDDLE = 100, 60  # about, in whole steps of every stage; and where one run stops
OUTLIER = 64  # factor on a layer's gate and up matrix: what SwiGLU puts out grows to about its square
# fp8 micro-batches of so many tokens, and the gigabytes they may take.
MEMORY = [(24576, 20), (32768, 23)]


def configure(folder, args, data, precision, step_tokens):
    os.makedirs(folder, exist_ok=True)
    stages = [{"seq_len": t, "batch_size": step_tokens // t, "fraction": share, "warmup_tokens": 5 * step_tokens if i else 0}
              for i, (t, share) in enumerate(TINY_MIX if args.tiny else MIX)]
    return write_config(folder, args, data, tokens=STEPS * step_tokens, lr=6e-4, warmup=0.1, seed=1, precision=precision, stages=stages)


def begin(folder, *more):
    return subprocess.Popen([BINARY, "train", "--config", f"{folder}/config.yaml", *more], stdout=subprocess.DEVNULL,
                            stderr=open(f"{folder}/errors.txt", "w"))


def end(folder, process, code=0):
    if process.wait() != code:
        sys.exit(f"{folder}: exit code {process.returncode} instead of {code}\n{open(f'{folder}/errors.txt').read()}")


def checkpoint(folder):
    newest = open(f"{folder}/run/checkpoints/LATEST").read().strip()
    return json.load(open(f"{folder}/run/checkpoints/{newest}/manifest.json"))


def bits(folder):
    """The checksums of the last checkpoint's tensors, and the losses of all steps."""
    return {t["name"]: t["crc32c"] for t in checkpoint(folder)["tensors"]}, [s["loss"] for s in log(f"{folder}/run")]


def test_bits(folder, args, data, precision):
    names = [f"{folder}/{precision}-{n}" for n in ("first", "again", "stopped")]
    for name in names:
        configure(name, args, data, precision, args.step_tokens)
    first, again = begin(names[0]), begin(names[1])
    end(names[2], begin(names[2], "--max-steps", str(MIDDLE)), STOPPED)
    middle = bits(names[2])[1]
    end(names[2], begin(names[2]))
    end(names[0], first)
    end(names[1], again)
    a, b, c = map(bits, names)
    assert len(a[1]) > MIDDLE == len(middle) and a[1][-1] < a[1][0], a[1]
    assert a == b, f"{precision}: two runs differ: {[n for n in a[0] if a[0][n] != b[0][n]][:4]}"
    assert a == c, f"{precision}: a resumed run differs: {[n for n in a[0] if a[0][n] != c[0][n]][:4]}"
    print(f"{precision}: {len(a[1])} steps twice, and in two parts: {len(a[0])} tensors and all losses the same bits; loss {a[1][0]:.3f} -> "
          f"{a[1][-1]:.3f}", flush=True)


def test_outlier(folder, args, data):
    """The run goes on from a checkpoint in which one layer's matrix is far too large."""
    layers = (TINY if args.tiny else SIZES)["layers"]
    layer, before, after = layers // 2, f"{folder}/normal", f"{folder}/outlier"
    for name in (before, after):
        configure(name, args, data, "fp8", args.step_tokens)
    end(before, begin(before, "--max-steps", "40"), STOPPED)
    subprocess.run([os.path.join(os.path.dirname(BINARY), "checkpoint_scale"), f"{before}/run", f"layers.{layer}.gate_up.weight",
                    str(OUTLIER), f"{after}/run"], check=True)
    end(after, begin(after, "--max-steps", "20"), STOPPED)
    normal, losses = log(f"{before}/run")[-1]["loss"], [s["loss"] for s in log(f"{after}/run")]
    entries = [e for e in checkpoint(after)["run"]["ledger"] if e["event"] == "bf16-layer" and e["step"] > 40]
    assert any(e["detail"].startswith(f"layer {layer}: in bf16 until step") and e["step"] == 41 for e in entries), entries
    assert len(losses) == 20 and all(map(math.isfinite, losses)) and losses[-1] < losses[0], losses
    print(f"outlier: layer {layer} × {OUTLIER} after step 40 (loss {normal:.3f}): {entries[0]['detail']}; {len(entries)} layers in bf16; "
          f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in 20 steps", flush=True)


def test_memory():
    config = f"{ROOT}/configs/fineweb_training_ultra_curriculum.yaml"
    for tokens, most in MEMORY:
        done = subprocess.run([BINARY, "bench", "train", "--config", config, "--device", "cuda", "--precision", "fp8", "--stages", "7",
                               "--steps", "1", "--json", "--set", f"training.micro_batch_tokens={tokens}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        bench = json.loads(done.stdout)
        used = bench["memory_bytes"] / 1e9
        assert bench["micro_batch_tokens"] == tokens and used <= most, (tokens, used, most)
        print(f"memory: fp8 micro-batches of {tokens} tokens train in {used:.2f} GB (bar {most})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--step-tokens", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["bits", "outlier", "memory"], choices=("bits", "outlier", "memory"))
    args = parse(parser)
    args.tiny = args.tiny or not (args.data or os.environ.get("YX_DATA"))
    args.step_tokens = args.step_tokens or (512 if args.tiny else 16384)
    if args.device == "cuda":
        need_gpu()
    with tempfile.TemporaryDirectory(prefix="yxanul-run-", dir=args.work) as folder:
        data = find_data(args, folder)
        for precision in ("bf16", "fp8") if "bits" in args.only else ():
            test_bits(folder, args, data, precision)
        if "outlier" in args.only:
            test_outlier(folder, args, data)
        if "memory" in args.only and not args.tiny:
            test_memory()
    print("ok")


if __name__ == "__main__":
    main()

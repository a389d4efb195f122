#!/usr/bin/env python3
"""Tokens/s on several GPUs of one host over those on one, by `yxanul bench train`: with so many tokens a GPU and step (weak scaling),
the same where the GPUs do not reach each other's memory (NCCL_P2P_DISABLE=1, the RTX 4090's case), and every stage of the configuration
at its own batch (strong scaling). "one" is the mean of the GPUs, each by itself at the same time, "slowest" the least of them, which is
what the others wait for. The hidden share is that of the exchange which the backward pass covers.

    gpu_scaling.py [--gpus 1 2 …] [--precision fp8] [--tokens 32768 8192] [--seq-len 8 512] [--json FILE]

YX_BUILD names the folder of the program (default: build/ of the tree)."""
import argparse, json, os, pathlib, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.path.join(os.environ.get("YX_BUILD", str(ROOT / "build")), "yxanul")


def command_of(args, settings, stages):
    return [BINARY, "bench", "train", "--config", args.config, "--device", args.device, "--precision", args.precision, "--steps",
            str(args.steps), "--json", *(["--stages", stages] if stages else []), "--set", *settings]


def run_together(command, environments):
    """One process for each environment, at the same time: what they print."""
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **e})
               for e in environments]
    ended = [p.communicate() for p in started]
    if any(p.returncode for p in started):
        sys.exit(f"{' '.join(command)}: exit codes {[p.returncode for p in started]}\n" + "".join(e for _, e in ended))
    return [out for out, _ in ended]


def alone(args, settings, stages=None):
    """Stages as the GPUs run them each by itself, all at the same time: the mean of their tokens/s, and the least."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(max(args.gpus))))).split(",")[:max(args.gpus)]
    printed = [json.loads(out)["stages"] for out in run_together(command_of(args, settings, stages),
                                                                 [{"CUDA_VISIBLE_DEVICES": name} for name in names])]
    rates = [[s["tokens_per_second"] for s in same] for same in zip(*printed)]
    return [{"mean": sum(r) / len(r), "least": min(r)} for r in rates]


def bench(args, gpus, settings, stages=None, **environment):
    """Stages of `yxanul bench train` on so many ranks, as rank 0 prints them."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [{**environment, "YX_RANK": str(r), "YX_RANKS": str(gpus), "YX_RENDEZVOUS": f"file:{folder}/meet"} for r in range(gpus)]
        return json.loads(run_together(command_of(args, settings, stages), ranks)[0])["stages"]


def stage_numbers(args):
    """The stage (from 1) of each length, in the configuration's order."""
    plain = json.loads(subprocess.run([BINARY, "plan", "--config", args.config, "--corpus-tokens", "2000M", "--json"], check=True,
                                      capture_output=True, text=True).stdout)
    lengths = [s["seq_len"] for s in plain["stages"]]
    return [lengths.index(t) + 1 for t in args.seq_len]


def hidden(stage):
    return 1 - stage["exposed_seconds"] / stage["exchange_seconds"] if stage["exchange_seconds"] > stage["exposed_seconds"] else 0.0


def row(kind, tokens, gpus, one, several):
    return {"kind": kind, "seq_len": several["seq_len"], "tokens_per_gpu": tokens, "gpus": gpus, "one": one["mean"], "slowest": one["least"],
            "several": several["tokens_per_second"], "ratio": several["tokens_per_second"] / one["mean"],
            "exchange_ms": several["exchange_seconds"] * 1e3, "exposed_ms": several["exposed_seconds"] * 1e3, "hidden": hidden(several)}


def print_row(r):
    print(f"{r['kind']:24} {r['seq_len']:5} {r['tokens_per_gpu']:7} {r['gpus']:4} {r['one']:10.0f} {r['slowest']:10.0f} "
          f"{r['several']:10.0f} {r['ratio']:6.3f} {r['exchange_ms']:9.2f} {r['exposed_ms']:8.2f} {100 * r['hidden']:6.1f}%", flush=True)


def weak(args, tokens, numbers):
    """Rows of one amount of tokens a GPU: `numbers` are the stages whose batches are set."""
    def settings(gpus):
        sizes = [f"training.curriculum_stages.{n - 1}.batch_size={gpus * tokens // t}" for n, t in zip(numbers, args.seq_len)]
        return [*sizes, f"training.micro_batch_tokens={tokens}", *args.set]

    chosen = ",".join(map(str, sorted(numbers)))
    one = alone(args, settings(1), chosen)
    for gpus in args.gpus:
        half, apart = ("training.gradient_wire=bf16",), {"NCCL_P2P_DISABLE": "1"}
        kinds = {"": ((), {}), "bf16 wire": (half, {})}
        if tokens == args.tokens[0] and args.device == "cuda":
            kinds.update({"no P2P": ((), apart), "no P2P, bf16 wire": (half, apart)})
        for kind, (more, environment) in kinds.items():
            several = bench(args, gpus, [*settings(gpus), *more], chosen, **environment)
            for a, b in zip(one, several):
                yield row(kind, tokens, gpus, a, b)


def strong(args):
    settings = args.set or ["training.seed=1"]
    one = alone(args, settings)
    for gpus in args.gpus:
        for a, b in zip(one, bench(args, gpus, settings)):
            yield row("own batch", b["tokens"] // gpus, gpus, a, b)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs/fineweb_training_ultra_curriculum.yaml"))
    parser.add_argument("--gpus", type=int, nargs="+", default=[2])
    parser.add_argument("--precision", default="fp8")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, nargs="*", default=[32768, 8192], help="of a GPU and step; without any: no weak scaling")
    parser.add_argument("--seq-len", type=int, nargs="+", default=[8, 512], help="lengths that the configuration has stages of")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--no-strong", action="store_true", help="leave the stages' own batches out")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    print(f"{'':24} {'T':>5} {'tok/GPU':>7} {'GPUs':>4} {'one':>10} {'slowest':>10} {'several':>10} {'ratio':>6} {'exch. ms':>9} "
          f"{'exposed':>8} {'hidden':>7}")
    rows, numbers = [], stage_numbers(args)
    for tokens in args.tokens:
        for r in weak(args, tokens, numbers):
            rows.append(r)
            print_row(r)
    for r in () if args.no_strong else strong(args):
        rows.append(r)
        print_row(r)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"precision": args.precision, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()

"""fp8 against bf16: the same data, order and initial weights, trained once in each precision, for each seed. The mean loss of the last
50 steps may differ by 0.01 nats. The published 197M configuration on the shards in YX_DATA (a folder `yxanul prepare` wrote, or one
that holds it as data/), 60 M tokens or four epochs of less, in steps of 32,768 tokens. An fp8 run is as its defaults make it: its first
steps and its first layer are in bf16 (--set training.bf16_warmup_steps=0 training.bf16_layers_at_start=0 for none). "bf16-again" is a
second bf16 run that sums in another order (deterministic: false): what it differs by is the noise of the comparison, which grows with
the learning rate.

Runs take turns on one GPU and are spread over several.

    long_gpu_fp8.py [--seed N …] [--precision P …] [--output DIR]     trains these (all four), compares what is complete
    long_gpu_fp8.py --compare DIR…                                     compares runs finished before: DIR/seedN-P.json

With --device cpu: a tiny model on made-up text, to see that everything fits together (give it a wider --bar)."""
import argparse, concurrent.futures, ctypes, glob, hashlib, json, os, queue, subprocess, sys, tempfile
from run_fixture import BINARY, ROOT, log, make

SIZES = dict(vocab=200005, rank=128, hidden=768, layers=28, heads=12, kv_heads=2, head_dim=64, intermediate=2048)
TINY = dict(vocab=600, rank=64, hidden=64, layers=2, heads=6, kv_heads=1, head_dim=64, intermediate=128)
TINY_MODEL = ("{hidden_size: 64, num_layers: 2, num_attention_heads: 6, num_key_value_heads: 1, head_dim: 64, intermediate_size: 128, "
              "vocab_size: 600, embedding_rank: 64, max_position_embeddings: 512}")
CONFIG = """run_dir: {folder}/run
model: {model}
data: {{tokenizer: {data}/tokenizer, path: {data}}}
training:
  total_tokens: {tokens}
  learning_rate: {lr}
  warmup_ratio: {warmup}
  precision: {precision}{eight_bit_options}{initial}
  device: {device}
  deterministic: {deterministic}
  seed: {seed}
  curriculum_stages:
{stages}
evaluation: {{interval_steps: 0, at_stage_end: false, max_tokens: 400000}}
checkpoint: {{interval_steps: 0, at_stage_end: false}}
logging: {{interval_steps: 100}}
"""
LAST, BAR = 50, 0.01


# --- What long_gpu_agreement.py uses, too
def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def count_gpus():
    try:
        count = ctypes.c_int()
        driver = ctypes.CDLL("libcuda.so.1")
        return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value
    except OSError:
        return 0


def need_gpu():
    if not count_gpus():
        skip("no GPU")


def find_data(args, folder):
    """The folder of the shards; for a tiny run, made here."""
    where = args.data or os.environ.get("YX_DATA")
    if args.tiny:
        make(folder, documents=400)
        return f"{folder}/data"
    if not where:
        skip("YX_DATA does not name a folder of prepared shards")
    for candidate in (where, f"{where}/data"):
        if os.path.exists(f"{candidate}/manifest.json"):
            return os.path.abspath(candidate)
    sys.exit(f"{where}: no manifest.json there or in data/: not the folder of a data set")


def write_config(folder, args, data, **more):
    """`more`: what CONFIG has beside folder, model, data and device; stages as dicts. An fp8 run begins in 8 bits, unless
    bf16_warmup_steps says something else (None: the default)."""
    warmup = more.pop("bf16_warmup_steps", 0)
    more["eight_bit_options"] = "" if more["precision"] != "fp8" or warmup is None else f"\n  bf16_warmup_steps: {warmup}"
    more["stages"] = "\n".join("    - " + json.dumps(s).replace('"', "") for s in more["stages"])
    more.setdefault("deterministic", "true")
    more["initial"] = f"\n  initial_checkpoint: {more['initial']}" if more.get("initial") else ""
    model = TINY_MODEL if args.tiny else f"{ROOT}/configs/model_config.yaml"
    with open(f"{folder}/config.yaml", "w") as file:
        file.write(CONFIG.format(folder=folder, model=model, data=data, device=args.device, **more))
    return f"{folder}/config.yaml"


def train(folder, settings=(), gpu=None):
    """The run of folder/config.yaml to its end: its steps, the decisions it took from measurement, its last validation."""
    done = subprocess.run([BINARY, "train", "--config", f"{folder}/config.yaml", "--resume", "never",
                           *(word for s in settings for word in ("--set", s))],
                          env={**os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})})
    if done.returncode:
        sys.exit(f"yxanul train: exit code {done.returncode}")
    run = f"{folder}/run"
    newest = open(f"{run}/checkpoints/LATEST").read().strip()
    with open(f"{run}/checkpoints/{newest}/manifest.json") as file:
        ledger = json.load(file)["run"]["ledger"]
    evaluation = log(run, "evaluation")
    return log(run), ledger, evaluation[-1] if evaluation else None


def common_options(parser):
    parser.add_argument("--data", help="folder of the prepared shards (default: YX_DATA)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", choices=("full", "tiny"), help="tiny: a small model on made-up text (default with --device cpu)")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--work", help="folder for checkpoints and logs while it runs: 3 GB")


def parse(parser):
    args = parser.parse_args()
    args.tiny = args.size == "tiny" or (args.device == "cpu" and args.size is None)
    return args


# --- The runs
def stages_of(mix, step_tokens):
    """512 or 8:0.1,64:0.2,512:0.7."""
    parts = [part.split(":") for part in mix.split(",")]
    return [{"seq_len": int(p[0]), "batch_size": max(1, step_tokens // int(p[0])), "grad_clip": 1,
             "fraction": float(p[1]) if len(p) > 1 else 1 / len(parts), "warmup_tokens": 10 * step_tokens if i else 0}
            for i, p in enumerate(parts)]


def default_tokens(data):
    with open(f"{data}/manifest.json") as file:
        corpus = json.load(file)["splits"]["train"]["n_tokens"]
    return min(60.5e6, 4 * corpus)


def spread(work, runs):
    """work(*run, gpu) for all runs, as many at a time as there are GPUs (one, on the only device, where there are not several)."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    free, gpus = queue.Queue(), named.split(",") if named else [str(i) for i in range(count_gpus())]
    for gpu in gpus if len(gpus) > 1 else [None]:
        free.put(gpu)

    def run(job):
        gpu = free.get()
        try:
            work(*job, gpu)
        finally:
            free.put(gpu)

    with concurrent.futures.ThreadPoolExecutor(free.qsize()) as pool:
        list(pool.map(run, runs))


def one_run(args, data, seed, precision, gpu):
    with tempfile.TemporaryDirectory(prefix="yxanul-fp8-", dir=args.work) as folder:
        write_config(folder, args, data, tokens=args.tokens or default_tokens(data), lr=args.lr, warmup=args.warmup, seed=seed,
                     precision=precision.split("-")[0], deterministic=str(precision != "bf16-again").lower(),
                     bf16_warmup_steps=None, initial=args.initial, stages=stages_of(args.mix, args.step_tokens))
        steps, ledger, evaluation = train(folder, args.set if precision == "fp8" else (), gpu)
    order = hashlib.sha256(" ".join(s["token_hash"] for s in steps).encode()).hexdigest()
    kept = ("loss", "grad_norm", "saturated", "seconds")
    result = {"seed": seed, "precision": precision, "order": order, "tokens": steps[-1]["tokens"], "ledger": ledger,
              "evaluation": evaluation, "skipped": sum(s["skipped"] for s in steps),
              "steps": {k: [s[k] for s in steps] for k in kept if k in steps[0]}}
    with open(f"{args.output}/seed{seed}-{precision}.json", "w") as file:
        json.dump(result, file)
    print(describe(result), flush=True)


def mean(values):
    return sum(values) / len(values)


def describe(r):
    seconds, steps = r["steps"]["seconds"], len(r["steps"]["loss"])
    text = (f"seed {r['seed']} {r['precision']:4}: {steps} steps, {r['tokens'] / 1e6:.1f} M tokens at "
            f"{r['tokens'] / sum(seconds) / 1e3:.0f}k tokens/s, mean loss of the last {min(LAST, steps)} steps "
            f"{mean(r['steps']['loss'][-LAST:]):.4f}")
    if r["evaluation"]:
        text += f", validation {r['evaluation']['loss']:.4f} nats"
    if "saturated" in r["steps"]:
        share = r["steps"]["saturated"]
        text += (f"\n  clipped 8-bit values: {mean(share):.1e} of all, at most {max(share):.1e} in a step (step "
                 f"{share.index(max(share)) + 1}), none in {sum(s == 0 for s in share)} steps")
    text += "".join(f"\n  ledger: step {e['step']} {e['event']}: {e['detail']}" for e in r["ledger"]) or "\n  ledger: empty"
    return text


# --- The comparison
def compare_pair(a, b, again, bar):
    """The row of a seed, and what is wrong with it. "largest": of the differences of the means of 50 steps, over all of the run;
    `again`: the run bf16-again, or None."""
    x, y = a["steps"]["loss"], b["steps"]["loss"]
    if a["order"] != b["order"] or len(x) != len(y):
        return None, "the two runs did not read the same tokens"
    groups = [mean(y[i:i + LAST]) - mean(x[i:i + LAST]) for i in range(0, max(len(x) - LAST, 0) + 1, LAST)]
    difference = mean(y[-LAST:]) - mean(x[-LAST:])
    row = {"seed": a["seed"], "bf16": mean(x[-LAST:]), "fp8": mean(y[-LAST:]), "difference": difference,
           "largest": max(groups, key=abs), "skipped": a["skipped"] + b["skipped"], "tokens": a["tokens"],
           "noise": mean(again["steps"]["loss"][-LAST:]) - mean(x[-LAST:]) if again else None,
           "bf16_layers": sorted({e["detail"].split(":")[0] for e in b["ledger"] if e["event"] == "bf16-layer"})}
    if a["evaluation"] and b["evaluation"]:
        row["validation"] = b["evaluation"]["loss"] - a["evaluation"]["loss"]
    if x == y:
        return row, "both runs have the same losses: was one really fp8?"
    if not abs(difference) <= bar:
        return row, f"{difference:+.4f} nats is more than {bar}"
    return row, ""


def compare(args, runs):
    rows, wrong = [], []
    for seed in sorted({seed for seed, _ in runs}):
        if (seed, "bf16") not in runs or (seed, "fp8") not in runs:
            print(f"seed {seed}: only {[p for s, p in runs if s == seed]} is here; nothing to compare")
            continue
        row, problem = compare_pair(runs[seed, "bf16"], runs[seed, "fp8"], runs.get((seed, "bf16-again")), args.bar)
        rows.append(row)
        if problem:
            wrong.append(f"seed {seed}: {problem}")
    nan = float("nan")
    print(f"\n{'seed':>4} {'M tokens':>8} {'bf16':>8} {'fp8':>8} {'fp8 - bf16':>10} {'validation':>10} {'worst 50':>9} {'noise':>9}  layers in bf16")
    for r in filter(None, rows):
        print(f"{r['seed']:4} {r['tokens'] / 1e6:8.1f} {r['bf16']:8.4f} {r['fp8']:8.4f} {r['difference']:+10.4f} "
              f"{r.get('validation', nan):+10.4f} {r['largest']:+9.4f} "
              f"{nan if r['noise'] is None else r['noise']:+9.4f}  {', '.join(r['bf16_layers']) or 'none'}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"bar": args.bar, "last_steps": LAST, "rows": rows, "failed": wrong}, file, indent=1)
    if wrong:
        sys.exit("failed: " + "; ".join(wrong))
    if rows:
        print(f"ok: mean of the last {LAST} steps within {args.bar} nats")
    return bool(rows)


def load(folders):
    found = {}
    for path in sorted(p for folder in folders for p in glob.glob(f"{glob.escape(folder)}/seed*-*.json")):
        with open(path) as file:
            r = json.load(file)
        found[r["seed"], r["precision"]] = r
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp8"], choices=("bf16", "fp8", "bf16-again"))
    parser.add_argument("--output", help="folder for seedN-P.json")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the fp8 runs: training.fp8_gradient=e5m2")
    parser.add_argument("--compare", nargs="+", metavar="DIR", help="train nothing")
    parser.add_argument("--initial", help="run folder: all runs begin with its weights (training.initial_checkpoint)")
    parser.add_argument("--tokens", type=float, help="default: 60.5e6, or four epochs of a smaller corpus")
    parser.add_argument("--mix", default="512", help="sequence lengths and their shares: 512 or 8:0.1,64:0.2,512:0.7")
    parser.add_argument("--step-tokens", type=int, default=32768)
    parser.add_argument("--lr", type=float, default=1.2e-4)
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the tokens in which the rate rises")
    parser.add_argument("--bar", type=float, default=BAR)
    args = parse(parser)
    if args.compare:
        runs = load(args.compare)
        for r in runs.values():
            print(describe(r))
        return compare(args, runs) or sys.exit(f"nothing to compare in {' '.join(args.compare)}")
    if args.device == "cuda":
        need_gpu()
    with tempfile.TemporaryDirectory(prefix="yxanul-fp8-", dir=args.work) as folder:
        args.output = args.output or folder
        os.makedirs(args.output, exist_ok=True)
        data = find_data(args, folder)
        spread(lambda seed, precision, gpu: one_run(args, data, seed, precision, gpu),
               [(seed, precision) for seed in args.seed for precision in args.precision])
        compare(args, {k: r for k, r in load([args.output]).items() if k[0] in args.seed})


if __name__ == "__main__":
    main()

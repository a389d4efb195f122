"""Several GPUs of one host, one rank on each: the losses of one GPU on the same tokens; two runs give the same bits, and on two GPUs,
where a sum has one order only, so does a sharded optimizer (ZeRO stage 1); a rank that is killed or hangs ends the others, which name
it. The published 197M model on the shards in YX_DATA (a folder `yxanul prepare` wrote); without it, or with --size tiny, a small model
on made-up text. --device cpu --gpus 2 runs the same there."""
import argparse, os, signal, subprocess, sys, tempfile, time
from run_fixture import BINARY, log
from long_gpu_fp8 import common_options, count_gpus, find_data, need_gpu, parse, skip
from test_gpu_run import bits, configure

NATS = 2e-3  # between the losses of one GPU and of several


def start(folder, gpus, *settings, **environment):
    """The ranks of folder/config.yaml's run, which meet by a file (no MPI is needed)."""
    command = [BINARY, "train", "--config", f"{folder}/config.yaml", *(word for s in settings for word in ("--set", s))]
    return [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(f"{folder}/errors-{r}.txt", "w"),
                             env={**os.environ, **environment, "YX_RANK": str(r), "YX_RANKS": str(gpus),
                                  "YX_RENDEZVOUS": f"file:{folder}/meet"} if gpus > 1 else None)
            for r in range(gpus)]


def train(folder, gpus, *settings):
    ranks = start(folder, gpus, *settings)
    codes = [p.wait() for p in ranks]
    if any(codes):
        sys.exit(f"{folder}: exit codes {codes}\n" + "".join(open(f"{folder}/errors-{r}.txt").read() for r in range(gpus)))
    return f"{folder}/run"


def compare_losses(precision, gpus, one, several):
    assert [s["token_hash"] for s in one] == [s["token_hash"] for s in several], "other tokens"
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(one, several)]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    print(f"{precision}: {gpus} GPUs, {len(gaps)} steps: the tokens of one, losses within {gaps[worst]:.1e} nats (step {worst + 1}; the "
          f"first: {gaps[0]:.1e}); {one[0]['loss']:.3f} -> {one[-1]['loss']:.3f}", flush=True)
    assert gaps[worst] <= NATS, f"more than {NATS} nats: " + " ".join(f"{g:.1e}" for g in gaps)


def check(folder, args, data, precision):
    runs = {}
    kinds = {"one": (1,), "first": (args.gpus,), "again": (args.gpus,)}
    if args.gpus == 2:
        kinds["sharded"] = (2, "training.shard_optimizer=true")
    for name, how in kinds.items():
        runs[name] = f"{folder}/{precision}-{name}"
        configure(runs[name], args, data, precision, args.step_tokens)
        # Micro-batches of one size on one GPU and on several: then only the order of the gradients' sums is another.
        train(runs[name], *how, f"training.micro_batch_tokens={max(args.step_tokens // args.gpus, 512)}", "training.learning_rate=6e-5")
    first = bits(runs["first"])
    for name in ("again", "sharded"):
        if name not in runs:
            continue
        other = bits(runs[name])
        assert first == other, f"{precision}, {name}: {[n for n in first[0] if first[0][n] != other[0][n]][:4]} differ"
        print(f"{precision}: {args.gpus} GPUs, {name}: {len(first[0])} tensors and all losses the same bits", flush=True)
    link, = log(f"{runs['first']}/run", "link")
    print(f"   by {link['exchange']}, {'direct' if link['direct'] else 'through the host'}, {link['bytes_per_second'] / 1e9:.1f} GB/s")
    compare_losses(precision, args.gpus, log(f"{runs['one']}/run"), log(f"{runs['first']}/run"))


def lines_of(path):
    if not os.path.exists(path):
        return 0
    with open(path) as file:
        return sum(1 for _ in file)


def check_lost(folder, args, data, how):
    """The last rank is killed in the middle of a run, or stopped: then it lives, and its connections with it."""
    configure(folder, args, data, "bf16", args.step_tokens)
    ranks = start(folder, args.gpus, "training.total_tokens=2e9", YX_COMM_TIMEOUT="3")
    while lines_of(f"{folder}/run/log.jsonl") < 20:
        assert ranks[0].poll() is None, open(f"{folder}/errors-0.txt").read()
        time.sleep(0.2)
    ranks[-1].send_signal(how)
    begun = time.time()
    while time.time() - begun < 90 and any(p.poll() is None for p in ranks[:-1]):
        time.sleep(0.1)
    seconds, codes = time.time() - begun, [p.poll() for p in ranks[:-1]]
    for p in ranks:
        p.kill()
    message = open(f"{folder}/errors-0.txt").read().strip().splitlines()[-1]
    assert all(codes) and f"rank {args.gpus - 1}" in message, (codes, message)
    print(f"rank {args.gpus - 1}, {how.name}: the others end after {seconds:.1f} s with {codes}: {message}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--gpus", type=int, help="default: all")
    parser.add_argument("--step-tokens", type=int, default=0)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp8"])
    args = parse(parser)
    args.tiny = args.tiny or not (args.data or os.environ.get("YX_DATA"))
    args.step_tokens = args.step_tokens or (512 if args.tiny else 16384)
    if args.device == "cuda":
        need_gpu()
    args.gpus = args.gpus or count_gpus()
    if args.gpus < 2:
        skip("one GPU only")
    with tempfile.TemporaryDirectory(prefix="yxanul-ranks-", dir=args.work) as folder:
        data = find_data(args, folder)
        for precision in args.precision:
            check(folder, args, data, precision)
        check_lost(f"{folder}/lost", args, data, signal.SIGKILL)
        check_lost(f"{folder}/stopped", args, data, signal.SIGSTOP)
    print("ok")


if __name__ == "__main__":
    main()

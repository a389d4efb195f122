"""300 steps of the 197M model in bf16, by `yxanul train` and by PyTorch: the same initial weights, batches, AdamW, clipping and learning
rates, through five sequence lengths. The mean loss of every ten steps may differ by 0.01 nats. Reads the shards in YX_DATA (a folder
`yxanul prepare` wrote, or one that holds it as data/); needs a GPU and PyTorch. With --device cpu: a tiny model on made-up text.

--again trains by PyTorch a second time, with logits in pieces of half the size: by what the two differ is the noise of the comparison,
which grows with the learning rate (at 6e-4 as large as the bar)."""
import argparse, collections, itertools, json, os, struct, subprocess, sys, tempfile, time
import numpy as np
from run_fixture import BINARY
from long_gpu_fp8 import SIZES, TINY, common_options, find_data, mean, need_gpu, parse, skip, train, write_config

try:
    import torch
    from torch_model import Model, names_and_shapes
except ImportError as missing:
    skip(missing)
from torch.nn.attention import SDPBackend, sdpa_kernel

EVERY = 10
# (T, share, factor on the rate, clip): the published curriculum's, in 300 steps.
STAGES = [(8, 0.2, 0.3, 0.5), (32, 0.15, 0.5, 0.7), (128, 0.2, 0.75, 0.9), (512, 0.25, 0.95, 1), (2048, 0.2, 1, 1)]
TINY_STAGES = [(8, 0.2, 0.3, 0.5), (32, 0.2, 0.5, 0.3), (96, 0.2, 0.75, 0.9), (256, 0.2, 0.95, 0.2), (512, 0.2, 1, 1)]
BETAS, EPS, DECAY = (0.9, 0.95), 1e-8, 0.1  # the defaults of the configuration
Step = collections.namedtuple("Step", "tokens seq_len lr clip arrays")


def stages_of(args):
    """Five stages; all but the first warm up again over their first 20 steps, or a third of a short one."""
    warmup = args.step_tokens * min(20, args.steps // 15)
    return [{"seq_len": t, "batch_size": args.step_tokens // t, "fraction": share, "lr_scale": scale, "grad_clip": clip,
             "warmup_tokens": warmup if i else 0} for i, (t, share, scale, clip) in enumerate(TINY_STAGES if args.tiny else STAGES)]


def read_steps(path):
    with open(path, "rb") as file:
        while head := file.read(32):
            tokens, seq_len, lr, clip = struct.unpack("<qqdd", head)
            yield Step(tokens, seq_len, lr, clip, np.fromfile(file, np.int32, 3 * tokens).reshape(3, tokens))


def read_params(path, sizes, device):
    flat, at, params = np.fromfile(path, np.float32), 0, {}
    for name, shape in names_and_shapes(sizes).items():
        n = int(np.prod(shape))
        params[name] = torch.from_numpy(flat[at:at + n].reshape(shape).copy()).to(device).requires_grad_()
        at += n
    assert at == flat.size, f"{path}: {flat.size} values, {at} expected"
    return params


def optimizer_of(params):
    """AdamW; matrices decay, gains do not."""
    groups = [{"params": [p for p in params.values() if p.dim() > 1], "weight_decay": DECAY},
              {"params": [p for p in params.values() if p.dim() == 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS)


def check_windows(step):
    """No sequence straddles a window of seq_len: what the mask of a window takes for granted."""
    first = np.arange(step.tokens) // step.seq_len * step.seq_len
    token, target, start = step.arrays
    assert step.tokens % step.seq_len == 0 and (start >= first).all() and (start <= np.arange(step.tokens)).all()
    assert (target >= 0).all()


def torch_step(model, optimizer, step, args, chunk):
    """One optimizer step: loss and the gradient's norm before clipping."""
    token, target, start = (torch.from_numpy(a).to(args.device) for a in step.arrays)
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss_in_pieces(token, target, start, step.seq_len, chunk)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.params.values(), step.clip or float("inf"))
    for group in optimizer.param_groups:
        group["lr"] = step.lr
    optimizer.step()
    return loss.detach(), norm.detach()


def torch_run(folder, sizes, args, chunk):
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[args.precision]
    params = read_params(f"{folder}/params.bin", sizes, args.device)
    model, optimizer = Model(sizes, params, dtype, fine=torch.float32), optimizer_of(params)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    results, begun = [], time.time()
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        for i, step in enumerate(read_steps(f"{folder}/steps.bin")):
            check_windows(step)
            loss, norm = torch_step(model, optimizer, step, args, chunk)
            results.append({"tokens": step.tokens, "seq_len": step.seq_len, "lr": step.lr, "grad_clip": step.clip, "loss": loss,
                            "grad_norm": norm})
            if i % 100 == 99:
                print(f"   PyTorch: step {i + 1}, loss {loss.item():.4f}, {time.time() - begun:.0f} s", flush=True)
    return [{k: v.item() if torch.is_tensor(v) else v for k, v in r.items()} for r in results], time.time() - begun


def dump(folder):
    """The weights that the run begins with and the batches of all its steps."""
    program = os.path.join(os.path.dirname(BINARY), "run_dump")
    done = subprocess.run([program, f"{folder}/config.yaml", str(10**9), folder], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"run_dump: exit code {done.returncode}\n{done.stderr}")


# --- The comparison
def same_schedule(ours, theirs):
    """The run followed the schedule of the dump: every rate, limit and size."""
    if len(ours) != len(theirs):
        return [f"{len(ours)} steps against {len(theirs)} in the dump"]
    different = [a["step"] for a, b in zip(ours, theirs) if a["lr"] != b["lr"] or a["grad_clip"] != b["grad_clip"]
                 or a["seq_len"] != b["seq_len"] or a["seq_len"] * a["sequences"] != b["tokens"]]
    return [f"steps {different[:5]} have another rate, limit or size than in the dump"] if different else []


def exercised(ours):
    """The run did what the comparison is to cover."""
    clipped = sum(s["grad_norm"] > s["grad_clip"] for s in ours)
    wrong = [] if clipped else ["no step was clipped"]
    if len({s["stage"] for s in ours}) < 3:
        wrong.append("fewer than three stages")
    if any(s["skipped"] for s in ours):
        wrong.append("a step was skipped")
    return wrong


def windows_of(ours, theirs):
    """Means of ten steps, and by what they differ."""
    out = []
    for i in range(0, len(ours), EVERY):
        a, b = ours[i:i + EVERY], theirs[i:i + EVERY]
        out.append({"step": a[-1]["step"], "stages": sorted({s["stage"] for s in a}), "ours": mean([s["loss"] for s in a]),
                    "torch": mean([s["loss"] for s in b])})
        out[-1]["difference"] = out[-1]["ours"] - out[-1]["torch"]
    return out


def stage_rows(ours, theirs):
    for stage, pairs in itertools.groupby(zip(ours, theirs), lambda pair: pair[0]["stage"]):
        pairs = list(pairs)
        gap = [a["loss"] - b["loss"] for a, b in pairs]
        yield {"stage": stage, "seq_len": pairs[0][0]["seq_len"], "steps": len(pairs), "loss": pairs[-1][0]["loss"],
               "mean_difference": mean(gap), "worst_step": max(gap, key=abs),
               "clipped": sum(a["grad_norm"] > a["grad_clip"] for a, _ in pairs),
               "torch_clipped": sum(b["grad_norm"] > b["grad_clip"] for _, b in pairs),
               "grad_norm": max((a["grad_norm"] / b["grad_norm"] - 1 for a, b in pairs), key=abs)}


def worst_of(windows):
    return max(windows, key=lambda w: abs(w["difference"]))


def report(args, ours, theirs, seconds):
    """Prints the comparison; all its figures."""
    windows, rows = windows_of(ours, theirs), list(stage_rows(ours, theirs))
    worst = worst_of(windows)
    wrong = same_schedule(ours, theirs) + exercised(ours)
    if not all(abs(w["difference"]) <= args.bar for w in windows):
        wrong.append(f"{worst['difference']:+.5f} nats at step {worst['step']} is more than {args.bar}")
    tokens = ours[-1]["tokens"]
    print(f"\n{'stage':>5} {'T':>5} {'steps':>5} {'loss':>8} {'ours - torch':>12} {'worst step':>10} {'clipped':>7} {'torch':>5} "
          f"{'|g| off':>9}")
    for r in rows:
        print(f"{r['stage']:5} {r['seq_len']:5} {r['steps']:5} {r['loss']:8.4f} {r['mean_difference']:+12.5f} {r['worst_step']:+10.5f} "
              f"{r['clipped']:7} {r['torch_clipped']:5} {100 * r['grad_norm']:+8.2f}%")
    ours_seconds = sum(s["seconds"] for s in ours)
    print(f"{args.precision}: {len(ours)} steps, {tokens / 1e6:.2f} M tokens, ours {tokens / ours_seconds / 1e3:.1f}k tokens/s, "
          f"PyTorch (eager) {tokens / seconds / 1e3:.1f}k; first step {ours[0]['loss'] - theirs[0]['loss']:+.6f}; "
          f"worst mean of {EVERY} steps {worst['difference']:+.5f} nats (step {worst['step']})", flush=True)
    steps = [{"step": a["step"], "ours": a["loss"], "torch": b["loss"], "grad_norm": a["grad_norm"], "torch_grad_norm": b["grad_norm"],
              "lr": a["lr"]} for a, b in zip(ours, theirs)]
    return {"bar": args.bar, "every": EVERY, "precision": args.precision, "device": args.device, "torch": torch.__version__,
            "tokens": tokens, "seconds": ours_seconds, "torch_seconds": seconds, "worst": worst, "stages": rows, "windows": windows,
            "steps": steps, "failed": wrong}


def report_noise(ours, theirs, again):
    """How far apart PyTorch's two runs are, beside ours and each of them."""
    rows = [{"step": first["step"], "torch": first["difference"], "again": second["difference"], "noise": second["torch"] - first["torch"]}
            for first, second in zip(windows_of(ours, theirs), windows_of(ours, again))]
    print(f"\n{'step':>5} {'ours - torch':>12} {'ours - again':>12} {'again - torch':>13}")
    for r in rows:
        print(f"{r['step']:5} {r['torch']:+12.5f} {r['again']:+12.5f} {r['noise']:+13.5f}")
    a, b, c = (max((r[name] for r in rows), key=abs) for name in ("torch", "again", "noise"))
    print(f"worst {a:+12.5f} {b:+12.5f} {c:+13.5f}", flush=True)
    return rows


def write_json(args, figures):
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--steps", type=int, default=300, help="about; stages end where a shuffle window does")
    parser.add_argument("--step-tokens", type=int, help="tokens of a step (default: 16384; tiny: 512)")
    parser.add_argument("--lr", type=float, help="peak rate (default: 1.2e-4; tiny: 2e-3)")
    parser.add_argument("--chunk", type=int, default=4096, help="rows of logits that PyTorch holds at a time")
    parser.add_argument("--again", action="store_true", help="PyTorch twice: the noise of the comparison")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bar", type=float, help="nats (default: 0.01; fp32: 0.001)")
    args = parse(parser)
    args.bar = args.bar or (0.01 if args.precision == "bf16" else 0.001)
    args.step_tokens = args.step_tokens or (512 if args.tiny else 16384)
    args.lr = args.lr or (2e-3 if args.tiny else 1.2e-4)
    if args.device == "cuda":
        need_gpu()
        if not torch.cuda.is_available():
            skip("PyTorch sees no GPU")
    with tempfile.TemporaryDirectory(prefix="yxanul-agree-", dir=args.work) as folder:
        data = find_data(args, folder)
        write_config(folder, args, data, tokens=args.steps * args.step_tokens, lr=args.lr, warmup=0.05, seed=args.seed,
                     precision=args.precision, stages=stages_of(args))
        dump(folder)
        ours = train(folder)[0]
        sizes = TINY if args.tiny else SIZES
        theirs, seconds = torch_run(folder, sizes, args, args.chunk)
        figures = report(args, ours, theirs, seconds)
        write_json(args, figures)
        if args.again:
            pieces = max(1, min(args.chunk, args.step_tokens) // 2)
            figures["noise"] = report_noise(ours, theirs, torch_run(folder, sizes, args, pieces)[0])
            write_json(args, figures)
    if figures["failed"]:
        sys.exit("failed: " + "; ".join(figures["failed"]))
    print(f"ok: within {args.bar} nats at every {EVERY}th step")


if __name__ == "__main__":
    main()

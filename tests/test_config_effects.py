"""Keys whose effect only a training run shows: for each, short runs that differ in it alone, and what the reference says of it.
PROVEN names them for tests/test_config_keys.py, which looks that no key is forgotten."""
import itertools, json, os, re, shutil, subprocess, sys, tempfile
import h5py, numpy as np
from run_fixture import BINARY, CONFIG, ENVIRONMENT, log, make, run

PROVEN = {}  # key: the test that proves it
STOPPED, DATA, UNAVAILABLE = 75, 4, 9
# 24 steps of 1024 tokens; the stages end at these:
STAGE_ENDS = [6, 12, 24]
STAGES = """    - {seq_len: 32, batch_size: 32, fraction: 0.25}
    - {seq_len: 64, batch_size: 16, fraction: 0.25}
    - {seq_len: 128, batch_size: 8, fraction: 0.5}"""
BETA1, BETA2, DECAY, EPSILON = 0.9, 0.95, 0.1, 1e-8  # defaults


def proves(*keys):
    def register(test):
        PROVEN.update({key: test for key in keys})
        return test
    return register


class Runs:
    """Runs of one configuration, each in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.numbers = folder, itertools.count()
        make(folder)
        self.config = f"{folder}/config.yaml"
        open(self.config, "w").write(CONFIG.format(folder=folder, stages=STAGES).replace("epochs: 1", "total_tokens: 24576"))

    def train(self, *sets, steps=0, check=None):
        """A run with these keys, of `steps` steps (0: all)."""
        path = f"{self.folder}/run{next(self.numbers)}"
        limit = ["--max-steps", steps] if steps else []
        expected = (STOPPED if steps else 0) if check is None else check
        done = run("train", "--config", self.config, *limit, "--set", f"run_dir={path}", *sets, check=expected)
        return Run(path, done.stderr)

    def initial(self):
        """The weights before the first step: a rate that moves no fp32 number."""
        return self.train("training.learning_rate=1e-30", steps=1).tensors()


class Run:
    def __init__(self, path, errors):
        self.path, self.errors = path, errors

    def log(self, kind="step"):
        return log(self.path, kind)

    def losses(self):
        return [s["loss"] for s in self.log()]

    def first(self):
        return self.log()[0]

    def steps_of(self, kind):
        return [line["step"] for line in self.log(kind)]

    def checkpoints(self):
        return sorted(int(n[5:]) for n in os.listdir(f"{self.path}/checkpoints") if n.startswith("step_"))

    def tensors(self, step=None):
        """Weights and moments of a step's checkpoint (None: the newest), in double."""
        out = {}
        with h5py.File(f"{self.path}/checkpoints/step_{step or self.checkpoints()[-1]:09d}/state.h5") as file:
            file.visititems(lambda n, d: out.update({n: d[()].astype(float)}) if isinstance(d, h5py.Dataset) else None)
        return out


def weights(tensors):
    return [n for n in tensors if not n.startswith("moment")]


def same_tokens(*runs):
    assert len({r.first()["token_hash"] for r in runs}) == 1


# --- The model ---------------------------------------------------------------------------------------------------------------
@proves("model.rope_theta")
def rope_theta(runs):
    """Other wavelengths, another loss of the same weights and tokens."""
    a, b = (runs.train(f"model.rope_theta={x}", steps=1) for x in (10000, 10))
    same_tokens(a, b)
    assert 1e-7 < abs(a.first()["loss"] - b.first()["loss"]) < 0.1


@proves("model.rms_norm_eps")
def rms_norm_eps(runs):
    """An epsilon far above the embeddings' mean square makes the normalised rows, and the gradient, small."""
    a, b = (runs.train(f"model.rms_norm_eps={x}", steps=1) for x in (1e-5, 1))
    same_tokens(a, b)
    assert b.first()["grad_norm"] < a.first()["grad_norm"] / 10, (a.first(), b.first())


@proves("model.initializer_range")
def initializer_range(runs):
    """The standard deviation of the initial matrices; of output projections divided by sqrt(2 · 2 layers); the embedding's projection
    has 1 / sqrt(rank 16)."""
    for sigma in (0.02, 0.05):
        found = runs.train("training.learning_rate=1e-30", f"model.initializer_range={sigma}", steps=1).tensors()
        for name, expected in (("embed.weight", sigma), ("layers.1.qkv.weight", sigma), ("layers.0.o.weight", sigma / 2),
                               ("layers.1.down.weight", sigma / 2), ("proj.weight", 1 / 4)):
            assert abs(found[name].std() / expected - 1) < 0.05, (name, found[name].std(), expected)


# --- The data ----------------------------------------------------------------------------------------------------------------
@proves("run_dir")
def run_dir(runs):
    paths = [f"{runs.folder}/here", f"{runs.folder}/there/below"]
    for i, path in enumerate(paths):
        run("train", "--config", runs.config, "--set", f"run_dir={path}", "--max-steps", 1, check=STOPPED)
        assert sorted(os.listdir(path)) == ["checkpoints", "config.yaml", "log.jsonl", "report.html", "tensorboard"], os.listdir(path)
        assert path in open(f"{path}/config.yaml").read()
        assert [os.path.exists(p) for p in paths] == [True, i == 1]


@proves("data.document_mask")
def document_mask(runs):
    """Sequences of 128 tokens hold ends of documents: the same tokens, seen with and without what stands before."""
    context = "training.curriculum_stages.0.seq_len=128", "training.curriculum_stages.0.batch_size=8"
    a, b = (runs.train(f"data.document_mask={x}", *context, steps=1) for x in ("true", "false"))
    same_tokens(a, b)
    assert 1e-7 < abs(a.first()["loss"] - b.first()["loss"]) < 0.1


def most_memory(runs, prefetch):
    """Bytes that a step of 32 micro-batches of 4096 tokens takes at its peak."""
    path = f"{runs.folder}/run{next(runs.numbers)}"
    stage = "training.curriculum_stages.0."
    command = [BINARY, "train", "--config", runs.config, "--max-steps", "1", "--set", f"run_dir={path}",
               f"data.prefetch={prefetch}", "training.micro_batch_tokens=4096", "training.total_tokens=1e6",
               stage + "seq_len=128", stage + "batch_size=1024"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == STOPPED, process.returncode
    return usage.ru_maxrss * 1024


@proves("data.prefetch")
def prefetch(runs):
    """The same losses to the bit; memory for more micro-batches, of which two steps' are asked for, and in the plan, too,
    which reckons with four times as many, 64 at most."""
    a, b = (runs.train(f"data.prefetch={x}", steps=3) for x in (2, 64))
    assert a.losses() == b.losses()
    grown = most_memory(runs, 64) - most_memory(runs, 2)
    expected = 60 * 4096 * 12
    assert 0.5 * expected < grown < 2 * expected, (grown, expected)
    lines = [re.search(r"data: window, micro-batches +([\d.]+) MB",
                       run("plan", "--config", runs.config, "--set", f"data.prefetch={x}").stdout) for x in (2, 64)]
    assert abs(float(lines[1].group(1)) - float(lines[0].group(1)) - (64 - 4 * 2) * 512 * 12 / 1e6) < 0.11, lines


@proves("data.verify")
def verify(runs):
    """A flipped bit in one token: only looked for when asked."""
    copy = f"{runs.folder}/flipped"
    shutil.copytree(f"{runs.folder}/data", copy)
    shard = next(n for n in sorted(os.listdir(copy)) if n.startswith("train"))
    with h5py.File(f"{copy}/{shard}") as file:
        middle = file["tokens"].id.get_offset() + file["tokens"].shape[0] // 2 * 4
    with open(f"{copy}/{shard}", "r+b") as file:
        file.seek(middle)
        byte = file.read(1)
        file.seek(middle)
        file.write(bytes([byte[0] ^ 1]))
    runs.train(f"data.path={copy}", "data.verify=false", steps=1)
    found = runs.train(f"data.path={copy}", "data.verify=true", check=DATA)
    assert shard in found.errors and "damaged" in found.errors, found.errors
    runs.train("data.verify=true", steps=1)


# --- The optimizer -----------------------------------------------------------------------------------------------------------
def first_step(runs, *sets):
    """The rate of the first step, and the state after it."""
    done = runs.train("training.weight_decay=0", *sets, steps=1)
    return done.first()["lr"], done.tensors()


def moments_scale(runs, key, moment, values):
    """A moment after one step is (1 - beta) · g^k."""
    found = [first_step(runs, f"training.{key}={x}")[1] for x in values]
    names = [n for n in found[0] if n.startswith(moment)]
    assert names
    for n in names:
        a, b = (f[n] / (1 - x) for f, x in zip(found, values))
        assert np.abs(a).max() > 0 and np.allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max()), n


@proves("training.adam_beta1")
def adam_beta1(runs):
    moments_scale(runs, "adam_beta1", "moment1/", (BETA1, 0.5))


@proves("training.adam_beta2")
def adam_beta2(runs):
    moments_scale(runs, "adam_beta2", "moment2/", (BETA2, 0.5))


@proves("training.adam_eps")
def adam_eps(runs):
    """The first step moves a weight by rate · g / (|g| + eps)."""
    before = runs.initial()
    for eps in (EPSILON, 1e-3):
        lr, after = first_step(runs, f"training.adam_eps={eps}")
        for n in weights(after):
            g = after[f"moment1/{n}"] / (1 - BETA1)
            assert np.allclose(before[n] - after[n], lr * g / (np.abs(g) + eps), rtol=1e-3, atol=1e-3 * lr), (eps, n)


@proves("training.weight_decay")
def weight_decay(runs):
    """A matrix falls by rate · decay of itself beside AdamW's step; the norms' vectors do not."""
    before = runs.initial()
    lr, without = first_step(runs)
    for decay in (DECAY, 10):
        _, after = first_step(runs, f"training.weight_decay={decay}")
        for n in weights(after):
            expected = lr * decay * before[n] if before[n].ndim == 2 else 0 * before[n]
            assert np.allclose(without[n] - after[n], expected, rtol=1e-3, atol=1e-7), (decay, n)


# --- How it is computed ------------------------------------------------------------------------------------------------------
FP8 = ("training.precision=fp8", "training.bf16_warmup_steps=0", "training.bf16_layers_at_start=0")


@proves("training.precision")
def precision(runs):
    done = [runs.train(*p, steps=1) for p in (("training.precision=fp32",), ("training.precision=bf16",), FP8)]
    same_tokens(*done)
    losses = [r.first()["loss"] for r in done]
    assert len(set(losses)) == 3 and max(losses) - min(losses) < 0.02, losses


@proves("training.fp8_recipe")
def fp8_recipe(runs):
    """Three ways to the same loss, nearly; the scales of the moment need no history, so two runs that begin at another step agree."""
    recipes = ("bounded-delayed", "current", "forward-only")
    done = [runs.train(*FP8, f"training.fp8_recipe={r}", steps=4) for r in recipes]
    same_tokens(*done)
    losses = [r.losses() for r in done]
    assert len({tuple(l) for l in losses}) == 3 and np.allclose(losses[0], losses[1:], atol=0.05), losses
    assert all(set(d.first()["amax"]) >= {"attention", "swiglu"} for d in done), done[0].first()


@proves("training.fp8_gradient")
def fp8_gradient(runs):
    """The same first loss (gradients come after it), then another way to nearly the same."""
    done = [runs.train(*FP8, f"training.fp8_gradient={g}", steps=4) for g in ("e5m2", "e4m3")]
    same_tokens(*done)
    a, b = (r.losses() for r in done)
    assert a[0] == b[0] and a[1:] != b[1:] and np.allclose(a, b, atol=0.02), (a, b)


@proves("training.bf16_warmup_steps")
def bf16_warmup(runs):
    """As long as it lasts the run is one in bf16, to the bit; then it is not. In two parts it is the same."""
    fp8, bf16 = ("training.precision=fp8", "training.bf16_warmup_steps=3"), ("training.precision=bf16",)
    whole, plain, parts = runs.train(*fp8, steps=6), runs.train(*bf16, steps=6), runs.train(*fp8, steps=2)
    run("train", "--config", runs.config, "--max-steps", 4, "--set", f"run_dir={parts.path}", *fp8, check=STOPPED)
    a, b, c = whole.losses(), plain.losses(), parts.losses()
    assert a[:3] == b[:3] and a[3:] != b[3:] and np.allclose(a, b, atol=0.02), (a, b)
    assert "products in bf16 up to step 3, then in 8 bits" in whole.errors, whole.errors
    assert all(s["saturated"] == 0 for s in whole.log()[:3])
    assert a == c, (a, c)


@proves("training.bf16_layers_at_start", "training.bf16_layers_at_end")
def bf16_layers(runs):
    """One layer or the other in bf16: the scales of the other alone count, and the loss lies by that of bf16."""
    every, start, end = (runs.train(*FP8, *more, steps=3) for more in
                         ((), ("training.bf16_layers_at_start=1",), ("training.bf16_layers_at_end=1",)))
    bf16 = runs.train("training.precision=bf16", steps=3)
    same_tokens(every, start, end, bf16)
    losses = [r.losses() for r in (every, start, end, bf16)]
    assert len({tuple(l) for l in losses}) == 4 and np.allclose(losses[3], losses[:3], atol=0.02), losses
    again = runs.train(*FP8, "training.bf16_layers_at_start=1", "training.recompute=true", steps=3)
    assert again.losses() == losses[1], (again.losses(), losses[1])


@proves("training.fp8_fallback")
def fp8_fallback(runs):
    """A rate that makes activations grow faster than their scales: what clips goes on in bf16, unless that is turned off; a resumed
    run remembers."""
    wild = (*FP8, "training.learning_rate=0.2", "training.warmup_ratio=0",
            "training.curriculum_stages.0.grad_clip=0")
    off = runs.train(*wild, "training.fp8_fallback=0", steps=5)
    on = runs.train(*wild, "training.fp8_fallback=1e-4", steps=5)
    entries = json.load(open(f"{on.path}/checkpoints/step_000000005/manifest.json"))["run"]["ledger"]
    layers = {re.match(r"layer (\d+): in bf16 until step ", e["detail"]).group(1) for e in entries if e["event"] == "bf16-layer"}
    decisions = [{k: line[k] for k in entries[0]} for line in on.log("decision")]
    assert decisions == entries, (decisions, entries)
    assert layers and len(layers) == sum("in bf16 until" in l for l in on.errors.splitlines()), (entries, on.errors)
    first = min(e["step"] for e in entries)
    assert max(s["saturated"] for s in off.log()) > 1e-4 and "bf16" not in off.errors
    assert on.losses()[:first] == off.losses()[:first] and on.losses()[first:] != off.losses()[first:]
    assert np.isfinite(on.losses()).all()
    half = runs.train(*wild, "training.fp8_fallback=1e-4", steps=first)
    done = run("train", "--config", runs.config, "--max-steps", 5 - first, "--set", f"run_dir={half.path}", *wild,
               "training.fp8_fallback=1e-4", check=STOPPED)
    assert half.losses() == on.losses(), (half.losses(), on.losses(), done.stderr)
    assert [line["hash"] for line in half.log("decision")] == [line["hash"] for line in on.log("decision")]
    ended = runs.train(*wild, "training.fp8_fallback=1e-4", steps=first)
    run("train", "--config", runs.config, "--max-steps", 5 - first, "--set", f"run_dir={ended.path}", *wild, "training.fp8_fallback=0",
        check=STOPPED)
    assert ended.losses() == off.losses(), (ended.losses(), off.losses())


@proves("training.fp8_fallback_steps")
def fp8_fallback_steps(runs):
    """A layer's spells in bf16: as long as said, each twice as long as the one before, or without end; a run that goes on within a
    spell gives the same losses."""
    wild = (*FP8, "training.learning_rate=0.2", "training.warmup_ratio=0", "training.fp8_fallback=1e-4",
            "training.curriculum_stages.0.grad_clip=0")

    def spells(r):
        entries = json.load(open(f"{r.path}/checkpoints/step_{r.checkpoints()[-1]:09d}/manifest.json"))["run"]["ledger"]
        found = {}
        for e in entries:
            m = re.match(r"layer (\d+): in bf16 (for good|until step (\d+)):", e["detail"])
            found.setdefault(m[1], []).append((e["step"], m[3] and int(m[3]) - e["step"]))
        return found

    short = runs.train(*wild, "training.fp8_fallback_steps=1", "training.fp8_fallback=1e-6", "training.learning_rate=1", steps=23)
    for layer in spells(short).values():
        lengths = [length for _, length in layer]
        assert lengths == [2**i for i in range(len(layer))], layer
        assert all(b > a + length for (a, length), (b, _) in zip(layer, layer[1:])), layer
    assert max(map(len, spells(short).values())) > 1, spells(short)
    good = runs.train(*wild, "training.fp8_fallback_steps=0", steps=12)
    assert spells(good) and all([length for _, length in layer] == [None] for layer in spells(good).values()), spells(good)
    third = runs.train(*wild, "training.fp8_fallback_steps=3", steps=12)
    begun = min(step for layer in spells(third).values() for step, _ in layer)
    half = runs.train(*wild, "training.fp8_fallback_steps=3", steps=begun + 1)
    run("train", "--config", runs.config, "--max-steps", 11 - begun, "--set", f"run_dir={half.path}", *wild,
        "training.fp8_fallback_steps=3", check=STOPPED)
    assert half.losses() == third.losses()


@proves("training.shard_optimizer")
def shard_optimizer(runs):
    """A rank's memory of moments; that the bits stay the same is tests/test_ranks.py's."""
    found = [float(re.search(r"Adam moments \(fp32\) +([\d.]+) MB", run("plan", "--config", runs.config, "--ranks", 4, "--set",
                                                                         f"training.shard_optimizer={x}").stdout)[1])
             for x in ("false", "true")]
    assert abs(found[1] / found[0] - 0.25) < 0.1, found


@proves("training.gradient_wire")
def gradient_wire(runs):
    """Memory for what is on its way; the sums themselves are tests/test_ranks.py's."""
    fp32, bf16 = (float(re.search(r"exchange with other ranks +([\d.]+) MB", run("plan", "--config", runs.config, "--ranks", 2, "--set",
                                                                               f"training.gradient_wire={x}").stdout)[1])
                  for x in ("fp32", "bf16"))
    assert bf16 > fp32, (fp32, bf16)


@proves("training.gradient_bucket_mb")
def gradient_bucket_mb(runs):
    """More and smaller sums: at 1 MB, a model of 3 MB a layer pads each of its buckets to whole pieces of very many ranks."""
    sizes = ("model.num_layers=4", "model.intermediate_size=5000", "model.vocab_size=600")
    small, large = (re.search(r"gradients \(fp32\) +([\d.]+) MB", run("plan", "--config", runs.config, "--ranks", 20000, "--set",
                                                                        f"training.gradient_bucket_mb={x}", *sizes).stdout)[1]
                    for x in (1, 4096))
    assert float(small) > float(large), (small, large)


@proves("training.recompute")
def recompute(runs):
    """The same bits from less memory."""
    a, b = (runs.train(f"training.recompute={x}", steps=3) for x in ("false", "true"))
    assert a.losses() == b.losses()
    kept, again = (float(re.search(r"activations +([\d.]+) MB", run("plan", "--config", runs.config, "--set",
                                                                  f"training.recompute={x}").stdout).group(1)) for x in ("false", "true"))
    assert again < 0.8 * kept, (again, kept)


@proves("training.device")
def device(runs):
    """cuda never means the CPU: another device's name in the log, or a refusal. auto takes the one of the two."""
    name = lambda r: r.log("start")[0]["device"]
    cpu, auto = (runs.train(f"training.device={d}", steps=1) for d in ("cpu", "auto"))
    path = f"{runs.folder}/cuda"
    done = run("train", "--config", runs.config, "--max-steps", 1, "--set", f"run_dir={path}", "training.device=cuda", check=None)
    if done.returncode == UNAVAILABLE:
        assert done.stderr.startswith("error:") and "cuda" in done.stderr.lower(), done.stderr
        assert name(auto) == name(cpu)
    else:
        assert done.returncode == STOPPED, done.stderr
        assert name(auto) == name(Run(path, done.stderr)) != name(cpu)


@proves("training.micro_batch_tokens")
def micro_batch_tokens(runs):
    """What the run says of its micro-batches; the same step from them, but for rounding."""
    a, b = (runs.train(f"training.micro_batch_tokens={n}", steps=4) for n in (256, 1024))
    for r, n in ((a, 256), (b, 1024)):
        assert r.log("start")[0]["micro_batch_tokens"] == n and f"micro-batches of up to {n} tokens" in r.errors
    assert [s["token_hash"] for s in a.log()] == [s["token_hash"] for s in b.log()]
    assert a.losses() != b.losses() and np.allclose(a.losses(), b.losses(), atol=1e-5)


@proves("training.seed")
def seed(runs):
    """Another order of the data and other weights; the same seed, the same bits."""
    a, again, b = (runs.train(f"training.seed={n}", steps=2) for n in (1, 1, 2))
    assert a.losses() == again.losses()
    assert a.first()["token_hash"] != b.first()["token_hash"]
    assert np.abs(a.tensors()["embed.weight"] - b.tensors()["embed.weight"]).max() > 0.01


# --- Validation, checkpoints, lines ------------------------------------------------------------------------------------------
@proves("training.spike_sigma")
def spike_sigma(runs):
    """Which steps are left out, from the log's figures; none of them changes a weight, and all others are updates. A resume in between
    gives the same losses, and two ranks decide alike."""
    sigma, least, window = 1.5, 32, 128
    stages = ["training.curriculum_stages.*.batch_size=1", "training.learning_rate=1e-2", f"training.spike_sigma={sigma}",
              "checkpoint.interval_steps=1", "checkpoint.keep_last=0"]
    whole = runs.train(*stages, steps=300)

    def beyond(history, value):
        history = history[-window:]
        return len(history) >= least and value > np.mean(history) + sigma * np.std(history, ddof=1)

    def expected_of(steps):
        expected, losses, norms, stage = [], [], [], 1
        for s in steps:
            if s["stage"] != stage:
                losses, norms, stage = [], [], s["stage"]
            if beyond(losses, s["loss"]) or beyond(norms, s["grad_norm"]):
                expected.append(s["step"])
            losses.append(s["loss"]), norms.append(s["grad_norm"])
        return expected

    left_out = [s["step"] for s in whole.log() if s["skipped"]]
    assert whole.log()[-1]["stage"] > 1 and 5 < len(left_out) < 150 and left_out == expected_of(whole.log()), left_out

    def manifest(step):
        return json.load(open(f"{whole.path}/checkpoints/step_{step:09d}/manifest.json"))["run"]

    end = whole.checkpoints()[-1]
    assert [e["step"] for e in manifest(end)["ledger"] if e["event"] == "spike"] == left_out
    assert manifest(end)["adam_steps"] == end - len(left_out)
    for step in left_out[:3]:
        before, after = whole.tensors(step - 1), whole.tensors(step)
        assert all((before[n] == after[n]).all() for n in before), step
    half = runs.train(*stages, steps=left_out[2])
    run("train", "--config", runs.config, "--max-steps", 300 - left_out[2], "--set", f"run_dir={half.path}", *stages, check=STOPPED)
    assert half.losses() == whole.losses()
    assert not any(s["skipped"] for s in runs.train(*stages, "training.spike_sigma=0", steps=100).log())
    if not shutil.which("mpirun"):
        return
    pairs = [f"{runs.folder}/spikes-of-two-{shard}" for shard in ("false", "true")]
    for path in pairs:  # where each rank updates a part, one that decided otherwise would show
        run("train", "--config", runs.config, "--set", f"run_dir={path}", *stages, "training.curriculum_stages.*.batch_size=2",
            f"training.shard_optimizer={path.split('-')[-1]}", ranks=2)
    plain, sharded = (log(path) for path in pairs)
    assert expected_of(plain) and [s["step"] for s in plain if s["skipped"]] == expected_of(plain), expected_of(plain)
    assert [s["loss"] for s in plain] == [s["loss"] for s in sharded]


@proves("training.initial_checkpoint", "training.initial_moments")
def initial_checkpoint(runs):
    """The weights, and the moments where asked for, that the other run ended with, to the bit; step and tokens from 0. More of it is in
    tests/test_continue.py."""
    first = runs.train(steps=5)
    still = "training.learning_rate=1e-30", f"training.initial_checkpoint={first.path}"
    with_moments, without = (runs.train(*still, f"training.initial_moments={x}", steps=1) for x in ("true", "false"))
    given, a, b = first.tensors(), with_moments.tensors(), without.tensors()
    for n in weights(given):
        assert (given[n] == a[n]).all() and (given[n] == b[n]).all(), n
        kept = a[f"moment1/{n}"] - b[f"moment1/{n}"]  # both have the same gradient's share
        assert np.abs(kept - BETA1 * given[f"moment1/{n}"]).max() < 1e-6 * np.abs(given[f"moment1/{n}"]).max() + 1e-12, n
    assert with_moments.losses() == without.losses() and with_moments.first()["step"] == 1


@proves("evaluation.interval_steps")
def evaluation_interval(runs):
    for n, expected in ((0, [24]), (5, [5, 10, 15, 20, 24])):
        assert runs.train(f"evaluation.interval_steps={n}").steps_of("evaluation") == expected


@proves("evaluation.at_stage_end")
def evaluation_at_stage_end(runs):
    for value, expected in (("false", [24]), ("true", STAGE_ENDS)):
        assert runs.train(f"evaluation.at_stage_end={value}").steps_of("evaluation") == expected


@proves("evaluation.seq_len")
def evaluation_seq_len(runs):
    """0 takes the longest stage's."""
    lines = [runs.train(f"evaluation.seq_len={n}").log("evaluation")[-1] for n in (0, 64, 256)]
    assert [l["seq_len"] for l in lines] == [128, 64, 256]
    assert len({l["scored_tokens"] for l in lines}) == 1 and len({l["loss"] for l in lines}) == 3, lines
    assert lines[2]["positions"][-1]["begin"] == 128, lines[2]["positions"]


@proves("evaluation.max_tokens")
def evaluation_max_tokens(runs):
    """Whole documents up to that many tokens."""
    every, some = (runs.train(f"evaluation.max_tokens={n}").log("evaluation")[-1] for n in (0, 2000))
    assert 0 < some["scored_tokens"] <= 2000 < every["scored_tokens"], (some, every)
    assert some["bytes"] < every["bytes"] and some["loss"] != every["loss"]


@proves("checkpoint.interval_steps")
def checkpoint_interval(runs):
    for n, expected in ((0, [24]), (10, [10, 20, 24])):
        done = runs.train(f"checkpoint.interval_steps={n}", "checkpoint.at_stage_end=false")
        assert done.steps_of("checkpoint") == done.checkpoints() == expected


@proves("checkpoint.at_stage_end")
def checkpoint_at_stage_end(runs):
    for value, expected in (("false", [24]), ("true", STAGE_ENDS)):
        done = runs.train(f"checkpoint.at_stage_end={value}", "checkpoint.interval_steps=0")
        assert done.steps_of("checkpoint") == done.checkpoints() == expected


@proves("checkpoint.keep_last", "checkpoint.keep_every")
def checkpoints_kept(runs):
    """Of the checkpoints at every fourth step."""
    for last, every, expected in ((2, 0, [20, 24]), (0, 0, [4, 8, 12, 16, 20, 24]), (1, 8, [8, 16, 24]), (1, 12, [12, 24])):
        done = runs.train("checkpoint.interval_steps=4", "checkpoint.at_stage_end=false", f"checkpoint.keep_last={last}",
                          *[f"checkpoint.keep_every={every}"] * (every > 0))
        assert done.steps_of("checkpoint") == [4, 8, 12, 16, 20, 24]
        assert done.checkpoints() == expected, (last, every, done.checkpoints())


@proves("logging.interval_steps")
def logging_interval(runs):
    """Lines on standard error; log.jsonl has every step."""
    for n, expected in ((1, list(range(1, 25))), (10, [10, 20, 24])):
        done = runs.train(f"logging.interval_steps={n}")
        assert [int(s) for s in re.findall(r"^stage .* step (\d+)/24  loss", done.errors, re.M)] == expected, done.errors
        assert done.steps_of("step") == list(range(1, 25))


@proves("logging.tensorboard")
def logging_tensorboard(runs):
    """What is in the files is tests/test_tensorboard.py's."""
    on, off = (runs.train(f"logging.tensorboard={x}", steps=2) for x in ("true", "false"))
    assert [name.startswith("events.out.tfevents.") for name in os.listdir(f"{on.path}/tensorboard")] == [True]
    assert not os.path.exists(f"{off.path}/tensorboard") and on.losses() == off.losses()


@proves("logging.report")
def logging_report(runs):
    """What is on the page is tests/test_report.py's."""
    on, off = (runs.train(f"logging.report={x}", steps=2) for x in ("true", "false"))
    assert "Training loss" in open(f"{on.path}/report.html").read()
    assert not os.path.exists(f"{off.path}/report.html") and on.losses() == off.losses()


def main():
    failures, folder = 0, tempfile.mkdtemp(prefix="yxanul-effects-")
    try:
        runs = Runs(folder)
        for test in dict.fromkeys(PROVEN.values()):
            keys = ", ".join(k for k in PROVEN if PROVEN[k] is test)
            try:
                test(runs)
                print(f"ok     {keys}", flush=True)
            except AssertionError as error:
                failures += 1
                print(f"FAILED {keys}: line {error.__traceback__.tb_next.tb_lineno}: {error}", flush=True)
    finally:
        shutil.rmtree(folder)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()

"""Event files, read by TensorBoard's own reader: every scalar is log.jsonl's, also after kills, resumes and fresh starts."""
import glob, logging, math, os, random, shutil, struct, subprocess, sys, tempfile, time
import numpy as np
from run_fixture import BINARY, ENVIRONMENT, log, make, run, write_diverging

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as error:
    print(f"skipped: TensorBoard's reader is not installed ({error})")
    sys.exit(77)

STEP_TAGS = {"train/loss": "loss", "train/grad_norm": "grad_norm", "train/lr": "lr", "train/seq_len": "seq_len", "train/tokens": "tokens",
             "train/tokens_per_second": "tokens_per_second"}
EVALUATION_TAGS = {"validation/bits_per_byte": "bits_per_byte", "validation/loss": "loss"}
STOPPED, IO, NUMERIC = 75, 6, 17


def scalars(folder):
    """{tag: [(step, value)]} as TensorBoard shows them."""
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return {tag: values for tag, values in found.items() if values}


def logged(path, fp8=False):
    steps, evaluations = log(path), log(path, "evaluation")
    tags = {**STEP_TAGS, **({"fp8/saturated": "saturated"} if fp8 else {})}
    found = {tag: [(s["step"], s[key]) for s in steps] for tag, key in tags.items()}
    if evaluations:
        found.update({tag: [(e["step"], e[key]) for e in evaluations] for tag, key in EVALUATION_TAGS.items()})
    return found


def same(seen, expected):
    """Values are float32 in event files; what is not finite is null in the log."""
    assert seen.keys() == expected.keys(), (seen.keys(), expected.keys())
    for tag in seen:
        assert [s for s, _ in seen[tag]] == [s for s, _ in expected[tag]], (tag, seen[tag], expected[tag])
        for (step, value), (_, wanted) in zip(seen[tag], expected[tag]):
            right = not math.isfinite(value) if wanted is None else value == np.float32(wanted)
            assert right, (tag, step, value, wanted)


def check(path, **more):
    same(scalars(f"{path}/tensorboard"), logged(path, **more))


def files(path):
    return sorted(glob.glob(f"{path}/tensorboard/events.out.tfevents.*"))


def test_whole(folder, config):
    path = f"{folder}/whole"
    run("train", "--config", config, "--set", f"run_dir={path}", "evaluation.interval_steps=7")
    check(path)
    assert len(log(path, "evaluation")) > 5 and len(files(path)) == 1 and os.listdir(f"{path}/tensorboard") == [
        os.path.basename(files(path)[0])]
    times = [s["time"] for s in log(path)]
    events = EventAccumulator(f"{path}/tensorboard", size_guidance={"scalars": 0}).Reload()
    off = max(abs(e.wall_time - t) for e, t in zip(events.Scalars("train/loss"), times))
    assert off < 0.5, off
    run("train", "--config", config, "--set", f"run_dir={path}", "evaluation.interval_steps=7")  # nothing is left to do
    assert len(files(path)) == 1
    print(f"{len(times)} steps, {len(log(path, 'evaluation'))} evaluations: every scalar is the log's")


def test_fp8(folder, config):
    path = f"{folder}/fp8"
    run("train", "--config", config, "--set", f"run_dir={path}", "training.precision=fp8", "training.bf16_warmup_steps=2", "--max-steps", 8,
        check=STOPPED)
    check(path, fp8=True)


def test_killed(folder, config):
    """kill -9 at random moments: each step is there once, with the value of the run that went on; and every name sorts behind the
    ones before it."""
    path, draw, order = f"{folder}/killed", random.Random(5), []
    settings = ["--set", f"run_dir={path}", "evaluation.interval_steps=9", "checkpoint.interval_steps=10"]
    for target in (13, 31, 48):
        process = subprocess.Popen([BINARY, "train", "--config", config, *settings], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        while not os.path.exists(f"{path}/log.jsonl") or not any(s["step"] >= target for s in log(path)):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(draw.uniform(0, 0.02))
        process.kill()
        process.wait()
        order += [name for name in files(path) if name not in order]
    run("train", "--config", config, *settings)
    check(path)
    order += [name for name in files(path) if name not in order]
    assert len(order) == 4 and order == files(path), order
    print(f"killed three times and resumed: {len(log(path))} steps, each once")


def test_quick_restarts(folder, config):
    """Several starts within a second: the files are read in the order they were written."""
    path, began = f"{folder}/quick", time.time()
    for _ in range(4):
        run("train", "--config", config, "--set", f"run_dir={path}", "--max-steps", 2, check=STOPPED)
    check(path)
    seconds = [int(os.path.basename(name).split(".")[3]) for name in files(path)]
    assert len(set(seconds)) == 4 and seconds == sorted(seconds), seconds
    back = f"{path}/checkpoints/step_000000004"
    run("train", "--config", config, "--set", f"run_dir={path}", "training.precision=bf16", "--resume", back, "--max-steps", 1, check=STOPPED)
    assert len(log(path)) == 5
    check(path)
    print(f"four starts in {time.time() - began:.1f} s, one back to an earlier checkpoint: every step once")


def test_cut(folder):
    """A file that ends within its last record, wherever: what comes before is read."""
    whole = scalars(f"{folder}/quick/tensorboard")
    last = files(f"{folder}/quick")[-1]
    data = open(last, "rb").read()
    ends = [0]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 16 + struct.unpack("<Q", data[ends[-1]:ends[-1] + 8])[0])
    assert ends[-1] == len(data) and len(ends) == 4, ends  # version, start of the session, one step
    copy = f"{folder}/cut"
    shutil.copytree(f"{folder}/quick/tensorboard", copy)
    for size in sorted({ends[-2] + 1, ends[-2] + 8, ends[-2] + 11, ends[-2] + 12, ends[-2] + 40, len(data) - 4, len(data) - 1}):
        open(f"{copy}/{os.path.basename(last)}", "wb").write(data[:size])
        seen = scalars(copy)
        assert seen == {tag: values[:-1] for tag, values in whole.items()}, size
    broken = bytearray(data)
    broken[ends[-2] + 30] ^= 1  # the reader does check: a flipped bit is no value
    open(f"{copy}/{os.path.basename(last)}", "wb").write(broken)
    assert scalars(copy) == seen
    print("a cut last record is survived")


def test_fresh_start(folder, config):
    """The earlier run's events go aside with its checkpoints and log; where it has no checkpoints they go with the log."""
    path = f"{folder}/fresh"
    train = ("train", "--config", config, "--set", f"run_dir={path}", "checkpoint.interval_steps=0")
    run(*train, "--max-steps", 5, check=STOPPED)
    before = scalars(f"{path}/tensorboard")
    run(*train, "training.learning_rate=1e-3", "--resume", "never", "--max-steps", 2, check=STOPPED)
    assert scalars(f"{path}/tensorboard-before-1") == before
    check(path)
    assert len(log(path)) == 2
    shutil.rmtree(f"{path}/checkpoints")  # as if killed before the first one
    open(f"{path}/tensorboard/notes.txt", "w").write("mine")
    run(*train, "--max-steps", 1, check=STOPPED)
    check(path)
    assert len(log(path)) == 1 and len(files(path)) == 1 and os.path.exists(f"{path}/tensorboard/notes.txt")
    os.makedirs(f"{path}/tensorboard-before-2")  # the number is one that no name of the run folder has
    run(*train, "--resume", "never", "--max-steps", 1, check=STOPPED)
    assert scalars(f"{path}/tensorboard-before-3") and os.path.exists(f"{path}/checkpoints-before-3"), os.listdir(path)
    check(path)
    print("fresh starts: no event of an earlier run is left")


def test_off(folder, config):
    """Turned off for a while: the events that were superseded meanwhile are not shown."""
    path = f"{folder}/off"
    train = ("train", "--config", config, "--set", f"run_dir={path}")
    run(*train, "logging.tensorboard=false", "--max-steps", 1, check=STOPPED)
    assert not os.path.exists(f"{path}/tensorboard")
    run(*train, "--max-steps", 5, check=STOPPED)
    back = f"{path}/checkpoints/step_000000001"
    run(*train, "logging.tensorboard=false", "--resume", back, "--max-steps", 9, check=STOPPED)
    assert scalars(f"{path}/tensorboard") == {}, scalars(f"{path}/tensorboard")
    run(*train, "--max-steps", 2, check=STOPPED)
    same(scalars(f"{path}/tensorboard"), {tag: values[-2:] for tag, values in logged(path).items()})
    print("turned off and on again: only what is true is shown")


def test_not_finite(folder):
    """What is not a number is shown as such."""
    write_diverging(f"{folder}/nan.yaml", folder)
    path = f"{folder}/nan"
    run("train", "--config", f"{folder}/nan.yaml", "--set", f"run_dir={path}", check=NUMERIC)
    check(path)
    bad = sum(s["grad_norm"] is None for s in log(path))
    assert bad >= 8
    print(f"{bad} steps whose gradient is not finite are shown as that")


def test_no_place(folder, config):
    path = f"{folder}/place"
    os.makedirs(path)
    open(f"{path}/tensorboard", "w").write("")
    done = run("train", "--config", config, "--set", f"run_dir={path}", check=IO)
    errors = [l for l in done.stderr.splitlines() if l.startswith("error:")]
    assert len(errors) == 1 and f"{path}/tensorboard" in errors[0], done.stderr
    print("a folder that cannot be made: said, exit code 6")


def main():
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it says what it drops
    folder = tempfile.mkdtemp(prefix="yxanul-tensorboard-")
    try:
        config = make(folder)
        test_whole(folder, config)
        test_fp8(folder, config)
        test_killed(folder, config)
        test_quick_restarts(folder, config)
        test_cut(folder)
        test_fresh_start(folder, config)
        test_off(folder, config)
        test_not_finite(folder)
        test_no_place(folder, config)
    finally:
        shutil.rmtree(folder)


main()

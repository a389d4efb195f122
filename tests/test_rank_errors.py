"""Several ranks: one line says why a run failed, of rank 0 if it failed and else of the lowest rank that did; no rank waits for
one that is gone."""
import json, os, resource, shutil, signal, subprocess, tempfile, time
import h5py
from run_fixture import BINARY, CONFIG, ENVIRONMENT, log, make, run

USAGE, CONFIGURATION, DATA, MISMATCH, IO, NUMERIC = 2, 3, 4, 5, 6, 17
WAIT = 30  # seconds: far more than any of these takes, unless a rank waits for ever


def launch(commands):
    """mpirun with one rank for each of `commands`."""
    line = ["mpirun", "--allow-run-as-root", "--oversubscribe"]
    for i, command in enumerate(commands):
        line += [":"] * (i > 0) + ["-np", "1", *map(str, command)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def one_error(process, code, *words):
    """The ranks end in time with `code`, and the single error line starts with words[0] and holds the others."""
    try:
        errors = process.communicate(timeout=WAIT)[1]
    except subprocess.TimeoutExpired:
        process.terminate()  # mpirun ends its ranks
        raise AssertionError(f"the ranks did not end within {WAIT} s: {words}")
    lines = [l for l in errors.splitlines() if l.startswith("error:")]
    assert process.returncode == code, (process.returncode, errors)
    assert len(lines) == 1 and lines[0].startswith(f"error: {words[0]}"), errors
    assert all(w in lines[0] for w in words[1:]), (words, lines[0])
    return errors


def train(*arguments):
    return [BINARY, "train", *map(str, arguments)]


def test_all_alike(folder, config):
    same = lambda *arguments: launch([train(*arguments)] * 3)
    errors = one_error(same("--speed", 9), USAGE, "'--speed'")
    assert errors.count("yxanul train --help") == 1, errors
    one_error(same("--config", f"{folder}/none.yaml"), CONFIGURATION, "the configuration", "none.yaml")
    one_error(same("--config", config, "--set", f"data.path={folder}/none"), IO, f"there is no folder {folder}/none")
    one_error(same("--config", config, "--set", f"run_dir={folder}/numbers", "training.learning_rate=10",
                   "training.weight_decay=10"), NUMERIC, "8 steps in a row")
    assert len(log(f"{folder}/numbers")) >= 8
    print("three ranks that fail alike: one message")


def test_some(folder, config):
    """Some ranks fail while the others could go on."""
    good = train("--config", config, "--set", f"run_dir={folder}/some")
    bad = lambda name: train("--config", f"{folder}/{name}.yaml")
    one_error(launch([good, bad("first"), good]), CONFIGURATION, "rank 1: ", "first.yaml")
    one_error(launch([good, bad("first"), train("--speed")]), USAGE, "rank 2: ", "--speed")
    one_error(launch([good, bad("first"), bad("second")]), CONFIGURATION, "rank 1: ", "first.yaml")
    one_error(launch([bad("zeroth"), bad("first"), good]), CONFIGURATION, "the configuration", "zeroth.yaml")
    one_error(launch([good, good, [*good, "training.seed=2"]]), MISMATCH, "the plan of step", "on rank 2 (", "configurations, data or programs differ")
    assert not log(f"{folder}/some"), "no step was done"
    print("some of three ranks fail at the start: the lowest says why")


def test_in_the_middle(folder, config):
    """A rank meets damaged tokens after some steps, while the others already wait for its gradient."""
    shutil.copytree(f"{folder}/data", f"{folder}/damaged")
    shard = next(f"{folder}/damaged/{n}" for n in sorted(os.listdir(f"{folder}/damaged")) if n.startswith("train"))
    with h5py.File(shard) as file:
        tokens = file["tokens"]
        begin, count = tokens.id.get_offset(), tokens.shape[0]
    with open(shard, "r+b") as file:  # the third quarter: some of the blocks, which come in random order
        file.seek(begin + count // 2 * 4)
        file.write(b"\xff" * (count // 4 * 4))
    good = train("--config", config, "--set", f"run_dir={folder}/middle")
    one_error(launch([good, good, [*good, f"data.path={folder}/damaged"]]), DATA, "rank 2: ", os.path.basename(shard))
    assert log(f"{folder}/middle"), "not in the middle of the run"
    print(f"rank 2 fails after step {log(f'{folder}/middle')[-1]['step']}: its message, and all end")


STAGES = """    - {{seq_len: 32, batch_size: 128, fraction: 0.8, description: first}}
    - {{seq_len: 32, batch_size: 128, fraction: 0.2, description: {description}}}"""


def test_alone(folder):
    """Rank 0 fails where the others neither ask nor fail: at the line of log.jsonl with which its second stage begins. That
    line is long; rank 0 may write no file that holds it, which it is told in the first stage, when MPI's files are there."""
    description = "x" * 500
    config = f"{folder}/alone.yaml"
    text = CONFIG.format(folder=folder, stages=STAGES.format(description=description))
    text = text.replace("epochs: 1", "total_tokens: 307200")
    open(config, "w").write(text.replace("interval_steps: 20", "interval_steps: 0, at_stage_end: false"))
    run("train", "--config", config, "--set", f"run_dir={folder}/whole", ranks=3)
    before = open(f"{folder}/whole/log.jsonl").read().split(description)[0].rindex("\n") + 1  # bytes, without the long line
    steps = log(f"{folder}/whole", "stage")[1]["step"] - 1

    path = f"{folder}/alone"
    command = train("--config", config, "--set", f"run_dir={path}")
    leader = ["sh", "-c", f"echo $$ > {folder}/pid; exec env --ignore-signal=XFSZ \"$@\"", "sh", *command]
    process = launch([leader, command, command])
    while process.poll() is None and not (os.path.exists(f"{path}/log.jsonl") and log(path)):
        time.sleep(0.002)
    pid = int(open(f"{folder}/pid").read())
    os.kill(pid, signal.SIGSTOP)
    assert len(log(path)) < steps, "rank 0 was not stopped in its first stage"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (before + 250, before + 250))
    os.kill(pid, signal.SIGCONT)
    one_error(process, IO, "cannot write log.jsonl")
    done = [json.loads(l)["step"] for l in open(f"{path}/log.jsonl").read().splitlines()[:-1]]
    assert done[-1] == steps, (done[-1], steps)
    print(f"rank 0 fails alone after step {steps}: its message, and the ranks that wait for it end")


def main():
    if not shutil.which("mpirun"):
        print("skipped: there is no mpirun")
        raise SystemExit(77)
    folder = tempfile.mkdtemp(prefix="yxanul-ranks-")
    try:
        config = make(folder)
        test_all_alike(folder, config)
        test_some(folder, config)
        test_in_the_middle(folder, config)
        test_alone(folder)
    finally:
        shutil.rmtree(folder)


main()

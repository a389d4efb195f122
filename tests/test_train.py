"""Whole runs: ranks, resume, precisions, signals. Uses the binary as a user does."""
import json, os, random, shutil, signal, subprocess, sys, tempfile, time
import h5py, numpy as np
from run_fixture import BINARY, ENVIRONMENT, log, make, run


def losses(folder):
    return [(s["step"], s["loss"]) for s in log(folder)]


def state(run_folder):
    """All tensors of the newest checkpoint, as bytes."""
    name = open(f"{run_folder}/checkpoints/LATEST").read().strip()
    out = {}
    with h5py.File(f"{run_folder}/checkpoints/{name}/state.h5") as file:
        file.visititems(lambda n, d: out.update({n: d[()].tobytes()}) if isinstance(d, h5py.Dataset) else None)
    return name, out


def same_state(a, b):
    (name_a, x), (name_b, y) = state(a), state(b)
    assert name_a == name_b, (name_a, name_b)
    assert x.keys() == y.keys()
    different = [n for n in x if x[n] != y[n]]
    assert not different, different


def test_ranks(folder, config):
    """1, 2 and 3 ranks read the same tokens in every step, and over 60 steps their losses agree to 1e-5. (Later the
    rounding differences of a sum over ranks grow as training is chaotic.)"""
    for ranks in (1, 2, 3):
        run("train", "--config", config, "--set", f"run_dir={folder}/ranks{ranks}", ranks=ranks)
    one = log(f"{folder}/ranks1")
    assert len(one) >= 60, len(one)
    assert one[-1]["loss"] < one[0]["loss"] - 0.5, "the loss does not fall"
    assert len({s["token_hash"] for s in one}) == len(one), "two steps read the same tokens"
    worst = 0
    for ranks in (2, 3):
        other = log(f"{folder}/ranks{ranks}")
        assert [s["token_hash"] for s in one] == [s["token_hash"] for s in other]
        worst = max(worst, max(abs(a["loss"] - b["loss"]) for a, b in zip(one[:60], other[:60])))
    assert worst <= 1e-5, worst
    print(f"1, 2 and 3 ranks: {len(one)} steps with the same tokens, losses of 60 steps within {worst:.1e}")


def kill_at(config, folder, seconds):
    process = subprocess.Popen([BINARY, "train", "--config", config, "--set", f"run_dir={folder}"], env=ENVIRONMENT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    process.wait()


def test_resume(folder, config, precision):
    """kill -9 at three random moments; the finished run equals the undisturbed one to the bit."""
    chosen = f"{folder}/config-{precision}.yaml"
    warmup = "\n  bf16_warmup_steps: 5" if precision == "fp8" else ""
    open(chosen, "w").write(open(config).read().replace("precision: fp32", f"precision: {precision}{warmup}"))
    whole, broken = f"{folder}/whole-{precision}", f"{folder}/broken-{precision}"
    start = time.time()
    run("train", "--config", chosen, "--set", f"run_dir={whole}")
    duration = time.time() - start
    draw = random.Random(precision)
    reached = []
    for k in range(3):
        kill_at(chosen, broken, duration * draw.uniform(0.15, 0.4))
        reached.append(len(log(broken)) if os.path.exists(f"{broken}/log.jsonl") else 0)
    run("train", "--config", chosen, "--set", f"run_dir={broken}")
    same_state(whole, broken)
    assert losses(whole) == losses(broken)
    stages = {s["stage"] for s in log(broken)}
    assert stages == set(range(1, 11)), stages
    print(f"{precision}: killed at steps {reached} of {len(log(whole))}: same parameters, moments and losses")


def test_resume_at_transition(folder, config):
    """Stopped at the last step of a stage and one step after: the same bits."""
    whole, broken = f"{folder}/whole-fp32", f"{folder}/transition"
    first = [s["step"] for s in log(whole, "stage")][3]
    for steps in (first - 1, 1, 1):
        run("train", "--config", config, "--set", f"run_dir={broken}", "--max-steps", steps, check=75)
    run("train", "--config", config, "--set", f"run_dir={broken}")
    same_state(whole, broken)
    assert losses(whole) == losses(broken)
    assert [s["step"] for s in log(whole, "stage")] == [s["step"] for s in log(broken, "stage")]
    print("resumed at and just after a stage transition: same bits")


def test_precisions(folder):
    """bf16 and fp8 learn what fp32 learns, and are not the same arithmetic."""
    final = {p: np.mean([s["loss"] for s in log(f"{folder}/whole-{p}")][-8:]) for p in ("fp32", "bf16", "fp8")}
    firsts = {losses(f"{folder}/whole-{p}")[5][1] for p in final}
    assert len(firsts) == 3, firsts
    assert abs(final["bf16"] - final["fp32"]) < 0.05 and abs(final["fp8"] - final["fp32"]) < 0.1, final
    saturated = sorted(s["saturated"] for s in log(f"{folder}/whole-fp8"))
    assert saturated[-3] < 1e-3 and saturated[-1] < 0.05, saturated[-4:]  # a jump of the gradients clips some in one step
    print("mean loss of the last 8 steps: " + ", ".join(f"{p} {v:.4f}" for p, v in final.items()))


def test_split(folder, config):
    """fp8: how a step is cut into micro-batches does not change which scales it uses."""
    runs = {}
    for tokens in (512, 1024):
        path = f"{folder}/micro{tokens}"
        run("train", "--config", f"{folder}/config-fp8.yaml", "--set", f"run_dir={path}",
            f"training.micro_batch_tokens={tokens}", "--max-steps", 12, check=75)
        runs[tokens] = [s["loss"] for s in log(path)]
    worst = max(abs(a - b) for a, b in zip(runs[512], runs[1024]))
    assert worst < 2e-3, worst
    print(f"fp8, micro-batches of 512 and 1024 tokens: losses within {worst:.1e}")


def test_changed_precision(folder, config):
    """Resumed with 8-bit operands other than the checkpoint's: the next step measures their scales, and clips no more than others."""
    fp8, measured = f"{folder}/config-fp8.yaml", "the next step measures them"
    eight = ["training.bf16_warmup_steps=0", "training.fp8_fallback=0"]
    changes = [(config, ["precision=bf16"], fp8, []), (fp8, ["fp8_gradient=e5m2"], fp8, ["fp8_gradient=e4m3"]),
               (fp8, ["fp8_recipe=forward-only"], fp8, []), (fp8, ["fp8_recipe=current"], fp8, []),
               (fp8, ["bf16_layers_at_start=1"], fp8, ["bf16_layers_at_start=0"]),
               (fp8, [], fp8, ["bf16_layers_at_start=0", "bf16_layers_at_end=1"])]
    worst = 0
    for i, (before, first, after, then) in enumerate(changes):
        path = f"{folder}/changed{i}"
        settings = ["--set", f"run_dir={path}", *eight]
        run("train", "--config", before, *settings, *(f"training.{c}" for c in first), "--max-steps", 10, check=75)
        shutil.copytree(path, f"{path}-same")
        said = run("train", "--config", after, *settings, *(f"training.{c}" for c in then), "--max-steps", 4, check=75)
        assert measured in said.stdout + said.stderr, (first, then, said.stderr)
        steps = log(path)
        assert len(steps) == 14 and len({s["stage"] for s in steps}) == 1, "not within a stage"
        worst = max(worst, *(s["saturated"] for s in steps[10:]))
        again = ["--set", f"run_dir={path}-same", *eight, *(f"training.{c}" for c in first)]
        said = run("train", "--config", before, *again, "--max-steps", 1, check=75)
        assert measured not in said.stdout + said.stderr
    assert worst < 1e-3, worst
    print(f"{len(changes)} changes of the 8-bit operands on a resume: at most {worst:.1e} of the values clipped")


def begun(config, path, *settings):
    """A run that has done some steps and goes on."""
    process = subprocess.Popen([BINARY, "train", "--config", config, "--set", f"run_dir={path}", *settings], env=ENVIRONMENT,
                               stderr=subprocess.PIPE, text=True)
    while not os.path.exists(f"{path}/log.jsonl") or len(open(f"{path}/log.jsonl").readlines()) < 8:
        time.sleep(0.02)
    return process


def test_signal(folder, config):
    """SIGTERM: a checkpoint at the next step, exit code 75, and the same command continues; meanwhile no other process trains in
    the folder. A closed terminal is a signal, too."""
    path = f"{folder}/signal"
    process = begun(config, path)
    taken = run("train", "--config", config, "--set", f"run_dir={path}", check=2)
    assert f"another process trains in {path}" in taken.stderr, taken.stderr
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 75, (process.returncode, error)
    done = len(log(path))
    assert open(f"{path}/checkpoints/LATEST").read().strip() == f"step_{done:09d}"
    run("train", "--config", config, "--set", f"run_dir={path}")
    same_state(f"{folder}/whole-fp32", path)
    process = begun(config, f"{folder}/hangup")
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 75
    print(f"SIGTERM at step {done}: checkpoint, exit code 75, continued to the same bits")


def test_damage(folder, config):
    """The newest checkpoint damaged: the one before it is used, and said; all damaged: refused, never a fresh start."""
    path = f"{folder}/damage"
    run("train", "--config", config, "--set", f"run_dir={path}", "--max-steps", 45, check=75)
    names = sorted(n for n in os.listdir(f"{path}/checkpoints") if n.startswith("step_"))
    flip(f"{path}/checkpoints/{names[-1]}/state.h5")
    done = run("train", "--config", config, "--set", f"run_dir={path}")
    assert names[-1] in done.stderr and "cannot be used" in done.stderr, done.stderr
    same_state(f"{folder}/whole-fp32", path)
    for name in os.listdir(f"{path}/checkpoints"):
        if name.startswith("step_"):
            flip(f"{path}/checkpoints/{name}/state.h5")
    done = run("train", "--config", config, "--set", f"run_dir={path}", check=4)
    assert done.stderr.splitlines()[-1].startswith("error:"), done.stderr
    print("damaged checkpoints: fell back to the one before; refused when none is left")


def flip(path):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 4]))


def test_fresh_start(folder, config):
    """--resume never deletes nothing, and what it begins is what the next command continues, even if it ends before a checkpoint."""
    path = f"{folder}/fresh"
    train = ("train", "--config", config, "--set", f"run_dir={path}", "checkpoint.interval_steps=0", "checkpoint.at_stage_end=false")
    run(*train, "--max-steps", 3, check=75)
    earlier = losses(path)
    for number in (1, 2):
        run(*train, "training.learning_rate=1e-3", "--resume", "never", "--max-steps", 2, check=75)
        assert {f"log-before-{number}.jsonl", f"tensorboard-before-{number}"} < set(os.listdir(path)) and len(log(path)) == 2
    assert os.listdir(f"{path}/checkpoints-before-1") and losses(path) != earlier[:2]
    steps = [(s["step"], s["loss"]) for s in map(json.loads, open(f"{path}/log-before-1.jsonl")) if s["type"] == "step"]
    assert steps == earlier, steps
    shutil.rmtree(f"{path}/checkpoints")  # as if killed before the first one
    done = run(*train, "--max-steps", 1, check=75)
    assert "fresh start" in done.stdout + done.stderr and len(log(path)) == 1
    print("a fresh start keeps the earlier run's checkpoints and log aside")


def test_another_run(folder, config):
    """--resume FOLDER: begins from another run's checkpoint, goes on with its own, and has the model of one that was complete."""
    path, whole = f"{folder}/branch", f"{folder}/whole-fp32"
    run("train", "--config", config, "--set", f"run_dir={folder}/trunk", "--max-steps", 21, check=75)
    train = ("train", "--config", config, "--set", f"run_dir={path}", "--resume", f"{folder}/trunk")
    for end in (26, 31):
        done = run(*train, "--max-steps", 5, check=75)
        assert log(path)[-1]["step"] == end and "the same command continues" in done.stderr, done.stderr
    own = run(*train[:-1], f"{path}/checkpoints/step_000000026", "--max-steps", 1, check=75)
    assert log(path)[-1]["step"] == 27 and "the same command without --resume continues" in own.stderr, own.stderr
    run(*train)
    same_state(whole, path)
    run(*train[:4], f"run_dir={folder}/copy", "--resume", whole)
    same_state(whole, f"{folder}/copy")
    print("a run begins from another's checkpoint, and goes on with its own")


def test_quiet(folder, config):
    said = run("train", "--config", config, "--set", f"run_dir={folder}/quiet", "logging.interval_steps=1", "--max-steps", 3, "--quiet",
               check=75)
    assert said.stdout + said.stderr == "", (said.stdout, said.stderr)


def test_mismatch(folder, config):
    """A checkpoint of another schedule or model is refused; the message names the key."""
    for key, was in (("training.learning_rate=0.001", "0.002"), ("model.intermediate_size=64", "96"), ("training.seed=9", "1"),
                     ("training.curriculum_stages.1.grad_clip=2", "1"), ("training.lr_schedule=wsd", "cosine")):
        said = run("train", "--config", config, "--set", f"run_dir={folder}/whole-fp32", key, check=5).stderr
        assert f"{key.replace('=', ' is ')}, not {was})" in said, said
    print("another schedule, model or seed on an old run: refused")


def test_eval_generate(folder, config):
    """eval agrees with the run's own last validation; generate is a function of its seed."""
    path = f"{folder}/whole-fp32"
    result = json.loads(run("eval", "--checkpoint", path, "--bigram", "--json").stdout)
    last = log(path, "evaluation")[-1]
    assert abs(result["bits_per_byte"] - last["bits_per_byte"]) < 1e-6, (result, last)
    assert result["bits_per_byte"] < result["unigram_bits_per_byte"]
    texts = [run("generate", "--checkpoint", path, "--prompt", "abc", "--seed", s, "--max-tokens", 20).stdout for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    greedy = [run("generate", "--checkpoint", path, "--prompt", "abc", "--seed", s, "--temperature", 0, "--max-tokens",
                  20).stdout for s in (1, 2)]
    assert greedy[0] == greedy[1]
    assert "layers.1.down.weight" in run("inspect", path).stdout
    print(f"eval {result['bits_per_byte']:.4f} bits/byte as in the log; generate repeats with its seed")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-train-")
    try:
        config = make(folder)
        if shutil.which("mpirun"):
            test_ranks(folder, config)
        else:
            print("no mpirun: ranks are not tested")
        for precision in ("fp32", "bf16", "fp8"):
            test_resume(folder, config, precision)
        test_resume_at_transition(folder, config)
        test_precisions(folder)
        test_split(folder, config)
        test_changed_precision(folder, config)
        test_signal(folder, config)
        test_damage(folder, config)
        test_fresh_start(folder, config)
        test_another_run(folder, config)
        test_quiet(folder, config)
        test_mismatch(folder, config)
        test_eval_generate(folder, config)
    finally:
        shutil.rmtree(folder)


main()

"""A run whose numbers are no longer finite ends with exit code 17 and one message, and leaves only checkpoints that hold
numbers."""
import json, os, shutil, tempfile
import h5py, numpy as np
from run_fixture import log, make, run, write_diverging

NUMERIC, SKIPS = 17, 8


def fails(path, config, *sets):
    """The run's one error line."""
    done = run("train", "--config", config, "--set", f"run_dir={path}", *sets, check=NUMERIC)
    errors = [l for l in done.stderr.splitlines() if l.startswith("error:")]
    assert len(errors) == 1 and done.stderr.splitlines()[-1] == errors[0], done.stderr
    return errors[0]


def checkpoints(path):
    """Steps of the checkpoints, which are whole and hold only finite numbers; LATEST names the newest."""
    names = sorted(os.listdir(f"{path}/checkpoints"))
    assert names[0] == "LATEST" and all(n.startswith("step_") for n in names[1:]), names
    assert open(f"{path}/checkpoints/LATEST").read().strip() == names[-1], names
    for name in names[1:]:
        run("inspect", f"{path}/checkpoints/{name}")
        with h5py.File(f"{path}/checkpoints/{name}/state.h5") as file:
            file.visititems(lambda n, d: check_finite(name, n, d) if isinstance(d, h5py.Dataset) else None)
    return [int(n[5:]) for n in names[1:]]


def check_finite(checkpoint, name, data):
    assert np.isfinite(data[()]).all(), f"{checkpoint}: {name} is not finite"


def last_update(path):
    """The log's last step that updated; the eight behind it did not, and the run ended there."""
    steps = log(path)
    assert [s["skipped"] for s in steps[-SKIPS - 1:]] == [False] + [True] * SKIPS, steps[-SKIPS - 1:]
    assert all(s["grad_norm"] is None for s in steps[-SKIPS:])
    return steps[-SKIPS - 1]["step"]


def test_gradient(folder, config):
    """Checkpoints at every step: those of skipped steps would push the good ones out."""
    path = f"{folder}/gradient"
    every = ("checkpoint.interval_steps=1", "checkpoint.keep_last=2", "checkpoint.keep_every=24")
    error = fails(path, config, *every)
    for word in ("8 steps in a row", "not finite", "training.learning_rate"):
        assert word in error, error
    updated = last_update(path)
    assert updated > 24, "the first stage learns"
    assert checkpoints(path) == [24, updated - 1, updated], (checkpoints(path), updated)
    good = json.loads(run("eval", "--checkpoint", f"{path}/checkpoints/step_000000024", "--json").stdout)
    assert good["step"] == 24 and good["loss"] < 8, good
    assert fails(path, config, *every) == error
    assert last_update(path) == updated and checkpoints(path) == [24, updated - 1, updated]
    run("train", "--config", config, "--set", f"run_dir={path}", *every, "--max-steps", 3, check=75)  # after three of the eight
    assert fails(path, config, *every) == error and last_update(path) == updated
    print(f"gradient not finite from step {updated + 1} on: exit code 17 after 8 steps, newest checkpoint of step {updated}")


def test_parameters(folder, config):
    """Without a memory of the gradient's size and with an epsilon that is 0 in fp32, AdamW divides 0 by 0: parameters become
    NaN while the gradient is finite."""
    path = f"{folder}/parameters"
    error = fails(path, config, "training.adam_beta2=0", "training.adam_eps=1e-50", "checkpoint.interval_steps=1")
    steps = log(path)
    assert not any(s["skipped"] for s in steps), steps
    for word in ("weight is not finite", f"after step {steps[-1]['step']}", "no checkpoint"):
        assert word in error, error
    assert checkpoints(path)[-1] == steps[-1]["step"] - 1
    print(f"parameters not finite after step {steps[-1]['step']}: exit code 17, no checkpoint of it")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-nan-")
    try:
        make(folder)
        config = write_diverging(f"{folder}/config.yaml", folder)
        test_gradient(folder, config)
        test_parameters(folder, config)
    finally:
        shutil.rmtree(folder)


main()

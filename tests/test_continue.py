"""A run that begins with another run's weights (training.initial_checkpoint) on other data, with a schedule of its own."""
import json, os, shutil, tempfile
import h5py
from run_fixture import log, make, run, write_text

STILL = "training.learning_rate=1e-30"  # moves no fp32 number
STAGES = """    - {seq_len: 64, batch_size: 8, fraction: 0.25}
    - {seq_len: 512, batch_size: 1, fraction: 0.75}"""


def manifest(path):
    name = open(f"{path}/checkpoints/LATEST").read().strip()
    return json.load(open(f"{path}/checkpoints/{name}/manifest.json"))["run"]


def state(path):
    name = open(f"{path}/checkpoints/LATEST").read().strip()
    out = {}
    with h5py.File(f"{path}/checkpoints/{name}/state.h5") as file:
        file.visititems(lambda n, d: out.update({n: d[()].tobytes()}) if isinstance(d, h5py.Dataset) else None)
    return out


def prepare_more(folder):
    """Other text in the same language, other data of the same tokenizer; its configuration has other stages."""
    os.mkdir(f"{folder}/more")
    write_text(f"{folder}/more/text.jsonl", 200, 1)
    lines = open(f"{folder}/more/text.jsonl").readlines()[130:]  # the first 130 are the other run's
    open(f"{folder}/more/text.jsonl", "w").writelines(lines)
    run("prepare", "--tokenizer", f"{folder}/tokenizer", "--input", f"{folder}/more/text.jsonl", "--output", f"{folder}/more/data",
        "--validation-fraction", "0.05")
    text = open(f"{folder}/config.yaml").read().split("  curriculum_stages:\n")[0].replace(f"{folder}/data", f"{folder}/more/data")
    open(f"{folder}/more.yaml", "w").write(f"{text}  curriculum_stages:\n{STAGES}\ncheckpoint: {{interval_steps: 20, keep_last: 3}}\n")
    return f"{folder}/more.yaml"


def train(config, path, *sets, steps=0, check=None, **options):
    limit = ["--max-steps", steps] if steps else []
    expected = (75 if steps else 0) if check is None else check
    return run("train", "--config", config, *limit, "--set", f"run_dir={path}", *sets, check=expected, **options)


def test_goes_on(folder, more, first):
    """What the first run learned is there: the second one's first losses are far below a fresh run's. Its ledger says where it came from."""
    fresh, path = f"{folder}/fresh", f"{folder}/second"
    train(more, fresh)
    said = train(more, path, f"training.initial_checkpoint={first}").stderr
    gain = log(fresh)[0]["loss"] - log(path)[0]["loss"]
    last = log(first)[-1]
    assert gain > 0.8 and abs(log(path)[0]["loss"] - last["loss"]) < 0.5, (gain, log(path)[0]["loss"], last["loss"])
    assert [s["token_hash"] for s in log(fresh)] == [s["token_hash"] for s in log(path)]
    assert log(path, "evaluation")[-1]["loss"] < log(fresh, "evaluation")[-1]["loss"] - 0.3
    entry = manifest(path)["ledger"][0]
    where = f"weights of {first}/checkpoints/step_{last['step']:09d} (step {last['step']}, {last['tokens']} tokens)"
    assert entry["event"] == "initial" and entry["step"] == 0 and entry["detail"] == where, entry
    assert f"begins with the {where}" in said, said
    assert [line["detail"] for line in log(path, "decision")] == [where]
    assert f"initial: {where}" in open(f"{path}/report.html").read()
    assert manifest(path)["adam_steps"] == len(log(path))
    print(f"other data: first loss {log(path)[0]['loss']:.3f}, of a fresh run {log(fresh)[0]['loss']:.3f}")


def test_weights_and_moments(folder, more, first):
    """To the bit, on one rank or two that share the moments; the number of updates goes on where the moments do."""
    given, updates = state(first), manifest(first)["adam_steps"]
    for moments, start in (("false", 0), ("true", updates)):
        kept = f"training.initial_moments={moments}", f"training.initial_checkpoint={first}", STILL
        one, two = f"{folder}/one-{moments}", f"{folder}/two-{moments}"
        train(more, one, *kept, steps=1)
        assert manifest(one)["adam_steps"] == start + 1
        found = state(one)
        assert all(found[n] == given[n] for n in given if not n.startswith("moment"))
        if shutil.which("mpirun"):
            train(more, two, *kept, "training.shard_optimizer=true", steps=1, ranks=2)
            assert abs(log(one)[0]["loss"] - log(two)[0]["loss"]) < 1e-5
            assert all(state(two)[n] == given[n] for n in given if not n.startswith("moment"))
    print(f"weights to the bit; {updates} updates carried over with the moments")


def test_resume(folder, more, first):
    """Stopped and started again, without the first run's folder: the same bits. The key may not change then."""
    path, whole, gone = f"{folder}/stopped", f"{folder}/second", f"{first}-elsewhere"
    key = f"training.initial_checkpoint={first}"
    train(more, path, key, steps=7)
    lines = [line for line in open(f"{path}/log.jsonl") if '"decision"' not in line]  # one is lost, another is not the run's
    open(f"{path}/log.jsonl", "w").writelines([*lines, '{"type":"decision","step":1,"event":"x","detail":"x","hash":"0"}\n'])
    os.rename(first, gone)
    train(more, path, key)
    os.rename(gone, first)
    assert state(path) == state(whole)
    assert [s["loss"] for s in log(path)] == [s["loss"] for s in log(whole)]
    assert manifest(path)["ledger"] == manifest(whole)["ledger"] and len(log(path, "decision")) == 1
    assert log(path, "decision")[0]["hash"] == manifest(path)["ledger"][0]["hash"]
    said = train(more, path, check=5).stderr
    assert f'training.initial_checkpoint is absent, not "{first}"' in said, said
    print("resumed without the first run's folder: same bits")


def test_one_checkpoint(folder, more, first):
    """A checkpoint of the middle, by its own path; on the first run's data, too."""
    name = sorted(n for n in os.listdir(f"{first}/checkpoints") if n.startswith("step_"))[0]
    train(f"{folder}/config.yaml", f"{folder}/middle", f"training.initial_checkpoint={first}/checkpoints/{name}", STILL, steps=1)
    assert name in manifest(f"{folder}/middle")["ledger"][0]["detail"]
    with h5py.File(f"{first}/checkpoints/{name}/state.h5") as file:
        assert file["embed.weight"][()].tobytes() == state(f"{folder}/middle")["embed.weight"]


def test_precision(folder, more, first):
    """8-bit operands of an fp32 run's weights: measured in the first step, nothing clipped."""
    path = f"{folder}/eight"
    train(more, path, f"training.initial_checkpoint={first}", "training.precision=fp8", "training.bf16_warmup_steps=0",
          "training.bf16_layers_at_start=0", steps=5)
    steps, fp32 = log(path), log(f"{folder}/second")
    assert max(s["saturated"] for s in steps) < 1e-3
    assert abs(steps[0]["loss"] - fp32[0]["loss"]) < 0.02, (steps[0]["loss"], fp32[0]["loss"])


def test_longer_context(folder, more, first):
    """Positions and wavelengths are no weights: they may change, the wavelengths with a warning."""
    said = train(more, f"{folder}/long", f"training.initial_checkpoint={first}", "model.max_position_embeddings=1024",
                 "training.curriculum_stages.1.seq_len=1024", "training.micro_batch_tokens=1024", "model.rope_theta=50000", steps=2).stderr
    assert "warning: model.rope_theta is 50000; the weights that this run begins with were trained with 10000" in said, said


def test_refusals(folder, more, first):
    key = f"training.initial_checkpoint={first}"
    for sets, code, words in (
        ([key, "model.intermediate_size=112"], 5, "has model.intermediate_size 96, this run 112"),
        ([key, "model.num_attention_heads=3", "model.head_dim=32"], 5, "has model.num_attention_heads 6, this run 3"),
        (["training.initial_checkpoint=/nowhere/at/all"], 3, "training.initial_checkpoint: /nowhere/at/all, of a checkpoint, does not exist"),
        ([f"training.initial_checkpoint={folder}/tokenizer"], 3, f"{folder}/tokenizer holds no checkpoint"),
        (["training.initial_checkpoint="], 3, "training.initial_checkpoint is empty"),
    ):
        said = train(more, f"{folder}/refused", *sets, check=code).stderr
        assert words in said and not os.path.exists(f"{folder}/refused/checkpoints"), said
    said = train(more, f"{folder}/idle", "training.initial_moments=true", steps=1).stderr
    assert "training.initial_moments has no effect without initial_checkpoint" in said, said
    # The same text by another tokenizer: its ids mean other things.
    run("tokenizer", "train", "--input", f"{folder}/more/text.jsonl", "--output", f"{folder}/other", "--vocab-size", 600)
    run("prepare", "--tokenizer", f"{folder}/other", "--input", f"{folder}/more/text.jsonl", "--output", f"{folder}/other-data",
        "--validation-fraction", "0.05")
    said = train(more, f"{folder}/refused", key, f"data.tokenizer={folder}/other", f"data.path={folder}/other-data", check=5).stderr
    assert "was trained with another tokenizer" in said, said
    print("another shape or tokenizer, and what is no checkpoint, are refused")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-continue-")
    try:
        config, first = make(folder), f"{folder}/first"
        train(config, first)
        more = prepare_more(folder)
        for test in (test_goes_on, test_weights_and_moments, test_resume, test_one_checkpoint, test_precision, test_longer_context,
                     test_refusals):
            test(folder, more, first)
    finally:
        shutil.rmtree(folder)


main()

"""Bad input to the binary: one clear message, the documented exit code, nothing left under a final name."""
import glob, json, os, resource, shutil, subprocess, sys, tempfile
from run_fixture import BINARY, ENVIRONMENT, make, run, write_text

USAGE, CONFIG, DATA, MISMATCH, IO, NO_SPACE, NO_MEMORY, UNAVAILABLE = 2, 3, 4, 5, 6, 7, 8, 9
count = 0


def refused(code, words, *arguments, **options):
    """The command fails with `code`, and its last error line holds every word."""
    global count
    done = run(*arguments, check=None, **options)
    lines = [l for l in done.stderr.splitlines() if l.startswith("error:")]
    assert done.returncode == code, (arguments, done.returncode, done.stderr)
    assert len(lines) == 1, (arguments, done.stderr)
    for word in words:
        assert word in lines[0], (arguments, word, lines[0])
    count += 1


def edited(folder, name, change):
    """A copy of config.yaml with `change` applied to its text."""
    path = f"{folder}/{name}.yaml"
    open(path, "w").write(change(open(f"{folder}/config.yaml").read()))
    return path


def test_configuration(folder):
    train = ("train", "--config")
    refused(CONFIG, ["nowhere.yaml"], *train, f"{folder}/nowhere.yaml")
    refused(CONFIG, ["learning_rat", "learning_rate", ":"], *train,
            edited(folder, "unknown", lambda t: t.replace("learning_rate", "learning_rat")))
    refused(CONFIG, ["broken.yaml"], *train, edited(folder, "broken", lambda t: t.replace("epochs: 1", "epochs: [1")))
    refused(CONFIG, ["epochs"], *train, edited(folder, "twice", lambda t: t.replace("epochs: 1", "epochs: 1\n  epochs: 2")))
    refused(CONFIG, ["hidden_size"], *train, edited(folder, "type", lambda t: t.replace("hidden_size: 48", "hidden_size: wide")))
    refused(CONFIG, ["fraction"], *train, edited(folder, "sum", lambda t: t.replace("fraction: 0.1", "fraction: 0.2", 1)))
    refused(CONFIG, ["seq_len"], *train, edited(folder, "divide", lambda t: t.replace("seq_len: 8,", "seq_len: 7,")))
    refused(CONFIG, ["--set"], *train, f"{folder}/config.yaml", "--set", "training.nothing=1")
    refused(USAGE, ["--speed"], "train", "--speed", "9")
    refused(UNAVAILABLE, ["cuda"], *train, f"{folder}/config.yaml", "--device", "cuda")


def test_places(folder):
    config = f"{folder}/config.yaml"
    open(f"{folder}/file", "w").write("x")
    refused(IO, ["file"], "train", "--config", config, "--set", f"run_dir={folder}/file/run")
    refused(IO, ["nothing"], "train", "--config", config, "--set", f"data.path={folder}/nothing")
    refused(IO, ["nothing"], "prepare", "--tokenizer", f"{folder}/tokenizer", "--input", f"{folder}/nothing", "--output",
            f"{folder}/out")
    assert not os.path.exists(f"{folder}/out")
    refused(IO, ["/proc"], "tokenizer", "train", "--input", f"{folder}/text.jsonl", "--output", "/proc/none", "--vocab-size", "600")
    refused(USAGE, ["checkpoint"], "eval", "--checkpoint", f"{folder}/nothing")


def test_shards(folder):
    """A damaged shard or another tokenizer stops the start of a run."""
    config = f"{folder}/config.yaml"
    shard = sorted(glob.glob(f"{folder}/data/**/*.h5", recursive=True))[0]
    whole = open(shard, "rb").read()
    for damage in (b"", whole[:1000], whole[:len(whole) // 2], whole[:-1]):
        open(shard, "wb").write(damage)
        refused(DATA, [os.path.basename(shard)], "train", "--config", config)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    open(shard, "wb").write(flipped)
    refused(DATA, [os.path.basename(shard)], "train", "--config", config, "--set", "data.verify=true")
    open(shard, "wb").write(whole)
    write_text(f"{folder}/other.jsonl", 60, seed=2)
    run("tokenizer", "train", "--input", f"{folder}/other.jsonl", "--output", f"{folder}/other", "--vocab-size", 600,
        "--transition", 500)
    refused(MISMATCH, ["other", "tokenizer"], "train", "--config", config, "--set", f"data.tokenizer={folder}/other")
    refused(MISMATCH, ["vocab_size", "600"], "train", "--config", config, "--set", "model.vocab_size=601")


def test_tokenizer(folder):
    text = open(f"{folder}/tokenizer/tokenizer.json").read()
    for bad in ("", text[:500], text.replace('"BPE"', '"WordPiece"'), text.replace('"vocab"', '"vocabulary"')):
        open(f"{folder}/bad.json", "w").write(bad)
        refused(DATA, ["bad.json"], "tokenizer", "info", "--tokenizer", f"{folder}/bad.json")


def test_limits(folder):
    """What a model, a configuration or a machine has not: refused, in finite time."""
    config, run_dir = f"{folder}/config.yaml", f"{folder}/limits"
    large = ("--set", f"run_dir={run_dir}", "model.hidden_size=9216", "model.num_attention_heads=576", "model.num_key_value_heads=96",
             "model.num_layers=60", "model.intermediate_size=65536")
    refused(NO_MEMORY, ["GB", "smaller"], "train", "--config", config, *large)
    run("train", "--config", config, "--set", f"run_dir={run_dir}", "--max-steps", 2, check=75)
    refused(MISMATCH, ["600", "700"], "plan", "--config", config, "--set", "model.vocab_size=700")
    refused(IO, ["nothing"], "inspect", f"{folder}/nothing")
    refused(USAGE, ["nothing", "exist"], "generate", "--checkpoint", f"{folder}/nothing", "--prompt", "a")
    refused(USAGE, ["--min-chars"], "prepare", "--tokenizer", f"{folder}/tokenizer", "--input", f"{folder}/text.jsonl", "--output",
            f"{folder}/none", "--min-chars", 10, "--max-chars", 5)
    refused(USAGE, ["--seq-len 1000", "512"], "eval", "--checkpoint", run_dir, "--seq-len", 1000)
    refused(USAGE, ["10 stages"], "bench", "train", "--config", config, "--stages", "1,11")
    refused(USAGE, ["10 stages"], "bench", "loader", "--config", config, "--stages", "12")
    tokenizer = ("tokenizer", "info", "--tokenizer", f"{folder}/tokenizer")
    generate = ("generate", "--checkpoint", run_dir, "--prompt", "a", "--max-tokens", 5)
    bench = ("bench", "train", "--config", config, "--stages", "1", "--steps", 1)
    for command in (("eval", "--checkpoint", run_dir, "--json"), ("inspect", run_dir), tokenizer, generate, bench, (*bench, "--json")):
        with open("/dev/full", "w") as full:
            done = subprocess.run([BINARY, *map(str, command)], stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert done.returncode in (IO, NO_SPACE) and "error: cannot write" in done.stderr, (command, done.returncode, done.stderr)


def test_full_disk(folder):
    """Files that cannot grow: no checkpoint, no data set under a final name."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
    ignore = ["env", "--ignore-signal=XFSZ"]
    for arguments in (["train", "--config", f"{folder}/config.yaml", "--set", f"run_dir={folder}/full"],
                      ["prepare", "--tokenizer", f"{folder}/tokenizer", "--input", f"{folder}/text.jsonl", "--output",
                       f"{folder}/full-data"]):
        done = subprocess.run([*ignore, BINARY, *arguments], capture_output=True, text=True, env=ENVIRONMENT, preexec_fn=limit)
        assert done.returncode in (IO, NO_SPACE), (done.returncode, done.stderr)
        assert sum(l.startswith("error:") for l in done.stderr.splitlines()) == 1, done.stderr
    assert not [n for n in glob.glob(f"{folder}/full/checkpoints/*")], os.listdir(f"{folder}/full/checkpoints")
    assert not os.path.exists(f"{folder}/full-data/manifest.json")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-bad-")
    try:
        make(folder, documents=60)
        for test in (test_configuration, test_places, test_shards, test_tokenizer, test_limits, test_full_disk):
            test(folder)
            print(f"{test.__name__}: as documented")
        print(f"{count} refusals, each with one message and its exit code")
    finally:
        shutil.rmtree(folder)


main()

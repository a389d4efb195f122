"""A prepare that is killed goes on behind its last complete shard, and the result is the same bytes: killed at 20 random
points, some of them twice; with every option that keeps a memory of earlier documents. An interrupted one, one that meets
a full disk, and one whose input or options changed meanwhile."""
import hashlib, json, os, pathlib, random, resource, shutil, signal, subprocess, sys, tempfile, time
from run_fixture import BINARY, ENVIRONMENT, run, write_text

USAGE, DATA, IO, NO_SPACE, INTERRUPTED = 2, 4, 6, 7, 75
KILLS = 20


def write_corpus(folder, documents):
    """Documents made of passages, some of them repeated or nearly repeated, with malformed lines between them."""
    write_text(f"{folder}/base.jsonl", 60, seed=3)
    words = " ".join(json.loads(line)["text"] for line in open(f"{folder}/base.jsonl")).split()
    draw = random.Random(4)
    with open(f"{folder}/text.jsonl", "w") as file:
        text = ""
        for i in range(documents):
            if i % 50 == 7:
                print('{"text": "broken', file=file)
            if i % 20 == 5:
                text = text + " and a few words more"  # nearly the one before
            elif i % 20 != 11:  # else: exactly the one before
                text = " ".join(" ".join(words[k:k + 30]) for k in draw.choices(range(len(words) - 30), k=draw.randint(2, 60)))
            print(json.dumps({"text": text, "id": f"doc{i}", "score": draw.random() * 5}), file=file)


def command(folder, output, *options):
    return [BINARY, "prepare", "--tokenizer", f"{folder}/tokenizer", "--input", f"{folder}/text.jsonl", "--output", output,
            "--shard-tokens", "150000", "--threads", "2", *options]


def contents(output):
    """File name -> digest of everything a data set consists of."""
    files = [p for p in pathlib.Path(output).rglob("*") if p.is_file()]
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def finish(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_after(arguments, seconds):
    """Whether the process was still running."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def same(folder, output, expected):
    found = contents(output)
    found.pop("prepare.json", None)  # left where the kill came between the renaming and the end
    found.pop("near-duplicates.bin", None)
    assert found == expected, sorted(set(found.items()) ^ set(expected.items()))
    assert not os.path.exists(f"{output}.partial")
    shutil.rmtree(output)


def test_kills(folder):
    draw = random.Random(int.from_bytes(os.urandom(4), "big"))
    variants = {}
    for options in (("--validation-fraction", "0.05"), ("--validation-fraction", "1e-12"),
                    ("--near-duplicates", "--min-score", "0.5", "--min-tokens", "400")):
        begin = time.monotonic()
        finish(command(folder, f"{folder}/whole", *options))
        seconds = time.monotonic() - begin
        variants[options] = contents(f"{folder}/whole"), seconds
        shards = sum(name.endswith(".h5") for name in variants[options][0])
        assert shards >= 10, shards
        shutil.rmtree(f"{folder}/whole")
    killed = resumed = 0
    while killed < KILLS:
        options = list(variants)[killed % len(variants)]
        expected, seconds = variants[options]
        arguments = command(folder, f"{folder}/out", *options)
        count = draw.choice((1, 1, 2))
        for _ in range(count):
            killed += kill_after(arguments, draw.uniform(0.05, 1) * seconds)
        if not os.path.exists(f"{folder}/out/manifest.json"):
            resumed += "continued   behind" in finish(arguments)
        same(folder, f"{folder}/out", expected)
    assert resumed >= KILLS // 4, resumed
    print(f"killed {killed} times, {resumed} runs went on behind complete shards: the same bytes")


def test_interruption(folder):
    """SIGTERM ends a run also while it waits for a pipe; the shards stay, and the same input goes on."""
    options = ["--validation-fraction", "0.05"]
    finish(command(folder, f"{folder}/whole", *options))
    text = open(f"{folder}/text.jsonl", "rb").read()
    arguments = [a if a != f"{folder}/text.jsonl" else "-" for a in command(folder, f"{folder}/out", *options)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT)
    process.stdin.write(text[:len(text) // 2])
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not os.path.exists(f"{folder}/out.partial/train-00002.h5"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    held = subprocess.run(arguments, input=text, capture_output=True, env=ENVIRONMENT)
    assert held.returncode == USAGE and b"another process" in held.stderr, held.stderr
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == INTERRUPTED
    waited = time.monotonic() - begin
    errors = process.stderr.read().decode()
    assert waited < 10 and "same command goes on" in errors, (waited, errors)
    process.stdin.close()
    done = subprocess.run(arguments, input=text, capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 0 and b"continued   behind" in done.stdout, done.stderr
    ours, theirs = contents(f"{folder}/out"), contents(f"{folder}/whole")
    # "-" and the file's name are part of the record, in every shard and the manifest: tokens are compared.
    assert ours.keys() == theirs.keys()
    assert tokens(f"{folder}/out") == tokens(f"{folder}/whole")
    shutil.rmtree(f"{folder}/out")
    shutil.rmtree(f"{folder}/whole")
    print(f"SIGTERM while waiting for a pipe: stopped after {waited:.2f} s, the same tokens after going on")


def tokens(output):
    manifest = json.load(open(f"{output}/manifest.json"))
    counts = {k: manifest["counts"][k] for k in manifest["counts"]}
    return counts, [[(s["n_tokens"], s["n_docs"], s["n_bytes"]) for s in split["shards"]] for split in manifest["splits"].values()]


def test_changes(folder):
    """What does not belong to the shards that are there is refused, and they stay."""
    arguments = command(folder, f"{folder}/out", "--validation-fraction", "0.05", "--strict")
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == DATA and not os.path.exists(f"{folder}/out"), done.stderr  # the first broken line
    assert not os.path.exists(f"{folder}/out.partial")
    whole = open(f"{folder}/text.jsonl").read()
    lines = [line for line in whole.splitlines(True) if "broken" not in line]
    try:
        open(f"{folder}/text.jsonl", "w").writelines([*lines[:-3], "broken\n", *lines[-3:]])
        done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == DATA and "text.jsonl:" in done.stderr and "same command goes on" in done.stderr, done.stderr
        before = contents(f"{folder}/out.partial")
        for change, code, words in (
                (lambda: arguments + ["--min-score", "1"], USAGE, '"min_score" differs'),
                (lambda: [a.replace("150000", "150001") for a in arguments], USAGE, '"shard_tokens" differs')):
            done = subprocess.run(change(), capture_output=True, text=True, env=ENVIRONMENT)
            assert done.returncode == code and words in done.stderr and "--restart" in done.stderr, done.stderr
            assert contents(f"{folder}/out.partial") == before
        open(f"{folder}/text.jsonl", "w").writelines([lines[0].replace("a", "e"), *lines[1:]])
        done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == DATA and "the input is not the one" in done.stderr, done.stderr
        open(f"{folder}/text.jsonl", "w").writelines(lines[:50])
        done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == DATA and "the input is not the one" in done.stderr, done.stderr
        open(f"{folder}/text.jsonl", "w").writelines(lines)  # the line that stopped it is put right
        assert "continued   behind" in finish(arguments)
        ours = contents(f"{folder}/out")
        shutil.rmtree(f"{folder}/out")
        assert "continued" not in finish(arguments)
        same(folder, f"{folder}/out", ours)
        open(f"{folder}/text.jsonl", "w").writelines([*lines, "broken\n"])
        assert subprocess.run(arguments, capture_output=True, env=ENVIRONMENT).returncode == DATA
        open(f"{folder}/text.jsonl", "w").writelines(lines)
        assert "continued" not in finish([*arguments, "--restart"])
        same(folder, f"{folder}/out", ours)
    finally:
        open(f"{folder}/text.jsonl", "w").write(whole)
    os.mkdir(f"{folder}/out.partial")
    open(f"{folder}/out.partial/mine", "w").write("x")
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == USAGE and "in the way" in done.stderr and os.path.exists(f"{folder}/out.partial/mine")
    shutil.rmtree(f"{folder}/out.partial")
    print("changed options, a changed or shorter input, a foreign folder: refused; --restart starts anew")


def test_full_disk(folder):
    """Nothing under the final name; after room is made the run goes on."""
    small = f"{folder}/small"
    os.mkdir(small)
    arguments = command(folder, f"{small}/out", "--validation-fraction", "0.05")
    finish(command(folder, f"{folder}/whole", "--validation-fraction", "0.05"))
    expected = contents(f"{folder}/whole")
    size = sum(os.path.getsize(p) for p in pathlib.Path(f"{folder}/whole").rglob("*") if p.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size * 2 // 3}", "tmpfs", small]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        print("skipped: mounting a small file system is not allowed here")
        return
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == NO_SPACE and not os.path.exists(f"{small}/out"), (done.returncode, done.stderr)
        assert "same command goes on" in done.stderr, done.stderr
        subprocess.run(["mount", "-o", f"remount,size={size * 4}", small], check=True)
        assert "continued   behind" in finish(arguments)
        same(folder, f"{small}/out", expected)
    finally:
        subprocess.run(["umount", small], check=True)
    shutil.rmtree(f"{folder}/whole")
    print("a full disk: exit code 7, nothing published, the same bytes after going on with more room")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-kill-")
    try:
        write_corpus(folder, 6000)
        run("tokenizer", "train", "--input", f"{folder}/base.jsonl", "--output", f"{folder}/tokenizer", "--vocab-size", 600,
            "--transition", 500)
        for test in (test_kills, test_interruption, test_changes, test_full_disk):
            test(folder)
    finally:
        shutil.rmtree(folder)


main()

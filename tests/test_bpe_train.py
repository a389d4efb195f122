"""Training: plain BPE equals the `tokenizers` library's BpeTrainer; SuperBPE's files load there and compress better."""
import io
import json
import os
import subprocess
import sys
import tempfile
import time

SKIP = 77
SHARED = os.environ.get("YX_SHARED", "")
YXANUL = os.path.join(os.environ.get("YX_BUILD", "build"), "yxanul")
DATA = os.path.join(SHARED, "data")
TRAIN_BYTES = 6_000_000
VOCAB = 8000
TRANSITION = 5000


def skip(reason):
    print("skipped: " + reason)
    sys.exit(SKIP)


try:
    import zstandard
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
except ImportError as error:
    skip(f"Python module {error.name} is not installed")
if not os.path.isfile(os.path.join(DATA, "train.jsonl.zst")):
    skip("no texts in the shared data folder (YX_SHARED)")
if not os.access(YXANUL, os.X_OK):
    skip("yxanul is not built (YX_BUILD)")

failures = 0


def check(what, good):
    global failures
    print(f"{'ok    ' if good else 'FAILED'} {what}", flush=True)
    failures += not good


def run(*args):
    result = subprocess.run([YXANUL, "tokenizer", *args], capture_output=True)
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def documents(name, max_bytes):
    total = 0
    with open(os.path.join(DATA, name), "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            if total >= max_bytes:
                return
            text = json.loads(line)["text"]
            total += len(text.encode())
            yield text


def train(folder, corpus, *options):
    code, out, err = run("train", "--input", corpus, "--output", folder, "--special-token", "<|endoftext|>", *options)
    if code != 0:
        raise SystemExit(f"training failed: {err}")
    print("  " + out.strip().replace("\n", "\n  "))
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        return json.load(file)


def reference(texts, pre_tokenizer, min_frequency):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, min_frequency=min_frequency, special_tokens=["<|endoftext|>"],
                                  initial_alphabet=alphabet, show_progress=False)
    start = time.time()
    tokenizer.train_from_iterator(texts, trainer)
    print(f"  the library took {time.time() - start:.1f} s")
    return json.loads(tokenizer.to_str())["model"]


def check_equal(what, ours, theirs):
    merges = [list(m) for m in ours["model"]["merges"]]
    wrong = sum(a != b for a, b in zip(merges, theirs["merges"])) + abs(len(merges) - len(theirs["merges"]))
    check(f"{what}: {len(theirs['merges'])} merges, {wrong} differ", wrong == 0)
    check(f"{what}: the same vocabulary of {len(theirs['vocab'])}", ours["model"]["vocab"] == theirs["vocab"])


def encode(path, corpus):
    code, out, err = run("encode", "--tokenizer", path, "--jsonl", corpus)
    if code != 0:
        raise SystemExit(err)
    return [[int(i) for i in line.split()] for line in out.split("\n")[:-1]]


def check_encoding(what, path, corpus, texts):
    oracle = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
    ours, theirs = encode(path, corpus), [e.ids for e in oracle.encode_batch(texts)]
    wrong = sum(a != b for a, b in zip(ours, theirs)) + abs(len(ours) - len(theirs))
    check(f"{what}: {len(texts)} texts encoded as the library does, {wrong} differ", wrong == 0)
    return sum(map(len, ours))


def words_of(token):
    return len(token.replace("Ġ", " ").replace("Ċ", " ").replace("ĉ", " ").split())


with tempfile.TemporaryDirectory() as folder:
    corpus, validation = os.path.join(folder, "train.jsonl"), os.path.join(DATA, "val.jsonl.zst")
    texts, val_texts = list(documents("train.jsonl.zst", TRAIN_BYTES)), list(documents("val.jsonl.zst", 1 << 40))
    with open(corpus, "w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
    print(f"{len(texts)} documents, {sum(len(t.encode()) for t in texts)} bytes")

    options = ("--vocab-size", str(VOCAB), "--words", "gpt2", "--min-frequency", "1")
    gpt2 = train(os.path.join(folder, "gpt2"), corpus, *options)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    check_equal("GPT-2 words", gpt2, reference(texts, level, 0))
    check_encoding("GPT-2 words", os.path.join(folder, "gpt2"), validation, val_texts)

    plain = train(os.path.join(folder, "plain"), corpus, "--vocab-size", str(VOCAB))
    steps = plain["pre_tokenizer"]["pretokenizers"]
    sequence = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex(steps[1]["pattern"]["Regex"]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    check_equal("SuperBPE's words", plain, reference(texts, sequence, 2))
    plain_tokens = check_encoding("SuperBPE's words", os.path.join(folder, "plain"), validation, val_texts)

    path = os.path.join(folder, "superbpe")
    superbpe = train(path, corpus, f"--vocab-size={VOCAB}", f"--transition={TRANSITION}")
    published = os.path.join(DATA, "tokenizers", "superbpe-t80k", "tokenizer.json")
    with open(published, encoding="utf-8") as file:
        layout = json.load(file)
    same = all(superbpe[key] == layout[key] for key in layout if key not in ("model", "added_tokens"))
    same = same and list(superbpe) == list(layout)
    check("SuperBPE: the layout of the published tokenizer.json", same)
    subwords = TRANSITION - 257
    same = superbpe["model"]["merges"][:subwords] == plain["model"]["merges"][:subwords]
    check("SuperBPE: the first stage is plain BPE", same)
    superwords = [t for t in superbpe["model"]["vocab"] if words_of(t) > 1]
    most = max(map(words_of, superwords))
    check(f"SuperBPE: {len(superwords)} superwords, of at most {most} words, such as {superwords[:6]}",
          500 < len(superwords) and most == 4)
    tokens = check_encoding("SuperBPE", path, validation, val_texts)
    check(f"SuperBPE: {tokens} tokens for the validation text, plain BPE {plain_tokens}", tokens < 0.93 * plain_tokens)

    code, _, err = run("train", "--input", corpus, "--output", path, "--vocab-size", "1000", "--transition", "2000")
    check(f"a transition above the vocabulary size is refused: {err.splitlines()[0]}", code == 2)
    code, _, err = run("train", "--input", corpus, "--output", path, "--vocab-size", "256")
    check(f"a vocabulary without room for the special token is refused: {err.splitlines()[0]}", code == 2)

print("FAILED" if failures else "ok")
sys.exit(failures > 0)

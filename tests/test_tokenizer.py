"""Encoding equals the `tokenizers` library, id for id: real texts, hard strings, and variants of tokenizer.json."""
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile

SKIP = 77
SHARED = os.environ.get("YX_SHARED", "")
YXANUL = os.path.join(os.environ.get("YX_BUILD", "build"), "yxanul")
DATA = os.path.join(SHARED, "data")
NAMES = ["superbpe-t80k", "superbpe-t180k", "bpe-200k", "gpt2"]


def skip(reason):
    print("skipped: " + reason)
    sys.exit(SKIP)


try:
    import zstandard
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
except ImportError as error:
    skip(f"Python module {error.name} is not installed")
if not os.path.isdir(os.path.join(DATA, "tokenizers")):
    skip("no tokenizers in the shared data folder (YX_SHARED)")
if not os.access(YXANUL, os.X_OK):
    skip("yxanul is not built (YX_BUILD)")

random.seed(20240607)
failures = 0


def run(*args, data=None):
    result = subprocess.run([YXANUL, "tokenizer", *args], input=data, capture_output=True)
    if result.returncode != 0:
        raise SystemExit(f"yxanul tokenizer {' '.join(args)}: exit {result.returncode}: {result.stderr.decode()}")
    return result.stdout


def encode(path, texts, *options):
    """`texts` are bytes without zero bytes."""
    out = run("encode", "--tokenizer", path, "--null", *options, data=b"".join(t + b"\0" for t in texts))
    return [[int(i) for i in line.split()] for line in out.decode().split("\n")[:-1]]


def decode(path, ids):
    out = run("decode", "--tokenizer", path, "--null", data="".join(" ".join(map(str, i)) + "\n" for i in ids).encode())
    return out.split(b"\0")[:-1]


def compare(what, texts, ours, theirs):
    """Counts the texts whose ids differ; shows the first."""
    global failures
    if len(ours) != len(theirs):
        print(f"{what}: {len(ours)} results for {len(theirs)} texts")
        failures += 1
        return
    wrong = [k for k in range(len(ours)) if ours[k] != theirs[k]]
    print(f"{what}: {len(theirs)} texts, {sum(map(len, theirs))} tokens, {len(wrong)} differ", flush=True)
    if wrong:
        failures += 1
        k = wrong[0]
        print(f"  text   {texts[k][:200]!r}\n  ours   {ours[k][:40]}\n  theirs {theirs[k][:40]}")


def compare_round_trip(what, path, texts, ids):
    global failures
    back = decode(path, ids)
    wrong = [k for k in range(len(texts)) if back[k] != texts[k].decode(errors="replace").encode()]
    print(f"{what}: decode(encode(x)) = x for {len(texts)} texts, {len(wrong)} differ", flush=True)
    if wrong or len(back) != len(texts):
        failures += 1
        print(f"  text {texts[wrong[0]][:200]!r}\n  back {back[wrong[0]][:200]!r}")


def reference(tokenizer, texts):
    return [tokenizer.encode(t.decode(errors="replace")).ids for t in texts]


# --- Texts -----------------------------------------------------------------------------------------------------------


def documents(name):
    with open(os.path.join(DATA, name), "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line)["text"].encode() for line in lines]


ATOMS = (
    ["the", " of", " and", "Hello", "world", " a", "I'm", "don't", "we'll", "they've", "you're", "he'd", "'S", "'LL"]
    + list("abcXYZ.,;:!?()[]{}<>|/\\\"'`~@#$%^&*-_=+")
    + ["0", "1", "12", "123", "1234", "1234567", "3.14", "1,000,000", "it's"]
    + ["٣", "٣٤٥٦", "²", "½", "Ⅷ", "①", "१२३४", "𝟘𝟙𝟚𝟛", "〇", "万"]
    + [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\v", "\f"]
    + ["\u00a0", "\u180e", "\u2028", "\u3000", "\u200b", "\u200d", "\u0085"]
    + ["é", "e\u0301", "n\u0303", "ß", "ﬁ", "İ", "ſ", "K", "中文", "日本語", "한국어", "русский", "ελληνικά"]
    + ["עברית", "العربية", "हिन्दी", "ไทย", "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "\U0001f1e6"]
    + ["\u0301", "\ufeff", "\ufffd", "\U000e0100", "𐐀", "𑄶", "\U00011de3", "\ua7cb"]
    + ["<|endoftext|>", "<|padding|>", "|||IP_ADDRESS|||", "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||"]
    + ["<|endoftext", "|||", "||||IP", "https://example.com/a?b=c", "for (int i = 0; i < n; i++) {", "    return x;"]
    + ["a_b", "____", "=====", "-----", "....", "!!!"]
)
INVALID = [b"\xff", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80",
           b"\xe0\x80\x80", b"\xfe\xbf"]


def generated(count):
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(random.randint(0, 24)):
            kind = random.random()
            if kind < 0.8:
                parts.append(random.choice(ATOMS).encode())
            elif kind < 0.9:
                c = random.choice([random.randint(1, 0x2FF), random.randint(1, 0xFFFF),
                                   random.randint(0x10000, 0x10FFFF)])
                parts.append(chr(c if not 0xD800 <= c < 0xE000 else 0x20).encode())
            elif kind < 0.95:
                parts.append(random.choice(ATOMS).encode() * random.randint(2, 9))
            else:
                parts.append(random.choice(INVALID) if random.random() < 0.5 else b" " * random.randint(1, 9))
        texts.append(b"".join(parts))
    return texts


def shuffled(documents, count):
    """Words and phrases of real texts in another order, some again and again: superwords form, and break off, everywhere."""
    chance = random.Random(7)
    words = [word for text in documents[:40] for word in text.decode().split(" ")]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(chance.randint(1, 40)):
            first = chance.randrange(len(words))
            phrase = words[first:first + chance.choice([1, 1, 1, 2, 3, 8])]
            parts += phrase * (chance.randint(2, 30) if chance.random() < 0.05 else 1)
        separators = [" ", " ", " ", "", "  ", "\n", ", ", "-"] if chance.random() < 0.5 else [" "]
        texts.append("".join(part + chance.choice(separators) for part in parts).encode())
    return texts


def check_real(name, corpora, strings):
    path = os.path.join(DATA, "tokenizers", name)
    oracle = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
    for corpus, texts in corpora.items():
        out = run("encode", "--tokenizer", path, "--jsonl", os.path.join(DATA, corpus)).decode()
        ours = [[int(i) for i in line.split()] for line in out.split("\n")[:-1]]
        compare(f"{name}, {corpus}", texts, ours, reference(oracle, texts))
        compare_round_trip(f"{name}, {corpus}", path, texts, ours)
    with open(os.path.join(DATA, "tokenizers", "test-vectors.jsonl"), encoding="utf-8") as file:
        vectors = [json.loads(line) for line in file]
    vectors = [v for v in vectors if "\0" not in v["text"]]
    texts = [v["text"].encode() for v in vectors]
    compare(f"{name}, test vectors", texts, encode(path, texts), [v[name] for v in vectors])
    ours = encode(path, strings)
    compare(f"{name}, generated strings", strings, ours, reference(oracle, strings))
    compare_round_trip(f"{name}, generated strings", path, strings, ours)
    oracle.encode_special_tokens = True
    ours = encode(path, strings, "--no-special")
    compare(f"{name}, special tokens as text", strings, ours, reference(oracle, strings))


# --- Variants --------------------------------------------------------------------------------------------------------

REGEXES = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?=(\d{3})+(?!\d))| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?=(\d{3})+(?!\d))",
    r"\p{N}{1,3}+", r"\d{2}?", r"\w{,3}", r"\s", r"\S+", r"\W+", r"[\W\d]+", r"[^\W_]+", r"[\S]", r"\bthe\b", r"\B.",
    r"^.", r".$", r"[\p{P}\p{S}]", r"\P{L}+", r"\p{^L}", r"[\P{L}]+", r"\h+", r"\H", r"[一-龥]+", r"[^a-zA-Z]",
    r"\x20|\u00e9", r"a|", r"(?<=\s)\S", r"(?<!\w)\w", r"(\w)\1", r"\p{Han}+", r"\R", r"[]a]", r"[a\-z]", r"x*",
    r"\.+|!++", r"(?m:a.)", r".", r"\v", r"\/",
]
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
STRINGS = ["", "a", " ", "the", "  ", ".", "1", "é", "||", "+"]


def base_tokenizer(texts):
    """A BPE that merges across everything, so that its tokens show where pre-tokenization has cut."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([t.decode(errors="replace")[:300] for t in texts], trainer)
    config = json.loads(tokenizer.to_str())
    config["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return config


def split_variants():
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    patterns = [{"Regex": r} for r in REGEXES] + [{"String": s} for s in STRINGS]
    for k, pattern in enumerate(patterns):
        for behavior in (BEHAVIORS if k % 4 == 0 else [BEHAVIORS[k % 5], "isolated"]):
            name = "".join(word.capitalize() for word in behavior.split("_"))
            split = {"type": "Split", "pattern": pattern, "behavior": name, "invert": random.random() < 0.4}
            yield {"type": "Sequence", "pretokenizers": [split, last]}


def other_variants():
    for prefix in (False, True):
        for regex in (False, True):
            level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
            yield level
            for individual in (False, True):
                digits = {"type": "Digits", "individual_digits": individual}
                yield {"type": "Sequence", "pretokenizers": [digits, level]}


def check_variants(config, strings):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        wrong = total = 0
        variants = list(split_variants()) + list(other_variants())
        for pre_tokenizer in variants:
            config["pre_tokenizer"] = pre_tokenizer
            with open(path, "w", encoding="utf-8") as file:
                json.dump(config, file)
            theirs, ours = reference(Tokenizer.from_file(path), strings), encode(path, strings)
            different = [k for k in range(len(strings)) if ours[k] != theirs[k]]
            total += len(strings)
            wrong += len(different)
            if different:
                print(f"  {json.dumps(pre_tokenizer)}: {len(different)} differ, first {strings[different[0]]!r}")
                print(f"  ours   {ours[different[0]]}\n  theirs {theirs[different[0]]}")
        print(f"{len(variants)} pre-tokenizers: {total} texts, {wrong} differ", flush=True)
        global failures
        failures += wrong > 0


def check_added_tokens(config, strings):
    config["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    contents = ["the", "<x>", "<x><y>", "x", " of", "of", "  ", "é", "123", "中", "<|endoftext|>", "and", "a", ">", "\n",
                "\u00a0", "it's", "🏳"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        for k in range(12):
            chosen = random.sample(contents, random.randint(1, 8))
            vocab, added, next_id = config["model"]["vocab"], [], len(config["model"]["vocab"])
            for content in chosen:
                names = ("single_word", "lstrip", "rstrip", "normalized", "special")
                flags = {name: random.random() < 0.35 for name in names}
                known = content in vocab
                added.append({"id": vocab[content] if known else next_id, "content": content, **flags})
                next_id += not known
            config["added_tokens"] = added
            config["model"]["ignore_merges"] = k % 2 == 1
            with open(path, "w", encoding="utf-8") as file:
                json.dump(config, file)
            oracle = Tokenizer.from_file(path)
            compare(f"added tokens {k}", strings, encode(path, strings), reference(oracle, strings))
            oracle.encode_special_tokens = True
            ours = encode(path, strings, "--no-special")
            compare(f"added tokens {k}, special ones as text", strings, ours, reference(oracle, strings))


def check_two_layouts():
    """vocab.json with merges.txt is the same tokenizer as tokenizer.json."""
    global failures
    source = os.path.join(DATA, "tokenizers", "gpt2")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("vocab.json", "merges.txt"):
            os.symlink(os.path.abspath(os.path.join(source, name)), os.path.join(folder, name))
        prints = []
        for path in (source, folder):
            info = run("info", "--tokenizer", path).decode()
            prints.append(next(line for line in info.split("\n") if line.startswith("sha256")))
    same = prints[0] == prints[1]
    print(f"gpt2: tokenizer.json and vocab.json + merges.txt have {'the same' if same else 'DIFFERENT'} SHA-256")
    failures += not same


def is_superword(text):
    return any(c.isspace() for c in text.strip()) if "\ufffd" not in text else False


def check_info():
    """Characters, bytes and kinds of tokens, and the most frequent superwords, against the library's tokens; a table has the same numbers."""
    global failures
    texts, file = documents("val.jsonl.zst"), os.path.join(DATA, "val.jsonl.zst")
    names = ["gpt2", "superbpe-t80k"]
    paths = [os.path.join(DATA, "tokenizers", name) for name in names]
    tokenizers = [part for path in paths for part in ("--tokenizer", path)]
    results = json.loads(run("info", *tokenizers, "--text", file, "--json", "--top", "25"))
    table = run("info", *tokenizers, "--text", file).decode().splitlines()
    for result, row, path in zip(results, table[1:], paths):
        oracle, counts = Tokenizer.from_file(os.path.join(path, "tokenizer.json")), {}
        for encoding in oracle.encode_batch_fast([t.decode() for t in texts]):
            for i in encoding.ids:
                counts[i] = counts.get(i, 0) + 1
        superwords = {i: n for i, n in counts.items() if is_superword(oracle.decode([i]))}
        tokens, characters = sum(counts.values()), sum(len(t.decode()) for t in texts)
        top = [{"id": i, "token": oracle.decode([i]), "count": n} for i, n in sorted(superwords.items(), key=lambda x: (-x[1], x[0]))[:25]]
        expected = {"name": os.path.basename(path), "documents": len(texts), "characters": characters, "bytes": sum(map(len, texts)),
                    "tokens": tokens, "superwords": sum(superwords.values()), "vocabulary": oracle.get_vocab_size(),
                    "most_frequent_superwords": top}
        wrong = [key for key, value in expected.items() if result[key] != value]
        wrong += ["characters_per_token"] * (abs(result["characters_per_token"] - characters / tokens) > 1e-6)
        wrong += ["the table"] * (row.split()[0] != result["name"] or f" {characters / tokens:.3f} " not in row)
        one = run("info", "--tokenizer", path, "--text", file, "--top", "3").decode()
        shown = [(int(n), json.loads(token)) for n, token in re.findall(r'^\D*(\d+)  (".*")$', one, re.MULTILINE)]
        wrong += ["the page"] * (f"{tokens - expected['superwords']} subwords" not in one or
                                 shown != [(t["count"], t["token"]) for t in top[:3]])
        print(f"info {result['name']}: {characters / tokens:.3f} characters per token, {len(superwords)} superwords in the text "
              f"{'as the library has them' if not wrong else f'WRONG: {wrong}'}")
        failures += bool(wrong)


def check_bench():
    """Threads together encode every document once."""
    global failures
    path, file = os.path.join(DATA, "tokenizers", "superbpe-t80k"), os.path.join(DATA, "train-small.jsonl.zst")
    texts, counts = documents("train-small.jsonl.zst"), []
    for threads in ("1", "3"):
        result = json.loads(run("bench", "--tokenizer", path, "--input", file, "--threads", threads, "--rounds", "1", "--json"))
        counts.append((result["documents"], result["bytes"], result["tokens"]))
    tokens = len(run("encode", "--tokenizer", path, "--jsonl", file).split())
    right = counts == [(len(texts), sum(map(len, texts)), tokens)] * 2
    print(f"bench counts {'what encode prints' if right else f'{counts}, NOT {tokens} tokens'}")
    failures += not right


corpora = {name: documents(name) for name in ("val.jsonl.zst", "train-small.jsonl.zst")}
strings = generated(10000) + shuffled(corpora["val.jsonl.zst"], 3000)
for name in NAMES:
    check_real(name, corpora, strings)
check_two_layouts()
check_info()
check_bench()
base = base_tokenizer(strings[:1500] + corpora["val.jsonl.zst"][:60])
check_variants(base, strings[:300] + strings[-20:] + [t[:2000] for t in corpora["val.jsonl.zst"][:5]])
words = [b"the", b"<x>", b"<y>", b"x ", b"of", b"\xc3\xa9", b" 123 ", b"and", b"<|endoftext|>"]
extra = [b" ".join(random.choice(words) for _ in range(8)) for _ in range(500)]
check_added_tokens(base, strings[:1000] + extra)
print("FAILED" if failures else "ok")
sys.exit(failures > 0)

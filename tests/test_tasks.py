"""yxanul eval --tasks: log-probabilities, choices and accuracies beside an independent reading of the rule: the encodings of
`tokenizers`, the exported model in NumPy (test_export.py)."""
import gzip, itertools, json, os, random, shutil, subprocess, tempfile
import numpy as np, tokenizers
from run_fixture import BINARY, ENVIRONMENT, make, run
from test_export import load, logits, nats

USAGE, DATA, IO = 2, 4, 6
POSITIONS, EOT = 512, "<|endoftext|>"
EMULATED = os.path.join(os.path.dirname(os.path.abspath(BINARY)), "emulated")


class Oracle:
    def __init__(self, exported):
        self.tok = tokenizers.Tokenizer.from_file(f"{exported}/tokenizer.json")
        self.tok.encode_special_tokens = True  # their names in a text are text
        self.weights, self.config = load(exported)[0], json.load(open(f"{exported}/config.json"))
        self.eot, self.straddling, self.cut, self.known = self.tok.token_to_id(EOT), 0, 0, {}

    def ends(self, ids):
        """Bytes of the text up to the end of each token: a character of a token's name is a byte."""
        return list(itertools.accumulate(len(self.tok.id_to_token(i)) for i in ids))

    def sum(self, ids, first):
        """Log-probability of ids[first:] behind ids[:first]."""
        key = tuple(ids), first
        if key not in self.known:
            token, target = np.array(ids[:-1]), np.array(ids[1:])
            target[:first - 1] = -1
            self.known[key] = -nats(logits(self.weights, self.config, token, np.zeros(len(token), int)), target)
        return self.known[key]

    def score(self, context, choices):
        encoded = [self.tok.encode(context + c).ids for c in choices]
        ends, room = [self.ends(e) for e in encoded], len(context.encode())
        shared = sum(end <= room and all(e[:k + 1] == encoded[0][:k + 1] for e in encoded) for k, end in enumerate(ends[0]))
        self.straddling += any(room not in (0, *e) for e in ends)
        sequences, first = [[self.eot, *e] for e in encoded], shared + 1
        excess = max(0, max(map(len, sequences)) - 1 - POSITIONS)
        self.cut += excess > 0
        sums = [self.sum(s[excess:], first - excess) for s in sequences]
        sizes = [len(c.removeprefix(" ").encode()) or 1 for c in choices]
        return sums, sizes, [len(s) - first for s in sequences]


def best(scores):
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def make_questions(folder, tok):
    """Context, choices, answer: pieces of the training text, and superwords cut at their inner space."""
    draw = random.Random(3)
    texts = [json.loads(line)["text"].split() for line in open(f"{folder}/text.jsonl")]
    superwords = [t[1:].split("Ġ") for t in sorted(tok.get_vocab()) if t.startswith("Ġ") and "Ġ" in t[1:]]
    pick = lambda n: (lambda words, at: words[at:at + n])(*(lambda w: (w, draw.randrange(max(1, len(w) - n))))(draw.choice(texts)))
    questions = []
    for i in range(40):
        n, words = draw.choice((2, 3, 4, 4, 5)), pick(draw.randint(2, 60))
        choices = [" " + " ".join(pick(draw.randint(1, 9))) for _ in range(n)]
        questions.append((" ".join(words), choices, draw.randrange(n)))
    for parts in superwords[:12]: # the context ends within what may become one token
        end, begin = " ".join(parts[:-1]), " " + parts[-1]
        questions.append((" ".join(pick(8)) + " " + end, [begin, *(" " + pick(1)[0] for _ in range(3))], draw.randrange(4)))
    long = " ".join(w for text in texts[:12] for w in text)
    questions.append((long, [" " + pick(1)[0], " " + " ".join(pick(20))], 1))          # longer than the model reads
    questions.append(("", [" ".join(pick(3)), " " + " ".join(pick(2)), "A"], 2))       # nothing but the end-of-text token
    questions.append(("a b", [" é", " naïve ü", " c", " ", "\n\tc d"], 1))             # bytes are not characters
    questions.append((f"a {EOT} b", [f" {EOT}", " c"], 0))
    questions.append((" ".join(pick(5)), [" abc", " abc", " abc"], 0))                  # a tie: the first wins
    return questions


def write(path, lines):
    with (gzip.open if path.endswith(".gz") else open)(path, "wt") as file:
        file.write("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def plain(q):
    return {"context": q[0], "choices": q[1], "answer": q[2], "note": "other keys do not matter"}


def evaluate(folder, *arguments):
    out = json.loads(run("eval", "--checkpoint", f"{folder}/run", "--json", "--per-question", f"{folder}/lines.jsonl", *arguments).stdout)
    return out, [json.loads(line) for line in open(f"{folder}/lines.jsonl")]


def compare(oracle, task, lines, questions, bound):
    """One task's figures and lines with the oracle's; the largest difference of a log-probability."""
    worst, right, right_per_byte = 0, [], []
    assert task["questions"] == len(lines) == len(questions) and task["choices"] == sum(len(q[1]) for q in questions), task
    for line, (context, choices, answer) in zip(lines, questions):
        sums, sizes, tokens = oracle.score(context, choices)
        worst = max([worst, *np.abs(np.array(line["log_probabilities"]) - sums)])
        assert line["bytes"] == sizes and line["tokens"] == tokens and line["answer"] == answer, (line, sizes, tokens)
        for key, weight in (("best", [1] * len(sums)), ("best_per_byte", sizes)):
            own, theirs = ([a / b for a, b in zip(values, weight)] for values in (line["log_probabilities"], sums))
            assert line[key] == best(own) and theirs[line[key]] > max(theirs) - bound, (key, line, sums, sizes)
        right.append(line["best"] == answer)
        right_per_byte.append(line["best_per_byte"] == answer)
    assert worst < bound, worst
    for key, error, hits in (("accuracy", "stderr", right), ("accuracy_per_byte", "stderr_per_byte", right_per_byte)):
        assert abs(task[key] - np.mean(hits)) < 1e-12, (task, np.mean(hits))
        assert abs(task[error] - np.std(hits, ddof=1) / np.sqrt(len(hits))) < 1e-12, task
    assert abs(task["chance"] - np.mean([1 / len(q[1]) for q in questions])) < 1e-12, task
    return worst


def test_rule(folder, oracle, questions):
    write(f"{folder}/own.jsonl", ["", *map(plain, questions), "  "])
    out, lines = evaluate(folder, "--tasks", f"{folder}/own.jsonl")
    assert "bits_per_byte" not in out and [t["name"] for t in out["tasks"]] == ["own"], out
    worst = compare(oracle, out["tasks"][0], lines, questions, 1e-4)
    assert oracle.straddling >= 5 and out["tasks"][0]["cut"] == oracle.cut == 1, (oracle.straddling, oracle.cut)
    assert [l["line"] for l in lines] == list(range(2, 2 + len(questions))), lines
    assert len({l["best"] == l["best_per_byte"] for l in lines}) == 2, "both measures choose alike: nothing is tested"
    print(f"{len(questions)} questions, {oracle.straddling} with a token across the border: log-probabilities within {worst:.1e}")
    return lines


def test_formats(folder, oracle, questions):
    """The published formats and what they mean, in one file and apart; several tasks at once."""
    some = [q for q in questions if q[0] and all(c.startswith(" ") and len(c) > 1 for c in q[1])][:12]
    hellaswag = [{"ind": 1, "ctx": c, "endings": [e[1:] for e in choices], "label": str(a) if i % 2 else a, "split": "val"}
                 for i, (c, choices, a) in enumerate(some)]
    labels = lambda i: "ABCDEFGH" if i % 2 else "12345678"
    arc = [{"id": "x", "question": {"stem": c, "choices": [{"text": e[1:], "label": labels(i)[k]} for k, e in enumerate(choices)]},
            "answerKey": labels(i)[a]} for i, (c, choices, a) in enumerate(some)]
    as_asked = [(f"Question: {c}\nAnswer:", choices, a) for c, choices, a in some]
    write(f"{folder}/swag.jsonl", hellaswag)
    write(f"{folder}/arc.jsonl.gz", arc)
    write(f"{folder}/mixed.txt", [arc[0], hellaswag[1], plain(some[2])])
    out, lines = evaluate(folder, *(x for f in ("swag.jsonl", "arc.jsonl.gz", "mixed.txt") for x in ("--tasks", f"{folder}/{f}")))
    assert [t["name"] for t in out["tasks"]] == ["swag", "arc", "mixed.txt"], out
    for task, expected in zip(out["tasks"], (some, as_asked, [as_asked[0], some[1], some[2]])):
        compare(oracle, task, [l for l in lines if l["task"] == task["name"]], expected, 1e-4)
    print(f"published formats: {len(lines)} questions as documented")


def test_options(folder, lines):
    own = ("--tasks", f"{folder}/own.jsonl")
    out, few = evaluate(folder, *own, "--max-questions", 7)
    assert out["tasks"][0]["questions"] == 7 and len(few) == 7
    apart = [abs(a - b) for x, y in zip(few, lines) for a, b in zip(x["log_probabilities"], y["log_probabilities"])]
    assert max(apart) < 1e-4, max(apart)  # whatever else is in a micro-batch
    out, one = evaluate(folder, *own, "--max-questions", 1)
    assert out["tasks"][0]["stderr"] is None and len(one) == 1, out
    _, rounded = evaluate(folder, *own, "--precision", "bf16")
    apart = [abs(a - b) / max(t, 1) for x, y in zip(rounded, lines)
             for a, b, t in zip(x["log_probabilities"], y["log_probabilities"], y["tokens"])]
    assert 0 < max(apart) < 0.1, max(apart)
    text = run("eval", "--checkpoint", f"{folder}/run", *own).stdout
    assert "own " in text and "chance" in text and "  1 too long" in text and "bits/byte" not in text, text
    os.rename(f"{folder}/moved", f"{folder}/data")
    both, _ = evaluate(folder, *own, "--data", f"{folder}/data", "--seq-len", 96, "--bigram")
    bits = json.loads(run("eval", "--checkpoint", f"{folder}/run", "--seq-len", 96, "--json").stdout)
    assert both["bits_per_byte"] == bits["bits_per_byte"] and "tasks" not in bits and both["bigram_bits_per_byte"] > 0, (both, bits)
    print(f"options: fewer questions, bf16 (within {max(apart):.1e} nats a token), bits per byte beside")


def test_device(folder, config):
    """The same questions through the CUDA kernels, on an emulated GPU."""
    if not os.path.exists(f"{EMULATED}/yxanul_cuda.so"):
        print("no emulated GPU in this build")
        return
    sizes = ("model.hidden_size=64", "model.head_dim=64", "model.intermediate_size=128", "model.embedding_rank=64")
    run("train", "--config", config, "--max-steps", 40, "--set", f"run_dir={folder}/wide", *sizes, check=75)
    sums = {}
    for device in ("cpu", "cuda"):
        command = [f"{EMULATED}/yxanul", "eval", "--checkpoint", f"{folder}/wide", "--tasks", f"{folder}/swag.jsonl", "--precision", "bf16",
                   "--device", device, "--per-question", f"{folder}/{device}.jsonl"]
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT, timeout=600)
        lines = [json.loads(line) for line in open(f"{folder}/{device}.jsonl")]
        sums[device] = np.array([x / t for line in lines for x, t in zip(line["log_probabilities"], line["tokens"])])
    apart = np.abs(sums["cpu"] - sums["cuda"]).max()
    assert 0 < apart < 1e-2, apart
    print(f"emulated GPU: {len(sums['cpu'])} choices within {apart:.1e} nats a token of the CPU, both in bf16")


def refused(folder, code, words, *arguments):
    done = run("eval", "--checkpoint", f"{folder}/run", *arguments, check=code)
    errors = [l for l in done.stderr.splitlines() if l.startswith("error: ")]
    assert len(errors) == 1 and all(w in errors[0] for w in words), (arguments, words, done.stderr)
    assert not done.stdout, done.stdout


def test_refusals(folder):
    good = {"context": "a", "choices": [" b", " c"], "answer": 0}
    swag = {"ctx": "a", "endings": ["b", "c"], "label": 0}
    arc = {"question": {"stem": "a", "choices": [{"text": "b", "label": "A"}, {"text": "c", "label": "B"}]}, "answerKey": "A"}
    bad = [
        ("{", ["JSON"]), ("[1]", ["{"]), ('{"context": "a", "context": "b"}', ["duplicate"]), ('{"context": "\\u0000"}', ["JSON"]),
        ({}, ["choices", "endings", "question"]), ({**good, **swag}, ["one of"]),
        ({**good, "context": 3}, ["context", "not text"]), ({"choices": [" b", " c"], "answer": 0}, ["context", "missing"]),
        ({**good, "choices": "b"}, ["choices", "list"]), ({**good, "choices": [" b"]}, ["1 entries"]),
        ({**good, "choices": [" b"] * 65}, ["65 entries"]), ({**good, "choices": [" b", ""]}, ["entry 1", "empty"]),
        ({**good, "choices": [" b", 1]}, ["entry 1"]), ({**good, "answer": 2}, ["answer", "0 … 1"]),
        ({**good, "answer": -1}, ["answer"]), ({**good, "answer": "0"}, ["answer", "whole number"]),
        ({**good, "answer": 0.5}, ["answer"]), ({"context": "a", "choices": [" b", " c"]}, ["answer", "missing"]),
        ({**swag, "label": ""}, ["label"]), ({**swag, "label": "2"}, ["label", "0 … 1"]), ({**swag, "ctx": None}, ["ctx", "missing"]),
        ({**arc, "answerKey": "C"}, ["answerKey", "C"]), ({"question": arc["question"]}, ["answerKey", "missing"]),
        ({"question": {"stem": "a"}, "answerKey": "A"}, ["choices", "missing"]),
        ({**good, "choices": [" b", " " + "x y " * 1000]}, ["longer", f"{POSITIONS}"]),
    ]
    for line, words in bad:
        write(f"{folder}/bad.jsonl", [good, "", swag, line, good])
        refused(folder, DATA, ["bad.jsonl, line 4", *words], "--tasks", f"{folder}/own.jsonl", "--tasks", f"{folder}/bad.jsonl")
    write(f"{folder}/bad.jsonl", [good, "", swag, "{"])
    run("eval", "--checkpoint", f"{folder}/run", "--tasks", f"{folder}/bad.jsonl", "--max-questions", 2)
    open(f"{folder}/bad.jsonl", "wb").write(b'{"context": "\xff", "choices": [" a", " b"], "answer": 0}')
    refused(folder, DATA, ["bad.jsonl, line 1"], "--tasks", f"{folder}/bad.jsonl")
    write(f"{folder}/empty.jsonl", ["", " "])
    refused(folder, DATA, ["empty.jsonl", "no question"], "--tasks", f"{folder}/empty.jsonl")
    refused(folder, IO, ["nothing.jsonl"], "--tasks", f"{folder}/nothing.jsonl")
    refused(folder, IO, [folder], "--tasks", folder)
    refused(folder, IO, ["none"], "--tasks", f"{folder}/own.jsonl", "--max-questions", 2, "--per-question", f"{folder}/none/lines")
    refused(folder, USAGE, ["--tasks"], "--max-questions", 3)
    refused(folder, USAGE, ["--data"], "--tasks", f"{folder}/own.jsonl", "--bigram")
    print(f"refusals: {len(bad) + 7}, each with file, line and reason")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-tasks-")
    try:
        config = make(folder, documents=330, num_words=60)
        run("train", "--config", config)
        run("export", "--checkpoint", f"{folder}/run", "--output", f"{folder}/exported", "--precision", "fp32")
        os.rename(f"{folder}/data", f"{folder}/moved")  # tasks need no documents
        oracle = Oracle(f"{folder}/exported")
        questions = make_questions(folder, oracle.tok)
        lines = test_rule(folder, oracle, questions)
        test_formats(folder, oracle, questions)
        test_options(folder, lines)
        test_device(folder, config)
        test_refusals(folder)
    finally:
        shutil.rmtree(folder)


main()

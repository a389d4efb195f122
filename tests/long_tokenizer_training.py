"""Training tokenizers on the real corpus: subwords at least as fast as the `tokenizers` library's BpeTrainer, SuperBPE at least 20 % more
characters per token than BPE of the same size, time and memory against the amount of text. --plot FILE draws the last of these."""
import argparse, io, json, os, random, subprocess, sys, tempfile, time

SHARED = os.environ.get("YX_SHARED", "")
YXANUL = os.path.join(os.environ.get("YX_BUILD", "build"), "yxanul")
DATA = os.path.join(SHARED, "data")
SPEED_BYTES, SPEED_VOCAB, SPEED_BAR, ROUNDS = 100_000_000, 50_000, 1, 3
GAIN_BAR = 1.2
MEMORY_BAR, GOAL = 20e9, 10e9  # bytes of memory for 10 GB of text, as far as the measured sizes tell
SIZES = [12_000_000, 40_000_000, 130_000_000, 1_000_000_000]
REAL = 130_000_000  # above this the corpus is repeated, a tenth of the words exchanged
SETTINGS = [(50_000, 20_000), (200_000, 80_000)]  # vocabulary, transition
CORES = len(os.sched_getaffinity(0))


def texts():
    with open(os.path.join(DATA, "train.jsonl.zst"), "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            yield json.loads(line)["text"]


def vary(documents, draw):
    """Each document with a tenth of its words exchanged for words of the document before it."""
    before = documents[-1].split(" ")
    for document in documents:
        words = document.split(" ")
        original = list(words)
        for i in draw.sample(range(len(words)), len(words) // 10):
            words[i] = before[int(draw.random() * len(before))]
        before = original
        yield " ".join(words)


def write_corpus(path, size):
    """The corpus, and varied copies of it up to `size` bytes of text. --max-bytes takes less of it."""
    documents, written, draw = list(texts()), 0, random.Random(1)
    with open(path, "w", encoding="utf-8") as out:
        copy = iter(documents)
        while written < size:
            for document in copy:
                out.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
                written += len(document.encode())
                if written >= size:
                    return documents
            copy = vary(documents, draw)
    return documents


# Runs a command and writes its peak memory behind what it prints. A process of its own: a child's peak begins with its parent's size.
LAUNCHER = ("import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(code)")


def train(corpus, folder, size, vocab, transition):
    """Seconds, peak memory in bytes and what was printed."""
    command = [YXANUL, "tokenizer", "train", "--input", corpus, "--max-bytes", str(size), "--output", folder, "--vocab-size", str(vocab),
               "--transition", str(transition)]
    start = time.perf_counter()
    printed = subprocess.run([sys.executable, "-c", LAUNCHER, *command], check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - start
    printed, memory = printed.rstrip().rsplit("\n", 1)
    return seconds, int(memory), printed


def train_library(documents, vocab):
    """The same subwords by the library: seconds and the vocabulary's size. The texts are in memory already."""
    pattern = r"(?=(\d{3})+(?!\d))| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocab, min_frequency=2, special_tokens=["<|endoftext|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    start = time.perf_counter()
    tokenizer.train_from_iterator(documents, trainer)
    return time.perf_counter() - start, json.loads(tokenizer.to_str())["model"]


def first_bytes(documents, size):
    taken, total = [], 0
    for document in documents:
        taken.append(document)
        total += len(document.encode())
        if total >= size:
            break
    return taken


def check_speed(corpus, documents, folder):
    documents, ratios = first_bytes(documents, SPEED_BYTES), []
    for i in range(ROUNDS):
        seconds, _, _ = train(corpus, os.path.join(folder, f"speed{i}"), SPEED_BYTES, SPEED_VOCAB, SPEED_VOCAB)
        theirs, model = train_library(documents, SPEED_VOCAB)
        ratios.append(theirs / seconds)
        print(f"subwords, 100 MB to 50k on {CORES} cores: {seconds:.1f} s with reading the file, tokenizers {theirs:.1f} s, ratio "
              f"{theirs / seconds:.1f}", flush=True)
    with open(os.path.join(folder, "speed0", "tokenizer.json"), encoding="utf-8") as file:
        ours = json.load(file)["model"]
    same = ours["vocab"] == model["vocab"] and [list(m) for m in ours["merges"]] == [list(m) for m in model["merges"]]
    print(f"  the merges are {'the same' if same else 'DIFFERENT'}; median ratio {sorted(ratios)[ROUNDS // 2]:.1f}, bar {SPEED_BAR}")
    return same and sorted(ratios)[ROUNDS // 2] >= SPEED_BAR


def characters_per_token(folder):
    command = [YXANUL, "tokenizer", "info", "--tokenizer", folder, "--text", os.path.join(DATA, "val.jsonl.zst"), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]["characters_per_token"]


def check_gain(corpus, size, folder):
    (vocab, transition), values = SETTINGS[0], {}
    for name, t in (("BPE", vocab), ("SuperBPE", transition)):
        train(corpus, os.path.join(folder, name), size, vocab, t)
        values[name] = characters_per_token(os.path.join(folder, name))
    gain = values["SuperBPE"] / values["BPE"]
    print(f"V = {vocab}: {values['BPE']:.3f} characters per token of the validation text with BPE, {values['SuperBPE']:.3f} with SuperBPE "
          f"(t = {transition}): {100 * gain - 100:.1f} % more, bar {100 * GAIN_BAR - 100:.0f} %", flush=True)
    return gain >= GAIN_BAR


def check_scale(corpus, folder):
    """Rows: vocabulary, transition, bytes, seconds, peak memory."""
    rows = []
    for vocab, transition in SETTINGS:
        for size in SIZES:
            seconds, memory, printed = train(corpus, os.path.join(folder, "scale"), size, vocab, transition)
            rows.append((vocab, transition, size, seconds, memory))
            print(f"V = {vocab}, t = {transition}, {size / 1e6:.0f} MB{' (varied copies)' if size > REAL else ''}: {seconds:.1f} s, "
                  f"{memory / 1e6:.0f} MB of memory, {memory / size:.2f} bytes a byte", flush=True)
            print("    " + "\n    ".join(line for line in printed.splitlines() if line.split()[0] in ("words", "subwords", "superwords")))
    estimates = []
    for i in range(len(SETTINGS)):
        part = rows[i * len(SIZES):(i + 1) * len(SIZES)]
        real = [r for r in part if r[2] <= REAL][-2:]
        for what, (q, r) in (("the real text's two largest sizes", real), ("the two largest sizes", part[-2:])):
            slope = (r[4] - q[4]) / (r[2] - q[2])
            estimates.append(r[4] + slope * (GOAL - r[2]))
            print(f"V = {r[0]}, t = {r[1]}: by {what} memory grows by {slope:.2f} bytes a byte; 10 GB would take "
                  f"{estimates[-1] / 1e9:.1f} GB (extrapolated), bar {MEMORY_BAR / 1e9:.0f} GB")
    return rows, max(estimates) <= MEMORY_BAR


# --- The drawing ------------------------------------------------------------------------------------------------------

def draw_panel(left, title, unit, series, colours):
    """One panel with logarithmic axes; `series`: label and points."""
    import math
    width, height, top = 300, 220, 50
    xs = [x for _, points in series for x, _ in points]
    ys = [y for _, points in series for _, y in points]
    x0, x1 = math.log10(min(xs)) - 0.1, math.log10(max(xs)) + 0.1
    y0, y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def place(x, y):
        return (left + (math.log10(x) - x0) / (x1 - x0) * width, top + height - (math.log10(y) - y0) / (y1 - y0) * height)

    out = [f'<text x="{left}" y="{top - 18}" font-weight="bold">{title}</text>',
           f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#888"/>']
    for power in range(y0, y1 + 1):
        _, y = place(xs[0], 10 ** power)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10 ** power:g} {unit}</text>')
    for x in sorted(set(xs)):
        at, _ = place(x, ys[0])
        out.append(f'<text x="{at:.1f}" y="{top + height + 18}" text-anchor="middle">{x:g} MB</text>')
    for (label, points), colour in zip(series, colours):
        line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points:
            cx, cy = place(x, y)
            fill = colour if x * 1e6 <= REAL else "white"
            out.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2"><title>{label}: {y:.3g} '
                       f'{unit}</title></circle>')
    return out


def plot(rows, path):
    colours = ["#1f6fb4", "#c8541c"]
    labels = [f"V = {v // 1000}k, t = {t // 1000}k" for v, t in SETTINGS]

    def series(column, scale):
        return [(label, [(r[2] / 1e6, r[column] / scale) for r in rows if r[0] == v]) for label, (v, _) in zip(labels, SETTINGS)]

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="800" height="340" font-family="sans-serif" font-size="12">',
           '<rect width="800" height="340" fill="white"/>']
    out += draw_panel(70, "Time of training", "s", series(3, 1), colours)
    out += draw_panel(470, "Peak memory", "MB", series(4, 1e6), colours)
    for i, (label, colour) in enumerate(zip(labels, colours)):
        out.append(f'<circle cx="{76 + 180 * i}" cy="318" r="4" fill="{colour}"/><text x="{86 + 180 * i}" y="322">{label}</text>')
    out.append('<text x="410" y="322">open circles: the corpus repeated, a tenth of its words exchanged</text></svg>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw time and memory against the amount of text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = os.path.join(folder, "corpus.jsonl")
        documents = write_corpus(corpus, max(SIZES))
        good = check_speed(corpus, documents, folder)
        good &= check_gain(corpus, sum(len(text.encode()) for text in documents), folder)
        del documents
        rows, fits = check_scale(corpus, folder)
    if options.plot:
        plot(rows, options.plot)
    print("ok" if good and fits else "FAILED")
    return 0 if good and fits else 1


try:
    import zstandard
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
except ImportError as error:
    print(f"skipped: Python module {error.name} is not installed")
    sys.exit(77)
if not os.path.exists(os.path.join(DATA, "train.jsonl.zst")):
    print("skipped: the real corpus is not here")
    sys.exit(77)
sys.exit(main())

#!/usr/bin/env python3
"""Training that goes on from an earlier run, from another tokenizer, or from where it was killed: the files are those of training from the
text, byte for byte; what does not belong together is refused. Real text where it is there, made-up text otherwise."""
import filecmp, io, json, os, random, shutil, signal, struct, subprocess, sys, tempfile, time, unittest
import run_fixture
from run_fixture import BINARY, run

DATA = os.path.join(os.environ.get("YX_SHARED", "shared"), "data")
TOKENIZERS = os.path.join(DATA, "tokenizers")
T_SMALL, T_LARGE, V_SMALL, V_LARGE = 2000, 4000, 3000, 5000
KEPT = "kept from an earlier run"


def write_real(path, max_bytes):
    import zstandard
    size = 0
    with open(os.path.join(DATA, "train.jsonl.zst"), "rb") as file, open(path, "w", encoding="utf-8") as out:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            out.write(line)
            size += len(line)
            if size >= max_bytes:
                return


def crc32c(data, table=[]):
    for i in range(256 if not table else 0):
        for _ in range(8):
            i = i >> 1 ^ (0x82f63b78 if i & 1 else 0)
        table.append(i)
    crc = 0xffffffff
    for byte in data:
        crc = table[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def write_made_up(path, documents):
    """Words of syllables, the first ones the most frequent, some pairs of them much more so, as in a language."""
    draw = random.Random(7)
    syllables = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "ing")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20000)]
    pairs = {word: word + " " + draw.choice(words[:50]) for word in words[:100]}
    weights = [1 / (10 + i) for i in range(len(words))]
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(documents):
            text = [pairs.get(word, word) for word in draw.choices(words, weights, k=draw.randint(20, 300))]
            file.write(json.dumps({"text": " ".join(text)}) + "\n")


def has_real():
    try:
        import zstandard
    except ImportError:
        return False
    return os.path.exists(os.path.join(DATA, "train.jsonl.zst"))


class Continue(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.text = cls.path("text.jsonl")
        if has_real():
            write_real(cls.text, 4_000_000)
        else:
            print("made-up text: the real corpus is not here")
            write_made_up(cls.text, 2500)
        cls.small = cls.train("small", V_SMALL, T_SMALL)
        cls.large = cls.train("large", V_LARGE, T_LARGE)
        cls.plain = cls.train("plain", V_LARGE, V_LARGE)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder, name)

    @classmethod
    def train(cls, name, v, t, *options, source=("--input",), code=0):
        """Trains into the folder `name`; `source` without a value is the text."""
        source = (*source, cls.text) if len(source) == 1 else source
        cls.done = run("tokenizer", "train", *source, "--output", cls.path(name), "--vocab-size", v, "--transition", t, *options, check=code)
        return cls.path(name)

    def assert_same(self, a, b):
        self.assertTrue(filecmp.cmp(os.path.join(a, "tokenizer.json"), os.path.join(b, "tokenizer.json"), shallow=False), f"{a} and {b}")

    def assert_lines(self, words=None, subwords=None):
        """Whether the counts and the merges of the first stage were kept."""
        lines = dict(line.split(None, 1) for line in self.done.stdout.splitlines())
        for name, kept in (("words", words), ("subwords", subwords)):
            if kept is not None:
                self.assertEqual(KEPT in lines[name], kept, self.done.stdout)

    def assert_refused(self, message, code, *arguments):
        done = run("tokenizer", "train", *arguments, "--output", self.path("refused"), check=code)
        self.assertIn(message, done.stderr)
        self.assertFalse(os.path.exists(self.path("refused/tokenizer.json")))

    def test_a_larger_transition_equals_training_from_the_text(self):
        a = self.train("up", V_LARGE, T_LARGE, source=("--from", self.small))
        self.assert_lines(words=True, subwords=False)
        self.assert_same(a, self.large)
        with open(os.path.join(a, "tokenizer.json"), encoding="utf-8") as file:
            merges = json.load(file)["model"]["merges"]
        with open(os.path.join(self.small, "tokenizer.json"), encoding="utf-8") as file:
            shorter = json.load(file)["model"]["merges"]
        n = T_SMALL - 257
        self.assertEqual(merges[:n], shorter[:n])
        self.assertNotEqual(merges[:n + 200], shorter[:n + 200])
        # And on from there, down again, with what the new folder kept.
        b = self.train("down", V_SMALL, T_SMALL, source=("--from", a))
        self.assert_lines(words=True, subwords=True)
        self.assert_same(b, self.small)

    def test_plain_bpe_becomes_superbpe_and_back(self):
        a = self.train("extended", V_LARGE, T_LARGE, source=("--from", self.plain))
        self.assert_lines(words=True, subwords=True)
        self.assert_same(a, self.large)
        b = self.train("shortened", V_LARGE, V_LARGE, source=("--from", self.large))
        self.assert_same(b, self.plain)

    def test_other_options_are_those_of_training_from_the_text(self):
        options = ("--special-token", "<pad>", "--special-token", "<|endoftext|>", "--min-frequency", "5", "--max-superword-words", "2")
        a = self.train("options", V_LARGE, T_LARGE, *options)
        b = self.train("options-from", V_LARGE, T_LARGE, *options, source=("--from", self.small))
        self.assert_lines(words=True, subwords=False)
        self.assert_same(a, b)
        # What is not named is as it was there.
        c = self.train("options-again", V_LARGE, T_LARGE, "--max-superword-words", "2", source=("--from", a))
        self.assert_lines(words=True, subwords=True)
        self.assert_same(a, c)

    def test_threads_change_nothing(self):
        for threads in (1, 3):
            self.assert_same(self.train(f"threads{threads}", V_LARGE, T_LARGE, "--threads", threads), self.large)

    def test_where_the_text_is(self):
        moved, other = self.path("moved.jsonl"), self.path("other.jsonl")
        shutil.copy(self.text, self.path("copy.jsonl"))
        a = self.train("copy", V_SMALL, T_SMALL, source=("--input", self.path("copy.jsonl")))
        os.rename(self.path("copy.jsonl"), moved)
        # Subwords need the counts alone.
        self.assert_same(self.train("no-text", V_LARGE, V_LARGE, source=("--from", a)), self.plain)
        numbers = ("--vocab-size", V_LARGE, "--transition", T_LARGE)
        self.assert_refused("--input can name it", 6, "--from", a, *numbers)
        self.assert_same(self.train("found", V_LARGE, T_LARGE, source=("--from", a, "--input", moved)), self.large)
        with open(self.text, encoding="utf-8") as file, open(other, "w", encoding="utf-8") as out:
            out.writelines(file.readlines()[:-1])
        self.assert_refused("the text is not the one whose words were counted", 5, "--from", a, "--input", other, *numbers)

    def test_what_is_refused(self):
        numbers = ("--vocab-size", V_LARGE, "--transition", T_LARGE)
        self.assert_refused("--words:", 2, "--from", self.small, "--words", "gpt2", *numbers)
        self.assert_refused("--max-bytes:", 2, "--from", self.small, "--max-bytes", "1M", *numbers)
        self.assert_refused("--transition is missing", 2, "--from", self.small, "--vocab-size", V_LARGE)
        self.assert_refused("has to name the text", 2, "--from", os.path.join(self.small, "tokenizer.json"), *numbers)
        self.assert_refused("superwords already", 5, "--from", os.path.join(self.small, "tokenizer.json"), "--input", self.text, *numbers)
        self.assert_refused("standard input cannot be read again", 2, "--input", "-", *numbers)
        self.assert_refused("--threads", 2, "--input", self.text, "--threads", "0", *numbers)
        gpt2 = self.path("gpt2-words")
        run("tokenizer", "train", "--input", self.text, "--words", "gpt2", "--vocab-size", 1000, "--output", gpt2)
        self.assert_refused("no superwords", 2, "--from", gpt2, *numbers)

    def test_damaged_records(self):
        numbers = ("--vocab-size", V_LARGE, "--transition", T_LARGE)
        for name in ("words.bin", "subwords.bin"):
            broken = self.path("broken-" + name)
            shutil.copytree(self.small, broken)
            file = os.path.join(broken, "training", name)
            with open(file, "rb") as f:
                data = bytearray(f.read())
            for what, content in (("flipped", data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:]),
                                  ("cut off", data[:-7]), ("empty", b""), ("something else", b"x" * 100)):
                with self.subTest(name=name, what=what):
                    with open(file, "wb") as f:
                        f.write(content)
                    self.assert_refused("is damaged", 4, "--from", broken, *numbers)

    def test_records_of_wrong_content(self):
        """What no damage makes: the checksum is right."""
        numbers = ("--vocab-size", V_SMALL, "--transition", T_SMALL)
        cases = (("words.bin", lambda h, b: (h.replace(b'"version":1', b'"version":2'), b), "version is not 1"),
                 ("words.bin", lambda h, b: (h.replace(b'"kind":"words"', b'"kind":"nouns"'), b), "does not hold words"),
                 ("words.bin", lambda h, b: (h[:-1], b), "not JSON"),
                 ("words.bin", lambda h, b: (h, b[:-1]), "size is wrong"),
                 ("words.bin", lambda h, b: (h, bytes(8) + b[8:]), "word 0 is wrong"),
                 ("subwords.bin", lambda h, b: (h, b[12:]), "size is wrong"),
                 ("subwords.bin", lambda h, b: (h, struct.pack("<I", 1 << 30) + b[4:]), "merges are damaged"),
                 ("subwords.bin", lambda h, b: (h, b[:8] + struct.pack("<I", 300) + b[12:]), "merges are damaged"),
                 ("subwords.bin", lambda h, b: (h.replace(b'"min_frequency":2', b'"min_frequency":0'), b), "min_frequency"))
        for name, change, message in cases:
            with self.subTest(message=message):
                broken = self.path("wrong")
                shutil.rmtree(broken, ignore_errors=True)
                shutil.copytree(self.small, broken)
                file = os.path.join(broken, "training", name)
                with open(file, "rb") as f:
                    data = f.read()
                size, = struct.unpack_from("<I", data, 8)
                self.assertEqual(struct.unpack("<I", data[-4:])[0], crc32c(data[:-4]))
                header, body = change(data[12:12 + size], data[12 + size:-4])
                data = data[:8] + struct.pack("<I", len(header)) + header + body
                with open(file, "wb") as f:
                    f.write(data + struct.pack("<I", crc32c(data)))
                self.assert_refused(message, 4, "--from", broken, *numbers)

    def test_another_tokenizer_is_extended(self):
        # Ours without what it keeps: the text is counted again, the file is the same.
        alone = self.path("alone")
        self.train("alone", T_LARGE, T_LARGE)
        shutil.rmtree(os.path.join(alone, "training"))
        a = self.train("alone-extended", V_LARGE, T_LARGE, source=("--from", alone, "--input", self.text))
        self.assert_lines(words=False)
        self.assert_same(a, self.large)
        self.assert_refused("extends another tokenizer", 2, "--from", a, "--vocab-size", V_LARGE, "--transition", T_LARGE)
        # Its size is the default transition; more subwords may come first.
        done = run("tokenizer", "train", "--from", alone, "--input", self.text, "--output", self.path("by-size"), "--vocab-size", V_LARGE)
        self.assertIn(f"subwords    {T_LARGE - 257} merges", done.stdout)
        self.assert_same(self.path("by-size"), self.large)
        few = self.train("few", T_SMALL, T_SMALL)
        self.assert_same(self.train("more", V_LARGE, T_LARGE, source=("--from", os.path.join(few, "tokenizer.json"), "--input", self.text)),
                         self.large)
        self.assert_refused("too small", 2, "--from", os.path.join(few, "tokenizer.json"), "--input", self.text, "--vocab-size", 300)
        self.assert_refused("its own special tokens", 2, "--from", os.path.join(few, "tokenizer.json"), "--input", self.text,
                            "--vocab-size", V_LARGE, "--special-token", "<pad>")

    @unittest.skipUnless(os.path.isdir(TOKENIZERS), "the published tokenizers are not here")
    def test_published_tokenizers_are_extended(self):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            self.skipTest("the Python module tokenizers is not installed")
        for name, more in (("bpe-200k", 400), ("gpt2", 300)):
            with self.subTest(name=name):
                path = os.path.join(TOKENIZERS, name)
                before = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
                size = before.get_vocab_size()
                run("tokenizer", "train", "--from", path, "--input", self.text, "--output", self.path(name), "--vocab-size", size + more)
                after = Tokenizer.from_file(os.path.join(self.path(name), "tokenizer.json"))
                old, new = before.get_vocab(), after.get_vocab()
                self.assertEqual(len(new), size + more)
                self.assertEqual({token: i for token, i in new.items() if i < size}, old)
                self.assertEqual([str(t) for t in after.get_added_tokens_decoder().values()],
                                 [str(t) for t in before.get_added_tokens_decoder().values()])
                self.check_encodings(self.path(name), before, after)

    def check_encodings(self, path, before, after):
        with open(self.text, encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line, _ in zip(file, range(40))]
        with open(self.path("some.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        ours = run("tokenizer", "encode", "--tokenizer", path, "--jsonl", self.path("some.jsonl")).stdout.splitlines()
        theirs = [e.ids for e in after.encode_batch(texts)]
        self.assertEqual([[int(i) for i in line.split()] for line in ours], theirs)
        self.assertEqual([after.decode(ids) for ids in theirs], texts)
        self.assertLess(sum(map(len, theirs)), 0.95 * sum(len(e.ids) for e in before.encode_batch(texts)))

    def test_killed_between_stages(self):
        for file in ("words.bin", "subwords.bin"):
            folder = self.path("killed-" + file)
            command = [BINARY, "tokenizer", "train", "--input", self.text, "--output", folder, "--vocab-size", str(V_LARGE), "--transition",
                       str(T_LARGE)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while not os.path.exists(os.path.join(folder, "training", file)) and process.poll() is None:
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
            self.assertEqual(process.wait(), -signal.SIGKILL, "it had finished")
            self.assertFalse(os.path.exists(os.path.join(folder, "tokenizer.json")))
            self.train("killed-" + file, V_LARGE, T_LARGE)
            self.assert_lines(words=True, subwords=True if file == "subwords.bin" else None)
            self.assert_same(folder, self.large)

    def test_a_text_that_changed_is_counted_again(self):
        text = self.path("growing.jsonl")
        shutil.copy(self.text, text)
        self.train("growing", V_SMALL, T_SMALL, source=("--input", text))
        self.train("growing", V_SMALL, T_SMALL, source=("--input", text))
        self.assert_lines(words=True, subwords=True)
        with open(text, "a", encoding="utf-8") as file:
            file.write(json.dumps({"text": "zyzzyva " * 3000}) + "\n")
        a = self.train("growing", V_SMALL, T_SMALL, source=("--input", text))
        self.assert_lines(words=False, subwords=False)
        self.assert_same(a, self.train("grown", V_SMALL, T_SMALL, source=("--input", text)))
        with self.assertRaises(AssertionError):
            self.assert_same(a, self.small)
        # Another rule for words is another count.
        run("tokenizer", "train", "--input", text, "--output", a, "--words", "gpt2", "--vocab-size", 1000)
        run("tokenizer", "train", "--input", text, "--output", self.path("gpt2"), "--words", "gpt2", "--vocab-size", 1000)
        self.assert_same(a, self.path("gpt2"))

    def test_from_text_to_a_training_step(self):
        """Text, a tokenizer with an early transition, shards, steps; from it one with a later transition, shards, steps: one key apart."""
        folder = self.path("run")
        os.makedirs(folder)
        config = run_fixture.make(folder, documents=10)
        self.train("run/early", 1200, 300)
        self.train("run/late", 1200, 1000, source=("--from", f"{folder}/early"))
        self.assertFalse(filecmp.cmp(f"{folder}/early/tokenizer.json", f"{folder}/late/tokenizer.json", shallow=False))
        first_losses = set()
        for name in ("early", "late"):
            run("prepare", "--tokenizer", f"{folder}/{name}", "--input", self.text, "--output", f"{folder}/data-{name}",
                "--validation-fraction", "0.05")
            self.assertFalse(os.path.exists(f"{folder}/data-{name}/tokenizer/training"))
            keys = ("--set", "model.vocab_size=1200", "--set", f"data.tokenizer={folder}/{name}", "--set", f"data.path={folder}/data-{{tokenizer}}")
            keys = (*keys, "--set", f"run_dir={folder}/run-{name}")
            run("train", "--config", config, *keys, "--max-steps", 3, check=75)
            steps = run_fixture.log(f"{folder}/run-{name}")
            self.assertEqual([s["step"] for s in steps], [1, 2, 3])
            self.assertTrue(all(0 < s["loss"] < 10 for s in steps))
            first_losses.add(steps[0]["loss"])
        self.assertEqual(len(first_losses), 2)
        keys = ("--set", "model.vocab_size=1200", "--set", f"data.tokenizer={folder}/early", "--set", f"data.path={folder}/data-late")
        wrong = run("train", "--config", config, *keys, check=5)
        self.assertIn("tokenizer", wrong.stderr)


if __name__ == "__main__":
    if not os.access(BINARY, os.X_OK):
        print("skipped: yxanul is not built (YX_BUILD)")
        sys.exit(77)
    unittest.main(verbosity=1)

#!/usr/bin/env python3
"""The data path against independent readers: h5py and NumPy for the shards, `tokenizers` for the ids, this file's own
implementation of docs/data-format.md for the order, and damaged files for the messages and exit codes."""
import fcntl
import hashlib
import io
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("YX_BUILD", "build"))
SHARED = Path(os.environ.get("YX_SHARED", "shared"))
YXANUL = BUILD / "yxanul"
TOKENIZER = SHARED / "data/tokenizers/superbpe-t80k"
CORPUS = SHARED / "data/val.jsonl.zst"


def skip(reason):
    print("skipped:", reason)
    sys.exit(77)


try:
    import h5py
    import numpy as np
    import tokenizers
except ImportError as error:
    skip(str(error))
for path in (YXANUL, TOKENIZER, CORPUS):
    if not path.exists():
        skip(f"{path} is absent")
if not shutil.which("zstd"):
    skip("the program zstd is absent")


def run(*arguments, code=0, **options):
    done = subprocess.run([YXANUL, *map(str, arguments)], capture_output=True, text=True, timeout=600, **options)
    if done.returncode != code:
        raise AssertionError(f"exit {done.returncode} instead of {code}: {arguments}\n{done.stdout}\n{done.stderr}")
    return done


def prepare(output, *arguments, inputs=(CORPUS,), tokenizer=TOKENIZER, **options):
    return run("prepare", "--tokenizer", tokenizer, "--output", output, *arguments, "--input", *inputs, **options)


def documents():
    text = subprocess.run(["zstd", "-dc", CORPUS], capture_output=True, check=True).stdout
    return [json.loads(line) for line in io.BytesIO(text)]


def crc32c(data):
    table = crc32c.table
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def crc_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = (i >> 1) ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    return table


crc32c.table = crc_table()


def read_shards(folder, split):
    """(ids, text bytes, score, source hash) of every document, read with h5py and checked on the way."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = []
    for index, entry in enumerate(manifest["splits"][split]["shards"]):
        path = folder / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert path.stat().st_size == entry["file_bytes"]
        with h5py.File(path, "r") as f:
            tokens, offsets = f["tokens"][:], f["doc_offsets"][:]
            assert f["tokens"].dtype == np.dtype("<u4") and f["tokens"].chunks is None
            a = dict(f.attrs)
            assert np.bytes_(a["format"]) == b"yxanul-shard" and a["version"] == 1
            assert a["shard_index"] == index and a["n_tokens"] == len(tokens) == entry["n_tokens"]
            assert a["n_docs"] == len(offsets) - 1 == entry["n_docs"]
            assert a["n_bytes"] == f["doc_bytes"][:].sum(dtype=np.uint64) == entry["n_bytes"]
            assert offsets[0] == 0 and offsets[-1] == len(tokens)
            assert tokens.max() < a["vocab_size"] == 200005
            assert np.array_equal(np.flatnonzero(tokens == a["eot_id"]), offsets[:-1])
            blocks = [crc32c(tokens[i : i + 65536].tobytes()) for i in range(0, len(tokens), 65536)]
            assert blocks == list(f["block_crc"][:])
            for i, (begin, end) in enumerate(zip(offsets, offsets[1:])):
                found.append((tokens[begin + 1 : end].tolist(), int(f["doc_bytes"][i]), float(f["doc_score"][i]),
                              int(f["doc_src_hash"][i])))
    return found


# --- The order, from docs/data-format.md ---------------------------------------------------------------------------
U = np.uint64


def mix(a, b):
    with np.errstate(over="ignore"):
        x = np.asarray(a, U) + U(0x9E3779B97F4A7C15) * (np.asarray(b, U) + U(1))
        x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
        return x ^ (x >> U(31))


def permute(index, n, key):
    """Images of an array of indices under the bijection of [0, n)."""
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    index = np.array(index, U)
    todo = np.arange(len(index))
    while len(todo):
        x, y = index[todo] // U(b), index[todo] % U(b)
        for r in range(6):
            with np.errstate(over="ignore"):
                k = U(key) + U(r) * U(0xD1B54A32D192ED03)
            if r % 2 == 0:
                x = (x + (((mix(k, y) >> U(32)) * U(a)) >> U(32))) % U(a)
            else:
                y = (y + (((mix(k, x) >> U(32)) * U(b)) >> U(32))) % U(b)
        index[todo] = x * U(b) + y
        todo = todo[index[todo] >= n]
    return index


def sequences(seed, blocks, window_blocks, epoch, window, seq_len):
    """Stream offsets of a window's sequences, in the order of training."""
    count = min(window_blocks, blocks - window * window_blocks)
    per = 6144 // seq_len
    key = mix(mix(mix(mix(seed, 2), epoch), window), seq_len)
    k = permute(np.arange(count * per), count * per, key)
    block = permute(U(window * window_blocks) + k // U(per), blocks, mix(mix(seed, 1), epoch))
    return (block * U(6144) + k % U(per) * U(seq_len)).astype(np.int64)


ORDER_PROGRAM = r"""
#include "io/order.h"
#include <stdio.h>
int main(void) {
    data_order o;
    long long seed, blocks, window, position, seq_len, count;
    while (scanf("%lld %lld %lld %lld %lld %lld", &seed, &blocks, &window, &position, &seq_len, &count) == 6) {
        o = (data_order){(uint64_t)seed, blocks, window};
        for (long long i = 0; i < count; i++) {
            int64_t token;
            order_sequence(&o, position + i * seq_len, seq_len, &token);
            printf("%lld\n", (long long)token);
        }
    }
    return 0;
}
"""


class Data(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="yx-data-"))
        cls.out = cls.folder / "out"
        cls.summary = prepare(cls.out, "--validation-fraction", 0.1, "--shard-tokens", 100000, "--threads", 2).stdout

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def fresh(self, name):
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def test_every_document_as_tokenizers_encodes_it(self):
        library = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        expected = {}
        for d in documents():
            self.assertNotIn("<|endoftext|>", d["text"])
            ids = library.encode(d["text"], add_special_tokens=False).ids
            expected[tuple(ids)] = len(d["text"].encode())
        train, validation = read_shards(self.out, "train"), read_shards(self.out, "validation")
        self.assertEqual(len(train) + len(validation), len(expected))
        self.assertTrue(10 < len(validation) < 60)
        for ids, size, score, _ in train + validation:
            self.assertEqual(expected.pop(tuple(ids)), size)
            self.assertTrue(math.isnan(score))
        self.assertFalse(expected)
        self.assertFalse({d[3] for d in train} & {d[3] for d in validation})
        self.assertIn("402196 (6.842 characters", self.summary)

    def test_order_of_the_input_is_kept(self):
        library = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        place = {tuple(library.encode(d["text"], add_special_tokens=False).ids): i for i, d in enumerate(documents())}
        for split in ("train", "validation"):
            where = [place[tuple(d[0])] for d in read_shards(self.out, split)]
            # While validation is empty, the document with the smallest hash waits: few are out of place.
            late = sum(a > b for a, b in zip(where, where[1:]))
            self.assertLessEqual(late, 8)

    def test_threads_do_not_change_the_result(self):
        for threads in (1, 3, 8):
            other = self.fresh("threads")
            prepare(other, "--validation-fraction", 0.1, "--shard-tokens", 100000, "--threads", threads)
            files = sorted(p.name for p in self.out.glob("*.h5"))
            self.assertEqual(files, sorted(p.name for p in other.glob("*.h5")))
            for name in files + ["manifest.json"]:
                self.assertEqual((self.out / name).read_bytes(), (other / name).read_bytes(), name)

    def test_scores_and_standard_input(self):
        rows = [{"id": f"<urn:{i}>", "text": f"Document number {i}.", "score": i / 8} for i in range(40)]
        text = "".join(json.dumps(r) + "\n" for r in rows)
        out = self.fresh("scores")
        done = prepare(out, "--min-score", 2.5, "--validation-fraction", 0, inputs=("-",), input=text)
        self.assertEqual([d[2] for d in read_shards(out, "train")], [i / 8 for i in range(20, 40)])
        self.assertIn("dropped     20 documents: score too low", done.stdout)
        with h5py.File(out / "train-00000.h5") as f:
            self.assertEqual(np.bytes_(f.attrs["filter"]), b"score>=2.5")

    def test_order_is_the_documented_one(self):
        compiler = shutil.which("gcc") or shutil.which("cc")
        if not compiler:
            self.skipTest("no C compiler")
        root = Path(__file__).resolve().parent.parent
        program = self.folder / "order"
        (self.folder / "order.c").write_text(ORDER_PROGRAM)
        subprocess.run([compiler, "-std=gnu11", "-O2", f"-I{root}", self.folder / "order.c", root / "io/order.c",
                        root / "common/rng.c", "-lm", "-o", program], check=True)
        cases = [(0, 1, 1, 0, 0, 8), (42, 3000, 1024, 0, 2, 8), (42, 3000, 1024, 5, 1, 2048), (7, 65, 16, 2, 4, 768),
                 (2**62, 977, 10, 1, 97, 64)]
        for seed, blocks, window_blocks, epoch, window, seq_len in cases:
            ours = sequences(seed, blocks, window_blocks, epoch, window, seq_len)
            position = (epoch * blocks + window * window_blocks) * 6144
            line = f"{seed} {blocks} {window_blocks} {position} {seq_len} {len(ours)}"
            theirs = subprocess.run([program], input=line, capture_output=True, text=True, check=True).stdout.split()
            self.assertEqual(ours.tolist(), list(map(int, theirs)))

    def test_a_mixed_epoch_uses_every_token_once(self):
        lengths = [8, 16, 32, 64, 128, 256, 512, 768, 1536, 2048]
        blocks, window_blocks = 157, 16
        seen = np.zeros(blocks * 6144, np.int8)
        for window in range(-(-blocks // window_blocks)):
            seq_len = lengths[window % 10]
            starts = sequences(3, blocks, window_blocks, 1, window, seq_len)
            np.add.at(seen, (starts[:, None] + np.arange(seq_len)).ravel(), 1)
        self.assertTrue((seen == 1).all())

    def test_short_sequences_of_a_batch_come_from_everywhere(self):
        blocks = 1024
        starts = sequences(9, 4000, blocks, 0, 1, 8)
        chance = 767 / (768 * blocks - 1)
        pairs = total = 0
        for begin in range(0, 200 * 2048, 2048):
            count = np.bincount(starts[begin : begin + 2048] // 6144)
            pairs += int((count * (count - 1) // 2).sum())
            total += 2048 * 2047 // 2
        self.assertLess(abs(pairs - chance * total), 5 * math.sqrt(chance * total))

    # --- What is wrong is said ---------------------------------------------------------------------------------------
    def refused(self, done, *words):
        lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        for word in words:
            self.assertIn(word, lines[0])

    def spoiled(self, name, data):
        """A copy of the data set whose first training shard has these bytes."""
        copy = self.fresh("spoiled")
        shutil.copytree(self.out, copy, ignore=shutil.ignore_patterns("tokenizer"))
        for path in copy.iterdir():
            path.chmod(0o644)  # shards are read-only
        (copy / name).write_bytes(data)
        return copy

    def inspect(self, path, *words, code=4):
        self.refused(run("inspect", path, "--verify", code=code), *words)

    def test_good_data_passes_inspection(self):
        done = run("inspect", self.out, "--verify")
        self.assertIn("every checksum and every id is right", done.stdout)
        done = run("inspect", self.out / "train-00001.h5", "--verify")
        self.assertIn('number 1 of "train"', done.stdout)

    def test_a_shard_alone_is_checked_against_the_manifest(self):
        name = "train-00000.h5"
        data = bytearray((self.out / name).read_bytes())
        with h5py.File(self.out / name) as f:
            place = f["doc_score"].id.get_offset()  # no block checksum covers it
        data[place] ^= 1
        copy = self.spoiled(name, bytes(data))
        self.inspect(copy / name, name, "SHA-256")
        (copy / "manifest.json").unlink()
        self.assertIn("no manifest is beside it", run("inspect", copy / name, "--verify").stdout)

    def test_numbers_are_little_endian_whoever_reads_them(self):
        """The files declare their byte order, so that HDF5 converts on any machine; here it is asked for the other one."""
        with h5py.File(self.out / "train-00000.h5") as f:
            for name in ("tokens", "doc_offsets", "doc_bytes", "doc_score", "doc_src_hash", "block_crc"):
                stored = f[name].dtype
                self.assertEqual(stored, stored.newbyteorder("<"), name)
                raw = (self.out / "train-00000.h5").read_bytes()[f[name].id.get_offset() :][: f[name].size * stored.itemsize]
                other = f[name].astype(stored.newbyteorder(">"))[:]
                self.assertEqual(np.frombuffer(raw, stored).tobytes(), other.astype(stored).tobytes(), name)

    def test_foreign_locks_do_not_stop_reading(self):
        """File systems of clusters often refuse locks, or keep dead ones: no lock is asked for."""
        environment = {k: v for k, v in os.environ.items() if k != "HDF5_USE_FILE_LOCKING"}
        with open(self.out / "train-00000.h5", "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if os.environ.get("HDF5_USE_FILE_LOCKING", "TRUE") == "TRUE":
                with self.assertRaises(OSError):  # as HDF5 does unless it is told otherwise
                    h5py.File(self.out / "train-00000.h5", "r").close()
            run("inspect", self.out, "--verify", env=environment)
            run("inspect", self.out / "train-00000.h5", env=environment)

    def test_shards_are_read_only(self):
        for path in self.out.glob("*.h5"):
            self.assertEqual(path.stat().st_mode & 0o222, 0)

    def test_truncated_shards(self):
        name = "train-00000.h5"
        data = (self.out / name).read_bytes()
        self.inspect(self.spoiled(name, b""), name, "empty")
        for i in range(20):
            cut = 1 + i * (len(data) - 2) // 19
            self.inspect(self.spoiled(name, data[:cut]), name)

    def test_flipped_bits(self):
        name = "validation-00000.h5"
        data = bytearray((self.out / name).read_bytes())
        random = np.random.default_rng(1)
        places = sorted({*range(0, 60), *random.integers(0, len(data), 60).tolist()})
        for place in places:
            data[place] ^= 1 << (place % 8)
            done = run("inspect", self.spoiled(name, bytes(data)), "--verify", code=4)
            data[place] ^= 1 << (place % 8)
            self.refused(done, name) # the SHA-256 in the manifest covers every byte

    def test_wrong_contents(self):
        """Files that are in order for HDF5, but not for this format."""

        def replace(f, name, data, **options):
            del f[name]
            f.create_dataset(name, data=data, **options)

        def offsets(change):
            def edit(f):
                table = f["doc_offsets"][:]
                change(table)
                f["doc_offsets"][:] = table

            return edit

        def token(index, value):
            def edit(f):
                f["tokens"][index] = value

            return edit

        def link(f):
            del f["tokens"]
            f["tokens"] = h5py.ExternalLink("other.h5", "/tokens")

        name = "train-00000.h5"
        cases = [
            (lambda f: f.attrs.modify("version", np.uint64(2)), "version 2"),
            (lambda f: f.attrs.__delitem__("eot_id"), '"eot_id" is missing'),
            (lambda f: f.attrs.modify("eot_id", np.uint64(200005)), "outside the vocabulary"),
            (lambda f: f.attrs.modify("eot_id", np.uint64(5)), "is damaged"),
            (lambda f: f.attrs.create("vocab_size", np.uint64([1, 2])), "wrong type"),
            (lambda f: f.attrs.create("vocab_size", "many"), "wrong type"),
            (lambda f: f.attrs.create("split", "train"), "wrong type"),  # of variable length
            (lambda f: f.attrs.create("split", np.bytes_("t" * 99)), "too long"),
            (lambda f: f.attrs.modify("vocab_size", np.uint64(2**40)), "vocab_size"),
            (lambda f: f.attrs.modify("n_tokens", np.uint64(2**60)), "n_tokens"),
            (lambda f: f.attrs.modify("n_tokens", np.uint64(7)), "n_docs"),
            (lambda f: f.attrs.modify("n_docs", np.uint64(0)), "no documents"),
            (lambda f: f.attrs.modify("n_docs", np.uint64(3)), "/doc_offsets has"),
            (lambda f: f.attrs.modify("n_bytes", np.uint64(3)), "n_bytes says 3"),
            (lambda f: f.__delitem__("block_crc"), "/block_crc is missing"),
            (lambda f: replace(f, "doc_score", f["doc_score"][:].astype("f8")), "/doc_score is not"),
            (lambda f: replace(f, "tokens", f["tokens"][:], chunks=(4096,)), "/tokens is not a contiguous"),
            (lambda f: replace(f, "tokens", f["tokens"][:].astype(">u4")), "/tokens is not"),
            (lambda f: replace(f, "tokens", f["tokens"][:].reshape(1, -1)), "/tokens is not"),
            (link, "/tokens is missing"),
            (offsets(lambda t: t.__setitem__(0, 1)), "do not cover"),
            (offsets(lambda t: t.__setitem__(5, t[6])), "do not cover"),
            (offsets(lambda t: t.__setitem__(5, 2**63)), "do not cover"),
            (offsets(lambda t: t.__setitem__(-1, t[-1] + 1)), "do not cover"),
            (offsets(lambda t: t.__setitem__(5, t[5] + 1)), "document 5 starts at"),
            (token(70, 200005), "checksum"),
            (token(70, 9), "checksum"),
        ]
        for i, (edit, words) in enumerate(cases):
            with self.subTest(case=i, words=words):
                path = self.spoiled(name, (self.out / name).read_bytes()) / name
                with h5py.File(path, "r+", libver=("v108", "v108")) as f:
                    edit(f)
                self.inspect(path, name, words)
        folder = self.spoiled(name, (self.out / name).read_bytes())
        with h5py.File(folder / name, "r+", libver=("v108", "v108")) as f:
            f.attrs.modify("format", np.bytes_("something"))
        self.inspect(folder, name, 'its format is "something"')

    def test_wrong_files(self):
        text = (self.out / "manifest.json").read_text()
        self.inspect(self.spoiled("manifest.json", text[:300].encode()), "manifest.json", "not valid JSON")
        manifest = json.loads(text)
        manifest["tokenizer"]["vocab_size"] = 50257
        manifest["tokenizer"]["eot_id"] = 50256
        copy = self.spoiled("manifest.json", json.dumps(manifest).encode())
        self.inspect(copy, "vocabulary 200005", "50257", code=5)
        manifest["tokenizer"].update(vocab_size=200005, eot_id=200004, sha256="0" * 64)
        self.inspect(self.spoiled("manifest.json", json.dumps(manifest).encode()), "another tokenizer", code=5)
        copy = self.spoiled("manifest.json", (self.out / "manifest.json").read_bytes())
        (copy / "train-00001.h5").unlink()
        self.inspect(copy, "train-00001.h5", "No such file", code=6)
        with h5py.File(copy / "train-00001.h5", "w", libver="latest") as f:
            f["tokens"] = np.zeros(10, np.uint32)
        self.inspect(copy, "train-00001.h5", '"format" is missing')

    def test_prepare_says_what_is_wrong(self):
        out = self.fresh("refused")
        self.refused(prepare(self.out, code=2), "already holds a data set", "--force")
        self.refused(prepare(out, inputs=("/nonexistent.jsonl",), code=6), "/nonexistent.jsonl", "No such file")
        self.refused(prepare(out, tokenizer="/nonexistent", code=6), "/nonexistent")
        self.refused(prepare(out, "--min-score", 3.5, code=4), "320 read, 320 no score")
        self.refused(prepare(out, "--strict", inputs=("-",), input="{}\n", code=4), "standard input:1", "no text")
        broken = self.folder / "broken.jsonl.zst"
        broken.write_bytes(CORPUS.read_bytes()[:100000])
        self.refused(prepare(out, inputs=(broken,), code=4), "broken.jsonl.zst", "ends early")
        wrong = ["--min-score", "high"], ["--threads", "0"], ["--unknown"], ["--validation-fraction", "1"], ["--seed"]
        for arguments in wrong:
            self.assertIn("see `yxanul prepare --help`", run("prepare", *arguments, code=2).stderr)
        self.assertFalse(out.exists())
        self.assertFalse(list(self.folder.glob("*.tmp-*")))

    def test_read_only_and_full_places(self):
        out = self.fresh("limited")
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500000, 500000))
        self.refused(prepare(out, code=6, preexec_fn=limit), "File too large")
        self.assertFalse(list(self.folder.glob("limited*")))
        self.refused(prepare("/proc/nowhere/data", code=6), "/proc/nowhere")
        small = self.folder / "small"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=22500k", "tmpfs", small]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            self.skipTest("mounting a small file system is not allowed here")
        try:
            self.refused(prepare(small / "data", code=7), "No space left on device")
            self.assertEqual(list(small.iterdir()), [])
            subprocess.run(["mount", "-o", "remount,ro", small], check=True)
            self.refused(prepare(small / "data", code=6), "Read-only file system")
        finally:
            subprocess.run(["umount", small], check=True)


if __name__ == "__main__":
    unittest.main()

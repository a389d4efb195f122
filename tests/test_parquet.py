"""A FineWeb-Edu download (its ten columns, several row groups, zstd and snappy) through scripts/parquet_to_jsonl and
prepare to trained steps: the rows that arrive are those a filter written here keeps, whatever the statistics say."""
import io, json, math, os, pathlib, random, shutil, subprocess, sys, tempfile
from run_fixture import BINARY, CONFIG, ENVIRONMENT, ROOT, STAGES, log, run, write_text

try:
    import h5py, pyarrow, pyarrow.parquet, tokenizers, zstandard
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)

CONVERT = [sys.executable, str(ROOT / "scripts/parquet_to_jsonl")]
USAGE, DATA, IO = 2, 4, 6
SCHEMA = pyarrow.schema([("text", pyarrow.string()), ("id", pyarrow.string()), ("dump", pyarrow.string()),
                         ("url", pyarrow.string()), ("file_path", pyarrow.string()), ("language", pyarrow.string()),
                         ("language_score", pyarrow.float64()), ("token_count", pyarrow.int64()),
                         ("score", pyarrow.float64()), ("int_score", pyarrow.int64())])


def make_rows(folder, count):
    draw = random.Random(5)
    write_text(f"{folder}/text.jsonl", count, seed=6)
    rows = []
    for i, line in enumerate(open(f"{folder}/text.jsonl")):
        text = json.loads(line)["text"] + " Straße, naïve, 漢字 😀\n\t\"quoted\" \\ end"
        score = draw.uniform(2.5, 5) if i // 40 % 4 else draw.uniform(2.5, 3.4)  # every fourth row group is too low
        rows.append({"text": text, "id": f"<urn:uuid:{i:08x}-0000-4000-8000-000000000000>", "dump": "CC-MAIN-2013-20",
                     "url": f"http://example.org/{i}", "file_path": f"s3://commoncrawl/crawl-data/{i}.warc.gz",
                     "language": "en", "language_score": draw.uniform(0.65, 1), "token_count": draw.randint(100, 3000),
                     "score": score, "int_score": round(score)})
    rows[3]["score"] = rows[3]["int_score"] = None  # no score: does not pass
    rows[4]["token_count"] = None
    rows[5]["text"] = None
    rows[6]["score"] = math.nan
    return rows


def write(path, rows, schema=SCHEMA, **options):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path, row_group_size=40, **options)


def passes(row):
    return (row["text"] is not None and row["score"] is not None and row["score"] >= 3.5 and
            row["token_count"] is not None and row["token_count"] >= 1000)


def convert(*arguments, code=0):
    """(rows, summary) of a conversion, or its error."""
    done = subprocess.run([*CONVERT, *map(str, arguments)], capture_output=True, timeout=300)
    assert done.returncode == code, (done.returncode, done.stderr.decode())
    if code != 0:
        return done.stderr.decode()
    data = done.stdout
    if "--plain" not in arguments:
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    return [json.loads(line) for line in data.decode().split("\n")[:-1]], done.stderr.decode()


def pipe(convert_arguments, prepare_arguments, folder):
    first = subprocess.Popen([*CONVERT, *convert_arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    second = subprocess.run([BINARY, "prepare", "--tokenizer", f"{folder}/tokenizer", "--input", "-", *prepare_arguments],
                            stdin=first.stdout, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    first.stdout.close()
    first.wait(60)
    return first.returncode, second


def texts(data):
    """The documents of a data set, by split, in its order."""
    decode = tokenizers.Tokenizer.from_file(f"{data}/tokenizer/tokenizer.json").decode
    manifest, found = json.load(open(f"{data}/manifest.json")), {}
    for split, description in manifest["splits"].items():
        found[split] = []
        for shard in description["shards"]:
            with h5py.File(f"{data}/{shard['file']}") as file:
                tokens, offsets = file["tokens"][:], file["doc_offsets"][:]
                found[split] += [decode(tokens[a + 1:b], skip_special_tokens=False) for a, b in zip(offsets, offsets[1:])]
                scores = file["doc_score"][:]
                assert not (scores < 3.5).any()
    return found, manifest


def test_conversion(folder, rows):
    kept = [r for r in rows if passes(r)]
    columns = ("text", "id", "language", "token_count", "score", "int_score")
    expected = [{k: r[k] for k in columns} for r in kept]
    everything, _ = convert(f"{folder}/download")
    assert [r["id"] for r in everything] == [r["id"] for r in rows if r["text"] is not None]
    assert all("score" not in r for r in everything if r["id"] in (rows[3]["id"], rows[6]["id"]))  # null, NaN
    filtered, said = convert(f"{folder}/download", "--min-score", "3.5", "--min-tokens", "1000")
    assert filtered == expected
    skipped = int(said.split(" without a row")[0].split("(")[-1])
    assert skipped >= len(rows) // 40 // 4, said
    drops = [int(part.split(" dropped")[0]) for part in said.split(", ") if " dropped: " in part]
    assert sum(drops) + len(kept) + sum(r["text"] is None for r in rows) >= len(rows) - 1, said
    plain, _ = convert(f"{folder}/download", "--min-score", "3.5", "--min-tokens", "1000", "--plain")
    assert plain == expected
    few, _ = convert(f"{folder}/download", "--columns", "url,dump")
    assert set(few[0]) == {"text", "url", "dump"}
    # Without statistics, in one large row group, and in another compression: the same rows.
    for name, options in (("blind", {"write_statistics": False}), ("gzip", {"compression": "gzip"}),
                          ("pages", {"data_page_size": 2000, "use_dictionary": False, "data_page_version": "2.0"})):
        write(f"{folder}/{name}/all.parquet", rows, **options)
        assert convert(f"{folder}/{name}", "--min-score", "3.5", "--min-tokens", "1000")[0] == expected, name
    print(f"{len(rows)} rows: {len(kept)} pass, {skipped} row groups were not read; also without statistics")


def test_rounded(folder, rows):
    """Where there is only int_score, both programs say so and 3.5 means 4."""
    schema = pyarrow.schema([f for f in SCHEMA if f.name != "score"])
    write(f"{folder}/rounded/a.parquet", [{k: v for k, v in r.items() if k != "score"} for r in rows], schema)
    good = [r for r in rows if r["text"] is not None and (r["int_score"] or 0) >= 4]
    found, said = convert(f"{folder}/rounded", "--min-score", "3.5")
    assert [r["id"] for r in found] == [r["id"] for r in good]
    assert "rounded int_score: rows pass from int_score 4 on" in said and said.count("warning") == 1, said
    code, done = pipe([f"{folder}/rounded"], ["--output", f"{folder}/rounded-data", "--min-score", "3.5"], folder)
    assert code == 0 and done.returncode == 0, done.stderr
    assert "int_score 4 on" in done.stderr and "by int_score" in done.stdout, (done.stderr, done.stdout)
    manifest = json.load(open(f"{folder}/rounded-data/manifest.json"))
    assert manifest["counts"]["documents_kept"] == len(good)
    assert manifest["counts"]["documents_judged_by_int_score"] == sum(
        r["text"] is not None and r["int_score"] is not None for r in rows)
    print("int_score alone: said by both programs, 3.5 keeps 4 and 5")


def test_refusals(folder, rows):
    assert "nowhere" in convert(f"{folder}/nowhere", code=IO)
    assert "no .parquet file" in convert(f"{folder}/tokenizer", code=DATA)
    assert "not a Parquet file" in convert(f"{folder}/text.jsonl", code=DATA)
    assert '"contents"' in convert(f"{folder}/download", "--text-field", "contents", code=DATA)
    assert '"stars"' in convert(f"{folder}/download", "--columns", "text,stars", code=DATA)
    write(f"{folder}/odd/a.parquet", [{"text": 1}], pyarrow.schema([("text", pyarrow.int64())]))
    assert "not text" in convert(f"{folder}/odd", code=DATA)
    write(f"{folder}/bare/a.parquet", [{"text": "x"}], pyarrow.schema([("text", pyarrow.string())]))
    assert "neither score" in convert(f"{folder}/bare", "--min-score", "1", code=DATA)
    assert "no token_count" in convert(f"{folder}/bare", "--min-tokens", "1", code=DATA)
    # A file that is cut off, behind one that is whole: the conversion fails, and what arrived is no data set.
    whole = open(f"{folder}/download/data/000_00001.parquet", "rb").read()
    open(f"{folder}/cut.parquet", "wb").write(whole[:len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 3:len(whole) // 3 + 400] = bytes(400)
    open(f"{folder}/damaged.parquet", "wb").write(damaged)
    for bad in ("cut", "damaged"):
        code, done = pipe([f"{folder}/download/data/000_00000.parquet", f"{folder}/{bad}.parquet"],
                          ["--output", f"{folder}/never"], folder)
        assert code in (DATA, IO), code
        assert done.returncode == DATA and "ends early" in done.stderr, done.stderr
        assert not os.path.exists(f"{folder}/never")
    assert "scripts/parquet_to_jsonl" in run("prepare", "--tokenizer", f"{folder}/tokenizer", "--input",
                                             f"{folder}/cut.parquet", "--output", f"{folder}/never", check=DATA).stderr
    print("missing, foreign and damaged files: refused; a conversion that breaks off makes no data set")


def test_training(folder, rows):
    code, done = pipe([f"{folder}/download"],
                      ["--output", f"{folder}/data", "--min-score", "3.5", "--min-token-count", "1000", "--language", "en",
                       "--validation-fraction", "0.05", "--source", "HuggingFaceFW/fineweb-edu, a layout of it"], folder)
    assert code == 0 and done.returncode == 0, done.stderr
    kept = [r["text"] for r in rows if passes(r)]
    found, manifest = texts(f"{folder}/data")
    assert sorted(found["train"] + found["validation"]) == sorted(kept) and found["validation"]
    assert f"dropped     {manifest['counts']['dropped']['score too low']} documents: score too low" in done.stdout
    counts = manifest["counts"]
    assert counts["documents_kept"] == len(kept) and counts["documents_read"] == len(rows) - 1
    assert counts["dropped"]["no score"] == counts["documents_judged_by_int_score"] == 1, counts  # null; NaN, so its int_score
    with h5py.File(f"{folder}/data/train-00000.h5") as file:
        attributes = {k: file.attrs[k] for k in ("source", "filter")}
    assert attributes == {"source": b"HuggingFaceFW/fineweb-edu, a layout of it",
                          "filter": b'score>=3.5 && language=="en" && token_count>=1000'}, attributes
    verified = run("inspect", f"{folder}/data", "--verify").stdout
    assert "every checksum and every id is right" in verified
    stages = "\n".join(f"    - {{seq_len: {t}, batch_size: {b}, fraction: 0.1, grad_clip: 1}}" for t, b in STAGES)
    open(f"{folder}/config.yaml", "w").write(CONFIG.format(folder=folder, stages=stages))
    run("train", "--config", f"{folder}/config.yaml", "--max-steps", 5, check=75)
    losses = [step["loss"] for step in log(f"{folder}/run")]
    assert len(losses) == 5 and all(math.isfinite(x) and 5 < x < 8 for x in losses), losses  # log 600 = 6.4
    print(f"{len(kept)} documents verified, 5 steps: loss {losses[0]:.3f} -> {losses[-1]:.3f}")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-parquet-")
    try:
        rows = make_rows(folder, 400)
        write(f"{folder}/download/data/000_00000.parquet", rows[:240], compression="zstd")
        write(f"{folder}/download/data/000_00001.parquet", rows[240:], compression="snappy")
        open(f"{folder}/download/README.md", "w").write("not data")
        assert pyarrow.parquet.ParquetFile(f"{folder}/download/data/000_00000.parquet").num_row_groups == 6
        run("tokenizer", "train", "--input", f"{folder}/text.jsonl", "--output", f"{folder}/tokenizer", "--vocab-size", 600,
            "--transition", 500)
        for test in (test_conversion, test_rounded, test_refusals, test_training):
            test(folder, rows)
    finally:
        shutil.rmtree(folder)


main()

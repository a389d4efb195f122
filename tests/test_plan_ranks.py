"""yxanul plan --bench: what bench train measured on one rank and on several, as a table for more ranks. The formulas are written
down once more here, from the fields of the measurement."""
import itertools, json, math, subprocess, tempfile
from run_fixture import BINARY, ENVIRONMENT

CONFIG = """
run_dir: none
model: {hidden_size: 64, num_layers: 2, num_attention_heads: 6, num_key_value_heads: 2, head_dim: 16,
  intermediate_size: 96, vocab_size: 300, embedding_rank: 32, max_position_embeddings: 256}
data: {tokenizer: none, path: none, shuffle_window_blocks: 1}
training:
  epochs: 2
  learning_rate: 1e-3
  device: cpu
  precision: fp32
  micro_batch_tokens: 256
  curriculum_stages: [{seq_len: 16, batch_size: 31, fraction: 0.5}, {seq_len: 64, batch_size: 2, fraction: 0.5}]
"""
TOKENS = 100000
WIRES = {"fp32": 4, "bf16": 2}
BUCKETS = 3  # the embedding, both layers, the projection


def bench(folder, ranks, *arguments):
    command = [BINARY, "bench", "train", "--config", f"{folder}/config.yaml", "--steps", "3", "--json", *arguments]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                  env={**ENVIRONMENT, "YX_RANK": str(r), "YX_RANKS": str(ranks), "YX_RENDEZVOUS": f"file:{folder}/meet"})
                 for r in range(ranks)]
    printed = [p.communicate(timeout=120)[0] for p in processes]
    assert all(p.returncode == 0 for p in processes)
    return json.loads(printed[0])


def plan(folder, *arguments, code=0):
    command = [BINARY, "plan", "--config", f"{folder}/config.yaml", "--corpus-tokens", str(TOKENS), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    return done.stderr if code else json.loads(done.stdout) if "--json" in arguments else done.stdout


def write(folder, name, content):
    path = f"{folder}/{name}.json"
    with open(path, "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content))
    return path


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15)


# --- The formulas
def step_of_one(measured, stage):
    """(seconds, optimizer) of one rank; nothing is hidden on a CPU."""
    n, sequences, optimizer = measured["ranks"], stage["sequences"], stage["groups"]["optimizer"]["seconds"]
    if n == 1:
        return stage["seconds"], optimizer
    divided = max(0, stage["seconds"] - stage["exposed_seconds"] - optimizer)
    return optimizer + divided * sequences / -(-sequences // n), optimizer


def computed(one, optimizer, stage, parameters, n, wire, bus, latency, sharded=False):
    share = -(-stage["sequences"] // n) / stage["sequences"]
    half = (n - 1) / n * parameters / (bus or 1)
    exchange = half * (WIRES[wire] + (4 if sharded else WIRES[wire])) + BUCKETS * latency if n > 1 else 0
    compute = (optimizer / n if sharded else optimizer) + (one - optimizer) * share
    return compute, exchange


def check(found, measured, bus, latency, counts, sharded=False):
    assert close(found["link"]["bus_bytes_per_second"], bus) and close(found["link"]["latency_seconds"], latency), found["link"]
    assert [(g["ranks"], g["gradient_wire"]) for g in found["ranks"]] == [(1, "fp32")] + [(n, w) for n in counts for w in ("fp32", "bf16", "auto")]
    shortest = {}
    for group in found["ranks"]:
        n, wire = group["ranks"], group["gradient_wire"]
        assert len(group["stages"]) == len(measured["stages"])
        for row, stage in zip(group["stages"], measured["stages"]):
            planned = found["stages"][row["stage"] - 1]
            assert planned["seq_len"] == stage["seq_len"] and planned["batch_size"] == stage["sequences"]
            one, optimizer = step_of_one(measured, stage)
            if wire == "auto":  # bf16 where a tenth of an fp32 step is exchange
                compute, exchange = computed(one, optimizer, stage, measured["parameters"], n, "fp32", bus, latency, sharded)
                assert row["gradient_wire"] == ("bf16" if exchange > 0.1 * (compute + exchange) else "fp32")
            else:
                assert row["gradient_wire"] == wire
            compute, exchange = computed(one, optimizer, stage, measured["parameters"], n, row["gradient_wire"], bus, latency, sharded)
            step = compute + exchange
            assert close(row["compute_seconds"], compute) and close(row["exchange_seconds"], exchange), (row, compute, exchange)
            assert row["exposed_seconds"] == row["exchange_seconds"] and close(row["step_seconds"], step), row
            assert close(row["tokens_per_second"], stage["tokens"] / step) and close(row["speedup"], one / step), row
            assert close(row["efficiency"], row["speedup"] / n) and row["tokens_per_rank"] == -(-stage["sequences"] // n) * stage["seq_len"]
            tokens = planned["token_end"] - planned["token_begin"]
            assert close(row["seconds"], tokens / stage["tokens"] * step), row
            if wire != "auto":
                shortest.setdefault(row["stage"], []).append((row["seconds"], n, wire))
        assert close(group["seconds"], sum(row["seconds"] for row in group["stages"]))
    for choice in found["fastest"]:
        rows = shortest[choice["stage"]]  # by ranks, fp32 first
        near = next(row for row in rows if row[0] <= 1.01 * min(rows)[0])
        assert (choice["seconds"], choice["ranks"], choice["gradient_wire"]) == near, (choice, rows)


def test_one_rank(folder):
    measured = bench(folder, 1)
    assert measured["gradient_bytes"] == 4 * measured["parameters"] and measured["precision"] == "fp32"
    assert measured["gradient_wire"] == "fp32" and measured["shard_optimizer"] is measured["overlap"] is False
    path = write(folder, "one", measured)
    link = ["--bus", 0.5, "--latency", 40]
    check(plan(folder, "--ranks", 6, "--bench", path, *link, "--json"), measured, 0.5e9, 40e-6, [2, 4, 6])
    check(plan(folder, "--ranks", 4, "--bench", path, *link, "--json", "--set", "training.shard_optimizer=true",
               "training.gradient_wire=bf16"), measured, 0.5e9, 40e-6, [2, 4], sharded=True)
    check(plan(folder, "--bench", path, "--json"), measured, 0, 0, [])
    fast = plan(folder, "--ranks", 4, "--bench", path, "--bus", 1000, "--json")["fastest"]
    slow = plan(folder, "--ranks", 4, "--bench", path, "--bus", 1e-6, "--json")["fastest"]
    # Nothing to wait for: as many ranks as there are sequences; nothing but waiting: one.
    assert [c["ranks"] for c in fast] == [4, 2] and [c["ranks"] for c in slow] == [1, 1], (fast, slow)
    assert "--bus is missing" in plan(folder, "--ranks", 2, "--bench", path, code=2)
    print("plan --bench: one rank's measurement, for more ranks over a given link")
    return measured


def test_several_ranks(folder):
    for sets in [], ["--set", "training.shard_optimizer=true", "training.gradient_wire=bf16"]:
        measured = bench(folder, 3, *sets)
        if not sets:
            path = write(folder, "three", measured)
            exchanged = min(stage["exchange_seconds"] for stage in measured["stages"])
            bus = 2 * 2 / 3 * measured["gradient_bytes"] / exchanged
            found = plan(folder, "--ranks", 8, "--bench", path, "--json")
            assert found["link"]["measured"] is True
            check(found, measured, bus, 0, [2, 4, 8])
            check(plan(folder, "--ranks", 3, "--bench", path, "--bus", 2, "--json"), measured, 2e9, 0, [2, 3])
            text = plan(folder, "--ranks", 8, "--bench", path)
        else:
            assert measured["gradient_bytes"] == 2 * measured["parameters"] and measured["shard_optimizer"] is True
            found = plan(folder, "--ranks", 3, "--bench", write(folder, "shards", measured), "--json", *sets)
            before = 2 / 3 * measured["gradient_bytes"] / min(stage["exchange_seconds"] for stage in measured["stages"])
            assert close(found["link"]["bus_bytes_per_second"], before)
            one, three = found["ranks"][0]["stages"][0], found["ranks"][-2]["stages"][0]
            update = measured["stages"][0]["groups"]["optimizer"]["seconds"]
            other = one["compute_seconds"] - 3 * update
            assert close(three["compute_seconds"], update + other * 11 / 31), (one, three)
    for line in "on 8 ranks, computed", "3 ranks by tcp", "as measured there", "all stages together take", "1 rank ", "8 ranks, bf16", "8 ranks, auto":
        assert line in text, (line, text)
    assert len([line for line in text.splitlines() if "x " in line and ("fp32" in line or "bf16" in line)]) == 4, text
    print("plan --bench: several ranks' measurement, for other counts over the same link")


def test_part(folder, measured):
    """Stages that were not measured are left out, and it is said."""
    part = {**measured, "stages": measured["stages"][1:]}
    path = write(folder, "part", part)
    found = plan(folder, "--ranks", 2, "--bench", path, "--bus", 1, "--json")
    assert [row["stage"] for row in found["ranks"][-1]["stages"]] == [2] and len(found["fastest"]) == 1
    assert "measured: 1 of 2 stages" in plan(folder, "--ranks", 2, "--bench", path, "--bus", 1)
    print("plan --bench: a measurement of some stages")


def test_overlap(folder, measured):
    """Where sums go on behind the backward pass, two thirds of the last micro-batch hide them."""
    path = write(folder, "overlap", {**measured, "overlap": True})
    row = plan(folder, "--ranks", 2, "--bench", path, "--bus", 0.05, "--json")["ranks"][1]["stages"][0]
    stage = measured["stages"][0]
    one, optimizer = step_of_one(measured, stage)
    assert row["micro_batches"] == 1 and row["tokens_per_rank"] == 16 * 16  # of 31 sequences
    hidden = 2 / 3 * (one - optimizer) * 16 / 31
    assert close(row["exposed_seconds"], max(0, row["exchange_seconds"] - hidden)), (row, hidden)
    print("plan --bench: what hides")


def test_errors(folder, measured):
    number = itertools.count()
    bad = lambda **fields: write(folder, f"bad{next(number)}", {**measured, **fields})
    stage = lambda **fields: bad(stages=[{**measured["stages"][0], **fields}])
    arguments = ["--ranks", 2, "--bus", 1, "--bench"]
    for path, code, message in (
        (f"{folder}/none.json", 6, "none.json"),
        (write(folder, "text", "T  sequences  tokens/step\n"), 4, "not JSON"),
        (write(folder, "empty", ""), 4, "not JSON"),
        (write(folder, "list", "[]"), 4, "not what `yxanul bench train --json` of this version prints"),
        (write(folder, "comm", {"device": "cpu", "exchange": "tcp", "ranks": 2, "hosts": 1, "sizes": []}), 4, 'no valid "parameters"'),
        (bad(ranks=0), 4, 'no valid "ranks"'),
        (bad(ranks="2"), 4, 'no valid "ranks"'),
        (bad(overlap=1), 4, 'no valid "overlap"'),
        (bad(gradient_wire="fp16"), 4, 'no valid "gradient_wire"'),
        (bad(micro_batch_tokens=100), 4, 'no valid "micro_batch_tokens"'),
        (bad(micro_batch_tokens=200), 4, 'no valid "micro_batch_tokens"'),
        (bad(stages=[]), 4, 'no valid "stages"'),
        (bad(stages=measured["stages"] * 33), 4, 'no valid "stages"'),
        (bad(stages=["x"]), 4, 'no valid "seq_len"'),
        (stage(seq_len=1 << 20), 4, 'no valid "seq_len"'),
        (stage(seconds=0), 4, 'no valid "seconds"'),
        (stage(exposed_seconds=1000), 4, 'no valid "exposed_seconds"'),
        (stage(exposed_seconds=-1), 4, 'no valid "exposed_seconds"'),
        (stage(exchange_seconds=None), 4, 'no valid "exchange_seconds"'),
        (stage(groups={}), 4, 'no valid "seconds"'),
        (bad(ranks=2, stages=[{**measured["stages"][0], "exchange_seconds": 0}]), 4, 'no valid "exchange_seconds"'),
        (bad(parameters=measured["parameters"] + 1), 5, f"a model of {measured['parameters'] + 1} parameters"),
        (bad(precision="fp8"), 5, "it measured in fp8, the configuration trains in fp32"),
        (stage(sequences=32), 5, "steps of 32 sequences of 16 tokens"),
        (stage(seq_len=32), 5, "steps of 31 sequences of 32 tokens"),
    ):
        error = plan(folder, *arguments, path, code=code)
        assert message in error and len(error.splitlines()) == 1, (message, error)
    good = write(folder, "good", measured)
    for arguments, message in ((["--bus", 1], "--bus needs --bench"), (["--bench", good, "--latency", 5], "--latency needs --bus"),
                               (["--bench", good, "--bus", 0], "--bus: 0 is outside"), (["--bench", good, "--bus", "x"], "not a number"),
                               (["--bench", good, "--bus", 1, "--latency", -1], "--latency: -1 is outside")):
        assert message in plan(folder, *arguments, code=2), arguments
    print("plan --bench: refusals")


def main():
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/config.yaml", "w") as file:
            file.write(CONFIG)
        measured = test_one_rank(folder)
        test_several_ranks(folder)
        test_part(folder, measured)
        test_overlap(folder, measured)
        test_errors(folder, measured)


main()

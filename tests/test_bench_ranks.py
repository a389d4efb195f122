"""yxanul bench train and bench comm on several ranks: what one of them prints, and that the figures fit together."""
import json, math, subprocess, tempfile
from run_fixture import BINARY, ENVIRONMENT

CONFIG = """
run_dir: none
model: {hidden_size: 64, num_layers: 2, num_attention_heads: 6, num_key_value_heads: 2, head_dim: 16,
  intermediate_size: 96, vocab_size: 300, embedding_rank: 32, max_position_embeddings: 256}
data: {tokenizer: none, path: none}
training:
  epochs: 1
  learning_rate: 1e-3
  device: cpu
  precision: fp32
  micro_batch_tokens: 256
  curriculum_stages: [{seq_len: 16, batch_size: 31, fraction: 0.5}, {seq_len: 64, batch_size: 2, fraction: 0.5}]
"""


def bench(folder, ranks, *arguments, code=0):
    processes = [subprocess.Popen([BINARY, "bench", *arguments, "--config", f"{folder}/config.yaml"], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True,
                                  env={**ENVIRONMENT, "YX_RANK": str(r), "YX_RANKS": str(ranks), "YX_RENDEZVOUS": f"file:{folder}/meet"})
                 for r in range(ranks)]
    ended = [p.communicate(timeout=120) for p in processes]
    assert all(p.returncode == code for p in processes), ended
    return ended


def test_train(folder):
    one, = bench(folder, 1, "train", "--steps", "3", "--json")
    three = bench(folder, 3, "train", "--steps", "3", "--json")
    assert three[1][0] == three[2][0] == "", three
    alone, group = json.loads(one[0]), json.loads(three[0][0])
    assert (alone["ranks"], alone["exchange"], group["ranks"], group["exchange"]) == (1, "solo", 3, "tcp")
    for a, b in zip(alone["stages"], group["stages"]):
        assert a["tokens"] == b["tokens"] and a["exchange_seconds"] < 1e-4 < b["exchange_seconds"] < b["seconds"] * 1.5, (a, b)
        assert 0 < b["exposed_seconds"] <= b["exchange_seconds"] * 1.001, b
    text = bench(folder, 2, "train", "--steps", "2", "--stages", "1")[0][0]
    assert "2 ranks by tcp" in text and "not hidden ms" in text, text
    print("bench train: 3 ranks share a step, and one prints what they exchange")


def test_comm(folder):
    printed = bench(folder, 3, "comm", "--json")
    assert printed[1][0] == "" and (found := json.loads(printed[0][0]))["ranks"] == 3 and found["hosts"] == 1
    sizes = [row["bytes"] for row in found["sizes"]]
    assert sizes == sorted(sizes) and sizes[-1] >= 1 << 26 and all(s % 12 == 0 for s in sizes)
    for row in found["sizes"]:
        assert math.isclose(row["bus_bytes_per_second"], 2 * 2 / 3 * row["bytes"] / row["all_reduce_seconds"], rel_tol=1e-9)
        assert row["all_gather_seconds"] > 0 and row["reduce_scatter_seconds"] > 0
    assert found["sizes"][0]["all_reduce_seconds"] < found["sizes"][-1]["all_reduce_seconds"]
    text = bench(folder, 2, "comm")[0][0]
    assert text.startswith("2 ranks on 1 host,") and len(text.splitlines()) == 4 + len(sizes), text
    ended = bench(folder, 1, "comm", code=2)
    assert "needs several ranks" in ended[0][1], ended
    print("bench comm: sums, scattered and gathered, by size; refused on one rank")


def main():
    with tempfile.TemporaryDirectory() as folder:
        open(f"{folder}/config.yaml", "w").write(CONFIG)
        test_train(folder)
        test_comm(folder)


main()

"""Several ranks over TCP: an optimizer that is sharded gives the bits of one that is not, also after a resume, and its checkpoint goes on
with any number of ranks; uneven slices give what one rank gives; the size of a bucket changes nothing; what goes over the
wire follows from the link."""
import json, os, shutil, subprocess, sys, tempfile
import h5py, numpy as np
from run_fixture import BINARY, ENVIRONMENT, log, make, run

STOPPED = 75


EMULATED = os.path.join(os.path.dirname(os.path.abspath(BINARY)), "emulated")


def ranks_of(folder, ranks, config, out, *sets, steps=0, check=None, binary=BINARY):
    """A run of so many ranks that meet by a file; its folder."""
    meeting = f"{folder}/meet-{os.path.basename(out)}"
    command = [binary, "train", "--config", config, *(["--max-steps", str(steps)] if steps else []), "--set", f"run_dir={out}", *sets]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                  env={**ENVIRONMENT, "YX_RANK": str(r), "YX_RANKS": str(ranks), "YX_RENDEZVOUS": f"file:{meeting}",
                                       "EMULATED_GPUS": str(ranks)})
                 for r in range(ranks)]
    errors = [p.communicate(timeout=300)[1] for p in processes]
    expected = (STOPPED if steps else 0) if check is None else check
    assert all(p.returncode == expected for p in processes), ([p.returncode for p in processes], errors)
    return out


def checkpoint(out):
    newest = open(f"{out}/checkpoints/LATEST").read().strip()
    return f"{out}/checkpoints/{newest}"


def bits(out):
    return ({t["name"]: t["crc32c"] for t in json.load(open(f"{checkpoint(out)}/manifest.json"))["tensors"]},
            [s["loss"] for s in log(out)])


def values(out):
    found = {}
    with h5py.File(f"{checkpoint(out)}/state.h5") as file:
        file.visititems(lambda n, d: found.update({n: d[()]}) if isinstance(d, h5py.Dataset) else None)
    return found


def precision_of(name):
    return (f"training.precision={name}", *(["training.bf16_warmup_steps=0"] if name == "fp8" else []))


def test_shards(folder, config):
    for precision in ("fp32", "bf16", "fp8"):
        for ranks in (2, 3):
            plain, sharded = (ranks_of(folder, ranks, config, f"{folder}/{precision}-{ranks}-{s}", *precision_of(precision),
                                       f"training.shard_optimizer={s}", steps=30) for s in ("false", "true"))
            a, b = bits(plain), bits(sharded)
            assert a == b, (precision, ranks, [n for n in a[0] if a[0][n] != b[0][n]][:5], a[1][:4], b[1][:4])
        print(f"{precision}: 2 and 3 ranks, 30 steps: the same bits with a sharded optimizer")
    # Goes on: in the same way, and with another number of ranks and no shards.
    whole = f"{folder}/fp8-3-true"
    ranks_of(folder, 3, config, f"{folder}/parts", *precision_of("fp8"), "training.shard_optimizer=true", steps=12)
    shutil.copytree(f"{folder}/parts", f"{folder}/alone")
    ranks_of(folder, 3, config, f"{folder}/parts", *precision_of("fp8"), "training.shard_optimizer=true", steps=18)
    assert bits(f"{folder}/parts") == bits(whole)
    run("train", "--config", config, "--max-steps", 18, "--set", f"run_dir={folder}/alone", *precision_of("fp8"), check=STOPPED)
    a, b = log(whole), log(f"{folder}/alone")
    assert [s["token_hash"] for s in a] == [s["token_hash"] for s in b]
    gap = max(abs(x["loss"] - y["loss"]) for x, y in zip(a, b))
    assert gap < 2e-3, gap
    print("a sharded run resumes to the same bits, and on one rank")


def test_buckets(folder, config):
    runs = [ranks_of(folder, 2, config, f"{folder}/bucket{mb}", f"training.gradient_bucket_mb={mb}", "training.precision=fp32",
                     "model.intermediate_size=4096", "model.num_layers=3", steps=4) for mb in (1, 64)]
    a, b = map(values, runs)
    assert all(np.allclose(a[n], b[n], rtol=0, atol=1e-6) for n in a) and len(a) > 20
    print("buckets of 1 and 64 MB: the same weights")


def test_wire(folder, config):
    """Rounded sums: other bits, the same with shards, nearly the same losses."""
    runs = {(wire, s): ranks_of(folder, 3, config, f"{folder}/wire-{wire}-{s}", f"training.gradient_wire={wire}",
                                f"training.shard_optimizer={s}", steps=30) for wire in ("fp32", "bf16") for s in ("false", "true")}
    found = {key: bits(out) for key, out in runs.items()}
    assert found["bf16", "false"] == found["bf16", "true"] and found["bf16", "false"] != found["fp32", "false"]
    worst = max(abs(a - b) for a, b in zip(found["bf16", "false"][1], found["fp32", "false"][1]))
    assert 0 < worst < 5e-3, worst
    print(f"gradients in bf16 on the wire: losses within {worst:.1e} of fp32's over 30 steps")


def test_automatic_wire(folder, config):
    """Small steps of a model that is not so small: after eight steps of a stage its gradients go in bf16, which a resume knows."""
    sets = ["training.precision=fp32", "model.intermediate_size=4096", "model.num_layers=3", "training.learning_rate=1e-3",
            *(f"training.curriculum_stages.{i}.batch_size={b}" for i, b in enumerate((5, 5, 5)))]
    fixed, whole = (ranks_of(folder, 5, config, f"{folder}/{wire}", *sets, f"training.gradient_wire={wire}", steps=30)
                    for wire in ("fp32", "auto"))
    parts = f"{folder}/auto-parts"
    for steps in (12, 18):
        ranks_of(folder, 5, config, parts, *sets, "training.gradient_wire=auto", steps=steps)
    ledger = json.load(open(f"{checkpoint(whole)}/manifest.json"))["run"]["ledger"]
    assert [(e["step"], e["event"]) for e in ledger] == [(8, "bf16-wire")] and ledger[0]["detail"].startswith("stage 1: "), ledger
    a, b = bits(fixed)[1], bits(whole)[1]
    assert a[:9] == b[:9] and a[9:] != b[9:] and max(abs(x - y) for x, y in zip(a, b)) < 5e-3, (a, b)
    assert bits(parts) == bits(whole)
    link, = log(whole, "link")
    assert (link["ranks"], link["hosts"], link["exchange"], link["bucket_mb"], link["blocks"]) == (5, 1, "tcp", 32, 0), link
    assert link["bytes_per_second"] > 1e6 and 0 < link["latency"] < 1, link
    assert len(log(parts, "link")) == 2
    print(f"gradient_wire: auto: {ledger[0]['detail']}; resumed to the same bits")


def test_uneven(folder, config):
    """8 ranks; no stage's batch is a multiple of 8, some have fewer sequences than ranks."""
    stages = [f"training.curriculum_stages.{i}.batch_size={b}" for i, b in enumerate((63, 30, 13, 11, 7, 5, 5, 3, 3, 1))]
    run("train", "--config", config, "--max-steps", 60, "--set", f"run_dir={folder}/one", *stages, check=STOPPED)
    eight = ranks_of(folder, 8, config, f"{folder}/eight", *stages, steps=60)
    one, eight = log(f"{folder}/one"), log(eight)
    assert [s["token_hash"] for s in one] == [s["token_hash"] for s in eight] and len({s["seq_len"] for s in one}) > 2
    ranks, = log(f"{folder}/eight", "ranks")
    assert ranks["step"] == ranks["steps"] == 50 and all(len(ranks[k]) == 8 for k in ("compute", "data_wait", "communicate", "exchange"))
    assert min(ranks["compute"]) > 0 and min(ranks["memory_bytes"]) > 1e6, ranks
    worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, eight))
    assert worst < 1e-5, worst
    print(f"8 ranks with uneven slices: the tokens of one rank in all {len(one)} steps, losses within {worst:.1e}")


def test_devices(folder, config):
    """Emulated GPUs that exchange through NCCL's interface, in recorded passes."""
    if not os.path.exists(f"{EMULATED}/yxanul_nccl.so"):
        print("no emulated GPUs in this build")
        return
    sets = ["training.device=cuda", "model.hidden_size=64", "model.num_layers=2", "model.num_attention_heads=6",
            "model.num_key_value_heads=1", "model.head_dim=64", "model.intermediate_size=128", "model.embedding_rank=64",
            "training.micro_batch_tokens=128", "training.gradient_bucket_mb=1", "training.deterministic=false"]
    sets += [f"training.curriculum_stages.{i}.batch_size={max(1, 512 // t)}" for i, t in enumerate((8, 16, 32, 48, 64, 96, 128))]
    sets += [f"training.curriculum_stages.{i}.seq_len=128" for i in (7, 8, 9)]
    for precision in ("bf16", "fp8"):
        more = [*sets, *precision_of(precision), f"training.gradient_wire={'bf16' if precision == 'fp8' else 'fp32'}"]
        plain, sharded = (ranks_of(folder, 2, config, f"{folder}/gpu-{precision}-{s}", *more, f"training.shard_optimizer={s}", steps=3,
                                   binary=f"{EMULATED}/yxanul") for s in ("false", "true"))
        a, b = bits(plain), bits(sharded)
        assert a == b, (precision, [n for n in a[0] if a[0][n] != b[0][n]][:5], a[1], b[1])
        one = ranks_of(folder, 1, config, f"{folder}/gpu-{precision}-one", *more, steps=3, binary=f"{EMULATED}/yxanul")
        assert [s["token_hash"] for s in log(plain)] == [s["token_hash"] for s in log(one)]
        worst = max(abs(x - y) for x, y in zip(a[1], bits(one)[1]))
        assert worst < 2e-3, (a[1], bits(one)[1])
        link, = log(plain, "link")
        assert link["exchange"].startswith("NCCL") and not link["direct"] and link["blocks"] in (0, 2, 4, 8), link
        print(f"{precision}: 2 emulated GPUs: the same bits with a sharded optimizer; one rank's losses within {worst:.1e}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        config = make(folder)
        test_shards(folder, config)
        test_buckets(folder, config)
        test_wire(folder, config)
        test_automatic_wire(folder, config)
        test_uneven(folder, config)
        test_devices(folder, config)


if __name__ == "__main__":
    main()

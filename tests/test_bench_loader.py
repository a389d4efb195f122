"""yxanul bench loader on a small run's data: every stage that is asked for, with figures that agree with each other."""
import json, math, shutil, subprocess, sys, tempfile
from run_fixture import BINARY, ENVIRONMENT, STAGES, make


def bench(*arguments, code=0):
    done = subprocess.run([BINARY, "bench", "loader", *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=600)
    assert done.returncode == code, (done.returncode, done.stderr)
    return done.stdout if code == 0 else done.stderr


def check_figures(config, folder):
    rate = 4e6
    found = json.loads(bench("--config", config, "--json", "--rate", rate, "--stages", "1,4,10"))
    manifest = json.load(open(f"{folder}/data/manifest.json"))
    assert found["dataset_tokens"] == manifest["splits"]["train"]["n_tokens"] and found["window_blocks"] == 1
    assert found["cold_rate"] == rate
    copy = found["copy_tokens_per_second"]
    assert [(s["seq_len"], s["sequences"]) for s in found["stages"]] == [STAGES[i] for i in (0, 3, 9)]
    for s in found["stages"]:
        assert s["micro_batch_tokens"] % 128 == 0 and s["micro_batch_tokens"] <= 512
        assert s["tokens"] % 6144 == 0 and s["tokens"] >= 16e6
        assert math.isclose(s["tokens_per_second"], s["tokens"] / s["seconds"], rel_tol=1e-9)
        assert 1e6 < s["tokens_per_second"] < copy, s  # nothing that is made is faster than copying it
        assert 1e5 < s["handed_over_tokens_per_second"] < copy, s
        step = s["seq_len"] * s["sequences"]
        assert s["cold_tokens"] % step == 0 and abs(s["cold_tokens"] - 2 * rate) <= 2 * step
        assert s["cold_start_wait"] > 0 and s["cold_later_wait"] >= 0  # the first micro-batch is always waited for
        micro = -(-s["sequences"] // (s["micro_batch_tokens"] // s["seq_len"]))  # in a step
        assert abs(s["cold_micro_batches"] - 0.9 * s["cold_tokens"] / step * micro) <= 2, s
        assert 0 <= s["cold_waits"] <= s["cold_micro_batches"]
    table = bench("--config", config, "--stages", "2", "--rate", rate)
    assert "copying each token three times" in table and "cold cache, 4 M tokens/s" in table
    print(f"three stages: {', '.join('%.0f' % (s['tokens_per_second'] / 1e6) for s in found['stages'])} M tokens/s, copying {copy / 1e6:.0f}")


def check_usage(config, folder):
    assert "usage: yxanul bench loader" in bench("--help")
    for arguments, code, words in (([], 2, "needs --config"), (["--config", config, "--stages", "0"], 2, "--stages"),
                                   (["--config", config, "--rate", "1"], 2, "rate"), (["--config", config, "more"], 2, "'more'"),
                                   (["--config", f"{folder}/none.yaml"], 3, "none.yaml"),
                                   (["--config", config, "--set", f"data.path={folder}/none"], None, "none")):
        done = subprocess.run([BINARY, "bench", "loader", *arguments], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == code or (code is None and done.returncode not in (0, 1)), (arguments, done.returncode)
        assert words in done.stderr, (arguments, done.stderr)
    print("wrong usage: refused")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-bench-")
    try:
        config = make(folder)
        check_usage(config, folder)
        check_figures(config, folder)
    finally:
        shutil.rmtree(folder)


main()

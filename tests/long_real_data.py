"""The 197M configuration, cut to 2 layers and 128 sequences, 200 steps on real text with the published SuperBPE-t80k tokenizer: the
loss falls, and the memory is what `plan` said, within 5 %."""
import os, re, resource, shutil, subprocess, sys, tempfile
from run_fixture import BINARY, ROOT, log, run

SHARED = os.environ.get("YX_SHARED", "")
STEPS = 200


def main():
    tokenizer, text = f"{SHARED}/data/tokenizers/superbpe-t80k", f"{SHARED}/data/train.jsonl.zst"
    if not os.path.exists(tokenizer) or not os.path.exists(text):
        print("skipped: the real corpus and tokenizer are not here")
        return 77
    folder = tempfile.mkdtemp(prefix="yxanul-real-")
    try:
        run("prepare", "--tokenizer", tokenizer, "--input", text, "--output", f"{folder}/data", "--max-documents", 3000)
        config = [f"{ROOT}/configs/fineweb_training_ultra_curriculum.yaml", "--set", f"run_dir={folder}/run",
                  f"data.tokenizer={tokenizer}", f"data.path={folder}/data", "model.num_layers=2", "training.epochs=1.5",
                  "training.device=cpu", "training.precision=fp32",
                  "training.curriculum_stages.*.batch_size=128", "training.micro_batch_tokens=2048",
                  "evaluation.max_tokens=20000", "evaluation.at_stage_end=false"]
        planned = float(re.search(r"together +([\d.]+) MB", run("plan", "--config", *config).stdout)[1])
        environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
        command = [BINARY, "train", "--config", *config, "--max-steps", str(STEPS)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 75, done.stderr
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        steps = log(f"{folder}/run")
        first, last = (sum(s["loss"] for s in part) / 20 for part in (steps[:20], steps[-20:]))
        print(f"{len(steps)} steps through stages 1 to {steps[-1]['stage']}: loss {first:.3f} -> {last:.3f} (means of 20 steps)")
        print(f"memory: {peak:.0f} MB at its peak, {planned:.0f} MB planned ({100 * (peak / planned - 1):+.1f} %)")
        assert len(steps) == STEPS and last < first - 1
        assert abs(peak / planned - 1) <= 0.05
    finally:
        shutil.rmtree(folder)
    return 0


sys.exit(main())

"""Every key of the reference does something: what `yxanul plan` computes changes with it, or tests/test_config_effects.py
shows it by training runs."""
import json
import os
import re
import subprocess
import sys
from test_config_effects import PROVEN

YXANUL = os.path.join(os.environ.get("YX_BUILD", "build"), "yxanul")
CONFIG = "configs/fineweb_training_ultra_curriculum.yaml"
STAGES = "training.curriculum_stages"

if not os.access(YXANUL, os.X_OK):
    print("skipped: yxanul is not built (YX_BUILD)")
    sys.exit(77)

# Key: (value, what it changes in the plan, settings both plans have, and settings the value needs that would not change it
# by themselves). A name with a dot is in each stage.
NO_SCALE = [f"{STAGES}.*.lr_scale=null"]
IN_PLAN = {
    "model.hidden_size": ("1024", "parameters", []),
    "model.num_layers": ("27", "parameters", []),
    "model.num_attention_heads": ("14", "parameters", []),
    "model.num_key_value_heads": ("4", "parameters", []),
    "model.head_dim": ("96", "stage.flops_per_token", []),
    "model.intermediate_size": ("2064", "parameters", []),
    "model.vocab_size": ("200006", "parameters", []),
    "model.embedding_rank": ("144", "parameters", []),
    "model.max_position_embeddings": ("4096", "warnings", []),
    "data.shuffle_window_blocks": ("100", "window_blocks", []),
    "training.epochs": ("2", "total_tokens", []),
    "training.total_tokens": ("2e9", "total_tokens", ["training.epochs=null", "training.total_tokens=3e9"]),
    "training.learning_rate": ("5e-4", "stage.lr_first", []),
    "training.lr_schedule": ("linear", "stage.lr_last", []),
    "training.min_lr_ratio": ("0.2", "stage.lr_last", []),
    "training.warmup_ratio": ("0.02", "stage.lr_first", []),
    "training.decay_ratio": ("0.3", "stage.lr_last", ["training.lr_schedule=wsd"]),
    "training.rewarmup_start": ("0.5", "stage.lr_first", []),
    "training.batch_scaling": ("sqrt", "stage.lr_scale", NO_SCALE),
    "training.batch_scaling_reference": ("1e5", "stage.lr_scale", NO_SCALE + ["training.batch_scaling=sqrt"]),
    f"{STAGES}.2.seq_len": ("48", "stage.num_steps", []),
    f"{STAGES}.2.batch_size": ("1000", "stage.num_steps", []),
    f"{STAGES}.2.fraction": ("0.125", "stage.token_end", [], f"{STAGES}.9.fraction=0.1"),
    f"{STAGES}.2.lr_scale": ("0.55", "stage.lr_last", []),
    f"{STAGES}.2.grad_clip": ("0.75", "stage.grad_clip", []),
    f"{STAGES}.2.warmup_tokens": ("0", "stage.lr_first", []),
    f"{STAGES}.2.description": ("changed", "stage.description", []),
}
# These say which data they lead to where there is none.
IN_MESSAGE = {"data.tokenizer": "tokenizers/another", "data.path": "data/none-{tokenizer}"}
# What neither can show, with the reason.
GPU_ONLY = {"training.deterministic": "the CPU adds in one fixed order whatever it says; only a GPU has a faster, unordered way"}
failures = 0


def check(what, good, detail=""):
    global failures
    print(f"{'ok    ' if good else 'FAILED'} {what} {'' if good else detail}", flush=True)
    failures += not good


def yxanul_plan(*args):
    result = subprocess.run([YXANUL, "plan", *args], capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


def plan(sets):
    code, out, err = yxanul_plan("--config", CONFIG, "--json", "--corpus-tokens", "2610M",
                                 *[word for s in sets for word in ("--set", s)])
    if code != 0:
        raise RuntimeError(f"{sets}: {err}")
    return json.loads(out)


def part(result, name):
    if name.startswith("stage."):
        return [stage[name[6:]] for stage in result["stages"]]
    return result[name]


def reference_keys():
    """Section and name of every key in the reference."""
    section, keys = "", set()
    for line in yxanul_plan("--print-reference")[1].splitlines():
        heading = re.fullmatch(r"## (?:`(.*)`|Top level)", line)
        row = re.match(r"\| `(\w+)` \|", line)
        if heading:
            section = heading.group(1) or ""
        elif line.startswith("## "):
            break
        elif row:
            keys.add(f"{section}.{row.group(1)}" if section else row.group(1))
    return keys


def test_all_keys_are_tested():
    in_plan = {key.replace(f"{STAGES}.2.", f"{STAGES}.") for key in IN_PLAN}
    tested = in_plan | set(IN_MESSAGE) | set(PROVEN) | set(GPU_ONLY)
    keys = reference_keys()
    check("the reference has keys", len(keys) > 40, len(keys))
    check("every key is tested", keys <= tested, sorted(keys - tested))
    check("every tested key is in the reference", tested <= keys, sorted(tested - keys))
    check("a key listed as untested has no test", not set(GPU_ONLY) & (in_plan | set(PROVEN)))


def test_the_plan_changes():
    for key, (value, changed, context, *needed) in IN_PLAN.items():
        try:
            before, after = plan(context), plan(context + [f"{key}={value}", *needed])
            check(key, part(before, changed) != part(after, changed), f"does not change {changed}")
        except RuntimeError as error:
            check(key, False, error)


def test_the_message_changes():
    for key, value in IN_MESSAGE.items():
        code, _, err = yxanul_plan("--config", CONFIG, "--set", f"{key}={value}")
        expected = {"data.tokenizer": "data/fineweb-edu-another", "data.path": "data/none-superbpe-t80k"}[key]
        check(key, code == 6 and expected in err, f"{code}: {err}")


def test_the_same_configuration_gives_the_same_plan():
    check("plans are repeatable", plan([]) == plan([]))
    check("text shows the parameters",
          "196398464 parameters" in yxanul_plan("--config", CONFIG, "--corpus-tokens", "2610M")[1])


def test_usage():
    for args, code, message in [
        ([], 2, "--config is missing"),
        (["--config"], 2, "--config needs a value"),
        (["--nonsense"], 2, "unknown option --nonsense"),
        (["x"], 2, "unexpected argument 'x'"),
        (["--config", CONFIG, "--corpus-tokens", "0"], 2, "--corpus-tokens"),
        (["--config", CONFIG, "--corpus-tokens", "6144"], 3, "the least is one block"),
        (["--config", "none.yaml"], 3, "cannot open none.yaml"),
        (["--config", CONFIG, "--set", "training.epoch=1"], 3, "did you mean 'training.epochs'"),
        (["--config", CONFIG, "--set", "training.seed=1", "training.epochs=x"], 3, "--set training.epochs=x: "),
        (["--help"], 0, None),
    ]:
        got, out, err = yxanul_plan(*args)
        check(f"plan {' '.join(args)}", got == code and (message in err if message else "usage:" in out), f"{got}: {err}")


for name, test in list(globals().items()):
    if name.startswith("test_"):
        test()
sys.exit(1 if failures else 0)

"""A small real run for the tests: text, tokenizer, shards and a ten-stage configuration in a temporary folder."""
import json, os, pathlib, random, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.path.join(os.environ.get("YX_BUILD", str(ROOT / "build")), "yxanul")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

STAGES = [(8, 64), (16, 32), (32, 16), (48, 12), (64, 8), (96, 6), (128, 5), (192, 3), (256, 3), (512, 1)]
CONFIG = """
run_dir: {folder}/run
model: {{hidden_size: 48, num_layers: 2, num_attention_heads: 6, num_key_value_heads: 1, head_dim: 16,
  intermediate_size: 96, vocab_size: 600, embedding_rank: 16, max_position_embeddings: 512}}
data: {{tokenizer: {folder}/tokenizer, path: {folder}/data, shuffle_window_blocks: 1}}
training:
  epochs: 1
  learning_rate: 2e-3
  precision: fp32
  device: cpu
  micro_batch_tokens: 512
  curriculum_stages:
{stages}
evaluation: {{interval_steps: 0, at_stage_end: false}}
checkpoint: {{interval_steps: 20, keep_last: 3}}
"""


def run(*arguments, check=0, ranks=1, **options):
    """Runs yxanul; `check`: the exit code it must have (None: any)."""
    command = [BINARY, *map(str, arguments)]
    if ranks > 1:
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(ranks), *command]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600, **options)
    if check is not None and done.returncode != check:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode} instead of {check}\n{done.stdout}{done.stderr}")
    return done


def write_text(path, documents, seed, num_words=300):
    """Sentences with some structure to learn: each word prefers a few followers."""
    draw = random.Random(seed)
    words = ["".join(draw.choice("abcdefghijklmnoprstuvw") for _ in range(draw.randint(2, 8))) for _ in range(num_words)]
    follows = {w: draw.choices(words, k=4) for w in words}
    with open(path, "w") as file:
        for i in range(documents):
            word, text = draw.choice(words), []
            for _ in range(draw.randint(40, 900)):
                text.append(word)
                word = draw.choice(follows[word]) if draw.random() < 0.8 else draw.choice(words)
            print(json.dumps({"text": " ".join(text) + ".", "id": f"doc{i}"}), file=file)


def make(folder, documents=130, num_words=300):
    """Tokenizer, shards and config.yaml in `folder`. With few words the tokenizer has superwords."""
    write_text(f"{folder}/text.jsonl", documents, 1, num_words)
    run("tokenizer", "train", "--input", f"{folder}/text.jsonl", "--output", f"{folder}/tokenizer", "--vocab-size", 600,
        "--transition", 500)
    run("prepare", "--tokenizer", f"{folder}/tokenizer", "--input", f"{folder}/text.jsonl", "--output", f"{folder}/data",
        "--validation-fraction", "0.05")
    rows = [f"    - {{seq_len: {t}, batch_size: {b}, fraction: 0.1, grad_clip: 1}}" for t, b in STAGES]
    with open(f"{folder}/config.yaml", "w") as file:
        file.write(CONFIG.format(folder=folder, stages="\n".join(rows)))
    return f"{folder}/config.yaml"


def write_diverging(path, folder):
    """A configuration for the data in `folder`: 24 steps at a rate that learns, then 24 at a thousand times that rate; with much weight
    decay the second half multiplies all weights by -99 a step, until the activations overflow."""
    stages = "\n".join(f"    - {{seq_len: 32, batch_size: 16, fraction: 0.5, lr_scale: {x}}}" for x in (0.1, 100))
    text = CONFIG.format(folder=folder, stages=stages)
    text = text.replace("epochs: 1", "total_tokens: 24576").replace("learning_rate: 2e-3", "learning_rate: 1e-1\n  weight_decay: 10")
    with open(path, "w") as file:
        file.write(text)
    return path


def log(folder, kind="step"):
    """Lines of a kind; of a run that is under way, without one that is being written."""
    with open(f"{folder}/log.jsonl") as file:
        whole = file.read().split("\n")[:-1]
    return [line for line in map(json.loads, whole) if line["type"] == kind]

"""yxanul export: what it writes is a Llama of Hugging Face. Read by `safetensors`, computed in NumPy from that layout's formulas, its
loss on the validation documents is the one that `yxanul eval` prints; with `transformers` and PyTorch at hand, theirs too."""
import glob, json, os, resource, shutil, subprocess, sys, tempfile
import h5py, ml_dtypes, numpy as np, safetensors, tokenizers
from run_fixture import BINARY, ENVIRONMENT, make, run

SEQ_LEN, MAX_TOKENS = 96, 1500


def load(folder):
    """Tensors in float64, and their types."""
    with open(f"{folder}/model.safetensors", "rb") as file:
        parts = safetensors.deserialize(file.read())
    types = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}
    return ({name: np.frombuffer(p["data"], types[p["dtype"]]).reshape(p["shape"]).astype(float) for name, p in parts},
            {p["dtype"] for _, p in parts})


def windows(folder, eot):
    """Token, target and first visible position of every window, of the leading documents with at most MAX_TOKENS tokens; a target that
    is the end-of-text token is none."""
    with h5py.File(sorted(glob.glob(f"{folder}/data/validation-*.h5"))[0]) as file:
        stream, offsets = file["tokens"][:].astype(int), file["doc_offsets"][:].astype(int)
    used = max(o for o in offsets if o <= MAX_TOKENS)
    document = np.repeat(offsets[:-1], np.diff(offsets))
    following = np.append(stream, eot)
    for begin in range(0, used, SEQ_LEN):
        end = min(begin + SEQ_LEN, used)
        target = following[begin + 1:end + 1].copy()
        target[target == eot] = -1
        yield stream[begin:end], target, np.maximum(document[begin:end] - begin, 0)


def rms(x, gain, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def rotate(x, position, theta):
    half = x.shape[-1] // 2
    angle = position[:, None] * theta ** (-np.arange(half) / half)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.concatenate([x[..., :half] * c - x[..., half:] * s, x[..., half:] * c + x[..., :half] * s], -1)


def logits(w, c, token, seq_start):
    H, K, D, i = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], np.arange(len(token))
    mask, position = (i[None] <= i[:, None]) & (i[None] >= seq_start[:, None]), i - seq_start
    x = w["model.embed_tokens.weight"][token]
    for l in range(c["num_hidden_layers"]):
        p = {n.split(f"layers.{l}.")[1][:-7]: v for n, v in w.items() if f"layers.{l}." in n}
        a = rms(x, p["input_layernorm"], c["rms_norm_eps"])
        q, k, v = ((a @ p[f"self_attn.{n}_proj"].T).reshape(len(x), -1, D) for n in "qkv")
        q, k = rotate(q, position, c["rope_theta"]), rotate(k, position, c["rope_theta"])
        k, v = k.repeat(H // K, 1), v.repeat(H // K, 1)
        s = np.where(mask, np.einsum("ihd,jhd->hij", q, k) / np.sqrt(D), -np.inf)
        s = np.exp(s - s.max(-1, keepdims=True))
        s /= s.sum(-1, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", s, v).reshape(len(x), -1) @ p["self_attn.o_proj"].T
        b = rms(x, p["post_attention_layernorm"], c["rms_norm_eps"])
        gate = b @ p["mlp.gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (b @ p["mlp.up_proj"].T)) @ p["mlp.down_proj"].T
    return rms(x, w["model.norm.weight"], c["rms_norm_eps"]) @ w["model.embed_tokens.weight"].T


def nats(z, target):
    z = z[target >= 0]
    z = z - z.max(-1, keepdims=True)
    return (np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), target[target >= 0]]).sum()


def test_loss(folder, exported, config, bound):
    w, _ = load(exported)
    total = count = 0
    for token, target, start in windows(folder, config["eos_token_id"]):
        total, count = total + nats(logits(w, config, token, start), target), count + (target >= 0).sum()
    ours = json.loads(run("eval", "--checkpoint", f"{folder}/run", "--seq-len", SEQ_LEN, "--max-tokens", MAX_TOKENS, "--json").stdout)
    assert ours["tokens"] == count, (ours["tokens"], count)
    assert abs(total / count - ours["loss"]) < bound, (total / count, ours["loss"])
    return abs(total / count - ours["loss"])


def test_transformers(exported, folder):
    try:
        import torch, transformers
    except ImportError as missing:
        print(f"not compared with transformers: {missing}")
        return
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, torch_dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    text = json.loads(open(f"{folder}/text.jsonl").readline())["text"][:400]
    ids = tokenizer(text)["input_ids"]
    assert ids == [int(i) for i in run("tokenizer", "encode", "--tokenizer", f"{folder}/tokenizer", input=text).stdout.split()], ids
    config, token = json.load(open(f"{exported}/config.json")), np.array([tokenizer.bos_token_id, *ids])
    with torch.no_grad():
        theirs = model(torch.from_numpy(token[None])).logits[0].double().numpy()
    error = np.abs(theirs - logits(load(exported)[0], config, token, np.zeros(len(token), int))).max()
    assert error < 1e-4, error
    print(f"transformers {transformers.__version__}: logits within {error:.1e}")


def refused(code, word, *arguments, **options):
    done = run("export", *arguments, check=code, **options)
    assert done.stderr.startswith("error: ") and word in done.stderr, done.stderr


def test_refusals(folder, exported):
    checkpoint = ("--checkpoint", f"{folder}/run")
    refused(2, "--force", *checkpoint, "--output", exported)
    refused(2, "no earlier export", *checkpoint, "--output", f"{folder}/data", "--force")
    refused(2, "does not exist", "--checkpoint", f"{folder}/nothing", "--output", f"{folder}/none")
    refused(2, "--output", *checkpoint)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))
    command = ["env", "--ignore-signal=XFSZ", BINARY, "export", *checkpoint, "--output", f"{folder}/none"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, preexec_fn=limit)
    assert done.returncode in (6, 7) and "model.safetensors" in done.stderr, (done.returncode, done.stderr)
    assert not glob.glob(f"{folder}/none*"), glob.glob(f"{folder}/none*")
    before = os.stat(f"{exported}/model.safetensors").st_ino
    run("export", *checkpoint, "--output", exported, "--force", "--precision", "fp32")
    assert os.stat(f"{exported}/model.safetensors").st_ino != before and not glob.glob(f"{exported}.tmp*")


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-export-")
    try:
        config = make(folder, documents=80)
        run("train", "--config", config)
        found = {}
        for precision, kind, bound in (("fp32", "F32", 2e-5), ("bf16", "BF16", 5e-3)):
            exported = f"{folder}/{precision}"
            run("export", "--checkpoint", f"{folder}/run", "--output", f"{exported}/", "--precision", precision)
            w, types = load(exported)
            c = json.load(open(f"{exported}/config.json"))
            assert types == {kind} and c["architectures"] == ["LlamaForCausalLM"] and c["tie_word_embeddings"], (types, c)
            assert w["model.embed_tokens.weight"].shape == (c["vocab_size"], c["hidden_size"]) and len(w) == 2 + 9 * c["num_hidden_layers"]
            found[precision] = test_loss(folder, exported, c, bound)
            eot = tokenizers.Tokenizer.from_file(f"{exported}/tokenizer.json").id_to_token(c["eos_token_id"])
            assert json.load(open(f"{exported}/tokenizer_config.json"))["eos_token"] == eot == "<|endoftext|>", eot
        print(f"validation loss of the exported model, in NumPy: {found['fp32']:.1e} nats from eval's in fp32, {found['bf16']:.1e} in bf16")
        test_transformers(f"{folder}/fp32", folder)
        test_refusals(folder, f"{folder}/fp32")
        print("refusals: clear, and nothing is left")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

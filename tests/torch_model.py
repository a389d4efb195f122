"""The same network in PyTorch: the reference of the GPU's tests, in fp32 (exact enough) and in bf16 (what users compare with)."""
import torch
import torch.nn.functional as F


def names_and_shapes(c):
    """Parameters in the order of the program's table; c: a dict of the model's sizes."""
    q = (c["heads"] + 2 * c["kv_heads"]) * c["head_dim"]
    shapes = {"embed.weight": (c["vocab"], c["rank"]), "proj.weight": (c["rank"], c["hidden"])}
    for l in range(c["layers"]):
        shapes |= {f"layers.{l}.norm1.weight": (c["hidden"],), f"layers.{l}.qkv.weight": (q, c["hidden"]),
                   f"layers.{l}.o.weight": (c["hidden"], c["heads"] * c["head_dim"]), f"layers.{l}.norm2.weight": (c["hidden"],),
                   f"layers.{l}.gate_up.weight": (2 * c["intermediate"], c["hidden"]),
                   f"layers.{l}.down.weight": (c["hidden"], c["intermediate"])}
    shapes["norm.weight"] = (c["hidden"],)
    return shapes


class Model:
    """Packed documents: key j is visible to query i iff seq_start[i] <= j <= i."""

    def __init__(self, sizes, params, dtype):
        self.c, self.params, self.dtype = sizes, params, dtype

    def weight(self, name):
        return self.params[name].to(self.dtype)

    def norm(self, x, name):
        return F.rms_norm(x, (x.shape[-1],), self.weight(name), 1e-5)

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def attention(self, x, layer, cos, sin, mask):
        c, d = self.c, self.c["head_dim"]
        qkv = F.linear(x, self.weight(f"layers.{layer}.qkv.weight"))
        q, k, v = qkv.split([c["heads"] * d, c["kv_heads"] * d, c["kv_heads"] * d], -1)
        heads = lambda t: t.view(len(t), -1, d).transpose(0, 1)
        group = c["heads"] // c["kv_heads"]
        q, k, v = self.rotate(heads(q), cos, sin), self.rotate(heads(k), cos, sin), heads(v)
        k, v = (t.repeat_interleave(group, 0) for t in (k, v))
        o = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
        return F.linear(o.transpose(0, 1).reshape(len(x), -1), self.weight(f"layers.{layer}.o.weight"))

    def trunk(self, token, seq_start):
        c = self.c
        position = torch.arange(len(token), device=token.device)
        mask = (position[None] <= position[:, None]) & (position[None] >= seq_start[:, None])
        inverse = 10000.0 ** (-torch.arange(0, c["head_dim"], 2, device=token.device, dtype=torch.float64) / c["head_dim"])
        angle = (position - seq_start).double()[:, None] * inverse
        cos, sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        x = F.embedding(token, self.params["embed.weight"]).to(self.dtype) @ self.weight("proj.weight")
        for l in range(c["layers"]):
            x = x + self.attention(self.norm(x, f"layers.{l}.norm1.weight"), l, cos, sin, mask)
            gate, up = F.linear(self.norm(x, f"layers.{l}.norm2.weight"), self.weight(f"layers.{l}.gate_up.weight")).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, self.weight(f"layers.{l}.down.weight"))
        return F.linear(self.norm(x, "norm.weight"), self.weight("proj.weight"))

    def loss(self, token, target, seq_start):
        """Mean nats of the scored tokens."""
        logits = F.linear(self.trunk(token, seq_start), self.weight("embed.weight")).float()
        return F.cross_entropy(logits, target.long(), ignore_index=-1)

    def run(self, token, target, seq_start):
        for p in self.params.values():
            p.grad = None
        loss = self.loss(token, target, seq_start)
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in self.params.items()}

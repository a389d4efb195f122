"""The same network in PyTorch: the reference of the GPU's tests, in fp32 (exact enough) and in bf16 (what users compare with)."""
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


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
    """Packed documents: key j is visible to query i iff seq_start[i] <= j <= i. `fine`: the type of gains and rotations, if another."""

    def __init__(self, sizes, params, dtype, fine=None):
        self.c, self.params, self.dtype, self.fine = sizes, params, dtype, fine or dtype

    def weight(self, name):
        return self.params[name].to(self.dtype)

    def norm(self, x, name):
        return F.rms_norm(x.to(self.fine), (x.shape[-1],), self.params[name].to(self.fine), 1e-5).to(self.dtype)

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(self.dtype)

    def attention(self, x, layer, cos, sin, mask):
        c, d = self.c, self.c["head_dim"]
        qkv = F.linear(x, self.weight(f"layers.{layer}.qkv.weight"))
        q, k, v = qkv.split([c["heads"] * d, c["kv_heads"] * d, c["kv_heads"] * d], -1)
        windows, length = mask.shape[0], mask.shape[-1]
        heads = lambda t: t.reshape(windows, length, -1, d).transpose(1, 2)
        group = c["heads"] // c["kv_heads"]
        q, k, v = self.rotate(heads(q), cos, sin), self.rotate(heads(k), cos, sin), heads(v)
        k, v = (t.repeat_interleave(group, 1) for t in (k, v))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.linear(o.transpose(1, 2).reshape(len(x), -1), self.weight(f"layers.{layer}.o.weight"))

    def trunk(self, token, seq_start, window=None):
        """`window`: a length that no document straddles a multiple of, here or in seq_start; the mask is that large."""
        c = self.c
        length = window or len(token)
        position = torch.arange(len(token), device=token.device)
        query, key, start = position.view(-1, length, 1), position.view(-1, 1, length), seq_start.view(-1, length, 1)
        mask = ((key <= query) & (key >= start))[:, None]
        inverse = 10000.0 ** (-torch.arange(0, c["head_dim"], 2, device=token.device, dtype=torch.float64) / c["head_dim"])
        angle = (position - seq_start).double()[:, None] * inverse
        cos, sin = (f.to(self.fine).view(-1, 1, length, c["head_dim"] // 2) for f in (angle.cos(), angle.sin()))
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

    def nats(self, z, target):
        logits = F.linear(z, self.weight("embed.weight")).float()
        return F.cross_entropy(logits, target.long(), ignore_index=-1, reduction="sum")

    def loss_in_pieces(self, token, target, seq_start, window, rows):
        """The same for a batch whose logits are too large to keep: `rows` of them at a time, computed again by the backward pass."""
        z = self.trunk(token, seq_start, window)
        pieces = [checkpoint(self.nats, *part, use_reentrant=False) for part in zip(z.split(rows), target.split(rows))]
        return torch.stack(pieces).sum() / (target >= 0).sum()

    def run(self, token, target, seq_start):
        for p in self.params.values():
            p.grad = None
        loss = self.loss(token, target, seq_start)
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in self.params.items()}

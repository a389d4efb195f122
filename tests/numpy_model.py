"""The model in NumPy, float64, written from its formulas alone: loss and the gradient of every parameter."""
import numpy as np

EPS, THETA = 1e-5, 10000.0


def rms(x, gain):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)
    return x * r * gain, r


def rms_backward(dy, x, r, gain):
    n = x * r
    d = dy * gain
    return r * (d - n * (d * n).mean(-1, keepdims=True)), (dy * n).sum(0)


def rotate(x, position, sign):
    """x: [M, heads, head_dim]; pairs (i, i + head_dim/2) turned by position · theta^(-2i/head_dim)."""
    half = x.shape[-1] // 2
    angle = position[:, None] * THETA ** (-np.arange(half) / half)
    c, s = np.cos(angle)[:, None, :], sign * np.sin(angle)[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * c - b * s, b * c + a * s], -1)


class Model:
    def __init__(self, params, heads, kv_heads, head_dim):
        self.p, self.h, self.kv, self.d = params, heads, kv_heads, head_dim
        self.layers = sum(name.endswith("qkv.weight") for name in params)

    def attention(self, x, mask, position):
        M, H, K, D = len(x), self.h, self.kv, self.d
        q, k, v = np.split(x, [H * D, (H + K) * D], -1)
        q = rotate(q.reshape(M, H, D), position, 1)
        k = rotate(k.reshape(M, K, D), position, 1).repeat(H // K, 1)
        v = v.reshape(M, K, D).repeat(H // K, 1)
        scores = np.where(mask, np.einsum("ihd,jhd->hij", q, k) / np.sqrt(D), -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return np.einsum("hij,jhd->ihd", p, v).reshape(M, H * D), (q, k, v, p)

    def attention_backward(self, do, saved, position):
        q, k, v, p = saved
        M, H, K, D = len(do), self.h, self.kv, self.d
        do = do.reshape(M, H, D)
        dv = np.einsum("hij,ihd->jhd", p, do)
        dp = np.einsum("ihd,jhd->hij", do, v)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(D)
        dq, dk = np.einsum("hij,jhd->ihd", ds, k), np.einsum("hij,ihd->jhd", ds, q)
        dk, dv = (t.reshape(M, K, H // K, D).sum(2) for t in (dk, dv))
        return np.concatenate([rotate(dq, position, -1).reshape(M, -1), rotate(dk, position, -1).reshape(M, -1),
                               dv.reshape(M, -1)], -1)

    def run(self, token, target, seq_start):
        P, i = self.p, np.arange(len(token))
        mask = (i[None, :] <= i[:, None]) & (i[None, :] >= seq_start[:, None])
        position = (i - seq_start).astype(float)
        grads = {name: np.zeros_like(value) for name, value in P.items()}
        E, proj = P["embed.weight"], P["proj.weight"]
        z0 = E[token]
        x, tape = z0 @ proj, []
        for l in range(self.layers):
            w = {k: P[f"layers.{l}.{k}.weight"] for k in ("norm1", "qkv", "o", "norm2", "gate_up", "down")}
            a, r1 = rms(x, w["norm1"])
            o, saved = self.attention(a @ w["qkv"].T, mask, position)
            x1 = x + o @ w["o"].T
            b, r2 = rms(x1, w["norm2"])
            g, u = np.split(b @ w["gate_up"].T, 2, -1)
            s = 1 / (1 + np.exp(-g))
            tape.append((w, x, a, r1, o, saved, x1, b, r2, g, u, s))
            x = x1 + (g * s * u) @ w["down"].T
        f, rf = rms(x, P["norm.weight"])
        z = f @ proj.T
        logits = z @ E.T
        logits -= logits.max(-1, keepdims=True)
        prob = np.exp(logits)
        prob /= prob.sum(-1, keepdims=True)
        scored = target >= 0
        loss = -np.log(prob[i[scored], target[scored]]).mean()
        dlogits = prob * scored[:, None]
        dlogits[i[scored], target[scored]] -= 1
        dlogits /= scored.sum()
        grads["embed.weight"] += dlogits.T @ z
        dz = dlogits @ E
        grads["proj.weight"] += dz.T @ f
        dx, grads["norm.weight"] = rms_backward(dz @ proj, x, rf, P["norm.weight"])
        for l in reversed(range(self.layers)):
            w, x0, a, r1, o, saved, x1, b, r2, g, u, s = tape[l]
            name = f"layers.{l}.{{}}.weight".format
            h = g * s * u
            dh = dx @ w["down"]
            grads[name("down")] = dx.T @ h
            dgu = np.concatenate([dh * u * s * (1 + g * (1 - s)), dh * g * s], -1)
            grads[name("gate_up")] = dgu.T @ b
            d, grads[name("norm2")] = rms_backward(dgu @ w["gate_up"], x1, r2, w["norm2"])
            dx = dx + d
            grads[name("o")] = dx.T @ o
            dqkv = self.attention_backward(dx @ w["o"], saved, position)
            grads[name("qkv")] = dqkv.T @ a
            d, grads[name("norm1")] = rms_backward(dqkv @ w["qkv"], x0, r1, w["norm1"])
            dx = dx + d
        grads["proj.weight"] += z0.T @ dx
        np.add.at(grads["embed.weight"], token, dx @ proj.T)
        return loss, grads

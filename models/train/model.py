"""The model: a plain llama (RMSNorm, RoPE, grouped-query attention, SwiGLU, tied embedding, no biases).

RoPE rotates *interleaved* pairs (0,1), (2,3), ... of every head. That is the convention of GGUF's architecture
`llama`, so the weights are exported as they are, without a permutation of the query and key rows.
"""
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    vocab: int = 4096
    dim: int = 192
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 448
    context: int = 1024
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self):
        return self.dim // self.heads

    def as_dict(self):
        return asdict(self)


PRESETS = {
    "2m": Config(),
    "7m": Config(dim=256, layers=8, heads=8, kv_heads=4, ffn=704),
    "20m": Config(vocab=8192, dim=384, layers=10, heads=6, kv_heads=2, ffn=1024),
}


def rope_table(positions, head_dim, theta):
    """cos and sin, each [positions, head_dim / 2]."""
    freq = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = positions.to(torch.float64)[:, None] * freq[None, :]
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """x: [..., positions, head_dim]; pairs are neighbours."""
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        kv = c.kv_heads * c.head_dim
        self.attn_norm = RMSNorm(c.dim, c.eps)
        self.wq = nn.Linear(c.dim, c.dim, bias=False)
        self.wk = nn.Linear(c.dim, kv, bias=False)
        self.wv = nn.Linear(c.dim, kv, bias=False)
        self.wo = nn.Linear(c.dim, c.dim, bias=False)
        self.ffn_norm = RMSNorm(c.dim, c.eps)
        self.gate = nn.Linear(c.dim, c.ffn, bias=False)
        self.up = nn.Linear(c.dim, c.ffn, bias=False)
        self.down = nn.Linear(c.ffn, c.dim, bias=False)

    def qkv(self, x):
        """Queries [batch, heads, t, head_dim], keys and values [batch, kv_heads, t, head_dim]; not rotated."""
        c, (b, t, _) = self.c, x.shape
        h = self.attn_norm(x)
        shape = lambda y, n: y.view(b, t, n, c.head_dim).transpose(1, 2)
        return shape(self.wq(h), c.heads), shape(self.wk(h), c.kv_heads), shape(self.wv(h), c.kv_heads)

    def finish(self, x, heads_out):
        """heads_out: [batch, heads, t, head_dim]."""
        x = x + self.wo(heads_out.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def rotated(self, x, cos, sin):
        """`qkv` with queries and keys rotated and every key-value head repeated for its group."""
        q, k, v = self.qkv(x)
        group = self.c.heads // self.c.kv_heads
        k, v = rotate(k, cos, sin).repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        return rotate(q, cos, sin), k, v

    def attend(self, x, q, k, v):
        return self.finish(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def forward(self, x, cos, sin):
        return self.attend(x, *self.rotated(x, cos, sin))


def outside_band(q, k, band, stride=16):
    """How far the mean attention of a head on place 0, a, is outside `band` = (low, high), mean over the heads.

    In nats: log(low / a) below the band, log((1 - high) / (1 - a)) above it; over every 16th query of the batch. Single
    queries are free: a head may be at rest on the sink token for most of them and busy for some.
    """
    t = q.shape[2]
    rows = torch.arange(stride - 1, t, stride, device=q.device)
    scores = (q[:, :, stride - 1 :: stride] @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
    scores = scores.masked_fill(torch.arange(t, device=q.device)[None, :] > rows[:, None], -torch.inf)
    rest = (scores[..., 1:].logsumexp(-1) - scores[..., 0]).sigmoid()  # of the attention: all places but 0
    rest = rest.mean(dim=(0, 2))
    return (F.relu((band[0] / (1 - rest)).log()) + F.relu(((1 - band[1]) / rest).log())).mean()


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab, c.dim)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.dim, c.eps)
        cos, sin = rope_table(torch.arange(c.context), c.head_dim, c.theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def init(self, seed):
        """Matrices normal with 1/sqrt(inputs), those that write to the residual stream smaller by sqrt(2 layers)."""
        g = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() < 2:
                continue
            s = 0.02 if name.startswith("embed") else p.shape[1] ** -0.5
            if name.endswith(("wo.weight", "down.weight")):
                s /= math.sqrt(2 * self.c.layers)
            with torch.no_grad():
                p.copy_(torch.randn(p.shape, generator=g) * s)
        return self

    def logits(self, x):
        return F.linear(self.norm(x), self.embed.weight)

    def forward(self, ids, targets=None, band=None):
        """Logits; with targets the loss of each; with band also the mean of `outside_band` over the layers."""
        x, outside = self.embed(ids), 0.0
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for block in self.blocks:
            q, k, v = block.rotated(x, cos, sin)
            if band:
                outside = outside + outside_band(q, k, band) / self.c.layers
            x = block.attend(x, q, k, v)
        logits = self.logits(x)
        if targets is None:
            return logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return (loss, outside) if band else loss

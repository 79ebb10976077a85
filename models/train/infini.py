"""Infini-attention (Munkhdalai et al., arXiv 2404.07143) on the llama of `model.py`.

The text is cut into segments of L tokens, counted from the first token of the stream. In every layer each key-value
head keeps a matrix M [d_k, d_v] and a vector z [d_k], in f32, shared by the query heads of its group. With
s(x) = ELU(x) + 1 on queries and keys that are *not* rotated:

    read    A_mem = s(q) M / max(s(q) . z, 1e-6)       M, z from before the open segment; zero while z is
    local   A_dot = softmax(q' k'^T / sqrt(d_k)) v       causal, within the segment, with RoPE
    head    g A_mem + (1 - g) A_dot, g = sigmoid(beta)   one beta per query head
    fold    linear: M += s(K)^T V;   delta: M += s(K)^T (V - s(K) M / max(s(K) z, 1e-6));   z += sum s(K)

The fold takes a whole segment, with M and z as they were before it.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from model import Block, Llama, rope_table, rotate

EPS = 1e-6
REPEATS = 4


def sigma(x):
    """ELU + 1, as exp(x) below zero: `elu(x) + 1` would round what is below 6e-8 to zero."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def read(sq, M, z):
    """sq [..., t, d_k], M [..., d_k, d_v], z [..., d_k] -> [..., t, d_v]."""
    return sq @ M / (sq @ z[..., None]).clamp(min=EPS)


def fold(sk, v, M, z, update):
    """M and z after a segment with s(K) [..., t, d_k] and V [..., t, d_v]."""
    if update == "delta":
        v = v - read(sk, M, z)
    return M + sk.transpose(-1, -2) @ v, z + sk.sum(-2)


def folded(sk, v, M, z, order):
    """M and z of each row after the segments that it names, by the delta rule. Rows with many come first, so that the rest can stop."""
    lengths = (order >= 0).sum(1)
    rank = lengths.argsort(descending=True)
    M, z = M[rank], z[rank]
    for i in range(order.shape[1]):
        on = int((lengths > i).sum())
        rows = order[rank[:on], i]
        m, y = fold(sk[rows], v[rows], M[:on], z[:on], "delta")
        M, z = torch.cat((m, M[on:])), torch.cat((y, z[on:]))
    back = rank.argsort()
    return M[back], z[back]


def memory(sq, sk, v, M, z, update, weight=None, mix=None):
    """Reads of n segments one after the other, and M and z after the last.

    sq [b, kv, group, n, t, d_k], sk [b, kv, n, t, d_k], v [b, kv, n, t, d_v], M [b, kv, d_k, d_v], z [b, kv, d_k].
    weight [b, n]: as if the segment had been folded so many times (a training aid, see `passkey.py`): exact for
    "linear", whose update is a sum; for "delta", REPEATS real repetitions and the rest in a straight line.
    mix, with one segment a row (n = 1): for "linear" [b, b], how many times each row's memory holds every row; for "delta" [b, any],
    which rows it holds, one after the other, −1 behind the last (`folded`).
    """
    n = sk.shape[2]
    if mix is not None:
        assert n == 1
        if update == "delta":
            M, z = folded(sk[:, :, 0], v[:, :, 0], M, z, mix)
        else:
            M = torch.einsum("ij,jhab->ihab", mix, (sk.transpose(-1, -2) @ v)[:, :, 0])
            z = torch.einsum("ij,jha->iha", mix, sk.sum(-2)[:, :, 0])
        return read(sq, M[:, :, None, None], z[:, :, None, None]), M, z
    if update == "linear":
        dM, dz = sk.transpose(-1, -2) @ v, sk.sum(-2)
        if weight is not None:
            dM, dz = dM * weight[:, None, :, None, None], dz * weight[:, None, :, None]
        Ms = torch.cat((M[:, :, None], dM), 2).cumsum(2)
        zs = torch.cat((z[:, :, None], dz), 2).cumsum(2)
    else:
        Ms, zs = [M], [z]
        for i in range(n):
            if weight is None:
                M, z = fold(sk[:, :, i], v[:, :, i], M, z, update)
            else:
                many = weight[:, i, None, None].clamp(min=REPEATS) / REPEATS
                start = M, z
                for done in range(REPEATS):
                    m, y = fold(sk[:, :, i], v[:, :, i], M, z, update)
                    again = (weight[:, i] > done)[:, None, None]
                    M, z = torch.where(again[..., None], m, M), torch.where(again, y, z)
                M, z = start[0] + (M - start[0]) * many[..., None], start[1] + (z - start[1]) * many
            Ms.append(M)
            zs.append(z)
        Ms, zs = torch.stack(Ms, 2), torch.stack(zs, 2)
    return read(sq, Ms[:, :, None, :n], zs[:, :, None, :n]), Ms[:, :, n], zs[:, :, n]


class InfiniBlock(Block):
    def __init__(self, c, segment, update):
        super().__init__(c)
        self.segment, self.update = segment, update
        self.beta = nn.Parameter(torch.zeros(c.heads))

    def start(self, b):
        c, device = self.c, self.wq.weight.device
        return (torch.zeros(b, c.kv_heads, c.head_dim, c.head_dim, device=device),
                torch.zeros(b, c.kv_heads, c.head_dim, device=device))

    def forward(self, x, cos, sin, state, weight=None, mix=None, zeroed=False):
        """x [b, t, dim] with t a multiple of the segment length, or one open segment. `zeroed`: nothing is remembered."""
        c, (b, t, _) = self.c, x.shape
        length = min(t, self.segment)
        n, group, d = t // length, c.heads // c.kv_heads, c.head_dim
        q, k, v = self.qkv(x)
        q, k, v = (y.reshape(b, -1, n, length, d) for y in (q, k, v))
        turn = lambda y: rotate(y, cos[:length], sin[:length]).flatten(1, 2)
        spread = lambda y: y.repeat_interleave(group, dim=1)
        local = F.scaled_dot_product_attention(turn(q), turn(spread(k)), spread(v).flatten(1, 2), is_causal=True)
        local = local.view(b, c.heads, t, d)
        if self.update == "local":
            return self.finish(x, local), state
        sq, sk = sigma(q.float()).view(b, c.kv_heads, group, n, length, d), sigma(k.float())
        remembered, M, z = memory(sq, sk, v.float(), *state, self.update, weight, mix)
        remembered = remembered.reshape(b, c.heads, t, d)
        if zeroed:
            remembered = torch.zeros_like(remembered)
        g = self.beta.sigmoid()[:, None, None]
        out = g * remembered + (1 - g) * local
        # An open segment is not folded.
        return self.finish(x, out.to(x.dtype)), (M, z) if length == self.segment else state


class Infini(Llama):
    def __init__(self, c, segment, update):
        super().__init__(c)
        self.segment = segment
        self.blocks = nn.ModuleList(InfiniBlock(c, segment, update) for _ in range(c.layers))
        cos, sin = rope_table(torch.arange(segment), c.head_dim, c.theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, ids, states=None, weight=None, mix=None, zeroed=False):
        """The residual stream after the last block, and the memories. ids: whole segments, or one open segment."""
        x, after = self.embed(ids), []
        for i, block in enumerate(self.blocks):
            state = states[i] if states else block.start(len(ids))
            x, state = block(x, self.cos, self.sin, state, weight, mix, zeroed)
            after.append(state)
        return x, after

    def stream(self, ids, zeroed=False, chunk=64):
        """The residual stream at the last `segment` places and more of a stream of any length, `chunk` segments at a time."""
        states, step, length = None, chunk * self.segment, ids.shape[1]
        whole = length // self.segment * self.segment
        last = []
        for i in range(0, whole, step):
            x, states = self.hidden(ids[:, i : min(i + step, whole)], states, zeroed=zeroed)
            last = [x[:, -self.segment :]]
        if whole < length:
            last.append(self.hidden(ids[:, whole:], states, zeroed=zeroed)[0])
        return torch.cat(last, 1)


def adamw(model, lr, decay, gate_lr=1e-2):
    """Weight decay on matrices only; the gates have their own rate."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for k, p in named if p.dim() >= 2], "weight_decay": decay, "rate": lr},
        {"params": [p for k, p in named if p.dim() < 2 and not k.endswith("beta")], "weight_decay": 0.0, "rate": lr},
        {"params": [p for k, p in named if k.endswith("beta")], "weight_decay": 0.0, "rate": gate_lr},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)

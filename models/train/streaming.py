"""Streaming with attention sinks: keys are kept un-rotated and take the position they have within the cache.

A query sees the first S tokens of the stream (the sinks), the R tokens before it and itself; S + R is the cache size.
`Stream` does this one token at a time. `stream_nll` gives the same numbers for a known text in blocks: among recent
tokens only distances matter, so they may keep their place in the stream, and to a sink a query stands at min(place, S + R).
"""
import torch
import torch.nn.functional as F

from model import rope_table, rotate


class Stream:
    def __init__(self, model, sinks, recent):
        c = self.c = model.c
        self.model, self.sinks, self.size = model, sinks, sinks + recent
        self.keys = torch.zeros(c.layers, c.kv_heads, self.size + 1, c.head_dim)
        self.values = torch.zeros_like(self.keys)
        self.cos, self.sin = rope_table(torch.arange(self.size + 1), c.head_dim, c.theta)
        self.place = torch.zeros(self.size + 1, dtype=torch.long)  # of every slot, within the cache
        self.used, self.next = 0, 0

    @torch.no_grad()
    def step(self, token):
        """Logits after this token."""
        c, slot = self.c, self.next
        if self.used > self.size:  # the slot of the oldest recent token is taken again
            self.place[self.sinks :] -= 1
            self.place[slot] = self.size
        else:
            self.place[slot] = self.used
            self.used += 1
        n, here = self.used, int(self.place[slot])
        cos, sin = self.cos[self.place[:n]], self.sin[self.place[:n]]
        x = self.model.embed(torch.tensor([[token]]))
        for i, block in enumerate(self.model.blocks):
            q, k, v = block.qkv(x)
            self.keys[i, :, slot], self.values[i, :, slot] = k[0, :, 0], v[0, :, 0]
            q = rotate(q, self.cos[here], self.sin[here]).view(c.kv_heads, -1, c.head_dim)
            k = rotate(self.keys[i, :, :n], cos, sin)
            weights = (q @ k.transpose(1, 2) * c.head_dim**-0.5).softmax(-1)
            x = block.finish(x, (weights @ self.values[i, :, :n]).view(1, c.heads, 1, c.head_dim))
        self.next = slot + 1 if slot < self.size else self.sinks
        return self.model.logits(x)[0, 0]


@torch.no_grad()
def stream_nll(model, ids, sinks, recent, block=256):
    """Negative log-likelihood (nats) of ids[1:], each predicted by a stream that was fed what stands before."""
    c, t = model.c, len(ids) - 1
    size, group = sinks + recent, c.heads // c.kv_heads
    cos, sin = rope_table(torch.arange(recent + block), c.head_dim, c.theta)
    far_cos, far_sin = rope_table(torch.arange(size + 1), c.head_dim, c.theta)
    x = model.embed(ids[:-1])[None]
    for layer in model.blocks:
        parts = [layer.qkv(part)[1:] for part in x.split(4096, dim=1)]
        keys = torch.cat([k for k, _ in parts], dim=2)
        values = torch.cat([v for _, v in parts], dim=2)
        sink_keys = rotate(keys[:, :, :sinks], far_cos[:sinks], far_sin[:sinks])
        out = torch.empty_like(x)
        for start in range(0, t, block):
            end = min(t, start + block)
            low = max(sinks, start - recent)
            low = min(low, end)
            q = layer.qkv(x[:, start:end])[0]
            rows, columns = torch.arange(start, end), torch.arange(low, end)
            origin = start - recent
            q_near = rotate(q, cos[rows - origin], sin[rows - origin])
            k_near = rotate(keys[:, :, low:end], cos[columns - origin], sin[columns - origin])
            distance = rows[:, None] - columns[None, :]
            near = (q_near @ k_near.repeat_interleave(group, 1).transpose(2, 3)).masked_fill(
                (distance < 0) | (distance > recent), -torch.inf)
            at = rows.clamp(max=size)
            q_far = rotate(q, far_cos[at], far_sin[at])
            hidden = rows[:, None] < torch.arange(sinks)[None, :]
            far = (q_far @ sink_keys.repeat_interleave(group, 1).transpose(2, 3))[..., : keys.shape[2]]
            far = far.masked_fill(hidden[:, : far.shape[-1]], -torch.inf)
            weights = (torch.cat((far, near), -1) * c.head_dim**-0.5).softmax(-1)
            v = torch.cat((values[:, :, :sinks], values[:, :, low:end]), 2).repeat_interleave(group, 1)
            out[:, start:end] = layer.finish(x[:, start:end], weights @ v)
        x = out
    losses = [F.cross_entropy(model.logits(h)[0], y, reduction="none")
              for h, y in zip(x.split(1024, dim=1), ids[1:].split(1024))]
    return torch.cat(losses)


@torch.no_grad()
def dense_nll(model, ids):
    """The same from one dense run, whatever the length (more than the trained context is possible)."""
    return stream_nll(model, ids, 0, len(ids))


@torch.no_grad()
def recompute_nll(model, ids, places, prefix, window, batch=8):
    """NLL of ids[p] for each p in places, each from a fresh run over `prefix` and the `window` tokens before p."""
    head = torch.tensor(prefix, dtype=torch.long)
    losses = []
    for some in torch.as_tensor(places).split(batch):
        x = torch.stack([torch.cat((head, ids[p - window : p])) for p in some.tolist()])
        h = model.embed(x)
        cos, sin = rope_table(torch.arange(x.shape[1]), model.c.head_dim, model.c.theta)
        for layer in model.blocks:
            h = layer(h, cos, sin)
        losses.append(F.cross_entropy(model.logits(h[:, -1]), ids[some], reduction="none"))
    return torch.cat(losses)

"""The perplexity row: five kinds of attention, equal parameters (but for the gates), the same tokens in the same order.

    python models/train/make_tokenizer.py --vocab 1024 --every 40 --out target/train/lm/tokenizer.json
    python models/train/prepare.py --tokenizer target/train/lm/tokenizer.json --limit 1500000 --val-every 3 --out target/train/lm/data
    python models/train/infini_lm.py --kind linear          # also local, delta, xl, memorizing

local        softmax within the segment
linear       Infini-attention, all layers
delta        ″, delta update
xl           Transformer-XL (arXiv 1901.02860): also the keys and values of the segment before, without gradient; RoPE by distance
memorizing   Memorizing Transformer (arXiv 2203.08913): as xl, and in the last layer but one exact nearest neighbours among the keys of all
             segments before (the 32 best of each query and head, not rotated, without gradient), mixed in by a gate per head

The same command continues from the last checkpoint. At the end, and with --test: perplexity on held-out books.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from infini import Infini, InfiniBlock, adamw
from model import Block, Config, Llama, rope_table, rotate
from train import Pieces, save

KINDS = ["local", "linear", "delta", "xl", "memorizing"]
NEIGHBOURS = 32


class XlBlock(Block):
    """One segment sees itself and the one before."""

    def __init__(self, c, segment):
        super().__init__(c)
        self.segment = segment

    def parts(self, x):
        """Queries, keys and values [b, heads, n, segment, d]."""
        b, t, _ = x.shape
        group = self.c.heads // self.c.kv_heads
        q, k, v = self.qkv(x)
        k, v = (y.repeat_interleave(group, dim=1) for y in (k, v))
        return (y.reshape(b, self.c.heads, t // self.segment, self.segment, -1) for y in (q, k, v))

    def near(self, q, k, v, cos, sin):
        b, h, n, length, d = q.shape
        before = lambda y: torch.cat((torch.zeros_like(y[:, :, :1]), y[:, :, :-1].detach()), 2)
        k, v = torch.cat((before(k), k), 3), torch.cat((before(v), v), 3)
        q, k = rotate(q, cos[length:], sin[length:]), rotate(k, cos, sin)
        seen = torch.ones(length, 2 * length, dtype=torch.bool, device=q.device).tril(length)
        seen = seen.repeat(n, 1, 1)
        seen[0, :, :length] = False
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    def forward(self, x, cos, sin):
        return self.finish(x, self.near(*self.parts(x), cos, sin).flatten(2, 3))


class MemorizingBlock(XlBlock):
    def __init__(self, c, segment):
        super().__init__(c, segment)
        self.beta = nn.Parameter(torch.zeros(c.heads))

    def forward(self, x, cos, sin):
        q, k, v = self.parts(x)
        near = self.near(q, k, v, cos, sin)
        b, h, n, length, d = q.shape
        keys, values = k.detach().flatten(2, 3), v.detach().flatten(2, 3)
        far = [torch.zeros_like(q[:, :, 0])]
        for i in range(1, n):
            scores = q[:, :, i] @ keys[:, :, : i * length].transpose(2, 3) * d**-0.5
            best, at = scores.topk(min(NEIGHBOURS, i * length), dim=-1)
            rows = at.flatten(2)[..., None].expand(-1, -1, -1, d)
            found = values.gather(2, rows).view(b, h, length, -1, d)
            far.append((best.softmax(-1)[..., None] * found).sum(3))
        g = self.beta.sigmoid()[:, None, None, None]
        return self.finish(x, (g * torch.stack(far, 2) + (1 - g) * near).flatten(2, 3))


class Near(Llama):
    """Transformer-XL or Memorizing Transformer over a whole sample."""

    def __init__(self, c, segment, kind):
        super().__init__(c)
        far = c.layers - 2 if kind == "memorizing" else None
        self.blocks = nn.ModuleList((MemorizingBlock if i == far else XlBlock)(c, segment) for i in range(c.layers))
        cos, sin = rope_table(torch.arange(2 * segment), c.head_dim, c.theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return x, None


def build(kind, c, segment):
    return Near(c, segment, kind) if kind in ("xl", "memorizing") else Infini(c, segment, kind)


def losses(model, x, y):
    return F.cross_entropy(model.logits(model.hidden(x)[0]).flatten(0, 1), y.flatten(), reduction="none").view(y.shape)


def test(model, path, length, tokens):
    """Perplexity on held-out books in pieces of `length` tokens, each with an empty memory at its start; also by place."""
    pieces = Pieces(path, length, sink=False)
    n = min(pieces.count, tokens // length)
    with torch.inference_mode():
        rows = [losses(model, *pieces.batch([i * pieces.count // n])) for i in range(n)]
    rows = torch.cat(rows).double()
    return {"length": length, "tokens": rows.numel(), "perplexity": round(rows.mean().exp().item(), 3),
            "last_quarter": round(rows[:, length * 3 // 4 :].mean().exp().item(), 3)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kind", choices=KINDS, required=True)
    p.add_argument("--data", default="target/train/lm/data")
    p.add_argument("--out", help="default: target/train/lm/KIND")
    p.add_argument("--segment", type=int, default=64)
    p.add_argument("--segments", type=int, default=16, help="of a sample")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--steps", type=int, default=250)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--warmup", type=int, default=50)
    p.add_argument("--decay", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--test", action="store_true", help="test the last checkpoint, no training")
    p.add_argument("--test-tokens", type=int, default=65536)
    a = p.parse_args()
    torch.set_num_threads(1)
    out = Path(a.out or f"target/train/lm/{a.kind}")
    out.mkdir(parents=True, exist_ok=True)
    vocab = json.loads((Path(a.data) / "meta.json").read_text())["vocab"]
    config = Config(vocab=vocab, dim=128, layers=3, heads=4, kv_heads=4, ffn=256, context=a.segment)
    model = build(a.kind, config, a.segment).init(a.seed)
    opt = adamw(model, a.lr, a.decay)
    step, seconds, last = 0, 0.0, out / "last.pt"
    args = {k: getattr(a, k) for k in ("kind", "segment", "segments", "batch", "steps", "lr", "warmup", "decay", "seed")}
    if last.exists():
        saved = torch.load(last, weights_only=True)
        if saved["args"] != args:
            raise SystemExit(f"{last} was made with other arguments: {saved['args']}")
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        step, seconds = saved["step"], saved["seconds"]
    context = a.segment * a.segments
    train = Pieces(Path(a.data) / "train.u16", context, sink=False)
    began = saved_at = time.monotonic()
    began -= seconds
    while step < a.steps and not a.test:
        x = min(1.0, step / a.steps)
        rate = min((step + 1) / a.warmup, 0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * x)))
        for group in opt.param_groups:
            group["lr"] = group["rate"] * rate
        loss = losses(model, *train.at(step * a.batch, a.batch, a.seed)).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        seconds = time.monotonic() - began
        if step % 25 == 0:
            row = {"step": step, "loss": round(loss.item(), 4), "tokens": step * a.batch * context, "seconds": round(seconds)}
            print(json.dumps(row), flush=True)
            with open(out / "log.jsonl", "a") as f:
                f.write(json.dumps(row) + "\n")
        if time.monotonic() - saved_at > 60 or step == a.steps:
            save(last, {"model": model.state_dict(), "opt": opt.state_dict(), "step": step, "seconds": seconds, "args": args})
            saved_at = time.monotonic()
    gates = [[round(g, 2) for g in b.beta.sigmoid().tolist()] for b in model.blocks if hasattr(b, "beta")]
    print(json.dumps({"kind": a.kind, "parameters": sum(q.numel() for q in model.parameters()), "step": step, "gates": gates}))
    for length in (context, 4 * context):
        print(json.dumps({"kind": a.kind, **test(model.eval(), Path(a.data) / "val.u16", length, a.test_tokens)}), flush=True)


if __name__ == "__main__":
    main()

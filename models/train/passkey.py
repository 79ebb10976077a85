"""Train the small model of `sinkstream passkey`: tokenizer, data, training. The same command continues from the last checkpoint.

A sample is a passkey text (`passkey_data.py`) with filler of several kinds and the needle anywhere; gradients go through all
segments. First two segments; then `mixed`; then 16 segments and `mixed` in turn.

Length is the hard part. For the linear update the memory is a plain sum over segments, so that a text of any length can be had from few
segments: `mixed` computes 96 of them in a batch and a matrix says how many times each one's memory holds every other. Filler counts
up to `--longest` segments in all, 65,536 (4 million tokens), and costs nothing; filler that leaves the smallest trace where the needle
is kept is punished. In long samples a segment of nothing but filler is folded up to `repeat` times. Both are aids in training: what comes
out is plain Infini-attention. The delta rule is no sum: there the segments of `mixed` are folded one after the other (`in_order`),
and `--longest` is 64. For numbers that can be compared, train all with the same `--longest` and `--steps`.
"""
import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from infini import Infini, adamw
from model import Config
from passkey_data import DIGITS, Passkey, books, make_tokenizer, stack
from train import save

# Segments (1: `mixed`), largest repeat count as a part of `--longest`, and the share of right digits with which the level is passed;
# `mixed` is passed when its count, which grows while more than nine in ten are right, gets there. The last level is kept until the
# end; every second step is `mixed`.
LEVELS = [(2, 0.0, 0.7), (1, 1.0, 0.0), (16, 1 / 16, 1.0)]
GROWTH = 1.02


def look_back(model):
    """Starting weights: the heads of the first layer look 1, 2, 3, … tokens back, and the last layer copies what it finds.

    As in `streameval.py`: all embeddings share their first number, and the fast pairs of queries and keys read it, turned against
    each other. None of this is fixed: everything is trained.
    """
    c, turning = model.c, 6
    first, last = model.blocks[0], model.blocks[-1]
    with torch.no_grad():
        model.embed.weight.mul_(5.0)
        model.embed.weight[:, 0] = 0.5
        first.wq.weight.mul_(0.3)
        first.wk.weight.mul_(0.3)
        first.beta.fill_(-2.0)
        for head in range(c.heads):
            rows = 2 * torch.arange(turning)
            shift = (head + 1) * c.theta ** (-rows / c.head_dim)
            first.wq.weight[head * c.head_dim + rows, 0] = 1.2 * shift.cos()
            first.wq.weight[head * c.head_dim + rows + 1, 0] = -1.2 * shift.sin()
        for head in range(c.kv_heads):
            first.wk.weight[head * c.head_dim + rows, 0] = 1.2
            first.wk.weight[head * c.head_dim + rows + 1, 0] = 0.0
        values = last.wv.weight.view(c.kv_heads, 1, c.head_dim, c.dim).expand(-1, c.heads // c.kv_heads, -1, -1)
        last.wo.weight.copy_(values.reshape(c.dim, c.dim).T)
        for block in model.blocks[:-1]:
            block.wo.weight.mul_(0.5)
        for block in model.blocks:
            block.down.weight.mul_(0.2)
    return model


def batch(data, key, segment, segments, repeat, size):
    """Ids [size, segments * segment], the place before the first digit of each answer, and the weights of the segments."""
    rng = np.random.Generator(np.random.PCG64(key))
    total = segment * segments
    rows, weight = [], np.ones((size, segments), np.float32)
    for i in range(size):
        length = total - (int(rng.integers(segment)) if rng.random() < 0.25 else 0)
        depth = 1.0 if rng.random() < 0.15 else rng.random()
        ids, at, n = data.sample(rng, length, depth, data.kind(rng))
        rows.append(ids)
        if repeat > 1:
            r = np.exp(rng.random(segments) * rng.random() * math.log(repeat))
            free = np.ones(segments, bool)
            free[: len(data.preamble) // segment + 1] = False
            free[at // segment : (at + n - 1) // segment + 1] = False
            weight[i] = np.where(free, r, 1)
    ends = torch.tensor([len(row) - DIGITS - 1 for row in rows])
    return stack(rows, total), ends, torch.from_numpy(weight)


def mixed(data, key, segment, repeat, size):
    """Single segments, and how many times each one's memory holds every other.

    For the linear update the memory is a sum over segments, so a text is a choice of segments and numbers: the segments of a needle
    (one, or two that it is split over), its question's, and `pool` segments of filler, whose counts are drawn from
    0 to `repeat` for each text anew. Returns ids [size, segment], mix [size, size], the rows of the
    questions, the places before the first digits of their answers, the rows with text to learn, and for each row which part of
    the filler stands in front of the needle (`in_order` asks for it).
    """
    rng = np.random.Generator(np.random.PCG64(key))
    pool = size // 8
    rows, mix, before = [], np.zeros((size, size), np.float32), np.zeros(size)
    for i in range(pool):
        filler = np.concatenate(data.draw(rng, 2 * segment + 20, data.kind(rng)))
        if i % 4 == 0:
            filler = np.concatenate((data.preamble, filler))
        cut = 0 if i % 4 == 0 else int(rng.integers(len(filler) - segment))
        rows.append(filler[cut : cut + segment])
        mix[i, :pool] = rng.dirichlet([0.5] * pool) * repeat ** rng.random()
    asked, ends = [], []
    while len(rows) + 3 <= size:
        digits = rng.integers(10, size=DIGITS)
        needle, question = data.write("needle", digits), data.write("question", digits)
        filler = np.concatenate(data.draw(rng, 4 * segment, data.kind(rng)))
        spread = rng.dirichlet([0.5] * pool) * (repeat ** rng.random() - 1)
        if rng.random() < 0.4:  # the needle is in the open segment
            a, b = np.sort(rng.integers(segment - len(needle) - len(question) + 1, size=2))
            mix[len(rows), :pool] = spread
            asked.append(len(rows))
            ends.append(b + len(needle) + len(question) - DIGITS - 1)
            rows.append(np.concatenate((filler[:a], needle, filler[a:b], question, filler))[:segment])
            continue
        first = rng.random() < 0.1
        at = len(data.preamble) if first else int(rng.integers(segment))
        text = np.concatenate((data.preamble if first else filler[:at], needle, filler[at:]))
        parts = [text[:segment]] + ([text[segment : 2 * segment]] if at + len(needle) > segment else [])
        before[len(rows) :] = 0 if first else rng.random()
        for j, part in enumerate(parts):
            mix[len(rows), :pool] = spread * before[-1]
            mix[len(rows), len(rows) - j : len(rows)] = 1
            rows.append(part)
        q = len(rows)
        mix[q, :pool] = spread
        mix[q, q - len(parts) : q] = 1
        at = int(rng.integers(segment - len(question) + 1))
        asked.append(q)
        ends.append(at + len(question) - DIGITS - 1)
        rows.append(np.concatenate((filler[-at - 1 : -1], question, filler))[:segment])
    ids = stack(rows, segment)
    mix = mix[: len(rows), : len(rows)]
    texts = torch.arange(0, len(rows), 3)
    return ids, torch.from_numpy(mix), torch.tensor(asked), torch.tensor(ends), texts, before


def in_order(mix, before, pool, key):
    """`mixed` for the delta rule, which is no sum: the segments that each row's memory holds, one after the other; −1 behind the last.

    Counts of filler are rounded, up as often as the fraction says.
    """
    rng = np.random.Generator(np.random.PCG64(key))
    orders = []
    for row, part in zip(mix.numpy(), before):
        counts = np.floor(row[:pool] + rng.random(pool)).astype(int)
        filler = rng.permutation(np.repeat(np.arange(pool), counts))
        at = round(part * len(filler))
        needle = pool + np.flatnonzero(row[pool:])
        orders.append(np.concatenate((filler[:at], needle, filler[at:])))
    out = np.full((len(mix), max(map(len, orders))), -1)
    for order, to in zip(orders, out):
        to[: len(order)] = order
    return torch.from_numpy(out)


def answers(model, x, ids, ends, rows=None):
    """Logits of the digits and the right ones: [size, DIGITS, vocab], [size, DIGITS]."""
    at = ends[:, None] + torch.arange(DIGITS, device=ids.device)[None, :]
    rows = (torch.arange(len(ids), device=ids.device) if rows is None else rows)[:, None]
    return model.logits(x[rows, at]), ids[rows, at + 1]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", default="../shared/data/text")
    p.add_argument("--out", default="target/train/passkey/linear")
    p.add_argument("--tokenizer", default="target/train/passkey/tokenizer.json")
    p.add_argument("--update", choices=["local", "linear", "delta"], default="linear")
    p.add_argument("--segment", type=int, default=64)
    p.add_argument("--dim", type=int, default=128)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--kv-heads", type=int, default=2)
    p.add_argument("--layers", type=int, default=3)
    p.add_argument("--ffn", type=int, default=256)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--tokens", type=int, default=6144, help="per step")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--finish", type=int, default=600, help="last steps, in which the rate falls to a twentieth")
    p.add_argument("--decay", type=float, default=0.01)
    p.add_argument("--lm", type=float, default=0.1, help="weight of the loss of all tokens, of a quarter of the samples")
    p.add_argument("--longest", type=int, help="segments of filler that `mixed` counts up to; 65536, or 64 for delta, which folds them")
    p.add_argument("--mixed", type=float, default=0.0, help="share of samples with sentences of books between the filler")
    p.add_argument("--init", help="checkpoint whose weights to start from")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()

    torch.set_num_threads(a.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    tok = Tokenizer.from_file(a.tokenizer) if Path(a.tokenizer).exists() else make_tokenizer(a.tokenizer, a.text)
    data = Passkey(tok, list(books(a.text)), a.mixed)
    longest = a.longest or (64 if a.update == "delta" else 65536)
    config = Config(vocab=tok.get_vocab_size(), dim=a.dim, layers=a.layers, heads=a.heads, kv_heads=a.kv_heads, ffn=a.ffn,
                    context=a.segment)
    model = Infini(config, a.segment, a.update).init(a.seed).to(device)
    if a.init:
        model.load_state_dict(torch.load(a.init, map_location=device, weights_only=True)["model"])
    else:
        look_back(model)
    opt = adamw(model, a.lr, a.decay)
    state = {"step": 0, "level": 0, "repeat": 1.5, "right": 0.0, "seconds": 0.0}
    args = {k: v for k, v in vars(a).items() if k not in ("text", "out", "tokenizer", "threads", "steps", "finish")}
    last = out / "last.pt"
    if last.exists():
        saved = torch.load(last, map_location=device, weights_only=True)
        if saved["args"] != args:
            raise SystemExit(f"{last} was made with other arguments: {saved['args']}")
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        state = saved["state"]
    began = time.monotonic() - state["seconds"]
    saved_at = time.monotonic()
    sums = np.zeros(4)  # the last counts: a run that goes on may begin between two rows
    print(sum(q.numel() for q in model.parameters()), "parameters", flush=True)

    while state["step"] < a.steps:
        segments, part, enough = LEVELS[state["level"]]
        step = state["step"]
        if state["level"] == len(LEVELS) - 1 and step % 2:
            segments, part = LEVELS[1][:2]
        repeat = max(1, part * longest)
        rate = min(1.0, (step + 1) / a.warmup, 0.05 + 0.95 * (a.steps - step) / a.finish)
        for group in opt.param_groups:
            group["lr"] = group["rate"] * rate
        key = [a.seed, step]
        if segments == 1:
            size = a.tokens // a.segment
            *tensors, before = mixed(data, key, a.segment, state["repeat"], size)
            if a.update == "delta":
                tensors[1] = in_order(tensors[1], before, size // 8, key)
            ids, mix, rows, ends, some = (t.to(device) for t in tensors)
            x, _ = model.hidden(ids, mix=mix)
            logits, right = answers(model, x, ids, ends, rows)
            text = F.cross_entropy(model.logits(x[some, :-1]).flatten(0, 1), ids[some, 1:].flatten())
        else:
            size = max(4, a.tokens // (segments * a.segment))
            ids, ends, weight = (t.to(device) for t in batch(data, key, a.segment, segments, repeat, size))
            x, _ = model.hidden(ids, weight=weight if repeat > 1 else None)
            logits, right = answers(model, x, ids, ends)
            some = slice(0, max(1, size // 4))
            inside = torch.arange(ids.shape[1] - 1, device=device)[None, :] < ends[some, None]
            text = F.cross_entropy(model.logits(x[some, :-1][inside]), ids[some, 1:][inside])
        answer = F.cross_entropy(logits.flatten(0, 1), right.flatten())
        opt.zero_grad(set_to_none=True)
        (answer + a.lm * text).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        hits = (logits.argmax(-1) == right).float().mean().item()
        state["step"] += 1
        state["right"] += 0.02 * (hits - state["right"])
        if segments == 1 and state["right"] > 0.9:
            state["repeat"] = min(state["repeat"] * GROWTH, repeat)
        state["seconds"] = time.monotonic() - began
        sums += answer.item(), text.item(), hits, 1
        if state["step"] % 50 == 0:
            mean = (sums[:3] / sums[3]).round(4).tolist()
            row = {"step": state["step"], "level": state["level"], "repeat": round(state["repeat"]),
                   "answer": mean[0], "text": mean[1], "right": mean[2],
                   "gates": [[round(g, 2) for g in b.beta.sigmoid().tolist()] for b in model.blocks],
                   "seconds": round(state["seconds"])}
            sums[:] = 0
            print(json.dumps(row), flush=True)
            with open(out / "log.jsonl", "a") as f:
                f.write(json.dumps(row) + "\n")
        done = state["repeat"] >= repeat if segments == 1 else state["right"] >= enough
        if state["level"] + 1 < len(LEVELS) and done:
            state["level"] += 1
            state["right"] = 0.5
        if time.monotonic() - saved_at > 60 or state["step"] == a.steps:
            save(last, {"model": model.state_dict(), "opt": opt.state_dict(), "state": state, "args": args,
                        "config": config.as_dict(), "segment": a.segment, "update": a.update})
            saved_at = time.monotonic()


if __name__ == "__main__":
    main()

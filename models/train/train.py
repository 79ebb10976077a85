"""Train the model. The same command continues from the last checkpoint, on a CPU bit for bit.

Every sample is 1,024 inputs and 1,024 targets over one piece of the token file. With the sink token (the default) the
inputs are `<sink> t0 .. t1022` and the targets `t0 .. t1023`; with --no-sink they are `t0 .. t1023` and `t1 .. t1024`.
Both see the same pieces in the same order. The order is a permutation that depends on seed and epoch only, and nothing
else is random after the initialisation, so the step number is the whole data position.
"""
import argparse
import contextlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

from model import PRESETS, Config, Llama


class Pieces:
    def __init__(self, path, context, sink, sink_id=0):
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.context, self.sink, self.sink_id = context, sink, sink_id
        self.count = (len(self.tokens) - 1) // context
        self.epoch = None

    def batch(self, numbers):
        x = np.empty((len(numbers), self.context), np.int64)
        y = np.empty_like(x)
        for row, n in enumerate(numbers):
            t = self.tokens[n * self.context : (n + 1) * self.context + 1].astype(np.int64)
            if self.sink:
                x[row, 0], x[row, 1:], y[row] = self.sink_id, t[: self.context - 1], t[: self.context]
            else:
                x[row], y[row] = t[:-1], t[1:]
        return torch.from_numpy(x), torch.from_numpy(y)

    def at(self, start, size, seed):
        """The samples start .. start + size of the endless shuffled sequence."""
        numbers = []
        for i in range(start, start + size):
            epoch = i // self.count
            if self.epoch != (seed, epoch):
                self.order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(self.count)
                self.epoch = (seed, epoch)
            numbers.append(self.order[i % self.count])
        return self.batch(numbers)


def rate(step, a):
    """Linear warm-up, then a cosine down to a tenth. With --finish: from step A in a straight line to a tenth at B."""
    if step < a.warmup:
        return a.lr * (step + 1) / a.warmup
    x = (min(step, a.finish[0]) - a.warmup) / max(1, a.steps - a.warmup)
    lr = a.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, x))))
    if step > a.finish[0]:
        left = (a.finish[1] - step) / (a.finish[1] - a.finish[0])
        lr = 0.1 * a.lr + (lr - 0.1 * a.lr) * max(0.0, left)
    return lr


def adamw(model, lr, decay):
    """Weight decay on matrices only."""
    matrices = [q for q in model.parameters() if q.dim() >= 2]
    vectors = [q for q in model.parameters() if q.dim() < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)


def save(path, state):
    tmp = path.with_suffix(".tmp")
    torch.save(state, tmp)
    os.replace(tmp, path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="target/train/data", help="folder written by prepare.py")
    p.add_argument("--out", default="target/train/run", help="folder for checkpoints and the log")
    p.add_argument("--preset", default="2m", choices=PRESETS)
    p.add_argument("--no-sink", action="store_true", help="the vanilla twin: samples begin with plain text")
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--batch", type=int, default=4, help="samples of one context each per step")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--decay", type=float, default=0.3)
    p.add_argument("--clip", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--pressure", type=float, default=0.0, help="weight of `outside_band` (model.py) in the loss")
    p.add_argument("--pressure-until", type=int, default=700, help="step from which on there is no pressure")
    p.add_argument("--band", type=float, nargs=2, default=[0.5, 0.8], metavar=("LOW", "HIGH"),
                   help="mean attention on the sink token that the pressure asks of every head")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--compile", action="store_true", help="torch.compile: needs a C++ compiler, 1.6 times as fast on a CPU")
    p.add_argument("--every", type=float, default=120, help="seconds between checkpoints")
    p.add_argument("--keep", type=int, default=500, help="keep the weights of every so many steps for good")
    p.add_argument("--val-every", type=int, default=250)
    p.add_argument("--val-samples", type=int, default=32)
    p.add_argument("--stop", type=int, help="end early at this step (the schedule stays that of --steps)")
    p.add_argument("--finish", type=int, nargs=2, metavar=("A", "B"),
                   help="cut a run short: from step A on, the rate falls in a straight line and the run ends at step B")
    a = p.parse_args()
    a.finish = a.finish or [a.steps, a.steps]

    torch.set_num_threads(a.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    meta = json.loads((Path(a.data) / "meta.json").read_text())
    config = Config(**{**PRESETS[a.preset].as_dict(), "vocab": meta["vocab"]})
    train = Pieces(Path(a.data) / "train.u16", config.context, not a.no_sink)
    val = Pieces(Path(a.data) / "val.u16", config.context, not a.no_sink)
    val_numbers = [i * val.count // a.val_samples for i in range(min(a.val_samples, val.count))]

    model = Llama(config).init(a.seed).to(device)
    forward = torch.compile(model, dynamic=False) if a.compile else model
    opt = adamw(model, a.lr, a.decay)
    step, seconds = 0, 0.0
    fixed = ("preset", "no_sink", "steps", "batch", "lr", "warmup", "decay", "clip", "seed")
    args = {k: getattr(a, k) for k in fixed}
    args |= {k: getattr(a, k) for k in ("pressure", "pressure_until", "band") if a.pressure}
    last = out / "last.pt"
    if last.exists():
        saved = torch.load(last, map_location=device, weights_only=True)
        if saved["args"] != args:
            raise SystemExit(f"{last} was made with other arguments: {saved['args']}")
        if saved.get("finish", [a.steps, a.steps]) != a.finish and saved["step"] > a.finish[0]:
            raise SystemExit(f"{last} is already past step {a.finish[0]}")
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        step, seconds = saved["step"], saved["seconds"]

    log_path = out / "log.jsonl"

    def log(**row):
        with open(log_path, "a") as f:
            f.write(json.dumps(row) + "\n")

    def checkpoint():
        state = {"model": model.state_dict(), "opt": opt.state_dict(), "step": step, "seconds": seconds,
                 "args": args, "finish": a.finish, "config": config.as_dict()}
        save(last, state)

    def validate():
        model.eval()
        with torch.no_grad(), half:
            losses = [model(*(t.to(device) for t in val.batch([n]))).double().mean().item() for n in val_numbers]
        model.train()
        return sum(losses) / len(losses)

    parameters = sum(q.numel() for q in model.parameters())
    log(event="start", step=step, parameters=parameters, device=device, torch=torch.__version__,
        threads=a.threads, compile=a.compile, finish=a.finish, pieces=train.count, sink=not a.no_sink, **args)
    end = min(a.steps, a.finish[1])
    stop = min(end, a.stop or end)
    begun = saved_at = time.monotonic()
    before = seconds
    model.train()
    while step < stop:
        lr = rate(step, a)
        for group in opt.param_groups:
            group["lr"] = lr
        x, y = train.at(step * a.batch, a.batch, a.seed)
        weight = a.pressure if step < a.pressure_until else 0.0
        with half:
            if weight:
                loss, outside = forward(x.to(device), y.to(device), tuple(a.band))
            else:
                loss, outside = forward(x.to(device), y.to(device)), torch.zeros(())
            loss = loss.mean()
        opt.zero_grad(set_to_none=True)
        (loss + weight * outside).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), a.clip)
        opt.step()
        step += 1
        seconds = before + time.monotonic() - begun
        if step % 10 == 0 or step == stop:
            log(step=step, loss=round(loss.item(), 5), outside=round(outside.item(), 4), norm=round(norm.item(), 4), lr=round(lr, 7),
                seconds=round(seconds, 1), tokens=step * a.batch * config.context)
        if step % a.val_every == 0 or step == end:
            log(step=step, val=round(validate(), 5))
        if step % a.keep == 0 or step == end:
            save(out / f"step{step:06}.pt", {"model": model.state_dict(), "step": step, "args": args,
                                             "config": config.as_dict()})
        if time.monotonic() - saved_at > a.every or step == stop:
            checkpoint()
            saved_at = time.monotonic()
    log(event="end", step=step, seconds=round(seconds, 1))


if __name__ == "__main__":
    main()

"""Passkey accuracy of a checkpoint or a GGUF file, streamed segment by segment: tokens right, in per cent.

    python models/train/passkey_eval.py models/passkey-linear.gguf --lengths 1024 4096 32768 --trials 50 --kinds varied paper
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import passkey_export
from passkey_data import DIGITS, KINDS, Passkey, books


def accuracy(model, data, length, depth, trials, kind, seed, zeroed=False, together=16):
    """Share of right digits. Streams of a batch have different lengths, so each ends on its own."""
    right = 0
    for start in range(0, trials, together):
        rows = []
        for i in range(start, min(start + together, trials)):
            rng = np.random.Generator(np.random.PCG64([seed, length, int(depth * 100), i]))
            rows.append(data.sample(rng, length, depth, kind)[0])
        # All rows share their whole segments but the last, if the length is a multiple of the segment.
        ends = [(len(row) - 1) // model.segment for row in rows]
        assert len(set(ends)) == 1, "the length must be a multiple of the segment"
        width = max(map(len, rows))
        ids = np.zeros((len(rows), width), np.int64)
        for row, out in zip(rows, ids):
            out[: len(row)] = row
        ids = torch.from_numpy(ids)
        x = model.stream(ids, zeroed=zeroed, chunk=max(1, 1024 // len(rows)))
        x = x[:, -(width - ends[0] * model.segment) :]
        for j, row in enumerate(rows):
            at = torch.arange(len(row) - DIGITS - 1, len(row) - 1) - ends[0] * model.segment
            right += (model.logits(x[j, at]).argmax(-1) == torch.from_numpy(row[-DIGITS:])).sum().item()
    return right / trials / DIGITS


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--tokenizer", default="target/train/passkey/tokenizer.json")
    p.add_argument("--text", default="../shared/data/text", help="for the kinds `book` and `mixed`: what follows the training text")
    p.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096, 16384, 32768])
    p.add_argument("--depths", type=float, nargs="+", default=[0, 0.5, 1])
    p.add_argument("--kinds", nargs="+", default=["varied"], choices=KINDS)
    p.add_argument("--trials", type=int, default=50)
    p.add_argument("--seed", type=int, default=1000)
    p.add_argument("--zeroed", action="store_true", help="control: nothing is read from the memory")
    a = p.parse_args()
    torch.set_num_threads(1)
    model = passkey_export.read(a.model) if a.model.endswith(".gguf") else passkey_export.load(a.model)[0]
    tok = Tokenizer.from_file(a.tokenizer)
    texts = [text[1_500_000:] for text in books(a.text, 2_500_000)] if {"book", "mixed"} & set(a.kinds) else []
    data = Passkey(tok, texts)
    for kind in a.kinds:
        for length in a.lengths:
            began = time.monotonic()
            with torch.inference_mode():
                cells = [accuracy(model, data, length, d, a.trials, kind, a.seed, a.zeroed) for d in a.depths]
            print(f"{kind:7} {length:8} " + " ".join(f"{100 * c:6.1f}" for c in cells) + f"   {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

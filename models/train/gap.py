"""What the sink token costs: validation loss of the model with it less that of its twin without, on the same targets.

    python models/train/gap.py SINK.pt TWIN.pt

Both see the same pieces of the held-out books; the first token of a piece, which the twin does not predict, is left out.
Prints nats per token: both losses, the gap and its standard error over the pieces.
"""
import argparse
import json
from pathlib import Path

import torch

from export_gguf import load
from train import Pieces


@torch.no_grad()
def losses(model, pieces, numbers, first):
    """Mean loss of each piece over the targets t1 to t1023; `first`: where t1 is among the targets."""
    return torch.stack([model(*pieces.batch([n]))[0, first : first + pieces.context - 1].double().mean() for n in numbers])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sink")
    p.add_argument("twin")
    p.add_argument("--data", default="target/train/data")
    p.add_argument("--samples", type=int, default=256)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    found = []
    for path, sink in ((a.sink, True), (a.twin, False)):
        model, _, saved = load(path)
        assert saved["args"]["no_sink"] != sink, f"{path}: with{'' if sink else 'out'} sink token expected"
        pieces = Pieces(Path(a.data) / "val.u16", model.c.context, sink)
        numbers = [i * pieces.count // a.samples for i in range(min(a.samples, pieces.count))]
        found.append(losses(model, pieces, numbers, 1 if sink else 0))
    gap = found[0] - found[1]
    print(json.dumps({
        "pieces": len(gap), "sink": round(found[0].mean().item(), 5), "twin": round(found[1].mean().item(), 5),
        "gap": round(gap.mean().item(), 5), "error": round((gap.std() / len(gap) ** 0.5).item(), 5),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

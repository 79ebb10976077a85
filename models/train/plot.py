"""Draw the loss of one or more runs from their logs."""
import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "sinkstream"
import matplotlib.pyplot as plt


def rows(run):
    """Later rows replace those of the same step: a resumed run repeats the steps after its last checkpoint."""
    train, val = {}, {}
    for line in (Path(run) / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "loss" in row:
            train[row["step"]] = row["loss"]
        if "val" in row:
            val[row["step"]] = row["val"]
    return sorted(train.items()), sorted(val.items())


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("runs", nargs="+")
    p.add_argument("--out", default="loss.svg")
    p.add_argument("--mean", type=int, default=10, help="draw the mean of so many rows of the log")
    a = p.parse_args()
    fig, ax = plt.subplots(figsize=(7, 3.6))
    for n, run in enumerate(a.runs):
        train, val = rows(run)
        pieces = [train[i : i + a.mean] for i in range(0, len(train), a.mean)]
        x = [sum(s for s, _ in piece) / len(piece) for piece in pieces]
        y = [sum(v for _, v in piece) / len(piece) for piece in pieces]
        name = Path(run).name if len(a.runs) > 1 else ""
        ax.plot(x, y, color=f"C{n}", lw=1, alpha=0.6, label=f"{name} training (mean of {a.mean} rows)".strip())
        ax.plot(*zip(*val), color=f"C{n}", marker="o", ms=3, label=f"{name} held-out books".strip())
    ax.set_xlabel("step")
    ax.set_ylabel("loss (nats per token)")
    ax.grid(alpha=0.3)
    ax.legend()
    fig.tight_layout()
    fig.savefig(a.out, metadata={"Date": None})


if __name__ == "__main__":
    main()

"""Is an endless text still a text? Repetition, variety and surprise along a long generation, beside held-out books.

    sinkstream generate --model M.gguf -n 100000 --ignore-eos --temperature 0.8 --min-p 0.05 --top-k 0 --top-p 1 --seed 1 \\
        --prompt "" --quiet --json > text.json
    python models/train/endless.py text.json --ids ids.json
    sinkstream perplexity --model M.gguf --tokens-file ids.json --nll-out nll.json --quiet
    python models/train/endless.py text.json --nll nll.json

Repeated 8-grams: of each piece of 1,000 tokens the share of its 8-grams that stand earlier in the same piece. Distinct-2:
different pairs of neighbours in 10,000 tokens, as a share; for the books too. NLL: the model's own, without temperature.
"""
import argparse
import json
import lzma
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


def repeated(ids, n=8):
    """Share of the n-grams of a piece that stood in it before."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams)


def pieces(ids, length):
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]


def summary(ids):
    shares = np.array([repeated(piece) for piece in pieces(ids, 1000)])
    tenth = max(1, len(shares) // 10)
    percentile = lambda x: float(np.percentile(x, 99))
    variety = [len(set(zip(piece, piece[1:]))) / (len(piece) - 1) for piece in pieces(ids, 10_000)]
    return {
        "tokens": len(ids),
        "repeated_8_grams_p99": percentile(shares),
        "repeated_8_grams_p99_first_tenth": percentile(shares[:tenth]),
        "repeated_8_grams_p99_last_tenth": percentile(shares[-tenth:]),
        "repeated_8_grams_mean": float(shares.mean()),
        "distinct_2": float(np.mean(variety)),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("generated", help="what `sinkstream generate --json` printed")
    p.add_argument("--ids", help="write the ids here, for `sinkstream perplexity --tokens-file`")
    p.add_argument("--nll", help="what that wrote with --nll-out")
    p.add_argument("--tokenizer", default="target/train/tokenizer.json")
    p.add_argument("--text", default="../shared/data/text/pg19_test_books.txt.xz")
    a = p.parse_args()
    found = json.loads(Path(a.generated).read_text())
    ids = found["prompt_ids"] + found["ids"]
    if a.ids:
        Path(a.ids).write_text(json.dumps(ids))
        return
    result = {"seed": found["seed"], "generated": summary(found["ids"])}
    tok = Tokenizer.from_file(a.tokenizer)
    text = lzma.open(a.text, "rt", encoding="utf-8", newline="").read()
    books = []
    for at in range(0, len(text), len(text) // 10 + 1):
        books += tok.encode(text[at : at + 100_000]).ids[:10_000]
    result["held_out_books"] = summary(books)
    if a.nll:
        nll = np.array(json.loads(Path(a.nll).read_text()))
        result["nll_by_tenth"] = [float(part.mean()) for part in np.array_split(nll, 10)]
    print(json.dumps(json.loads(json.dumps(result), parse_float=lambda x: round(float(x), 4)), indent=1))


if __name__ == "__main__":
    main()

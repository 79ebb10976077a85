"""Turn the books into token files: train.u16, val.u16 (little-endian uint16) and meta.json.

One book in `--val-every` is held out for validation. Books are joined by three newlines; no special token is written.
The ids are checked against those of the evaluation books: none may be shared.
"""
import argparse
import json
import lzma
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from typography import typographic


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--text", default="../shared/data/text")
    p.add_argument("--tokenizer", default="target/train/tokenizer.json")
    p.add_argument("--out", default="target/train/data")
    p.add_argument("--val-every", type=int, default=49)
    p.add_argument("--typographic", action="store_true", help="give every second book typographic quotes")
    p.add_argument("--limit", type=int, help="stop after so many training tokens")
    p.add_argument("--books", help="also write the list of books here")
    a = p.parse_args()
    text, out = Path(a.text), Path(a.out)
    out.mkdir(parents=True, exist_ok=True)

    index = json.loads((text / "pg_train_pool.index.json").read_text())
    tested = json.loads((text / "pg19_test_books.index.json").read_text())["books"]
    shared = {b["id"] for b in index["books"]} & {b["id"] for b in tested}
    if shared:
        raise SystemExit(f"evaluation books in the training text: {sorted(shared)}")

    tok = Tokenizer.from_file(a.tokenizer)
    counts = {"train": [0, 0, 0], "val": [0, 0, 0]}  # books, tokens, bytes
    lines, part, raw = [], None, b""
    files = {name: open(out / f"{name}.u16", "wb") for name in counts}
    for n, book in enumerate(index["books"]):
        if a.limit and counts["train"][1] >= a.limit:
            break
        if book["part"] != part:
            part = book["part"]
            raw = lzma.decompress((text / f"pg_train_pool_{part}.txt.xz").read_bytes())
        piece = raw[book["offset"] : book["offset"] + book["bytes"]].decode("utf-8") + "\n\n\n"
        if a.typographic and n % 2:
            piece = typographic(piece)
        # Paragraph by paragraph, so that no single call is given a whole book; a break between two letters
        # is no border for the pre-tokenizer, one after a newline before a letter is.
        cuts = [0]
        while len(piece) - cuts[-1] > 100_000:
            cut = piece.find("\n", cuts[-1] + 50_000) + 1
            while cut and not (piece[cut : cut + 1].isalpha() and piece[cut - 2].isalpha()):
                cut = piece.find("\n", cut) + 1
            if not cut:
                break
            cuts.append(cut)
        cuts.append(len(piece))
        parts = [piece[i:j] for i, j in zip(cuts, cuts[1:])]
        ids = np.concatenate([np.asarray(e.ids, np.uint16) for e in tok.encode_batch(parts)])
        name = "val" if n % a.val_every == a.val_every - 1 else "train"
        ids.astype("<u2").tofile(files[name])
        for i, more in enumerate((1, len(ids), len(piece.encode()))):
            counts[name][i] += more
        lines.append(f"{book['id']}\t{name}\t{book['year']}\t{book['title']}")
    for f in files.values():
        f.close()
    meta = {"vocab": tok.get_vocab_size()}
    for name, (books, tokens, size) in counts.items():
        meta[name] = {"books": books, "tokens": tokens, "bytes": size}
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(json.dumps(meta))
    if a.books:
        head = f"# Project Gutenberg id, use, year, title. Source: {index['repo']} @ {index['commit']}\n"
        Path(a.books).write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

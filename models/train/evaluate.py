"""Measure a GGUF file or a checkpoint: streaming with 0, 1, 2, 4 sinks against recomputation, by position, attention.

The text is used for evaluation only. Every stream begins with the sink token (a twin trained without one: with plain
text). Perplexities are over the tokens after the first eviction, the same tokens for every row. Prints one JSON object.
"""
import argparse
import json
import lzma
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer

from export_gguf import load, read_any
from model import rope_table, rotate
from streaming import dense_nll, recompute_nll, stream_nll
from typography import plain


def streams_of(text, tok, count, length, prefix):
    """`count` streams of `length` text tokens, from places spread evenly over the text."""
    out = []
    for i in range(count):
        at = i * len(text) // count
        at = 0 if at == 0 else text.index("\n\n", at) + 2
        ids = tok.encode(text[at : at + length * 8]).ids[:length]
        assert len(ids) == length, "text too short"
        out.append(torch.tensor(prefix + ids))
    return out


def token_bytes(tok):
    """Bytes of every token: the byte-level alphabet has one character per byte."""
    n = tok.get_vocab_size()
    return torch.tensor([0 if tok.id_to_token(i) == "<sink>" else len(tok.id_to_token(i)) for i in range(n)])


def mean_error(values, group=256):
    """Mean and its standard error from means of neighbours, which are not independent one by one."""
    values = torch.as_tensor(values).double()
    parts = torch.stack([p.mean() for p in values.split(group) if len(p) == group])
    return values.mean().item(), (parts.std() / len(parts) ** 0.5).item() if len(parts) > 1 else math.nan


@torch.no_grad()
def sink_attention(model, samples):
    """Mean attention on place 0 by layer and head, from the places of the last three quarters."""
    c = model.c
    total = torch.zeros(c.layers, c.heads)
    for ids in samples:
        x, n = model.embed(ids)[None], len(ids)
        cos, sin = rope_table(torch.arange(n), c.head_dim, c.theta)
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        for i, block in enumerate(model.blocks):
            q, k, _ = block.qkv(x)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin).repeat_interleave(c.heads // c.kv_heads, 1)
            w = (q @ k.transpose(2, 3) * c.head_dim**-0.5).masked_fill(mask, -torch.inf).softmax(-1)
            total[i] += w[0, :, n // 4 :, 0].mean(1)
            x = block(x, cos, sin)
    return total / len(samples)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="a .gguf file or a checkpoint .pt")
    p.add_argument("--tokenizer", default="target/train/tokenizer.json")
    p.add_argument("--text", default="../shared/data/text/pg19_test_books.txt.xz")
    p.add_argument("--streams", type=int, default=1)
    p.add_argument("--length", type=int, default=20000, help="text tokens per stream")
    p.add_argument("--cache", type=int, default=1024)
    p.add_argument("--sinks", type=int, nargs="+", default=[0, 1, 2, 4])
    p.add_argument("--plain-quotes", action="store_true", help="typographic quotes and dashes of the text made ASCII")
    p.add_argument("--recompute", type=int, default=0, help="also recompute at so many places")
    p.add_argument("--by-position", action="store_true", help="also: loss by place, dense and streaming; drift")
    p.add_argument("--attention", action="store_true", help="also: mean attention on the first token")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.model.endswith(".gguf"):
        model, sink, step = read_any(a.model)
    else:
        model, _, saved = load(a.model)
        sink, step = not saved["args"]["no_sink"], saved["step"]
    tok = Tokenizer.from_file(a.tokenizer)
    prefix = [0] if sink else []
    text = lzma.open(a.text, "rt", encoding="utf-8", newline="").read()
    if a.plain_quotes:
        text = plain(text)
    streams = streams_of(text, tok, a.streams, a.length, prefix)
    sizes = token_bytes(tok)
    first = a.cache + 1  # index in the list of losses of the first that was computed after an eviction
    result = {"model": Path(a.model).name, "step": step, "text": Path(a.text).name, "plain_quotes": a.plain_quotes, "cache": a.cache,
              "streams": a.streams, "text_tokens": a.streams * a.length, "rows": {}}

    kept = {}
    for s in a.sinks:
        kept[s] = [stream_nll(model, ids, s, a.cache - s) for ids in streams]
        mean, error = mean_error(torch.cat([n[first:] for n in kept[s]]))
        result["rows"][f"{s}+{a.cache - s}"] = {
            "tokens": sum(len(n) - first for n in kept[s]), "nll": mean, "error": error, "perplexity": math.exp(mean)}
    best = 1 if 1 in kept else a.sinks[-1]
    nll = torch.cat(kept[best]).double().sum().item()
    size = [sizes[ids[1:]].sum().item() for ids in streams]
    each = [n.double().sum().item() / math.log(2) / b for n, b in zip(kept[best], size)]
    result["bits_per_byte"] = {"row": f"{best}+{a.cache - best}", "bytes": sum(size), "value": nll / math.log(2) / sum(size),
                               "by_stream": each}

    if a.recompute:
        per = a.recompute // a.streams
        fresh, bare, same = [], [], {s: [] for s in kept}
        for i, ids in enumerate(streams):
            # ids[p] is predicted; its loss in a stream has index p - 1
            places = torch.linspace(first + 1, len(ids) - 1, per).long()
            fresh.append(recompute_nll(model, ids, places, prefix, a.cache - len(prefix)))
            if sink:
                bare.append(recompute_nll(model, ids, places, [], a.cache))
            for s in kept:
                same[s].append(kept[s][i][places - 1])
        fresh = torch.cat(fresh)
        rows = {"places": len(fresh), "fresh_run": math.exp(fresh.mean().item())}
        if sink:
            rows["fresh_run_without_sink_token"] = math.exp(torch.cat(bare).mean().item())
        for s in kept:
            difference = torch.cat(same[s]) - fresh
            rows[f"{s}+{a.cache - s}"] = {
                "perplexity": math.exp(torch.cat(same[s]).mean().item()), "ratio": math.exp(difference.mean().item()),
                "error_of_log_ratio": (difference.std() / len(difference) ** 0.5).item()}
        result["recompute"] = rows

    if a.by_position:
        edges = [0, 64, 256, 512, 1024, 1280, 1536, 2048, 3072, 4096, 6144]
        dense = [dense_nll(model, ids[: edges[-1] + 1]) for ids in streams]
        result["by_position"] = {
            f"{lo}-{hi}": {"dense": torch.cat([d[lo:hi] for d in dense]).mean().item(),
                           **{f"{s}+{a.cache - s}": torch.cat([n[lo:hi] for n in kept[s]]).mean().item() for s in kept}}
            for lo, hi in zip(edges, edges[1:])}
        tenths = [torch.cat([n[first:].tensor_split(10)[i] for n in kept[best]]).mean().item() for i in range(10)]
        result["drift"] = {"row": f"{best}+{a.cache - best}", "nll_by_tenth": tenths}

    if a.attention:
        w = sink_attention(model, [ids[: model.c.context] for ids in streams][:16])
        result["attention_on_first"] = {"by_layer": w.mean(1).tolist(), "by_head": w.tolist(),
                                        "share_of_heads_above_0.3": (w > 0.3).float().mean().item()}
    rounded = json.loads(json.dumps(result), parse_float=lambda x: round(float(x), 5))
    report = json.dumps(rounded, indent=1)
    print(report)
    if a.out:
        Path(a.out).write_text(report + "\n")


if __name__ == "__main__":
    main()

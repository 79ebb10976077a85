"""Write text from a GGUF file with a cache of fixed size, the sink token pinned (temperature and min-p sampling)."""
import argparse

import torch
from tokenizers import Tokenizer

from export_gguf import read_any
from streaming import Stream


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model")
    p.add_argument("--tokenizer", default="target/train/tokenizer.json")
    p.add_argument("--prompt", default="\n\n")
    p.add_argument("--tokens", type=int, default=400)
    p.add_argument("--cache", type=int, default=1024)
    p.add_argument("--sinks", type=int, default=1)
    p.add_argument("--temperature", type=float, default=0.8)
    p.add_argument("--min-p", type=float, default=0.05)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model, sink, _ = read_any(a.model)
    tok = Tokenizer.from_file(a.tokenizer)
    stream, dice = Stream(model, a.sinks, a.cache - a.sinks), torch.Generator().manual_seed(a.seed)
    ids = tok.encode(a.prompt).ids
    for token in ([0] if sink else []) + ids:
        logits = stream.step(token)
    for _ in range(a.tokens):
        probabilities = (logits / a.temperature).softmax(-1)
        probabilities[probabilities < a.min_p * probabilities.max()] = 0
        probabilities[0] = 0  # the sink token is no text
        ids.append(int(torch.multinomial(probabilities, 1, generator=dice)))
        logits = stream.step(ids[-1])
    print(tok.decode(ids))


if __name__ == "__main__":
    main()

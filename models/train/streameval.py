"""Train the small model of StreamEval (docs/streameval.md): tokenizer, data, training and GGUF file in one command.

The stream is made of lines `line 12,345: REGISTER_CONTENT is <678>`, and now and then a question about one of them,
`Query: line 12,325: REGISTER_CONTENT is <`, with its answer. Every group of up to three digits is one token, so the
answer is one token of a thousand, and to find it is associative recall: two layers of attention can do it.

A sample is the sink token and then a piece of such a stream, cut out anywhere. Samples grow from 64 tokens to the whole
context, because recall is learned much faster over short ones. The same command continues from the last checkpoint.
"""
import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

import export_gguf
from make_tokenizer import SINK
from model import Config, Llama
from train import adamw, rate, save

# Llama 3's pre-tokenizer, GGUF's `llama-bpe`: numbers in groups of three digits, line breaks with the signs before them.
LLAMA3 = (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# The words of the format: GGUF's user-defined tokens, which are found before the text is cut.
WORDS = ["line ", "Query: line ", ": REGISTER_CONTENT is <", ">\n"]
NUMBERS = [f"{n:0{digits}}" for digits in (1, 2, 3) for n in range(10**digits)]
# Context of the samples and steps with it.
STAGES = [(64, 200), (256, 150), (544, 150), (1088, 300)]
CONFIG = {"dim": 128, "layers": 2, "heads": 2, "kv_heads": 2, "ffn": 256, "context": STAGES[-1][0], "theta": 500000.0}
TOKENS_PER_STEP = 2048
QUESTIONS = 0.6  # of the lines, when there is something to ask about
FORMAT_WEIGHT = 0.1  # of the tokens that are the same in every line, against the answers

DESCRIPTION = ("Tiny llama model that knows one thing: which number stood in which line of an endless list, while the line is in "
               "the cache. Keep token 0 (<sink>, the BOS) in the attention cache.")


def line(i, n):
    return f"line {i:,}: REGISTER_CONTENT is <{n}>\n"


def make_tokenizer(path):
    """Words and numbers are whole tokens (`ignore_merges` for numbers, whose merges only spell them out)."""
    tokens, merges = {SINK: 0}, []
    for text in sorted(pre_tokenizers.ByteLevel.alphabet()) + WORDS + NUMBERS:
        if text not in tokens:
            tokens[text] = len(tokens)
            if len(text) > 1 and text.isdigit():
                merges.append((text[:-1], text[-1]))
    tok = Tokenizer(models.BPE(tokens, merges, ignore_merges=True))
    tok.add_special_tokens([SINK])
    tok.add_tokens([AddedToken(text, normalized=False) for text in WORDS])
    words = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.save(str(path))
    return tok


def near_recall(model):
    """Starting weights from which recall is learned in minutes. A first try from plain random ones, with longer lines and a
    higher rate, still guessed among the numbers in sight after 750 steps.

    Heads of the first layer look one and two tokens back: all embeddings share their first number, and the first pairs
    of queries and keys read it, turned against each other by 1.5 positions. Queries and keys of the last layer start
    out with the same matrix, so that a place attends to places that hold the same; values and output are each other's
    transpose, so that it copies what is there. Embeddings start large, and all else that writes to the residual stream
    small, so that tokens stay recognizable. None of this is fixed: everything is trained.
    """
    c, turning = model.c, 8  # pairs that turn fast enough to tell neighbours apart
    shift = 1.5 * c.theta ** (-2 * torch.arange(turning) / c.head_dim)
    first, last = model.blocks[0], model.blocks[-1]
    with torch.no_grad():
        model.embed.weight.mul_(5.0)
        model.embed.weight[:, 0] = 0.5
        for head in range(c.heads):
            rows = head * c.head_dim + 2 * torch.arange(turning)
            first.wq.weight[rows, 0], first.wq.weight[rows + 1, 0] = 0.6 * shift.cos(), -0.6 * shift.sin()
            first.wk.weight[rows, 0], first.wk.weight[rows + 1, 0] = 0.6, 0.0
        last.wk.weight.copy_(last.wq.weight)
        last.wo.weight.copy_(last.wv.weight.T)
        for small in (first.wo, first.down, last.down):
            small.weight.mul_(0.2)
    return model


class Samples:
    def __init__(self, tok):
        self.tok = tok
        self.numbers = {tok.token_to_id(n) for n in NUMBERS}

    def stream(self, rng, length):
        """Ids, and for each its weight as a target: 1 for answers, 0 for what nobody can know."""
        ids, weights, lines = [], [], []
        first = int(10 ** rng.uniform(0, 7))
        while len(ids) < length + 12:
            # The first two lines are not asked about: the sample may begin in the middle of them.
            is_question = len(lines) > 3 and rng.random() < QUESTIONS
            if is_question:
                text = "Query: " + line(*lines[int(rng.integers(2, len(lines)))])
            else:
                lines.append((first + len(lines), int(rng.integers(1000))))
                text = line(*lines[-1])
            piece = self.tok.encode(text).ids
            weight = [0.0 if t in self.numbers else FORMAT_WEIGHT for t in piece]
            if is_question:
                weight[-2] = 1.0
            ids += piece
            weights += weight
        cut = int(rng.integers(12))
        return ids[cut : cut + length], weights[cut : cut + length]

    def batch(self, key, context, size):
        rng = np.random.Generator(np.random.PCG64(key))
        rows = [self.stream(rng, context) for _ in range(size)]
        targets = torch.tensor([ids for ids, _ in rows])
        inputs = torch.cat((torch.zeros(size, 1, dtype=torch.long), targets[:, :-1]), dim=1)
        return inputs, targets, torch.tensor([weights for _, weights in rows])


def accuracy(model, samples, context, size, key):
    """Share of the answers that are the most likely token."""
    with torch.no_grad():
        x, y, w = samples.batch([key, context], context, size)
        return (model(x).argmax(-1) == y)[w == 1].float().mean().item()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", default="target/train/streameval", help="folder for tokenizer, checkpoint and log")
    p.add_argument("--out", default="models/streameval.gguf")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--decay", type=float, default=0.01)
    p.add_argument("--clip", type=float, default=1.0)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    a.steps = sum(steps for _, steps in STAGES)
    a.finish = [a.steps, a.steps]

    torch.set_num_threads(a.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    work = Path(a.work)
    work.mkdir(parents=True, exist_ok=True)
    samples = Samples(make_tokenizer(work / "tokenizer.json"))
    config = Config(vocab=samples.tok.get_vocab_size(), **CONFIG)
    model = near_recall(Llama(config).init(a.seed))
    opt = adamw(model, a.lr, a.decay)
    args = {"stages": STAGES, "tokens_per_step": TOKENS_PER_STEP, "format_weight": FORMAT_WEIGHT, "no_sink": False,
            **{k: getattr(a, k) for k in ("seed", "lr", "warmup", "decay", "clip")}}
    args = json.loads(json.dumps(args))
    step, last = 0, work / "last.pt"
    if last.exists():
        saved = torch.load(last, weights_only=True)
        if saved["args"] != args or saved["config"] != config.as_dict():
            raise SystemExit(f"{last} was made with other arguments: {saved['args']}")
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        step = saved["step"]

    contexts = [context for context, steps in STAGES for _ in range(steps)]
    began = time.process_time()
    while step < a.steps:
        for group in opt.param_groups:
            group["lr"] = rate(step, a)
        context = contexts[step]
        x, y, w = samples.batch([a.seed, step], context, max(1, TOKENS_PER_STEP // context))
        losses = model(x, y)
        loss = (losses * w).sum() / (w == 1).sum().clamp(min=1)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), a.clip)
        opt.step()
        step += 1
        if step % 50 == 0 or step == a.steps:
            answers = losses[w == 1].mean().item()
            row = {"step": step, "context": context, "answers": round(answers, 4),
                   "cpu_seconds": round(time.process_time() - began),
                   "accuracy": round(accuracy(model, samples, context, max(8, 2048 // context), a.seed + 1), 4)}
            print(json.dumps(row), flush=True)
            save(last, {"model": model.state_dict(), "opt": opt.state_dict(), "step": step, "args": args,
                        "config": config.as_dict()})

    model.eval()
    part = a.out + ".part"
    saved = {"args": args, "step": step}
    export_gguf.write(part, model, config, saved, work / "tokenizer.json", "streameval", DESCRIPTION, "llama-bpe")
    os.replace(part, a.out)
    shares = [accuracy(m, samples, config.context, 32, a.seed + 2) for m in (model, export_gguf.read(a.out, config))]
    print(f"{a.out}: {Path(a.out).stat().st_size} bytes; right answers: checkpoint {shares[0]:.4f}, file {shares[1]:.4f}")


if __name__ == "__main__":
    main()

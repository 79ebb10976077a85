"""The passkey task as text and as batches of tokens. docs/infini-log.md tells the format; `sinkstream passkey` makes the same.

    PREAMBLE filler … NEEDLE filler … QUESTION digits

Sentences are joined by one space. The digits of the answer are scored one by one, each with the right ones before it.
"""
import lzma
import re
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PREAMBLE = ("There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
            "I will quiz you about the important information there.")
NEEDLE = " The pass key is {0}. Remember it. {0} is the pass key."
QUESTION = " What is the pass key? The pass key is {0}"
DIGITS = 4
FILLER = [line for line in (Path(__file__).parent / "passkey_filler.txt").read_text().splitlines() if line]
PAPER = FILLER[:5]
# Of filler. `mixed` is the 81 sentences with sentences of books between them, in a share that is drawn for each text.
KINDS = ["varied", "few", "digits", "paper", "book", "mixed"]
SHARES = np.array([0.35, 0.15, 0.2, 0.1, 0.2, 0.0])
VOCAB = 1024
END = "<|endoftext|>"


def books(folder, size=1_500_000):
    """The start of both files of training books."""
    for path in sorted(Path(folder).glob("pg_train_pool_*.txt.xz")):
        with lzma.open(path, "rt", encoding="utf-8", newline="") as f:
            yield f.read(size)


def sentences(texts):
    """The sentences of books, on one line each, of a length like the filler's own."""
    for text in texts:
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split())):
            if 20 <= len(sentence) <= 160:
                yield sentence


def make_tokenizer(path, folder):
    """Byte-level BPE with GPT-2's pre-tokenizer, from books and filler without their digits: a digit is always a token."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    lines = [" " + line for line in FILLER + [PREAMBLE, NEEDLE, QUESTION]] * 60 + list(books(folder, 300_000))
    tok.train_from_iterator((re.sub(r"\d", "", line) for line in lines), trainer)
    assert tok.get_vocab_size() == VOCAB and tok.token_to_id(END) == 0
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tok.save(str(path))
    return tok


class Passkey:
    def __init__(self, tok, texts=(), mixed=0.0):
        """texts: of books, for the kinds `book` and `mixed`. mixed: share of `mixed` in training."""
        self.shares = (1 - mixed) * SHARES
        self.shares[KINDS.index("mixed")] = mixed
        self.ids = lambda text: tok.encode(text, add_special_tokens=False).ids
        self.preamble = self.ids(PREAMBLE)
        self.digit = self.ids("0123456789")
        self.space = self.ids(" 0")[:-1]
        assert len(self.digit) == 10 and self.ids(" 4071") == self.space + [self.digit[i] for i in (4, 0, 7, 1)]
        self.is_digit = np.isin(np.arange(VOCAB), self.digit)
        # A space begins a new word for the pre-tokenizer, so sentences can be encoded one by one.
        self.filler = [np.array(self.ids(" " + s)) for s in FILLER]
        self.needle = [np.array(self.ids(s)) for s in NEEDLE.split("{0}")]
        self.question = np.array(self.ids(QUESTION.format("")))
        # `is ` ends in the token of the space before the digits.
        check = "".join(NEEDLE.format("4071"))
        assert self.ids(check) == list(self.write("needle", [4, 0, 7, 1]))
        assert self.ids(QUESTION.format("4071")) == list(self.write("question", [4, 0, 7, 1]))
        self.book = np.array([i for text in texts for i in tok.encode(text).ids])
        self.texts = texts

    def write(self, what, digits):
        d = [self.digit[i] for i in digits]
        if what == "question":
            return np.concatenate((self.question, d))
        a, b, c = self.needle
        return np.concatenate((a, d, b, d, c))

    @cached_property
    def sentences(self):
        return [np.array(self.ids(" " + s)) for s in sentences(self.texts)]

    def kind(self, rng):
        return rng.choice(KINDS, p=self.shares)

    def draw(self, rng, size, kind):
        """A list of filler sentences (token arrays), together as many tokens as fit in size."""
        out, left = [], size
        if kind == "book":
            # Whole words are not asked for: any piece of the text, in lines of 16 tokens.
            at = int(rng.integers(len(self.book) - size))
            return [self.book[i : min(i + 16, at + size)] for i in range(at, at + size, 16)]
        n, share = int(rng.integers(5)), 0.0
        if kind == "mixed":  # filler with sentences from books between
            share = rng.random()
        few = rng.permutation(len(self.filler))[: int(rng.integers(1, 12))]
        while True:
            if kind == "paper":
                s = self.filler[n % 5]
                n += 1
            else:
                s = self.filler[rng.choice(few) if kind == "few" else rng.integers(len(self.filler))]
            if share and rng.random() < share:
                line = self.sentences[rng.integers(len(self.sentences))]
                s = line if len(line) <= left else s  # long ones must not leave the question in the segment before
            if kind == "digits":  # other numbers in the same sentences
                s = np.where(self.is_digit[s], np.array(self.digit)[rng.integers(10, size=len(s))], s)
            if len(s) > left:
                return out
            out.append(s)
            left -= len(s)

    def sample(self, rng, length, depth=None, kind="varied", digits=None):
        """Ids of at most `length` tokens, the last DIGITS of them the answer; and where the needle begins."""
        digits = rng.integers(10, size=DIGITS) if digits is None else digits
        needle, question = self.write("needle", digits), self.write("question", digits)
        left = length - len(self.preamble) - len(needle) - len(question)
        filler = self.draw(rng, left, kind)
        ends = np.cumsum([0] + [len(s) for s in filler])
        depth = rng.random() if depth is None else depth
        n = int(np.searchsorted(ends, depth * ends[-1]))
        at = len(self.preamble) + int(ends[n])
        return np.concatenate([self.preamble, *filler[:n], needle, *filler[n:], question]), at, len(needle)


def stack(rows, length):
    """Rows of ids as one tensor, filled up with token 0 behind their ends."""
    out = np.zeros((len(rows), length), np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)

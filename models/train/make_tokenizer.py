"""Train the tokenizer: byte-level BPE with GPT-2's pre-tokenizer, `<sink>` as token 0.

GGUF describes it exactly with tokenizer.ggml.model = gpt2 and tokenizer.ggml.pre = gpt-2.
"""
import argparse
import lzma
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from typography import typographic

SINK = "<sink>"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--text", default="../shared/data/text", help="folder with the pg_train_pool_*.txt.xz files")
    p.add_argument("--vocab", type=int, default=4096)
    p.add_argument("--every", type=int, default=4, help="learn from one piece of 64 KiB in so many")
    p.add_argument("--typographic", action="store_true", help="give every second piece typographic quotes")
    p.add_argument("--out", default="target/train/tokenizer.json")
    a = p.parse_args()

    def pieces():
        n = 0
        for path in sorted(Path(a.text).glob("pg_train_pool_*.txt.xz")):
            with lzma.open(path, "rt", encoding="utf-8", newline="") as f:
                while piece := f.read(65536):
                    if n % a.every == 0:
                        yield typographic(piece) if a.typographic and n // a.every % 2 else piece
                    n += 1

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=a.vocab,
        special_tokens=[SINK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(pieces(), trainer)
    assert tok.get_vocab_size() == a.vocab and tok.token_to_id(SINK) == 0
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    tok.save(a.out)
    print(a.out, tok.get_vocab_size(), "entries")


if __name__ == "__main__":
    main()

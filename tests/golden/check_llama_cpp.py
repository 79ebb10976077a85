"""Side by side with llama.cpp: families, types, the bundled model, tokenizers, speed. Prints one table.

    cargo build --release && python tests/golden/check_llama_cpp.py [--shared DIR] [--gpu] [PART ...]

Run by hand; needs the built binary and the packages llama-cpp-python, gguf, numpy, and for the parts that make models torch
and transformers. Last run with llama-cpp-python 0.3.16 (llama.cpp of August 2025). A line that misses its limit says so and
makes the exit code 1. `--gpu` runs the types on the first GPU adapter as well.

llama.cpp is no exact reference: it rounds activations to the type that a matrix multiplies with (BF16 for BF16 weights, Q8
for quantised ones), and takes GELU (the tanh form, also where a family trained with erf) from a table of F16. So files of
families are first rewritten as F32 with its quantiser, families with erf have a wider limit, and quantised files are
held against their dequantised weights in numpy (`family_reference.py`); llama.cpp's own difference is for information.
"""
import argparse
import ctypes
import json
import lzma
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from time import perf_counter

import llama_cpp
import numpy as np
from gguf import GGUFReader
from llama_cpp import Llama

from family_reference import EXACT_GELU, FamilyStreaming, Model
from streaming_reference import nll, nll_of

HERE = Path(__file__).parent
FAMILIES = HERE / "families"
BUNDLED = HERE.parents[1] / "models/sinkstream-2m.gguf"
# llama.cpp's numbers of whole-file types (`llama_ftype`).
FTYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11,
    "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip
SPECIAL_TEXTS = ["<s>x</s> <|end|>y<|end|>", "<|begin|>a <|end|>\n b", " <|end|> ", "<unk>", "ooo  eee ooo eee", "<0x41>"]
ODD_TEXTS = [
    " ", "  ", "   x", "x   ", "\n", "\n\n\n x", "\t\t y\r\n", "a  b   c    d", "café CAFÉ nai\u0308ve", "👩‍👩‍👧 🙂🙃",
    "日本語のテキスト、漢字。", "Здравствуй, мир!", "عربى 123 ١٢٣", "1 12 123 1234 12345.678", "I'll WE'LL don't 'tis 's",
    "x=1;y+=2 //z\n\tif(a<b){}", "…—“q”", "\u00a0\u2003\u200b", "ﬁ ½ ²", "the there hello world ▁ ▁▁x", "Ġhello Ċ",
    "under_score __x__", "$^`~|", "....!!!???", "e\u0301\u0323", "नमस्ते", "\x00\x01\x7f",
]  # fmt: skip


class Check:
    """The binary, a temporary folder, the other options, and the lines of the table."""

    def __init__(self, args, folder):
        self.binary, self.shared, self.gpu, self.threads = args.binary, args.shared, args.gpu, args.threads
        self.folder, self.missed = folder, 0

    def line(self, part, name, text, passed=True):
        self.missed += not passed
        print(f"| {part} | {name} | {text}{'' if passed else ' MISSED'} |", flush=True)

    def ours(self, *args, text=None):
        """Standard output of our command."""
        given = None if text is None else text.encode()
        return subprocess.run([self.binary, *map(str, args)], input=given, stdout=subprocess.PIPE, check=True).stdout

    def our_nll(self, path, tokens, *args, device="cpu"):
        """NLL of each token but the first, nats, with a cache of F32."""
        ids, out = self.folder / "ids.json", self.folder / "nll.json"
        ids.write_text(json.dumps(tokens))
        run = ["--device", device, "--cache", "f32", "--quiet", "--json", "--tokens-file", ids, "--nll-out", out]
        self.ours("perplexity", "--model", path, *run, *args)
        return np.array(json.loads(out.read_text()), np.float64)

    def quantise(self, source, name, pure=False):
        """A file in another type, made by llama.cpp."""
        path = self.folder / f"{source.stem}-{name}{'-pure' if pure else ''}.gguf"
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread, params.pure, params.allow_requantize = FTYPES[name], 1, pure, True
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params))
        if failed:
            raise RuntimeError(f"llama.cpp cannot write {path.name}")
        return path

    def make_model(self, name, tokenizer, **values):
        """A random llama whose rows are whole super-blocks, as Hugging Face folder and GGUF (BF16)."""
        import make_hf

        values = make_hf.GROUPED | {"hidden_size": 256, "intermediate_size": 512} | values
        make_hf.MODELS[name] = ("LlamaConfig", values, tokenizer)
        with redirect_stdout(sys.stderr):
            make_hf.make(self.folder, name, 5)
        path = self.folder / f"{name}.gguf"
        self.ours("convert", self.folder / name, path, "--quiet")
        return path


# llama.cpp goes by the name to tell Phi-3's tokenizer, and refuses a vocabulary that then lacks `<|endoftext|>`: our small
# ones. Their NLLs are compared under another name; the tokenizer is compared on the real vocabulary.
SMALL_PHI3 = {"kv_overrides": {"general.name": "small"}}


def load(path, **options):
    """llama.cpp's model with an F32 cache."""
    options |= SMALL_PHI3 if path.stem.startswith("phi3") else {}
    options = {"n_ctx": 512, "n_batch": 512, "n_ubatch": 512, "n_threads": 1, "n_threads_batch": 1} | options
    return Llama(str(path), verbose=False, logits_all=True, type_k=0, type_v=0, flash_attn=False, **options)


def their_nll(path, tokens):
    model = load(path)
    model.eval(tokens[:-1])
    return nll_of(model.scores[: len(tokens) - 1].astype(np.float64), np.array(tokens[1:]))


def difference(a, b):
    """Mean and largest."""
    return float(np.abs(a - b).mean()), float(np.abs(a - b).max())


def show(pair):
    return f"{pair[0]:.1e} / {pair[1]:.1e}"


def families(check):
    for path in sorted(FAMILIES.glob("*.gguf")):
        golden = json.loads(path.with_suffix(".json").read_text())
        tokens, dense = golden["tokens"], np.array(golden["nll"]["dense"])
        as_is = difference(their_nll(path, tokens), dense)
        wide = check.quantise(path, "F32")
        as_f32 = difference(their_nll(wide, tokens), dense)
        ours = difference(check.our_nll(wide, tokens, "--attention", "dense"), dense)
        erf = str(Model(path).arch) in EXACT_GELU
        passed = as_f32[0] < (1e-2 if erf else 1e-3) and ours[0] < 2e-5
        text = f"llama.cpp {show(as_is)}, rewritten as F32: llama.cpp {show(as_f32)}, ours {show(ours)}"
        check.line("families", path.stem, text, passed)


def one_type(check, path, tokens, name):
    model = Model(path)
    runs = {"dense": ["--attention", "dense"], "streaming_4_28": ["--sinks", 4, "--window", 28]}
    parts, passed = [], True
    devices = ["cpu", "gpu"] if check.gpu else ["cpu"]
    for configuration, args in runs.items():
        exact = nll(model, tokens, configuration, FamilyStreaming)
        for device in devices:
            found = difference(check.our_nll(path, tokens, *args, device=device), exact)
            passed &= found[0] <= 0.003 and found[1] <= 0.03
            parts.append(f"{device} {configuration} {show(found)}")
        if configuration == "dense":
            parts.append(f"llama.cpp {show(difference(their_nll(path, tokens), exact))}")
    kinds = sorted({tensor.tensor_type.name for tensor in GGUFReader(path).tensors if len(tensor.shape) > 1})
    check.line("types", f"{name} ({', '.join(kinds)})", ", ".join(parts), passed)


def types(check):
    import make_hf

    tokens = np.random.default_rng(3).integers(0, 300, 120).tolist()
    bytes_model = check.make_model("byte_level", make_hf.llama3)
    for name in FTYPES:
        one_type(check, check.quantise(bytes_model, name), tokens, name)
    for name in ["Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "IQ4_NL", "IQ4_XS"]:
        one_type(check, check.quantise(bytes_model, name, pure=True), tokens, f"{name} throughout")
    for name in ["q8_0", "q4_0", "f16"]:  # what our own `convert --quant` writes
        path = check.folder / f"convert-{name}.gguf"
        check.ours("convert", check.folder / "byte_level", path, "--quant", name, "--quiet")
        one_type(check, path, tokens, f"convert --quant {name}")
    pieces_model = check.make_model("sentencepiece", partial(make_hf.sentencepiece, True))
    for name in ["Q8_0", "Q4_0", "Q4_K_M"]:
        one_type(check, check.quantise(pieces_model, name), tokens, f"sentencepiece {name}")
    for model in [bytes_model, pieces_model]:
        path = check.quantise(model, "Q4_K_M")
        same_ids(check, path, odd_texts(), path.stem)


def same_ids(check, path, texts, name):
    """Both tokenizers on texts, with special tokens read and not."""
    model = Llama(str(path), vocab_only=True, verbose=False)
    end = model.tokenize(b"</s>", add_bos=False, special=True)[-1]
    different = []
    for text in texts:
        for special in [True, False]:
            theirs = model.tokenize(text.encode(), add_bos=False, special=special)
            args = ["--no-bos"] + ([] if special else ["--no-special"])
            ours = json.loads(check.ours("tokenize", "--model", path, *args, text=text))
            # Plain text stays plain: ours never merges it into a control token, llama.cpp's sentencepiece does.
            merged = not special and end in theirs and end not in ours
            if ours != theirs and not merged:
                different.append((text, special, ours, theirs))
    for text, special, ours, theirs in different[:3]:
        print(f"{name}: {text!r} special={special}: ours {ours}, llama.cpp {theirs}", file=sys.stderr)
    check.line("tokenizers", name, f"{2 * len(texts) - len(different)} of {2 * len(texts)} texts equal", not different)


def odd_texts():
    """The odd texts, and long ones of all of them in random order."""
    rng = np.random.default_rng(11)
    # Phi-3's special tokens take the white space after them: in transformers and here any, in llama.cpp only ASCII's.
    parts = [text for text in ODD_TEXTS if "\u00a0" not in text] + SPECIAL_TEXTS + ["", " ", "a", "the", "\n"]
    return ODD_TEXTS + SPECIAL_TEXTS + ["".join(rng.choice(parts, 400)) for _ in range(10)]


def some_lines(check, count):
    """Lines of real text, spread over a file of each kind, and all of them as one text."""
    lines = []
    for name in ["wikitext2_test.txt.xz", "tinyshakespeare.txt.xz", "pg19_test_books.txt.xz"]:
        found = lzma.open(check.shared / "data/text" / name).read(3_000_000).decode(errors="ignore").split("\n")
        found = [line for line in found if line.strip()]
        lines += found[:: max(1, len(found) // (count // 3))][: count // 3]
    return [*lines, "\n".join(lines)]


def tokenizers(check):
    for path in sorted(FAMILIES.glob("*.gguf")):
        if not path.stem.startswith("phi3"):
            same_ids(check, path, odd_texts(), path.stem)
    for packed in sorted((check.shared / "data/tokenizers").glob("ggml-vocab-*.gguf.xz")):
        path = check.folder / packed.stem
        path.write_bytes(lzma.open(packed).read())
        same_ids(check, path, odd_texts() + some_lines(check, 60), path.stem)


def bundled(check):
    model = load(BUNDLED, n_ctx=256, n_batch=256)
    start = json.loads(check.ours("tokenize", text="Once"))
    theirs = model.tokenize(b"Once", add_bos=True)
    check.line("bundled", "begins with", f"ours {start}, llama.cpp {theirs}", start == theirs and start[0] == 0)
    same_ids(check, BUNDLED, some_lines(check, 300), "bundled model, real text")
    same_ids(check, BUNDLED, odd_texts(), "bundled model, odd texts")
    for prompt in ["Once upon a time", "The old man looked at the sea and said,", "In the year 1812"]:
        run = ["--device", "cpu", "--cache", "f32", "--temperature", 0, "-n", 50, "--ignore-eos", "--json", "--quiet"]
        ours = json.loads(check.ours("generate", "--prompt", prompt, *run))
        ids = ours["prompt_ids"] + ours["ids"]
        model.reset()
        model.eval(ids)
        logits = model.scores[len(ours["prompt_ids"]) - 1 : len(ids) - 1]
        # How much less likely our choice is than theirs, at every token: 0 where it is the same.
        behind = logits.max(axis=1) - logits[np.arange(len(ours["ids"])), ours["ids"]]
        text = f"{int((behind == 0).sum())} of {len(behind)} greedy tokens equal, behind by {behind.max():.1e} at most"
        check.line("bundled", repr(prompt), text, behind.max() < 0.05)


def speed(check):
    import make_hf

    small = check.make_model("speed", make_hf.llama3, max_position_embeddings=1024)
    models = {"bundled Q8_0": BUNDLED, "bundled Q4_0": check.quantise(BUNDLED, "Q4_0")}
    models |= {f"256-dim {name}": check.quantise(small, name) for name in ["Q8_0", "Q4_0"]}
    prompt = " ".join(["the there hello world"] * 100)
    for name, path in models.items():
        rates = {"ours": [], "llama.cpp": []}
        for _ in range(5):  # one after the other, so that both meet the same neighbours
            run = ["--device", "cpu", "--threads", check.threads, "--temperature", 0, "--ignore-eos", "-n", 200]
            out = json.loads(check.ours("generate", "--model", path, "--prompt", prompt, *run, "--json", "--quiet"))
            rates["ours"].append([out["prompt_tokens_per_second"], out["tokens_per_second"]])
            rates["llama.cpp"].append(their_speed(path, out["prompt_ids"], out["ids"], check.threads))
        (a, b), (c, d) = (np.median(rates[side], axis=0) for side in rates)
        text = f"read {a:.0f} / {c:.0f} tokens/s ({a / c:.2f}), write {b:.0f} / {d:.0f} ({b / d:.2f})"
        check.line("speed, ours / llama.cpp", name, text)


def their_speed(path, prompt, ids, threads):
    """Tokens a second that llama.cpp reads and writes, without sampling, with its default cache of F16."""
    model = Llama(str(path), verbose=False, n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads)
    model.eval(prompt[:8])
    model.reset()
    begin = perf_counter()
    model.eval(prompt)
    middle = perf_counter()
    for token in ids[:-1]:
        model.eval([token])
    return len(prompt) / (middle - begin), (len(ids) - 1) / (perf_counter() - middle)


PARTS = {"families": families, "types": types, "tokenizers": tokenizers, "bundled": bundled, "speed": speed}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all but speed]")
    parser.add_argument("--binary", type=Path, default=HERE.parents[1] / "target/release/sinkstream")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared", help="the folder with data/")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for speed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(args, Path(folder))
        print("| part | what | found |\n| --- | --- | --- |")
        for part in args.parts or [part for part in PARTS if part != "speed"]:
            PARTS[part](check)
    sys.exit(f"{check.missed} missed" if check.missed else 0)


if __name__ == "__main__":
    main()

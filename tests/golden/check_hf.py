"""Compares `sinkstream` with what make_hf.py wrote: NLLs and ids, of each folder as it is and converted.

    python tests/golden/make_hf.py DIR
    python tests/golden/check_hf.py target/release/sinkstream DIR [NAME ...]   exits with 1 if one differs

NLLs may differ by 0.001 nats (float sums in another order, a tanh for erf), with --device cpu and a cache of f32; ids not at all.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TOLERANCE = 0.001


def run(*args, **kwargs):
    return subprocess.run(args, capture_output=True, **kwargs)


def check(command, model, expected, folder):
    """What is wrong, as one line; the largest difference if nothing is."""
    tokens, nll = folder / "tokens.json", folder / "nll.json"
    tokens.write_text(json.dumps(expected["tokens"]))
    args = ["--tokens-file", tokens, "--nll-out", nll, "--attention", "dense", "--cache", "f32", "--device", "cpu", "--quiet"]
    scored = run(command, "perplexity", "--model", model, *args)
    if scored.returncode:
        return False, scored.stderr.decode().strip()
    found = json.loads(nll.read_text())
    largest = max(abs(ours - theirs) for ours, theirs in zip(found, expected["nll"], strict=True))
    tokenized = run(command, "tokenize", "--model", model, input=expected["text"].encode())
    if tokenized.returncode or json.loads(tokenized.stdout) != expected["ids"]:
        return False, "other ids: " + (tokenized.stderr or tokenized.stdout).decode().strip()
    return largest <= TOLERANCE, f"largest difference {largest:.2e} nats"


def main():
    command, models, *names = sys.argv[1:]
    names = names or sorted(path.stem for path in Path(models).glob("*.json"))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in names:
            expected = json.loads((Path(models) / f"{name}.json").read_text())
            converted = folder / f"{name}.gguf"
            made = run(command, "convert", Path(models) / name, converted)
            for model in [Path(models) / name, converted]:
                good, line = check(command, model, expected, folder) if not made.returncode else (False, made.stderr.decode().strip())
                failed += not good
                print("ok  " if good else "FAIL", name, "folder:" if model.is_dir() else "file:  ", line)
    sys.exit(failed > 0)


main()

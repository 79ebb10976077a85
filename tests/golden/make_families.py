"""Makes the golden files of the families: `families/NAME.gguf` and `families/NAME.json`, for every model of `make_hf.py`.

    cargo build --release && python tests/golden/make_families.py [NAME ...]

Run by hand; the files are committed. A small random model is made with transformers and written by `sinkstream convert`
(BF16, as it is). The .json holds 120 random `tokens` and `nll` by configuration, in nats: `dense` from transformers (float32)
and, from `family_reference.py` (float64), which reads the .gguf with the `gguf` package and is checked against transformers
here, `streaming_4_28`, `streaming_1_20` and `window_0_32`. Made with torch 2.15.0, transformers 5.23.0, gguf 0.19.0, numpy 2.4.6.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import make_hf
from family_reference import FamilyStreaming, Model
from streaming_reference import nll

HERE = Path(__file__).parent
SINKSTREAM = HERE.parents[1] / "target/release/sinkstream"
TOKENS = 120
CONFIGURATIONS = {"dense_120": 120, "streaming_4_28": 33, "streaming_1_20": 22, "window_0_32": 33}
SMALLER = {"hidden_size": 32, "intermediate_size": 48, "d_model": 32}


def make(name, folder):
    kind, values, tokenizer = make_hf.MODELS[name]
    values = {key: min(value, SMALLER[key]) if key in SMALLER else value for key, value in values.items()}
    if name == "mpt_six_heads":
        values["d_model"] = 48
    if name == "phi3_longrope":  # so that 120 tokens are many and 33 are few
        values["hidden_size"], values["original_max_position_embeddings"] = 64, 64
        values["rope_parameters"] = values["rope_parameters"] | {"original_max_position_embeddings": 64}
    make_hf.MODELS[name] = (kind, values, tokenizer)
    make_hf.make(folder, name, 200 + list(make_hf.MODELS).index(name))
    path = HERE / "families" / f"{name}.gguf"
    subprocess.run([SINKSTREAM, "convert", folder / name, path], check=True)

    hf = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, hf.config.vocab_size - 10, (TOKENS,), generator=generator)
    with torch.no_grad():
        logits = hf(tokens[None]).logits[0].double()
    dense = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none").numpy()
    found = {}
    for configuration, cache_size in CONFIGURATIONS.items():
        model = Model(path, cache_size)
        found[configuration] = nll(model, tokens.tolist(), configuration, FamilyStreaming)
    difference = np.abs(found.pop("dense_120") - dense).max()
    assert difference < 2e-5, f"{name}: {difference} from transformers"
    found["dense"] = dense
    rounded = {key: [round(float(value), 6) for value in values] for key, values in found.items()}
    (HERE / "families" / f"{name}.json").write_text(json.dumps({"tokens": tokens.tolist(), "nll": rounded}) + "\n")
    print(f"{name}: {path.stat().st_size} bytes, {difference:.1e} from transformers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(make_hf.MODELS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    (HERE / "families").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            make(name, Path(folder))


if __name__ == "__main__":
    main()

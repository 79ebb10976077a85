"""Makes the golden files of softmax with one more score, that of no key and no value, and of attention on the first token.

    python tests/golden/make_sinks.py

Run by hand; the files are committed. `families/llama_sinks` (learned logits, `blk.N.attn_sinks.weight`) and
`families/llama_zero_sink` (`sinkstream.zero_sink`) are random llamas of `random_llama.py`, their .json as `make_families.py`
makes them: `dense` from transformers (float32), the others from `family_reference.py` (float64). In transformers, llama
gets the attention of gpt-oss, which has such logits.

`attention.json`: `{model: {mode: [layer][head]}}`, the mean attention on the first token of the stream over the queries
from a quarter of the tokens on; `dense` of the two llamas from transformers, all else from `family_reference.py`.
Made with torch 2.15.0, transformers 5.23.0, gguf 0.19.0, numpy 2.4.6.
"""
import json
from pathlib import Path

import numpy as np
import torch
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama

from family_reference import FamilyStreaming, Model
from make_families import CONFIGURATIONS, TOKENS
from make_golden import transformers_llama
from random_llama import Shape, random_tokens, write_gguf
from streaming_reference import Llama, nll, stream_logits

HERE = Path(__file__).parent
SHAPE = Shape(
    dim=48, ffn_dim=64, n_layers=2, n_heads=6, n_kv_heads=2, head_dim=8, vocab_size=113, tied=False, types={"matrix": "F16"},
)  # fmt: skip
# Softmax over 32 scores has a sum of about 100: these logits take from a hundredth to nearly all.
LOGITS = np.random.default_rng(11).uniform(0, 8, (SHAPE.n_layers, SHAPE.n_heads)).astype(np.float32)
# Distances, soft caps, local layers.
OTHERS = ["mpt", "gemma2"]


def learned(writer):
    for layer, logits in enumerate(LOGITS):
        writer.add_tensor(f"blk.{layer}.attn_sinks.weight", logits)


def zero(writer):
    writer.add_bool("sinkstream.zero_sink", True)


@torch.no_grad()
def transformers_run(path, logits, tokens):
    """NLLs, and attention `[layer, head, query, token]`."""
    hf = transformers_llama(Llama(path))
    modeling_llama.eager_attention_forward = modeling_gpt_oss.eager_attention_forward
    for layer, of_layer in zip(hf.model.layers, logits):
        layer.self_attn.sinks = torch.tensor(of_layer)
    tokens = torch.tensor(tokens)
    out = hf(tokens[None], output_attentions=True)
    nlls = torch.nn.functional.cross_entropy(out.logits[0, :-1].double(), tokens[1:], reduction="none")
    return nlls.numpy(), torch.cat(out.attentions).numpy()


class Watched(FamilyStreaming):
    """A stream that adds up the attention on its first token, from a query on."""

    def __init__(self, model, sinks, window, first_query):
        super().__init__(model, sinks, window)
        self.first_query, self.sum = first_query, np.zeros((model.n_layers, model.n_heads))
        self.steps = 0

    def weights(self, layer, q):
        weights = super().weights(layer, q)
        if self.steps >= self.first_query and (self.sinks > 0 or weights.shape[1] == self.steps + 1):
            self.sum[layer] += weights[:, 0]
        return weights

    def step(self, token):
        logits = super().step(token)
        self.steps += 1
        return logits


def attention(model, tokens, sinks, window):
    stream = Watched(model, sinks, window, len(tokens) // 4)
    stream_logits(stream, tokens)
    return stream.sum / (len(tokens) - len(tokens) // 4)


def rounded(values):
    return np.round(values, 6).tolist()


def main():
    torch.set_num_threads(1)
    modes = {"dense": (0, TOKENS), "streaming_4_28": (4, 28), "window_0_100": (0, 100)}
    on_first = {}
    for name, add_more, logits, seed in [("llama_sinks", learned, LOGITS, 21), ("llama_zero_sink", zero, 0 * LOGITS, 22)]:
        path = HERE / "families" / f"{name}.gguf"
        write_gguf(path, SHAPE, seed, add_more)
        tokens, model = random_tokens(SHAPE, seed, TOKENS), Model(path)
        found = {mode: nll(model, tokens, mode, FamilyStreaming) for mode in CONFIGURATIONS}
        dense, weights = transformers_run(path, logits, tokens)
        plain, _ = transformers_run(path, logits - np.inf, tokens)
        difference = np.abs(found.pop("dense_120") - dense).max()
        assert difference < 2e-5, f"{name}: {difference} from transformers"
        found["dense"] = dense
        content = {"tokens": tokens, "nll": {mode: rounded(values) for mode, values in found.items()}}
        (HERE / "families" / f"{name}.json").write_text(json.dumps(content) + "\n")
        print(f"{name}: {difference:.1e} from transformers, {np.abs(plain - dense).max():.2f} from the same without")
        on_first[name] = {mode: rounded(attention(model, tokens, *sizes)) for mode, sizes in modes.items()}
        of_transformers = weights[:, :, TOKENS // 4 :, 0].mean(axis=2)
        assert np.abs(of_transformers - on_first[name]["dense"]).max() < 2e-6
        on_first[name]["dense"] = rounded(of_transformers.astype(float))
    for name in OTHERS:
        path = HERE / "families" / name
        tokens = json.loads(path.with_suffix(".json").read_text())["tokens"]
        model = Model(path.with_suffix(".gguf"))
        on_first[name] = {mode: rounded(attention(model, tokens, *sizes)) for mode, sizes in modes.items()}
    lines = [f" {json.dumps(name)}: {json.dumps(of_modes)}" for name, of_modes in on_first.items()]
    (HERE / "attention.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

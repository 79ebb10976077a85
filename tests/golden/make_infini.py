"""Makes the golden files of Infini-attention: `families/infini_linear` and `families/infini_delta`.

    python tests/golden/make_infini.py

Run by hand; the files are committed. Random llamas of `random_llama.py` with gates (`blk.N.attn_infini_gate.weight`), segments of
`sinkstream.infini.segment_length` tokens, three of them and a half. `infini` in the .json: NLLs of a stream in PyTorch, one
token a step, float64, as Munkhdalai et al. word it (arXiv 2404.07143, section 3); `streaming_4_28`: the same file without
its memory, from `streaming_reference.py`. Stops when an off-by-one, or another reading of the paper, would go unnoticed.
Made with torch 2.15.0, gguf 0.19.0, numpy 2.4.6.
"""
import json
from pathlib import Path

import numpy as np
import torch

from random_llama import Shape, random_tokens, write_gguf
from streaming_reference import Llama, nll, nll_of

HERE = Path(__file__).parent
# Lengths that are no multiples of anything; in one file pairs of heads share a memory.
MODELS = {
    "infini_linear": ("linear", 32, 31, dict(n_heads=4, n_kv_heads=2, head_dim=12, dim=48)),
    "infini_delta": ("delta", 37, 32, dict(n_heads=3, n_kv_heads=3, head_dim=10, dim=30)),
}


def sigma(x):
    return torch.where(x > 0, x + 1, torch.exp(x))


class Infini:
    """One stream. Per layer: the open segment's keys (un-rotated) and values `[kv_head][token][head_dim]`, M, z."""

    def __init__(self, model, gates, segment, update, rotated=False, zeroed=False):
        self.m, self.gates, self.segment, self.update = model, gates, segment, update
        self.rotated, self.zeroed = rotated, zeroed
        self.w = {name: torch.tensor(values) for name, values in model.weights.items()}
        kv, d = model.n_kv_heads, model.head_dim
        empty = torch.zeros(kv, 0, d, dtype=torch.float64)
        self.keys, self.values = [empty] * model.n_layers, [empty] * model.n_layers
        self.M = [torch.zeros(kv, d, d, dtype=torch.float64) for _ in range(model.n_layers)]
        self.z = [torch.zeros(kv, d, dtype=torch.float64) for _ in range(model.n_layers)]
        self.position = 0

    def norm(self, x, name):
        return x / torch.sqrt((x * x).mean() + self.m.eps) * self.w[f"{name}.weight"]

    def rotate(self, x, positions):
        """`x [heads][token][head_dim]`."""
        return torch.tensor(self.m.rotate(x.transpose(0, 1).numpy(), np.asarray(positions))).transpose(0, 1)

    def read(self, weights, layer):
        """What σ of queries or keys `[kv_head][rows][head_dim]` reads; zero while there is nothing."""
        if self.zeroed:
            return torch.zeros_like(weights)
        below = (weights @ self.z[layer][:, :, None]).clamp(min=1e-6)
        return weights @ self.M[layer] / below

    def fold(self, layer):
        keys, values = self.keys[layer], self.values[layer]
        if self.rotated:
            keys = self.rotate(keys, range(keys.shape[1]))
        weights = sigma(keys)
        fresh = values - self.read(weights, layer) if self.update == "delta" else values
        self.M[layer] = self.M[layer] + weights.transpose(1, 2) @ fresh
        self.z[layer] = self.z[layer] + weights.sum(1)
        self.keys[layer], self.values[layer] = keys[:, :0], values[:, :0]

    def step(self, token):
        m = self.m
        group = m.n_heads // m.n_kv_heads
        x = self.w["token_embd.weight"][token]
        for layer in range(m.n_layers):
            if self.keys[layer].shape[1] == self.segment:
                self.fold(layer)
            matrix = lambda name: self.w[f"blk.{layer}.{name}.weight"]
            h = self.norm(x, f"blk.{layer}.attn_norm")
            q = (matrix("attn_q") @ h).view(m.n_kv_heads, group, m.head_dim)
            k, v = ((matrix(f"attn_{name}") @ h).view(m.n_kv_heads, 1, m.head_dim) for name in "kv")
            self.keys[layer] = torch.cat([self.keys[layer], k], 1)
            self.values[layer] = torch.cat([self.values[layer], v], 1)
            places = range(self.keys[layer].shape[1])
            keys = self.rotate(self.keys[layer], places)
            turned = self.rotate(q, [places[-1]] * group)
            scores = torch.softmax(turned @ keys.transpose(1, 2) / m.head_dim**0.5, dim=-1)
            local = scores @ self.values[layer]
            gate = torch.sigmoid(self.gates[layer]).view(m.n_kv_heads, group, 1)
            remembered = self.read(sigma(turned if self.rotated else q), layer)
            attended = gate * remembered + (1 - gate) * local
            x = x + matrix("attn_output") @ attended.reshape(-1)
            h = self.norm(x, f"blk.{layer}.ffn_norm")
            x = x + matrix("ffn_down") @ (torch.nn.functional.silu(matrix("ffn_gate") @ h) * (matrix("ffn_up") @ h))
        return self.w["token_embd.weight" if m.tied else "output.weight"] @ self.norm(x, "output_norm")


def main():
    torch.set_num_threads(1)
    for name, (update, segment, seed, sizes) in MODELS.items():
        shape = Shape(ffn_dim=64, n_layers=2, vocab_size=101, tied=False, types={"matrix": "F16"}, **sizes)
        gates = np.random.default_rng(seed).uniform(-1.5, 2.5, (shape.n_layers, shape.n_heads)).astype(np.float32)

        def add_more(writer):
            writer.add_uint32("sinkstream.infini.segment_length", segment)
            writer.add_string("sinkstream.infini.update", update)
            for layer, of_layer in enumerate(gates):
                writer.add_tensor(f"blk.{layer}.attn_infini_gate.weight", of_layer)

        path = HERE / "families" / f"{name}.gguf"
        write_gguf(path, shape, seed, add_more)
        model = Llama(path)
        tokens = random_tokens(shape, seed, 3 * segment + segment // 2 + 1)

        def of(**changes):
            how = dict(segment=segment, update=update) | changes
            stream = Infini(model, torch.tensor(gates, dtype=torch.float64), **how)
            return nll_of(np.stack([stream.step(token).numpy() for token in tokens[:-1]]), tokens[1:])

        found = {"infini": of(), "streaming_4_28": nll(model, tokens, "streaming_4_28")}
        other = {
            "zeroed": of(zeroed=True), "segment + 1": of(segment=segment + 1), "segment - 1": of(segment=segment - 1),
            "rotated": of(rotated=True), "other update": of(update="linear" if update == "delta" else "delta"),
        }  # fmt: skip
        for what, values in other.items():
            difference = np.abs(values - found["infini"])
            assert difference[2 * segment :].mean() > 0.01 and difference.max() > 0.1, what
            print(f"{name}, {what}: mean {difference.mean():.3f}, largest {difference.max():.3f}")
        content = {"tokens": tokens, "nll": {mode: np.round(values, 6).tolist() for mode, values in found.items()}}
        (HERE / "families" / f"{name}.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()

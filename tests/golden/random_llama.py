"""Makes a random, lively llama model as a GGUF file, of a random odd shape, with the NLLs that it must give.

    python tests/golden/random_llama.py SEED OUT.gguf OUT.json [--type f32|f16|q8_0|q4_0] [--tokens 300]

The same seed gives the same files. For trying the engine on models that it was never fitted to; `make_golden.py` makes the
committed ones with the same code. Needs numpy 2.4 and gguf 0.19.

Lively: attention scores have a standard deviation of about `SCORE_STD`, so that a query reads a few tokens and not the
mean of all; blocks add more to the residual stream than the embedding brought, so that the next token depends on what was
read. A wrong window or sink position then costs tenths of nats, rounding the cache to 16 bits about a thousandth.
"""
import argparse
import json
from dataclasses import asdict, dataclass, field

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from streaming_reference import Llama, nll

CONFIGURATIONS = ["streaming_4_28", "streaming_1_20", "window_0_32", "dense", "recompute_25"]
# Standard deviation of q·k/√head_dim. From about 2.6 = √(2 ln 32) on, softmax over 32 keys picks one; near that, and with
# larger logits, a 16-bit cache alone comes near the 0.002 nats (mean) that the project allows itself.
SCORE_STD = 1.5
LOGIT_STD = 1.5


@dataclass
class Shape:
    dim: int
    ffn_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    rope_theta: float = 10000.0
    rope_freqs: bool = False  # a `rope_freqs.weight` tensor: a divisor for each frequency
    eps: float = 1e-5
    context: int = 512
    alignment: int = 32
    tokenizer: str | None = None  # `tokenizer.ggml.model`
    leave_out: list = field(default_factory=list)  # keys that llama.cpp has defaults for
    types: dict = field(default_factory=dict)  # tensor name without `blk.N.` and `.weight`, or "matrix", to type


def random_weights(shape, rng):
    """Tensors by GGUF name, float32, matrices `[out, in]`; `attn_q` and `attn_k` in GGUF's order: pairs lie side by side."""
    s = shape

    def matrix(rows, columns, std):
        """`std`: of what comes out for an input of mean square 1."""
        return rng.normal(0, std / np.sqrt(columns), (rows, columns)).astype(np.float32)

    def gains():
        return rng.uniform(0.6, 1.4, s.dim).astype(np.float32)

    width, kv_width = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
    embedding_std = LOGIT_STD / np.sqrt(s.dim) if s.tied else 0.4
    weights = {
        "token_embd.weight": rng.normal(0, embedding_std, (s.vocab_size, s.dim)).astype(np.float32),
        "output_norm.weight": gains(),
    }
    for layer in range(s.n_layers):
        blk = f"blk.{layer}."
        weights[f"{blk}attn_norm.weight"] = gains()
        weights[f"{blk}attn_q.weight"] = matrix(width, s.dim, np.sqrt(SCORE_STD))
        weights[f"{blk}attn_k.weight"] = matrix(kv_width, s.dim, np.sqrt(SCORE_STD))
        weights[f"{blk}attn_v.weight"] = matrix(kv_width, s.dim, 1.0)
        weights[f"{blk}attn_output.weight"] = matrix(s.dim, width, 1.0)
        weights[f"{blk}ffn_norm.weight"] = gains()
        weights[f"{blk}ffn_gate.weight"] = matrix(s.ffn_dim, s.dim, 1.2)
        weights[f"{blk}ffn_up.weight"] = matrix(s.ffn_dim, s.dim, 1.2)
        weights[f"{blk}ffn_down.weight"] = matrix(s.dim, s.ffn_dim, 0.8)
    if s.rope_freqs:
        weights["rope_freqs.weight"] = np.exp(rng.uniform(np.log(0.4), np.log(4.0), s.head_dim // 2)).astype(np.float32)
    if not s.tied:
        weights["output.weight"] = matrix(s.vocab_size, s.dim, LOGIT_STD)
    return weights


def tensor_type(shape, name):
    """Matrices as the shape says, vectors F32 as in every llama.cpp file."""
    short = name.removesuffix(".weight").split(".")[-1]
    if short.endswith("norm") or short == "rope_freqs":
        return GGMLQuantizationType.F32
    return GGMLQuantizationType[shape.types.get(short, shape.types["matrix"])]


def write_gguf(path, shape, seed, add_more=lambda writer: None):
    """`add_more` is called with the writer when all keys and tensors of a llama are in."""
    writer = GGUFWriter(path, "llama")
    if shape.alignment != 32:
        writer.add_custom_alignment(shape.alignment)
    keys = {
        "vocab_size": lambda: writer.add_vocab_size(shape.vocab_size),
        "context_length": lambda: writer.add_context_length(shape.context),
        "embedding_length": lambda: writer.add_embedding_length(shape.dim),
        "block_count": lambda: writer.add_block_count(shape.n_layers),
        "feed_forward_length": lambda: writer.add_feed_forward_length(shape.ffn_dim),
        "attention.head_count": lambda: writer.add_head_count(shape.n_heads),
        "attention.head_count_kv": lambda: writer.add_head_count_kv(shape.n_kv_heads),
        "attention.layer_norm_rms_epsilon": lambda: writer.add_layer_norm_rms_eps(shape.eps),
        "rope.freq_base": lambda: writer.add_rope_freq_base(shape.rope_theta),
        "rope.dimension_count": lambda: writer.add_rope_dimension_count(shape.head_dim),
    }
    if shape.n_heads * shape.head_dim != shape.dim:
        keys["attention.key_length"] = lambda: writer.add_key_length(shape.head_dim)
        keys["attention.value_length"] = lambda: writer.add_value_length(shape.head_dim)
    for name, add in keys.items():
        if name not in shape.leave_out:
            add()
    if shape.tokenizer:
        writer.add_tokenizer_model(shape.tokenizer)
    for name, values in random_weights(shape, np.random.default_rng(seed)).items():
        kind = tensor_type(shape, name)
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    add_more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_tokens(shape, seed, count):
    return [int(token) for token in np.random.default_rng([seed, 1]).integers(0, shape.vocab_size, count)]


def reference(path, shape, tokens):
    """The part of the JSON that every model has."""
    model = Llama(path)
    return {
        "about": "NLL in nats of each token but the first, float64, weights dequantised from the GGUF; made by tests/golden",
        "shape": asdict(shape),
        "tokens": tokens,
        "nll": {name: [round(float(value), 7) for value in nll(model, tokens, name)] for name in CONFIGURATIONS},
    }


def write_json(path, content):
    """Two levels of names, one line a value, so that a change shows where it is."""

    def line(value):
        return json.dumps(value, separators=(",", ":"))

    def block(value):
        if not isinstance(value, dict):
            return line(value)
        return "{\n" + ",\n".join(f"  {line(name)}: {line(inner)}" for name, inner in value.items()) + "\n }"

    body = ",\n".join(f" {line(name)}: {block(value)}" for name, value in content.items())
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + body + "\n}\n")


def random_shape(seed, type_name):
    """Anything that the type allows: rows of block types are multiples of 32, those of the others need not even be of 4."""
    rng = np.random.default_rng([seed, 2])
    blocks = type_name in ("q8_0", "q4_0")
    group, n_kv_heads = int(rng.choice([1, 2, 3, 4])), int(rng.choice([1, 2, 3]))
    n_heads = group * n_kv_heads
    if blocks:
        head_dim = int(rng.choice([16, 32])) if n_heads % 2 == 0 else 32
    else:
        head_dim = 2 * int(rng.integers(3, 13))
    width = n_heads * head_dim
    # In some the heads do not add up to `dim` (`attention.key_length`), as in Mistral Nemo.
    unit = np.lcm(32 if blocks else 1, n_heads)
    dim = int(unit * rng.integers(-(-40 // unit), 96 // unit + 2)) if rng.random() < 0.3 else width
    return Shape(
        dim=dim,
        ffn_dim=32 * int(rng.integers(2, 7)) if blocks else int(rng.integers(40, 200)),
        n_layers=int(rng.integers(2, 5)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=int(rng.integers(70, 400)),
        tied=bool(rng.random() < 0.5),
        rope_theta=float(rng.choice([10000.0, 100000.0, 500000.0])),
        rope_freqs=bool(rng.random() < 0.3),
        eps=float(rng.choice([1e-5, 1e-6])),
        types={"matrix": type_name.upper()},
    )


def main():
    parser = argparse.ArgumentParser(description="Make a random lively llama model and its reference NLLs.")
    parser.add_argument("seed", type=int)
    parser.add_argument("gguf")
    parser.add_argument("json")
    parser.add_argument("--type", default="f32", choices=["f32", "f16", "q8_0", "q4_0"])
    parser.add_argument("--tokens", type=int, default=300)
    arguments = parser.parse_args()
    shape = random_shape(arguments.seed, arguments.type)
    write_gguf(arguments.gguf, shape, arguments.seed)
    tokens = random_tokens(shape, arguments.seed, arguments.tokens)
    write_json(arguments.json, reference(arguments.gguf, shape, tokens))


if __name__ == "__main__":
    main()

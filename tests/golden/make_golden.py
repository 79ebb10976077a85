"""Makes the golden models and what they must compute: `odd_tied`, `q8`, `q4_mixed`, each a .gguf and a .json beside this file.

    python tests/golden/make_golden.py                           makes all six files anew, checks them, prints the numbers
    python tests/golden/make_golden.py --check-shared ../shared  only checks the streaming reference, on stories260K

Run by hand; the files are committed. Made with Python 3.11, numpy 2.4.6, gguf 0.19.0, torch 2.15.0 and transformers 5.23.0,
on one thread, in about a minute. The models come from fixed seeds: the .gguf come out bit by bit the same. Logits and
tensors come from transformers' LlamaForCausalLM (float32), NLLs from `streaming_reference.py` (float64); each is checked
against the other here. Stops when the two disagree, when an off-by-one would go unnoticed, or when a 16-bit cache alone
would cost too much.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from random_llama import CONFIGURATIONS, Shape, random_tokens, reference, write_gguf, write_json
from streaming_reference import Llama, Streaming, nll, stream_logits

HERE = Path(__file__).parent
TOKENS = 300  # so that a chunk of 128 begins twice after the first eviction
DENSE_TOKENS = 48  # run through transformers
LOGIT_POSITIONS = [0, 1, 7, 31, 47]
TENSOR_TOKENS = 6

# (shape, seed). What each is for stands in README.md.
MODELS = {
    "odd_tied": (
        Shape(
            dim=36, ffn_dim=99, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=6, vocab_size=97, tied=True,
            leave_out=["vocab_size", "rope.freq_base"], types={"matrix": "F32"},
        ),
        1,
    ),
    "q8": (
        Shape(
            dim=64, ffn_dim=96, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16, vocab_size=128, tied=False,
            rope_theta=500000.0, rope_freqs=True, tokenizer="none", leave_out=["attention.head_count_kv"],
            types={"matrix": "Q8_0"},
        ),
        2,
    ),
    "q4_mixed": (
        Shape(
            dim=64, ffn_dim=96, n_layers=2, n_heads=4, n_kv_heads=1, head_dim=24, vocab_size=131, tied=False,
            eps=1e-6, alignment=64,
            types={"matrix": "Q4_0", "attn_v": "F16", "ffn_down": "BF16", "token_embd": "Q8_0", "output": "F16"},
        ),
        3,
    ),
}  # fmt: skip


# ---- transformers ----


def to_halves(rows, n_heads):
    """Rows of q or k from GGUF's order (the pairs of RoPE side by side) to that of transformers (first half, second half)."""
    return rows.reshape(n_heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_pairs(heads):
    """`[n_heads, head_dim]` from transformers' order to GGUF's."""
    return heads.reshape(len(heads), 2, -1).swapaxes(1, 2).reshape(heads.shape)


def transformers_llama(model):
    """The same weights in transformers, float32."""
    config = LlamaConfig(
        hidden_size=model.dim, intermediate_size=model.ffn_dim, num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads, num_key_value_heads=model.n_kv_heads, head_dim=model.head_dim,
        vocab_size=model.vocab_size, rms_norm_eps=model.eps, tie_word_embeddings=model.tied,
        max_position_embeddings=512, attention_bias=False, mlp_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        attn_implementation="eager",
    )  # fmt: skip
    hf = LlamaForCausalLM(config).eval().float()
    names = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    state = {
        "model.embed_tokens.weight": model.weights["token_embd.weight"],
        "model.norm.weight": model.weights["output_norm.weight"],
        "lm_head.weight": model.weights["token_embd.weight" if model.tied else "output.weight"],
    }
    for layer in range(model.n_layers):
        for ours, theirs in names.items():
            rows = model.weights[f"blk.{layer}.{ours}.weight"]
            if ours in ("attn_q", "attn_k"):
                rows = to_halves(rows, model.n_heads if ours == "attn_q" else model.n_kv_heads)
            state[f"model.layers.{layer}.{theirs}.weight"] = rows
    hf.load_state_dict({name: torch.tensor(rows, dtype=torch.float32) for name, rows in state.items()}, strict=True)
    if "rope_freqs.weight" in model.weights:  # transformers has no setting for free divisors: put them where it would
        hf.model.rotary_emb.inv_freq = hf.model.rotary_emb.inv_freq / torch.tensor(
            model.weights["rope_freqs.weight"], dtype=torch.float32
        )
    return hf


@torch.no_grad()
def transformers_run(model, tokens):
    """Logits `[tokens, vocab_size]`, and what layer 0 does for the last of the first `TENSOR_TOKENS` tokens."""
    hf = transformers_llama(model)
    logits = hf(torch.tensor([tokens])).logits[0].numpy()

    seen = {}
    attention = hf.model.layers[0].self_attn
    hooks = [hf.model.rotary_emb.register_forward_hook(lambda _m, _i, out: seen.update(rotary=out))]
    for name in ("q_proj", "k_proj"):
        hooks.append(getattr(attention, name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out})))
    hooks.append(attention.o_proj.register_forward_hook(lambda _m, into, out: seen.update(attn=into[0], attn_output=out)))
    for layer, block in enumerate(hf.model.layers):
        hooks.append(block.register_forward_hook(lambda _m, _i, out, layer=layer: seen.update({f"block_{layer}": out})))
    hf(torch.tensor([tokens[:TENSOR_TOKENS]]))
    for hook in hooks:
        hook.remove()

    def heads(name):
        return seen[name][0].view(TENSOR_TOKENS, -1, model.head_dim).transpose(0, 1)[None]

    q, k = apply_rotary_pos_emb(heads("q_proj"), heads("k_proj"), *seen["rotary"])
    tensors = {
        "tokens": TENSOR_TOKENS,
        "layer": 0,
        "token": TENSOR_TOKENS - 1,
        "q_rotated": to_pairs(q[0, :, -1].numpy()),
        "k_rotated": to_pairs(k[0, :, -1].numpy()),
        "attn": seen["attn"][0, -1].numpy(),
        "attn_output": seen["attn_output"][0, -1].numpy(),
        "residual": np.stack([seen[f"block_{layer}"][0].numpy() for layer in range(model.n_layers)]),
    }
    return logits, tensors


def six_digits(values):
    """Nested lists, rounded to 6 significant digits."""
    if isinstance(values, int):
        return values
    return [six_digits(v) for v in values] if np.ndim(values) else float(f"{float(values):.6g}")


# ---- mistakes that must show, and rounding that must not ----


class SlackMinusOne(Streaming):
    """The ring has one slot too few: in a chunk of `chunk` tokens the first query's oldest token is already overwritten."""

    chunk = 1

    def attend(self, layer, q):
        m, keys, values = self.model, self.keys[layer], self.values[layer]
        self.seen = getattr(self, "seen", -1) + (layer == 0)
        positions = np.arange(len(keys))
        if self.seen % self.chunk == 0 and len(keys) > self.sinks + self.window:
            keep = positions != self.sinks
            return m.attention(m.rotate(q, positions[-1]), m.rotate(keys, positions)[keep], values[keep])
        return super().attend(layer, q)


class SlackMinusOneChunk128(SlackMinusOne):
    chunk = 128


def with_sink_positions(offset):
    class SinkPosition(Streaming):
        """The query stands `offset` positions too far from the sinks."""

        def attend(self, layer, q):
            m, positions = self.model, np.arange(len(self.keys[layer]))
            at = positions - offset * (positions < min(self.sinks, len(positions) - 1))
            return m.attention(m.rotate(q, positions[-1]), m.rotate(self.keys[layer], at), self.values[layer])

    return SinkPosition


class KeyPositionLate(Streaming):
    """Every key is rotated for the position after its own."""

    def attend(self, layer, q):
        m, positions = self.model, np.arange(len(self.keys[layer]))
        return m.attention(m.rotate(q, positions[-1]), m.rotate(self.keys[layer], positions + 1), self.values[layer])


class KeyWrittenLate(Streaming):
    """A token's key and value lie in the slot of the token before, which is lost; its own slot is still empty."""

    def attend(self, layer, q):
        m, positions = self.model, np.arange(len(self.keys[layer]))
        keys, values = m.rotate(self.keys[layer], positions), self.values[layer].copy()
        if len(positions) > 1:
            keys[-2:], values[-2:] = [keys[-1], 0 * keys[-1]], [values[-1], 0 * values[-1]]
        return m.attention(m.rotate(q, positions[-1]), keys, values)


class F16Cache(Streaming):
    """Keys and values rounded to 16 bits: what the engine's default cache costs."""

    def attend(self, layer, q):
        m, positions = self.model, np.arange(len(self.keys[layer]))
        exact = m.rotate(self.keys[layer], positions), self.values[layer]
        keys, values = (x.astype(np.float16).astype(x.dtype) for x in exact)
        return m.attention(m.rotate(q, positions[-1]), keys, values)


def mistakes(sinks, window):
    """Name, configuration, kind of stream. A larger cache than the engine's own window stands for a wrong window."""
    same = f"streaming_{sinks}_{window}"
    yield "window + 1", f"streaming_{sinks}_{window + 1}", Streaming
    yield "window - 1", f"streaming_{sinks}_{window - 1}", Streaming
    if sinks:
        yield "sink position + 1", same, with_sink_positions(1)
        yield "sink position - 1", same, with_sink_positions(-1)
        yield "one sink too few", f"streaming_{sinks - 1}_{window + 1}", Streaming
    yield "slack - 1", same, SlackMinusOne
    yield "slack - 1, chunks of 128", same, SlackMinusOneChunk128
    yield "key position late by one", same, KeyPositionLate
    yield "key written late", same, KeyWrittenLate


def check_mistakes(model, content):
    """Differences in NLL that each mistake makes at queries that miss a token (index ≥ sinks + window + 1)."""

    def show(name, label, difference):
        noticed = f"> 0.02: {(difference > 0.02).sum():3} of {len(difference)}"
        print(f"  {name:15} {label:26} largest {difference.max():7.4f}   {noticed}")

    tokens, small = content["tokens"], []
    for sinks, window in ((4, 28), (1, 20), (0, 32)):
        name = f"streaming_{sinks}_{window}" if sinks else f"window_{sinks}_{window}"
        right, after = np.array(content["nll"][name]), sinks + window + 1
        for mistake, configuration, kind in mistakes(sinks, window):
            difference = np.abs(nll(model, tokens, configuration, kind) - right)[after:]
            show(name, mistake, difference)
            if difference.max() < 0.05:
                small.append((name, mistake))
    for name in CONFIGURATIONS[1:]:
        difference = np.abs(np.array(content["nll"][name]) - content["nll"]["streaming_4_28"])[33:]
        show(name, "instead of streaming_4_28", difference)
    assert not small, f"mistakes that hardly show: {small}"


def check_rounding(path, content):
    """Limits: half of what the project allows itself for a 16-bit cache (mean 0.002, largest 0.02) and a fifth of
    that for float32 (1e-4, 1e-3)."""
    for label, dtype, kind, mean, largest in (
        ("float32", np.float32, Streaming, 2e-5, 2e-4),
        ("16-bit cache", np.float64, F16Cache, 1e-3, 1e-2),
    ):
        model = Llama(path, dtype)
        for name in CONFIGURATIONS:
            difference = np.abs(nll(model, content["tokens"], name, kind) - content["nll"][name])
            print(f"  {name:15} {label:26} mean {difference.mean():.1e}, largest {difference.max():.1e}")
            assert difference.mean() < mean and difference.max() < largest


def make(name):
    shape, seed = MODELS[name]
    path = HERE / f"{name}.gguf"
    write_gguf(path, shape, seed)
    model, tokens = Llama(path), random_tokens(shape, seed, TOKENS)
    content = reference(path, shape, tokens)

    logits, tensors = transformers_run(model, tokens[:DENSE_TOKENS])
    ours = stream_logits(Streaming(model, 0, DENSE_TOKENS), tokens[:DENSE_TOKENS])
    content["logits"] = {"positions": LOGIT_POSITIONS, "values": six_digits(logits[LOGIT_POSITIONS])}
    if name == "odd_tied":
        content["tensors"] = {key: six_digits(values) for key, values in tensors.items()}
    write_json(HERE / f"{name}.json", content)

    print(f"{name}: {path.stat().st_size} and {(HERE / f'{name}.json').stat().st_size} bytes, {len(model.types)} tensors")
    worst = np.abs(logits - ours).max()
    print(f"  logits: standard deviation {ours.std():.2f}; transformers against the reference: largest {worst:.1e}")
    assert worst < 1e-4
    print("  mean NLL:", ", ".join(f"{key} {np.mean(values):.3f}" for key, values in content["nll"].items()))
    check_rounding(path, content)
    check_mistakes(model, content)


def check_shared(folder):
    """Against NLLs that were computed elsewhere, in float32, rounded to 5 decimals."""
    folder = Path(folder) / "data/models/stories260K"
    model = Llama(folder / "stories260K-f32.gguf")
    expected = json.loads((folder / "streaming_reference.json").read_text(encoding="utf-8"))
    for name, values in expected.items():
        if name in ("about", "tokens"):
            continue
        tokens = expected["tokens"][: len(values) + 1]
        difference = np.abs(nll(model, tokens, name) - np.array(values))
        print(f"{name:16} {len(values):5} NLLs: largest difference {difference.max():.1e}, mean {difference.mean():.1e}")
        assert difference.max() < 1e-3


def main():
    parser = argparse.ArgumentParser(description="Make the golden models and references, or check the streaming reference.")
    parser.add_argument("--check-shared", nargs="?", const="../shared", metavar="FOLDER", help="default ../shared")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.check_shared:
        check_shared(arguments.check_shared)
        return
    for name in MODELS:
        make(name)


if __name__ == "__main__":
    main()

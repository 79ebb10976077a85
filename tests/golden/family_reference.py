"""The step-by-step reference of `streaming_reference.py` for every family, read from a GGUF file by its metadata.

Plain numpy in float64, one token a step, nothing shared with the engine. Like the original method: keys are cached
un-rotated (or, for ALiBi, as they are) and take the position that they have in the cache at every step. Layers with a window
of their own see no more of the cache than its last tokens.
"""
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from streaming_reference import Streaming

LAYER_NORMS = ("gptneox", "falcon", "mpt")
GATED = ("llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3")
EXACT_GELU = ("gptneox", "falcon", "mpt")


def erf(x):
    """The error function, by a table of its integral (Simpson's rule), to 1e-12; linear interpolation would be too rough."""
    grid, half = np.linspace(-6, 6, 48001), 0.5
    density = lambda t: 2 / np.sqrt(np.pi) * np.exp(-t * t)
    step = grid[1] - grid[0]
    pieces = (density(grid[:-1]) + 4 * density(grid[:-1] + half * step) + density(grid[1:])) * step / 6
    table = np.concatenate([[0], np.cumsum(pieces)]) - 1
    at = np.clip(np.round((np.clip(x, -6, 6) + 6) / step).astype(int), 0, len(grid) - 1)
    d = np.clip(x, -6, 6) - grid[at]
    f = density(grid[at])
    return table[at] + f * (d - grid[at] * d**2 + (4 * grid[at] ** 2 - 2) * d**3 / 6)  # Taylor to the third order


class Model:
    """The weights `[out, in]` and numbers of a GGUF file."""

    def __init__(self, path, cache_size=None):
        """`cache_size`: tokens that a query may see; Phi-3 chooses its factors by it."""
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        arch = self.arch = fields["general.architecture"]
        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}

        def field(name, default=None):
            return fields.get(f"{arch}.{name}", default)

        self.n_layers, self.dim, self.n_heads = field("block_count"), field("embedding_length"), field("attention.head_count")
        self.n_kv_heads = field("attention.head_count_kv", self.n_heads)
        self.head_dim = field("attention.key_length", self.dim // self.n_heads)
        kind = "layer_norm_epsilon" if arch in LAYER_NORMS else "layer_norm_rms_epsilon"
        self.eps = field(f"attention.{kind}", 1e-5)
        self.rotary = 0 if arch == "mpt" else field("rope.dimension_count", self.head_dim)
        self.neighbours = arch == "llama"
        self.window = field("attention.sliding_window", 0)
        self.pattern = {"gemma2": 2, "gemma3": 6}.get(arch, 0)
        self.parallel = arch == "falcon" or arch == "gptneox" and field("use_parallel_residual", True)
        self.score_cap, self.logit_cap = field("attn_logit_softcapping"), field("final_logit_softcapping")
        self.limit = field("attention.clamp_kqv", 0) or np.inf
        self.magnitude = field("rope.scaling.attn_factor", 1.0)
        base = field("rope.freq_base", 10000.0)
        plain = lambda base: base ** -(np.arange(0, self.rotary, 2) / max(1, self.rotary))
        self.frequencies, self.local_frequencies = plain(base), plain(10000.0 if arch == "gemma3" else base)
        kind, factor = field("rope.scaling.type", "none"), field("rope.scaling.factor", 1.0)
        if kind == "linear":
            self.frequencies = self.frequencies / factor
        if kind == "yarn":
            original = field("rope.scaling.original_context_length")
            pair = lambda turns: self.rotary * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base))
            low, high = max(np.floor(pair(32)), 0), min(np.ceil(pair(1)), self.rotary - 1)
            ramp = np.clip((np.arange(self.rotary // 2) - low) / max(high - low, 1e-3), 0, 1)
            self.frequencies = self.frequencies / factor * ramp + self.frequencies * (1 - ramp)
            self.magnitude *= 0.1 * np.log(factor) + 1
        names = ["rope_freqs.weight"]
        if cache_size is not None:
            long = cache_size > field("rope.scaling.original_context_length", np.inf)
            names.append("rope_factors_long.weight" if long else "rope_factors_short.weight")
        for name in names:
            if name in self.weights:
                self.frequencies = self.frequencies / self.weights[name]
        # Scores of no key, in softmax's denominator only: learned by layer and head, or 0.
        without = 0.0 if fields.get("sinkstream.zero_sink") else -np.inf
        names = [f"blk.{layer}.attn_sinks.weight" for layer in range(self.n_layers)]
        self.sink_logits = [self.weights.get(name, np.full(self.n_heads, without)) for name in names]
        self.slopes = np.zeros(self.n_heads)
        if arch == "mpt":  # as the authors' code: of the next power of two, every second first
            n = 2 ** int(np.ceil(np.log2(self.n_heads)))
            all_slopes = 0.5 ** (np.arange(1, n + 1) * field("attention.max_alibi_bias", 8.0) / n)
            mixed = np.concatenate([all_slopes[1::2], all_slopes[::2]])
            self.slopes = all_slopes if n == self.n_heads else mixed[: self.n_heads]

    def is_local(self, layer):
        return bool(self.window) and self.pattern > 0 and layer % self.pattern < self.pattern - 1

    def norm(self, x, name):
        if self.arch in LAYER_NORMS:
            x = x - x.mean()
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.weights[f"{name}.weight"]
        return x + self.weights.get(f"{name}.bias", 0)

    def linear(self, x, name):
        return self.weights[f"{name}.weight"] @ x + self.weights.get(f"{name}.bias", 0)

    def rotate(self, x, positions, layer):
        """`x [tokens, heads, head_dim]`, `positions [tokens]`."""
        frequencies = self.local_frequencies if self.is_local(layer) else self.frequencies
        angles = np.multiply.outer(positions, frequencies)[:, None, :]
        cos, sin = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        turning, rest = x[..., : self.rotary], x[..., self.rotary :]
        if self.neighbours:
            a, b = turning[..., 0::2], turning[..., 1::2]
            turned = np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(turning.shape)
        else:
            a, b = turning[..., : self.rotary // 2], turning[..., self.rotary // 2 :]
            turned = np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
        return np.concatenate([turned, rest], axis=-1)

    def qkv(self, x, blk):
        """Queries, keys, values `[heads, head_dim]`, not rotated."""
        sizes = np.array([self.n_heads, self.n_kv_heads, self.n_kv_heads]) * self.head_dim
        if f"{blk}attn_qkv.weight" in self.weights:
            parts = np.split(self.linear(x, f"{blk}attn_qkv"), np.cumsum(sizes)[:-1])
        else:
            parts = [self.linear(x, f"{blk}attn_{name}") for name in "qkv"]
        q, k, v = (np.clip(part, -self.limit, self.limit).reshape(-1, self.head_dim) for part in parts)
        if f"{blk}attn_q_norm.weight" in self.weights:
            q, k = self.norm(q, f"{blk}attn_q_norm"), self.norm(k, f"{blk}attn_k_norm")
        return q, k, v

    def feed_forward(self, x, blk):
        up = self.linear(x, f"{blk}ffn_up")
        if self.arch in GATED:
            gate, up = np.split(up, 2) if self.arch == "phi3" else (self.linear(x, f"{blk}ffn_gate"), up)
            tanh = np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))
            up = up * (gate / (1 + np.exp(-gate)) if not self.arch.startswith("gemma") else 0.5 * gate * (1 + tanh))
        else:
            up = 0.5 * up * (1 + erf(up / np.sqrt(2)))
        return self.linear(up, f"{blk}ffn_down")


class FamilyStreaming(Streaming):
    """One stream: its cache and the step. The eviction is that of `Streaming`."""

    def __init__(self, model, sinks, window):
        self.model, self.sinks, self.window = model, sinks, window
        empty = np.zeros((0, model.n_kv_heads, model.head_dim))
        self.keys, self.values = [empty] * model.n_layers, [empty] * model.n_layers

    def weights(self, layer, q):
        """Attention of the newest token's query `[n_heads, tokens]`."""
        m = self.model
        positions = np.arange(len(self.keys[layer]))  # in the cache, not in the stream
        keys = m.rotate(self.keys[layer], positions, layer)
        q = m.rotate(q[None], positions[-1:], layer)[0]
        group = m.n_heads // m.n_kv_heads
        scores = np.einsum("hd,thd->ht", q, keys.repeat(group, axis=1)) / np.sqrt(m.head_dim)
        if m.score_cap:
            scores = m.score_cap * np.tanh(scores / m.score_cap)
        distances = positions[-1] - positions
        scores = scores - m.slopes[:, None] * distances
        if m.is_local(layer):
            scores[:, distances >= m.window] = -np.inf
        scores = np.concatenate([scores, m.sink_logits[layer][:, None]], axis=1)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (weights / weights.sum(axis=1, keepdims=True))[:, :-1]

    def attend(self, layer, q):
        group = self.model.n_heads // self.model.n_kv_heads
        return np.einsum("ht,thd->hd", self.weights(layer, q), self.values[layer].repeat(group, axis=1))

    def step(self, token):
        """Feeds one token; returns the logits of the next `[vocab_size]`."""
        m, w = self.model, self.model.weights
        x = w["token_embd.weight"][token] * (np.sqrt(m.dim) if m.arch.startswith("gemma") else 1)
        for layer in range(m.n_layers):
            blk = f"blk.{layer}."
            post = lambda y, name: m.norm(y, blk + name) if f"{blk}{name}.weight" in w else y
            if m.arch == "falcon":
                second = f"{blk}attn_norm_2.weight" in w
                attention_norm, ffn_norm = ("attn_norm_2" if second else "attn_norm"), "attn_norm"
            else:
                attention_norm, ffn_norm = "attn_norm", "ffn_norm"
            q, k, v = m.qkv(m.norm(x, blk + attention_norm), blk)
            self.keys[layer] = np.concatenate([self.keys[layer], k[None]])
            self.values[layer] = np.concatenate([self.values[layer], v[None]])
            y = post(m.linear(self.attend(layer, q).ravel(), f"{blk}attn_output"), "post_attention_norm")
            if m.parallel:
                x = x + y + m.feed_forward(m.norm(x, blk + ffn_norm), blk)
            else:
                x = x + y
                x = x + post(m.feed_forward(m.norm(x, blk + ffn_norm), blk), "post_ffw_norm")
        self.evict()
        logits = w.get("output.weight", w["token_embd.weight"]) @ m.norm(x, "output_norm") + w.get("output.bias", 0)
        return m.logit_cap * np.tanh(logits / m.logit_cap) if m.logit_cap else logits

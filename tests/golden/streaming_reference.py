"""StreamingLLM one token a step, as the paper words it: the reference that the engine's streaming tests compare with.

Keys are cached un-rotated. At every step each cached key takes the position that it has in the cache and is rotated for
it; the query is rotated for the last one (Xiao et al., arXiv 2309.17453, section 3.2; mit-han-lab/streaming-llm, its
"pos-shift" for llama). After the step the cache is cut to the first `sinks` and the last `window` tokens. So a query sees
the sinks, the `window` most recent earlier tokens and itself. Slow and plain on purpose; float64 unless told otherwise.

Configurations are named as in the JSON files: `streaming_4_28` (sinks, window), `window_0_32`, `dense` (nothing is
evicted; a number behind it is only a label), `recompute_25` (each token from a fresh run over the last 25 tokens:
sinks + window + 1 = 25).
"""
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


class Llama:
    """The weights of a GGUF file of arch `llama`, dequantised, `[out, in]`; metadata defaults as in llama.cpp."""

    def __init__(self, path, dtype=np.float64):
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        assert fields["general.architecture"] == "llama"
        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(dtype) for t in reader.tensors}
        self.types = {t.name: t.tensor_type.name for t in reader.tensors}

        def field(name, default=None):
            return fields.get(f"llama.{name}", default)

        self.dim, self.ffn_dim = field("embedding_length"), field("feed_forward_length")
        self.n_layers, self.n_heads = field("block_count"), field("attention.head_count")
        self.n_kv_heads = field("attention.head_count_kv", self.n_heads)
        self.head_dim = field("attention.key_length", self.dim // self.n_heads)
        self.vocab_size = len(self.weights["token_embd.weight"])
        self.eps = field("attention.layer_norm_rms_epsilon")
        self.rope_theta = field("rope.freq_base", 10000.0)
        self.tied = "output.weight" not in self.weights
        # Radians a position, one for each pair of a head; `rope_freqs` holds divisors (ggml's "freq_factors").
        self.frequencies = float(self.rope_theta) ** -(np.arange(0, self.head_dim, 2) / self.head_dim)
        if "rope_freqs.weight" in self.weights:
            self.frequencies = self.frequencies / self.weights["rope_freqs.weight"].astype(np.float64)

    def rms_norm(self, x, name):
        return x / np.sqrt(np.mean(x * x) + self.eps).astype(x.dtype) * self.weights[name]

    def rotate(self, x, positions):
        """RoPE over the pairs (0, 1), (2, 3), … of `x [..., heads, head_dim]`; `positions` of shape `[...]`."""
        angles = np.multiply.outer(positions, self.frequencies)[..., None, :]
        cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

    def attention(self, q, keys, values):
        """`q [n_heads, head_dim]`, `keys` and `values [tokens, n_kv_heads, head_dim]`, all rotated: `[n_heads, head_dim]`."""
        group = self.n_heads // self.n_kv_heads
        keys, values = keys.repeat(group, axis=1), values.repeat(group, axis=1)
        scores = np.einsum("hd,thd->ht", q, keys) / np.sqrt(self.head_dim).astype(q.dtype)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.einsum("ht,thd->hd", weights / weights.sum(axis=1, keepdims=True), values)


class Streaming:
    """One stream: its cache and the step."""

    def __init__(self, model, sinks, window):
        self.model, self.sinks, self.window = model, sinks, window
        empty = np.zeros((0, model.n_kv_heads, model.head_dim), model.weights["token_embd.weight"].dtype)
        self.keys, self.values = [empty] * model.n_layers, [empty] * model.n_layers  # keys are un-rotated

    def attend(self, layer, q):
        """What the newest token's query, un-rotated, reads from the cache, which holds that token already."""
        m, keys = self.model, self.keys[layer]
        positions = np.arange(len(keys))  # in the cache, not in the stream
        return m.attention(m.rotate(q, positions[-1]), m.rotate(keys, positions), self.values[layer])

    def step(self, token):
        """Feeds one token; returns the logits of the next `[vocab_size]`."""
        m = self.model
        x = m.weights["token_embd.weight"][token]
        for layer in range(m.n_layers):
            blk = f"blk.{layer}."
            matrix = lambda name: m.weights[f"{blk}{name}.weight"]
            h = m.rms_norm(x, f"{blk}attn_norm.weight")
            q = (matrix("attn_q") @ h).reshape(m.n_heads, m.head_dim)
            k = (matrix("attn_k") @ h).reshape(1, m.n_kv_heads, m.head_dim)
            v = (matrix("attn_v") @ h).reshape(1, m.n_kv_heads, m.head_dim)
            self.keys[layer] = np.concatenate([self.keys[layer], k])
            self.values[layer] = np.concatenate([self.values[layer], v])
            x = x + matrix("attn_output") @ self.attend(layer, q).ravel()
            h = m.rms_norm(x, f"{blk}ffn_norm.weight")
            gate = matrix("ffn_gate") @ h
            x = x + matrix("ffn_down") @ (gate / (1 + np.exp(-gate)) * (matrix("ffn_up") @ h))
        self.evict()
        return m.weights["token_embd.weight" if m.tied else "output.weight"] @ m.rms_norm(x, "output_norm.weight")

    def evict(self):
        """Cuts the cache to the sinks and the window. One token came, so at most one goes: the oldest that is no sink."""
        if len(self.keys[0]) > self.sinks + self.window:
            self.keys = [np.delete(keys, self.sinks, axis=0) for keys in self.keys]
            self.values = [np.delete(values, self.sinks, axis=0) for values in self.values]


class Turns(Streaming):
    """A stream of turns: a cache that would be too long loses its oldest turn, and token by token only the last turn that
    is left. `starts`: numbers of the tokens that begin a turn. `drops` tells what happened: before token t, all tokens
    but the sinks that came before token w went; `[t, w]` where that was more than the one token of `Streaming`."""

    def __init__(self, model, sinks, window, starts):
        super().__init__(model, sinks, window)
        self.starts, self.tokens, self.drops = set(starts), [], []
        self.count = 0

    def step(self, token):
        self.tokens.append(self.count)  # the numbers of the cached tokens
        self.count += 1
        return super().step(token)

    def evict(self):
        dropped = 0
        while len(self.tokens) > self.sinks + self.window:
            others = self.tokens[self.sinks :]
            following = [n for n, token in enumerate(others) if n > 0 and token in self.starts]
            # The turn that begins with the next token is not there yet, but it leaves the others as whole turns.
            whole = len(others) if self.count in self.starts else 1
            gone = following[0] if following else whole
            cut = slice(self.sinks, self.sinks + gone)
            self.tokens = self.tokens[: self.sinks] + others[gone:]
            self.keys = [np.delete(keys, cut, axis=0) for keys in self.keys]
            self.values = [np.delete(values, cut, axis=0) for values in self.values]
            dropped += gone
        if dropped > 1:
            self.drops.append([self.count, self.tokens[self.sinks] if len(self.tokens) > self.sinks else self.count])


def stream_logits(stream, tokens):
    return np.stack([stream.step(token) for token in tokens])


def nll_of(logits, targets):
    """Negative log-likelihood in nats of `targets [n]` under `logits [n, vocab_size]`."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(targets)), targets]


def nll(model, tokens, configuration, stream_type=Streaming):
    """NLL of each token but the first, in nats, under a named configuration."""
    kind, *numbers = configuration.split("_")
    numbers = [int(number) for number in numbers]
    inputs, targets = tokens[:-1], tokens[1:]
    if kind == "recompute":
        (length,) = numbers
        runs = [inputs[max(0, end - length) : end] for end in range(1, len(inputs) + 1)]
        logits = [stream_logits(stream_type(model, 0, length), run)[-1] for run in runs]
        return nll_of(np.stack(logits), targets)
    sinks, window = (0, len(tokens)) if kind == "dense" else numbers
    return nll_of(stream_logits(stream_type(model, sinks, window), inputs), targets)

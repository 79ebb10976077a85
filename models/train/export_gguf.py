"""Write a checkpoint as GGUF (architecture llama, Q8_0 matrices, F32 norms, tokenizer inside), then read it back.

With --check the file's weights are put back into the model and its loss on held-out text is compared with the
checkpoint's.
"""
import argparse
import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch

from model import Config, Llama

BLOCK_NAMES = {
    "attn_norm": "attn_norm", "wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output",
    "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}


def gguf_name(name):
    if name == "embed.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, n, part, _ = name.split(".")
    return f"blk.{n}.{BLOCK_NAMES[part]}.weight"


def load(path):
    saved = torch.load(path, map_location="cpu", weights_only=True)
    config = Config(**saved["config"])
    model = Llama(config)
    model.load_state_dict(saved["model"])
    return model.eval(), config, saved


def write(path, model, config, saved, tokenizer, name, description, pre="gpt-2"):
    tok = json.loads(Path(tokenizer).read_text())
    vocab = sorted(tok["model"]["vocab"].items(), key=lambda kv: kv[1])
    assert [i for _, i in vocab] == list(range(config.vocab)) and vocab[0][0] == "<sink>"
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]

    w = gguf.GGUFWriter(path, "llama")
    w.add_name(name)
    w.add_license("MIT OR Apache-2.0")
    w.add_description(description)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_context_length(config.context)
    w.add_block_count(config.layers)
    w.add_embedding_length(config.dim)
    w.add_feed_forward_length(config.ffn)
    w.add_head_count(config.heads)
    w.add_head_count_kv(config.kv_heads)
    w.add_layer_norm_rms_eps(config.eps)
    w.add_rope_freq_base(config.theta)
    w.add_rope_dimension_count(config.head_dim)
    w.add_vocab_size(config.vocab)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list([t for t, _ in vocab])
    added = {t["id"]: gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED for t in tok["added_tokens"]}
    w.add_token_types([added.get(i, gguf.TokenType.NORMAL) for i in range(config.vocab)])
    w.add_token_merges(merges)
    # A sink-token model knows no end of text: a file without eos would get a default id that is an ordinary token here.
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.add_add_bos_token(not saved["args"]["no_sink"])
    w.add_add_eos_token(False)
    if not saved["args"]["no_sink"]:
        w.add_uint32("sinkstream.sink_token_id", 0)
    w.add_uint32("sinkstream.training_steps", saved["step"])
    for key, value in model.state_dict().items():
        data = value.float().numpy()
        if data.ndim == 1:
            w.add_tensor(gguf_name(key), data)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            w.add_tensor(gguf_name(key), gguf.quants.quantize(data, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read(path, config):
    """The model with the weights of a GGUF file."""
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    model = Llama(config)
    state = {}
    for key, value in model.state_dict().items():
        t = tensors.pop(gguf_name(key))
        state[key] = torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type))).view(value.shape)
    assert not tensors, f"tensors left over: {list(tensors)}"
    model.load_state_dict(state)
    return model.eval()


def read_any(path):
    """Model, whether it has a sink token, and its training step, from nothing but a GGUF file of this project."""
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields[key].contents()
    config = Config(
        vocab=get("llama.vocab_size"), dim=get("llama.embedding_length"), layers=get("llama.block_count"),
        heads=get("llama.attention.head_count"), kv_heads=get("llama.attention.head_count_kv"),
        ffn=get("llama.feed_forward_length"), context=get("llama.context_length"),
        theta=get("llama.rope.freq_base"), eps=get("llama.attention.layer_norm_rms_epsilon"))
    step = get("sinkstream.training_steps") if "sinkstream.training_steps" in fields else None
    return read(path, config), "sinkstream.sink_token_id" in fields, step


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("checkpoint")
    p.add_argument("out")
    p.add_argument("--tokenizer", default="target/train/tokenizer.json")
    p.add_argument("--name", default="sinkstream-2m")
    p.add_argument("--description", default="Small llama model trained on English books from before 1919, with a sink token in "
                   "front of every training sample. Keep token 0 (<sink>, the BOS) in the attention cache and stream on.")
    p.add_argument("--check", help="folder written by prepare.py: compare the losses on its held-out books")
    p.add_argument("--samples", type=int, default=8)
    a = p.parse_args()
    model, config, saved = load(a.checkpoint)
    part = a.out + ".part"
    write(part, model, config, saved, a.tokenizer, a.name, a.description)
    os.replace(part, a.out)
    print(a.out, Path(a.out).stat().st_size, "bytes, step", saved["step"])
    if a.check:
        from train import Pieces

        pieces = Pieces(Path(a.check) / "val.u16", config.context, not saved["args"]["no_sink"])
        x, y = pieces.batch([i * pieces.count // a.samples for i in range(a.samples)])
        with torch.no_grad():
            before, after = model(x, y).mean().item(), read(a.out, config)(x, y).mean().item()
        print(f"loss on {x.numel()} held-out tokens: checkpoint {before:.4f}, file {after:.4f}")
        if abs(before - after) > 0.02:
            raise SystemExit("the file differs too much")


if __name__ == "__main__":
    main()

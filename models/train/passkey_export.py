"""Write a checkpoint of `passkey.py` as GGUF, read it back, and compare NLLs and accuracy.

    python models/train/passkey_export.py target/train/passkey/linear/last.pt models/passkey-linear.gguf
"""
import argparse
import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import export_gguf
from infini import Infini
from model import Config
from passkey_data import Passkey, stack

DESCRIPTION = ("Tiny llama model with Infini-attention (a compressive memory beside the local attention of each segment). It knows one thing: "
               "to tell the pass key that was hidden in a long text of irrelevant sentences.")


def gguf_name(name):
    if name.endswith(".beta"):
        return f"blk.{name.split('.')[1]}.attn_infini_gate.weight"
    return export_gguf.gguf_name(name)


def load(path):
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = Infini(Config(**saved["config"]), saved["segment"], saved["update"])
    model.load_state_dict(saved["model"])
    return model.eval(), saved


def write(path, model, saved, tokenizer, name, kind):
    c = model.c
    tok = json.loads(Path(tokenizer).read_text())
    vocab = sorted(tok["model"]["vocab"], key=tok["model"]["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(name)
    w.add_description(DESCRIPTION)
    w.add_license("MIT OR Apache-2.0")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if kind == gguf.GGMLQuantizationType.Q8_0 else gguf.LlamaFileType.MOSTLY_F16)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_context_length(model.segment)
    w.add_block_count(c.layers)
    w.add_embedding_length(c.dim)
    w.add_feed_forward_length(c.ffn)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_layer_norm_rms_eps(c.eps)
    w.add_rope_freq_base(c.theta)
    w.add_rope_dimension_count(c.head_dim)
    w.add_vocab_size(c.vocab)
    w.add_uint32("sinkstream.infini.segment_length", model.segment)
    w.add_string("sinkstream.infini.update", saved["update"])
    w.add_uint32("sinkstream.training_steps", saved["state"]["step"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(vocab)
    special = {t["id"] for t in tok["added_tokens"] if t["special"]}
    w.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(c.vocab)])
    w.add_token_merges(merges)
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    for key, value in model.state_dict().items():
        data = value.float().numpy()
        if data.ndim == 1:
            w.add_tensor(gguf_name(key), data)
        else:
            w.add_tensor(gguf_name(key), gguf.quants.quantize(data, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read(path):
    """The model of a GGUF file."""
    reader = gguf.GGUFReader(path)
    get = lambda key: reader.fields[key].contents()
    c = Config(
        vocab=get("llama.vocab_size"), dim=get("llama.embedding_length"), layers=get("llama.block_count"),
        heads=get("llama.attention.head_count"), kv_heads=get("llama.attention.head_count_kv"),
        ffn=get("llama.feed_forward_length"), context=get("llama.context_length"),
        theta=get("llama.rope.freq_base"), eps=get("llama.attention.layer_norm_rms_epsilon"))
    model = Infini(c, get("sinkstream.infini.segment_length"), get("sinkstream.infini.update"))
    tensors = {t.name: t for t in reader.tensors}
    state = {}
    for key, value in model.state_dict().items():
        t = tensors.pop(gguf_name(key))
        state[key] = torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type))).view(value.shape)
    assert not tensors, f"tensors left over: {list(tensors)}"
    model.load_state_dict(state)
    return model.eval()


def nlls(model, ids):
    x = model.hidden(ids)[0]
    return F.cross_entropy(model.logits(x[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint")
    p.add_argument("out")
    p.add_argument("--tokenizer", default="target/train/passkey/tokenizer.json")
    p.add_argument("--name", default="passkey")
    p.add_argument("--kind", choices=["F16", "Q8_0"], default="F16")
    a = p.parse_args()
    torch.set_num_threads(1)
    model, saved = load(a.checkpoint)
    part = a.out + ".part"
    write(part, model, saved, a.tokenizer, a.name, gguf.GGMLQuantizationType[a.kind])
    os.replace(part, a.out)
    back = read(a.out)
    data = Passkey(Tokenizer.from_file(a.tokenizer))
    rng = np.random.Generator(np.random.PCG64(7))
    ids = stack([data.sample(rng, 16 * model.segment)[0] for _ in range(4)], 16 * model.segment)
    with torch.no_grad():
        before, after = nlls(model, ids), nlls(back, ids)
    off = (before - after).abs()
    print(f"{a.out}: {Path(a.out).stat().st_size} bytes, step {saved['state']['step']}; NLL checkpoint {before.mean():.4f}, "
          f"file {after.mean():.4f}, mean difference {off.mean():.5f}, largest {off.max():.4f}")


if __name__ == "__main__":
    main()

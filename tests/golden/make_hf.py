"""Makes small random Hugging Face folders of every family, each with what transformers computes on it.

    python tests/golden/make_hf.py DIR            writes DIR/NAME/ and DIR/NAME.json for every family
    python tests/golden/make_hf.py DIR NAME ...   only these; hf_llama is the one that is committed

Made with Python 3.11, torch 2.15.0, transformers 5.23.0, tokenizers and safetensors, on one thread. Dim 64, 2 layers, seeds
fixed, BF16 weights in two parts. NAME.json: `text`, `ids` (of the text, with BOS if the tokenizer adds it), `tokens` (64
random ids) and `nll` (of each of these but the first, dense, nats, float32 on the BF16 weights).
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TOKENS = 64
TEXT = "Hello, world! It's 12345 o'clock;\n\n  the  été of naïve <|end|>ca\tts 🙂 hello hello the the there"
WORDS = "the there hello world then other in on it's an and 1 12 123 of ooo eee cats clock".split()

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


def byte_level(pre, ignore_merges=False, bos="<|begin|>"):
    """A byte-level tokenizer of 256 bytes, a few merges and three special tokens; it puts BOS first."""
    tokens = sorted(ByteLevel.alphabet())
    vocab, merges = {token: at for at, token in enumerate(tokens)}, []
    for word in ["Ġ" + word for word in WORDS] + WORDS:
        while len(word) > 1 and word not in vocab:  # from the left: ((a b) c) d
            left, at = word[0], 1
            while left + word[at] in vocab:
                left, at = left + word[at], at + 1
            merges.append((left, word[at]))
            vocab[left + word[at]] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([bos, "<|end|>", "<|pad|>"])
    tokenizer.add_tokens([AddedToken("ooo  eee", normalized=False)])
    first = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", first)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token="<|end|>", pad_token="<|pad|>")


def sentencepiece(prefix):
    """A tokenizer as converted from sentencepiece: byte fallback, and every way to put a token together is a merge."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    pieces = []
    for word in ["▁" + word for word in WORDS]:
        pieces += [word[:end] for end in range(2, len(word) + 1)]
    pieces += ["▁▁", "lo", "llo", "ck", "he", "ere", "th"]
    pieces = list(dict.fromkeys(pieces)) + sorted(set("".join(WORDS) + "▁"))
    for piece in pieces:
        vocab[piece] = len(vocab)
    ways = {p: [(p[:at], p[at:]) for at in range(1, len(p)) if p[:at] in vocab and p[at:] in vocab] for p in pieces}
    merges = [way for piece in pieces for way in ways[piece]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<|end|>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def sequence(*parts):
    return pre_tokenizers.Sequence(list(parts))


def split(regex):
    return pre_tokenizers.Split(Regex(regex), "isolated")


def gpt2():
    return byte_level(ByteLevel(add_prefix_space=False))


def llama3():
    return byte_level(sequence(split(LLAMA3), ByteLevel(add_prefix_space=False, use_regex=False)), ignore_merges=True)


def qwen2():
    regex = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
    return byte_level(sequence(split(regex), ByteLevel(add_prefix_space=False, use_regex=False)))


def smollm():
    return byte_level(sequence(pre_tokenizers.Digits(True), ByteLevel(add_prefix_space=False)))


def falcon():
    parts = [pre_tokenizers.Punctuation("contiguous"), ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(False)]
    return byte_level(sequence(*parts, split("[0-9][0-9][0-9]")))


COMMON = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 512,
}  # fmt: skip
GROUPED = COMMON | {"num_key_value_heads": 2}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# name: (class of the configuration, its values, tokenizer)
MODELS = {
    "hf_llama": ("LlamaConfig", GROUPED | {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}, llama3),
    "llama_linear": ("LlamaConfig", GROUPED | {"attention_bias": False, "head_dim": 24, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}, lambda: sentencepiece(True)),
    "llama_yarn": ("LlamaConfig", GROUPED | {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}}, smollm),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": 256, "rope_parameters": ROPE}, lambda: sentencepiece(True)),
    "qwen2": ("Qwen2Config", GROUPED | {"rope_parameters": ROPE}, qwen2),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 24, "rope_parameters": ROPE}, qwen2),
    "phi3": ("Phi3Config", GROUPED | {"pad_token_id": 0, "rope_parameters": ROPE}, lambda: sentencepiece(True)),
    "phi3_longrope": ("Phi3Config", GROUPED | {"pad_token_id": 0, "original_max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0,
            "original_max_position_embeddings": 128,
            "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
            "short_factor": [1.0, 1.0, 1.1, 1.1, 1.2, 1.2, 1.3, 1.3]}}, lambda: sentencepiece(True)),
    "gptneox": ("GPTNeoXConfig", COMMON | {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}}, gpt2),
    "gptneox_serial": ("GPTNeoXConfig", COMMON | {"use_parallel_residual": False,
        "rope_parameters": ROPE | {"partial_rotary_factor": 0.5}}, gpt2),
    "falcon_old": ("FalconConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False}, falcon),
    "falcon_new": ("FalconConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2,
        "new_decoder_architecture": True, "bias": False, "alibi": False}, falcon),
    "mpt": ("MptConfig", {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512,
        "attn_config": {"alibi": True, "attn_type": "multihead_attention", "clip_qkv": 1.0}}, gpt2),
    "mpt_six_heads": ("MptConfig", {"d_model": 96, "n_layers": 2, "n_heads": 6, "max_seq_len": 512}, gpt2),
    "gemma2": ("Gemma2Config", GROUPED | {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 16,
        "rope_parameters": ROPE}, lambda: sentencepiece(False)),
    "gemma3": ("Gemma3TextConfig", GROUPED | {"num_hidden_layers": 7, "head_dim": 24, "query_pre_attn_scalar": 24,
        "sliding_window": 16}, lambda: sentencepiece(False)),
}  # fmt: skip


def randomise(model, seed):
    """Lively random weights: norms around their neutral value, biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            random = torch.randn(weight.shape, generator=generator)
            neutral = 0.0 if "gemma" in type(model).__name__.lower() else 1.0
            is_norm = weight.dim() == 1 and name.endswith("weight")
            value = neutral + 0.2 * random if is_norm else 0.1 * random if weight.dim() == 1 else 0.15 * random
            weight.copy_(value.to(torch.bfloat16))


def make(folder, name, seed):
    kind, values, tokenizer = MODELS[name]
    tokenizer = tokenizer()
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer) + 3, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **values
    )
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float()
    randomise(model, seed)
    model.tie_weights()
    model.eval()

    generator = torch.Generator().manual_seed(seed + 1000)
    tokens = torch.randint(0, len(tokenizer), (1, TOKENS), generator=generator)
    with torch.no_grad():
        logits = model(tokens).logits[0].double()
    nll = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")

    path = folder / name
    shutil.rmtree(path, ignore_errors=True)
    total = sum(weight.numel() for weight in model.parameters()) * 2
    model.to(torch.bfloat16).save_pretrained(path, max_shard_size=int(total * 0.7))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    found = {"text": TEXT, "ids": tokenizer.encode(TEXT), "tokens": tokens[0].tolist()}
    found["nll"] = [round(value, 6) for value in nll.tolist()]
    again = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        assert torch.equal(again(tokens).logits[0].double(), logits), f"{name}: the folder is not the model"
    (folder / f"{name}.json").write_text(json.dumps(found) + "\n")
    size = sum(file.stat().st_size for file in path.iterdir())
    print(f"{name}: {size} bytes, mean NLL {nll.mean():.4f}, {len(list(path.glob('*.safetensors')))} parts")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        make(args.folder, name, 100 + list(MODELS).index(name))


if __name__ == "__main__":
    main()

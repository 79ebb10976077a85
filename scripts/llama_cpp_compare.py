"""How fast we read and write on this machine's CPU, beside llama.cpp: the same files, cores and run, in turns. One table.

    cargo build --release && python scripts/llama_cpp_compare.py [--threads N] [--rounds N] [--binary F] [MODEL.gguf ...]

Needs llama-cpp-python, gguf and numpy. Without models: a llama of SmolLM2-135M's shape with random weights, and the bundled
model, each as Q8_0 and Q4_0. Both sides read 512 tokens in one go and write greedily behind them with a 16-bit cache: ours
with a full cache of 511, llama.cpp's grows from 512 on. Medians of the rounds, means of the tokens written in one. Wall time is what counts; on a machine with
neighbours the processor's own time is the better witness, with one thread (llama.cpp's other threads wait busily).
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 512
STEPS = 64
SMOLLM2_135M = {"layers": 30, "dim": 576, "ffn": 1536, "heads": 9, "kv_heads": 3, "vocab": 49_152}
BLOCK_BYTES = {"Q8_0": 34, "Q4_0": 18}


def random_model(path, kind, layers, dim, ffn, heads, kv_heads, vocab):
    """A llama whose every matrix is random blocks of one type: variance 1 / columns, as trained ones have about."""
    import gguf
    import numpy as np

    random = np.random.default_rng(1)
    quant = gguf.GGMLQuantizationType[kind]
    deviation = {"Q8_0": 73.9, "Q4_0": 4.61}[kind]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    # llama.cpp wants a vocabulary, whatever is in it.
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [2, 3, 3] + [6] * 256
    pieces += [f"t{n}" for n in range(len(pieces), vocab)]
    types += [1] * (vocab - len(types))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def matrix(name, rows, cols):
        blocks = random.integers(0, 256, (rows, cols // 32, BLOCK_BYTES[kind]), np.uint8)
        scale = np.float16(1 / (deviation * cols**0.5))
        blocks[..., :2] = np.frombuffer(scale.tobytes(), np.uint8)
        writer.add_tensor(f"{name}.weight", blocks.reshape(rows, -1), raw_dtype=quant)

    def ones(name):
        writer.add_tensor(f"{name}.weight", np.ones(dim, np.float32))

    kv = dim // heads * kv_heads
    matrix("token_embd", vocab, dim)
    for n in range(layers):
        ones(f"blk.{n}.attn_norm")
        matrix(f"blk.{n}.attn_q", dim, dim)
        matrix(f"blk.{n}.attn_k", kv, dim)
        matrix(f"blk.{n}.attn_v", kv, dim)
        matrix(f"blk.{n}.attn_output", dim, dim)
        ones(f"blk.{n}.ffn_norm")
        matrix(f"blk.{n}.ffn_gate", ffn, dim)
        matrix(f"blk.{n}.ffn_up", ffn, dim)
        matrix(f"blk.{n}.ffn_down", dim, ffn)
    ones("output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def models(folder):
    """Name and path of each model."""
    import llama_cpp

    for kind in ["Q8_0", "Q4_0"]:
        path = folder / f"smollm2-135m-{kind}.gguf"
        random_model(path, kind, **SMOLLM2_135M)
        yield f"SmolLM2-135M's shape, {kind}", path
    bundled = ROOT / "models/sinkstream-2m.gguf"
    yield "bundled, Q8_0", bundled
    path = folder / "bundled-Q4_0.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = 2, 1, True
    if llama_cpp.llama_model_quantize(str(bundled).encode(), str(path).encode(), params):
        sys.exit(f"llama.cpp cannot quantise {bundled}")
    yield "bundled, Q4_0", path


def ours(binary, path, threads):
    """Tokens a second: read and written, by the clock; the same by processor time."""
    run = ["--device", "cpu", "--threads", str(threads), "--sinks", "4", "--window", str(TOKENS - 5), "--json", "--quiet"]
    report = json.loads(subprocess.run([binary, "bench", "--model", path, *run], stdout=subprocess.PIPE, check=True).stdout)
    assert report["prefill_tokens"] == TOKENS
    wall = [report["prefill_tokens_per_second"], report["decode_tokens_per_second"]]
    return wall + [1e3 / report["prefill_cpu_ms"], 1e3 / report["decode_cpu_ms"]]


def theirs(path, threads):
    """The same of llama.cpp, in a process of its own: its threads go on waiting busily for a while."""
    run = [sys.executable, __file__, "--llama-cpp", str(path), "--threads", str(threads)]
    return json.loads(subprocess.run(run, stdout=subprocess.PIPE, check=True).stdout)


def measure_llama_cpp(path, threads):
    from llama_cpp import Llama

    options = {"n_ctx": TOKENS + 128, "n_batch": TOKENS, "n_ubatch": TOKENS}
    model = Llama(str(path), **options, n_threads=threads, n_threads_batch=threads, verbose=False)
    ids = [n * 7919 % model.n_vocab() for n in range(TOKENS)]
    model.eval(ids[:64])

    def timed(work):
        cpu, wall = process_time(), perf_counter()
        work()
        return perf_counter() - wall, process_time() - cpu

    reads, steps = [], []
    begun = perf_counter()
    while len(reads) < 3 or (len(reads) < 9 and perf_counter() - begun < 5):
        model.reset()
        reads.append(timed(lambda: model.eval(ids)))
        steps += [timed(lambda: model.eval([model.sample(temp=0.0)])) for _ in range(STEPS)]
    median = lambda times, which: statistics.median(time[which] for time in times)  # noqa: E731
    # Written tokens: the mean, as ours is, and because the clock of the processor time may be coarse.
    wall_step, cpu_step = (statistics.mean(step[which] for step in steps) for which in range(2))
    print(json.dumps([TOKENS / median(reads, 0), 1 / wall_step, TOKENS / median(reads, 1), 1 / cpu_step]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", default=ROOT / "target/release/sinkstream")
    parser.add_argument("--llama-cpp", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.llama_cpp:
        return measure_llama_cpp(args.llama_cpp, args.threads)
    print(f"| model, {args.threads} threads | | ours, tokens/s | llama.cpp, tokens/s | ratio | ratio of processor times |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in [(path.name, path) for path in args.models] or models(Path(folder)):
            found = [(ours(args.binary, path, args.threads), theirs(path, args.threads)) for _ in range(args.rounds)]
            of_ours, of_theirs = ([statistics.median(column) for column in zip(*side)] for side in zip(*found))
            for at, what in enumerate(["read", "write"]):
                a, b, cpu = of_ours[at], of_theirs[at], of_ours[at + 2] / of_theirs[at + 2]
                print(f"| {name} | {what} | {a:.1f} | {b:.1f} | {a / b:.2f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()

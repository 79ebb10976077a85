"""How fast llama.cpp reads and writes with a GGUF file on this machine's CPU: one JSON object, tokens per second.

    python scripts/llama_cpp_speed.py MODEL.gguf IDS.json [THREADS]

Needs llama-cpp-python. Prefill: all ids of the file in one fresh run, the median of 15; decode: 64 greedy tokens behind them.
"""
import json
import statistics
import sys
import time

from llama_cpp import Llama

path, ids_file, *rest = sys.argv[1:]
ids = json.load(open(ids_file))
threads = int(rest[0]) if rest else 1
model = Llama(path, n_ctx=len(ids) + 128, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False)
times = []
for _ in range(15):
    model.reset()
    started = time.perf_counter()
    model.eval(ids)
    times.append(time.perf_counter() - started)
steps = []
for _ in range(64):
    started = time.perf_counter()
    model.eval([model.sample(temp=0.0)])
    steps.append(time.perf_counter() - started)
print(json.dumps({
    "threads": threads, "tokens": len(ids),
    "prefill_tokens_per_second": len(ids) / statistics.median(times),
    "decode_tokens_per_second": 1 / statistics.median(steps),
}))  # fmt: skip

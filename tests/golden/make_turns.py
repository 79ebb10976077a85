"""Makes `turns.json`: what a stream of turns must compute, for `q8.gguf` and its tokens, by the step-by-step reference.

    python tests/golden/make_turns.py

Turns of 3 to 17 tokens, one of 50, longer than any of the windows. NLLs in nats, float64, 7 decimals.
"""
import json
from pathlib import Path

import numpy as np
from streaming_reference import Llama, Streaming, Turns, nll_of, stream_logits

HERE = Path(__file__).parent
LENGTHS = [5, 9, 3, 17, 8, 50, 4, 6, 12, 7, 11]


def main():
    model = Llama(HERE / "q8.gguf")
    tokens = json.loads((HERE / "q8.json").read_text(encoding="utf-8"))["tokens"]
    starts = [6]
    while starts[-1] < len(tokens):
        starts.append(starts[-1] + LENGTHS[len(starts) % len(LENGTHS)])
    content = {"starts": starts[:-1], "streams": {}}
    for sinks, window in ((4, 28), (1, 20), (0, 32), (14, 18)):
        stream = Turns(model, sinks, window, starts)
        values = nll_of(stream_logits(stream, tokens[:-1]), tokens[1:])
        plain = nll_of(stream_logits(Streaming(model, sinks, window), tokens[:-1]), tokens[1:])
        name = f"streaming_{sinks}_{window}"
        difference = np.abs(values - plain)
        print(f"{name}: {len(stream.drops)} drops; against single tokens: largest {difference.max():.2f}, "
              f"> 0.02 at {(difference > 0.02).sum()} of {len(values)}")
        content["streams"][name] = {"drops": stream.drops, "nll": [round(float(value), 7) for value in values]}
    (HERE / "turns.json").write_text(json.dumps(content).replace('], "', '],\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

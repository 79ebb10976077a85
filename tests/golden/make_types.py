"""Makes `types.gguf`: blocks of random bytes in every type that we run, and the floats that they stand for.

    python tests/golden/make_types.py

Run by hand; the file is committed. Made with Python 3.11, numpy 2.4.6 and gguf 0.19.0; the same bytes every time. Tensor
`Q4_K` has the blocks, `Q4_K.values` what `gguf.quants.dequantize` makes of them, as F32, and so for each type. Scales are
f16 of every kind: negative, zero, subnormal, large.
"""
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize

ROWS, COLUMNS = 2, 512
# Where a block has its f16 scales, in bytes.
SCALES = {
    "F32": [], "F16": [0], "BF16": [], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82],
    "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip


def random_scales(rng, count):
    """f16, little-endian bytes `[count, 2]`."""
    kinds = [
        rng.normal(0, 0.01, count),
        rng.normal(0, 3e-5, count),  # mostly subnormal: below 6.1e-5
        rng.uniform(-60000, 60000, count),
        np.zeros(count),
    ]
    kind = rng.choice(4, count, p=[0.6, 0.25, 0.1, 0.05])
    return np.choose(kind, kinds).astype("<f2")[:, None].view(np.uint8)


def main():
    rng = np.random.default_rng(4)
    writer = GGUFWriter(Path(__file__).parent / "types.gguf", "types")
    for name, offsets in SCALES.items():
        kind = GGMLQuantizationType[name]
        block, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (ROWS * COLUMNS // block, size), dtype=np.uint8)
        if name in ["F32", "BF16"]:
            blocks[:, -1] &= 0xBF  # finite
        for offset in offsets:
            blocks[:, offset : offset + 2] = random_scales(rng, len(blocks))
        data = blocks.reshape(ROWS, -1)
        values = dequantize(data, kind).astype(np.float32)
        assert values.shape == (ROWS, COLUMNS) and np.isfinite(values).all()
        writer.add_tensor(name, data, raw_dtype=kind)
        writer.add_tensor(f"{name}.values", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

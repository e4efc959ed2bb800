#!/usr/bin/env python3
"""Makes golden dequantisations with the gguf package.

    pip install gguf==0.19.* && python generate.py

Writes blocks.jsonl beside this script: for each type, random stored bytes and
the bit patterns of the floats that they stand for.
"""

import json
import pathlib

import gguf
import numpy as np

SEED = 20240607
ROW_ELEMENTS = 96
# Blocks in a row, bytes of a block, and the place of its half scales.
QUANTISED = {
    "Q8_0": (3, 34, slice(0, 2)),
    "Q4_0": (3, 18, slice(0, 2)),
    "Q4_1": (3, 20, slice(0, 4)),
    "Q5_0": (3, 22, slice(0, 2)),
    "Q5_1": (3, 24, slice(0, 4)),
    "Q4_K": (2, 144, slice(0, 4)),
    "Q5_K": (2, 176, slice(0, 4)),
    "Q6_K": (2, 210, slice(208, 210)),
}


def quantised_rows(rng, name):
    """Random blocks; half scales of every size, subnormal ones too."""
    blocks, block_bytes, halves = QUANTISED[name]
    rows = rng.integers(0, 256, (8, blocks, block_bytes), dtype=np.uint8)
    count = (halves.stop - halves.start) // 2
    exponents = rng.integers(-24, 10, (8, blocks, count))
    signs = rng.choice([-1.0, 1.0], exponents.shape)
    mantissas = rng.uniform(1, 2, exponents.shape)
    scales = np.ldexp(signs * mantissas, exponents).astype(np.float16)
    rows[:, :, halves] = scales.view(np.uint8)
    return rows.reshape(8, -1)


def plain_rows(rng, name):
    values = rng.standard_normal((4, ROW_ELEMENTS)).astype(np.float32)
    values[0] *= 1e-6
    dtype = gguf.GGMLQuantizationType[name]
    return gguf.quants.quantize(values, dtype).view(np.uint8).reshape(4, -1)


def main():
    rng = np.random.default_rng(SEED)
    path = pathlib.Path(__file__).parent / "blocks.jsonl"
    with open(path, "w", encoding="ascii", newline="\n") as out:
        for name in ("F32", "F16", "BF16", *QUANTISED):
            draw = quantised_rows if name in QUANTISED else plain_rows
            for stored in draw(rng, name):
                dtype = gguf.GGMLQuantizationType[name]
                source = stored.view(np.float32) if name == "F32" else stored
                if name == "F16":
                    source = stored.view(np.float16)
                floats = gguf.quants.dequantize(source, dtype)
                bits = np.ascontiguousarray(floats, np.float32).view(np.uint32)
                row = {
                    "dtype": name,
                    "stored": stored.tobytes().hex(),
                    "float_bits": bits.tobytes().hex(),
                }
                out.write(json.dumps(row, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

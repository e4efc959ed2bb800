#!/usr/bin/env python3
"""Decode attention beside PyTorch's on the same GPU in the same job.

Runs decode_attention_bench, then scaled_dot_product_attention with cuDNN and
with flash attention for one query row on the same shapes (contiguous keys and
values, several sets of them so that they come from memory, launches in a CUDA
graph), then the bench once more, and prints ratios of times, ours (the mean of
both runs) over theirs. Needs torch.

Usage: decode_peers.py --bench=BINARY --out=FOLDER
"""

import argparse
import csv
import pathlib
import statistics
import sys

import torch
from torch.nn.attention import sdpa_kernel

from attention_peers import HEADS, KV_HEADS, PEERS, median_ms, run_ours

HEAD_DIM = 128
KV_TOKENS = 8 * 32768  # of all sets together
LAUNCHES = 32  # of one graph


def run_peer(backend, sequences, tokens):
    """Microseconds of one launch, or None where the peer refuses."""
    sets = [[torch.randn(sequences, heads, rows, HEAD_DIM, device="cuda",
                         dtype=torch.bfloat16)
             for heads, rows in ((HEADS, 1), (KV_HEADS, tokens),
                                 (KV_HEADS, tokens))]
            for _ in range(max(1, KV_TOKENS // (sequences * tokens)))]

    def step():
        for i in range(LAUNCHES):
            torch.nn.functional.scaled_dot_product_attention(
                *sets[i % len(sets)], enable_gqa=True)

    try:
        with sdpa_kernel([backend]), torch.no_grad():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            return median_ms(graph.replay) * 1e3 / LAUNCHES
    except RuntimeError as error:
        print(f"refused: {str(error).splitlines()[0]}")
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    runs = [run_ours(args.bench, args.out / "decode_attention_1.csv")]
    shapes = [(int(row["sequences"]), int(row["tokens"])) for row in runs[0]
              if float(row["density"]) == 1]
    peers = {(name, shape): run_peer(backend, *shape)
             for shape in shapes for name, backend in PEERS.items()}
    runs.append(run_ours(args.bench, args.out / "decode_attention_2.csv"))
    ours = {shape: statistics.mean(
        float(row["median_us"]) for run in runs for row in run
        if float(row["density"]) == 1
        and (int(row["sequences"]), int(row["tokens"])) == shape)
            for shape in shapes}
    with open(args.out / "decode_peers.csv", "w", encoding="utf-8",
              newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["device", "torch", "cudnn_version", "sequences",
                         "tokens", "peer", "peer_us", "our_us",
                         "our_us_by_theirs"])
        print(f"{'sequences':9} {'tokens':7} {'peer':6} {'theirs us':>9} "
              f"{'ours us':>9} {'ratio':>6}")
        for (name, shape), theirs in peers.items():
            if theirs is None:
                continue
            ratio = ours[shape] / theirs
            writer.writerow([torch.cuda.get_device_name(), torch.__version__,
                             torch.backends.cudnn.version(), *shape, name,
                             f"{theirs:.3f}", f"{ours[shape]:.3f}",
                             f"{ratio:.4f}"])
            print(f"{shape[0]:<9} {shape[1]:<7} {name:6} {theirs:9.2f} "
                  f"{ours[shape]:9.2f} {ratio:6.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Prefill attention beside PyTorch's on the same GPU in the same job.

Runs prefill_attention_bench, then scaled_dot_product_attention with cuDNN and
with flash attention on the same shapes (dense, causal, contiguous keys and
values), then the bench once more, and prints ratios of TFLOP/s over
tokens^2 / 2, ours of both runs' mean. Needs torch.

Usage: attention_peers.py --bench=BINARY --out=FOLDER
"""

import argparse
import csv
import pathlib
import statistics
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS = 32, 8
WARM_UPS, REPETITIONS = 10, 31
PEERS = {"cudnn": SDPBackend.CUDNN_ATTENTION,
         "flash": SDPBackend.FLASH_ATTENTION}


def run_ours(bench, path):
    """The bench's rows, its table printed."""
    print(f"--- {bench}", flush=True)
    subprocess.run([bench, f"--csv={path}"], check=True)
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def median_ms(step):
    """Milliseconds of one call, the median."""
    times = []
    for i in range(WARM_UPS + REPETITIONS):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        if i >= WARM_UPS:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def run_peer(backend, head_dim, tokens):
    """TFLOP/s over tokens^2 / 2, or None where the peer refuses."""
    q, k, v = (torch.randn(1, heads, tokens, head_dim, device="cuda",
                           dtype=torch.bfloat16)
               for heads in (HEADS, KV_HEADS, KV_HEADS))
    step = lambda: torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True)
    try:
        with sdpa_kernel([backend]), torch.no_grad():
            ms = median_ms(step)
    except RuntimeError as error:
        print(f"refused: {str(error).splitlines()[0]}")
        return None
    return 4 * head_dim * HEADS * tokens * tokens / 2 / ms / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    first = run_ours(args.bench, args.out / "prefill_attention_1.csv")
    shapes = [(int(row["head_dim"]), int(row["tokens"])) for row in first
              if row["lists"] == "dense"]
    peers = {(name, shape): run_peer(backend, *shape)
             for shape in shapes for name, backend in PEERS.items()}
    second = run_ours(args.bench, args.out / "prefill_attention_2.csv")
    ours = {}
    for a, b in zip(first, second):
        if a["lists"] == "dense":
            ours[int(a["head_dim"]), int(a["tokens"])] = statistics.mean(
                (float(a["causal_tflops"]), float(b["causal_tflops"])))
    with open(args.out / "attention_peers.csv", "w", encoding="utf-8",
              newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["device", "torch", "cudnn_version", "head_dim",
                         "tokens", "peer", "peer_tflops", "our_tflops",
                         "ratio"])
        print(f"{'dim':5} {'tokens':7} {'peer':6} {'theirs':>8} {'ours':>8} "
              f"{'ratio':>6}")
        for (name, shape), theirs in peers.items():
            if theirs is None:
                continue
            ratio = ours[shape] / theirs
            writer.writerow([torch.cuda.get_device_name(), torch.__version__,
                             torch.backends.cudnn.version(), *shape, name,
                             f"{theirs:.2f}", f"{ours[shape]:.2f}",
                             f"{ratio:.4f}"])
            print(f"{shape[0]:<5} {shape[1]:<7} {name:6} {theirs:8.1f} "
                  f"{ours[shape]:8.1f} {ratio:6.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

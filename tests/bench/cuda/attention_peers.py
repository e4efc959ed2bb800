#!/usr/bin/env python3
"""Prefill attention beside PyTorch's on the same GPU in the same job.

Runs prefill_attention_bench, then the peers on the same shapes, then the bench
once more, and prints ratios to the mean of ours of both runs. Needs torch.

Launches are in CUDA graphs, ours and theirs, several where they are short.
Dense: scaled_dot_product_attention with cuDNN and with flash attention (causal,
contiguous keys and values), in TFLOP/s over tokens^2 / 2. Lists (cases
"densities"): FlexAttention over the very lists that the bench wrote down,
contiguous keys and values, causality inside the diagonal block; TFLOP/s of both
over the blocks of 64 x 64 that ours lists, so the ratio is that of times.

Usage: attention_peers.py --bench=BINARY --out=FOLDER [--cases=CASES] [--once]
       attention_peers.py --compile_only
--once leaves out the bench's second run, for jobs that have little time.
--compile_only leaves FlexAttention's kernels in torch's cache on disk, so that
a later run finds them; it measures nothing.
"""

import argparse
import csv
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

HEADS, KV_HEADS = 32, 8
BLOCK_TOKENS = 128
PEERS = {"cudnn": SDPBackend.CUDNN_ATTENTION,
         "flash": SDPBackend.FLASH_ATTENTION}
# Head width and tokens at which the bench has lists of given density.
LIST_SHAPES = [(128, 32768), (128, 131072)]


def warm_ups_and_repetitions(tokens):
    """As the bench has them."""
    return (3, 9) if tokens > 65536 else (10, 31)


def run_ours(bench, path, flags=()):
    """The bench's rows, its table printed."""
    command = [bench, f"--csv={path}", *flags]
    print("--- " + " ".join(command), flush=True)
    subprocess.run(command, check=True)
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def median_ms(step, warm_ups=10, repetitions=31):
    """Milliseconds of one call, the median."""
    times = []
    for i in range(warm_ups + repetitions):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        if i >= warm_ups:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def launches_for(tokens):
    """Of one graph, as the bench has them."""
    return max(1, 65536 // tokens)


def median_ms_in_graph(step, warm_ups, repetitions, launches):
    """Likewise of one of the calls that a CUDA graph makes: what the host does
    before a call is not attention's time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            step()
    return median_ms(graph.replay, warm_ups, repetitions) / launches


def random_inputs(head_dim, tokens):
    """Queries, keys and values, [1, heads, tokens, head_dim]."""
    return [torch.randn(1, heads, tokens, head_dim, device="cuda",
                        dtype=torch.bfloat16)
            for heads in (HEADS, KV_HEADS, KV_HEADS)]


def run_dense_peer(backend, head_dim, tokens):
    """TFLOP/s over tokens^2 / 2, or None where the peer refuses."""
    q, k, v = random_inputs(head_dim, tokens)
    step = lambda: torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True)
    try:
        with sdpa_kernel([backend]), torch.no_grad():
            ms = median_ms_in_graph(step, *warm_ups_and_repetitions(tokens),
                                    launches_for(tokens))
    except RuntimeError as error:
        print(f"refused: {str(error).splitlines()[0]}")
        return None
    return 4 * head_dim * HEADS * tokens * tokens / 2 / ms / 1e9


def run_dense_peers(rows):
    """(head_dim, tokens, "dense", peer, TFLOP/s) for the bench's dense rows."""
    results = []
    for head_dim, tokens in dict.fromkeys(
            (int(row["head_dim"]), int(row["tokens"])) for row in rows
            if row["lists"] == "dense"):
        for name, backend in PEERS.items():
            # The slower peer, and over more tokens no faster.
            if name == "flash" and tokens > 32768:
                continue
            theirs = run_dense_peer(backend, head_dim, tokens)
            if theirs is not None:
                results.append((head_dim, tokens, "dense", name, theirs))
    return results


def read_lists(path):
    """What the bench's WriteLists wrote: counts [KV heads, rows of blocks], and
    the blocks before the diagonal, head by head, row by row."""
    words = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.int32)
    block_tokens, kv_heads, rows = words[:3].tolist()
    if (block_tokens, kv_heads) != (BLOCK_TOKENS, KV_HEADS):
        raise ValueError(f"{path}: blocks of {block_tokens} tokens, {kv_heads} "
                         f"KV heads; {BLOCK_TOKENS} and {KV_HEADS} expected")
    counts = words[3:3 + kv_heads * rows].view(kv_heads, rows)
    blocks = words[3 + kv_heads * rows:]
    if counts.sum() != blocks.numel():
        raise ValueError(f"{path}: {blocks.numel()} blocks, {counts.sum()} "
                         "counted")
    return counts, blocks


def random_lists(rows, density=0.1):
    """As read_lists gives them, the first blocks of each row."""
    counts = (torch.arange(rows, dtype=torch.int32) * density).int()
    counts = counts.expand(KV_HEADS, rows).contiguous()
    return counts, torch.cat([torch.arange(n, dtype=torch.int32)
                              for n in counts.flatten().tolist()])


def causal(_batch, _head, query, key):
    return query >= key


def block_mask_of(counts, blocks):
    """Blocks before the diagonal in full, the diagonal under `causal`, each
    query head with its KV head's lists."""
    kv_heads, rows = counts.shape
    device = torch.device("cuda")
    columns = torch.arange(rows, dtype=torch.int32, device=device)
    counts, blocks = counts.to(device), blocks.to(device)
    full = torch.zeros(kv_heads, rows, rows, dtype=torch.int32, device=device)
    full[columns < counts[:, :, None]] = blocks
    partial = torch.zeros(1, HEADS, rows, rows, dtype=torch.int32,
                          device=device)
    partial[..., 0] = columns
    of_heads = lambda lists: lists.repeat_interleave(
        HEADS // kv_heads, dim=0)[None].contiguous()
    return BlockMask.from_kv_blocks(
        torch.ones(1, HEADS, rows, dtype=torch.int32, device=device), partial,
        of_heads(counts), of_heads(full), BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=causal)


def flex_step(compiled, head_dim, tokens, lists):
    """A call of FlexAttention over the lists."""
    q, k, v = random_inputs(head_dim, tokens)
    mask = block_mask_of(*lists)
    return lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True)


def refusal(head_dim, tokens, error):
    """What to print; compilers say why a few lines down."""
    lines = "\n".join(str(error).strip().splitlines()[:8])
    return (f"FlexAttention refuses head_dim {head_dim}, {tokens} tokens: "
            f"{type(error).__name__}: {lines}")


def compile_flex():
    """0 if FlexAttention compiles for all shapes."""
    compiled = torch.compile(flex_attention, dynamic=False)
    code = 0
    for head_dim, tokens in LIST_SHAPES:
        begin = time.monotonic()
        try:
            with torch.no_grad():
                flex_step(compiled, head_dim, tokens,
                          random_lists(tokens // BLOCK_TOKENS))()
                torch.cuda.synchronize()
        except Exception as error:  # whatever the compiler raises
            print(refusal(head_dim, tokens, error))
            code = 1
        print(f"FlexAttention, head_dim {head_dim}, {tokens} tokens: first "
              f"call after {time.monotonic() - begin:.1f} s", flush=True)
    return code


def run_flex(rows, folder):
    """Median milliseconds by (head_dim, tokens, lists), and whether it refused
    none of the lists in `folder`."""
    compiled = torch.compile(flex_attention, dynamic=False)
    medians, accepted = {}, True
    for row in rows:
        head_dim, tokens = int(row["head_dim"]), int(row["tokens"])
        if not row["lists"].startswith(f"{BLOCK_TOKENS} at "):
            continue
        name = re.sub("[^0-9A-Za-z]", "_",
                      f"{head_dim}_{tokens}_{row['lists']}") + ".bin"
        lists = read_lists(folder / name)
        # Of the diagonal block, a tile of 64 rows lists 1 or 2 of 2 x 2.
        listed = lists[0].double().mean().item() + 0.75
        if abs(listed - float(row["blocks_of_128_a_row"])) > 0.01:
            raise ValueError(f"{name} lists {listed} blocks a row, the bench "
                             f"says {row['blocks_of_128_a_row']}")
        try:
            with torch.no_grad():
                medians[head_dim, tokens, row["lists"]] = median_ms_in_graph(
                    flex_step(compiled, head_dim, tokens, lists),
                    *warm_ups_and_repetitions(tokens), launches_for(tokens))
        except Exception as error:  # whatever the compiler raises
            print(refusal(head_dim, tokens, error), flush=True)
            accepted = False
    return medians, accepted


def mean_of(column, first, second):
    """By (head_dim, tokens, lists), of both runs."""
    return {(int(a["head_dim"]), int(a["tokens"]), a["lists"]):
            statistics.mean((float(a[column]), float(b[column])))
            for a, b in zip(first, second)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--cases", choices=["means", "densities"])
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--compile_only", action="store_true")
    args = parser.parse_args()
    if args.compile_only:
        return compile_flex()
    if not args.bench or not args.out:
        parser.error("--bench and --out are needed")
    cases = [f"--cases={args.cases}"] if args.cases else []
    with tempfile.TemporaryDirectory() as folder:
        first = run_ours(args.bench, args.out / "prefill_attention_1.csv",
                         [*cases, f"--write_lists={folder}"])
        results = run_dense_peers(first)
        flex_ms, accepted = run_flex(first, pathlib.Path(folder))
    second = first if args.once else run_ours(
        args.bench, args.out / "prefill_attention_2.csv", cases)
    causal_tflops = mean_of("causal_tflops", first, second)
    tile_tflops = mean_of("tile_tflops", first, second)
    our_ms = mean_of("median_ms", first, second)
    for case, ms in flex_ms.items():
        results.append((*case, "flex", tile_tflops[case] * our_ms[case] / ms))
    with open(args.out / "attention_peers.csv", "w", encoding="utf-8",
              newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["device", "torch", "cudnn_version", "head_dim",
                         "tokens", "lists", "peer", "peer_tflops",
                         "our_tflops", "ratio"])
        print(f"{'dim':5} {'tokens':7} {'lists':12} {'peer':6} {'theirs':>8} "
              f"{'ours':>8} {'ratio':>6}")
        for head_dim, tokens, lists, name, theirs in results:
            case = head_dim, tokens, lists
            ours = (causal_tflops if lists == "dense" else tile_tflops)[case]
            ratio = ours / theirs
            writer.writerow([torch.cuda.get_device_name(), torch.__version__,
                             torch.backends.cudnn.version(), *case, name,
                             f"{theirs:.2f}", f"{ours:.2f}", f"{ratio:.4f}"])
            print(f"{head_dim:<5} {tokens:<7} {lists:12} {name:6} "
                  f"{theirs:8.1f} {ours:8.1f} {ratio:6.3f}")
    return 0 if accepted else 1


if __name__ == "__main__":
    sys.exit(main())

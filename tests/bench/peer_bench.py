#!/usr/bin/env python3
"""The engine beside llama.cpp: same file, same threads, runs taking turns.

  peer_bench.py --llama_cpp DIR/bin --model MODEL.gguf
  peer_bench.py --llama_cpp DIR/bin --model MODEL.gguf --prefill 128,512 --rounds 3

DIR/bin holds llama-bench and llama-batched-bench. Each round runs ours, then
theirs with flash attention off and on; the medians over the rounds are
compared, each against the better of the peer's two settings. A setting that is
far behind the other in the first round (--far_behind) is not run again for that
figure.
Nothing else should run meanwhile. Prints a line per figure: ours, theirs,
ratio; then the peak memory of both at the longest prompt and depth.

Without AMX: build the peer without it and set
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16. With AVX2 only: build the peer for AVX2 and
pass --simd=avx2.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEQUENCES = 16
TOGETHER_DEPTH = 512
# The peer reads a prompt once unmeasured before it measures it. From this
# length on a run takes a minute and has nothing left to warm.
LONG_PROMPT = 4096


def run(command):
    """Standard output and peak resident megabytes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with status "
                         f"{process.returncode}:\n{output}")
    return output, usage.ru_maxrss * 1024 / 1e6


def ours(args):
    output, peak = run([
        str(args.engine_bench), f"--model={args.model}",
        f"--threads={args.threads}", f"--prefill={args.prefill}",
        f"--depths={args.depths}", f"--decode_steps={args.decode_steps}",
        f"--together={'' if args.skip_together else SEQUENCES}",
        "--repetitions=1", f"--simd={args.simd}",
        f"--compute_dtype={args.compute_dtype}", "--json"])
    rates = json.loads(output)
    device = rates.pop("device")
    rates.pop("peak MB")
    return device, rates, peak


def theirs(args, flash, lost):
    """Rates by figure, without those in `lost`, and peak megabytes."""
    bench = [str(args.llama_cpp / "llama-bench"), "-m", str(args.model), "-t",
             str(args.threads), "-fa", str(flash), "-r", "1", "-o", "json"]

    def left(figure, values):
        return ",".join(value for value in values.split(",")
                        if f"{figure} {value}" not in lost)

    rates = {}
    peak = 0
    prompts = [int(p) for p in left("prefill", args.prefill).split(",") if p]
    for same in ([p for p in prompts if p < LONG_PROMPT],
                 [p for p in prompts if p >= LONG_PROMPT]):
        if not same:
            continue
        warmth = ["--no-warmup"] if same[0] >= LONG_PROMPT else []
        output, part = run(bench + warmth + ["-n", "0", "-p",
                                             ",".join(map(str, same))])
        peak = max(peak, part)
        for row in json.loads(output):
            rates[f"prefill {row['n_prompt']}"] = row["avg_ts"]
    depths = left("decode", args.depths)
    if depths:
        output, other_peak = run(
            bench + ["-p", "0", "-n", str(args.decode_steps), "-d", depths])
        peak = max(peak, other_peak)
        for row in json.loads(output):
            rates[f"decode {row['n_depth']}"] = row["avg_ts"]
    if args.skip_together or f"together {SEQUENCES}" in lost:
        return rates, peak
    context = SEQUENCES * (TOGETHER_DEPTH + args.decode_steps)
    together, _ = run([
        str(args.llama_cpp / "llama-batched-bench"), "-m", str(args.model),
        "-t", str(args.threads), "-fa", str(flash), "-c", str(context), "-npp",
        str(TOGETHER_DEPTH), "-ntg", str(args.decode_steps), "-npl",
        str(SEQUENCES), "--output-format", "jsonl"])
    for line in re.findall(r"^\{.*\}$", together, re.MULTILINE):
        rates[f"together {SEQUENCES}"] = json.loads(line)["speed_tg"]
    return rates, peak


def far_behind(first, other, share):
    return {name for name in first
            if first[name] < share * other.get(name, 0)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama_cpp", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--engine_bench", type=pathlib.Path,
                        default=ROOT / "build/release/tests/bench/engine_bench")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prefill", default="128,512,2048,8192")
    parser.add_argument("--depths", default="0,2048,7680")
    parser.add_argument("--decode_steps", type=int, default=128)
    parser.add_argument("--skip_together", action="store_true",
                        help=f"leave {SEQUENCES} sequences together out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--far_behind", type=float, default=0.5,
                        help="a setting of the peer below this share of the "
                        "other one in round 1 has lost; single rounds on a "
                        "shared machine differ by up to a factor of two")
    parser.add_argument("--simd", default="auto",
                        help="our widest instructions, such as avx2")
    parser.add_argument("--compute_dtype", default="auto")
    args = parser.parse_args()

    our_rounds, their_rounds = [], {0: [], 1: []}
    our_peak, their_peak = [], {0: [], 1: []}
    device = ""
    lost = {0: set(), 1: set()}
    for number in range(args.rounds):
        device, rates, peak = ours(args)
        our_rounds.append(rates)
        our_peak.append(peak)
        for flash in (0, 1):
            rates, peak = theirs(args, flash, lost[flash])
            their_rounds[flash].append(rates)
            their_peak[flash].append(peak)
        if number == 0:
            off, on = their_rounds[0][0], their_rounds[1][0]
            lost = {0: far_behind(off, on, args.far_behind),
                    1: far_behind(on, off, args.far_behind)}
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    print(f"ours: {device}; {args.rounds} rounds, medians, tokens/s")
    for name in our_rounds[0]:
        mine = statistics.median(r[name] for r in our_rounds)
        peers = {flash: statistics.median(r[name] for r in rounds
                                          if name in r)
                 for flash, rounds in their_rounds.items()}
        best = max(peers, key=peers.get)
        print(f"{name}: ours {mine:.1f}, llama.cpp {peers[best]:.1f} "
              f"(flash attention {'on' if best else 'off'}), ratio "
              f"{mine / peers[best]:.2f}")
    print(f"peak memory: ours {max(our_peak):.0f} MB, llama.cpp "
          f"{max(their_peak[0]):.0f} MB without, {max(their_peak[1]):.0f} MB "
          "with flash attention")


if __name__ == "__main__":
    main()

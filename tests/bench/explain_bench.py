#!/usr/bin/env python3
"""Measures what explaining a prompt costs beside running it.

  explain_bench.py --server_binary build/release/server/sparseserve-server \
      --tool build/release/client/sparseserve --model M.gguf

One server answers in turns: a dense prompt by itself (generate, one token), and
the same prompt explained, dense and against a pattern. Prints for each the
prompt's time on the server's clock, the processor time of the server's threads,
which other work on the machine changes less, the time that a caller waits, and
their ratios: explaining 2,048 tokens is to take at most three times the dense
prompt.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start(args):
    """The server as a child process, and its address.

    It computes every prompt anew, since explained ones are never found again.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".textproto") as config:
        config.write("scheduler { prefix_cache: false }\n")
        config.flush()
        return started(args, config.name)


def started(args, config):
    process = subprocess.Popen(
        [args.server_binary, f"--model={args.model}", "--explain",
         f"--config={config}", "--listen=127.0.0.1:0", "--metrics_listen="],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = ""
    for line in process.stderr:
        log += line
        found = re.search(r"listening grpc=(\S+)", line)
        if found:
            return process, found.group(1)
    raise SystemExit(f"the server did not start:\n{log}")


def call(args, address, command, *flags):
    """The reply's last JSON line, and seconds that the tool took."""
    began = time.monotonic()
    done = subprocess.run(
        [args.tool, command, f"--server={address}", "--json", *flags],
        capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), took


def processor_seconds(process):
    """User and system time of all threads so far."""
    stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
    fields = stat.rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def seconds(duration):
    return float(duration.rstrip("s"))


def fitting_prompt(args, address):
    """A text of this repository's prose that has args.tokens tokens."""
    words = (ROOT / "engine" / "README.md").read_text().split(" ")
    words *= 1 + args.tokens // len(words)
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        reply, _ = call(args, address, "tokenize", " ".join(words[:middle]))
        if len(reply["token_ids"]) <= args.tokens:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--server_binary", required=True)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pattern", default="xattention")
    args = parser.parse_args()
    server, address = start(args)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(fitting_prompt(args, address))
            file.flush()
            run(args, server, address, f"--file={file.name}")
    finally:
        server.terminate()
        server.communicate()


def run(args, server, address, prompt):
    kinds = {
        "dense prompt": ("generate", "--max_tokens=1", "--temperature=0"),
        "explained": ("explain",),
        f"explained against {args.pattern}": (
            "explain", f"--attention={args.pattern}"),
    }
    figures = {kind: [] for kind in kinds}  # prompt, processor, caller
    tokens = 0
    for _ in range(args.rounds):
        for kind, (command, *flags) in kinds.items():
            before = processor_seconds(server)
            reply, took = call(args, address, command, prompt, *flags)
            spent = processor_seconds(server) - before
            reply = reply.get("report", reply)
            tokens = max(tokens, len(reply.get("token_ids", [])))
            figures[kind].append(
                (seconds(reply["timings"]["prefill"]), spent, took))
    print(f"{tokens} tokens, seconds, medians of {args.rounds} rounds")
    print(f"{'':34}{'prompt':>9}{'ratio':>7}{'processor':>11}{'ratio':>7}"
          f"{'caller':>9}{'ratio':>7}")
    base = [statistics.median(column)
            for column in zip(*figures["dense prompt"])]
    for kind in kinds:
        prompt_s, spent, took = [
            statistics.median(column) for column in zip(*figures[kind])]
        print(f"{kind:34}{prompt_s:9.3f}{prompt_s / base[0]:7.2f}"
              f"{spent:11.3f}{spent / base[1]:7.2f}"
              f"{took:9.3f}{took / base[2]:7.2f}")
    for kind in kinds:
        print(f"  {kind}: prompt, processor " + ", ".join(
            f"{on_clock:.3f} {spent:.3f}"
            for on_clock, spent, _ in figures[kind]))


if __name__ == "__main__":
    main()

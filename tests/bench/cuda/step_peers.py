#!/usr/bin/env python3
"""Times whole steps of transformers beside step_bench's, on the same GPU.

A Llama-3.1-8B shape with random bf16 weights and PyTorch's SDPA: prompts of the
lengths that step_bench ran, logits of the last token alone. Prints ratios and
writes lines like step_bench's.

Usage: step_peers.py --bench=build/release/tests/bench/step_bench --out=DIR
"""

import argparse
import csv
import pathlib
import statistics
import subprocess
import sys
import time


def run_bench(arguments):
    path = pathlib.Path(arguments.out) / "step_bench.csv"
    subprocess.run(
        [arguments.bench, "--prefill=" + arguments.prefill,
         "--decode=" + arguments.decode,
         f"--repetitions={arguments.repetitions}", f"--csv={path}"],
        check=True)
    with open(path, encoding="utf-8") as file:
        return {(row["what"], int(row["sequences"]), int(row["tokens"])):
                float(row["milliseconds"]) for row in csv.DictReader(file)}


def make_model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, intermediate_size=14336, vocab_size=128256,
        max_position_embeddings=131072, rope_theta=500000.0)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    # Buffers were made without memory, too.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to("cuda")
    return model


def time_prefill(model, tokens, repetitions):
    import torch
    ids = torch.randint(0, 128000, (1, tokens), device="cuda")
    seconds = []
    with torch.inference_mode():
        for i in range(repetitions + 2):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            model(ids, use_cache=True, logits_to_keep=1)
            torch.cuda.synchronize()
            if i >= 2:
                seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--prefill", default="8192,32768")
    parser.add_argument("--decode", default="1x1024,1x32768,8x8192")
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    ours = run_bench(arguments)
    model = make_model()
    out = pathlib.Path(arguments.out) / "step_peers.csv"
    with open(out, "w", encoding="utf-8") as file:
        file.write("what,sequences,tokens,milliseconds\n")
        for text in arguments.prefill.split(","):
            tokens = int(text)
            theirs = time_prefill(model, tokens, arguments.repetitions)
            file.write(f"transformers_prefill,1,{tokens},{theirs}\n")
            mine = ours[("prefill", 1, tokens)]
            print(f"prefill {tokens}: {mine:.1f} ms, transformers "
                  f"{theirs:.1f} ms, ratio {mine / theirs:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

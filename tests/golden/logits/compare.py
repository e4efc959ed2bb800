#!/usr/bin/env python3
"""Compares whole distributions: the engine's logits beside the reference's.

usage: compare.py MODEL.gguf ENGINE_EVAL

Recomputes the reference for the texts of the goldens, runs ENGINE_EVAL (build
target engine_eval) on the same tokens in f32 and in the default mode, and
prints one line of figures per mode, text group and way of feeding. Unlike the
golden test it sees every logit of every position.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

import reference

HERE = pathlib.Path(__file__).parent
CHUNK_TOKENS = 256
WIDE_MARGIN = 0.5


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


class Figures:
    """Accumulates over chunks of rows; both sides are [n, vocab] logits."""

    def __init__(self):
        self.parts = {key: [] for key in (
            "same", "wide_same", "divergence", "logprob", "expected_logprob",
            "difference")}

    def add(self, ours, expected, following):
        top = expected.argmax(axis=1)
        same = ours.argmax(axis=1) == top
        largest = np.partition(expected, -2, axis=1)[:, -2:]
        wide = largest[:, 1] - largest[:, 0] >= WIDE_MARGIN
        span = expected.max(axis=1) - expected.min(axis=1)
        logprob, expected_logprob = log_softmax(ours), log_softmax(expected)
        rows = np.arange(len(following))
        for key, value in (
                ("same", same), ("wide_same", same[wide]),
                ("divergence", (np.exp(expected_logprob)
                                * (expected_logprob - logprob)).sum(axis=1)),
                ("logprob", logprob[rows, following]),
                ("expected_logprob", expected_logprob[rows, following]),
                ("difference", np.abs(ours - expected).max(axis=1) / span)):
            self.parts[key].append(value)

    def line(self):
        all_of = {k: np.concatenate(v) for k, v in self.parts.items()}
        ours, expected = (np.exp(-all_of[k].mean())
                          for k in ("logprob", "expected_logprob"))
        return (
            f"{len(all_of['same'])} tokens, "
            f"top-1 agreement {100 * all_of['same'].mean():.3f} %, "
            f"misses where margin >= {WIDE_MARGIN}: "
            f"{np.count_nonzero(~all_of['wide_same'])} of "
            f"{len(all_of['wide_same'])}, "
            f"KL mean {all_of['divergence'].mean():.3e} "
            f"p99 {np.quantile(all_of['divergence'], 0.99):.3e} "
            f"max {all_of['divergence'].max():.3e}, "
            f"perplexity {ours:.4f} against {expected:.4f} "
            f"(ratio {ours / expected:.6f}), "
            f"max |difference| / range {all_of['difference'].max():.3e}")


def engine_rows(command, tokens, vocab_size):
    """Yields the engine's logits [n, vocab_size] as it computes them."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        np.asarray(tokens, dtype="<i4").tofile(file.name)
        with subprocess.Popen([*command, f"--tokens={file.name}"],
                              stdout=subprocess.PIPE) as process:
            for first in range(0, len(tokens), CHUNK_TOKENS):
                count = min(CHUNK_TOKENS, len(tokens) - first)
                data = process.stdout.read(count * vocab_size * 4)
                if len(data) != count * vocab_size * 4:
                    raise RuntimeError(f"{command} ended early")
                yield np.frombuffer(data, "<f4").reshape(count, vocab_size)
        if process.returncode != 0:
            raise RuntimeError(f"{command}: exit code {process.returncode}")


@torch.inference_mode()
def hidden_states(model, tokens):
    return model.model(input_ids=torch.tensor([tokens])).last_hidden_state[0]


def main(model_path, engine_eval):
    model = reference.load_model(model_path)
    vocab_size = model.config.vocab_size
    manifest = json.loads((HERE / "manifest.json").read_text())
    groups = {group: [(text["tokens"], hidden_states(model, text["tokens"]))
                      for text in manifest[group]]
              for group in ("passages", "prose")}
    for dtype in ("f32", "auto"):
        for group, feeding in (("passages", []), ("passages", ["--decode"]),
                               ("prose", [])):
            command = [engine_eval, f"--model={model_path}",
                       f"--compute_dtype={dtype}", *feeding]
            figures = Figures()
            for tokens, hidden in groups[group]:
                first = 0
                for ours in engine_rows(command, tokens, vocab_size):
                    with torch.inference_mode():
                        expected = model.lm_head(
                            hidden[first:first + len(ours)]).numpy()
                    figures.add(ours, expected,
                                tokens[first + 1:first + 1 + len(ours)])
                    first += len(ours)
            print(f"{dtype} {group} {'decode' if feeding else 'prefill'}: "
                  f"{figures.line()}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

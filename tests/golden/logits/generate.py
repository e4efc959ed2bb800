#!/usr/bin/env python3
"""Writes the logits goldens: manifest.json and logits.bin beside this file.

usage: generate.py MODEL.gguf

README.md one folder up says what the goldens hold and how to make them again.
"""

import json
import pathlib
import sys

import numpy as np

import reference

HERE = pathlib.Path(__file__).parent
GREEDY_TOKENS = 48
PASSAGE_TOKENS = 64
PASSAGE_TOP = 64
PROSE_TOKENS = 4096
PROSE_TOP = 32
PROSE = ("jargon_culture", "jargon_folklore")


class ArrayFile:
    """Little-endian arrays one after another, described in `index`."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.index = {}

    def add(self, name, array, dtype):
        data = np.ascontiguousarray(array, dtype=np.dtype(dtype))
        self.index[name] = {
            "dtype": dtype, "shape": list(data.shape),
            "offset": self.file.tell()}
        self.file.write(data.tobytes())


def log_sum_exp(rows):
    top = rows.max(axis=1, keepdims=True).astype(np.float64)
    return np.log(np.exp(rows - top).sum(axis=1)) + top[:, 0]


def summarise(rows, top):
    """Per row: the `top` largest logits in descending order with their ids,
    log-sum-exp, and the least logit."""
    ids = np.argsort(-rows, axis=1, kind="stable")[:, :top]
    return {
        "top_ids": ids, "top_logits": np.take_along_axis(rows, ids, axis=1),
        "log_sum_exp": log_sum_exp(rows), "least": rows.min(axis=1)}


def teacher_forced(model, tokens, top):
    """Summaries of every position and the log-probability of the token that
    follows (0 at the last position, which has none)."""
    parts = []
    for first, rows in reference.logits(model, tokens):
        part = summarise(rows, top)
        following = tokens[first + 1:first + 1 + len(rows)]
        target = np.zeros(len(rows))
        target[:len(following)] = (
            rows[np.arange(len(following)), following]
            - part["log_sum_exp"][:len(following)])
        parts.append(part | {"target_logprob": target})
    return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def add_summary(arrays, prefix, summary):
    for key, value in summary.items():
        arrays.add(f"{prefix}/{key}", value,
                   "<u2" if key == "top_ids" else "<f4")


def main(model_path):
    model = reference.load_model(model_path)
    tokenizer = reference.load_tokenizer(model_path)
    arrays = ArrayFile(HERE / "logits.bin")
    cases = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))

    prompts, passages, prose = [], [], []
    for number, case in enumerate(cases):
        name = case["name"]
        tokens = tokenizer.encode(case["prompt"]).ids
        continuation, rows = reference.greedy(model, tokens, GREEDY_TOKENS)
        summary = summarise(rows, PASSAGE_TOP)
        add_summary(arrays, f"prompt/{name}", summary)
        # One whole row a prompt: the first is the prompt's last position, the
        # others lie ever deeper in the continuation.
        full_step = number * (GREEDY_TOKENS - 1) // (len(cases) - 1)
        arrays.add(f"prompt/{name}/full", rows[full_step], "<f4")
        margins = summary["top_logits"][:, 0] - summary["top_logits"][:, 1]
        prompts.append({
            "name": name, "tokens": tokens, "continuation": continuation,
            "full_step": full_step, "least_margin": float(margins.min())})
        print(f"{name}: {len(tokens)} tokens, least margin "
              f"{margins.min():.4f}: {tokenizer.decode(continuation)!r}")

        tokens = tokenizer.encode(case["passage"]).ids[:PASSAGE_TOKENS]
        if len(tokens) < PASSAGE_TOKENS:
            raise ValueError(f"passage {name} has only {len(tokens)} tokens")
        add_summary(arrays, f"passage/{name}",
                    teacher_forced(model, tokens, PASSAGE_TOP))
        passages.append({"name": name, "tokens": tokens})

    for name in PROSE:
        text = (HERE / "prose" / f"{name}.txt").read_text(encoding="utf-8")
        tokens = tokenizer.encode(text).ids[:PROSE_TOKENS]
        if len(tokens) < PROSE_TOKENS:
            raise ValueError(f"{name} has only {len(tokens)} tokens")
        summary = teacher_forced(model, tokens, PROSE_TOP)
        add_summary(arrays, f"prose/{name}", summary)
        prose.append({"name": name, "tokens": tokens})
        perplexity = np.exp(-summary["target_logprob"][:-1].mean())
        print(f"{name}: {len(tokens)} tokens, perplexity {perplexity:.4f}")

    manifest = {
        "model_sha256": reference.sha256(model_path),
        "made_with": reference.versions(),
        "vocab_size": model.config.vocab_size,
        "prompts": prompts, "passages": passages, "prose": prose,
        "arrays": arrays.index}
    with open(HERE / "manifest.json", "w", encoding="utf-8") as file:
        # Tokens on one line each entry: readable, and small diffs.
        file.write("{\n" + ",\n".join(
            f"{json.dumps(key)}: " + (
                "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]"
                if isinstance(value, list) else json.dumps(value))
            for key, value in manifest.items()) + "\n}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

#!/usr/bin/env python3
"""Prints what the GPU backend is to show, beside what was measured.

Reads what attention_peers.py, decode_peers.py, step_peers.py and
block_selection_bench left in a folder, and prints a line for each figure: its
floor, its aim, what it is, and the clocks it was taken at where a file has
them. Figures whose files are missing are named and counted. Leaves the same as
floors.csv. Exits with 1 if a figure misses its floor.

Usage: floors.py --out=FOLDER
"""

import argparse
import csv
import pathlib
import statistics
import sys

REACH, STAY = "at least", "at most"


class Results:
    """Rows of the folder's files, found by some of their columns."""

    def __init__(self, folder):
        self.files = {}
        for path in folder.glob("*.csv"):
            with open(path, encoding="utf-8", newline="") as file:
                self.files[path.stem] = list(csv.DictReader(file))
        self.clocks = set()

    def mean(self, files, column, **wanted):
        """Of the column over all rows of `files` that have what is wanted.
        LookupError if there is none."""
        found = [row for name in files for row in self.files.get(name, [])
                 if all(row.get(key) == str(value)
                        for key, value in wanted.items())]
        if not found:
            raise LookupError(f"no {wanted} in {', '.join(files)}")
        self.clocks.update(row["sm_mhz"].strip() for row in found
                           if row.get("sm_mhz"))
        return statistics.mean(float(row[column]) for row in found)

    def prefill(self, column, **wanted):
        return self.mean(["prefill_attention_1", "prefill_attention_2"],
                         column, **wanted)

    def peer(self, name, head_dim, tokens, lists):
        return self.mean(["attention_peers"], "ratio", peer=name,
                         head_dim=head_dim, tokens=tokens, lists=lists)

    def selection(self, case):
        return self.mean(["block_selection_bench"], "ratio", case=case)

    def decode(self, sequences, tokens):
        return self.mean(["decode_peers"], "our_us_by_theirs", peer="cudnn",
                         sequences=sequences, tokens=tokens)

    def step(self, what, tokens, sequences=1):
        return self.mean(["step_bench", "step_peers"], "milliseconds",
                         what=what, tokens=tokens, sequences=sequences)


def figures():
    """(what, way, floor, aim, figure of Results)"""
    for head_dim in (128, 64):
        for tokens in (8192, 32768, 131072):
            yield (f"dense, head_dim {head_dim}, {tokens} / cuDNN", REACH, 0.8,
                   1.0, lambda r, d=head_dim, t=tokens:
                   r.peer("cudnn", d, t, "dense"))
    for tokens in (8192, 32768):
        for mean, floor, aim in ((8, 0.82, 0.9), (16, 0.9, 0.95)):
            yield (f"lists of {mean} x 128, {tokens} / own dense", REACH,
                   floor, aim, lambda r, m=mean, t=tokens:
                   r.prefill("of_dense", head_dim=128, tokens=t,
                             lists=f"128 mean {m}"))
    for tokens, percent, floor, aim in ((32768, 5, 1.2, 1.5),
                                        (32768, 10, 1.1, 1.45),
                                        (32768, 25, 1.0, 1.35),
                                        (131072, 10, 1.0, 1.3)):
        yield (f"lists of {percent} %, {tokens} / FlexAttention", REACH, floor,
               aim, lambda r, t=tokens, p=percent:
               r.peer("flex", 128, t, f"128 at {p} %"))
    yield ("lists of 64-blocks, 10 %, 32768: TFLOP/s", REACH, 400, 530,
           lambda r: r.prefill("tile_tflops", head_dim=128, tokens=32768,
                               lists="64 at 10 %"))
    for case, floor, aim in (("pooled", 0.15, 0.08),
                             ("vertical-slash", 0.25, 0.12),
                             ("flex by last rows", 0.25, 0.12),
                             ("antidiagonal stride 16", 0.45, 0.3)):
        yield (f"choosing, {case} / attention", STAY, floor, aim,
               lambda r, c=case: r.selection(c))
    for sequences, tokens, floor, aim in ((8, 32768, 1.12, 1.03),
                                          (32, 8192, 1.12, 1.03),
                                          (64, 4096, 1.12, 1.03),
                                          (1, 32768, 1.3, 1.05),
                                          (1, 131072, 1.15, 1.05)):
        yield (f"decode {sequences} x {tokens} / cuDNN", STAY, floor, aim,
               lambda r, s=sequences, t=tokens: r.decode(s, t))
    for case, aim in (("decode each step", 1.6),
                      ("decode reused 4 steps", 1.35)):
        yield (f"{case}, 8 x 32768, 10 % / bytes", STAY, 2.0, aim,
               lambda r, c=case: r.selection(c))
    for tokens in (8192, 32768):
        yield (f"8B prefill {tokens} / transformers", STAY, 0.95, 0.78,
               lambda r, t=tokens: r.step("prefill", t) /
               r.step("transformers_prefill", t))
    yield ("8B decode step, 1 x 1024 / reading weights", STAY, 1.35, 1.15,
           lambda r: r.step("decode", 1024) / r.step("read_weights", 0, 0))
    yield ("8B prefill 32768, random tenths / own dense", STAY, 0.75, 0.64,
           lambda r: r.step("prefill_random_tenths", 32768) /
           r.step("prefill", 32768))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    folder = parser.parse_args().out
    results = Results(folder)
    missed, absent = 0, []
    with open(folder / "floors.csv", "w", encoding="utf-8",
              newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "way", "floor", "aim", "figure", "verdict",
                         "sm_mhz"])
        print(f"{'what':46} {'':8} {'floor':>6} {'aim':>6} {'figure':>8}")
        for what, way, floor, aim, figure in figures():
            results.clocks.clear()
            try:
                value = figure(results)
            except LookupError:
                absent.append(what)
                continue
            meets = lambda bound: (value >= bound if way == REACH
                                   else value <= bound)
            verdict = ("aim" if meets(aim) else
                       "floor" if meets(floor) else "missed")
            missed += verdict == "missed"
            clocks = " to ".join(sorted({min(results.clocks, key=int),
                                         max(results.clocks, key=int)},
                                        key=int)) if results.clocks else ""
            writer.writerow([what, way, floor, aim, f"{value:.4f}", verdict,
                             clocks])
            print(f"{what:46} {way:8} {floor:6} {aim:6} {value:8.3f} "
                  f"{verdict:6} {clocks and clocks + ' MHz'}")
    print(f"{missed} missed, {len(absent)} not measured"
          + "".join(f"\n  {what}" for what in absent))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

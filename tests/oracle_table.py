#!/usr/bin/env python3
"""Prints which systems are compared with which oracles, and how far off they are.

  tests/oracle_table.py build/release

runs the unit tests that compare a system of sparse attention with an oracle, and
makes a Markdown table of what they report. Ends with 1 if a test fails, or if a
system lacks a comparison that it should have.
"""

import argparse
import collections
import re
import subprocess
import sys

# Programs, and which of their tests compare; of the others all.
TESTS = {
    "engine/pattern/engine.pattern.pattern_rules_golden_test": "*",
    "engine/pattern/engine.pattern.pattern_rules_test": "*",
    "engine/pattern/engine.pattern.static_keys_test": "*WholePrompts*",
    "engine/pattern/engine.pattern.axial_passes_test": "*",
    "engine/pattern/engine.pattern.big_bird_passes_test": "*",
    "engine/pattern/engine.pattern.etc_passes_test": "*",
    "engine/pattern/engine.pattern.h_transformer_passes_test": "*",
    "engine/pattern/engine.pattern.longformer_passes_test": "*",
    "engine/pattern/engine.pattern.nsa_passes_test": "*",
    "engine/pattern/engine.pattern.routing_passes_test": "*",
    "engine/pattern/engine.pattern.token_graph_passes_test": "*",
    "engine/attention/engine.attention.encoder_passes_golden_test": "*",
    "engine/attention/engine.attention.encoder_passes_test": "*",
    "engine/attention/engine.attention.nsa_attention_test": "*EqualsTheRule*",
    "engine/backend/engine.backend.selection_test": "*AttentionOverTheChoice*:*KeptLists*",
    "engine/backend/engine.backend.skipping_attention_test": "*KeepsWhatTheRuleKeeps*",
    "engine/backend/engine.backend.slice_selection_test": "*SelectedAttention*",
    "engine/backend/engine.backend.static_attention_test": "*OfEveryPattern*:*HeadsOfAMapEqual*",
    "engine/engine.engine_delta_test": "*ReferenceOfTheFormula*",
    "engine/engine.engine_patterns_test": "*EveryStatic*:*DenseLayers*:*PrunedHeads*",
    "engine/engine.engine_pruned_heads_test": "*LogitsAre*",
}

# A row of the table: its title, the names under which tests report it, the
# oracle that stands at the top, and the comparisons that it must have.
KERNELS = ("f32", "bf16")
PLAN = ("sets",) + KERNELS
GOLDEN = ("module",) + PLAN
SYSTEMS = [
    ("dense", ["dense"], "rule", PLAN),
    ("sliding window (Mistral)", ["sliding_window", "mistral"], "module", GOLDEN),
    ("sink + window (StreamingLLM, A-shape)", ["sink_window"], "rule", PLAN),
    ("Tri-shape", ["tri_shape"], "rule", PLAN),
    ("Sparse Transformer, strided", ["strided"], "rule", PLAN),
    ("Sparse Transformer, fixed", ["fixed"], "rule", PLAN),
    ("dilated window", ["dilated_window"], "rule", PLAN),
    ("chunked local", ["chunked_local"], "rule", PLAN),
    ("Longformer", ["longformer", "longformer_blocks"], "module", GOLDEN),
    ("LED encoder", ["led"], "module", GOLDEN),
    ("Longformer, dilated and causal", ["longformer_dilated"], "rule", PLAN),
    ("BigBird ITC", ["big_bird"], "module", GOLDEN),
    ("BigBird ETC", ["big_bird_etc"], "rule", PLAN),
    ("ETC", ["etc"], "rule", PLAN),
    ("axial", ["axial"], "rule", PLAN),
    ("Swin", ["swin", "swin_blocks"], "module", GOLDEN),
    ("token graphs", ["token_graph"], "rule", PLAN),
    ("Reformer LSH", ["reformer_lsh", "reformer_blocks"], "module", GOLDEN),
    ("Reformer local", ["reformer_local"], "module", ("module",)),
    ("Routing Transformer", ["routing"], "rule", PLAN),
    ("H-Transformer-1D", ["h_transformer"], "rule", PLAN),
    ("MoBA", ["moba"], "rule", ("superset",) + KERNELS),
    ("NSA", ["nsa"], "rule", PLAN),
    ("MInference vertical-slash", ["vertical_slash"], "rule", PLAN),
    ("MInference block-sparse (pooled)", ["block_sparse"], "rule", PLAN),
    ("FlexPrefill", ["flex_prefill"], "rule", PLAN),
    ("XAttention", ["xattention"], "rule", PLAN),
    ("similarity-gated (SpargeAttn)", ["similarity_gated"], "rule", PLAN),
    ("peak weight", ["peak_weight"], "rule", PLAN),
    ("TriangleMix", ["triangle_mix"], "rule", ("logits",)),
    ("Delta correction", ["delta"], "rule", ("logits",)),
    ("skip-softmax (BLASST)", ["skip_softmax"], "rule", PLAN),
    ("Quest", ["quest"], "rule", PLAN),
    ("top-p of pages (Twilight)", ["page_top_p"], "rule", PLAN),
    ("streaming heads (DuoAttention)", ["streaming_heads"], "rule", KERNELS),
    ("reused selections", ["reuse"], "rule", PLAN),
    ("pruned heads", ["pruned"], "rule", KERNELS + ("logits",)),
]
COLUMNS = [
    ("module", "rule ↔ module, FP64"),
    ("sets", "plan ↔ rule, sets"),
    ("f32", "kernel ↔ plan, f32"),
    ("bf16", "kernel ↔ plan, bf16"),
    ("logits", "logits ↔ reference"),
]


class Cell:
    def __init__(self):
        self.cases = self.rows = 0
        self.worst = 0.0

    def add(self, other):
        self.cases += other.cases
        self.rows += other.rows
        self.worst = max(self.worst, other.worst)

    def text(self, kind):
        cases = f"{self.cases} case{'' if self.cases == 1 else 's'}"
        if kind in ("sets", "superset"):
            return f"{'equal' if kind == 'sets' else kind}, {cases}"
        return f"{self.worst:.1e}, {cases}"


def run(binary, tests):
    """What a program's tests report, by (system, what): each one's worst path."""
    done = subprocess.run([binary, f"--gtest_filter={tests}"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout[-4000:], file=sys.stderr)
        sys.exit(f"{binary} failed")
    cells = collections.defaultdict(lambda: collections.defaultdict(Cell))
    test = path = ""
    for line in done.stdout.splitlines():
        started = re.match(r"\[ RUN      \] (\S+?)(/\w+)?$", line)
        if started:
            test, path = started.group(1), started.group(2) or ""
        if line.startswith("oracle|"):
            _, system, what, cases, rows, worst = line.split("|")
            cell = Cell()
            cell.cases, cell.rows, cell.worst = int(cases), int(rows), float(worst)
            cells[(system, what, test)][path].add(cell)
    found = collections.defaultdict(Cell)
    for (system, what, _), paths in cells.items():
        # Paths run the same cases: count them once.
        cell = Cell()
        cell.cases = max(c.cases for c in paths.values())
        cell.rows = max(c.rows for c in paths.values())
        cell.worst = max(c.worst for c in paths.values())
        found[(system, what)].add(cell)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", help="build folder, such as build/release")
    build = parser.parse_args().build
    found = collections.defaultdict(Cell)
    for test, filtered in TESTS.items():
        for key, cell in run(f"{build}/tests/{test}", filtered).items():
            found[key].add(cell)

    holes = []
    print("| system | oracle |" + "".join(f" {title} |" for _, title in COLUMNS))
    print("|---|---|" + "---|" * len(COLUMNS))
    for title, names, oracle, wanted in SYSTEMS:
        def cell_of(what):
            cell = Cell()
            for name in names:
                if (name, what) in found:
                    cell.add(found[(name, what)])
            return cell

        for what in wanted:
            if cell_of(what).rows == 0:
                holes.append(f"{title}: no {what}")
        texts = []
        for what, _ in COLUMNS:
            if what == "sets" and "superset" in wanted:
                what = "superset"
            cell = cell_of(what)
            text = cell.text(what) if cell.rows else ""
            if what == "module" and cell_of("released").rows:
                text += f"; as released {cell_of('released').worst:.1e}"
            texts.append(text)
        print(f"| {title} | {oracle} |" + "".join(f" {text} |" for text in texts))
    known = {name for _, names, _, _ in SYSTEMS for name in names}
    holes += [f"{name} is reported but in no row" for name, _ in found if name not in known]
    for hole in holes:
        print(hole, file=sys.stderr)
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())

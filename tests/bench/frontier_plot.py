#!/usr/bin/env python3
"""Draws what frontier_bench printed: divergence from dense attention against
density and against time, a column of two plots for each file.

  frontier_plot.py prose.md code.md > frontier.svg
  frontier_plot.py prose-quality.md,prose-time.md ... > frontier.svg

A file is the output of one run; the first line names its text. Quality and time
of one text may be of two runs, of which plans that are in both are drawn. Plans
of one pattern have one colour, and a line through them in the order of density.
"""

import argparse
import collections
import html
import math
import pathlib
import re
import sys

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
           "#7f3c8d", "#5c5c5c", "#8c6d31", "#11a579", "#a5002a", "#3b3bb3"]
WIDTH, HEIGHT = 470, 330
LEFT, TOP, RIGHT, BOTTOM = 62, 34, 14, 46
GAP = 22
LEGEND_ROW = 18

Plan = collections.namedtuple("Plan", "name pattern density divergence time")


def cells_of(path):
    """The title of a run, and of each plan the cells by their columns' names."""
    lines = path.read_text(encoding="utf-8").splitlines()
    columns, plans = [], {}
    for line in lines:
        if not line.startswith("|") or line.startswith("|---"):
            continue
        cells = [cell.strip() for cell in line.strip("| \n").split("|")]
        if cells[0] == "plan":
            columns = cells
        else:
            plans[cells[0]] = dict(zip(columns, cells))
    tokens, what = lines[0].split(", cpu")[0].split(" of ", 1)
    files = what.split(", ")
    if "/" in files[0]:
        what = f"{len(files)} files, {pathlib.Path(files[0]).suffix}"
    return f"{tokens} of {what}", plans


def read(paths):
    """The title of one text's runs and their plans, without the dense one."""
    runs = [cells_of(path) for path in paths]
    if len({title for title, _ in runs}) != 1:
        raise SystemExit(f"{', '.join(map(str, paths))} are of different texts")
    plans = []
    for name in runs[0][1]:
        cells = {}
        for _, of_run in runs:
            cells.update(of_run.get(name, {}))
        if name == "dense" or not {"density", "s (of dense)"} <= cells.keys():
            continue
        share = re.search(r"\((.*)\)", cells["s (of dense)"]).group(1)
        plans.append(Plan(name, pattern_of(name), float(cells["density"]),
                          float(cells["KL mean / p99"].split("/")[0]),
                          float(share)))
    if not plans:
        raise SystemExit(f"{', '.join(map(str, paths))} hold no plan with "
                         "quality and time")
    return runs[0][0], plans


def pattern_of(name):
    """Its words; numbers are settings."""
    return " + ".join(part.split(",")[0] for part in name.split("+"))


class Axis:
    def __init__(self, low, high, start, end, logarithmic):
        self.low, self.high, self.start, self.end = low, high, start, end
        self.map = math.log10 if logarithmic else float
        self.logarithmic = logarithmic

    def at(self, value):
        low, high = self.map(self.low), self.map(self.high)
        value = min(max(value, self.low), self.high)
        share = (self.map(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self):
        if not self.logarithmic:
            step = 0.2 if self.high - self.low > 0.6 else 0.1
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            return [step * i for i in range(first, last + 1)]
        return [digit * 10.0 ** power
                for power in range(math.floor(math.log10(self.low)),
                                   math.ceil(math.log10(self.high)) + 1)
                for digit in (1, 2, 5)
                if self.low <= digit * 10.0 ** power <= self.high * 1.001]


def text(x, y, words, anchor="middle", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>'
            f"{html.escape(words)}</text>")


def panel(left, top, title, label, plans, value_of, limits, colours):
    across = Axis(*limits, left + LEFT, left + WIDTH - RIGHT, False)
    least = min(plan.divergence for plan in plans)
    greatest = max(plan.divergence for plan in plans)
    up = Axis(least / 1.4, greatest * 1.4, top + HEIGHT - BOTTOM, top + TOP,
              True)
    parts = [text(left + WIDTH / 2, top + 20, title, extra=' class="title"')]
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {up.end}V{up.start}"/>')
        parts.append(text(x, up.start + 16, f"{tick:.1f}"))
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(
            f'<path class="grid" d="M{across.start} {y:.1f}H{across.end}"/>')
        parts.append(text(across.start - 6, y + 4, f"{tick:g}", "end"))
    parts.append(text((across.start + across.end) / 2, up.start + 36, label))
    y = (up.start + up.end) / 2
    parts.append(text(left + 16, y, "KL from dense, nats a token",
                      extra=f' transform="rotate(-90 {left + 16} {y:.1f})"'))
    families = collections.defaultdict(list)
    for plan in plans:
        families[plan.pattern].append(plan)
    for pattern, members in families.items():
        members.sort(key=value_of)
        points = [(across.at(value_of(plan)), up.at(plan.divergence))
                  for plan in members]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = colours[pattern]
        parts.append(f'<polyline points="{line}" fill="none" '
                     f'stroke="{colour}" stroke-opacity=".55"/>')
        for plan, (x, y) in zip(members, points):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
                f"<title>{html.escape(plan.name)}: density "
                f"{plan.density:.2f}, KL {plan.divergence:.4f}, "
                f"{plan.time:.2f} of dense's time</title></circle>")
    return "\n".join(parts)


def draw(runs):
    patterns = []
    for _, plans in runs:
        for plan in plans:
            if plan.pattern not in patterns:
                patterns.append(plan.pattern)
    if len(patterns) > len(COLOURS):
        raise SystemExit(f"{len(patterns)} patterns; at most {len(COLOURS)} "
                         "can be told apart")
    colours = dict(zip(patterns, COLOURS))
    times = [plan.time for _, plans in runs for plan in plans]
    time_limits = (math.floor(min(times + [0.9]) * 10) / 10,
                   math.ceil(max(times + [1.0]) * 10) / 10)
    width = len(runs) * (WIDTH + GAP) - GAP
    columns = max(1, width // 235)
    rows = -(-len(patterns) // columns)
    height = 2 * HEIGHT + GAP + rows * LEGEND_ROW + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}">',
        "<style>text{font:12px sans-serif;fill:#222}"
        ".title{font-weight:bold}.grid{stroke:#ddd}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for i, (title, plans) in enumerate(runs):
        left = i * (WIDTH + GAP)
        parts.append(panel(left, 0, title, "density: visited blocks of dense's",
                           plans, lambda plan: plan.density, (0, 1), colours))
        parts.append(panel(left, HEIGHT + GAP, title,
                           "time to first token, of dense's", plans,
                           lambda plan: plan.time, time_limits, colours))
    for i, pattern in enumerate(patterns):
        x = 20 + i % columns * 235
        y = 2 * HEIGHT + GAP + 16 + i // columns * LEGEND_ROW
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" '
                     f'fill="{colours[pattern]}"/>')
        parts.append(text(x + 10, y, pattern, "start"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+",
                        help="a file, or two with a comma, for each text")
    args = parser.parse_args()
    sys.stdout.write(draw([read([pathlib.Path(path) for path in text.split(",")])
                           for text in args.tables]))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""deploy/dashboards: what generate.py writes is what lies there, and every panel
says what it shows, in which unit, and selects what the variables select."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "deploy" / "dashboards"


def generator():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("generate",
                                                  FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def boards():
    return {path.stem: json.loads(path.read_text())
            for path in sorted(FOLDER.glob("*.json"))}


def panels():
    return [(f"{name}: {panel['title']}", panel)
            for name, board in boards().items() for panel in board["panels"]
            if panel["type"] != "row"]


def targets():
    return [(name, target["expr"]) for name, panel in panels()
            for target in panel["targets"]]


def selectors(expression):
    """Names and matchers of all series that it reads."""
    return re.findall(r"([A-Za-z_:][\w:]*)\{([^}]*)\}", expression)


class DashboardsTest(unittest.TestCase):
    def test_files_are_what_the_generator_writes(self):
        module = generator()
        made = {name: json.loads(module.text_of(board))
                for name, board in module.dashboards().items()}
        self.assertEqual(made, boards())
        for name, board in module.dashboards().items():
            self.assertEqual((FOLDER / f"{name}.json").read_text(),
                             module.text_of(board))

    def test_variables_are_the_same_everywhere(self):
        for name, board in boards().items():
            listed = {variable["name"]: variable
                      for variable in board["templating"]["list"]}
            self.assertEqual(list(listed)[:4],
                             ["datasource", "job", "instance", "model"], name)
            for variable in list(listed.values())[1:]:
                self.assertEqual(variable["datasource"]["uid"],
                                 "${datasource}")
                self.assertEqual((variable["allValue"], variable["refresh"]),
                                 (".+", 2))

    def test_boards_are_told_apart_and_not_edited_by_hand(self):
        uids = [board["uid"] for board in boards().values()]
        self.assertEqual(len(uids), len(set(uids)))
        for board in boards().values():
            self.assertFalse(board["editable"])
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(ids), len(set(ids)))

    def test_panels_say_what_they_show(self):
        self.assertGreater(len(panels()), 90)
        titles = [name for name, _ in panels()]
        self.assertEqual(len(titles), len(set(titles)))
        for name, panel in panels():
            with self.subTest(name):
                self.assertGreater(len(panel["description"]), 8)
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                self.assertTrue(panel["targets"])

    def test_panels_do_not_overlap(self):
        for board in boards().values():
            taken = set()
            for panel in board["panels"]:
                at = panel["gridPos"]
                self.assertLessEqual(at["x"] + at["w"], 24)
                cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                         for y in range(at["y"], at["y"] + at["h"])}
                self.assertFalse(taken & cells, panel["title"])
                taken |= cells

    def test_queries_select_what_the_variables_select(self):
        for name, expression in targets():
            with self.subTest(name):
                found = selectors(expression)
                self.assertTrue(found)
                # No series is read without matchers.
                bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"", "{}", expression)
                self.assertFalse(re.search(
                    r"(sparseserve|process|DCGM)[\w:]*\b(?!\{)(?![\w:]*\{)",
                    bare), expression)
                for series, matchers in found:
                    job = "$gpu_job" if series.startswith("DCGM") else "$job"
                    self.assertIn(f'job=~"{job}"', matchers)
                    if ":" not in series and job == "$job":
                        self.assertIn('instance=~"$instance"', matchers)

    def test_counters_are_looked_at_as_rates(self):
        for name, expression in targets():
            for match in re.finditer(r"(\w+)_(total|sum|count|bucket)\{",
                                     expression):
                before = expression[:match.start()]
                self.assertRegex(before, r"(rate|increase) ?\($",
                                 f"{name}: {match.group(0)}")
            self.assertNotRegex(expression, r"rate\([^)]*\[\d", name)

    def test_promtool_can_read_every_query(self):
        rules = [{"record": f"query{i}",
                  "expr": re.sub(r"\$__rate_interval", "5m", expression)}
                 for i, (_, expression) in enumerate(targets())]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump({"groups": [{"name": "queries", "rules": rules}]}, file)
            file.flush()
            done = subprocess.run(["promtool", "check", "rules", file.name],
                                  capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()

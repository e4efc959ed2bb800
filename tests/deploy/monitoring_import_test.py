#!/usr/bin/env python3
"""deploy/kustomize/components/monitoring/import.py, on files of its own and on
ours."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from manifests import KUSTOMIZE, ROOT, of_kind, render

import jsonschema  # installed by manifests
import yaml

from custom_resource_schemas import schema_of

SCRIPT = KUSTOMIZE / "components/monitoring/import.py"
RULES = """# What is wrong.
groups:
  - name: latency
    rules:
      - alert: Slow
        expr: |
          up == 0
            and on() vector(1)

        for: 2m
"""


class MonitoringImportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.deploy = pathlib.Path(folder.name) / "deploy"
        shutil.copytree(KUSTOMIZE, self.deploy / "kustomize")
        (self.deploy / "prometheus").mkdir()
        (self.deploy / "dashboards").mkdir()
        self.rules = self.deploy / "prometheus/slow_things.rules.yml"
        self.rules.write_text(RULES)
        self.dashboard = self.deploy / "dashboards/overview.json"
        self.dashboard.write_text('{"title": "Overview"}')

    def run_script(self, *arguments, deploy=None):
        return subprocess.run(
            [sys.executable, "-B", SCRIPT,
             f"--deploy={deploy or self.deploy}", *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def rendered(self):
        return render(self.deploy / "kustomize/overlays/monitoring")

    def test_rules_arrive_as_they_are(self):
        self.assertEqual(self.run_script().returncode, 0)
        rule, = of_kind(self.rendered(), "PrometheusRule")
        self.assertEqual(rule["metadata"]["name"], "sparseserve-slow-things")
        self.assertEqual(rule["spec"], yaml.safe_load(RULES))
        jsonschema.validate(rule, schema_of(rule))

    def test_dashboards_arrive_with_the_label_of_the_sidecar(self):
        self.assertEqual(self.run_script().returncode, 0)
        found, = [one for one in of_kind(self.rendered(), "ConfigMap")
                  if "grafana_dashboard" in one["metadata"].get("labels", {})]
        self.assertEqual(found["data"],
                         {"overview.json": self.dashboard.read_text()})

    def test_check_finds_what_is_out_of_date(self):
        self.assertEqual(self.run_script().returncode, 0)
        self.assertEqual(self.run_script("--check").returncode, 0)
        self.rules.write_text(RULES.replace("2m", "3m"))
        result = self.run_script("--check")
        self.assertEqual(result.returncode, 1)
        self.assertIn("prometheus-rules.yaml is out of date", result.stderr)

    def test_refuses_what_it_would_lose(self):
        self.rules.write_text(RULES + "other: 1\n")
        result = self.run_script()
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"{self.rules}:", result.stderr)

    def test_refuses_to_make_nothing(self):
        for missing in (self.rules, self.dashboard):
            text = missing.read_text()
            missing.unlink()
            result = self.run_script()
            self.assertEqual(result.returncode, 1)
            self.assertIn(str(missing.parent), result.stderr)
            missing.write_text(text)

    def test_broken_dashboards_are_named(self):
        self.dashboard.write_text("{")
        result = self.run_script()
        self.assertEqual(result.returncode, 1)
        self.assertIn(str(self.dashboard), result.stderr)

    def test_ours_is_up_to_date(self):
        result = self.run_script("--check", deploy=ROOT / "deploy")
        self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    unittest.main()

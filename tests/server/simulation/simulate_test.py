#!/usr/bin/env python3
"""sparseserve-simulate as its users see it.

Usage: simulate_test.py PROGRAM
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = ""
HEADER = "arrival_s,prompt_tokens,output_tokens\n"


class SimulateTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.trace = self.folder / "trace.csv"
        self.trace.write_text(
            HEADER + "".join(f"{i * 0.5},{100 + i},{5 + i}\n"
                             for i in range(20)))

    def run_it(self, *flags):
        return subprocess.run([PROGRAM, *flags], capture_output=True,
                              text=True, timeout=60, check=False)

    def result(self, *flags):
        done = self.run_it(f"--trace={self.trace}", "--json=-", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_help_has_examples_and_every_flag(self):
        done = self.run_it("--help")
        self.assertIn("sparseserve-simulate --trace=trace.csv", done.stdout)
        for flag in ("--trace", "--classes", "--replicas", "--picker",
                     "--costs_from", "--config", "--json"):
            self.assertIn(flag, done.stdout)

    def test_text_says_attainment_goodput_and_waste(self):
        done = self.run_it(f"--trace={self.trace}", "--classes=chat:ttft=10s")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("chat: 20 requests, 20 finished", done.stdout)
        self.assertIn("attainment 100.0 %", done.stdout)
        self.assertIn("goodput", done.stdout)
        self.assertIn("wasted", done.stdout)

    def test_json_goes_to_a_file_beside_the_text(self):
        path = self.folder / "result.json"
        done = self.run_it(f"--trace={self.trace}", f"--json={path}")
        self.assertIn("20 requests", done.stdout)
        self.assertEqual(json.loads(path.read_text())["all"]["requests"], 20)

    def test_repeats_and_scales_arrivals(self):
        once = self.result()
        thrice = self.result("--repeat=3", "--arrival_scale=10")
        self.assertEqual(thrice["all"]["requests"], 60)
        self.assertGreater(thrice["elapsed_s"], 25 * once["elapsed_s"])

    def test_limits_and_targets_of_a_config_hold(self):
        config = self.folder / "server.textproto"
        config.write_text(
            "scheduler { classes { priority: 3 "
            "default_target { time_to_first_token { nanos: 1000000 } "
            "on_miss: REJECT } } }")
        result = self.result(f"--config={config}",
                             "--classes=strict:priority=3")
        self.assertEqual(result["all"]["attainment"], 0)
        self.assertEqual(
            self.result(f"--config={config}")["all"]["attainment"], 1)

    def test_costs_come_from_a_scrape(self):
        scrape = self.folder / "scrape.txt"
        scrape.write_text("".join(
            f'sparseserve_step_cost_seconds{{model_name="m",term="{term}"}} '
            f"{0.25 if term == 'constant' else 0}\n"
            for term in ("constant", "decode_row", "prompt_row",
                         "decode_block", "prompt_block")))
        result = self.result(f"--costs_from={scrape}", "--arrival_scale=100")
        self.assertAlmostEqual(
            result["all"]["time_to_first_token"]["p50_s"], 0.25)

    def test_errors_name_the_value_and_exit_with_2(self):
        for flags, error in (
                ([], "--trace is required"),
                (["--trace=/nowhere.csv"], "cannot read /nowhere.csv"),
                ([f"--trace={self.trace}", "--replicas=65"],
                 "replicas is 65, must be from 1 to 64"),
                ([f"--trace={self.trace}", "--picker=any"], 'picker "any"'),
                ([f"--trace={self.trace}", "--arrival_scale=0"],
                 "--arrival_scale is 0"),
                ([f"--trace={self.trace}", "--kv_pages=0"], "kv_pages is 0"),
                ([f"--trace={self.trace}", "--costs=rows=1ms"],
                 '"rows=1ms"'),
                ([f"--trace={self.trace}", "more"],
                 "unexpected argument more")):
            done = self.run_it(*flags)
            self.assertEqual(done.returncode, 2, flags)
            self.assertIn(error, done.stderr)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()

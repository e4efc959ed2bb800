#!/usr/bin/env python3
"""sparseserve-calibrate as its users see it, without a model.

Usage: calibrate_test.py PROGRAM
"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = ""


class CalibrateTest(unittest.TestCase):
    def run_it(self, *flags):
        return subprocess.run([PROGRAM, *flags], capture_output=True,
                              text=True, timeout=60, check=False)

    def test_help_has_examples_and_every_flag(self):
        done = self.run_it("--help")
        self.assertIn("sparseserve-calibrate --model=model.gguf", done.stdout)
        for flag in ("--model", "--text", "--output", "--lengths", "--minutes",
                     "--resume", "--seed", "--compute_dtype"):
            self.assertIn(flag, done.stdout)

    def test_what_is_missing_is_named(self):
        for flags, message in (
                ((), "--output is required"),
                (("--output=p",), "--text is required"),
                (("--output=p", "t"), "--model is required"),
                (("--output=p", "--minutes=-1", "t"), "--minutes is -1"),
                (("--output=p", "--model=/nonexistent", "t"),
                 "/nonexistent")):
            with self.subTest(flags=flags):
                done = self.run_it(*flags)
                self.assertEqual(done.returncode, 2)
                self.assertIn(message, done.stderr)

    def test_a_model_that_is_none_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "m.gguf"
            model.write_text("no model")
            done = self.run_it(f"--model={model}", "--output=p", "t")
            self.assertEqual(done.returncode, 2)
            self.assertIn(str(model), done.stderr)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()

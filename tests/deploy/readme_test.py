#!/usr/bin/env python3
"""What README.md tells newcomers to type, against what is there.

Usage: readme_test.py BUILD_FOLDER
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(sys.argv.pop() if len(sys.argv) > 1 else "build/release")
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def help_of(*command):
    return subprocess.run([*command, "--help"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL).stdout


def flags_in(text):
    return set(re.findall(r"--([a-z_]+)", text))


def server_flags():
    return set(re.findall(r"(?m)^\s+--([a-z_]+) \(",
                          help_of(BUILD / "server/sparseserve-server")))


class ReadmeTest(unittest.TestCase):
    def test_links_lead_somewhere(self):
        prose = re.sub(r"```.*?```", "", README, flags=re.S)
        for target in re.findall(r"\]\(([^)]+)\)", prose):
            self.assertTrue((ROOT / target).exists(), target)

    def test_commands_exist_and_know_their_flags(self):
        seen = 0
        presets = json.loads((ROOT / "CMakePresets.json").read_text())
        known = {preset["name"] for preset in presets["configurePresets"]}
        for line in "".join(blocks("sh")).splitlines():
            words = shlex.split(line)
            program = words[0]
            if program in ("cmake", "ctest", "curl"):
                if "--preset" in words:
                    self.assertIn(words[words.index("--preset") + 1], known)
                continue
            seen += 1
            path = program.replace("build/release", str(BUILD))
            self.assertTrue((ROOT / path).exists(), program)
            command = [ROOT / path]
            if program.endswith("/sparseserve"):
                command.append(words[1])
            # What is behind the program's own words is for another one.
            given = {flag for word in words[1:] if word.startswith("--")
                     for flag in flags_in(word.split("=")[0])}
            self.assertLessEqual(given, flags_in(help_of(*command)), line)
        self.assertGreater(seen, 8)

    def test_quickstart_flags_are_its_own(self):
        named = set(re.findall(r"deploy/quickstart\.sh --([a-z-]+)", README))
        for flag in named:
            self.assertIn(f"--{flag}", help_of(ROOT / "deploy/quickstart.sh"))

    def test_table_of_flags_is_complete(self):
        listed = set(re.findall(r"(?m)^\| `--([a-z_]+)` \|", README))
        self.assertGreater(len(server_flags()), 5)
        self.assertEqual(listed, server_flags())

    def test_metrics_exist(self):
        table = (ROOT / "server/metrics/README.md").read_text()
        for metric in re.findall(r"`(sparseserve_\w+)`", README):
            self.assertIn(f"`{metric}`", table)

    def test_cpp_example_compiles(self):
        code, = blocks("cpp")
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "example.cc"
            file.write_text(code)
            # As an installation lays the headers out.
            (pathlib.Path(folder) / "sparseserve").mkdir()
            (pathlib.Path(folder) / "sparseserve/client").symlink_to(
                ROOT / "client")
            result = subprocess.run(
                ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-I", folder,
                 "-I", ROOT, "-I", BUILD / "proto/generated", file],
                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_method_of_the_grpcurl_example_exists(self):
        service, method = re.search(
            r"sparseserve\.v1\.(\w+)/(\w+)", README).groups()
        proto = "".join(path.read_text() for path in
                        (ROOT / "proto/sparseserve/v1").glob("*.proto"))
        self.assertRegex(proto, rf"service {service} \{{[^}}]*rpc {method}\(")


if __name__ == "__main__":
    unittest.main()

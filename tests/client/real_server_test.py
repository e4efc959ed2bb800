#!/usr/bin/env python3
"""The Python example and the tool against the real server and the real model.

Usage: real_server_test.py SERVER TOOL STUBS PYTHON, where PYTHON has grpc and
STUBS holds what protoc made for it. The model is $SPARSESERVE_MODEL, else the
default one in the cache.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "client/python/generate.py"
PROMPT = "Name three rivers of Europe."


def model_path():
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return os.environ.get("SPARSESERVE_MODEL") or str(
        pathlib.Path(cache) /
        "sparseserve/SmolLM2-135M-Instruct.Q4_1.gguf")


class RealServerTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen(
            [SERVER, f"--model={model_path()}", "--listen=127.0.0.1:0",
             "--metrics_listen=127.0.0.1:0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log = ""
        for line in cls.server.stderr:
            log += line
            found = re.search(r"listening grpc=(\S+)", line)
            if found:
                cls.address = found.group(1)
                return
        raise AssertionError(f"the server did not start:\n{log}")

    @classmethod
    def tearDownClass(cls):
        cls.server.send_signal(signal.SIGTERM)
        # Reads on, so that the server is not blocked by a full pipe.
        cls.server.communicate(timeout=60)
        assert cls.server.returncode == 0, cls.server.returncode

    def run_example(self, *arguments):
        environment = {**os.environ, "PYTHONPATH": STUBS}
        return subprocess.run(
            [PYTHON, "-B", EXAMPLE, f"--server={self.address}", *arguments],
            env=environment, capture_output=True, text=True, timeout=120,
            check=False)

    def run_tool(self, command, *arguments):
        return subprocess.run(
            [TOOL, command, f"--server={self.address}", *arguments],
            capture_output=True, text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL)

    def test_example_streams_the_text_that_the_tool_gets(self):
        example = self.run_example("--temperature=0", "--max_tokens=24",
                                   PROMPT)
        self.assertEqual(example.returncode, 0, example.stderr)
        self.assertGreater(len(example.stdout.split()), 5)
        self.assertRegex(example.stderr, r"24 tokens by models/\S+")
        self.assertIn("attention dense", example.stderr)
        tool = self.run_tool("generate", "--chat", "--temperature=0",
                             "--max_tokens=24", "--quiet", PROMPT)
        self.assertEqual(tool.returncode, 0, tool.stderr)
        self.assertEqual(tool.stdout.rstrip("\n"),
                         example.stdout.rstrip("\n"))

    def test_example_shows_the_details_of_an_error(self):
        result = self.run_example("--top_p=1.5", PROMPT)
        self.assertEqual(result.returncode, 1)
        self.assertIn("INVALID_ARGUMENT", result.stderr)
        self.assertIn("options.sampling.top_p", result.stderr)
        self.assertIn("reason: ", result.stderr)

    def test_tool_shows_the_field_that_is_wrong(self):
        result = self.run_tool("generate", "--top_p=1.5", PROMPT)
        self.assertEqual(result.returncode, 1)
        self.assertIn("INVALID_ARGUMENT", result.stderr)
        self.assertIn("options.sampling.top_p", result.stderr)

    def test_tool_prints_json_that_adds_up(self):
        result = self.run_tool("generate", "--json", "--temperature=0",
                               "--max_tokens=9", "--ignore_eos",
                               "--target_ttft=30s", "Once upon a time")
        self.assertEqual(result.returncode, 0, result.stderr)
        messages = [json.loads(line) for line in result.stdout.splitlines()]
        report = messages.pop()["report"]
        ids = [token for message in messages
               for token in message["output"].get("token_ids", [])]
        self.assertEqual(len(ids), 9)
        self.assertEqual(report["usage"]["output_tokens"], 9)
        self.assertEqual(report["finish_reason"], "FINISH_REASON_LENGTH")
        self.assertTrue(report["target_outcome"]["time_to_first_token_met"])
        self.assertEqual(report["attention"]["plan"], "dense")

    def test_tool_prints_the_report(self):
        result = self.run_tool("generate", "--max_tokens=4", "--seed=7",
                               "--target_ttft=30s", PROMPT)
        self.assertEqual(result.returncode, 0, result.stderr)
        for part in ("4 generated", "first token met", "density 1.000",
                     "seed       7"):
            self.assertIn(part, result.stderr)

    def test_tool_tokenizes_whole_texts(self):
        text = "Grüße,  Welt 🌍 — 1234\n"
        result = self.run_tool("tokenize", "--json", text)
        self.assertEqual(result.returncode, 0, result.stderr)
        reply = json.loads(result.stdout)
        self.assertEqual(len(reply["token_ids"]), len(reply["pieces"]))
        self.assertGreater(len(reply["token_ids"]), 5)

    def test_tool_lists_the_model(self):
        result = self.run_tool("models")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"^models/\S+\n")
        self.assertIn("plan dense", result.stdout)

    def test_server_serves_under_the_names_that_clients_watch(self):
        for service in ("", "sparseserve.v1.InferenceService"):
            result = self.run_tool("health", *([service] if service else []))
            self.assertEqual(result.stdout, "SERVING\n", service)
            self.assertEqual(result.returncode, 0)

    def test_interrupt_ends_a_call(self):
        tool = subprocess.Popen(
            [TOOL, "generate", f"--server={self.address}", "--ignore_eos",
             "--max_tokens=2000", "Once upon a time"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL)
        self.assertTrue(tool.stdout.read(1))
        tool.send_signal(signal.SIGINT)
        tool.communicate(timeout=60)
        self.assertEqual(tool.returncode, 130)


if __name__ == "__main__":
    SERVER, TOOL, STUBS, PYTHON = sys.argv[1:5]
    unittest.main(argv=sys.argv[:1] + sys.argv[5:])

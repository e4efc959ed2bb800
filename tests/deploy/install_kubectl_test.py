#!/usr/bin/env python3
"""deploy/install-kubectl.sh with stand-ins for kubectl, apt-get, dpkg-deb."""

import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "deploy" / "install-kubectl.sh"

KUBECTL = """#!/bin/bash
echo "Client Version: v1.32.3"
echo "Kustomize Version: {version}"
"""
OLD_KUBECTL = """#!/bin/bash
echo 'Client Version: version.Info{Major:"1", Minor:"20"}'
"""
FAKE_APT_GET = """#!/bin/bash
[[ "$1" != indextargets ]] || { echo https://mirror.example/debian/; exit 0; }
echo "$*" >> "$LOG"
[[ -z "$APT_FAILS" ]] || exit 100
[[ "$*" == *download* ]] && touch kubectl_1.32.3_amd64.deb
exit 0
"""
FAKE_DPKG_DEB = """#!/bin/bash
mkdir -p "$3/usr/bin"
cp "$UNPACKED" "$3/usr/bin/kubectl"
"""


class InstallKubectlTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        self.log = self.folder / "log"
        self.log.touch()
        self.cached = self.folder / "cache/sparseserve/kubectl"
        for name in ("bash", "sed", "mktemp", "mkdir", "rm", "cp", "mv", "cat",
                     "dirname", "touch"):
            (self.bin / name).symlink_to(f"/usr/bin/{name}")
        self.add("bin/apt-get", FAKE_APT_GET)
        self.add("bin/dpkg-deb", FAKE_DPKG_DEB)
        self.add("unpacked", KUBECTL.format(version="v5.5.0"))

    def add(self, name, text):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return file

    def install(self, *arguments, fails=""):
        return subprocess.run(
            ["/bin/bash", SCRIPT, *arguments],
            env={"PATH": str(self.bin), "LOG": str(self.log),
                 "XDG_CACHE_HOME": str(self.folder / "cache"),
                 "UNPACKED": str(self.folder / "unpacked"),
                 "APT_FAILS": fails, "TMPDIR": str(self.folder)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def test_takes_the_one_that_is_there(self):
        file = self.add("bin/kubectl", KUBECTL.format(version="v5.0.1"))
        result = self.install()
        self.assertEqual(result.stdout, f"{file}\n", result.stderr)
        self.assertEqual(self.log.read_text(), "")

    def test_obtains_one_where_there_is_none_and_keeps_it(self):
        for _ in range(2):
            result = self.install()
            self.assertEqual(result.stdout, f"{self.cached}\n", result.stderr)
        self.assertEqual(len(self.log.read_text().splitlines()), 2)

    def test_obtains_one_where_kustomize_is_too_old(self):
        for old in (OLD_KUBECTL, KUBECTL.format(version="v4.5.7")):
            self.add("bin/kubectl", old)
            result = self.install()
            self.assertEqual(result.stdout, f"{self.cached}\n", result.stderr)

    def test_keeps_nothing_that_does_not_render(self):
        self.add("unpacked", OLD_KUBECTL)
        result = self.install()
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, "")
        self.assertFalse(self.cached.exists())

    def test_fails_when_apt_fails(self):
        result = self.install(fails="1")
        self.assertNotEqual(result.returncode, 0)
        self.assertEqual(result.stdout, "")
        self.assertFalse(self.cached.exists())

    def test_refuses_unknown_arguments(self):
        self.assertEqual(self.install("--here").returncode, 2)


if __name__ == "__main__":
    unittest.main()

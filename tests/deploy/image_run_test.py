#!/usr/bin/env python3
"""The image that image_build.py left, run as a restricted container would: as
user 65532, on a read-only root, with no privilege to gain.

Usage: image_run_test.py BUILD_FOLDER
"""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from image_build import CACHE, ROOT

BUILD = pathlib.Path(sys.argv.pop() if len(sys.argv) > 1
                     else "build/release").resolve()
MODEL = pathlib.Path(os.environ.get("SPARSESERVE_MODEL")
                     or CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf")
IMAGE = BUILD / "image"
SBOM = ROOT / "deploy/image/sbom.py"
TOOL = BUILD / "client/sparseserve"
MOST_BYTES = 150 << 20
PATIENCE_S = 120

# Arguments: the image's root, the model, then the command. In a mount
# namespace of its own.
RUN = r"""
set -eu
root="$1"; model="$2"; shift 2
mount --bind "$root" "$root"
mount --bind "$(dirname "$model")" "$root/models"
mount -o remount,bind,ro "$root/models"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec=65532:65532 --groups= "$root" "$@"
"""


def size_of(root):
    seen = {}
    for folder, _, names in os.walk(root):
        for name in names:
            entry = os.lstat(os.path.join(folder, name))
            seen[entry.st_ino] = entry.st_size
    return sum(seen.values())


class Container:
    """A process of the image's program. `arguments` come after the image's
    own."""

    def __init__(self, root, configuration, arguments, log):
        self.log = log
        command = [*configuration["Entrypoint"], *configuration["Cmd"],
                   *arguments]
        with open(log, "wb") as sink:
            # unshare forks nothing: what it starts keeps its process id.
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", RUN, "run", root, MODEL,
                 *command],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)

    def text(self):
        return self.log.read_text(errors="replace")

    def address(self, which):
        """host:port once it listens."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = re.search(rf"listening .*\b{which}=(\S+)", self.text())
            if found:
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"does not listen:\n{self.text()}")

    def status(self):
        """Of the kernel, by name."""
        lines = pathlib.Path(
            f"/proc/{self.process.pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def mount_options(self, point):
        for line in pathlib.Path(
                f"/proc/{self.process.pid}/mountinfo").read_text().splitlines():
            words = line.split()
            if words[4] == point:
                return words[5].split(",")
        raise AssertionError(f"nothing is mounted at {point}")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@unittest.skipUnless(os.geteuid() == 0, "needs root to mount and to chroot")
class ImageRunTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = IMAGE / "root"
        cls.configuration = json.loads(
            (IMAGE / "configuration.json").read_text())

    def start(self, *arguments):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        container = Container(self.root, self.configuration, arguments,
                              pathlib.Path(folder.name) / "log")
        self.addCleanup(container.end)
        return container

    def test_is_small(self):
        size = size_of(self.root)
        print(f"image: {size / 2**20:.1f} MiB", file=sys.stderr)
        self.assertLess(size, MOST_BYTES)

    def test_says_what_it_is(self):
        labels = self.configuration["Labels"]
        self.assertEqual(labels["org.opencontainers.image.version"], "1.2.3")
        self.assertEqual(labels["org.opencontainers.image.revision"], "abc")
        for name in ("title", "description", "licenses", "base.name"):
            self.assertTrue(labels[f"org.opencontainers.image.{name}"], name)
        self.assertEqual(self.configuration["User"], "65532:65532")

    def test_holds_programs_and_libraries_only(self):
        programs = {
            str(pathlib.Path(folder, name).relative_to(self.root))
            for folder, _, names in os.walk(self.root) for name in names
            if os.access(pathlib.Path(folder, name), os.X_OK)
            and ".so" not in name}
        self.assertEqual(programs, {"usr/local/bin/sparseserve",
                                    "usr/local/bin/sparseserve-server"})

    def test_nothing_is_writable_or_setuid_for_its_user(self):
        for folder, folders, names in os.walk(self.root):
            for name in folders + names:
                path = os.path.join(folder, name)
                entry = os.lstat(path)
                if not os.path.islink(path) and name != "tmp":
                    self.assertEqual(entry.st_mode & 0o6002, 0, path)
                    self.assertEqual(entry.st_uid, 0, path)

    def test_records_the_package_of_every_library(self):
        recorded = {path.name for path in
                    (self.root / "var/lib/dpkg/status.d").iterdir()}
        self.assertLessEqual({"libc6", "libgrpc++1.51", "libdnnl2"}, recorded)
        for package in recorded:
            self.assertTrue((self.root / "usr/share/doc" / package
                             / "copyright").is_file(), package)

    def test_bill_of_materials_names_every_package_and_program(self):
        bill = json.loads(subprocess.run(
            [SBOM, self.root, "--version=1.2.3"], check=True,
            capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout)
        self.assertEqual(bill["spdxVersion"], "SPDX-2.3")
        listed = {package["name"] for package in bill["packages"]}
        recorded = {path.name for path in
                    (self.root / "var/lib/dpkg/status.d").iterdir()}
        self.assertEqual(listed, recorded | {"sparseserve"})
        for file in bill["files"]:
            content = (self.root / file["fileName"]).read_bytes()
            self.assertIn(
                {"algorithm": "SHA256",
                 "checksumValue": hashlib.sha256(content).hexdigest()},
                file["checksums"])
        self.assertEqual(len(bill["files"]), 2)
        known = {one["SPDXID"] for one in
                 [bill, *bill["packages"], *bill["files"]]}
        for relationship in bill["relationships"]:
            self.assertLessEqual({relationship["spdxElementId"],
                                  relationship["relatedSpdxElement"]}, known)

    def test_serves_as_a_stranger_on_a_read_only_root(self):
        container = self.start(f"--model=/models/{MODEL.name}",
                               "--listen=127.0.0.1:0",
                               "--metrics_listen=127.0.0.1:0")
        address = container.address("grpc")
        status = container.status()
        self.assertEqual(status["Uid"].split(), ["65532"] * 4)
        self.assertEqual(status["Gid"].split(), ["65532"] * 4)
        self.assertEqual(int(status["CapEff"], 16), 0)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertIn("ro", container.mount_options("/"))

        answer = subprocess.run(
            [TOOL, "generate", f"--server={address}", "--timeout=60s",
             "--temperature=0", "--max_tokens=8", "Plants make food"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL)
        self.assertEqual(answer.returncode, 0,
                         answer.stderr + container.text())
        self.assertTrue(answer.stdout.strip())

        container.process.send_signal(signal.SIGTERM)
        self.assertEqual(container.process.wait(PATIENCE_S), 0,
                         container.text())


if __name__ == "__main__":
    unittest.main()

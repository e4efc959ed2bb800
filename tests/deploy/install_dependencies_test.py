#!/usr/bin/env python3
"""deploy/install-dependencies.sh with stand-ins for dpkg, apt-get and sudo."""

import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "deploy" / "install-dependencies.sh"
NOBODY = 65534

# Knows the packages in $INSTALLED; the last argument is the one asked for.
FAKE_DPKG_QUERY = """#!/bin/bash
[[ " $INSTALLED " == *" ${!#} "* ]] && printf installed || exit 1
"""
FAKE_APT_GET = """#!/bin/bash
echo "${AS:-user}: apt-get $*" >> "$LOG"
[[ -z "$APT_FAILS" ]]
"""
FAKE_SUDO = """#!/bin/bash
AS=sudo exec "$@"
"""


class InstallDependenciesTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.folder.chmod(0o777)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        self.log = self.folder / "log"
        self.log.touch(0o666)
        self.log.chmod(0o666)
        # Of the system only what the script uses, so that sudo can be absent.
        for name in ("bash", "env", "cat"):
            (self.bin / name).symlink_to(f"/usr/bin/{name}")
        self.script = self.folder / "install.sh"
        self.script.write_text(SCRIPT.read_text())
        self.add("dpkg-query", FAKE_DPKG_QUERY)
        self.add("apt-get", FAKE_APT_GET)

    def add(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def packages(self, *arguments):
        return subprocess.run(
            ["bash", str(SCRIPT), "--list", *arguments], check=True,
            capture_output=True, text=True).stdout.split()

    def install(self, *arguments, installed=(), **environment):
        # As an ordinary user, whoever runs the tests.
        user = {"user": NOBODY} if os.geteuid() == 0 else {}
        return subprocess.run(
            ["/bin/bash", str(self.script), *arguments], **user,
            env={"PATH": str(self.bin), "LOG": str(self.log), "APT_FAILS": "",
                 "INSTALLED": " ".join(installed), **environment},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def test_does_nothing_when_all_is_there(self):
        result = self.install(installed=self.packages())
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("installed", result.stdout)
        self.assertEqual(self.log.read_text(), "")

    def test_installs_only_what_is_missing(self):
        self.add("sudo", FAKE_SUDO)
        packages = self.packages()
        result = self.install(installed=packages[:-2])
        self.assertEqual(result.returncode, 0, result.stderr)
        update, install = self.log.read_text().splitlines()
        self.assertTrue(update.startswith("sudo: apt-get"), update)
        self.assertTrue(update.endswith(" update"), update)
        self.assertTrue(
            install.endswith("install --no-install-recommends "
                             + " ".join(packages[-2:])), install)
        self.assertIn(packages[-1], result.stdout)

    def test_tests_need_more(self):
        self.add("sudo", FAKE_SUDO)
        self.install("--tests", installed=self.packages())
        self.assertIn("prometheus", self.log.read_text())
        self.assertLess(set(self.packages()), set(self.packages("--tests")))

    def test_without_root_and_sudo_says_what_to_run(self):
        result = self.install(installed=self.packages()[1:])
        self.assertEqual(result.returncode, 1)
        self.assertIn("apt-get install --no-install-recommends "
                      + self.packages()[0], result.stderr)
        self.assertEqual(self.log.read_text(), "")

    def test_without_apt_names_the_packages(self):
        (self.bin / "apt-get").unlink()
        result = self.install()
        self.assertEqual(result.returncode, 1)
        for package in self.packages():
            self.assertIn(package, result.stderr)

    def test_fails_when_apt_fails(self):
        self.add("sudo", FAKE_SUDO)
        result = self.install(APT_FAILS="1")
        self.assertNotEqual(result.returncode, 0)

    def test_refuses_unknown_arguments(self):
        self.assertEqual(self.install("--test").returncode, 2)


if __name__ == "__main__":
    unittest.main()

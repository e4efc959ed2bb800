#!/usr/bin/env python3
"""What the Dockerfile says, against what is really built and installed.

Usage: image_test.py BUILD_FOLDER
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(sys.argv.pop() if len(sys.argv) > 1 else "build/release")
PROGRAMS = ["sparseserve", "sparseserve-server"]
IMAGES = ["cpu", "cuda"]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL).stdout


def instructions():
    """(name, argument) of each instruction, continuation lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    text = re.sub(r"\\\n", " ", text)
    return [tuple(line.split(None, 1)) for line in text.splitlines()
            if line.strip()]


def stages():
    """The instructions of each stage by its name; the unnamed one is ""."""
    found = {}
    for name, argument in instructions():
        if name == "FROM":
            stage = found.setdefault(
                (argument.split(" AS ") + [""])[1], [])
        elif found:
            stage.append((name, argument))
    return found


def run_time_packages():
    """What the programs' libraries are taken from."""
    command = next(argument for name, argument in stages()["run-time"]
                   if name == "RUN" and "apt-get install" in argument)
    words = command.split("apt-get install", 1)[1].split("&&")[0].split()
    return {word for word in words if not word.startswith("-")}


def with_dependencies(packages):
    """`packages` and all that they depend on, as installed here."""
    depends = {}
    for line in run("dpkg-query", "--show", "--showformat",
                    "${Package}\t${Depends}\n").splitlines():
        package, _, entries = line.partition("\t")
        depends[package] = {re.split(r"[ (:]", entry.strip())[0]
                            for entry in re.split(r"[,|]", entries)}
    reached, waiting = set(), list(packages)
    while waiting:
        package = waiting.pop()
        if package and package not in reached:
            reached.add(package)
            waiting += depends.get(package, ())
    return reached


def packages_of_libraries(program):
    """Packages of the libraries that `program` loads."""
    paths = []
    for line in run("ldd", str(program)).splitlines():
        if "not found" in line:
            raise AssertionError(line)
        library = re.search(r"=> (/\S+)", line)
        if library:
            # Packages list some files below /usr and some through the links
            # that lead there from the root.
            path = str(pathlib.Path(library.group(1)).resolve())
            paths += [path, path.removeprefix("/usr")]
    # It complains of the spelling that is not listed.
    found = subprocess.run(["dpkg-query", "--search", *paths],
                           capture_output=True, text=True).stdout
    owners = {line.split(":")[0] for line in found.splitlines()}
    if len(found.splitlines()) != len(paths) / 2:
        raise AssertionError(f"{len(paths) // 2} libraries:\n{found}")
    return owners


class ImageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        subprocess.run(
            ["cmake", "--install", str(BUILD), "--prefix", "/usr/local"],
            env={"DESTDIR": cls.folder.name, "PATH": "/usr/bin:/bin"},
            check=True, stdout=subprocess.DEVNULL)
        cls.bin = pathlib.Path(cls.folder.name) / "usr/local/bin"

    def test_installs_the_programs(self):
        for program in PROGRAMS:
            self.assertTrue((self.bin / program).is_file(), program)

    def test_listed_packages_bring_every_library(self):
        reached = with_dependencies(run_time_packages())
        for program in PROGRAMS:
            needed = packages_of_libraries(self.bin / program)
            self.assertLessEqual(needed, reached, program)

    def test_every_listed_package_is_needed(self):
        needed = set()
        for program in PROGRAMS:
            needed |= packages_of_libraries(self.bin / program)
        self.assertLessEqual(run_time_packages(), needed)

    def test_copied_files_exist_and_are_not_ignored(self):
        kept = [line[1:] for line in
                (ROOT / ".dockerignore").read_text().splitlines()
                if line.startswith("!")]
        for path in kept:
            self.assertTrue((ROOT / path).exists(), path)
        for name, argument in instructions():
            if name == "COPY" and "--from" not in argument:
                for source in argument.split()[:-1]:
                    if source != ".":
                        self.assertTrue((ROOT / source).exists(), source)
                        self.assertTrue(
                            any(source == path or source.startswith(path + "/")
                                for path in kept), source)
        # The build reads every folder that CMakeLists.txt adds but the tests.
        for folder in re.findall(r"add_subdirectory\((\w+)\)",
                                 (ROOT / "CMakeLists.txt").read_text()):
            if folder != "tests":
                self.assertIn(folder, kept)

    def test_runs_known_programs_with_known_flags(self):
        for stage in IMAGES:
            settings = dict(stages()[stage])
            program, = json.loads(settings["ENTRYPOINT"])
            self.assertTrue((self.bin.parent.parent.parent
                             / program.lstrip("/")).is_file(), program)
            known = subprocess.run(
                [self.bin / pathlib.Path(program).name, "--help"],
                capture_output=True, text=True).stdout
            for word in json.loads(settings["CMD"]):
                self.assertIn(word.split("=")[0], known)

    def test_is_not_root_and_stops_by_the_signal_that_drains(self):
        for stage in IMAGES:
            settings = dict(stages()[stage])
            self.assertEqual(settings["USER"], "65532:65532")
            self.assertEqual(settings["STOPSIGNAL"], "SIGTERM")

    def test_the_default_is_the_cpu(self):
        froms = [argument for name, argument in instructions()
                 if name == "FROM"]
        self.assertEqual(froms[-1], "cpu")

    def test_version_is_that_of_the_project(self):
        project = re.search(r"project\(sparseserve VERSION (\S+)",
                            (ROOT / "CMakeLists.txt").read_text()).group(1)
        for stage in IMAGES:
            self.assertIn(("ARG", f"VERSION={project}"), stages()[stage])


if __name__ == "__main__":
    unittest.main()

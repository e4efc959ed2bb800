#!/usr/bin/env python3
"""Runs clang-tidy over files of a build, several of a folder at once.

Usage: .ci/tidy.py BUILD GLOB...     from the root of the repository

BUILD holds the compile_commands.json of a build by clang; each GLOB, such as
"engine/**/*.cc", names files by their path from the root. Fails if clang-tidy
has something to say of one of them or of a header of ours.

Of the time that clang-tidy takes for a file nine tenths go into the headers
that it reads. Files of one folder with the same flags are therefore included
into one, and that is checked. A file that does not compile behind the others,
since it has a name of its own that one of them has too, waits for the next.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIDY = "clang-tidy-14"
# What is included as HeaderFilterRegex of .clang-tidy says, and our own files,
# which a union includes too.
FILTER = r"--header-filter=.*/(engine|server|client)/.*\.(h|cc)$"
MOST_FILES = 20


def flags_of(command, source):
    """Of a compile command, but for what it reads and writes."""
    arguments = shlex.split(command)
    output = arguments.index("-o")
    del arguments[output:output + 2]
    return [a for a in arguments if a not in ("-c", source)]


def entries_of(build, wanted):
    """The commands of files that are wanted. One that the build leaves out is
    compiled like another of its folder, if there is any."""
    every = json.loads((build / "compile_commands.json").read_text())
    of_folder = {os.path.dirname(e["file"]): e for e in every}
    entries = [e | {"is_inferred": False}
               for e in every if e["file"] in wanted]
    for source in sorted(wanted - {e["file"] for e in every}):
        like = of_folder.get(os.path.dirname(source))
        if like is not None:
            entries.append({"directory": like["directory"], "file": source,
                            "command": like["command"].replace(
                                like["file"], source),
                            "is_inferred": True})
    return entries


def groups_of(entries):
    """Lists of entries of one folder and the same flags."""
    groups = {}
    for entry in entries:
        source = entry["file"]
        # Includes itself, once for each instruction set, or is compiled where
        # another file is not.
        alone = (entry["is_inferred"]
                 or "HWY_TARGET_INCLUDE" in pathlib.Path(source).read_text())
        key = (os.path.dirname(source), source if alone else "",
               tuple(flags_of(entry["command"], source)))
        groups.setdefault(key, []).append(entry)
    for group in groups.values():
        parts = -(-len(group) // MOST_FILES)
        for part in range(parts):
            yield group[part::parts]


def write_union(folder, name, entries):
    """A file that includes the others, and the arguments that compile it."""
    union = folder / f"{name}.cc"
    union.write_text("".join(
        f'#include "{entry["file"]}"  // NOLINT\n' for entry in entries))
    return union, flags_of(entries[0]["command"], entries[0]["file"])


def split(folder, name, entries):
    """A union of entries that compile together, with its arguments, and the
    entries that are left."""
    left = []
    while True:
        union, arguments = write_union(folder, name, entries)
        if len(entries) == 1:
            return union, arguments, entries, left
        done = subprocess.run(
            [*arguments, "-w", "-fsyntax-only", str(union)],
            cwd=entries[0]["directory"], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        wrong = set(re.findall(r"^([^:\n]+):\d+:\d+: (?:fatal )?error:",
                               done.stderr, re.MULTILINE))
        # The first has none before it to disagree with, and is no reason to go
        # on without end: clang-tidy says what is wrong with it.
        moved = [e for e in entries[1:] if e["file"] in wrong]
        if done.returncode != 0 and not moved:
            moved = entries[1:]
        if not moved:
            return union, arguments, entries, left
        left += moved
        entries = [e for e in entries if e not in moved]


def check(folder, name, entries):
    """Exit status and output of clang-tidy for a group."""
    status, output, runs = 0, "", 0
    while entries:
        union, arguments, checked, entries = split(
            folder, f"{name}_{runs}", entries)
        source = checked[0]["file"] if len(checked) == 1 else str(union)
        done = subprocess.run(
            [TIDY, "--quiet", FILTER, source, "--", *arguments[1:]],
            cwd=checked[0]["directory"], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
        status = status or done.returncode
        output += re.sub(r"^\d+ warnings? generated\.\n", "", done.stdout,
                         flags=re.MULTILINE)
        runs += 1
    return status, output, runs


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    build = pathlib.Path(sys.argv[1]).resolve()
    wanted = {str(path) for glob in sys.argv[2:] for path in ROOT.glob(glob)}
    entries = entries_of(build, wanted)
    if not entries:
        sys.exit(f"{build} compiles none of these files.")
    folder = build / "tidy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # What takes longest begins first.
    groups = sorted(groups_of(entries), key=len, reverse=True)
    failed = False
    runs = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for status, output, of_group in pool.map(
                lambda numbered: check(folder, *numbered), enumerate(groups)):
            failed = failed or status != 0
            runs += of_group
            print(output, end="", flush=True)
    print(f"clang-tidy: {len(entries)} files in {runs} runs")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Includes point one way.

Holds the table of who may include whom, reads every #include of engine/,
server/, client/ and proto/, and fails with file, line and the offending
include. Long files are printed as warnings: ask whether they hold two things.

Usage: layering_test.py [-v]     run from anywhere
"""

import pathlib
import re
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Folder of engine/ -> folders of engine/ that it may include. What those may
# include, it may include too. engine/*.{h,cc} is ".", except step.h, the
# vocabulary that includes nothing of ours and that anyone may include.
ENGINE = {
    ".": ["model", "tokenizer"],
    # The tokenizer too: a model file holds its vocabulary and chat template.
    "model": ["attention", "backend", "tokenizer"],
    "attention": ["pattern", "kv", "backend"],
    "kv": ["backend"],
    "pattern": ["layout"],
    "backend": ["layout", "profile"],
    "layout": ["tensor"],
    "profile": ["base"],
    "tensor": ["base"],
    "tokenizer": ["base"],
    "base": [],
}

# Folder of server/ -> folders of server/; server/*.{h,cc} is ".".
SERVER = {
    ".": ["rpc", "console"],
    "console": ["metrics"],
    "simulation": ["rpc"],
    "calibration": ["rpc"],
    "rpc": ["security", "scheduling", "metrics"],
    "security": ["scheduling", "metrics"],
    "scheduling": ["policy", "metrics"],
    "policy": [],
    "metrics": [],
}

# All that server/ may see of the engine.
ENGINE_FOR_SERVER = re.compile(
    r"engine/(engine\.h|step\.h|pattern/[^/]+\.h|profile/[^/]+\.h"
    r"|kv/page_pool\.h|kv/prefix_index\.h|tokenizer/[^/]+\.h"
    # Shims for what the distribution's Abseil lacks (status macros, checks,
    # annotated locks): not of the engine, and a second copy would be worse.
    r"|base/[^/]+\.h)")

# Libraries that only some places may know: (what, pattern of the include,
# pattern of the files that may).
LIBRARIES = [
    ("CUDA", r"(cuda|cublas|nccl|nvrtc)\w*\.h", r"engine/backend/cuda/.*"),
    ("Prometheus", r"(prometheus/.*|[Cc]ivet.*)", r"server/metrics/.*"),
    ("gRPC", r"(grpc|grpcpp|grpc\+\+)/.*|.*\.grpc\.pb\.h",
     r"server/rpc/.*|server/main\.cc|client/.*"),
    ("Protobuf", r"google/(protobuf|rpc)/.*|.*\.pb\.h",
     r"server/rpc/.*|server/main\.cc|client/.*"),
    ("OpenSSL", r"openssl/.*", r"server/security/.*|engine/base/sha256\.cc"),
    ("command line flags", r"(absl/flags/.*|gflags/.*|getopt\.h)",
     r"server/((simulation|calibration)/)?main\.cc|client/tool/.*"),
    ("test code", r"(tests/.*|gtest/.*|gmock/.*|benchmark/.*)", r"(?!)"),
]

# The engine knows no wall clock: time enters it as an argument or a stopwatch.
CLOCK_INCLUDE = re.compile(r"(ctime|time\.h|sys/time\.h|absl/time/clock\.h)")
CLOCK_USE = re.compile(r"\bsystem_clock\b|\babsl::Now\s*\(")
# Timed waits of a condition variable; ThreadSanitizer sees no other kind.
CLOCK_MAY = "engine/base/mutex.h"

# Highway compiles a file once per instruction set through this macro.
INCLUDE = re.compile(
    r'^\s*#\s*(?:include|define\s+HWY_TARGET_INCLUDE)\s+[<"]([^>"]+)[>"]')
QUOTED = re.compile(r'^\s*#\s*include\s+"([^"/]+)"')
SOURCES = {".h", ".cc", ".cu", ".cuh"}
CEILINGS = {".h": 150, ".cuh": 150, ".cc": 300, ".cu": 350}
TOPS = ["proto", "engine", "server", "client"]


def closure(table):
    """Folder -> every folder below it."""
    below = {}

    def visit(folder):
        if folder not in below:
            below[folder] = set(table[folder])
            for child in table[folder]:
                below[folder] |= visit(child)
        return below[folder]

    for folder in table:
        visit(folder)
    return below


ENGINE_BELOW = closure(ENGINE)
SERVER_BELOW = closure(SERVER)


def folder_of(path):
    """Folder below the top one: "engine/kv/x.h" -> "kv", "engine/x.h" -> "."."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else "."


def strip_comments(text):
    """The code alone, on the same lines."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0)) if (
            match.group(0).startswith("/")) else match.group(0)

    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text,
                  flags=re.S)


def own_include_error(path, include):
    """Why `path` may not include our own file `include`, or None."""
    top, folder = path.split("/")[0], folder_of(path)
    target, target_folder = include.split("/")[0], folder_of(include)
    if path == "engine/step.h":
        return "step.h includes nothing of ours"
    if top == "engine":
        if target != "engine":
            return f"engine/ knows nothing of {target}/"
        if folder not in ENGINE:
            return f"engine/{folder}/ is not in the table"
        if include == "engine/step.h" or target_folder == folder:
            return None
        if target_folder not in ENGINE_BELOW[folder]:
            return f"engine/{folder} is not above engine/{target_folder}"
    elif top == "server":
        if target == "engine":
            if not ENGINE_FOR_SERVER.fullmatch(include):
                return "not one of the engine's headers for the server"
        elif target != "server":
            return f"server/ knows nothing of {target}/"
        elif folder not in SERVER:
            return f"server/{folder}/ is not in the table"
        elif target_folder != folder and (
                target_folder not in SERVER_BELOW[folder]):
            return f"server/{folder} is not above server/{target_folder}"
    elif target != top:
        return f"{top}/ knows nothing of {target}/"
    return None


def library_error(path, include):
    """Why `path` may not include `include` of a library, or None."""
    for what, pattern, allowed in LIBRARIES:
        if re.fullmatch(pattern, include) and not re.fullmatch(allowed, path):
            return f"{what} is not for this file"
    if path.startswith("engine/") and path != CLOCK_MAY and (
            CLOCK_INCLUDE.fullmatch(include)):
        return "the engine knows no wall clock"
    return None


def violations(root):
    """Lines "file:line: reason: offending line" for the tree at `root`."""
    found = []
    for top in TOPS:
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in SOURCES or not file.is_file():
                continue
            path = file.relative_to(root).as_posix()
            raw = file.read_text(encoding="utf-8")
            for number, line in enumerate(strip_comments(raw).split("\n"), 1):
                reason = None
                include = INCLUDE.match(line)
                if include:
                    name = include.group(1)
                    reason = library_error(path, name)
                    if name.split("/")[0] in TOPS and "/" in name:
                        reason = reason or own_include_error(path, name)
                    elif (QUOTED.match(line) and
                          (file.parent / QUOTED.match(line).group(1)).exists()):
                        reason = reason or "written from the repository root"
                elif (top == "engine" and path != CLOCK_MAY and
                      CLOCK_USE.search(line)):
                    reason = "the engine knows no wall clock"
                if reason:
                    found.append(f"{path}:{number}: {reason}: {line.strip()}")
    return found


def warnings(root):
    """Files that are longer than one thing usually is."""
    found = []
    for top in TOPS:
        for file in sorted((root / top).rglob("*")):
            ceiling = CEILINGS.get(file.suffix)
            if ceiling and file.is_file():
                lines = file.read_text(encoding="utf-8").count("\n")
                if lines > ceiling:
                    found.append(f"{file.relative_to(root)}: {lines} lines, "
                                 f"more than {ceiling}")
    return found


class RepositoryTest(unittest.TestCase):
    def test_includes_point_one_way(self):
        found = violations(ROOT)
        self.assertFalse(found, "\n" + "\n".join(found))

    def test_every_folder_of_the_table_is_reachable_once(self):
        for below in (ENGINE_BELOW, SERVER_BELOW):
            for folder, reached in below.items():
                self.assertNotIn(folder, reached, "the table has a cycle")

    def test_there_is_something_to_check(self):
        self.assertGreater(
            sum(1 for top in TOPS for f in (ROOT / top).rglob("*")
                if f.suffix in SOURCES), 20)


class SeededTest(unittest.TestCase):
    """One file with one line; what the rules say of it."""

    def check(self, path, line):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / path
            file.parent.mkdir(parents=True)
            (file.parent / "neighbour.h").write_text("#pragma once\n")
            file.write_text("#pragma once\n" + line + "\n")
            return violations(pathlib.Path(folder))

    FORBIDDEN = [
        ("engine/step.h", '#include "engine/base/check.h"'),
        ("engine/base/a.h", '#include "engine/tensor/dtype.h"'),
        ("engine/pattern/a.h", '#include "engine/backend/backend.h"'),
        ("engine/backend/cpu/a.cc", '#include "engine/pattern/p.h"'),
        ("engine/backend/cpu/a.cc",
         '#define HWY_TARGET_INCLUDE "engine/kv/a.cc"'),
        ("engine/backend/backend.h", '#include "engine/kv/page_pool.h"'),
        ("engine/kv/a.cc", '#include "engine/attention/a.h"'),
        ("engine/model/a.cc", '#include "engine/engine.h"'),
        ("engine/tokenizer/a.cc", '#include "engine/tensor/dtype.h"'),
        ("engine/tokenizer/a.cc", '#include "engine/model/gguf_file.h"'),
        ("engine/unheard_of/a.cc", '#include "engine/base/check.h"'),
        ("engine/model/a.cc", '#include "server/metrics/metrics.h"'),
        ("engine/model/a.cc", "#include <grpcpp/grpcpp.h>"),
        ("engine/model/a.cc", '#include "sparseserve/v1/x.pb.h"'),
        ("engine/model/a.cc", "#include <google/protobuf/message.h>"),
        ("engine/model/a.cc", '#include "prometheus/counter.h"'),
        ("engine/model/a.cc", '#include "absl/time/clock.h"'),
        ("engine/model/a.cc", "#include <ctime>"),
        ("engine/model/a.cc", "auto t = std::chrono::system_clock::now();"),
        ("engine/model/a.cc", "absl::Time t = absl::Now();"),
        ("engine/model/a.cc", '#include "absl/flags/flag.h"'),
        ("engine/model/a.cc", "#include <cuda_runtime.h>"),
        ("engine/model/a.cc", '#include "tests/testing/fake.h"'),
        ("engine/model/a.cc", '#include "neighbour.h"'),
        ("engine/model/a.cc", '  #  include   "server/rpc/a.h"  // why'),
        ("server/metrics/a.cc", '#include "server/scheduling/request.h"'),
        ("server/policy/a.cc", '#include "server/scheduling/request.h"'),
        ("server/scheduling/a.cc", '#include "server/rpc/a.h"'),
        ("server/scheduling/a.cc", '#include "server/security/a.h"'),
        ("server/security/a.cc", '#include "server/rpc/a.h"'),
        ("server/security/a.cc", "#include <grpcpp/grpcpp.h>"),
        ("server/rpc/a.cc", "#include <openssl/evp.h>"),
        ("server/scheduling/a.cc", '#include "engine/model/gguf_file.h"'),
        ("server/scheduling/a.cc", '#include "engine/backend/backend.h"'),
        ("server/scheduling/a.cc", '#include "engine/kv/kv_cache.h"'),
        ("server/scheduling/a.cc", "#include <grpcpp/grpcpp.h>"),
        ("server/scheduling/a.cc", '#include "sparseserve/v1/x.pb.h"'),
        ("server/rpc/a.cc", '#include "prometheus/counter.h"'),
        ("server/rpc/a.cc", '#include "absl/flags/flag.h"'),
        ("server/rpc/a.cc", '#include "client/client.h"'),
        ("server/main.cc", '#include "prometheus/exposer.h"'),
        ("server/main.cc", '#include "gtest/gtest.h"'),
        ("client/a.cc", '#include "engine/step.h"'),
        ("client/a.cc", '#include "server/rpc/a.h"'),
        ("client/client.cc", '#include "absl/flags/flag.h"'),
    ]
    ALLOWED = [
        ("engine/kv/a.h", '#include "engine/step.h"'),
        ("engine/kv/a.h", '#include "engine/kv/neighbour.h"'),
        ("engine/engine.cc", '#include "engine/base/check.h"'),
        ("engine/engine.cc", '#include "engine/tokenizer/tokenizer.h"'),
        ("engine/model/a.cc", '#include "engine/tensor/dtype.h"'),
        ("engine/attention/a.cc", '#include "engine/pattern/p.h"'),
        ("engine/backend/cuda/a.cu", "#include <cuda_runtime.h>"),
        ("engine/base/mutex.h", "auto t = std::chrono::system_clock::now();"),
        ("engine/model/a.cc", '// #include "server/rpc/a.h"'),
        ("engine/model/a.cc", "/*\n#include <ctime>\n*/"),
        ("engine/model/a.cc", "#include <chrono>"),
        ("engine/backend/cpu/a.cc", '#include "hwy/highway.h"'),
        ("server/main.cc", '#include "absl/flags/flag.h"'),
        ("server/main.cc", '#include "server/metrics/metrics.h"'),
        ("server/rpc/a.cc", "#include <grpcpp/grpcpp.h>"),
        ("server/rpc/a.cc", '#include "server/security/a.h"'),
        ("server/security/a.cc", "#include <openssl/evp.h>"),
        ("server/rpc/a.cc", '#include "server/policy/a.h"'),
        ("server/scheduling/a.cc", '#include "engine/kv/page_pool.h"'),
        ("server/scheduling/a.cc", '#include "engine/base/mutex.h"'),
        ("server/metrics/a.cc", '#include "prometheus/counter.h"'),
        ("client/a.cc", '#include "sparseserve/v1/x.grpc.pb.h"'),
        ("client/tool/main.cc", '#include "absl/flags/flag.h"'),
    ]

    def test_violations_are_caught_with_their_line(self):
        for path, line in self.FORBIDDEN:
            with self.subTest(path=path, line=line):
                found = self.check(path, line)
                self.assertEqual(len(found), 1, found)
                self.assertTrue(found[0].startswith(f"{path}:2: "), found)
                self.assertIn(line.split("//")[0].strip(), found[0])

    def test_what_the_table_allows_passes(self):
        for path, line in self.ALLOWED:
            with self.subTest(path=path, line=line):
                self.assertEqual(self.check(path, line), [])

    def test_long_files_are_warned_of(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "engine" / "long.h"
            file.parent.mkdir()
            file.write_text("\n" * 151)
            self.assertEqual(len(warnings(pathlib.Path(folder))), 1)


if __name__ == "__main__":
    for warning in warnings(ROOT):
        print("warning:", warning, file=sys.stderr)
    unittest.main()

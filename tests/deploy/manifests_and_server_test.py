#!/usr/bin/env python3
"""The overlays of deploy/kustomize against what the server knows: its flags,
settings, metrics, services and version.

Usage: manifests_and_server_test.py BUILD_FOLDER
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from manifests import (KUSTOMIZE, OVERLAYS, ROOT, SERVING, flags, in_each,
                       of_kind, render, server)

BUILD = pathlib.Path(sys.argv.pop() if len(sys.argv) > 1
                     else "build/release").resolve()
SERVER = BUILD / "server/sparseserve-server"


def metrics():
    """Names in the table of the server's metrics, which a test of the server
    compares with a scrape."""
    text = (ROOT / "server/metrics/README.md").read_text()
    return set(re.findall(r"(?m)^\| `(\w+)` \|", text))


def known_flags():
    help_text = subprocess.run(
        [SERVER, "--help"], capture_output=True, text=True,
        stdin=subprocess.DEVNULL).stdout
    return set(re.findall(r"(?m)^\s+--([a-z_]+) \(", help_text))


def certificate(folder):
    """Writes the three files that a secret of cert-manager has."""
    folder = pathlib.Path(folder)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=sparseserve",
         "-keyout", folder / "tls.key", "-out", folder / "tls.crt"],
        check=True, capture_output=True, stdin=subprocess.DEVNULL)
    (folder / "ca.crt").write_bytes((folder / "tls.crt").read_bytes())


class ManifestsAndServerTest(unittest.TestCase):
    @in_each(SERVING)
    def test_transport_is_chosen_once(self, folder):
        given = flags(server(folder))
        self.assertNotEqual("insecure" in given,
                            "tls_certificate" in given)
        tls = {"tls_certificate", "tls_key", "tls_client_ca"} & set(given)
        self.assertIn(len(tls), (0, 3))

    def test_knows_every_flag(self):
        given = set()
        for folder in SERVING:
            given |= set(flags(server(folder)))
        for service in of_kind(render("kserve"), "InferenceService"):
            given |= set(flags(service["spec"]["predictor"]["model"]))
        self.assertLessEqual(given, known_flags())

    def test_takes_every_flag_and_setting(self):
        """All but the model, which is not there: it must be what the server
        stops at."""
        for folder in OVERLAYS:
            settings, = [one["data"]["server.textproto"] for one in
                         of_kind(render(folder), "ConfigMap")
                         if "server.textproto" in one["data"]]
            with tempfile.TemporaryDirectory() as work:
                file = pathlib.Path(work) / "server.textproto"
                file.write_text(settings)
                certificate(work)
                arguments = [
                    re.sub(r"\$\(CPU_THREADS\)", "1", argument)
                    .replace("$(MODEL_FILE)", "absent.gguf")
                    .replace("/etc/sparseserve/config", work)
                    .replace("/etc/sparseserve/tls", work)
                    .replace("--device=cuda", "--device=cpu")
                    for argument in server(folder)["args"]]
                # Whatever else listens on this machine.
                arguments = [re.sub(r"(listen=.*):\d+$", r"\1:0", argument)
                             for argument in arguments]
                result = subprocess.run(
                    [SERVER, *arguments], capture_output=True, text=True,
                    stdin=subprocess.DEVNULL, timeout=60)
            self.assertEqual(result.returncode, 2, folder + result.stderr)
            self.assertIn("cannot open /models/absent.gguf", result.stderr)

    def test_version_is_that_of_the_project(self):
        version = re.search(r"project\(sparseserve VERSION (\S+)",
                            (ROOT / "CMakeLists.txt").read_text()).group(1)
        for folder in SERVING:
            with self.subTest(folder=folder):
                self.assertIn(server(folder)["image"],
                              (f"sparseserve:{version}",
                               f"sparseserve:{version}-cuda"))

    def test_routes_name_services_of_ours(self):
        protos = "".join(path.read_text() for path in
                         (ROOT / "proto/sparseserve/v1").glob("*.proto"))
        ours = {f"sparseserve.v1.{name}"
                for name in re.findall(r"(?m)^service (\w+) \{", protos)}
        named = {match["method"]["service"] for route in
                 of_kind(render("overlays/gateway"), "GRPCRoute")
                 for rule in route["spec"]["rules"]
                 for match in rule["matches"]}
        paths = {match["path"]["value"].strip("/") for route in
                 of_kind(render("overlays/inference-pool"), "HTTPRoute")
                 for rule in route["spec"]["rules"]
                 for match in rule["matches"]}
        self.assertEqual(named, paths)
        self.assertTrue(named)
        self.assertLessEqual(named, ours)
        self.assertFalse([name for name in named if "Admin" in name])

    def test_metrics_exist(self):
        text = "".join(path.read_text() for path in [
            *KUSTOMIZE.rglob("*.yaml"), ROOT / "deploy/README.md"])
        # Not the names of rules, which have colons.
        named = set(re.findall(r"(?<![:\w])sparseserve_\w+(?!:|\w)", text))
        self.assertLessEqual({"sparseserve_requests_waiting",
                              "sparseserve_kv_cache_usage_ratio"}, named)
        plain = {re.sub(r"_(bucket|sum|count)$", "", name)
                 if name not in metrics() else name for name in named}
        self.assertLessEqual(plain, metrics())


if __name__ == "__main__":
    unittest.main()

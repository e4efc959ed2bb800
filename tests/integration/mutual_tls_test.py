#!/usr/bin/env python3
"""A server with mutual TLS: what the tool shows it, and hostile HTTP/2 beside a
stream that runs.

Each attack is made by somebody without a certificate, who must not get as far
as HTTP/2, and by somebody with one, who must not take the server or another's
stream down. Frames are made by hand: no library would send them.

Usage: mutual_tls_test.py SERVER TOOL             checks
       mutual_tls_test.py SERVER TOOL --measure   prints times between tokens

The model is $SPARSESERVE_MODEL, else the default one in the cache.
"""

import json
import os
import pathlib
import re
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8


def model_path():
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return os.environ.get("SPARSESERVE_MODEL") or str(
        pathlib.Path(cache) / "sparseserve/SmolLM2-135M-Instruct.Q4_1.gguf")


# --- Certificates ---------------------------------------------------------

def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_certificates(folder):
    """ca.crt, and NAME.crt with NAME.key for server and client."""
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
            "/CN=authority", "-keyout", folder / "ca.key", "-out",
            folder / "ca.crt")
    for name, alternative in (("server", "DNS:localhost"),
                              ("client", "URI:spiffe://test/client")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-subj", f"/CN={name}", "-keyout",
                folder / f"{name}.key", "-out", folder / f"{name}.csr")
        extensions = folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA",
                folder / "ca.crt", "-CAkey", folder / "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", extensions,
                "-out", folder / f"{name}.crt")


def write_files(folder):
    make_certificates(folder)
    (folder / "tokens").write_text("batch 0123456789abcdef\n")
    (folder / "server.textproto").write_text(
        f'security {{ token_file: "{folder}/tokens" }}\n')


# --- Frames ---------------------------------------------------------------

def frame(kind, flags, stream, payload=b""):
    return (struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) +
            struct.pack(">I", stream) + payload)


def integer(value, prefix_bits=7):
    """RFC 7541, 5.1; the bits before the prefix are 0."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([value])
    result = bytearray([most])
    value -= most
    while value >= 128:
        result.append(value % 128 + 128)
        value //= 128
    result.append(value)
    return bytes(result)


def header(name, value):
    """A literal without indexing."""
    return (b"\x00" + integer(len(name)) + name + integer(len(value)) + value)


REQUEST = b"".join(
    header(name, value)
    for name, value in ((b":method", b"POST"), (b":scheme", b"https"),
                        (b":path",
                         b"/sparseserve.v1.InferenceService/StreamGenerate"),
                        (b":authority", b"localhost"), (b"te", b"trailers"),
                        (b"content-type", b"application/grpc")))
# GenerateOptions{text: "Once"} in a StreamGenerateRequest, length-prefixed; as
# the tool would send it, so that work begins before the stream is reset.
MESSAGE = b"\x00\x00\x00\x00\x08\x0a\x06\x12\x04Once"


# --- Attacks: each yields what to send next ------------------------------------

def continuation_dribble():
    """One header whose value comes in pieces and never ends."""
    yield frame(HEADERS, 0, 1,
                REQUEST + b"\x00" + integer(1) + b"x" + integer(1 << 24))
    while True:
        yield frame(CONTINUATION, 0, 1, b"a" * 64)


def rapid_reset():
    """Streams that are opened and reset at once."""
    for stream in range(1, 1 << 30, 2):
        yield (frame(HEADERS, END_HEADERS, stream, REQUEST) +
               frame(DATA, END_STREAM, stream, MESSAGE) +
               frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)))


def ping_flood():
    while True:
        yield frame(PING, 0, 0, b"ping" * 2) * 16


def oversized_metadata():
    """Headers of 64 KiB, four times what is allowed."""
    for stream in range(1, 1 << 30, 2):
        block = REQUEST + header(b"x-large", b"a" * (64 << 10))
        yield frame(HEADERS, END_STREAM, stream, block[:16000])
        pieces = [block[i:i + 16000] for i in range(16000, len(block), 16000)]
        for piece in pieces[:-1]:
            yield frame(CONTINUATION, 0, stream, piece)
        yield frame(CONTINUATION, END_HEADERS, stream, pieces[-1])


def bad_binary_header():
    """A -bin header that is not base64."""
    for stream in range(1, 1 << 30, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream,
                    REQUEST + header(b"x-bin", b"!!!! not base64 !!!!"))


ATTACKS = (continuation_dribble, rapid_reset, ping_flood, oversized_metadata,
           bad_binary_header)


class Attacker(threading.Thread):
    """Attacks again and again, on new connections, until it is stopped."""

    def __init__(self, attack, port, folder, has_certificate):
        super().__init__(daemon=True)
        self.attack = attack
        self.address = ("127.0.0.1", port)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(folder / "ca.crt")
        self.context.set_alpn_protocols(["h2"])
        if has_certificate:
            self.context.load_cert_chain(folder / "client.crt",
                                         folder / "client.key")
        self.stop = threading.Event()
        self.connections = self.sent = self.received = 0

    def run(self):
        while not self.stop.is_set():
            try:
                self.connections += 1
                self.attack_once()
            except (OSError, ssl.SSLError):
                pass  # the server ended the connection, as it may

    def attack_once(self):
        with socket.create_connection(self.address, timeout=5) as plain:
            with self.context.wrap_socket(
                    plain, server_hostname="localhost") as connection:
                connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
                # Whoever has no certificate learns it here.
                self.received += len(connection.recv(1 << 16))
                connection.settimeout(0.05)
                for payload in self.attack():
                    if self.stop.is_set():
                        return
                    connection.sendall(payload)
                    self.sent += len(payload)
                    self.drain(connection)

    def drain(self, connection):
        """Reads what is there, so that the server is not held up by us."""
        connection.setblocking(False)
        try:
            while True:
                data = connection.recv(1 << 16)
                if not data:
                    raise OSError("closed")
                self.received += len(data)
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        finally:
            connection.settimeout(5)

    def end(self):
        self.stop.set()
        self.join(timeout=30)


# --- The server and a stream ----------------------------------------------

class Server:
    def __init__(self, folder):
        self.folder = folder
        self.process = subprocess.Popen(
            [SERVER, f"--model={model_path()}", "--listen=127.0.0.1:0",
             "--metrics_listen=", "--health_listen=127.0.0.1:0",
             "--kv_cache_bytes=256MiB", f"--tls_certificate={folder}/server.crt",
             f"--tls_key={folder}/server.key",
             f"--tls_client_ca={folder}/ca.crt",
             f"--config={folder}/server.textproto"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log = ""
        for line in self.process.stderr:
            log += line
            health = re.search(r"health checks on \S+:(\d+)", line)
            if health:
                self.health_port = int(health.group(1))
            found = re.search(r"listening grpc=\S+?:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                # Reads on, so that the server is not blocked by a full pipe.
                self.reader = threading.Thread(
                    target=self.process.stderr.read, daemon=True)
                self.reader.start()
                return
        raise AssertionError(f"the server did not start:\n{log}")

    def tool(self, *arguments):
        return [TOOL, *arguments, f"--server=localhost:{self.port}",
                f"--tls_ca={self.folder}/ca.crt",
                f"--tls_certificate={self.folder}/client.crt",
                f"--tls_key={self.folder}/client.key"]

    def stream(self, tokens):
        """Generates; the times between its messages, in seconds."""
        process = subprocess.Popen(
            self.tool("generate", "--json", "--quiet", "--ignore_eos",
                      f"--max_tokens={tokens}", "Once upon a time"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        times, received = [], 0
        for line in process.stdout:
            times.append(time.monotonic())
            output = json.loads(line).get("output", {})
            received += len(output.get("token_ids", []))
        status = process.wait()
        if status != 0 or received != tokens:
            raise AssertionError(f"status {status}, {received} of {tokens} "
                                 f"tokens: {process.stderr.read()}")
        return [b - a for a, b in zip(times, times[1:])]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


class MutualTlsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        write_files(cls.folder)
        cls.server = Server(cls.folder)

    @classmethod
    def tearDownClass(cls):
        status = cls.server.end()
        cls.temporary.cleanup()
        assert status == 0, status

    def ask(self, *flags):
        return subprocess.run(
            [TOOL, "models", f"--server=localhost:{self.server.port}",
             "--timeout=20s", *flags],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False)

    def test_the_tool_shows_what_it_is_given(self):
        folder = self.folder
        ca = f"--tls_ca={folder}/ca.crt"
        certificate = [f"--tls_certificate={folder}/client.crt",
                       f"--tls_key={folder}/client.key"]
        good, bad = folder / "good.token", folder / "bad.token"
        good.write_text("0123456789abcdef\n")
        bad.write_text("fedcba9876543210\n")
        self.assertEqual(self.ask(ca, *certificate).returncode, 0)
        self.assertEqual(
            self.ask(ca, *certificate, f"--token_file={good}").returncode, 0)
        refused = self.ask(ca, *certificate, f"--token_file={bad}")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("NO_CREDENTIAL", refused.stderr)
        for flags in ([], [ca], [ca, f"--token_file={good}"],
                      [ca, *certificate, "--tls_server_name=elsewhere"]):
            self.assertEqual(self.ask(*flags).returncode, 1, flags)
        # What cannot work is told before anything is sent.
        for flags in (certificate, [f"--token_file={good}"],
                      [ca, certificate[0]], [f"--tls_ca={folder}/none"]):
            self.assertEqual(self.ask(*flags).returncode, 2, flags)

    def test_streams_finish_beside_every_attack(self):
        for attack in ATTACKS:
            with self.subTest(attack=attack.__name__):
                stranger, insider = attackers = [
                    Attacker(attack, self.server.port, self.folder, has)
                    for has in (False, True)]
                for attacker in attackers:
                    attacker.start()
                try:
                    self.server.stream(30)
                finally:
                    for attacker in attackers:
                        attacker.end()
                self.assertIsNone(self.server.process.poll())
                # Not one byte of HTTP/2 reached whoever has no certificate.
                self.assertGreater(stranger.connections, 0)
                self.assertEqual(stranger.received, 0)
                self.assertEqual(stranger.sent, 0)
                self.assertGreater(insider.sent, 0)
                # Nothing is left behind that holds up what comes next.
                self.server.stream(5)


def measure():
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_files(folder)
        server = Server(folder)
        server.stream(20)
        print("time between tokens   p50 ms   p95 ms")

        def show(name, times):
            quantiles = statistics.quantiles(times, n=20)
            print(f"{name:35} {statistics.median(times) * 1e3:8.1f} "
                  f"{quantiles[-1] * 1e3:8.1f}", flush=True)

        for attack in ATTACKS:
            show("nobody", server.stream(200))
            for has_certificate in (False, True):
                attacker = Attacker(attack, server.port, folder,
                                    has_certificate)
                attacker.start()
                times = server.stream(200)
                attacker.end()
                with_it = "with" if has_certificate else "without"
                show(f"{attack.__name__}, {with_it} certificate", times)
                print(f"  {attacker.connections} connections, "
                      f"{attacker.sent >> 10} KiB", flush=True)
        server.end()


if __name__ == "__main__":
    SERVER, TOOL = sys.argv[1:3]
    if "--measure" in sys.argv:
        measure()
    else:
        unittest.main(argv=sys.argv[:1] + sys.argv[3:])

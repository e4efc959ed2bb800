"""A Prometheus server of a test's own."""

import http.server
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, timeout=30):
    with urllib.request.urlopen(url, timeout=timeout) as reply:
        return reply.read().decode()


class Fixture:
    """Serves /metrics, whose text `text()` makes anew for each scrape."""

    def __init__(self, text):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                                      Handler)
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Prometheus:
    """Data, configuration and log lie in a folder of their own."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="prometheus-gate-"))
        self.data = self.folder / "data"
        self.process = None

    def start(self, config):
        """`config` is that of prometheus.yml."""
        file = self.folder / "prometheus.yml"
        file.write_text(json.dumps(config))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(self.folder / "log", "a")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={file}",
             f"--storage.tsdb.path={self.data}",
             "--storage.tsdb.retention.time=30d",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while True:
            try:
                get(f"{self.url}/-/ready")
                return
            except (urllib.error.URLError, ConnectionError):
                if (self.process.poll() is not None
                        or time.monotonic() > deadline):
                    raise SystemExit("Prometheus did not start:\n"
                                     + (self.folder / "log").read_text())
                time.sleep(0.05)

    def stop(self):
        if self.process is None:
            return
        self.process.terminate()
        self.process.wait(timeout=60)
        self.process = None
        self.log.close()

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder)

    def api(self, path, **arguments):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            return json.loads(get(url))["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.loads(error.read())["error"]) from error

    def query(self, expression):
        """Values by series at this time; ValueError says what is wrong with
        the expression."""
        data = self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1]))
                for sample in data["result"]]

    def rules(self):
        return [rule for group in self.api("rules")["groups"]
                for rule in group["rules"]]

    def targets(self):
        """Health and last error by job."""
        return {target["labels"]["instance"]:
                (target["health"], target["lastError"])
                for target in self.api("targets")["activeTargets"]}

    def import_samples(self, lines, name):
        """Makes blocks of lines with times; only while it does not run."""
        file = self.folder / f"{name}.om"
        with open(file, "w") as out:
            out.writelines(lines)
            out.write("# EOF\n")
        with open(self.folder / f"{name}.log", "w") as log:
            return subprocess.Popen(
                ["promtool", "tsdb", "create-blocks-from", "openmetrics", "-q",
                 file, self.data], stdout=log, stderr=log)

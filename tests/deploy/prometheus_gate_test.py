#!/usr/bin/env python3
"""The dashboards and rules of deploy/ on a real Prometheus that scrapes the real
server under load, with eight days of history behind it: every query shows
something, and nothing alarms while all is well.

Usage: prometheus_gate_test.py [BUILD_FOLDER]

History, and a replica of an older version beside the server, are what the server
showed while it was well, carried on: so past and present differ by nothing but
what the test does. What `for:` and thresholds of single alerts do is proven by
alert_rules_test.py.
"""

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

import yaml

from exposition import Course, Exposition, line
from prometheus_server import Fixture, Prometheus, get

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(sys.argv.pop() if len(sys.argv) > 1
                     and not sys.argv[-1].startswith("-") else "build/release")
RULES = ROOT / "deploy" / "prometheus"
MINUTE, HOUR, DAY = 60, 3600, 86400

# What nothing in this test moves, and what would. Queries that read one of these
# may have nothing to show: a mean of no events.
AWAITED = {
    "sparseserve_plan_requests_total": "the choice of plans",
    "sparseserve_plan_targets_total": "the choice of plans",
    "sparseserve_predictions_total": "the choice of plans",
    "sparseserve_shadow_runs_total": "the quality guard",
    "sparseserve_output_entropy_nats": "the quality guard",
    "sparseserve_stream_write_blocked_seconds": "callers that do not read",
    "sparseserve_tls_certificate_expiry_timestamp_seconds": "a server with TLS",
}
CONFIG = """
recall_sample_share: 1
"""
CHAT = ("--class=chat:share=1,ttft=10s,tpot=10s,output_tokens=3",
        "--prompt_tokens=80..120", "--prefix_tokens=66", "--prefixes=2")


def default_model():
    if "SPARSESERVE_MODEL" in os.environ:
        return os.environ["SPARSESERVE_MODEL"]
    cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    return str(pathlib.Path(cache)
               / "sparseserve/SmolLM2-135M-Instruct.Q4_1.gguf")


class Server:
    """The real server on free ports."""

    def __init__(self, folder):
        config = folder / "server.textproto"
        config.write_text(CONFIG)
        self.log = folder / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [BUILD / "server/sparseserve-server",
                 f"--model={default_model()}", f"--config={config}",
                 "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"],
                stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            found = re.search(r"grpc=(\S+:\d+) metrics=(\S+:\d+)",
                              self.log.read_text())
            if found:
                self.address, self.metrics = found.groups()
                return
            if (self.process.poll() is not None
                    or time.monotonic() > deadline):
                raise SystemExit(f"No server: {self.log.read_text()}")
            time.sleep(0.05)

    def scrape(self):
        return Exposition(get(f"http://{self.metrics}/metrics"))

    def load(self, *flags):
        return subprocess.Popen(
            [BUILD / "client/sparseserve", "load", f"--server={self.address}",
             "--quiet", *flags], stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def boards():
    return {path.stem: json.loads(path.read_text()) for path in
            sorted((ROOT / "deploy/dashboards").glob("*.json"))}


def substituted(expression):
    for name, value in (("$__rate_interval", "5m"), ("$job", "sparseserve"),
                        ("$gpu_job", "dcgm"), ("$instance", ".+"),
                        ("$model", ".+")):
        expression = expression.replace(name, value)
    return expression


def panel_queries():
    return [(f"{name}: {panel['title']}", substituted(target["expr"]))
            for name, board in boards().items() for panel in board["panels"]
            if panel["type"] != "row" for target in panel["targets"]]


def rules():
    return [rule for path in sorted(RULES.glob("*.rules.yml"))
            for group in yaml.safe_load(path.read_text())["groups"]
            for rule in group["rules"]]


SERIES = (r"(?:sparseserve|process|scrape|DCGM)_\w+|up\b(?=[{\[])|"
          r"\w+:sparseserve_\w+:\w+")


def names_in(expression):
    return set(re.findall(SERIES, re.sub(r'"[^"]*"', "", expression)))


def selectors_in(expression):
    """Each series that an expression reads, as a query of its own."""
    found = re.findall(rf"({SERIES})(\{{[^}}]*\}})?(\[\w+\])?( offset \w+)?",
                       expression)
    return {f"last_over_time({name}{labels}{window or '[5m]'}{offset})"
            for name, labels, window, offset in found}


def config_for(targets):
    """The example of deploy/, but for where targets are and how often they are
    looked at."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    return config


def history(course, now, seconds):
    """Lines of eight days by day, as `course` was over `seconds`: every half
    hour, and every minute around this time a day and a week ago. It ends two
    hours ago."""
    begin, end = now - 8 * DAY, now - 2 * HOUR
    times = set(range(begin, end, 30 * MINUTE))
    for past in (now - DAY, now - 7 * DAY):
        times |= set(range(past - 80 * MINUTE, past + 15 * MINUTE, MINUTE))
    by_day = {}
    for at in sorted(times):
        by_day.setdefault(at // DAY, []).append(at)
    for day, ats in by_day.items():
        yield str(day), (
            line(key, course.value(key, (at - begin) / seconds),
                 job="sparseserve", instance="then:9090") + f" {at}\n"
            for key in course.moving() for at in ats)


class OlderReplica:
    """What a server of another version beside the real one shows, that began a
    day ago and stayed as the real one was."""

    SPEED = 5  # times the real one's traffic

    def __init__(self, course, seconds):
        self.course, self.seconds = course, seconds
        self.start = time.time()
        self.types = course.second.types

    def text(self):
        times = 1 + self.SPEED * (time.time() - self.start) / self.seconds
        lines, typed = [], set()
        for key in self.course.gained:
            name = key[0]
            family = self.course.second.family_of(name)
            if family not in typed:
                typed.add(family)
                lines.append(f"# TYPE {family} {self.types[family]}")
            value = self.course.value(key, times)
            if name == "process_start_time_seconds":
                value -= DAY
            more = ({"version": "0.0.1"} if name == "sparseserve_build_info"
                    else {})
            lines.append(line(key, value, **more))
        return "\n".join(lines) + "\n"


class PrometheusGateTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="gate-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.server = Server(cls.folder)
        cls.addClassCleanup(cls.server.stop)
        cls.prometheus = Prometheus()
        cls.addClassCleanup(cls.prometheus.remove)
        dcgm_text = (ROOT / "tests/deploy/dcgm_fixture.txt").read_text()
        cls.dcgm = Fixture(lambda: dcgm_text)
        cls.addClassCleanup(cls.dcgm.stop)
        cls.summary = []
        cls.run_well()
        cls.look_back()

    @classmethod
    def tearDownClass(cls):
        print("; ".join(cls.summary))

    @classmethod
    def targets(cls, *more):
        return {"sparseserve": [cls.server.metrics, *more],
                "dcgm": [cls.dcgm.address]}

    @classmethod
    def run_well(cls):
        """Everything that panels show, at a load that the server carries."""
        cls.prometheus.start(config_for(cls.targets()))
        # A rate needs to have seen what counters were before.
        cls.await_answer('count_over_time(up{job="sparseserve"}[1m]) >= 2')
        cls.run_load("--requests=3", "--concurrency=1", *CHAT)
        first, cls.began = cls.server.scrape(), time.time()
        chat = cls.server.load("--rate=1.5", "--requests=50", *CHAT)
        for flags in (
                ("--requests=3", "--concurrency=1", "--prompt_tokens=700",
                 "--output_tokens=2", "--attention=xattention:stride=8,threshold=0.95"),
                ("--requests=2", "--concurrency=2", "--prompt_tokens=300",
                 "--output_tokens=200", "--cancel_share=1",
                 "--cancel_after=300ms"),
                ("--requests=2", "--concurrency=1", "--prompt_tokens=1100",
                 "--output_tokens=2")):
            cls.run_load(*flags)
        if chat.wait(timeout=120) != 0:
            raise SystemExit("the load failed")
        second = cls.server.scrape()
        cls.seconds = time.time() - cls.began
        cls.course = Course(first, second)
        cls.missed = cls.objectives_missed()
        if cls.missed:
            cls.summary.append("this machine misses objectives while nothing "
                               "is wrong, so these alerts are not judged: "
                               + " ".join(sorted(cls.missed)))

    @classmethod
    def objectives_missed(cls):
        """Alerts about latencies in seconds that the machine does not reach
        when all is well; all others compare it with itself."""
        missed = set()
        for alert, name, bound in (
                ("TimeToFirstToken", "time_to_first_token_seconds", "2.5"),
                ("TimePerOutputToken", "time_per_output_token_seconds",
                 "0.05")):
            gained = {"count": 0.0, "bucket": 0.0}
            for (series, labels), value in cls.course.gained.items():
                for end in gained:
                    if (series == f"sparseserve_{name}_{end}"
                            and dict(labels).get("le", bound) == bound):
                        gained[end] += value
            if 1 - gained["bucket"] / gained["count"] > 0.005:
                missed |= {f"Sparseserve{alert}{kind}" for kind in
                           ("FastBurn", "Burn", "SlowBurn")}
        return missed

    @classmethod
    def run_load(cls, *flags):
        if cls.server.load(*flags).wait(timeout=120) != 0:
            cls.summary.append("none finished of: " + " ".join(flags))

    @classmethod
    def await_answer(cls, expression):
        deadline = time.monotonic() + 60
        while not cls.prometheus.query(expression):
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing for {expression}: "
                                 f"{cls.prometheus.targets()}")
            time.sleep(0.2)

    @classmethod
    def look_back(cls):
        """Puts eight days behind what was just recorded."""
        cls.prometheus.stop()
        imports = []
        for day, lines in history(cls.course, int(time.time()), cls.seconds):
            if len(imports) > 1:
                cls.finish(imports.pop(0))
            imports.append(cls.prometheus.import_samples(lines, day))
        for process in imports:
            cls.finish(process)
        cls.replica = Fixture(OlderReplica(cls.course, cls.seconds).text)
        cls.addClassCleanup(cls.replica.stop)
        cls.prometheus.start(config_for(cls.targets(cls.replica.address)))

    @classmethod
    def finish(cls, process):
        if process.wait(timeout=120) != 0:
            raise SystemExit("promtool cannot import: " + "".join(
                path.read_text() for path in
                cls.prometheus.folder.glob("*.log")))

    def crossed(self):
        """Alerts whose expression holds now, whatever their `for`."""
        return {rule["alert"] for rule in rules() if "alert" in rule
                and self.prometheus.query(rule["expr"])}

    def await_crossed(self, expected, at_most, besides=frozenset()):
        """What has crossed and is not `besides`, once that is `expected`:
        recorded series and rates follow within seconds."""
        deadline = time.monotonic() + at_most
        while True:
            crossed = self.crossed() - besides
            if crossed == expected or time.monotonic() > deadline:
                return crossed
            time.sleep(1)

    def flaw(self, expression):
        """What is wrong with what a query shows; empty if nothing is."""
        try:
            values = self.prometheus.query(expression)
        except ValueError as error:
            return f"error: {error}"
        if not values:
            return "empty"
        if all(value != value for _, value in values):
            return "all NaN"
        return ""

    def check_queries(self, what, queries):
        flaws, awaited = [], set()
        for name, expression in queries:
            flaw = self.flaw(expression)
            if not flaw:
                continue
            waits = AWAITED.keys() & {
                self.course.second.family_of(name)
                for name in names_in(expression)}
            if waits and not flaw.startswith("error"):
                awaited |= waits
            else:
                flaws.append(f"{name}: {flaw}: {expression}")
        self.summary.append(f"{len(queries)} {what}, {len(flaws)} without "
                            f"data, {len(awaited)} metrics awaited")
        self.assertEqual(flaws, [])

    def await_scrapes(self):
        """Every target twice, and rules over them."""
        names = {rule["record"] for rule in rules() if "record" in rule}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            recorded = {metric["__name__"] for metric, _ in
                        self.prometheus.query('{__name__=~".+:.+:.+"}')}
            twice = self.prometheus.query(
                "min(count_over_time(up[1m])) > 2 and min(up) == 1")
            if twice and recorded == names:
                return
            time.sleep(0.5)
        self.assertEqual(names - recorded, set())
        self.fail(self.prometheus.targets())

    def test_1_exposition_is_clean(self):
        text = self.course.second.text
        done = subprocess.run(["promtool", "check", "metrics"], input=text,
                              capture_output=True, text=True)
        self.assertEqual((done.stdout + done.stderr).splitlines(), [])
        samples = len(self.course.second.samples)
        self.summary.append(f"{samples} series in a scrape")
        self.assertLessEqual(samples, 5000)

    def test_2_names_are_those_of_the_scrape(self):
        shown = self.course.second.families()
        recorded = {rule["record"] for rule in rules() if "record" in rule}
        added = {"up", "scrape_duration_seconds", "scrape_samples_scraped"}
        gpu = Exposition((ROOT / "tests/deploy/dcgm_fixture.txt").read_text()
                         ).families()
        used = set()
        for expression in ([expression for _, expression in panel_queries()]
                           + [rule["expr"] for rule in rules()]):
            used |= names_in(expression)
        read = {self.course.second.family_of(name) for name in used}
        self.assertEqual(read - shown - recorded - added - gpu
                         - AWAITED.keys(), set())
        self.assertEqual(shown - read, set())
        self.assertEqual(gpu - read, set())
        documents = [ROOT / "README.md", ROOT / "SECURITY.md",
                     ROOT / "server/metrics/README.md",
                     *ROOT.glob("deploy/**/*.md")]
        for path in documents:
            named = set(re.findall(r"`(sparseserve_[a-z0-9_]+)`",
                                   path.read_text()))
            known = {self.course.second.family_of(name) for name in named}
            self.assertEqual(known - shown - AWAITED.keys(), set(), path)

    def test_3_every_query_shows_something(self):
        self.await_scrapes()
        self.check_queries("queries of panels", panel_queries())
        self.check_queries("recording rules", [
            (rule["record"], rule["expr"]) for rule in rules()
            if "record" in rule])
        self.check_queries("series that alerts read", sorted(
            (rule["alert"], selector) for rule in rules() if "alert" in rule
            for selector in selectors_in(rule["expr"])))
        ill = [(rule["name"], rule["lastError"]) for rule in
               self.prometheus.rules() if rule["health"] != "ok"]
        self.assertEqual(ill, [])
        panels = sum(panel["type"] != "row" for board in boards().values()
                     for panel in board["panels"])
        ((_, scrape),) = self.prometheus.query(
            "quantile_over_time(0.95, scrape_duration_seconds"
            f'{{instance="{self.server.metrics}"}}[10m])')
        self.summary.append(f"{panels} panels; p95 of scrapes {scrape:.3f} s")

    def test_4_nothing_alarms_while_all_is_well(self):
        self.assertEqual(self.await_crossed(set(), 20, self.missed), set())


if __name__ == "__main__":
    unittest.main()

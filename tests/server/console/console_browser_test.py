#!/usr/bin/env python3
"""The console of the real server with the real model: its page in a headless
browser and `sparseserve top`, beside the metrics of the same moment.

Usage: console_browser_test.py SERVER TOOL PYTHON, where PYTHON has selenium: the
test starts itself again with it. The model is $SPARSESERVE_MODEL, else the
default one in the cache. With $OUT, pictures of the page go there.
"""

import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import unittest
import urllib.request

PROMPT = "The quick brown fox jumps over the lazy dog. " * 30
CONFIG = "recall_sample_share: 1\n"
SINK_WINDOW = "--attention=sink_window:sink_tokens=4,window_tokens=64"

# Least contrast of each text with what is behind it, by WCAG 2.1; the text that
# has it, and the ratio.
WORST_CONTRAST = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
  .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = node => {
  for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
let worst = [100, ""];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim();
  const parent = walker.currentNode.parentElement;
  if (!text || !parent.getClientRects().length) continue;
  const style = getComputedStyle(parent);
  const ink = parse(parent instanceof SVGElement ? style.fill : style.color);
  const [a, b] = [light(ink), light(behind(parent))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < worst[0]) worst = [ratio, text];
}
return worst;
"""

# Everything that reaches out of the window to the right, but for what can be
# scrolled in its own box.
TOO_WIDE = """
return [...document.querySelectorAll("body *")].filter(e =>
  !e.closest(".scroll > *") && e.getBoundingClientRect().right > innerWidth + .5)
  .map(e => e.outerHTML.slice(0, 120));
"""


def model_path():
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return os.environ.get("SPARSESERVE_MODEL") or str(
        pathlib.Path(cache) /
        "sparseserve/SmolLM2-135M-Instruct.Q4_1.gguf")


def start_server(config):
    """The process, and host:port of gRPC and of the metrics."""
    server = subprocess.Popen(
        [SERVER, f"--model={model_path()}", f"--config={config}",
         "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
         "--kv_cache_bytes=256MiB"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = ""
    for line in server.stderr:
        log += line
        found = re.search(r"listening grpc=(\S+) metrics=(\S+)", line)
        if found:
            return server, *found.groups()
    raise AssertionError(f"the server did not start:\n{log}")


def start_browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu",
                     "--disable-dev-shm-usage", "--window-size=1280,1800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(
        service=Service("/usr/bin/chromedriver"), options=options)


class Scrape:
    """One scrape of /metrics, read anew: nothing is shared with the console."""

    LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)$")

    def __init__(self, text):
        self.series = []
        for line in text.splitlines():
            found = self.LINE.match(line)
            if found and not line.startswith("#"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                self.series.append((found[1], labels, float(found[3])))

    def sum(self, name, **labels):
        return sum(value for known, of, value in self.series
                   if known == name and labels.items() <= of.items())

    def quantile(self, name, share, **labels):
        """As histogram_quantile() of Prometheus does it."""
        buckets = {}
        for known, of, value in self.series:
            if known == name + "_bucket" and labels.items() <= of.items():
                bound = float(of["le"])
                buckets[bound] = buckets.get(bound, 0) + value
        bounds = sorted(buckets)
        rank = share * buckets[bounds[-1]]
        before, start = 0, 0
        for bound in bounds[:-1]:
            if buckets[bound] >= rank and buckets[bound] > before:
                return start + (bound - start) * (rank - before) / (
                    buckets[bound] - before)
            before, start = buckets[bound], bound
        return bounds[-2]


def amount(text):
    """The number that a text of the page says, in units of one."""
    found = re.match(r"([\d,.]+) ?(\S*)", text)
    units = {"ms": 1e-3, "µs": 1e-6, "us": 1e-6, "%": 1e-2, "KiB": 2**10,
             "MiB": 2**20, "GiB": 2**30}
    return float(found[1].replace(",", "")) * units.get(found[2], 1)


class ConsoleTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        config = pathlib.Path(cls.folder.name) / "server.textproto"
        config.write_text(CONFIG)
        cls.server, cls.grpc, cls.metrics = start_server(config)
        cls.requests = [
            ["--max_tokens=20", PROMPT],
            ["--max_tokens=10", "--target_ttft=60s", SINK_WINDOW, PROMPT],
            ["--max_tokens=10", "--target_ttft=1ms", "Once"],
        ]
        for arguments in cls.requests:
            made = cls.run_tool("generate", f"--server={cls.grpc}",
                                "--temperature=0", "--ignore_eos", *arguments)
            assert made.returncode == 0, made.stderr
        refused = cls.run_tool("generate", f"--server={cls.grpc}",
                               "--max_tokens=1000000", "Once")
        assert refused.returncode == 1, refused.stderr
        cls.browser = start_browser()
        cls.browser.get(f"http://{cls.metrics}/")

    @classmethod
    def tearDownClass(cls):
        cls.browser.quit()
        cls.server.send_signal(signal.SIGTERM)
        # Reads on, so that the server is not blocked by a full pipe.
        cls.server.communicate(timeout=60)
        cls.folder.cleanup()
        assert cls.server.returncode == 0, cls.server.returncode

    def setUp(self):
        self.choose("all")
        self.wait_until("latest && latest.all.finished.length === 3")

    @classmethod
    def run_tool(cls, *arguments):
        return subprocess.run(
            [TOOL, *arguments], capture_output=True, text=True, timeout=300,
            check=False, stdin=subprocess.DEVNULL)

    def fetch(self, path):
        with urllib.request.urlopen(f"http://{self.metrics}{path}",
                                    timeout=30) as reply:
            return reply.headers, reply.read().decode()

    def scrape(self):
        return Scrape(self.fetch("/metrics")[1])

    def wait_until(self, condition):
        WebDriverWait(self.browser, 30).until(
            lambda browser: browser.execute_script(f"return {condition}"))

    def choose(self, period):
        self.browser.execute_script(
            f"document.querySelector('input[value={period}]').click()")

    def text(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector).text

    def row(self, card, key):
        """The texts of a table's row behind its name."""
        return [cell.get_attribute("textContent") for cell in
                self.browser.find_elements(
                    By.CSS_SELECTOR, f"#{card} tr[data-key='{key}'] td")]

    def window(self, width, height, dark=False):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme",
                          "value": "dark" if dark else "light"}]})
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": False})

    def picture(self, name):
        if os.environ.get("OUT"):
            self.browser.save_screenshot(
                str(pathlib.Path(os.environ["OUT"]) / f"{name}.png"))

    def near(self, text, value):
        # Three digits are shown.
        self.assertAlmostEqual(amount(text) / value, 1, delta=.006, msg=text)

    def test_runs_without_errors(self):
        self.assertEqual(self.browser.get_log("browser"), [])
        self.assertIn("serving", self.text("#status"))

    def test_loads_nothing_but_its_figures(self):
        loaded = self.browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)")
        self.assertEqual(set(loaded), {f"http://{self.metrics}/console.json"})
        headers, _ = self.fetch("/")
        self.assertNotIn("unsafe", headers["Content-Security-Policy"])
        self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
        self.assertEqual(headers["Cache-Control"], "no-store")

    def test_policy_keeps_other_scripts_out(self):
        violated = self.browser.execute_async_script("""
            const done = arguments[0];
            document.addEventListener("securitypolicyviolation",
              event => done(event.effectiveDirective), {once: true});
            const script = document.createElement("script");
            try { script.textContent = "document.title = 'taken'"; }
            catch (error) { script.append("document.title = 'taken'"); }
            document.body.append(script);
            setTimeout(() => done("nothing"), 2000);""")
        self.assertRegex(violated, "script|trusted-types")
        self.assertNotEqual(self.browser.title, "taken")
        self.browser.get_log("browser")  # says so, as it should

    def test_latency_is_that_of_the_histograms(self):
        scrape = self.scrape()
        for key, name in [("first token", "time_to_first_token_seconds"),
                          ("per output token", "time_per_output_token_seconds"),
                          ("between tokens", "inter_token_latency_seconds"),
                          ("in the queue", "request_queue_time_seconds")]:
            name = f"sparseserve_{name}"
            count, p50, p95, p99 = self.row("latency", key)
            self.assertEqual(amount(count), scrape.sum(f"{name}_count"))
            self.assertGreater(amount(count), 0)
            for text, share in [(p50, .5), (p95, .95), (p99, .99)]:
                self.near(text, scrape.quantile(name, share))

    def test_targets_are_those_of_the_counters(self):
        scrape = self.scrape()
        for target in ("time_to_first_token", "time_per_output_token",
                       "total"):
            met, missed, _ = self.row("latency", target)
            for text, outcome in [(met, "met"), (missed, "missed")]:
                self.assertEqual(
                    amount(text),
                    scrape.sum("sparseserve_latency_targets_total",
                               target=target, outcome=outcome))
        self.assertEqual(self.row("latency", "time_to_first_token"),
                         ["1", "1", "50 %"])

    def test_counts_are_those_of_the_counters(self):
        scrape = self.scrape()
        for reason in ("stop", "length", "cancelled", "error"):
            self.assertEqual(
                amount(self.row("endings", f"finished: {reason}")[0]),
                scrape.sum("sparseserve_requests_finished_total",
                           finish_reason=reason))
        self.assertEqual(self.row("endings", "rejected: invalid_argument"),
                         ["1"])
        self.assertEqual(
            amount(self.row("tokens", "tokens generated")[0]),
            scrape.sum("sparseserve_generation_tokens_total"))
        self.assertEqual(scrape.sum("sparseserve_generation_tokens_total"), 40)
        self.assertEqual(
            amount(self.row("tokens", "prompt tokens computed")[0]),
            scrape.sum("sparseserve_prompt_tokens_total", source="computed"))

    def test_attention_is_that_of_the_counters(self):
        scrape = self.scrape()
        heads = "sparseserve_attention_heads_total"
        prompts, output, recall, low, rows = self.row("attention",
                                                      "sink_window")
        self.near(prompts, scrape.sum(heads, phase="prefill",
                                      pattern="sink_window") /
                  scrape.sum(heads, phase="prefill"))
        self.near(output, scrape.sum(heads, phase="decode",
                                     pattern="sink_window") /
                  scrape.sum(heads, phase="decode"))
        name = "sparseserve_attention_recall_estimate_ratio"
        self.assertEqual(amount(rows), scrape.sum(f"{name}_count",
                                                  pattern="sink_window"))
        self.assertGreater(amount(rows), 0)
        self.assertAlmostEqual(
            float(recall), scrape.sum(f"{name}_sum", pattern="sink_window") /
            amount(rows), delta=.0006)
        self.assertAlmostEqual(
            float(low), scrape.quantile(name, .05, pattern="sink_window"),
            delta=.0006)
        blocks = "sparseserve_attention_blocks_total"
        visited = scrape.sum(blocks, phase="prefill", outcome="computed")
        allowed = scrape.sum(blocks, phase="prefill")
        self.assertLess(visited, allowed)
        self.assertIn(f"{visited / allowed:.3f}: {visited:,.0f} of "
                      f"{allowed:,.0f} blocks", self.text("#density-bars"))

    def test_what_is_held_now_is_that_of_the_gauges(self):
        scrape = self.scrape()
        self.assertEqual(amount(self.text("#running")), 0)
        for kind in ("weights", "kv_free", "activations"):
            self.near(self.row("memory", kind)[0],
                      scrape.sum("sparseserve_memory_bytes", kind=kind))
        for state in ("used", "cached", "free"):
            self.assertEqual(
                amount(self.row("pages", state)[0]),
                scrape.sum("sparseserve_kv_cache_pages", state=state))
        stage = amount(self.row("steps", "attention")[1])
        self.assertAlmostEqual(
            stage / scrape.sum("sparseserve_stage_busy_seconds_total",
                               stage="attention"), 1, delta=.006)

    def test_the_last_minute_is_another_period(self):
        self.choose("minute")
        self.wait_until("latest.minute.seconds > 0")
        minute, shown = self.browser.execute_script("""
            return [latest.minute, document.querySelector(
              "#tokens tr[data-key='tokens generated'] td").textContent];""")
        self.assertLessEqual(minute["seconds"], 61)
        self.assertEqual(amount(shown), minute["generation_tokens"])

    def test_plots_show_the_history(self):
        self.assertEqual(len(self.browser.find_elements(
            By.CSS_SELECTOR, "#charts svg.chart[role=img][aria-label]")), 4)
        points, shown = self.browser.execute_script("""
            charts.forEach(chart => chart.draw());
            return [latest.history.running, document.querySelector(
              "path[data-field=running].line").getAttribute("d")];""")
        self.assertEqual(len(re.findall("[ML]", shown)), max(2, len(points)))
        chart = self.browser.find_element(
            By.CSS_SELECTOR, "#charts figure:nth-of-type(4) svg.chart")
        self.assertIn("running now 0", chart.get_attribute("aria-label"))
        chart.send_keys(Keys.ARROW_LEFT)
        self.assertIn("5 s ago", self.text("#charts figure:nth-of-type(4) h2"))
        chart.send_keys(Keys.ARROW_RIGHT)
        self.assertNotIn("ago",
                         self.text("#charts figure:nth-of-type(4) h2"))

    def test_nothing_moves_while_figures_change(self):
        self.browser.get(f"http://{self.metrics}/")
        self.wait_until("latest !== null")
        moved = self.browser.execute_async_script("""
            const done = arguments[0];
            let moved = 0;
            new PerformanceObserver(list => {
              for (const shift of list.getEntries()) moved += shift.value;
            }).observe({type: "layout-shift", buffered: false});
            setTimeout(() => done(moved), 3500);""")
        self.assertEqual(moved, 0)

    def test_is_readable_in_each_size_and_colour(self):
        for name, width, height, dark in [("light", 1280, 1500, False),
                                          ("dark", 1280, 1500, True),
                                          ("phone", 360, 4200, False),
                                          ("phone-dark", 360, 4200, True)]:
            with self.subTest(name):
                self.window(width, height, dark)
                self.wait_until("innerWidth === %d" % width)
                self.browser.execute_script(
                    "charts.forEach(chart => chart.draw())")
                ratio, text = self.browser.execute_script(WORST_CONTRAST)
                self.assertGreaterEqual(ratio, 4.5, text)
                self.assertEqual(self.browser.execute_script(TOO_WIDE), [])
                self.assertLessEqual(self.browser.execute_script(
                    "return document.documentElement.scrollWidth"), width)
                self.picture(name)
        self.window(1280, 1500)

    def test_says_when_the_server_does_not_answer(self):
        self.server.send_signal(signal.SIGSTOP)
        try:
            self.wait_until("document.getElementById('status').textContent"
                            ".includes('no answer')")
        finally:
            self.server.send_signal(signal.SIGCONT)
        self.wait_until("document.getElementById('status').textContent"
                        ".includes('serving')")
        self.browser.get_log("browser")

    def test_top_shows_the_same(self):
        scrape = self.scrape()
        result = self.run_tool("top", "--once", "--all",
                               f"--metrics={self.metrics}")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn("\x1b", result.stdout)
        found = re.search(r"^first token +(\d+) +(\S+ \S+)", result.stdout,
                          re.M)
        name = "sparseserve_time_to_first_token_seconds"
        self.assertEqual(int(found[1]), scrape.sum(f"{name}_count"))
        self.near(found[2], scrape.quantile(name, .5))
        self.assertRegex(result.stdout, r"\nsink window +\d")
        self.assertIn("invalid argument 1", result.stdout)
        self.assertIn("smollm2", result.stdout.splitlines()[0])
        self.assertIn("serving", result.stdout.splitlines()[0])

    def watch(self, key, columns=100):
        """What `top` draws in a terminal until it was given `key`, and its
        exit status."""
        child, terminal = pty.fork()
        if child == 0:
            os.execv(TOOL, [TOOL, "top", f"--metrics={self.metrics}"])
        fcntl.ioctl(terminal, termios.TIOCSWINSZ,
                    struct.pack("HHHH", 60, columns, 0, 0))
        drawn, told = b"", False
        while True:
            try:
                piece = os.read(terminal, 1 << 16)
            except OSError:  # what Linux says when the other side is closed
                break
            if not piece:
                break
            drawn += piece
            # Drawn for the whole width.
            if not told and b"Fallbacks" in drawn.rpartition(b"\x1b[H")[2]:
                os.write(terminal, key)
                told = True
        os.close(terminal)
        return drawn.decode(), os.waitstatus_to_exitcode(
            os.waitpid(child, 0)[1])

    def test_top_watches_and_leaves_the_screen_as_it_was(self):
        for key, status in [(b"q", 0), (b"\x03", 130)]:
            drawn, ended = self.watch(key)
            self.assertEqual(ended, status)
            self.assertTrue(drawn.startswith("\x1b[?1049h"), drawn[:80])
            self.assertIn("\x1b[32mserving\x1b[0m", drawn)
            self.assertIn("\x1b[?25h\x1b[?1049l", drawn)

    def test_top_fits_into_narrow_screens(self):
        drawn, _ = self.watch(b"q", columns=40)
        last = drawn.rpartition("\x1b[H")[2].partition("\x1b[J")[0]
        for line in last.split("\n"):
            line = line.rstrip("\r")
            self.assertLessEqual(len(re.sub("\x1b\\[[?\\d]*[a-zA-Z]", "", line)),
                                 40)

    def test_json_holds_what_the_page_shows(self):
        headers, body = self.fetch("/console.json")
        self.assertEqual(headers["Content-Type"], "application/json")
        report = json.loads(body)
        self.assertEqual(report["all"]["finished"]["length"], 3)
        self.assertLess(len(body), 64 << 10)


if __name__ == "__main__":
    SERVER, TOOL, PYTHON = sys.argv[1:4]
    if os.path.realpath(sys.executable) != os.path.realpath(PYTHON):
        os.execv(PYTHON, [PYTHON, "-B", *sys.argv])
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])

#!/usr/bin/env python3
"""`sparseserve explain` against the real server and the real model, and its
page in a headless browser.

Usage: explain_page_test.py SERVER TOOL PYTHON, where PYTHON has selenium: the
test starts itself again with it. The model is $SPARSESERVE_MODEL, else the
default one in the cache.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest

# What must stay text: in a script element, in an attribute, as an entity.
PROMPT = ("</script><script>document.title = 'taken'</script>\n"
          "<img src=x onerror=\"document.title = 'taken'\"> <!-- &amp; "
          "\u2028 caf\u00e9 'single' \"double\" \\u003c $& </title>\n"
          + "The quick brown fox jumps over the lazy dog. " * 20)
LAYERS, HEADS = 30, 9
TOP = 6


def model_path():
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return os.environ.get("SPARSESERVE_MODEL") or str(
        pathlib.Path(cache) /
        "sparseserve/SmolLM2-135M-Instruct.Q4_1.gguf")


def start_server():
    server = subprocess.Popen(
        [SERVER, f"--model={model_path()}", "--explain",
         "--listen=127.0.0.1:0", "--metrics_listen="],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = ""
    for line in server.stderr:
        log += line
        found = re.search(r"listening grpc=(\S+)", line)
        if found:
            return server, found.group(1)
    raise AssertionError(f"the server did not start:\n{log}")


def start_browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu",
                     "--disable-dev-shm-usage", "--window-size=1200,1600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(
        service=Service("/usr/bin/chromedriver"), options=options)


class ExplainPageTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.page = pathlib.Path(cls.folder.name) / "page.html"
        cls.server, cls.address = start_server()
        made = cls.run_tool(f"--html={cls.page}", "--attention=sink_window:"
                            "sink_tokens=4,window_tokens=64", "--query=3",
                            "--query=100", f"--top={TOP}", PROMPT)
        assert made.returncode == 0, made.stderr
        cls.browser = start_browser()
        cls.browser.get(cls.page.as_uri())
        cls.data = json.loads(cls.browser.find_element(
            By.ID, "explanation").get_attribute("textContent"))

    @classmethod
    def tearDownClass(cls):
        cls.browser.quit()
        cls.server.send_signal(signal.SIGTERM)
        # Reads on, so that the server is not blocked by a full pipe.
        cls.server.communicate(timeout=60)
        cls.folder.cleanup()
        assert cls.server.returncode == 0, cls.server.returncode

    @classmethod
    def run_tool(cls, *arguments):
        return subprocess.run(
            [TOOL, "explain", f"--server={cls.address}", *arguments],
            capture_output=True, text=True, timeout=300, check=False,
            stdin=subprocess.DEVNULL)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def cell(self, layer, head):
        return self.browser.find_element(
            By.CSS_SELECTOR,
            f"#heat rect[data-layer='{layer}'][data-head='{head}']")

    def title_of(self, element):
        return element.find_element(
            By.CSS_SELECTOR, "title").get_attribute("textContent")

    def head(self, layer, head):
        found = self.data["heads"][layer * HEADS + head]
        self.assertEqual((found.get("layer", 0), found.get("head", 0)),
                         (layer, head))
        return found

    def test_needs_no_other_file(self):
        loaded = self.browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)")
        self.assertEqual(loaded, [])
        text = self.page.read_text()
        self.assertEqual(re.findall(r"\b(?:src|href)=", re.sub(
            r'(?s)<script id="explanation".*?</script>', "", text)), [])

    def test_runs_without_errors(self):
        self.assertEqual(self.browser.get_log("browser"), [])

    def test_text_of_the_prompt_stays_text(self):
        shown = self.browser.find_element(
            By.ID, "text").get_attribute("textContent")
        self.assertEqual(shown, PROMPT)
        self.assertEqual(self.all("img"), [])
        # The data's and the page's own.
        self.assertEqual(len(self.all("script")), 2)
        self.assertRegex(self.browser.title, r"^Attention of models/\S+$")

    def test_heat_map_has_every_head_and_any_measure(self):
        self.assertEqual(len(self.all("#heat rect")), LAYERS * HEADS)
        measure = Select(self.browser.find_element(By.ID, "measure"))
        measure.select_by_value("entropy")
        entropies = [head["entropy"] for head in self.data["heads"]]
        least = entropies.index(min(entropies))
        most = entropies.index(max(entropies))
        fills = []
        for index in (least, most):
            cell = self.cell(*divmod(index, HEADS))
            shown = float(self.title_of(cell).split(": ")[1])
            self.assertAlmostEqual(shown, entropies[index], delta=1e-3)
            fills.append(cell.get_attribute("fill"))
        self.assertEqual(fills, ["rgb(239,243,255)", "rgb(8,48,107)"])
        measure.select_by_value("head_class")
        self.assertTrue(self.title_of(self.cell(7, 2)).endswith(
            ": " + self.head(7, 2)["head_class"].lower()))

    def test_a_chosen_head_shows_its_measures_and_curve(self):
        self.cell(4, 6).click()
        head = self.head(4, 6)
        self.assertEqual(
            self.browser.find_element(By.ID, "head").text,
            "Layer 4, head 6, which reads KV head 2")
        rows = {row.find_elements(By.TAG_NAME, "td")[0].text:
                row.find_elements(By.TAG_NAME, "td")[1].text
                for row in self.all("#measures tr")}
        self.assertEqual(rows["class"], head["head_class"].lower())
        self.assertAlmostEqual(float(rows["recall"]), head["recall"], places=3)
        self.assertAlmostEqual(
            float(rows["density"]), head["density"], places=3)
        self.assertLess(head["density"], 1)

        self.assertEqual(len(self.all("#curves polyline")), HEADS)
        chosen = self.all("#curves polyline.selected")
        self.assertEqual([line.get_attribute("data-head") for line in chosen],
                         ["6"])
        points = [tuple(map(float, point.split(","))) for point in
                  chosen[0].get_attribute("points").split()]
        self.assertEqual(len(points), len(head["block_recall"]))
        # y is 6 at a recall of 1, and 220 further down at 0.
        for (_, y), recall in zip(points, head["block_recall"]):
            self.assertAlmostEqual(y, 6 + (1 - recall) * 220, delta=0.1)
        self.assertEqual([y for _, y in points],
                         sorted((y for _, y in points), reverse=True))

    def test_attended_tokens_are_marked_in_the_text(self):
        self.cell(2, 1).click()
        queries = Select(self.browser.find_element(By.ID, "query"))
        self.assertEqual(len(queries.options), 2)
        queries.select_by_index(1)
        of_head = self.data["queries"][1]["heads"][2 * HEADS + 1]
        self.assertEqual(len(of_head["positions"]), TOP)
        marked = {int(span.get_attribute("data-position")):
                  float(span.get_attribute("data-weight"))
                  for span in self.all("#text span[data-weight]")}
        self.assertEqual(marked.keys(), set(of_head["positions"]))
        for position, weight in zip(of_head["positions"], of_head["weights"]):
            self.assertAlmostEqual(marked[position], weight, places=6)
        self.assertEqual(
            [span.get_attribute("data-position")
             for span in self.all("#text span.query")], ["100"])
        listed = [int(row.find_element(By.TAG_NAME, "td").text)
                  for row in self.all("#attended tr")]
        self.assertEqual(listed, of_head["positions"])

    def test_measures_are_those_of_attention(self):
        for head in self.data["heads"]:
            self.assertLessEqual(head["recall"], 1)
            self.assertGreater(head["recall"], 0)
            self.assertGreaterEqual(head["near_share"], 0)
            self.assertAlmostEqual(head["locality"][-1], 1, places=4)
            self.assertAlmostEqual(head["block_recall"][-1], 1, places=4)
        # The model has heads of its own kinds, and lays weight on the sink.
        self.assertGreater(
            len({head["head_class"] for head in self.data["heads"]}), 1)
        self.assertGreater(max(head["sink_4"] for head in self.data["heads"]),
                           0.5)

    def test_tool_prints_a_row_for_each_head(self):
        result = self.run_tool("--chat", "Why is the sky blue?")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = re.findall(r"^ +\d+ +\d+ [a-z]+ +\d", result.stdout, re.M)
        self.assertEqual(len(rows), LAYERS * HEADS)
        self.assertRegex(result.stdout, r"attention +dense, density 1\.000")
        self.assertIn("recall 1.0000", result.stdout)

    def test_tool_says_what_is_wrong(self):
        beyond = self.run_tool("--query=100", "short")
        self.assertEqual(beyond.returncode, 1)
        self.assertIn("query_positions[0]", beyond.stderr)
        nowhere = self.run_tool("--html=/nowhere/page.html", "short")
        self.assertEqual(nowhere.returncode, 1)
        self.assertIn("cannot write /nowhere/page.html", nowhere.stderr)


if __name__ == "__main__":
    SERVER, TOOL, PYTHON = sys.argv[1:4]
    if os.path.realpath(sys.executable) != os.path.realpath(PYTHON):
        os.execv(PYTHON, [PYTHON, "-B", *sys.argv])
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])

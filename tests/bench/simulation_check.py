#!/usr/bin/env python3
"""Compares sparseserve-simulate with the server that it simulates.

  simulation_check.py --model M.gguf --trace trace.csv --arrival_scale 8 \\
      --class interactive:share=0.7,ttft=2s,tpot=150ms --class batch:share=0.3

Starts the server, sends it the trace's first requests so that it learns what
its steps cost, reads these costs from its metrics, and sends the next ones,
which are then simulated with the same costs, limits and classes. Prints the
attainment and times of both, and exits with 1 if an attainment is more than 5
points apart. Runs as long as the requests take: choose --arrival_scale so that
the simulated server is busy about 70 % of the time. Nothing else may run.
"""

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build" / "release"
MOST_POINTS = 5


class Server:
    """The program, from its start to SIGTERM."""

    def __init__(self, binary, model, flags):
        self.process = subprocess.Popen(
            [binary, f"--model={model}", "--listen=127.0.0.1:0",
             "--metrics_listen=127.0.0.1:0", *flags],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for line in self.process.stderr:
            found = re.search(r"grpc=(\S+:\d+) metrics=(\S+:\d+)", line)
            if found:
                self.address, self.metrics_address = found.groups()
                break
        else:
            sys.exit("the server did not start")
        # Lines of the log would fill the pipe.
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr,
                                      stdout=subprocess.DEVNULL)

    def metrics(self):
        url = f"http://{self.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=120)
        self.drain.wait(timeout=10)


def split_trace(path, calibration, measured, folder):
    """Two files: its first requests, and those after them from second 0 on."""
    lines = [line for line in pathlib.Path(path).read_text().splitlines()
             if line and not line.startswith("#")]
    header, rows = lines[0], [line.split(",") for line in lines[1:]]
    parts = [rows[:calibration], rows[calibration:calibration + measured]]
    paths = []
    for name, part in zip(("calibration.csv", "measured.csv"), parts):
        if not part:
            sys.exit(f"{path} has {len(rows)} requests, too few")
        begin = float(part[0][0])
        text = "\n".join([header] + [
            f"{float(row[0]) - begin:.6f},{row[1]},{row[2]}" for row in part])
        paths.append(folder / name)
        paths[-1].write_text(text + "\n")
    return paths


def run_load(options, server, trace, seed):
    report = trace.with_suffix(".json")
    subprocess.run(
        [options.tool, "load", f"--server={server.address}",
         f"--trace={trace}", f"--arrival_scale={options.arrival_scale}",
         *(f"--class={text}" for text in options.classes),
         f"--seed={seed}", f"--json={report}", "--quiet"],
        check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


def simulate(options, trace, scrape):
    pages = re.search(
        r'cache_config_info\{.*num_gpu_blocks="(\d+)"', scrape).group(1)
    path = trace.with_name("scrape.txt")
    path.write_text(scrape)
    done = subprocess.run(
        [options.simulate, f"--trace={trace}",
         f"--arrival_scale={options.arrival_scale}",
         "--classes=" + ";".join(options.classes), f"--costs_from={path}",
         f"--kv_pages={pages}", f"--step_noise={options.step_noise}",
         "--json=-", *limit_flags(options)],
        check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def limit_flags(options):
    return [f"--config={options.config}"] if options.config else []


def times(outcome, name):
    found = outcome.get(name, {})
    return " / ".join(f"{float(found[key]):.3f}" if key in found else "-"
                      for key in ("p50_s", "p95_s", "p99_s"))


def compare(measured, simulated):
    """Prints both; the largest difference in points."""
    worst = 0
    by_name = {outcome["name"]: outcome for outcome in simulated["classes"]}
    rows = [(outcome["name"], outcome, by_name[outcome["name"]])
            for outcome in measured["classes"]]
    for name, real, model in rows + [("all", measured["all"],
                                      simulated["all"])]:
        real_share = 100 * float(real.get("attainment", 0))
        model_share = 100 * float(model["attainment"])
        points = model_share - real_share
        worst = max(worst, abs(points))
        print(f"{name}: attainment {real_share:.1f} % measured, "
              f"{model_share:.1f} % simulated, {points:+.1f} points")
        for times_name in ("time_to_first_token", "time_per_output_token"):
            print(f"  {times_name} p50 / p95 / p99 in s: "
                  f"{times(real, times_name)} measured, "
                  f"{times(model, times_name)} simulated")
    return worst


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--trace", required=True)
    parser.add_argument("--class", dest="classes", action="append",
                        required=True, help="as sparseserve load has it; with "
                        "keys that sparseserve-simulate has too")
    parser.add_argument("--arrival_scale", type=float, default=1)
    parser.add_argument("--calibration", type=int, default=60,
                        help="requests, from which the costs are learned")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--step_noise", type=float, default=0.05)
    parser.add_argument("--config", help="the server's config file")
    parser.add_argument("--server_binary",
                        default=BUILD / "server/sparseserve-server")
    parser.add_argument("--tool", default=BUILD / "client/sparseserve")
    parser.add_argument(
        "--simulate",
        default=BUILD / "server/simulation/sparseserve-simulate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        calibration, trace = split_trace(
            options.trace, options.calibration, options.requests, folder)
        server = Server(options.server_binary, options.model,
                        limit_flags(options))
        try:
            run_load(options, server, calibration, seed=1)
            scrape = server.metrics()
            measured = run_load(options, server, trace, seed=2)
        finally:
            server.stop()
        simulated = simulate(options, trace, scrape)
    for line in scrape.splitlines():
        if line.startswith("sparseserve_step_cost_seconds"):
            print(line)
    busy = simulated["replicas"][0]["busy"]
    print(f"simulated server busy {100 * busy:.1f} % of the time")
    worst = compare(measured, simulated)
    if worst > MOST_POINTS:
        sys.exit(f"{worst:.1f} points apart, more than {MOST_POINTS}")


if __name__ == "__main__":
    main()

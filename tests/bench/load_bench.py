#!/usr/bin/env python3
"""Measures the running server under load, each figure beside its bound.

  load_bench.py capacity    --model M.gguf --trace T.csv
      Requests/s that a closed loop over the trace's lengths gets.
  load_bench.py overload    --model M.gguf --trace T.csv [--capacity R]
      1.5 times the capacity for five minutes: waste, queue, refusals, memory.
  load_bench.py long_prompt --model M.gguf
      A prompt of 7,000 tokens among 8 running streams, and short prompts behind
      one, with chunks and without.
  load_bench.py classes     --model M.gguf --trace T.csv [--capacity R]
      Attainment of a class with a target beside one without, against the same
      requests in the order in which they came.
  load_bench.py preemption  --model M.gguf
      A pool of a fifth of the pages that all requests need.
  load_bench.py peer        --model M.gguf --trace T.csv --llama_cpp DIR/bin
      Goodput beside llama.cpp's server.

Exit status 1: a bound was not kept. Traces are CSV files with the columns
arrival_s,prompt_tokens,output_tokens; times are scaled, lengths never. A
capacity that was measured before can be given, so that runs are comparable.
Needs python3-grpcio, python3-protobuf and protoc.
"""

import argparse
import atexit
import csv
import http.client
import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc

import serving_bench

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE_TOKENS = 64


class Bounds:
    """Prints figures beside their bounds; remembers whether all were kept."""

    def __init__(self):
        self.kept = True

    def check(self, figure, text, kept):
        self.kept = self.kept and kept
        print(f"{'ok  ' if kept else 'MISS'} {figure}: {text}", flush=True)


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# The server and its metrics.


def kill_at_exit(process):
    """However this program ends, none of its servers goes on."""
    atexit.register(process.kill)


class Server(serving_bench.Server):
    def __init__(self, args, *flags):
        super().__init__(args, *flags)
        kill_at_exit(self.process)

    def metrics(self):
        """Sums of all series by name, and each series by its full name."""
        url = f"http://{self.metrics_address}/metrics"
        text = urllib.request.urlopen(url, timeout=30).read().decode()
        values = {}
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            series, _, value = line.rpartition(" ")
            for key in {series, series.partition("{")[0]}:
                values[key] = values.get(key, 0.0) + float(value)
        return values

    def await_idle(self):
        while True:
            now = self.metrics()
            if not (now["sparseserve_requests_running"] or
                    now["sparseserve_requests_waiting"]):
                return now
            time.sleep(0.2)


def gained(before, after, name, label=""):
    return sum(value - before.get(series, 0.0)
               for series, value in after.items()
               if series.startswith(name + "{") and label in series)


class Watch(threading.Thread):
    """Scrapes twice a second; keeps the largest values of two gauges."""

    def __init__(self, server):
        super().__init__()
        self.server, self.over = server, threading.Event()
        self.waiting = self.resident = 0.0
        self.start()

    def run(self):
        while not self.over.wait(0.5):
            now = self.server.metrics()
            self.waiting = max(self.waiting,
                               now["sparseserve_requests_waiting"])
            self.resident = max(self.resident,
                                now["process_resident_memory_bytes"])

    def stop(self):
        self.over.set()
        self.join()


# The load generator.


def run_load(args, server, *flags):
    """Runs `sparseserve load`; returns its report and a row per request."""
    with tempfile.TemporaryDirectory(prefix="load-bench-") as folder:
        report, rows = f"{folder}/report.json", f"{folder}/requests.csv"
        done = subprocess.run(
            [args.tool, "load", f"--server={server.address}", "--quiet",
             f"--seed={args.seed}", f"--json={report}", f"--csv={rows}",
             *flags], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"load failed:\n{done.stdout}")
        if args.verbose:
            print(done.stdout)
        return (json.loads(pathlib.Path(report).read_text()),
                list(csv.DictReader(open(rows))))


def read_trace(path):
    with open(path) as file:
        return [(float(row["arrival_s"]), int(row["prompt_tokens"]),
                 int(row["output_tokens"])) for row in csv.DictReader(file)]


def arrival_scale(trace, rate, seconds):
    """What to multiply arrivals by so that `rate` a second fill `seconds`."""
    count = round(rate * seconds)
    if not 1 < count < len(trace) or trace[count][0] <= trace[0][0]:
        raise SystemExit(f"the trace's {len(trace)} requests cannot be "
                         f"scaled to {count} in {seconds:.0f} s")
    return seconds / trace[count][0]


def measure_capacity(args, server):
    """Requests/s that end while a closed loop is full: from the first end to
    the last time that a request was sent. The trace's lengths in turn."""
    _, rows = run_load(args, server, f"--trace={args.trace}",
                       f"--concurrency={args.concurrency}",
                       f"--duration={args.capacity_seconds}s")
    ends = sorted(float(row["intended_s"]) + float(row["total_s"])
                  for row in rows if row["outcome"] == "finished")
    last_sent = max(float(row["sent_s"]) for row in rows)
    inside = [end for end in ends if end <= last_sent]
    if len(inside) < 5:
        raise SystemExit(f"only {len(inside)} requests ended while others were "
                         "sent: raise --capacity_seconds")
    return (len(inside) - 1) / (inside[-1] - inside[0])


def settled_capacity(args, server):
    """--capacity, after a shorter warm-up, or what is measured."""
    if args.capacity is None:
        capacity = measure_capacity(args, server)
    else:
        run_load(args, server, f"--trace={args.trace}",
                 f"--concurrency={args.concurrency}",
                 f"--requests={args.concurrency}")
        capacity = args.capacity
    print(f"     capacity: {capacity:.3f} requests/s in a closed loop of "
          f"{args.concurrency}", flush=True)
    return capacity


def capacity(args):
    server = Server(args)
    args.capacity = None
    settled_capacity(args, server)
    server.stop()
    return True


# Figures.


def overload(args):
    bounds = Bounds()
    server = Server(args, f"--max_queued_requests={args.queue}")
    rate = 1.5 * settled_capacity(args, server)
    # The start: every page of the pool was used once, and nothing runs.
    before = server.await_idle()
    for fill in range(1, 9):
        if gained({}, before, "sparseserve_kv_cache_pages",
                  'state="free"') == 0:
            break
        run_load(args, server, "--prompt_tokens=6000", "--output_tokens=1",
                 "--concurrency=2", "--requests=3", f"--seed={1000 + fill}")
        before = server.await_idle()
    scale = arrival_scale(read_trace(args.trace), rate, args.duration)
    watch = Watch(server)
    report, rows = run_load(
        args, server, f"--trace={args.trace}", f"--arrival_scale={scale}",
        f"--duration={args.duration}s",
        "--class=chat:share=0.5,ttft=10s,deadline=60s",
        "--class=batch:share=0.5,deadline=60s")
    after = server.await_idle()
    watch.stop()
    everything = report["all"]
    print(f"     {everything['requests']} requests at {rate:.3f}/s for "
          f"{args.duration:.0f} s: {everything['finished']} finished, "
          f"{everything['refused']} refused, {everything['expired']} expired, "
          f"{everything['failed']} failed")
    for reason in everything["reasons"]:
        print(f"     {reason['count']} {reason['outcome']}: "
              f"{reason['reason']}")
    bounds.check("failed requests", f"{everything['failed']} (0)",
                 int(everything["failed"]) == 0)
    bounds.check("queue", f"{watch.waiting:.0f} waited at most "
                 f"({args.queue})", watch.waiting <= args.queue)
    refused = [row for row in rows if row["outcome"] == "refused"]
    told = [row for row in refused if row["retry_delay_s"]]
    bounds.check("refusals", f"{len(told)} of {len(refused)} say when to try "
                 "again (all, above 0)",
                 0 < len(refused) == len(told))
    wasted = gained(before, after, "sparseserve_wasted_tokens_total",
                    'cause="cancelled"')
    computed = (gained(before, after, "sparseserve_prompt_tokens_total",
                       'source="computed"') +
                gained(before, after, "sparseserve_generation_tokens_total"))
    bounds.check("waste", f"{wasted:.0f} of {computed:.0f} tokens computed for "
                 f"what was cancelled or expired, "
                 f"{100 * wasted / computed:.2f} % (1 %)",
                 wasted <= 0.01 * computed)
    start, end = (values["process_resident_memory_bytes"]
                  for values in (before, after))
    bounds.check("memory", f"{start / 1e6:.1f} MB resident at the start, "
                 f"{watch.resident / 1e6:.1f} at most, {end / 1e6:.1f} at the "
                 f"end, {100 * (end / start - 1):+.2f} % (2 %)",
                 abs(end / start - 1) <= 0.02)
    server.stop()  # fails if it crashed
    return bounds.kept


def prompt_ids(seed, tokens):
    draw = random.Random(seed)
    return [draw.randrange(1000, 40000) for _ in range(tokens)]


def ids_request(pb, seed, prompt_tokens, output_tokens):
    return pb.StreamGenerateRequest(options=pb.GenerateOptions(
        token_ids=pb.TokenIds(ids=prompt_ids(seed, prompt_tokens)),
        sampling=pb.SamplingParams(temperature=0),
        stop=pb.StopConditions(max_output_tokens=output_tokens,
                               ignore_eos=True)))


def first_token_seconds(pb, server, request):
    with grpc.insecure_channel(server.address) as channel:
        begin = time.monotonic()
        stream = serving_bench.run_stream(pb, channel, request)
    if stream.error or not stream.times:
        raise SystemExit(f"a request failed: {stream.error}")
    return stream.times[0] - begin


def short_behind_long(args, pb, server, seed):
    """First-token times of short prompts that come while a long one is being
    computed; the first of them 0.2 s after it, one every 0.5 s."""
    times, threads = [], []
    long_one = threading.Thread(target=first_token_seconds, args=(
        pb, server, ids_request(pb, seed, args.long_tokens, 1)))
    long_one.start()
    time.sleep(0.2)
    while long_one.is_alive():
        request = ids_request(pb, seed + 1 + len(threads), 64, 1)
        threads.append(threading.Thread(target=lambda r=request: times.append(
            first_token_seconds(pb, server, r))))
        threads[-1].start()
        time.sleep(0.5)
    for thread in threads + [long_one]:
        thread.join()
    return times


def long_prompt_episode(args, pb, server):
    """Inter-token gaps of 8 streams without and with a long prompt among them,
    and the time to that prompt's first token, alone and among them."""
    seeds = iter(range(args.seed * 1000, args.seed * 1000 + 1000))
    first_token_seconds(pb, server, ids_request(pb, next(seeds), 512, 1))
    alone = first_token_seconds(
        pb, server, ids_request(pb, next(seeds), args.long_tokens, 1))
    without, among, beside = [], [], []
    for _ in range(args.repetitions):
        steady = serving_bench.SteadyStreams(
            pb, server.address,
            [ids_request(pb, next(seeds), 128, 4000) for _ in range(8)])
        begin = time.monotonic()
        time.sleep(args.window)
        sent = time.monotonic()
        among.append(first_token_seconds(
            pb, server, ids_request(pb, next(seeds), args.long_tokens, 1)))
        done = time.monotonic()
        time.sleep(0.5)
        if steady.stop():
            raise SystemExit("a steady stream failed")
        without += serving_bench.gaps(steady.streams, begin, sent)
        # A gap that holds the whole prompt begins before and ends after it.
        for stream in steady.streams:
            beside += [b - a for a, b in zip(stream.times, stream.times[1:])
                       if b >= sent and a <= done]
        server.await_idle()
    short = first_token_seconds(pb, server, ids_request(pb, next(seeds), 64, 1))
    behind = short_behind_long(args, pb, server, next(seeds) + 10000)
    return dict(without=without, beside=beside, alone=alone, among=among,
                short=short, behind=behind)


def long_prompt(args):
    pb = serving_bench.load_messages()
    bounds = Bounds()
    config = tempfile.NamedTemporaryFile("w", suffix=".textproto")
    config.write("scheduler { step_time_target { seconds: 60 } }\n")
    config.flush()
    off = ("--max_step_tokens=8192", f"--config={config.name}")
    for name, flags in (("in chunks", ()), ("chunking off", off)):
        print(f"     {name}: server starts", flush=True)
        server = Server(args, *flags)
        seen = long_prompt_episode(args, pb, server)
        server.stop()
        without = quantile(seen["without"], 0.99)
        beside = quantile(seen["beside"], 0.99)
        bound = max(2 * without, 0.150)
        text = (f"p99 between tokens of 8 streams {beside * 1e3:.1f} ms beside "
                f"a prompt of {args.long_tokens} tokens, {without * 1e3:.1f} "
                f"ms without ({len(seen['beside'])} and "
                f"{len(seen['without'])} gaps), max "
                f"{max(seen['beside']) * 1e3:.0f} ms")
        if flags:
            print(f"     {name}: {text}")
        else:
            bounds.check(name, f"{text} ({bound * 1e3:.0f} ms)",
                         beside <= bound)
        among = sum(seen["among"]) / len(seen["among"])
        print(f"     {name}: the prompt's first token after "
              f"{among:.2f} s, alone {seen['alone']:.2f} s, slowdown "
              f"{among / seen['alone']:.2f}")
        print(f"     {name}: first token of a prompt of 64 behind a long one, "
              f"{len(seen['behind'])} of them: median "
              f"{quantile(seen['behind'], 0.5) * 1e3:.0f} ms, max "
              f"{max(seen['behind']) * 1e3:.0f} ms; alone "
              f"{seen['short'] * 1e3:.0f} ms", flush=True)
    return bounds.kept


def classes(args):
    bounds = Bounds()
    trace = read_trace(args.trace)
    attained = {}
    for name, target in (("by target", f",ttft={args.ttft}s"),
                         ("first come", "")):
        server = Server(args)
        # Measured once: the other run warms up alike and uses the same rate.
        args.capacity = settled_capacity(args, server)
        server.await_idle()
        rate = 0.9 * args.capacity
        scale = arrival_scale(trace, rate, args.duration)
        report, rows = run_load(
            args, server, f"--trace={args.trace}", f"--arrival_scale={scale}",
            f"--duration={args.duration}s",
            f"--class=interactive:share=0.5{target}", "--class=batch:share=0.5")
        server.stop()
        # Judged here for both: without a target the tool judges nothing.
        interactive = [row for row in rows if row["class"] == "interactive"]
        met = [row for row in interactive if row["outcome"] == "finished" and
               float(row["time_to_first_token_s"]) <= args.ttft]
        attained[name] = 100 * len(met) / len(interactive)
        everything = report["all"]
        print(f"     {name}: {len(met)} of {len(interactive)} interactive "
              f"requests had their first token within {args.ttft:g} s; all: "
              f"{everything['finished']} of {everything['requests']} finished, "
              f"{everything['output_tokens_per_s']:.1f} tokens/s", flush=True)
    more = attained["by target"] - attained["first come"]
    bounds.check("attainment", f"{attained['by target']:.1f} % against "
                 f"{attained['first come']:.1f} % in order of arrival, "
                 f"{more:+.1f} points (20)", more >= 20)
    return bounds.kept


def preemption(args):
    bounds = Bounds()
    shape = (f"--requests={args.requests}", "--prompt_tokens=256",
             f"--output_tokens={args.output_tokens}")
    pages_each = -(-(256 + args.output_tokens) // PAGE_TOKENS)
    server = Server(args)
    values = server.metrics()
    config = next(series for series in values
                  if series.startswith("sparseserve_cache_config_info{"))
    pages = int(re.search('num_gpu_blocks="([0-9]+)"', config).group(1))
    page_bytes = gained({}, values, "sparseserve_memory_bytes",
                        'kind="kv"') / pages
    server.stop()
    pool = args.requests * pages_each // 5
    if pool < 8192 // PAGE_TOKENS:
        raise SystemExit(f"a fifth of what {args.requests} requests need is "
                         f"{pool} pages, less than one context: raise "
                         "--requests")
    server = Server(args, f"--kv_cache_bytes={round(pool * page_bytes)}",
                    f"--max_running_sequences={args.requests}")
    run_load(args, server, "--concurrency=2", "--requests=2",
             "--prompt_tokens=256", "--output_tokens=16")  # warm
    fits = pool // pages_each
    rates = {}
    for concurrency in (fits, args.requests):
        before = server.await_idle()
        report, _ = run_load(args, server, f"--concurrency={concurrency}",
                             *shape)
        after = server.await_idle()
        everything = report["all"]
        rates[concurrency] = everything["output_tokens_per_s"]
        stops = gained(before, after, "sparseserve_preemptions_total")
        wasted = gained(before, after, "sparseserve_wasted_tokens_total",
                        'cause="preempted"')
        print(f"     {concurrency} at once of {pages_each} pages each in "
              f"{pool}: {rates[concurrency]:.1f} tokens/s, {stops:.0f} stops, "
              f"{wasted:.0f} tokens computed again", flush=True)
        bounds.check("finished", f"{everything['finished']} of "
                     f"{args.requests} (all)",
                     int(everything["finished"]) == args.requests)
        if concurrency == fits:
            bounds.check("stops of the batch that fits", f"{stops:.0f} (0)",
                         stops == 0)
        else:
            bounds.check("stops of the storm", f"{stops:.0f} (above 0)",
                         stops > 0)
    ratio = rates[args.requests] / rates[fits]
    bounds.check("tokens/s", f"{ratio:.2f} of the largest batch that is never "
                 "stopped (0.5)", ratio >= 0.5)
    server.stop()
    return bounds.kept


# Beside llama.cpp: one schedule, one clock and one judge for both servers.


class Outcome:
    """Times since the start of the run of one request."""

    def __init__(self, intended):
        self.intended, self.times, self.tokens = intended, [], 0
        self.error = None

    def meets(self, args, wanted_tokens):
        """Since it was meant to be sent: a late sender hides no wait."""
        if self.error or self.tokens < wanted_tokens:
            return False
        between = (self.times[-1] - self.times[0]) / max(1, self.tokens - 1)
        return (self.times[0] - self.intended <= args.ttft and
                between <= args.tpot)


class OurCalls:
    def __init__(self, args):
        self.pb = serving_bench.load_messages()
        self.server = Server(args, f"--threads={args.threads}")
        self.channel = grpc.insecure_channel(self.server.address)
        self.call = self.channel.unary_stream(
            serving_bench.STREAM,
            request_serializer=(
                self.pb.StreamGenerateRequest.SerializeToString),
            response_deserializer=self.pb.StreamGenerateResponse.FromString)

    def prepare(self, ids, tokens):
        request = ids_request(self.pb, 0, 1, tokens)
        request.options.token_ids.ids[:] = ids
        return request

    def stream(self, request, outcome, clock):
        for message in self.call(request, timeout=600):
            if message.WhichOneof("event") == "output":
                outcome.times.append(clock())
                outcome.tokens += len(message.output.token_ids)

    def stop(self):
        self.channel.close()
        self.server.stop()


class LlamaCalls:
    """llama-server with a context of its own for each slot, so that it never
    runs out of cells; its cache of prompts is off, for no two begin alike."""

    def __init__(self, args):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [f"{args.llama_cpp}/llama-server", "-m", args.model, "-t",
             str(args.threads), "-tb", str(args.threads), "-np",
             str(args.slots), "-c", str(args.slots * 8192), "--host",
             "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kill_at_exit(self.process)
        deadline = time.monotonic() + 120
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("llama-server did not start")
            time.sleep(0.1)

    def healthy(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def prepare(self, ids, tokens):
        return json.dumps({
            "prompt": ids, "n_predict": tokens, "ignore_eos": True,
            "temperature": 0, "stream": True, "cache_prompt": False})

    def stream(self, request, outcome, clock):
        connection = http.client.HTTPConnection("127.0.0.1", self.port,
                                                timeout=600)
        connection.request("POST", "/completion", request,
                           {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"status {reply.status}")
        for line in reply:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[len(b"data: "):])
            if event.get("stop"):
                # Pieces may hold several tokens; the end counts them.
                outcome.tokens = event["tokens_predicted"]
                break
            outcome.times.append(clock())
        connection.close()

    def stop(self):
        self.process.terminate()
        self.process.wait()


def run_schedule(calls, schedule):
    """Sends each request at its time, however many run; waits for all."""
    outcomes, threads = [], []
    prepared = [calls.prepare(prompt_ids(i, prompt), output)
                for i, (_, prompt, output) in enumerate(schedule)]
    start = time.monotonic()

    def clock():
        return time.monotonic() - start

    def send(request, outcome):
        try:
            calls.stream(request, outcome, clock)
        except (grpc.RpcError, OSError, RuntimeError, ValueError,
                http.client.HTTPException) as error:
            outcome.error = error

    for request, (intended, _, _) in zip(prepared, schedule):
        time.sleep(max(0, intended - clock()))
        outcomes.append(Outcome(intended))
        threads.append(threading.Thread(target=send,
                                        args=(request, outcomes[-1])))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return outcomes, clock()


def peer(args):
    bounds = Bounds()
    trace = read_trace(args.trace)
    best = {}
    if args.capacity is None:
        server = Server(args, f"--threads={args.threads}")
        settled = settled_capacity(args, server)
        server.stop()
    else:
        settled = args.capacity
    for name, make in (("sparseserve", OurCalls), ("llama.cpp", LlamaCalls)):
        calls = make(args)
        run_schedule(calls, [(0.0, 512, 8)])  # warm
        for load in [float(part) for part in args.loads.split(",")]:
            rate = load * settled
            scale = arrival_scale(trace, rate, args.duration)
            schedule = [(arrival * scale, prompt, output)
                        for arrival, prompt, output in
                        trace[:round(rate * args.duration)]]
            outcomes, seconds = run_schedule(calls, schedule)
            met = sum(outcome.meets(args, output) for outcome, (_, _, output)
                      in zip(outcomes, schedule))
            # While requests come and until the last of them is done.
            goodput = met / max(seconds, args.duration)
            best[name] = max(best.get(name, 0), goodput)
            started = [o.times[0] - o.intended for o in outcomes if o.times]
            failed = sum(o.error is not None for o in outcomes)
            print(f"     {name} at {rate:.3f} requests/s: {met} of "
                  f"{len(outcomes)} met {args.ttft:g} s to the first token and "
                  f"{args.tpot * 1e3:.0f} ms a token, goodput {goodput:.4f}/s; "
                  f"{failed} failed, median first token "
                  f"{quantile(started, 0.5) if started else -1:.2f} s, "
                  f"{seconds:.0f} s in all", flush=True)
        calls.stop()
    if best["llama.cpp"] == 0:
        bounds.check("goodput", f"{best['sparseserve']:.4f}/s against none "
                     "(1.5 times)", best["sparseserve"] > 0)
    else:
        ratio = best["sparseserve"] / best["llama.cpp"]
        bounds.check("goodput", f"best of the loads {best['sparseserve']:.4f}/s"
                     f" against {best['llama.cpp']:.4f}/s, {ratio:.2f} (1.5)",
                     ratio >= 1.5)
    return bounds.kept


def add_command(commands, function, duration=None, trace=True):
    command = commands.add_parser(function.__name__)
    command.set_defaults(function=function)
    command.add_argument("--model", required=True)
    command.add_argument("--server_binary", default=ROOT /
                         "build/release/server/sparseserve-server")
    command.add_argument("--tool",
                         default=ROOT / "build/release/client/sparseserve")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--verbose", action="store_true",
                         help="print the load generator's reports too")
    if trace:
        command.add_argument("--trace", required=True)
        command.add_argument("--capacity", type=float,
                             help="requests/s, measured before")
        command.add_argument("--capacity_seconds", type=float, default=60)
        command.add_argument("--concurrency", type=int, default=16,
                             help="of the closed loop that measures capacity")
    if duration is not None:
        command.add_argument("--duration", type=float, default=duration,
                             help="seconds in which requests are sent")
    return command


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add_command(commands, capacity)
    command = add_command(commands, overload, duration=300)
    command.add_argument("--queue", type=int, default=16,
                         help="requests that may wait")
    command = add_command(commands, long_prompt, trace=False)
    command.add_argument("--long_tokens", type=int, default=7000)
    command.add_argument("--window", type=float, default=10,
                         help="seconds that streams run before the prompt")
    command.add_argument("--repetitions", type=int, default=2)
    command = add_command(commands, classes, duration=120)
    command.add_argument("--ttft", type=float, default=1.5,
                         help="target of the interactive class in seconds")
    command = add_command(commands, preemption, trace=False)
    command.add_argument("--requests", type=int, default=56)
    command.add_argument("--output_tokens", type=int, default=512)
    command = add_command(commands, peer, duration=50)
    command.add_argument("--llama_cpp", required=True,
                         help="folder with llama-server")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--slots", type=int, default=8,
                         help="of llama-server")
    command.add_argument("--loads", default="0.4,0.8",
                         help="of our capacity; each server's best counts")
    command.add_argument("--ttft", type=float, default=5)
    command.add_argument("--tpot", type=float, default=0.2)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(0 if args.function(args) else 1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures the running server as its callers see it.

  serving_bench.py concurrency --server_binary build/release/server/sparseserve-server --model M.gguf
      Sixteen streams at once against the same sixteen one after the other:
      ratio of total tokens/s, and where their outputs first differ.
  serving_bench.py disturbance --server_binary ... --model ...
      A client is stopped, one killed, one misses its deadline: when their pages
      come back, and what the other streams notice, against episodes in which
      that client goes on. About two minutes.
  serving_bench.py prefix --server_binary ... --model ...
      Requests with one system prompt, each in turn with a request of the same
      text that shares nothing: ratio of their times to first token. About four
      minutes.

Every figure is a ratio against a run of the same server in the same minutes.
Needs python3-grpcio, python3-protobuf and protoc.
"""

import argparse
import importlib
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
STREAM = "/sparseserve.v1.InferenceService/StreamGenerate"

PROMPTS = [
    "Write a short story about a lighthouse keeper and a storm.",
    "Explain how a bicycle stays upright.",
    "List five uses for a paper clip and say why each works.",
    "What is the difference between weather and climate?",
    "Describe the taste of an orange to someone who never had one.",
    "Give advice to a new gardener in a dry region.",
    "How do bees find their way home?",
    "Summarise the plot of a detective novel set in Venice.",
    "Why is the sky blue and the sunset red?",
    "Write a letter of thanks to a teacher.",
    "How would you plan a week of simple dinners?",
    "Explain recursion with an example from daily life.",
    "What makes a bridge strong?",
    "Tell a fable about a fox and a clock.",
    "How does a vaccine teach the body?",
    "Describe a market street early in the morning.",
]


def load_messages():
    """The generated message module, from the protos of this checkout."""
    out = tempfile.mkdtemp(prefix="sparseserve-stubs-")
    subprocess.run(
        ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
         "sparseserve/v1/attention_pattern.proto",
         "sparseserve/v1/attention_profile.proto",
         "sparseserve/v1/inference_service.proto"],
        check=True)
    sys.path.insert(0, out)
    return importlib.import_module("sparseserve.v1.inference_service_pb2")


class Server:
    """The real server as a child process on free ports."""

    def __init__(self, args, *flags):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        self.process = subprocess.Popen(
            [args.server_binary, f"--model={args.model}",
             "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", *flags],
            stderr=self.log, stdout=self.log)
        deadline = time.monotonic() + 120
        while True:
            text = open(self.log.name).read()
            found = re.search(r"grpc=(\S+:\d+) metrics=(\S+:\d+)", text)
            if found:
                self.address, self.metrics_address = found.groups()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{text}")
            time.sleep(0.05)

    def scrape(self):
        """Used pages, steps run and requests cancelled by cause, at once."""
        url = f"http://{self.metrics_address}/metrics"
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        values = {"cancelled": {}, "steps": 0.0}
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("sparseserve_kv_cache_pages{"):
                if 'tier="device"' in name and 'state="used"' in name:
                    values["pages"] = float(value)
            elif name.startswith("sparseserve_requests_cancelled_total{"):
                cause = re.search('cause="([a-z_]+)"', name).group(1)
                total = values["cancelled"].get(cause, 0.0)
                values["cancelled"][cause] = total + float(value)
            elif name.startswith("sparseserve_engine_step_seconds_count{"):
                values["steps"] += float(value)
        return values

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(timeout=60) != 0:
            raise SystemExit("the server did not exit cleanly:\n" +
                             open(self.log.name).read()[-2000:])


class Stream:
    """What one generation yielded: ids, margins and arrival times."""

    def __init__(self):
        self.ids, self.margins, self.times = [], [], []
        self.error = None


def request_for(pb, prompt, max_tokens, top_k=0, logprobs=True,
                ignore_eos=True):
    options = pb.GenerateOptions(
        chat=pb.ChatMessages(
            messages=[pb.ChatMessage(role="user", content=prompt)]),
        sampling=pb.SamplingParams(temperature=0),
        stop=pb.StopConditions(max_output_tokens=max_tokens,
                               ignore_eos=ignore_eos))
    if logprobs:
        options.logprobs.CopyFrom(pb.LogprobOptions(top_k=max(top_k, 2)))
    return pb.StreamGenerateRequest(options=options)


def run_stream(pb, channel, request, timeout=600):
    stream = Stream()
    call = channel.unary_stream(
        STREAM,
        request_serializer=pb.StreamGenerateRequest.SerializeToString,
        response_deserializer=pb.StreamGenerateResponse.FromString)(
            request, timeout=timeout)
    try:
        for message in call:
            now = time.monotonic()
            if message.WhichOneof("event") != "output":
                continue
            for token in message.output.token_ids:
                stream.ids.append(token)
                stream.times.append(now)
            for entry in message.output.logprobs:
                best = [a.logprob for a in entry.alternatives]
                stream.margins.append(best[0] - best[1])
    except grpc.RpcError as error:
        stream.error = error
    return stream


def run_together(pb, address, requests):
    """All requests at once, a thread each; returns streams and seconds."""
    with grpc.insecure_channel(address) as channel:
        streams = [None] * len(requests)

        def run(i):
            streams[i] = run_stream(pb, channel, requests[i])

        threads = [threading.Thread(target=run, args=(i,))
                   for i in range(len(requests))]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return streams, time.monotonic() - start


def concurrency(args):
    pb = load_messages()
    for dtype in args.compute_dtypes.split(","):
        server = Server(args, f"--compute_dtype={dtype}")
        requests = [request_for(pb, prompt, args.tokens) for prompt in PROMPTS]
        run_together(pb, server.address, requests[:1])  # warm
        alone, alone_s = [], 0.0
        for request in requests:
            streams, seconds = run_together(pb, server.address, [request])
            alone += streams
            alone_s += seconds
        together, together_s = run_together(pb, server.address, requests)
        server.stop()
        for stream in alone + together:
            if stream.error or len(stream.ids) != args.tokens:
                raise SystemExit(f"a stream failed: {stream.error}")
        differences = []
        for one, many in zip(alone, together):
            first = next((i for i, (a, b) in enumerate(zip(one.ids, many.ids))
                          if a != b), None)
            if first is not None:
                differences.append(one.margins[first])
        tokens = len(requests) * args.tokens
        print(f"compute_dtype={dtype}: {len(requests)} streams x "
              f"{args.tokens} tokens: one after the other "
              f"{tokens / alone_s:.1f} tokens/s, together "
              f"{tokens / together_s:.1f} tokens/s, "
              f"ratio {alone_s / together_s:.2f}")
        print(f"compute_dtype={dtype}: {len(requests) - len(differences)} of "
              f"{len(requests)} streams equal their run alone; top-2 margin at "
              "each first difference: "
              f"{[round(m, 4) for m in differences] or 'none differ'}")


def victim(args):
    """A client process of its own, to be stopped or killed. Starts when told,
    prints a line at its first token and one at its end."""
    pb = load_messages()
    with grpc.insecure_channel(args.address) as channel:
        # Connects only then: an idle channel of this library does not answer
        # keepalive pings.
        print("ready", flush=True)
        sys.stdin.readline()
        request = request_for(pb, PROMPTS[args.index], args.tokens, top_k=20)
        call = channel.unary_stream(
            STREAM,
            request_serializer=pb.StreamGenerateRequest.SerializeToString,
            response_deserializer=pb.StreamGenerateResponse.FromString)(
                request, timeout=args.timeout)
        try:
            for i, _ in enumerate(call):
                if i == 0:
                    print("first token", flush=True)
            print("OK", flush=True)
        except grpc.RpcError as error:
            print(error.code().name, flush=True)


class Victim:
    def __init__(self, address, index, tokens, timeout):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "victim", f"--address={address}",
             f"--index={index}", f"--tokens={tokens}", f"--timeout={timeout}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().strip()
        if line != "first token":
            raise SystemExit(f"a client that should run says: {line}")


def gaps(streams, begin, end):
    """Inter-token gaps that lie in [begin, end], of all streams."""
    result = []
    for stream in streams:
        for a, b in zip(stream.times, stream.times[1:]):
            if begin <= a and b <= end:
                result.append(b - a)
    return result


def wait_cancelled(server, before, timeout):
    """Scrapes until one more request was cancelled. Returns the scrape that
    shows it, the last one that does not, and the cause."""
    end = time.monotonic() + timeout
    last = before
    while time.monotonic() < end:
        now = server.scrape()
        for cause, count in now["cancelled"].items():
            if count > before["cancelled"][cause]:
                return now, last, cause
        last = now
        time.sleep(0.01)  # about a step
    raise SystemExit(f"no request was cancelled in {timeout} s")


class SteadyStreams:
    """Streams that run until told to stop, each on a channel of its own."""

    def __init__(self, pb, address, requests):
        self.pb, self.address = pb, address
        self.streams = [Stream() for _ in requests]
        self.left = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=pair)
                        for pair in zip(self.streams, requests)]
        for thread in self.threads:
            thread.start()
        while not all(stream.times or stream.error for stream in self.streams):
            time.sleep(0.01)

    def run(self, stream, request):
        with grpc.insecure_channel(self.address) as channel:
            call = channel.unary_stream(
                STREAM,
                request_serializer=(
                    self.pb.StreamGenerateRequest.SerializeToString),
                response_deserializer=(
                    self.pb.StreamGenerateResponse.FromString))(
                        request, timeout=600)
            try:
                for message in call:
                    now = time.monotonic()
                    for token in message.output.token_ids:
                        stream.ids.append(token)
                        stream.times.append(now)
                    if self.left.is_set():
                        call.cancel()
                        return
                if not self.left.is_set():
                    raise SystemExit("a steady stream ended: raise --tokens")
            except grpc.RpcError as error:
                stream.error = error

    def stop(self):
        self.left.set()
        for thread in self.threads:
            thread.join()
        return sum(stream.error is not None for stream in self.streams)


def idle_pages(server):
    deadline = time.monotonic() + 10
    while server.scrape()["pages"] > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    return server.scrape()["pages"]


# How a victim ends -> its own timeout and how long the others are watched from
# then on, in seconds. The silence of a stopped one is noticed after four.
ENDINGS = {"SIGKILL": (600, 2.0), "deadline": (None, 2.0),
           "SIGSTOP": (600, 6.0)}


def episode(args, pb, server, name, disturbed):
    """Four steady streams and a client beside them, which after `args.window`
    seconds ends as `name` says, or, if not `disturbed`, goes on. Returns the
    streams' inter-token gaps from then on and how many of them failed."""
    timeout, watched = ENDINGS[name]
    if not disturbed:
        timeout = 600
    other = Victim(server.address, 5, args.tokens, timeout or args.window)
    steady = SteadyStreams(
        pb, server.address,
        [request_for(pb, prompt, args.tokens, logprobs=False)
         for prompt in PROMPTS[:4]])
    steady_pages = server.scrape()["pages"]
    other.go()
    began = time.monotonic()
    # The deadline counts from before the first token, so it is over by then.
    time.sleep(args.window - (0.5 if name == "deadline" else 0))
    before = server.scrape()
    begin = time.monotonic()
    if disturbed:
        if name != "deadline":
            other.process.send_signal(getattr(signal, name))
        after, last, cause = wait_cancelled(server, before, 60)
        print(f"{name} (cause \"{cause}\"): pages in use "
              f"{last['pages']:.0f} before, {after['pages']:.0f} after (the "
              f"steady streams hold {steady_pages:.0f}); back "
              f"{(time.monotonic() - begin) * 1e3:.0f} ms after the "
              f"{'signal' if name != 'deadline' else 'watch began'}, "
              f"{after['steps'] - last['steps']:.0f} steps between the two "
              "looks", flush=True)
    end = began + args.window + watched
    time.sleep(max(0, end - time.monotonic()))
    failed = steady.stop()
    other.process.kill()
    other.process.wait()
    if idle_pages(server) > 0:
        raise SystemExit("pages are in use at idle")
    return gaps(steady.streams, begin, end), failed


def disturbance(args):
    pb = load_messages()
    config = tempfile.NamedTemporaryFile("w", suffix=".textproto")
    # A stopped client's kernel and transport take megabytes before a write
    # waits, so it is its silence that ends the stream.
    config.write("connection { keepalive_time { seconds: 2 } "
                 "keepalive_timeout { seconds: 2 } }\n")
    config.flush()
    server = Server(args, f"--config={config.name}")
    episode(args, pb, server, "SIGKILL", False)  # warm
    # A step takes longer as streams grow, so what a client's end costs the
    # others is told against streams of the same lengths whose neighbour
    # behaves; the two kinds of episode take turns.
    report, failed = [], 0
    for name in ENDINGS:
        undisturbed, disturbed = [], []
        for _ in range(args.repetitions):
            for pool, flag in ((undisturbed, False), (disturbed, True)):
                found, failures = episode(args, pb, server, name, flag)
                pool += found
                failed += failures
        for label, pick in (
                ("median", statistics.median),
                ("p95", lambda g: sorted(g)[int(0.95 * len(g))]),
                ("p99", lambda g: sorted(g)[int(0.99 * len(g))]),
                ("mean", statistics.mean)):
            report.append(
                f"{name}: steady streams' inter-token latency, {label}: "
                f"{pick(disturbed) * 1e3:.2f} ms, beside a client that goes on "
                f"{pick(undisturbed) * 1e3:.2f} ms, ratio "
                f"{pick(disturbed) / pick(undisturbed):.3f} "
                f"({len(disturbed)} gaps)")
    print("\n".join(report))
    print(f"failed steady streams: {failed}; pages in use at idle: "
          f"{idle_pages(server):.0f}")
    server.stop()


def system_prompt(tokens):
    """Prose of about so many tokens, four bytes and a half each."""
    path = ROOT / "tests/golden/logits/prose/jargon_culture.txt"
    return path.read_text()[:tokens * 9 // 2]


def time_to_first_token(pb, channel, request):
    """Seconds, the text and the report."""
    begin = time.monotonic()
    first, text, report = None, "", None
    for message in channel.unary_stream(
            STREAM,
            request_serializer=pb.StreamGenerateRequest.SerializeToString,
            response_deserializer=pb.StreamGenerateResponse.FromString)(
                request, timeout=600):
        if message.WhichOneof("event") == "output":
            first = first or time.monotonic() - begin
            text += message.output.text
        elif message.WhichOneof("event") == "report":
            report = message.report
    return first, text, report


def prefix(args):
    pb = load_messages()
    server = Server(args)
    system = system_prompt(args.prompt_tokens)
    times = {"miss": [], "hit": []}
    cached, prompts, differ = [], [], 0
    with grpc.insecure_channel(server.address) as channel:
        for i in range(args.requests + 1):
            texts = {}
            for kind, salt in (("miss", f"alone {i}"), ("hit", "shared")):
                request = request_for(
                    pb, f"{PROMPTS[i % len(PROMPTS)]} ({i})", args.tokens)
                request.options.cache_salt = salt
                request.options.chat.messages.insert(
                    0, pb.ChatMessage(role="system", content=system))
                seconds, texts[kind], report = time_to_first_token(
                    pb, channel, request)
                if i == 0:  # the first to share computes it
                    continue
                times[kind].append(seconds)
                if kind == "hit":
                    cached.append(report.usage.cached_prompt_tokens)
                    prompts.append(report.usage.prompt_tokens)
                elif report.usage.cached_prompt_tokens > 0:
                    raise SystemExit("a request alone found pages")
            differ += texts["miss"] != texts["hit"]
    server.stop()
    for kind, seconds in times.items():
        print(f"{kind}: median {statistics.median(seconds) * 1e3:.1f} ms, p95 "
              f"{sorted(seconds)[int(0.95 * len(seconds))] * 1e3:.1f} ms to "
              f"the first token, {len(seconds)} requests")
    print(f"cached {min(cached)} to {max(cached)} of {min(prompts)} to "
          f"{max(prompts)} prompt tokens; {differ} of {args.requests + 1} "
          f"pairs of {args.tokens} tokens differ")
    ratio = statistics.median(times["hit"]) / statistics.median(times["miss"])
    print(f"time to first token, hit / miss: {ratio:.3f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("concurrency", concurrency),
                           ("disturbance", disturbance),
                           ("prefix", prefix)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument(
            "--server_binary",
            default=ROOT / "build/release/server/sparseserve-server")
        command.add_argument("--model", required=True)
        command.add_argument("--tokens", type=int,
                             default={"concurrency": 64, "prefix": 8}.get(
                                 name, 4000))
        command.add_argument("--compute_dtypes", default="f32,auto",
                             help="comma-separated, for concurrency")
        command.add_argument("--window", type=float, default=2.0,
                             help="seconds that a victim behaves first")
        command.add_argument("--repetitions", type=int, default=3,
                             help="episodes of each kind, for disturbance")
        command.add_argument("--requests", type=int, default=50,
                             help="that share a system prompt, for prefix")
        command.add_argument("--prompt_tokens", type=int, default=2048,
                             help="of the system prompt, for prefix")
    command = commands.add_parser("victim")
    command.set_defaults(function=victim)
    command.add_argument("--address", required=True)
    command.add_argument("--index", type=int, required=True)
    command.add_argument("--tokens", type=int, required=True)
    command.add_argument("--timeout", type=float, required=True)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()

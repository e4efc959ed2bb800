#!/usr/bin/env python3
"""Streams a generated text, using stubs made from the .proto files.

    python3 generate.py --max_tokens=60 "Why is the sky blue?"

README.md, next to this file, shows how to make the stubs and where to put them.
"""

import argparse
import asyncio
import pathlib
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2
from sparseserve.v1 import inference_service_pb2 as pb
from sparseserve.v1 import inference_service_pb2_grpc as pb_grpc

# Retries, health checks and spreading over replicas, as published.
SERVICE_CONFIG = pathlib.Path(__file__).resolve().parents[1] / "service_config.json"


async def generate(stub, options, timeout):
    """Prints the text as it arrives; returns the report."""
    report = None
    request = pb.StreamGenerateRequest(options=options)
    async for message in stub.StreamGenerate(request, timeout=timeout):
        if message.WhichOneof("event") == "output":
            print(message.output.text, end="", flush=True)
        elif message.WhichOneof("event") == "report":
            report = message.report
    print()
    return report


def describe(error):
    """An error of a call with the details that the server gave."""
    lines = [f"{error.code().name}: {error.details()}"]
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            bad_request = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                lines.append(f"  reason: {info.reason}")
            elif detail.Unpack(bad_request):
                lines += [f"  {violation.field}: {violation.description}"
                          for violation in bad_request.field_violations]
            elif detail.Unpack(retry):
                delay = retry.retry_delay.ToTimedelta().total_seconds()
                lines.append(f"  retry after: {delay} s")
    return "\n".join(lines)


async def main(args):
    options = pb.GenerateOptions(
        chat=pb.ChatMessages(
            messages=[pb.ChatMessage(role="user", content=args.prompt)]),
        sampling=pb.SamplingParams(temperature=args.temperature,
                                   top_p=args.top_p),
        stop=pb.StopConditions(max_output_tokens=args.max_tokens))
    channel_options = [("grpc.service_config", SERVICE_CONFIG.read_text())]
    async with grpc.aio.insecure_channel(args.server,
                                         channel_options) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        try:
            report = await generate(stub, options, args.timeout)
        except grpc.aio.AioRpcError as error:
            print(describe(error), file=sys.stderr)
            return 1
    patterns = ", ".join(
        share.pattern for share in report.attention.patterns)
    first = report.timings.time_to_first_token.ToTimedelta().total_seconds()
    print(f"{report.usage.output_tokens} tokens by {report.model}, "
          f"the first after {first * 1e3:.0f} ms, "
          f"attention {patterns}, density "
          f"{report.attention.prefill_density:.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--server", default="localhost:9000")
    parser.add_argument("--max_tokens", type=int, default=60)
    parser.add_argument("--temperature", type=float, default=1)
    parser.add_argument("--top_p", type=float, default=1)
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    try:
        sys.exit(asyncio.run(main(parser.parse_args())))
    except KeyboardInterrupt:
        # Leaving the loop cancelled the call, and the server stopped working.
        sys.exit(130)

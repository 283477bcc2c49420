"""Sends a prompt to a running server over gRPC and prints the answer as it arrives.

    python examples/grpc_client.py "A short story, please: Kai and Max, the castle, a key."

Needs grpcio, protobuf and the generated code in protos/ (or your own, made from protos/adasd/v1/generation.proto).
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import grpc
from google.rpc import error_details_pb2, status_pb2

from protos.adasd.v1 import generation_pb2 as pb
from protos.adasd.v1.generation_pb2_grpc import GenerationStub

# While a server is replaced, a call can reach it when it no longer accepts any (UNAVAILABLE, or CANCELLED from some
# versions of gRPC). gRPC retries such calls by itself, but never one that a server has accepted.
RETRIES = {
    "name": [{"service": "adasd.v1.Generation"}],
    "retryPolicy": {
        "maxAttempts": 5,
        "initialBackoff": "0.25s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    },
}
# A server whose machine or network is gone is noticed after 20 s.
KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
]
OPTIONS = [("grpc.service_config", json.dumps({"methodConfig": [RETRIES]})), *KEEPALIVE]


def ask(stub: GenerationStub, question: str, metadata: list[tuple[str, str]]) -> pb.Complete:
    """Print the answer, one chunk per verify step; the returned Complete reports on speculation."""
    request = pb.GenerateRequest(
        chat=pb.ChatMessages(messages=[pb.ChatMessage(role="user", content=question)]),
        sampling=pb.SamplingParams(max_tokens=120, temperature=0.0),
        speculation=pb.SpeculationOptions(mode="exact"),
    )
    for event in stub.Generate(request, timeout=120, metadata=metadata):
        if event.HasField("chunk"):
            print(event.chunk.text, end="", flush=True)
        else:
            print()
            return event.complete
    raise RuntimeError("the stream ended without `complete`")


def wait_s(error: grpc.RpcError) -> float | None:
    """Seconds to wait before a retry, as the server says; None if it does not."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    info = error_details_pb2.RetryInfo()
    if details and any(one.Unpack(info) for one in status_pb2.Status.FromString(details).details):
        return info.retry_delay.ToMilliseconds() / 1e3
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("question")
    parser.add_argument("--address", default="127.0.0.1:9000")
    parser.add_argument("--api-key")
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args(arguments)
    metadata = [("authorization", f"Bearer {options.api_key}")] if options.api_key else []
    with grpc.insecure_channel(options.address, OPTIONS) as channel:
        stub = GenerationStub(channel)
        for left in reversed(range(options.tries)):
            try:
                end = ask(stub, options.question, metadata)
            except grpc.RpcError as error:
                delay_s = wait_s(error)
                if delay_s is None or not left:
                    print(f"{error.code().name}: {error.details()}", file=sys.stderr)
                    return 1
                time.sleep(delay_s)
            else:
                spec = end.speculation
                print(f"{spec.num_accepted_tokens} of {spec.num_draft_tokens} drafted tokens accepted")
                return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())

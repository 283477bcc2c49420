"""One trace through the whole service, from the caller's span through HTTP or gRPC to the workers."""

from __future__ import annotations

import secrets
from itertools import pairwise
from typing import ClassVar

import grpc
import httpx
import pytest

from load_tests.latency.span_collector import Collector, Span
from protos.adasd.v1 import generation_pb2 as pb
from tests.clients.conftest import MODEL
from tests.e2e.server import Server, ask, body, events, wait_for

pytestmark = [pytest.mark.clients, pytest.mark.cluster]


class Caller:
    """The caller's own span, sampled or not."""

    sampled: ClassVar[set[str]] = set()  # traces of all callers so far with recorded requests

    def __init__(self, sampled: bool = True) -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        if sampled:
            self.sampled.add(self.trace_id)
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{'01' if sampled else '00'}"


def whole_trace(collector: Collector, caller: Caller) -> dict[str, list[Span]]:
    """Spans of the caller's trace by name, once both workers and the answer have reported."""

    def has_arrived() -> bool:
        names = {span.name for span in collector.of_trace(caller.trace_id)}
        return {"adasd.target.verify", "adasd.draft.draft", "adasd.round"} <= names and any(
            MODEL in name for name in names
        )

    wait_for(has_arrived, 60.0)
    by_name: dict[str, list[Span]] = {}
    for span in collector.of_trace(caller.trace_id):
        by_name.setdefault(span.name, []).append(span)
    return by_name


def test_an_answer_is_a_span_of_the_callers_trace_with_its_rounds_and_both_workers_below(
    client: httpx.Client, collector: Collector
):
    caller = Caller()
    asked = body(max_tokens=40, ignore_eos=True, seed=3, temperature=0.5, speculation={"mode": "exact"})
    response = client.post("/v1/chat/completions", json=asked, headers={"traceparent": caller.traceparent})
    answer = response.json()
    spans = whole_trace(collector, caller)
    (span,) = spans.pop(f"chat {MODEL}")
    assert span.parent_id == caller.span_id
    assert span.resource["service.name"] == "adasd-serve"
    said = span.attributes
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "adasd",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 40,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 40,
        "adasd.mode": "exact",
    }
    assert {name: said.get(name) for name in expected} == expected
    assert 0 < said["gen_ai.response.time_to_first_chunk"] < (span.end_ns - span.start_ns) / 1e9
    assert all(child.parent_id == span.span_id for children in spans.values() for child in children)
    num_rounds = answer["metrics"]["adasd"]["num_rounds"]
    assert len(spans["adasd.round"]) == num_rounds
    rounds = sorted(spans["adasd.prefill"] + spans["adasd.round"], key=lambda one: one.start_ns)
    assert all(earlier.end_ns <= later.start_ns for earlier, later in pairwise(rounds))
    assert sum(one.attributes["adasd.num_drafted"] for one in rounds) == said["adasd.num_draft_tokens"]
    assert sum(one.attributes["adasd.num_accepted"] for one in rounds) == said["adasd.num_accepted_tokens"]
    assert {one.resource["adasd.role"] for one in spans["adasd.target.verify"]} == {"target"}
    assert {one.resource["adasd.role"] for one in spans["adasd.draft.draft"]} == {"draft"}


def test_a_stream_and_the_grpc_door_are_traced_too(
    server: Server, client: httpx.Client, collector: Collector
):
    over_http, over_grpc = Caller(), Caller()
    headers = {"traceparent": over_http.traceparent}
    asked = body(max_tokens=24, ignore_eos=True, stream=True)
    with client.stream("POST", "/v1/chat/completions", json=asked, headers=headers) as response:
        assert list(events(response))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        generate = channel.unary_stream(
            "/adasd.v1.Generation/Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateResponse.FromString,
        )
        request = pb.GenerateRequest(text="Tell a story.", sampling={"max_tokens": 24, "ignore_eos": True})
        assert list(generate(request, metadata=(("traceparent", over_grpc.traceparent),), timeout=30))
    for caller, name in ((over_http, f"chat {MODEL}"), (over_grpc, f"text_completion {MODEL}")):
        (span,) = whole_trace(collector, caller)[name]
        assert span.parent_id == caller.span_id
        assert span.attributes["gen_ai.usage.output_tokens"] == 24


def test_a_client_that_leaves_ends_its_span(client: httpx.Client, collector: Collector):
    caller = Caller()
    asked = body(max_tokens=1500, ignore_eos=True, stream=True)
    headers = {"traceparent": caller.traceparent}
    with client.stream("POST", "/v1/chat/completions", json=asked, headers=headers) as response:
        next(events(response))
    wait_for(lambda: any(MODEL in span.name for span in collector.of_trace(caller.trace_id)), 60.0)
    (span,) = [span for span in collector.of_trace(caller.trace_id) if MODEL in span.name]
    assert span.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]


def test_who_is_not_traced_leaves_no_span(client: httpx.Client, collector: Collector):
    """The sampling rate is 0: a request without a trace is not recorded, nor one whose caller did not sample it."""
    num_before = len(collector.spans)
    ask(client, max_tokens=4)
    client.post(
        "/v1/chat/completions", json=body(max_tokens=4), headers={"traceparent": Caller(False).traceparent}
    )
    client.post("/v1/chat/completions", json=body(max_tokens=4), headers={"traceparent": "00-zz-zz-01"})
    traced = Caller()
    client.post("/v1/chat/completions", json=body(max_tokens=24), headers={"traceparent": traced.traceparent})
    whole_trace(collector, traced)  # so the earlier spans have arrived, too
    assert {span.trace_id for span in collector.spans[num_before:]} <= Caller.sampled

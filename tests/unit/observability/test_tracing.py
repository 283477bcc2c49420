"""Spans of answers that fail, are cancelled or overlap; tests/clients/test_traces.py covers the whole service."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from adasd.errors import Overloaded, UnknownSession
from adasd.requests import Mode
from adasd.results import Chunk, EmittedToken, TokenKind
from adasd.rounds import OpenCall, RoundCompleted, SamplingTransform, Verdict, VerifyCall
from services.observability.service_events import ChunkMade, RequestEnded, RequestStarted
from services.observability.tracing import CallTraces, RequestTraces


@pytest.fixture
def exported():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exported):
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exported))
    yield made
    made.shutdown()


def test_two_answers_at_once_keep_their_rounds_apart(provider, exported):
    traces = RequestTraces(provider, "pair")
    for name in ("a.b-0", "a.b-1"):
        traces(RequestStarted(name, Mode.EXACT, 3, 0.0))
    for name, accepted in (("a.b-1.7", 5), ("a.b-0.8", 2), ("stranger.1", 9)):
        traces(RoundCompleted(None, Verdict(name, 1, 3, accepted, 4)))
    for name in ("a.b-0", "a.b-1"):
        traces(ChunkMade(name, Chunk("x", (EmittedToken(1, TokenKind.TARGET),)), 0.5))
        traces(RequestEnded(name, 1.0))
    traces(RequestEnded("stranger", 1.0))
    spans = {span.context.span_id: span for span in exported.get_finished_spans()}
    rounds = [span for span in spans.values() if span.name == "adasd.round"]
    answers = {r.attributes["adasd.num_accepted"]: spans[r.parent.span_id] for r in rounds}
    assert {n: span.attributes["adasd.session"] for n, span in answers.items()} == {5: "a.b-1", 2: "a.b-0"}
    assert answers[2].attributes["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert traces.carrier("a.b-0") == {}, "it has ended"


def test_a_failure_has_its_code_and_no_finish_reason(provider, exported):
    traces = RequestTraces(provider, "pair")
    traces(RequestStarted("a", Mode.EXACT, 3, 0.0))
    traces(RequestEnded("a", 1.0, error=Overloaded("full")))
    (span,) = exported.get_finished_spans()
    assert span.attributes["error.type"] == "overloaded"
    assert not span.status.is_ok
    assert "gen_ai.response.finish_reasons" not in span.attributes


def test_a_workers_spans_are_children_of_the_answer_that_the_carrier_names(provider, exported):
    requests, calls = RequestTraces(provider, "pair"), CallTraces(provider, "target")
    requests(RequestStarted("a", Mode.EXACT, 3, 0.0))
    carrier = requests.carrier("a")
    calls.end(calls.begin(carrier, OpenCall("a.0", SamplingTransform(), 8)), None)
    calls.end(calls.begin(carrier, VerifyCall("a.0", 1, 0, (1, 2))), UnknownSession("a.0"))
    calls.end(calls.begin({}, VerifyCall("b.0", 1, 0, (1, 2))), Verdict("b.0", 1, 2, 0, 3))
    requests(RequestEnded("a", 1.0))
    opened, failed, orphan, answer = exported.get_finished_spans()
    assert opened.parent.span_id == failed.parent.span_id == answer.context.span_id
    assert failed.attributes["error.type"] == "unknown_session"
    assert orphan.parent is None

"""OpenTelemetry traces: a span per answer with the GenAI attributes, one per round, and one per call in each worker.

The exporter sends spans in batches over OTLP/HTTP, from its own thread. Without an endpoint, this module is not used.
Names follow the GenAI conventions (open-telemetry/semantic-conventions-genai) or begin with ``adasd.``.
Spans never hold prompts or answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adasd.requests import GenerationRequest
from adasd.results import Complete, FinishReason
from adasd.rounds import DraftBlock, DraftCall, OpenCall, RoundCompleted, SlotGranted, Verdict, VerifyCall
from services.config import TracesConfig
from services.observability.service_events import ChunkMade, Event, RequestEnded, RequestStarted, code_of
from services.trace_context import INCOMING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

PROVIDER = "adasd"
FLUSH_MS = 1000
"""Milliseconds between two batches of spans."""
EXPORT_TIMEOUT_S = 5.0

Attributes = dict[str, str | int | float | bool | list[str]]


def provider(config: TracesConfig, role: str, replica: str) -> TracerProvider:
    """A tracer provider that sends this replica's spans; shutting it down sends the last batch.

    Needs the extra ``traces`` (checked in services.otel_environment).
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    exporter = OTLPSpanExporter(
        endpoint=config.endpoint, headers=dict(config.headers), timeout=EXPORT_TIMEOUT_S
    )
    who = {"service.name": config.service_name, "service.instance.id": replica, "adasd.role": role}
    made = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(config.sample)),
        resource=Resource.create(who),
        shutdown_on_exit=False,
    )
    made.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=FLUSH_MS))
    return made


@dataclass(slots=True)
class _AnswerSpan:
    """A running answer's span, and the start of its current round."""

    span: Span
    started_s: float  # monotonic
    since_ns: int  # wall clock
    tokens: int = 0
    rounds: int = field(default=0)


class RequestTraces:
    """An observer (services.observability.service_events) that turns answers and their rounds into spans."""

    def __init__(self, provider: TracerProvider, model_name: str) -> None:
        self._provider, self._model = provider, model_name
        self._tracer = provider.get_tracer("adasd")
        self._running: dict[str, _AnswerSpan] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RequestStarted():
                self._begin(event)
            case SlotGranted():
                if answer := self._running.get(event.request_id):
                    answer.span.add_event(f"adasd.{event.role}_slot", {"adasd.waited_s": event.waited_s})
            case ChunkMade():
                self._add_chunk(event)
            case RoundCompleted():
                self._add_round(event)
            case RequestEnded():
                self._end(event)

    def carrier(self, session: str) -> Mapping[str, str]:
        """Headers that make spans of other processes children of this answer's span."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        answer, headers = self._running.get(session), dict[str, str]()
        if answer is not None:
            TraceContextTextMapPropagator().inject(headers, set_span_in_context(answer.span))
        return headers

    def shutdown(self) -> None:
        """Send the remaining spans. Blocking."""
        self._provider.shutdown()

    def _begin(self, event: RequestStarted) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        incoming, now_ns = INCOMING.get(), time.time_ns()
        span = self._tracer.start_span(
            f"{incoming.operation} {self._model}",
            TraceContextTextMapPropagator().extract(incoming.carrier),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": incoming.operation,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": self._model,
                "gen_ai.response.model": self._model,
                "adasd.mode": event.mode.value,
                "adasd.session": event.request_id,
                **(request_attributes(event.request) if event.request else {}),
            },
            start_time=now_ns,
        )
        self._running[event.request_id] = _AnswerSpan(span, event.at_s, now_ns)

    def _add_chunk(self, event: ChunkMade) -> None:
        answer = self._running.get(event.request_id)
        if answer is None:
            return
        if answer.tokens == 0:
            answer.span.set_attribute("gen_ai.response.time_to_first_chunk", event.at_s - answer.started_s)
        answer.tokens += len(event.chunk.tokens)

    def _add_round(self, done: RoundCompleted) -> None:
        from opentelemetry.trace import set_span_in_context

        answer = self._running.get(done.verdict.session.rpartition(".")[0])  # id: SESSION.LEASE
        if answer is None:
            return
        now_ns = time.time_ns()
        span = self._tracer.start_span(
            "adasd.prefill" if done.prefill else "adasd.round",
            set_span_in_context(answer.span),
            attributes={"adasd.round": answer.rounds, **round_attributes(done)},
            start_time=answer.since_ns,
        )
        span.end(now_ns)
        answer.since_ns = now_ns
        answer.rounds += 1

    def _end(self, event: RequestEnded) -> None:
        from opentelemetry.trace import StatusCode

        answer = self._running.pop(event.request_id, None)
        if answer is None:
            return
        span = answer.span
        if event.error is not None:
            code = code_of(event.error).value
            span.set_attribute("error.type", code)
            span.set_status(StatusCode.ERROR, code)
        reason = event.complete.finish_reason if event.complete else FinishReason.CANCELLED
        if event.error is None:
            span.set_attribute("gen_ai.response.finish_reasons", [reason.value])
        if event.complete is not None:
            span.set_attributes(answer_attributes(event.complete))
        span.end()


class CallTraces:
    """A worker's spans, one per call: children of the answer's span, which the stream's metadata identifies."""

    def __init__(self, provider: TracerProvider, role: str) -> None:
        self._provider, self._role = provider, role
        self._tracer = provider.get_tracer("adasd")

    def begin(self, carrier: Mapping[str, str], call: OpenCall | DraftCall | VerifyCall) -> Span:
        """Start the span of a call."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(carrier))
        name = {OpenCall: "open", DraftCall: "draft", VerifyCall: "verify"}[type(call)]
        return self._tracer.start_span(
            f"adasd.{self._role}.{name}", parent, SpanKind.SERVER, call_attributes(call)
        )

    def end(self, span: Span, answer: object) -> None:
        """End the span with the call's result or error."""
        from opentelemetry.trace import StatusCode

        if isinstance(answer, Exception):
            code = code_of(answer).value
            span.set_attribute("error.type", code)
            span.set_status(StatusCode.ERROR, code)
        elif isinstance(answer, DraftBlock | Verdict):
            span.set_attributes(call_answer_attributes(answer))
        span.end()

    def shutdown(self) -> None:
        """Send the remaining spans. Blocking."""
        self._provider.shutdown()


# --------------------------------------------------------------------------- attributes


def request_attributes(request: GenerationRequest) -> Attributes:
    """The request's options, under GenAI names where there are any."""
    sampling = request.sampling
    found: Attributes = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.usage.input_tokens": len(request.prompt),
        "gen_ai.response.id": request.request_id.rpartition(".")[0] or request.request_id,
    }
    if sampling.top_k:
        found["gen_ai.request.top_k"] = sampling.top_k
    if sampling.seed is not None:
        found["gen_ai.request.seed"] = sampling.seed
    if sampling.presence_penalty:
        found["gen_ai.request.presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty:
        found["gen_ai.request.frequency_penalty"] = sampling.frequency_penalty
    return found


def answer_attributes(complete: Complete) -> Attributes:
    """Counts of the answer."""
    usage, report = complete.usage, complete.speculation
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "adasd.drafting": report.effective.drafting or "",
        "adasd.acceptance": report.effective.acceptance or "exact",
        "adasd.num_rounds": report.num_rounds,
        "adasd.num_draft_tokens": report.num_draft_tokens,
        "adasd.num_accepted_tokens": report.num_accepted_tokens,
        "adasd.draft_lost": report.draft_lost,
        "adasd.target_lost": report.target_lost,
        **{f"adasd.tokens.{kind.value}": count for kind, count in report.kinds},
    }


def round_attributes(done: RoundCompleted) -> Attributes:
    """Counts of a round; times in milliseconds."""
    verdict = done.verdict
    found: Attributes = {
        "adasd.num_drafted": done.num_drafted,
        "adasd.num_accepted": verdict.num_accepted,
        "adasd.num_relaxed": sum(verdict.relaxed),
        "adasd.verify_ms": done.verify_ms,
        "adasd.verify_compute_ms": verdict.compute_ms,
    }
    if done.drafted is not None:
        found |= {"adasd.draft_ms": done.draft_ms, "adasd.draft_compute_ms": done.drafted.compute_ms}
    return found


def call_attributes(call: OpenCall | DraftCall | VerifyCall) -> Attributes:
    """Sizes of a worker's call."""
    if isinstance(call, OpenCall):
        return {"adasd.max_len": call.max_len}
    found: Attributes = {"adasd.epoch": call.epoch, "adasd.num_fed": len(call.feed)}
    if isinstance(call, VerifyCall):
        found["adasd.num_drafted"] = len(call.block)
    else:
        found["adasd.optimistic"] = call.optimistic
    return found


def call_answer_attributes(answer: DraftBlock | Verdict) -> Attributes:
    """Sizes of a worker's result; times in milliseconds."""
    times: Attributes = {"adasd.compute_ms": answer.compute_ms, "adasd.queue_ms": answer.queue_ms}
    if isinstance(answer, DraftBlock):
        return {**times, "adasd.num_drafted": len(answer.tokens)}
    return {**times, "adasd.num_accepted": answer.num_accepted, "adasd.cached_tokens": answer.cached_tokens}

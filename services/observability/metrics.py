"""Turns events into the Prometheus series of one orchestrator, with vLLM's names where vLLM has one.

Shares (acceptance, relaxed tokens) are not exported: divide the ``rate`` of two counters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from adasd.requests import Mode
from adasd.results import Chunk, FinishReason, SpeculationReport, TokenKind
from adasd.rounds import BlockLate, RoundCompleted, SlotGranted, SlotLost
from services.observability.buckets import (
    MILLISECONDS,
    REQUEST_SECONDS,
    STEP_SECONDS,
    TTFT_SECONDS,
    one_two_five,
)
from services.observability.service_events import (
    AnswerAudited,
    AuditEnded,
    ChunkMade,
    Event,
    RequestEnded,
    RequestRefused,
    RequestStarted,
)

TIERS = ("draft", "target")
FINISHED_REASONS = ("stop", "length", "abort", "error")  # vLLM's


@dataclass(slots=True)
class RequestTimeline:
    """Times of a running request, in monotonic seconds."""

    mode: Mode
    num_prompt_tokens: int
    started_s: float
    granted_s: float | None = None  # first target slot
    first_s: float | None = None  # first token
    last_s: float = 0.0  # latest chunk
    num_tokens: int = 0

    @property
    def waits(self) -> bool:
        return self.granted_s is None and self.first_s is None


class ServiceMetrics:
    """An observer of events that owns the series of one orchestrator replica."""

    def __init__(
        self, registry: CollectorRegistry, model_name: str, context_len: int, max_draft_tokens: int
    ) -> None:
        self.requests: dict[str, RequestTimeline] = {}
        self.vllm = VllmSeries(registry, model_name, context_len, max_draft_tokens)
        self.own = OwnSeries(registry)

    def __call__(self, event: Event) -> None:
        match event:
            case RequestStarted():
                self.requests[event.request_id] = RequestTimeline(
                    event.mode, event.num_prompt_tokens, event.at_s
                )
            case SlotGranted():
                self.own.slot_wait.labels(event.role).observe(event.waited_s)
                self._granted(event)
            case ChunkMade():
                self._add_chunk(event)
            case RoundCompleted():
                self.vllm.add_round(event)
                self.own.add_round(event)
            case SlotLost(role):
                self.own.lost.labels(role).inc()
                if role == "target":
                    self.vllm.preemptions.inc()
            case BlockLate():
                self.own.late.inc()
            case RequestEnded():
                self._end(event)
            case AnswerAudited():
                self.own.add_audit(event)
            case AuditEnded(outcome):
                self.own.audits.labels(outcome).inc()
            case RequestRefused(door, code, num):
                self.own.refused.labels(door, code).inc(num)
        self._count_requests()

    def _granted(self, event: SlotGranted) -> None:
        request = self.requests.get(event.request_id)
        if request is not None and event.role == "target" and request.granted_s is None:
            request.granted_s = event.at_s
            self.vllm.queue_time.observe(event.at_s - request.started_s)

    def _add_chunk(self, event: ChunkMade) -> None:
        request = self.requests.get(event.request_id)
        if request is None:
            return
        tokens = event.chunk.tokens
        if request.first_s is None:
            request.first_s = event.at_s
            self.vllm.add_first_chunk(request)
        else:
            self.vllm.inter_token.observe(event.at_s - request.last_s)
        request.last_s = event.at_s
        request.num_tokens += len(tokens)
        self.vllm.generation_tokens.inc(len(tokens))
        self.own.add_chunk(request.mode, event.chunk)

    def _end(self, event: RequestEnded) -> None:
        request = self.requests.pop(event.request_id, None)
        if request is None:
            return
        self.own.requests.labels(request.mode.value, event.outcome).inc()
        if event.complete is None and request.first_s is None and event.error is not None:
            return  # counted by RequestRefused
        self.vllm.add_answer(request, event.at_s, _finished_reason(event))
        if event.complete is not None:
            self.own.add_report(event.complete.speculation)

    def _count_requests(self) -> None:
        num_waiting = sum(request.waits for request in self.requests.values())
        self.vllm.waiting.set(num_waiting)
        self.vllm.running.set(len(self.requests) - num_waiting)


class VllmSeries:
    """Series with vLLM's names, labels and buckets. ``engine`` is always 0, since replicas have their own label."""

    def __init__(
        self, registry: CollectorRegistry, model_name: str, context_len: int, max_draft_tokens: int
    ) -> None:
        names, values = ("model_name", "engine"), (model_name, "0")

        def counter(name: str, about: str) -> Counter:
            return Counter(f"vllm:{name}", about, names, registry=registry).labels(*values)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"vllm:{name}", about, names, registry=registry).labels(*values)

        def histogram(name: str, about: str, buckets: Sequence[float]) -> Histogram:
            family = Histogram(f"vllm:{name}", about, names, registry=registry, buckets=buckets)
            return family.labels(*values)

        self.running = gauge("num_requests_running", "Requests that hold a target slot.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a target slot.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests that got a first token.")
        self.generation_tokens = counter("generation_tokens", "Tokens of answers.")
        self.preemptions = counter(
            "num_preemptions", "Sessions that lost their target slot and were prefilled again on another."
        )
        self.ttft = histogram("time_to_first_token_seconds", "Arrival to first token.", TTFT_SECONDS)
        self.inter_token = histogram("inter_token_latency_seconds", "Between two chunks.", STEP_SECONDS)
        self.per_token = histogram(
            "request_time_per_output_token_seconds",
            "Time per token after the first, by request.",
            STEP_SECONDS,
        )
        self.e2e = histogram("e2e_request_latency_seconds", "Arrival to end.", REQUEST_SECONDS)
        self.queue_time = histogram("request_queue_time_seconds", "Arrival to slot.", REQUEST_SECONDS)
        self.prefill_time = histogram("request_prefill_time_seconds", "Slot to token 1.", REQUEST_SECONDS)
        self.decode_time = histogram("request_decode_time_seconds", "First to last token.", REQUEST_SECONDS)
        self.inference_time = histogram("request_inference_time_seconds", "Slot to end.", REQUEST_SECONDS)
        lengths = one_two_five(context_len)
        self.prompt_len = histogram("request_prompt_tokens", "Prompt tokens of a request.", lengths)
        self.answer_len = histogram("request_generation_tokens", "Answer tokens of a request.", lengths)
        success = Counter(
            "vllm:request_success", "Ended requests.", (*names, "finished_reason"), registry=registry
        )
        self.success = {reason: success.labels(*values, reason) for reason in FINISHED_REASONS}
        self.drafts = counter("spec_decode_num_drafts", "Verification steps that had a draft.")
        self.draft_tokens = counter("spec_decode_num_draft_tokens", "Draft tokens that were verified.")
        self.accepted = counter("spec_decode_num_accepted_tokens", "Draft tokens that were accepted.")
        per_pos = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by their position in the draft.",
            (*names, "position"),
            registry=registry,
        )
        self.per_pos = [per_pos.labels(*values, str(position)) for position in range(max_draft_tokens)]

    def add_round(self, done: RoundCompleted) -> None:
        """Count a verdict on a block. As in vLLM, bonus tokens are not counted."""
        if not done.num_drafted:
            return
        num_accepted = done.num_accepted
        self.drafts.inc()
        self.draft_tokens.inc(done.num_drafted)
        self.accepted.inc(num_accepted)
        for position in self.per_pos[:num_accepted]:
            position.inc()

    def add_first_chunk(self, request: RequestTimeline) -> None:
        assert request.first_s is not None
        self.ttft.observe(request.first_s - request.started_s)
        self.prompt_tokens.inc(request.num_prompt_tokens)
        if request.granted_s is not None:
            self.prefill_time.observe(request.first_s - request.granted_s)

    def add_answer(self, request: RequestTimeline, ended_s: float, finished_reason: str) -> None:
        self.success[finished_reason].inc()
        self.e2e.observe(ended_s - request.started_s)
        if request.first_s is None:
            return
        self.prompt_len.observe(request.num_prompt_tokens)
        self.answer_len.observe(request.num_tokens)
        decode_s = request.last_s - request.first_s
        self.decode_time.observe(decode_s)
        if request.granted_s is not None:
            self.inference_time.observe(request.last_s - request.granted_s)
        if request.num_tokens > 1:
            self.per_token.observe(decode_s / (request.num_tokens - 1))


class OwnSeries:
    """Series that vLLM does not have. The label ``tier`` (draft or target) is the side that was measured."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"adasd_{name}", about, labels, registry=registry)

        def milliseconds(name: str, about: str) -> Histogram:
            return Histogram(
                f"adasd_{name}_milliseconds", about, ["tier"], registry=registry, buckets=MILLISECONDS
            )

        self.tokens = counter("tokens", "Tokens of answers by where they came from.", "kind", "mode")
        self.requests = counter("requests", "Ended requests.", "mode", "outcome")
        self.refused = counter(
            "requests_refused", "Requests answered with an error and no token.", "door", "code"
        )
        self.lost = counter("slots_lost", "Slots lost with their replica or its connection.", "tier")
        self.late = counter("blocks_late", "Draft blocks that did not arrive in time.")
        self.ahead = counter("blocks_ahead", "Blocks drafted while the block before was being verified.")
        self.ahead_used = counter("blocks_ahead_used", "Of them, blocks that the verdict confirmed.")
        self.audits = counter("audits", "Adaptive answers chosen for an audit, by its outcome.", "outcome")
        self.audited = counter("audit_tokens", "Tokens of adaptive answers scored by the exact rule.", "law")
        self.different = counter(
            "audit_tokens_different",
            "Of them, tokens that the exact rule would have chosen differently.",
            "law",
        )
        self.rounds = counter(
            "rounds",
            "Rounds of finished answers: with a draft block (drafted) or without one (plain).",
            "mode",
            "kind",
        )
        self.ceiling = Gauge(
            "adasd_generation_threshold_nats",
            "Entropy at which drafting stops, as learned by the newest answer.",
            ["mode"],
            registry=registry,
        )
        self.boundary = Gauge(
            "adasd_acceptance_threshold_js",
            "Largest Jensen-Shannon distance accepted, as learned by the newest answer.",
            ["mode"],
            registry=registry,
        )
        self.slot_wait = Histogram(
            "adasd_slot_wait_seconds", "Wait for a slot.", ["tier"], registry=registry, buckets=TTFT_SECONDS
        )
        self.wall = milliseconds("round", "Wall time of a draft call or a verify call.")
        self.compute = milliseconds("compute", "Time in forward passes per draft or verify call.")
        self.queue = milliseconds("queue", "Wait in the worker per draft or verify call.")
        self.hop = milliseconds("hop", "The rest of the wall time: network and serialisation.")
        for tier in TIERS:
            self.lost.labels(tier)
        for mode in Mode:
            for kind in TokenKind:
                self.tokens.labels(kind.value, mode.value)

    def add_audit(self, audit: AnswerAudited) -> None:
        self.audited.labels(audit.choice).inc(audit.num_tokens)
        self.different.labels(audit.choice).inc(audit.num_different)

    def add_chunk(self, mode: Mode, chunk: Chunk) -> None:
        for token in chunk.tokens:
            self.tokens.labels(token.kind.value, mode.value).inc()

    def add_round(self, done: RoundCompleted) -> None:
        verdict, drafted = done.verdict, done.drafted
        self._add_side("target", done.verify_ms, verdict.compute_ms, verdict.queue_ms)
        if drafted is not None:
            self._add_side("draft", done.draft_ms, drafted.compute_ms, drafted.queue_ms)

    def _add_side(self, tier: str, wall_ms: float, compute_ms: float, queue_ms: float) -> None:
        self.wall.labels(tier).observe(wall_ms)
        self.compute.labels(tier).observe(compute_ms)
        self.queue.labels(tier).observe(queue_ms)
        self.hop.labels(tier).observe(max(0.0, wall_ms - compute_ms - queue_ms))

    def add_report(self, report: SpeculationReport) -> None:
        self.ahead.inc(report.num_ahead)
        self.ahead_used.inc(report.num_ahead_used)
        mode = str(report.effective.mode)
        self.rounds.labels(mode, "drafted").inc(report.num_draft_rounds)
        self.rounds.labels(mode, "plain").inc(report.num_rounds - report.num_draft_rounds)
        for gauge, value in (
            (self.ceiling, report.generation_threshold),
            (self.boundary, report.acceptance_threshold),
        ):
            if value is not None and math.isfinite(value):
                gauge.labels(mode).set(value)


def _finished_reason(event: RequestEnded) -> str:
    """vLLM's name for how a request ended."""
    if event.error is not None:
        return "error"
    if event.complete is None or event.complete.finish_reason is FinishReason.CANCELLED:
        return "abort"
    reason = event.complete.finish_reason.value
    return reason if reason in FINISHED_REASONS else "error"
